//! A run as one folder or zip, which another machine imports and runs again.
//!
//! ```text
//! README.md                       what this is, for a person
//! bundle.json                     the form of what follows
//! run.json                        what ran, how it ended, what is in the checkpoints
//! build.json                      the programs that worked on it
//! code.json code.patch            what git said; `git apply` takes the patch
//! config.json                     the experiment as resolved, every default filled in
//! experiment/0-NAME.yaml, ..      as written; the names that they had stand in bundle.json
//! spec/0-NAME.yaml, ..            the model's
//! metrics.csv                     metric,step,value: every bit of every value
//! samples.jsonl                   which samples the data holds
//! checkpoints/SHA256.safetensors  weights and states
//! SHA256SUMS                      of all of these; `sha256sum -c SHA256SUMS` checks them
//! ```
//! A zip holds them uncompressed: weights do not shrink, and nothing can unpack to more than it is.

mod container;
mod read;
mod write;

pub use read::Bundle;
pub use write::write;

use super::run::SourceFile;
use serde::{Deserialize, Serialize};

/// Goes up whenever an older program would misread a newer bundle.
const FORMAT: u32 = 1;

const BUNDLE: &str = "bundle.json";
const RUN: &str = "run.json";
const BUILD: &str = "build.json";
const CODE: &str = "code.json";
const PATCH: &str = "code.patch";
const CONFIG: &str = "config.json";
const METRICS: &str = "metrics.csv";
const SAMPLES: &str = "samples.jsonl";
const README: &str = "README.md";
const SUMS: &str = "SHA256SUMS";

/// `bundle.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: u32,
    /// The files of the experiment and of the model: where they lie here, and the names that they had.
    experiment: Vec<Named>,
    spec: Vec<Named>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    file: String,
    name: String,
}

/// `code.json`: what git said, but for the patch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeFacts {
    commit: Option<String>,
    branch: Option<String>,
    remote: Option<String>,
    untracked: Vec<String>,
    note: Option<String>,
}

/// Where a source file lies in a bundle: `experiment/0-tiny.yaml`.
fn place(folder: &str, number: usize, file: &SourceFile) -> String {
    let name = file.name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
    let name: String = name.chars().take(80).map(plain).collect();
    format!("{folder}/{number}-{name}")
}

fn blob_place(sha256: &str) -> String {
    format!("checkpoints/{sha256}.safetensors")
}
