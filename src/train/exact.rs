//! Numbers that survive JSON.

use serde::{Deserialize, Serialize};

/// A number that JSON does not change by a bit: it is written as text, and may be NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Exact(pub f64);

impl From<Exact> for String {
    fn from(Exact(value): Exact) -> String {
        value.to_string()
    }
}

impl TryFrom<String> for Exact {
    type Error = std::num::ParseFloatError;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        text.parse().map(Exact)
    }
}
