//! A tree -> a [`Filter`]: every name exists, every value has its operand's type.

use super::parse::{Literal, LiteralKind, Mistake, Named, Predicate, Sorted, Tree};
use super::{Catalogue, Comparison, Field, Filter, Kind, Operand, SortKey, Statistic, Test, Value, quantity};
use crate::error::{Error, Result};
use crate::registry::RunState;
use resnet_codegen::diagnostic::{Diagnostics, Sources, did_you_mean};

pub(super) fn filter(tree: &Tree, catalogue: &mut impl Catalogue, sources: &Sources) -> Result<Filter> {
    Checker::new(catalogue)?.finish(sources, |checker| checker.filter(tree))
}

pub(super) fn sort_order(keys: &[Sorted], catalogue: &mut impl Catalogue, sources: &Sources) -> Result<Vec<SortKey>> {
    Checker::new(catalogue)?.finish(sources, |checker| {
        let keys = keys.iter().map(|key| {
            let operand = checker.operand(&key.named)?;
            if operand.as_ref().is_some_and(|operand| operand.kind() == Kind::Tags) {
                checker.note(
                    Mistake::new(key.named.at.clone(), "runs are not sorted by tags: one can have several")
                        .help("sort by another field, or filter by `tag = ..`"),
                );
            }
            Ok(operand.map(|operand| SortKey { operand, descending: key.descending }))
        });
        Ok(keys.collect::<Result<Vec<_>>>()?.into_iter().collect())
    })
}

pub(super) fn columns(columns: &[Named], catalogue: &mut impl Catalogue, sources: &Sources) -> Result<Vec<Operand>> {
    Checker::new(catalogue)?.finish(sources, |checker| {
        let columns = columns.iter().map(|named| checker.operand(named));
        Ok(columns.collect::<Result<Vec<_>>>()?.into_iter().collect())
    })
}

struct Checker<'a, C> {
    catalogue: &'a mut C,
    metrics: Vec<String>,
    diagnostics: Diagnostics,
}

/// The outer error is the registry's; `None` means that a mistake was noted.
type Checked<T> = Result<Option<T>>;

impl<'a, C: Catalogue> Checker<'a, C> {
    fn new(catalogue: &'a mut C) -> Result<Self> {
        let metrics = catalogue.metrics()?;
        Ok(Checker { catalogue, metrics, diagnostics: Diagnostics::default() })
    }

    fn finish<T>(mut self, sources: &Sources, work: impl FnOnce(&mut Self) -> Checked<T>) -> Result<T> {
        let value = work(&mut self)?;
        self.diagnostics.into_result(value).map_err(|diagnostics| Error::diagnostics(&diagnostics, sources))
    }

    fn note(&mut self, mistake: Mistake) {
        mistake.note(&mut self.diagnostics);
    }

    fn filter(&mut self, tree: &Tree) -> Checked<Filter> {
        Ok(match tree {
            Tree::All(parts) => self.parts(parts)?.map(Filter::All),
            Tree::Any(parts) => self.parts(parts)?.map(Filter::Any),
            Tree::Not(part) => self.filter(part)?.map(|part| Filter::Not(Box::new(part))),
            Tree::Test(named, predicate) => self.test(named, predicate)?,
        })
    }

    fn parts(&mut self, parts: &[Tree]) -> Checked<Vec<Filter>> {
        let parts = parts.iter().map(|part| self.filter(part)).collect::<Result<Vec<_>>>()?;
        Ok(parts.into_iter().collect())
    }

    fn test(&mut self, named: &Named, predicate: &Predicate) -> Checked<Filter> {
        let Some(operand) = self.operand(named)? else { return Ok(None) };
        let kind = operand.kind();
        let test = match predicate {
            Predicate::Holds => match kind {
                Kind::Bool | Kind::Json => Some(Test::Holds),
                _ => {
                    self.note(
                        Mistake::new(
                            named.at.clone(),
                            format!("this is {}, which is not true or false", kind.described()),
                        )
                        .label("expected a comparison after it")
                        .help("one of =, !=, <, <=, >, >=, in, like, ilike, between, is"),
                    );
                    None
                }
            },
            Predicate::Compare(comparison, literal) => {
                self.ordered(named, kind, *comparison);
                self.value(&operand, literal)?.map(|value| Test::Compare(*comparison, value))
            }
            Predicate::Between(low, high) => {
                self.ordered(named, kind, Comparison::Less);
                let (low, high) = (self.value(&operand, low)?, self.value(&operand, high)?);
                let (Some(low), Some(high)) = (low, high) else { return Ok(None) };
                let side = |comparison, value| Filter::Test(operand.clone(), Test::Compare(comparison, value));
                return Ok(Some(Filter::All(vec![
                    side(Comparison::GreaterOrEqual, low),
                    side(Comparison::LessOrEqual, high),
                ])));
            }
            Predicate::In(literals) => {
                let values =
                    literals.iter().map(|literal| self.value(&operand, literal)).collect::<Result<Vec<_>>>()?;
                values.into_iter().collect::<Option<Vec<_>>>().map(Test::In)
            }
            Predicate::Like { pattern, fold_case } => match (&pattern.kind, kind) {
                (LiteralKind::Text(text), Kind::Text | Kind::Tags | Kind::Json) => {
                    Some(Test::Like { pattern: text.clone(), fold_case: *fold_case })
                }
                (LiteralKind::Text(_), _) => {
                    self.note(
                        Mistake::new(named.at.clone(), format!("this is {}, and patterns fit text", kind.described()))
                            .help("compare it with =, <, in, .."),
                    );
                    None
                }
                _ => {
                    self.note(
                        Mistake::new(pattern.at.clone(), "a pattern is text").help("write for example \"resnet%\""),
                    );
                    None
                }
            },
            Predicate::IsNull => Some(Test::IsNull),
            Predicate::IsNan if matches!(operand, Operand::Metric { .. }) => Some(Test::IsNan),
            Predicate::IsNan => {
                self.note(Mistake::new(named.at.clone(), "only a metric can be NaN").help("ask whether it `is null`"));
                None
            }
        };
        Ok(test.map(|test| Filter::Test(operand, test)))
    }

    /// Notes a `<` of what has no order.
    fn ordered(&mut self, named: &Named, kind: Kind, comparison: Comparison) {
        if comparison != Comparison::Equal && matches!(kind, Kind::Text | Kind::State | Kind::Bool | Kind::Tags) {
            self.note(
                Mistake::new(named.at.clone(), format!("this is {}, which has no order", kind.described()))
                    .help("compare it with =, != or in; text also with like and ilike"),
            );
        }
    }

    /// What `named` means.
    fn operand(&mut self, named: &Named) -> Checked<Operand> {
        let name = named.parts.join(".");
        if let Some((function, at)) = &named.function {
            let known = Statistic::ALL.iter().find(|(name, _)| function.eq_ignore_ascii_case(name));
            let Some((_, statistic)) = known else {
                let names = Statistic::ALL.map(|(name, _)| name);
                self.note(
                    Mistake::new(at.clone(), format!("there is no function `{function}`"))
                        .label("expected best, last, min, max or count")
                        .help(match did_you_mean(function, names) {
                            Some(name) => format!("did you mean `{name}`?"),
                            None => "write for example `last(val.top1)`".to_owned(),
                        }),
                );
                return Ok(None);
            };
            if self.metrics.contains(&name) {
                return Ok(Some(Operand::Metric { name, statistic: *statistic }));
            }
            let help = match did_you_mean(&name, self.metrics.iter().map(String::as_str)) {
                Some(metric) => format!("did you mean `{metric}`?"),
                None => self.known_metrics(),
            };
            self.note(Mistake::new(named.name_at.clone(), format!("no run has a metric `{name}`")).help(help));
            return Ok(None);
        }
        if let [first, key @ ..] = named.parts.as_slice()
            && first == "config"
            && !key.is_empty()
        {
            return self.setting(named, key);
        }
        if let Some(field) = Field::ALL.iter().find(|field| field.name() == name) {
            return Ok(Some(Operand::Field(*field)));
        }
        if self.metrics.contains(&name) {
            return Ok(Some(Operand::Metric { name, statistic: Statistic::Best }));
        }
        let help = self.meant(&named.parts)?;
        self.note(
            Mistake::new(named.at.clone(), format!("`{name}` is neither a field nor a metric of any run"))
                .label("unknown")
                .help(help),
        );
        Ok(None)
    }

    fn setting(&mut self, named: &Named, key: &[String]) -> Checked<Operand> {
        if self.catalogue.has_setting(key)? {
            return Ok(Some(Operand::Config(key.to_vec())));
        }
        let wanted = key.join(".");
        let settings = self.catalogue.settings()?;
        let help = match nearest(&wanted, &settings) {
            Some(setting) => format!("did you mean `config.{setting}`?"),
            None => "`resnet-zoo runs show RUN` lists the settings of a run".to_owned(),
        };
        self.note(Mistake::new(named.at.clone(), format!("no run has a setting `{wanted}`")).help(help));
        Ok(None)
    }

    /// The field, metric or setting that an unknown name probably means.
    fn meant(&mut self, parts: &[String]) -> Result<String> {
        let name = parts.join(".");
        // As MLflow and W&B write it.
        let prefixes = ["metrics", "metric", "params", "param", "attributes", "attribute", "run", "summary"];
        let bare = match parts {
            [first, rest @ ..] if !rest.is_empty() && prefixes.contains(&first.as_str()) => rest.join("."),
            [first, rest @ ..] if !rest.is_empty() && ["tag", "tags"].contains(&first.as_str()) => {
                return Ok(format!("tags are words: write `tag = \"{}\"`", rest.join(".")));
            }
            _ => name.clone(),
        };
        if let "status" = bare.as_str() {
            return Ok("did you mean `state`?".to_owned());
        }
        let fields = Field::ALL.iter().map(|field| field.name());
        let names: Vec<&str> = fields.chain(self.metrics.iter().map(String::as_str)).collect();
        if let Some(near) = did_you_mean(&bare, names.iter().copied()) {
            return Ok(format!("did you mean `{near}`?"));
        }
        let settings = self.catalogue.settings()?;
        if let Some(setting) = nearest(&bare, &settings) {
            return Ok(format!("did you mean `config.{setting}`?"));
        }
        let fields: Vec<&str> = Field::ALL.iter().map(|field| field.name()).collect();
        Ok(format!("fields are {}; {}", fields.join(", "), self.known_metrics()))
    }

    fn known_metrics(&self) -> String {
        /// More would hide the message.
        const SHOWN: usize = 12;
        match self.metrics.len() {
            0 => "no run has a metric yet".to_owned(),
            count => {
                let shown: Vec<&str> = self.metrics.iter().take(SHOWN).map(String::as_str).collect();
                format!("metrics are {}{}", shown.join(", "), if count > SHOWN { ", .." } else { "" })
            }
        }
    }

    /// A value that `operand` can be compared with.
    fn value(&mut self, operand: &Operand, literal: &Literal) -> Checked<Value> {
        let kind = operand.kind();
        let value = match &literal.kind {
            LiteralKind::Text(text) => match kind {
                Kind::Text | Kind::Tags | Kind::Json => Some(Value::Text(text.clone())),
                Kind::Time => quantity::period(text).map(|(from, to)| Value::Period(from, to)),
                Kind::State => state(text).map(Value::State),
                Kind::Duration => quantity::duration(text).map(Value::Number),
                Kind::Number | Kind::Bool => None,
            },
            LiteralKind::Quantity(text) => match kind {
                Kind::Number | Kind::Json => number(text),
                Kind::Duration => quantity::duration(text).map(Value::Number),
                Kind::Time => quantity::period(text).map(|(from, to)| Value::Period(from, to)),
                Kind::Text | Kind::Tags | Kind::State | Kind::Bool => None,
            },
            LiteralKind::Named(named) => {
                let word = named.parts.join(".");
                let boolean = match word.to_ascii_lowercase().as_str() {
                    "true" if named.function.is_none() => Some(true),
                    "false" if named.function.is_none() => Some(false),
                    _ => None,
                };
                match (kind, boolean) {
                    (Kind::Bool | Kind::Json, Some(value)) => Some(Value::Bool(value)),
                    (Kind::State, _) if state(&word).is_some() => state(&word).map(Value::State),
                    _ if self.is_known(named)? => return self.other_operand(kind, named),
                    _ => None,
                }
            }
        };
        if value.is_none() {
            self.note(mismatch(kind, literal));
        }
        Ok(value)
    }

    fn is_known(&mut self, named: &Named) -> Result<bool> {
        let name = named.parts.join(".");
        Ok(named.function.is_some()
            || Field::ALL.iter().any(|field| field.name() == name)
            || self.metrics.contains(&name)
            || named.parts.len() > 1 && named.parts[0] == "config")
    }

    /// `last(val.top1) < val.top1`: something else of the same run, of the same kind.
    fn other_operand(&mut self, kind: Kind, named: &Named) -> Checked<Value> {
        let Some(other) = self.operand(named)? else { return Ok(None) };
        let (a, b) = (kind, other.kind());
        let numbers = |kind| matches!(kind, Kind::Number | Kind::Json);
        let texts = |kind| matches!(kind, Kind::Text | Kind::Json);
        if a != Kind::Tags && (a == b || numbers(a) && numbers(b) || texts(a) && texts(b)) {
            return Ok(Some(Value::Operand(other)));
        }
        self.note(
            Mistake::new(named.at.clone(), format!("expected {}, found {}", a.described(), b.described()))
                .help("compare values of one kind"),
        );
        Ok(None)
    }
}

/// What is wrong with a value of another type.
fn mismatch(kind: Kind, literal: &Literal) -> Mistake {
    let found = match &literal.kind {
        LiteralKind::Text(text) => format!("the text {text:?}"),
        LiteralKind::Quantity(text) => format!("`{text}`"),
        LiteralKind::Named(named) => format!("`{}`", named.parts.join(".")),
    };
    let help = match (kind, &literal.kind) {
        (Kind::Text | Kind::Tags | Kind::Json, LiteralKind::Named(named)) => {
            format!("put text in quotes: \"{}\"", named.parts.join("."))
        }
        (Kind::Text | Kind::Tags, LiteralKind::Quantity(text)) => format!("put text in quotes: \"{text}\""),
        (Kind::Text | Kind::Tags | Kind::Json, _) => "write text in quotes, or a number".to_owned(),
        (Kind::Number, LiteralKind::Text(text)) if quantity::number(text).is_some() => {
            format!("numbers have no quotes: {text}")
        }
        (Kind::Number, _) => "write for example 0.85, 85%, 1e-4 or 25M".to_owned(),
        (Kind::Duration, _) => "write for example 90s, 2h30m or 7d".to_owned(),
        (Kind::Time, _) => "write for example 2026-11-25 or \"2026-11-25 14:00\"; for `7d` there is `age`".to_owned(),
        (Kind::State, LiteralKind::Text(text)) => nearest_state(text),
        (Kind::State, LiteralKind::Named(named)) => nearest_state(&named.parts.join(".")),
        (Kind::State, LiteralKind::Quantity(_)) => nearest_state(""),
        (Kind::Bool, _) => "write true or false".to_owned(),
    };
    let expected = kind.described();
    Mistake::new(literal.at.clone(), format!("expected {expected}, found {found}"))
        .label(format!("expected {expected}"))
        .help(help)
}

fn state(text: &str) -> Option<RunState> {
    RunState::ALL.into_iter().find(|state| state.name().eq_ignore_ascii_case(text))
}

fn nearest_state(text: &str) -> String {
    let names = RunState::ALL.map(RunState::name);
    match did_you_mean(text, names) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("states are {}", names.join(", ")),
    }
}

fn number(text: &str) -> Option<Value> {
    quantity::integer(text).map(Value::Integer).or_else(|| quantity::number(text).map(Value::Number))
}

/// The setting that `wanted` is the end of (`lr` of `optimizer.sgd.lr`), or nearly is.
fn nearest<'a>(wanted: &str, settings: &'a [String]) -> Option<&'a str> {
    let end = format!(".{wanted}");
    settings
        .iter()
        .find(|setting| *setting == wanted || setting.ends_with(&end))
        .map(String::as_str)
        .or_else(|| did_you_mean(wanted, settings.iter().map(String::as_str)))
}
