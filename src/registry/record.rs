//! A whole run, as it travels from one registry to another.

use super::annotations::Annotations;
use super::code::Code;
use super::run::{BuildRecord, Point, SourceFile};
use crate::error::{Error, Result};
use crate::train::exact::Exact;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a registry knows of a run, but for the checkpoints' bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// What fits a page.
    pub facts: RunFacts,
    /// What worked on it.
    pub work: Work,
    /// The experiment as resolved, exactly as it was hashed.
    pub config: String,
    /// The experiment's files.
    pub files: Vec<SourceFile>,
    /// The model's files.
    pub spec_files: Vec<SourceFile>,
    /// What came from git; none where nobody asked.
    pub code: Option<Code>,
    /// Every value of every metric, by step.
    pub points: Vec<Point>,
    /// The data's list of samples, where it was kept.
    pub samples: Option<String>,
}

/// Names, numbers and short texts of a run. Times are milliseconds since 1970, hashes hexadecimal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the columns of table run, which the migrations describe")]
pub struct RunFacts {
    pub uid: String,
    pub name: String,
    pub experiment: String,
    pub model: String,
    pub state: String,
    pub reason: Option<String>,
    pub created_ms: i64,
    pub ended_ms: i64,
    pub cursor_step: i64,
    pub metric_digest: Option<String>,
    pub seed: u64,
    pub overrides: Vec<String>,
    pub provenance: BTreeMap<String, String>,
    pub spec_sha256: String,
    pub weights: Value,
    pub data_sha256: String,
    pub classes: Vec<String>,
    pub plan: Option<Value>,
    pub environment: BTreeMap<String, String>,
    pub rerun_of: Option<String>,
    pub annotations: Annotations,
    pub checkpoints: Vec<CheckpointFacts>,
    pub warnings: Vec<WarningFacts>,
    pub replay_mismatches: Vec<Mismatch>,
}

/// The programs that worked on a run: the build that it began with, and each attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "what the name says")]
pub struct Work {
    pub build: BuildRecord,
    pub attempts: Vec<AttemptRecord>,
}

/// A row of table attempt, with its build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the columns of table attempt, which the migrations describe")]
pub struct AttemptRecord {
    pub lease_epoch: i64,
    pub host: String,
    pub boot_id: String,
    pub pid: i64,
    pub pid_start: i64,
    pub cpu: String,
    pub isa: Option<String>,
    pub sources_sha256: Option<String>,
    pub threads: i64,
    pub device: String,
    pub resumed_from: Option<i64>,
    pub started_ms: i64,
    /// As text, of which JSON loses no bit.
    pub seconds: Exact,
    pub samples: i64,
    pub step_seconds: Exact,
    pub data_seconds: Exact,
    pub exit: String,
    pub build: BuildRecord,
}

/// A row of table checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the columns of table checkpoint, which the migrations describe")]
pub struct CheckpointFacts {
    pub step: i64,
    pub role: String,
    pub weights_sha256: String,
    pub state_sha256: String,
    pub metric_digest: String,
    pub created_ms: i64,
}

/// A row of table warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the columns of table warning, which the migrations describe")]
pub struct WarningFacts {
    pub step: i64,
    pub message: String,
    pub created_ms: i64,
}

/// A row of table replay_mismatch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the columns of table replay_mismatch, which the migrations describe")]
pub struct Mismatch {
    pub metric: String,
    pub step: i64,
    pub old_bits: i64,
    pub new_bits: i64,
    pub lease_epoch: i64,
}

/// Bytes of a name, and of a longer text.
const LONGEST_NAME: usize = 1 << 10;
const LONGEST_TEXT: usize = 1 << 16;

impl RunRecord {
    /// The blobs that its checkpoints need.
    pub fn blobs(&self) -> BTreeSet<&str> {
        let checkpoints = self.facts.checkpoints.iter();
        checkpoints.flat_map(|one| [one.weights_sha256.as_str(), one.state_sha256.as_str()]).collect()
    }

    /// Checks what came from outside: everything that the schema, or the reader of a table, trusts.
    ///
    /// # Errors
    /// The first thing that no run of this program can say.
    pub fn check(&self) -> Result<()> {
        let facts = &self.facts;
        must(is_uid(&facts.uid), "uid", "is no UUID")?;
        must(facts.rerun_of.as_deref().is_none_or(is_uid), "rerun_of", "is no UUID")?;
        for (what, name) in [("name", &facts.name), ("experiment", &facts.experiment), ("model", &facts.model)] {
            must(is_name(name), what, "is empty, too long, or has control characters")?;
        }
        must(
            ["COMPLETED", "FAILED", "INTERRUPTED"].contains(&facts.state.as_str()),
            "state",
            "is none of COMPLETED, FAILED and INTERRUPTED",
        )?;
        must(facts.reason.as_deref().is_none_or(is_text), "reason", "is too long")?;
        must(is_time(facts.created_ms) && is_time(facts.ended_ms), "created_ms or ended_ms", "is no time")?;
        must((-1..=i64::MAX / 2).contains(&facts.cursor_step), "cursor_step", "is no step")?;
        must(facts.metric_digest.as_deref().is_none_or(is_sha256), "metric_digest", "is no sha256")?;
        must(
            is_sha256(&facts.spec_sha256) && is_sha256(&facts.data_sha256),
            "spec_sha256 or data_sha256",
            "is no sha256",
        )?;
        must(
            facts.weights.is_object() && facts.plan.as_ref().is_none_or(Value::is_object),
            "weights or plan",
            "is no mapping",
        )?;
        let texts = facts.overrides.iter().chain(&facts.classes).chain(facts.environment.values());
        must(texts.chain(facts.provenance.values()).all(|text| is_text(text)), "a text", "is too long")?;
        facts.annotations.clone().checked()?;
        must(!self.files.is_empty() && !self.spec_files.is_empty(), "the sources", "are missing")?;
        must(
            serde_json::from_str::<Value>(&self.config).is_ok_and(|config| config.is_object()),
            "the resolved experiment",
            "is no JSON mapping",
        )?;
        self.check_attempts()?;
        self.check_checkpoints()?;
        self.check_points()
    }

    fn check_attempts(&self) -> Result<()> {
        must(!self.work.attempts.is_empty(), "attempts", "are missing")?;
        for (attempt, number) in self.work.attempts.iter().zip(1..) {
            must(attempt.lease_epoch == number, "attempts", "are not numbered from 1")?;
            let exits = ["completed", "failed", "interrupted", "crashed"];
            must(exits.contains(&attempt.exit.as_str()), "an attempt's exit", "is unknown")?;
            let seconds = [attempt.seconds, attempt.step_seconds, attempt.data_seconds];
            must(
                seconds.iter().all(|Exact(seconds)| seconds.is_finite() && *seconds >= 0.0),
                "seconds",
                "are no duration",
            )?;
            for name in [&attempt.host, &attempt.cpu, &attempt.device] {
                must(
                    name.is_empty() || is_name(name),
                    "host, cpu or device",
                    "is too long, or has control characters",
                )?;
            }
            must(is_time(attempt.started_ms), "started_ms", "is no time")?;
        }
        Ok(())
    }

    fn check_checkpoints(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for checkpoint in &self.facts.checkpoints {
            let hashes = [&checkpoint.weights_sha256, &checkpoint.state_sha256, &checkpoint.metric_digest];
            must(hashes.iter().all(|hash| is_sha256(hash)), "a checkpoint's hash", "is no sha256")?;
            must(["last", "best"].contains(&checkpoint.role.as_str()), "a checkpoint's role", "is unknown")?;
            must(checkpoint.step >= 0, "a checkpoint's step", "is negative")?;
            must(seen.insert((checkpoint.step, &checkpoint.role)), "a checkpoint", "stands twice")?;
        }
        let keys = &self.facts.replay_mismatches;
        must(
            keys.iter().all(|one| is_name(&one.metric) && one.step >= 0),
            "a replay mismatch",
            "has no metric or step",
        )?;
        must(self.facts.warnings.iter().all(|one| is_text(&one.message)), "a warning", "is too long")
    }

    fn check_points(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for point in &self.points {
            must(is_name(&point.metric), "a metric's name", "is empty, too long, or has control characters")?;
            must(point.step <= u64::MAX / 4, "a metric's step", "is too large")?;
            must(seen.insert((point.step, point.metric.as_str())), "a metric's value", "stands twice at one step")?;
        }
        Ok(())
    }
}

fn must(holds: bool, what: &str, how: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::input(format!("{what} {how}"))) }
}

/// A name that can be printed as it is.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_NAME && !text.chars().any(char::is_control)
}

fn is_text(text: &str) -> bool {
    text.len() <= LONGEST_TEXT
}

fn is_uid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    let is_right = |(at, byte): (usize, u8)| match hyphens.contains(&at) {
        true => byte == b'-',
        false => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_right)
}

fn is_time(ms: i64) -> bool {
    // Up to the year 9999, which the views can print.
    (0..253_402_300_800_000).contains(&ms)
}

/// Whether it is a sha256 in hexadecimal, lower case.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
