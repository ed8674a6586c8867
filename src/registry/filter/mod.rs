//! The filter language of `runs ls`: typed, and two-valued where SQL is three-valued.
//!
//! ```text
//! filter     = all ("or" all)*
//! all        = one ("and" one)*
//! one        = "not" one | "(" filter ")" | test
//! test       = operand                                         what is true or false alone: archived
//!            | operand ("=" | "!=" | "<" | "<=" | ">" | ">=") value
//!            | operand ["not"] "between" value "and" value
//!            | operand ["not"] "in" "(" value ("," value)* ")"
//!            | operand ["not"] ("like" | "ilike") text         % is any text, _ any character, \ takes both literally
//!            | operand "is" ["not"] ("null" | "nan")
//! operand    = field | metric | ("best" | "last" | "min" | "max" | "count") "(" metric ")" | "config." key
//! value      = "text" | 'text' | 0.85 | 85% | 25M | 2h30m | 2026-11-25 | true | COMPLETED | operand
//! ```
//!
//! A comparison with what a run does not have is false, and `not` of it true: `!=` is `not` of `=`.
//! Text becomes tokens ([`lex`]), a tree ([`parse`]) and, with the registry's names at hand, a [`Filter`] whose every
//! operand exists and whose every value has the operand's type ([`check`]). SQL is made of that in `store`.

mod check;
mod lex;
mod parse;
mod quantity;

use super::RunState;
use crate::error::{Error, Result};
use resnet_codegen::diagnostic::Sources;

/// Bytes of a filter, a sort order or a list of columns.
pub const MAX_BYTES: usize = 16 * 1024;
/// Tests of a filter, values of an `in`, keys of a sort order, columns of a table.
pub const MAX_PARTS: usize = 256;

/// What a filter asks of a run; every operand exists, every value has the operand's type.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Each of them.
    All(Vec<Filter>),
    /// One of them.
    Any(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// One comparison.
    Test(Operand, Test),
}

/// What is asked of an operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It is true.
    Holds,
    /// It compares so with a value.
    Compare(Comparison, Value),
    /// It is one of these.
    In(Vec<Value>),
    /// It fits a pattern with `%`, `_` and `\`.
    Like {
        /// The pattern.
        pattern: String,
        /// Whether small and capital letters are the same.
        fold_case: bool,
    },
    /// The run has none.
    IsNull,
    /// It is not a number.
    IsNan,
}

/// How two values compare. `!=` is not one: it is `not` of `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Something that a run has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A field.
    Field(Field),
    /// A number of a metric.
    Metric {
        /// `val.top1`.
        name: String,
        /// Which of its numbers.
        statistic: Statistic,
    },
    /// A key of the resolved experiment: `config.optimizer.sgd.lr` without `config`.
    Config(Vec<String>),
}

/// A number that says what a metric did in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    /// The least where less is better, the greatest where more is.
    Best,
    /// The newest.
    Last,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// How many points.
    Count,
}

/// What a value is, and so what it compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A number.
    Number,
    /// Seconds.
    Duration,
    /// A moment, milliseconds since 1970.
    Time,
    /// What a run is doing.
    State,
    /// True or false.
    Bool,
    /// Several texts.
    Tags,
    /// What JSON holds: known when it is looked at.
    Json,
}

/// A value that an operand is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// A number; of a duration, in seconds.
    Number(f64),
    /// Text.
    Text(String),
    /// True or false.
    Bool(bool),
    /// From a moment to before another: a day, a minute, an instant. Milliseconds since 1970.
    Period(i64, i64),
    /// What a run is doing.
    State(RunState),
    /// Something else of the same run.
    Operand(Operand),
}

/// One key of a sort order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// By what.
    pub operand: Operand,
    /// Greatest first. Runs that have none come last either way.
    pub descending: bool,
}

/// The fields of a run: what filters, sort orders and columns may name, beside metrics and `config.`.
macro_rules! fields {
    ($($variant:ident $name:literal $kind:ident $doc:literal;)*) => {
        /// A field of a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Field { $(#[doc = $doc] $variant,)* }

        impl Field {
            /// All of them.
            pub const ALL: &[Field] = &[$(Field::$variant,)*];

            /// As people write it.
            pub fn name(self) -> &'static str {
                match self { $(Field::$variant => $name,)* }
            }

            /// What it is compared with.
            pub fn kind(self) -> Kind {
                match self { $(Field::$variant => Kind::$kind,)* }
            }

            /// What it says.
            pub fn meaning(self) -> &'static str {
                match self { $(Field::$variant => $doc,)* }
            }
        }
    };
}

fields! {
    Id "id" Text "the run's id, or the last 8 digits of it";
    Name "name" Text "what people call it";
    Experiment "experiment" Text "the experiment's name";
    Model "model" Text "the architecture";
    State "state" State "QUEUED, RUNNING, INTERRUPTED, FAILED, COMPLETED, CRASHED or UNKNOWN";
    Reason "reason" Text "why it did not complete";
    Seed "seed" Number "the seed of all randomness";
    Device "device" Text "cpu, cuda:0, ..";
    Host "host" Text "the machine";
    Commit "commit" Text "the git commit it was built from";
    Created "created" Time "when it was created: a date such as 2026-11-25";
    Age "age" Duration "how long ago that was: 7d, 2h30m";
    Duration "duration" Duration "how long processes worked on it: 90s, 2h30m";
    Steps "steps" Number "optimizer steps taken";
    Epochs "epochs" Number "epochs taken";
    Params "params" Number "the model's parameters: 25M";
    TrainedParams "trained_params" Number "those that are trained";
    Macs "macs" Number "multiply-accumulates of one sample at the experiment's input size: 3.6G";
    Tag "tag" Tags "its tags: `=` asks for one of them";
    Group "group" Text "its group, as of a sweep";
    Note "note" Text "what somebody noted";
    Archived "archived" Bool "whether it was put away";
}

impl Operand {
    /// What it is compared with.
    pub fn kind(&self) -> Kind {
        match self {
            Operand::Field(field) => field.kind(),
            Operand::Metric { .. } => Kind::Number,
            Operand::Config(_) => Kind::Json,
        }
    }
}

impl Statistic {
    const ALL: [(&'static str, Statistic); 5] = [
        ("best", Statistic::Best),
        ("last", Statistic::Last),
        ("min", Statistic::Min),
        ("max", Statistic::Max),
        ("count", Statistic::Count),
    ];
}

impl Kind {
    /// In words, for messages.
    fn described(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Number => "a number",
            Kind::Duration => "a length of time",
            Kind::Time => "a date",
            Kind::State => "a state",
            Kind::Bool => "true or false",
            Kind::Tags => "a set of tags",
            Kind::Json => "a setting",
        }
    }
}

/// The names that a registry knows beside the fields.
pub trait Catalogue {
    /// The names of all metrics.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    fn metrics(&mut self) -> Result<Vec<String>>;

    /// Whether the resolved experiment of any run has this key.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    fn has_setting(&mut self, key: &[String]) -> Result<bool>;

    /// The dotted keys of all resolved experiments; asked only to say which one was meant.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    fn settings(&mut self) -> Result<Vec<String>>;
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`Error::Input`] with every mistake that was found, a caret under each.
    pub fn parse(text: &str, catalogue: &mut impl Catalogue) -> Result<Self> {
        let sources = bounded("filter", text)?;
        let tree = parse::filter(text).map_err(|mistake| mistake.into_error(&sources))?;
        check::filter(&tree, catalogue, &sources)
    }

    /// Whether it asks for `field` anywhere.
    pub fn mentions(&self, field: Field) -> bool {
        let is_field = |operand: &Operand| *operand == Operand::Field(field);
        match self {
            Filter::All(parts) | Filter::Any(parts) => parts.iter().any(|part| part.mentions(field)),
            Filter::Not(part) => part.mentions(field),
            Filter::Test(operand, test) => {
                let in_value = match test {
                    Test::Compare(_, Value::Operand(operand)) => is_field(operand),
                    Test::In(values) => {
                        values.iter().any(|value| matches!(value, Value::Operand(operand) if is_field(operand)))
                    }
                    _ => false,
                };
                is_field(operand) || in_value
            }
        }
    }
}

/// Reads a sort order: `val.top1 desc, -created, name`.
///
/// # Errors
/// As [`Filter::parse`].
pub fn sort_order(text: &str, catalogue: &mut impl Catalogue) -> Result<Vec<SortKey>> {
    let sources = bounded("sort", text)?;
    let keys = parse::sort_order(text).map_err(|mistake| mistake.into_error(&sources))?;
    check::sort_order(&keys, catalogue, &sources)
}

/// Reads a list of columns: `name, val.top1, config.optimizer.sgd.lr`; each comes back with its text.
///
/// # Errors
/// As [`Filter::parse`].
pub fn columns(text: &str, catalogue: &mut impl Catalogue) -> Result<Vec<(String, Operand)>> {
    let sources = bounded("columns", text)?;
    let operands = parse::columns(text).map_err(|mistake| mistake.into_error(&sources))?;
    let checked = check::columns(&operands, catalogue, &sources)?;
    Ok(operands.iter().map(|operand| text[operand.at.clone()].to_owned()).zip(checked).collect())
}

/// The sources of messages about `text`, where it is not longer than people write.
fn bounded(name: &str, text: &str) -> Result<Sources> {
    if text.len() > MAX_BYTES {
        return Err(Error::input(format!(
            "the {name} has {} bytes, more than {MAX_BYTES}; ask for less at once, or use `resnet-zoo sql`",
            text.len()
        )));
    }
    let mut sources = Sources::default();
    sources.add(name, text);
    Ok(sources)
}
