//! Reading [`Node`]s with strict keys and typed values: each reader notes what is wrong and returns
//! `None`, so that a pass goes on and finds every mistake.

use crate::diagnostic::{Diagnostics, Span, did_you_mean};
use crate::yaml::{Key, Node, Value};
use std::ops::RangeInclusive;

/// The keys of one mapping, asked for one by one. [`close`](Self::close) reports the keys that
/// nobody asked for.
#[derive(Debug)]
pub struct Fields<'a> {
    entries: &'a [(Key, Node)],
    /// Where the mapping stands.
    pub span: Span,
    what: String,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The mapping `node`, which people know as `what` (`"the stem"`).
    pub fn open(node: &'a Node, what: &str, diagnostics: &mut Diagnostics) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => Some(Fields { entries, span: node.span, what: what.to_owned(), asked: Vec::new() }),
            other => {
                diagnostics
                    .error(node.span, format!("{what} is a mapping, not {}", other.kind()))
                    .help("write it as `key: value` lines");
                None
            }
        }
    }

    /// The value of `key`, or `None` where it is absent or null.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        let (_, node) = self.entries.iter().find(|(written, _)| written.name == key)?;
        (node.value != Value::Null).then_some(node)
    }

    /// The value of `key`; noted as a mistake where it is absent.
    pub fn require(&mut self, key: &'static str, diagnostics: &mut Diagnostics) -> Option<&'a Node> {
        let node = self.get(key);
        if node.is_none() {
            diagnostics.error(self.span, format!("{} has no `{key}`", self.what)).help(format!("add `{key}: ...`"));
        }
        node
    }

    /// Where the key `key` itself stands.
    pub fn key_span(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|(written, _)| written.name == key).map(|(written, _)| written.span)
    }

    /// Reports every key that was not asked for, with the nearest known one.
    pub fn close(self, diagnostics: &mut Diagnostics) {
        for (key, _) in self.entries {
            if self.asked.contains(&key.name.as_str()) {
                continue;
            }
            let help = match did_you_mean(&key.name, self.asked.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("known keys: {}", listed(self.asked.iter().copied())),
            };
            diagnostics
                .error(key.span, format!("unknown key `{}`", key.name))
                .label(format!("not a key of {}", self.what))
                .help(help);
        }
    }
}

impl Value {
    /// What it is, in words, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "empty",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Str(_) => "text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Each reader names the value as people know it in `what` (`"`depth`"`, `"the name"`).
impl Node {
    /// Text.
    pub fn text(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<&str> {
        match &self.value {
            Value::Str(text) => Some(text),
            other => {
                diagnostics
                    .error(self.span, format!("{what} is text, not {}", other.kind()))
                    .help("put it in quotes if it is meant as text");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<bool> {
        match &self.value {
            Value::Bool(value) => Some(*value),
            other => {
                diagnostics
                    .error(self.span, format!("{what} is true or false, not {}", other.kind()))
                    .help("write `true` or `false`");
                None
            }
        }
    }

    /// A whole number inside `range`.
    pub fn integer(&self, what: &str, range: RangeInclusive<u64>, diagnostics: &mut Diagnostics) -> Option<u64> {
        let value = match &self.value {
            Value::Int(value) => u64::try_from(*value).ok().filter(|value| range.contains(value)),
            _ => None,
        };
        if value.is_none() {
            let (low, high) = (range.start(), range.end());
            diagnostics
                .error(self.span, format!("{what} is a whole number from {low} to {high}"))
                .help(format!("write a number from {low} to {high}"));
        }
        value
    }

    /// As [`integer`](Self::integer), for counts and sizes.
    pub fn size(&self, what: &str, range: RangeInclusive<usize>, diagnostics: &mut Diagnostics) -> Option<usize> {
        let range = *range.start() as u64..=*range.end() as u64;
        self.integer(what, range, diagnostics).map(|value| value as usize)
    }

    /// A number inside `range`.
    pub fn number(&self, what: &str, range: RangeInclusive<f64>, diagnostics: &mut Diagnostics) -> Option<f64> {
        let value = match &self.value {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        };
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            let (low, high) = (range.start(), range.end());
            diagnostics
                .error(self.span, format!("{what} is a number from {low} to {high}"))
                .help(format!("write a number from {low} to {high}"));
        }
        value
    }

    /// A list.
    pub fn list(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<&[Node]> {
        match &self.value {
            Value::Seq(items) => Some(items),
            other => {
                diagnostics
                    .error(self.span, format!("{what} is a list, not {}", other.kind()))
                    .help("write it as `[a, b]`");
                None
            }
        }
    }

    /// One of the given words.
    pub fn choice<T: Clone>(&self, what: &str, choices: &[(&str, T)], diagnostics: &mut Diagnostics) -> Option<T> {
        if let Value::Str(word) = &self.value
            && let Some((_, value)) = choices.iter().find(|(name, _)| name == word)
        {
            return Some(value.clone());
        }
        self.unknown_word(what, choices.iter().map(|(name, _)| *name), diagnostics);
        None
    }

    /// A tagged value: `word`, or `{word: settings}`. Returns the word, where it stands, and its settings.
    pub fn variant<'a>(
        &'a self,
        what: &str,
        words: &[&'static str],
        diagnostics: &mut Diagnostics,
    ) -> Option<Variant<'a>> {
        let written = match &self.value {
            Value::Str(word) => Some((word.as_str(), self.span, None)),
            Value::Map(entries) => match entries.as_slice() {
                [(key, settings)] => Some((key.name.as_str(), key.span, Some(settings))),
                _ => None,
            },
            _ => None,
        };
        let Some((written, span, settings)) = written else {
            diagnostics
                .error(self.span, format!("{what} is one of {}", listed(words.iter().copied())))
                .help(format!("write `{0}` or `{0}: {{...}}`", words[0]));
            return None;
        };
        match words.iter().find(|word| **word == written) {
            Some(word) => {
                let settings = settings.filter(|settings| settings.value != Value::Null);
                Some(Variant { word, span, settings })
            }
            None => {
                unknown_word(what, written, span, words.iter().copied(), diagnostics);
                None
            }
        }
    }

    fn unknown_word<'a>(
        &self,
        what: &str,
        words: impl Iterator<Item = &'a str> + Clone,
        diagnostics: &mut Diagnostics,
    ) {
        match &self.value {
            Value::Str(word) => unknown_word(what, word, self.span, words, diagnostics),
            other => {
                diagnostics
                    .error(self.span, format!("{what} is one of {}, not {}", listed(words), other.kind()))
                    .help("write one of these words");
            }
        }
    }
}

/// What [`Node::variant`] read.
#[derive(Debug, Clone, Copy)]
pub struct Variant<'a> {
    /// The word.
    pub word: &'static str,
    /// Where the word stands.
    pub span: Span,
    /// What stands below it.
    pub settings: Option<&'a Node>,
}

fn unknown_word<'a>(
    what: &str,
    written: &str,
    span: Span,
    words: impl Iterator<Item = &'a str> + Clone,
    diagnostics: &mut Diagnostics,
) {
    let help = match did_you_mean(written, words.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "write one of these words".to_owned(),
    };
    diagnostics.error(span, format!("{what} is one of {}, not `{written}`", listed(words))).help(help);
}

/// `` `a`, `b`, `c` ``.
fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
