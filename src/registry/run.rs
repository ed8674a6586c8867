//! What the registry knows of a run.

use super::{Annotations, Build, Code};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Everything that is known of a run before its first step.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// What people call it; need not be unique.
    pub name: String,
    /// The experiment's name.
    pub experiment: String,
    /// The experiment's files as written: name and text.
    pub files: Vec<(String, String)>,
    /// `--set` arguments, as given.
    pub overrides: Vec<String>,
    /// The experiment as resolved, every default filled in.
    pub config: Value,
    /// Where each resolved value comes from.
    pub provenance: Value,
    /// The model's name.
    pub model: String,
    /// The model's files: name and text.
    pub spec_files: Vec<(String, String)>,
    /// The model card's hash of them.
    pub spec_sha256: String,
    /// Where the weights came from, their sha256, and what was loaded.
    pub weights: Value,
    /// The data's hash.
    pub data_sha256: String,
    /// The classes' names.
    pub classes: Vec<String>,
    /// The seed of all randomness.
    pub seed: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// What is said of it from the start.
    pub annotations: Annotations,
}

/// Where a run comes from, beside its recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The git working tree of its experiment; none where nobody asked.
    pub code: Option<Code>,
    /// The environment variables of the allow-list that were set.
    pub environment: BTreeMap<String, String>,
    /// The run that it repeats.
    pub rerun_of: Option<String>,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RunState {
    /// Waits for its turn.
    Queued,
    /// A process works on it.
    Running,
    /// A signal stopped it after a step and a checkpoint.
    Interrupted,
    /// It ended with an error.
    Failed,
    /// It took its last step.
    Completed,
    /// Its process died without a word. Derived, never stored: the dead write nothing.
    Crashed,
    /// It says that it runs, on another host, but has been silent for a minute.
    Unknown,
}

impl RunState {
    /// All of them.
    pub const ALL: [RunState; 7] = {
        use RunState::{Completed, Crashed, Failed, Interrupted, Queued, Running, Unknown};
        [Queued, Running, Interrupted, Failed, Completed, Crashed, Unknown]
    };

    /// As SQL and JSON spell it.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Queued => "QUEUED",
            RunState::Running => "RUNNING",
            RunState::Interrupted => "INTERRUPTED",
            RunState::Failed => "FAILED",
            RunState::Completed => "COMPLETED",
            RunState::Crashed => "CRASHED",
            RunState::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RunState {
    type Err = Error;

    /// A stored state; `CRASHED` and `UNKNOWN` are never stored.
    fn from_str(text: &str) -> Result<Self> {
        use RunState::{Completed, Failed, Interrupted, Queued, Running};
        [Queued, Running, Interrupted, Failed, Completed]
            .into_iter()
            .find(|state| state.name() == text)
            .ok_or_else(|| Error::failed(format!("the registry holds an unknown state {text:?}")))
    }
}

/// One value of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// `val.top1`.
    pub metric: String,
    /// The optimizer step, from 0.
    pub step: u64,
    /// Any bits.
    pub value: f64,
}

/// Whether a metric is what a clock or the machine says, so that no replay reproduces it: `system.*`.
pub fn is_measured(metric: &str) -> bool {
    metric.starts_with("system.")
}

/// A metric of a run in three numbers. What is not finite is `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricSummary {
    /// The newest value; `None` where it is NaN.
    pub last: Option<f64>,
    /// Whether the newest value is NaN: in JSON, which has no infinity either, `last` does not tell.
    pub last_is_nan: bool,
    /// Its step.
    pub last_step: u64,
    /// The best value; `None` where nothing is better than anything, as of a learning rate.
    pub best: Option<f64>,
    /// Its step.
    pub best_step: Option<u64>,
    /// What is better; `None` where nothing is.
    pub goal: Option<Goal>,
}

/// Which of two values of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// The less, as of a loss.
    Min,
    /// The greater, as of an accuracy.
    Max,
}

/// A line of `runs ls`.
#[derive(Debug, Clone, Serialize)]
pub struct RunListing {
    /// UUIDv7.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The experiment's name.
    pub experiment: String,
    /// The model's name.
    pub model: String,
    /// What it is doing.
    pub state: RunState,
    /// Why it stopped, where it did not complete.
    pub reason: Option<String>,
    /// When it was created, RFC 3339, UTC.
    pub created: String,
    /// The same in milliseconds since 1970.
    pub created_ms: i64,
    /// Seconds that processes have worked on it.
    pub seconds: f64,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Steps, steps of an epoch, samples and parameters, as planned; `null` before the first step.
    pub plan: Option<Value>,
    /// The seed.
    pub seed: u64,
    /// cpu, cuda:0, ..
    pub device: String,
    /// Of the resolved experiment: equal hashes mean equal recipes.
    pub config_sha256: String,
    /// A hash chain over all points: equal digests mean equal metrics, bit for bit.
    pub metric_digest: Option<String>,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// Its group, as of a sweep.
    pub group: Option<String>,
    /// What somebody noted.
    pub note: Option<String>,
    /// Whether lists hide it.
    pub archived: bool,
    /// By name.
    pub metrics: BTreeMap<String, MetricSummary>,
}

/// Everything about a run: `runs show`.
#[derive(Debug, Clone, Serialize)]
pub struct RunDetail {
    /// The line of `runs ls`.
    #[serde(flatten)]
    pub listing: RunListing,
    /// The experiment as resolved.
    pub config: Value,
    /// The text that `config` is read from: JSON numbers of many digits may lose a bit on their way into a `Value`.
    #[serde(skip)]
    pub canonical: String,
    /// Where each value comes from.
    pub provenance: Value,
    /// `--set` arguments.
    pub overrides: Vec<String>,
    /// The experiment's files as written.
    pub files: Vec<SourceFile>,
    /// The model's files.
    pub spec_files: Vec<SourceFile>,
    /// The model card's hash of them.
    pub spec_sha256: String,
    /// Where the weights came from, and what was loaded.
    pub weights: Value,
    /// The data's hash.
    pub data_sha256: String,
    /// The classes' names.
    pub classes: Vec<String>,
    /// What it was built from.
    pub build: BuildRecord,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
    /// The processes that worked on it.
    pub attempts: Vec<Attempt>,
    /// Kept checkpoints, newest first.
    pub checkpoints: Vec<CheckpointRecord>,
    /// What a person should read.
    pub warnings: Vec<WarningRecord>,
    /// Values that a resume did not reproduce bit for bit.
    pub replay_mismatches: u64,
}

impl RunDetail {
    /// Samples trained on, and the seconds that their steps took, over all attempts.
    pub fn speed(&self) -> (f64, f64) {
        let samples: i64 = self.attempts.iter().map(|attempt| attempt.samples).sum();
        (samples as f64, self.attempts.iter().map(|attempt| attempt.step_seconds).sum())
    }

    /// The model's files by name and text.
    pub fn spec_texts(&self) -> Vec<(&str, &str)> {
        self.spec_files.iter().map(|file| (file.name.as_str(), file.text.as_str())).collect()
    }

    /// Pixels along a side of what the model sees, where the experiment says so.
    pub fn input(&self) -> Option<usize> {
        self.config.get("input").and_then(Value::as_u64).and_then(|side| usize::try_from(side).ok())
    }

    /// The best checkpoint, or the newest where none is the best yet.
    ///
    /// # Errors
    /// Where the run has none.
    pub fn best_checkpoint(&self) -> Result<&CheckpointRecord> {
        let best = self.checkpoints.iter().find(|checkpoint| checkpoint.role == "best");
        best.or(self.checkpoints.first())
            .ok_or_else(|| Error::input(format!("the run {} has no checkpoint yet", self.listing.id)))
    }
}

/// A file as it was when the run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name.
    pub name: String,
    /// Its whole text.
    pub text: String,
}

/// As [`Build`](super::Build), read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, sqlx::FromRow)]
pub struct BuildRecord {
    /// The package's version.
    pub version: String,
    /// The git commit.
    pub git_sha: String,
    /// Whether sources differed from it.
    pub dirty: bool,
    /// The compiler.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// Cargo features.
    pub features: String,
    /// sha256 of Cargo.lock.
    #[sqlx(rename = "lock_hash")]
    pub lock_sha256: String,
}

impl From<Build> for BuildRecord {
    fn from(build: Build) -> Self {
        BuildRecord {
            version: build.version.to_owned(),
            git_sha: build.git_sha.to_owned(),
            dirty: build.dirty,
            rustc: build.rustc.to_owned(),
            target: build.target.to_owned(),
            features: build.features.to_owned(),
            lock_sha256: build.lock_sha256.to_owned(),
        }
    }
}

/// One process that worked on a run.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct Attempt {
    /// Counts from 1.
    pub lease_epoch: i64,
    /// The host's name.
    pub host: String,
    /// The boot of that host.
    pub boot_id: String,
    /// The process.
    pub pid: i64,
    /// The processor.
    pub cpu: String,
    /// The vector instructions that its kernels used; `null` of runs that older versions recorded, as below.
    pub isa: Option<String>,
    /// sha256 of the sources that the program was built from.
    pub sources_sha256: Option<String>,
    /// Worker threads.
    pub threads: i64,
    /// cpu, cuda:0, ..
    pub device: String,
    /// The checkpoint's step, where it resumed.
    pub resumed_from: Option<i64>,
    /// Seconds it worked.
    pub seconds: f64,
    /// Samples it trained on.
    pub samples: i64,
    /// Seconds in training steps.
    pub step_seconds: f64,
    /// Of these, seconds waiting for data.
    pub data_seconds: f64,
    /// How it ended; `null` while it works.
    pub exit: Option<String>,
}

/// One checkpoint that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointRecord {
    /// The last step in it.
    pub step: u64,
    /// `last` or `best`.
    pub role: String,
    /// The model alone.
    pub weights_sha256: String,
    /// What an exact resume needs beside it.
    pub state_sha256: String,
    /// The hash chain of the points up to it.
    #[serde(skip)]
    pub metric_digest: [u8; 32],
}

/// A warning of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct WarningRecord {
    /// The step at which it came.
    pub step: i64,
    /// What.
    pub message: String,
}
