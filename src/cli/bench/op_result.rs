//! How fast one pass of a layer is: a JSON line, or a row of a table.

use super::result::hundredths;
use crate::cli::table::Align;
use crate::cli::{human, models};
use crate::experiment::Precision;
use serde::{Serialize, Serializer};

/// A pass of a layer.
#[derive(Debug, Serialize)]
pub(super) struct OpResult<'a> {
    pub bench: &'static str,
    pub model: &'static str,
    pub variant: &'static str,
    pub precision: Precision,
    pub batch: usize,
    pub size: usize,
    pub layer: &'a str,
    /// Channels, then the spatial size.
    pub input: &'a [usize],
    pub paths: &'a [&'a str],
    pub count: usize,
    /// Whether the caches held something else before each repetition.
    pub cold: bool,
    /// Of one layer, for a batch.
    #[serde(serialize_with = "thousandths")]
    pub ms: f64,
    #[serde(serialize_with = "thousandths")]
    pub best_ms: f64,
    pub reps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflop_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_s: Option<f64>,
    #[serde(serialize_with = "hundredths")]
    pub ceiling_pct: f64,
    /// See [`Noise`](super::measure::Noise).
    pub others: Option<f64>,
    pub steal: Option<f64>,
    pub threads: usize,
    pub isa: &'static str,
}

impl OpResult<'_> {
    /// Of all layers that compute the same.
    pub fn all_ms(&self) -> f64 {
        self.ms * self.count as f64
    }

    /// A row under [`COLUMNS`].
    pub fn cells(&self) -> [String; 8] {
        let rate = match (self.gflop_s, self.gb_s) {
            (Some(rate), _) => format!("{rate:.0} GFLOP/s"),
            (None, rate) => format!("{:.1} GB/s", rate.unwrap_or(0.)),
        };
        [
            self.layer.to_owned(),
            models::size(self.input),
            self.count.to_string(),
            words(self.variant),
            format!("{:.2}", self.ms),
            format!("{:.1}", self.all_ms()),
            rate,
            human::percent(self.ceiling_pct / 100.),
        ]
    }
}

/// `conv_forward` for people.
pub(super) fn words(variant: &str) -> String {
    variant.replace('_', " ")
}

/// What [`OpResult::cells`] are.
pub(super) const COLUMNS: [(&str, Align); 8] = [
    ("layer", Align::Left),
    ("input", Align::Right),
    ("layers", Align::Right),
    ("pass", Align::Left),
    ("ms each", Align::Right),
    ("ms all", Align::Right),
    ("rate", Align::Right),
    ("of the ceiling", Align::Right),
];

fn thousandths<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((1000. * value).round() / 1000.)
}
