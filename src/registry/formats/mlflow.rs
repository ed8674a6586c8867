//! A run as MLflow tracks it: parameters, tags and metrics.

use crate::error::{Error, Result};
use crate::registry::annotations::Annotations;
use crate::registry::record::{AttemptRecord, RunFacts, RunRecord, WarningFacts, Work};
use crate::registry::run::{BuildRecord, Point, RunDetail, RunState, SourceFile};
use crate::train::exact::Exact;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Characters of a parameter's value that MLflow keeps.
const LONGEST_VALUE: usize = 6000;
/// Tags of ours, beside MLflow's own.
const PREFIX: &str = "resnet_zoo.";

/// A run of MLflow.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracked {
    /// 32 hexadecimal digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The experiment's name.
    pub experiment: String,
    /// What became of it.
    pub status: Status,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    /// The same; none of a run that goes on.
    pub ended_ms: Option<i64>,
    /// The git commit.
    pub commit: Option<String>,
    /// By name.
    pub params: BTreeMap<String, String>,
    /// By name.
    pub tags: BTreeMap<String, String>,
    /// By step, each metric once a step.
    pub points: Vec<Point>,
    /// Values that this registry cannot hold: an earlier one of the same step, or one of a negative step.
    pub left_out: usize,
}

/// What MLflow says of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "MLflow's own words")]
pub enum Status {
    Finished,
    Failed,
    Killed,
    Running,
}

impl Status {
    /// As MLflow's file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Finished => "FINISHED",
            Status::Failed => "FAILED",
            Status::Killed => "KILLED",
            Status::Running => "RUNNING",
        }
    }

    /// What such a word means; SCHEDULED runs have not ended either.
    pub fn of(name: &str) -> Self {
        let all = [Status::Finished, Status::Failed, Status::Killed];
        all.into_iter().find(|status| status.name() == name).unwrap_or(Status::Running)
    }
}

impl Tracked {
    /// A run of ours, with its settings by dotted key.
    pub fn of(run: &RunDetail, settings: Vec<(String, String)>, points: Vec<Point>) -> Self {
        let listing = &run.listing;
        let status = match listing.state {
            RunState::Completed => Status::Finished,
            RunState::Failed => Status::Failed,
            RunState::Running | RunState::Queued | RunState::Unknown => Status::Running,
            RunState::Interrupted | RunState::Crashed => Status::Killed,
        };
        let short = |value: String| value.chars().take(LONGEST_VALUE).collect::<String>();
        let mut tags = BTreeMap::from([
            ("mlflow.runName".to_owned(), listing.name.clone()),
            ("mlflow.source.name".to_owned(), "resnet-zoo".to_owned()),
            ("mlflow.source.type".to_owned(), "LOCAL".to_owned()),
            (format!("{PREFIX}model"), listing.model.clone()),
            (format!("{PREFIX}config_sha256"), listing.config_sha256.clone()),
            (format!("{PREFIX}spec_sha256"), run.spec_sha256.clone()),
            (format!("{PREFIX}data_sha256"), run.data_sha256.clone()),
        ]);
        let mut tag = |key: &str, value: &Option<String>| {
            tags.extend(value.iter().map(|value| (key.to_owned(), short(value.clone()))));
        };
        let commit = run.origin.code.as_ref().and_then(|code| code.commit.clone());
        tag("mlflow.source.git.commit", &commit);
        tag("mlflow.note.content", &listing.note);
        tag(&format!("{PREFIX}group"), &listing.group);
        tag(&format!("{PREFIX}metric_digest"), &listing.metric_digest);
        tag(&format!("{PREFIX}rerun_of"), &run.origin.rerun_of);
        tags.extend(listing.tags.iter().map(|tag| (tag.clone(), "true".to_owned())));
        Tracked {
            id: listing.id.replace('-', ""),
            name: listing.name.clone(),
            experiment: listing.experiment.clone(),
            status,
            started_ms: listing.created_ms,
            ended_ms: (status != Status::Running).then(|| listing.created_ms + (listing.seconds * 1000.0) as i64),
            commit,
            params: settings.into_iter().map(|(key, value)| (key, short(value))).collect(),
            tags,
            points,
            left_out: 0,
        }
    }

    /// When the step was taken, in milliseconds since 1970: the steps spread evenly over the run.
    pub fn time_of(&self, step: u64) -> i64 {
        let steps = self.points.iter().map(|point| point.step + 1).max().unwrap_or(1);
        let length = self.ended_ms.unwrap_or(self.started_ms) - self.started_ms;
        self.started_ms + (length as f64 * (step + 1) as f64 / steps as f64) as i64
    }

    /// The run as this registry keeps it. It has no experiment file and no checkpoint, so it cannot be run again here.
    ///
    /// # Errors
    /// Where a name or a number is none that a run can have.
    pub fn record(self) -> Result<RunRecord> {
        let uid = hyphenated(&self.id)
            .ok_or_else(|| Error::input(format!("the run's id {:?} is not 32 hexadecimal digits", self.id)))?;
        let config: Map<String, Value> = self.params.iter().map(|(key, text)| (key.clone(), typed(text))).collect();
        let model = ["model", "architecture", "arch", "model_name"].iter().find_map(|key| self.params.get(*key));
        let (state, exit, reason) = match self.status {
            Status::Finished => ("COMPLETED", "completed", None),
            Status::Failed => ("FAILED", "failed", Some("MLflow says FAILED")),
            Status::Killed => ("INTERRUPTED", "interrupted", Some("MLflow says KILLED")),
            Status::Running => ("INTERRUPTED", "interrupted", Some("MLflow said RUNNING when it was imported")),
        };
        let ended_ms = self.ended_ms.unwrap_or(self.started_ms).max(self.started_ms);
        let unknown = || String::new();
        let build = BuildRecord {
            version: "MLflow".to_owned(),
            git_sha: self.commit.clone().unwrap_or_else(|| "unknown".to_owned()),
            dirty: false,
            rustc: unknown(),
            target: unknown(),
            features: unknown(),
            lock_sha256: unknown(),
        };
        let attempt = AttemptRecord {
            lease_epoch: 1,
            host: "MLflow".to_owned(),
            boot_id: unknown(),
            pid: 0,
            pid_start: 0,
            cpu: unknown(),
            isa: None,
            sources_sha256: None,
            threads: 0,
            device: "unknown".to_owned(),
            resumed_from: None,
            started_ms: self.started_ms,
            seconds: Exact((ended_ms - self.started_ms) as f64 / 1000.0),
            samples: 0,
            step_seconds: Exact(0.0),
            data_seconds: Exact(0.0),
            exit: exit.to_owned(),
            build: build.clone(),
        };
        let mut warnings = Vec::new();
        let mut warn = |message: String| warnings.push(WarningFacts { step: 0, message, created_ms: ended_ms });
        if self.left_out > 0 {
            let count = self.left_out;
            warn(format!(
                "{count} of MLflow's values were left out: of several at one step the newest stays, and no step is negative"
            ));
        }
        let source = SourceFile {
            name: "mlflow.json".to_owned(),
            text: serde_json::to_string_pretty(&json!({"params": self.params, "tags": self.tags}))
                .map_err(|error| Error::failed(format!("cannot write JSON: {error}")))?,
        };
        let facts = RunFacts {
            uid,
            name: self.name,
            experiment: self.experiment,
            model: model.cloned().unwrap_or_else(|| "unknown".to_owned()),
            state: state.to_owned(),
            reason: reason.map(str::to_owned),
            created_ms: self.started_ms,
            ended_ms,
            cursor_step: self.points.iter().map(|point| point.step.cast_signed()).max().unwrap_or(-1),
            metric_digest: None,
            seed: self.params.get("seed").and_then(|seed| seed.parse().ok()).unwrap_or(0),
            overrides: Vec::new(),
            provenance: self.params.keys().map(|key| (key.clone(), "MLflow".to_owned())).collect(),
            // No run of ours has such hashes: nothing is known of the model and the data.
            spec_sha256: "0".repeat(64),
            weights: json!({"from": "unknown"}),
            data_sha256: "0".repeat(64),
            classes: Vec::new(),
            plan: None,
            environment: BTreeMap::new(),
            rerun_of: None,
            annotations: annotations(&self.tags),
            checkpoints: Vec::new(),
            warnings,
            replay_mismatches: Vec::new(),
        };
        let record = RunRecord {
            facts,
            work: Work { build, attempts: vec![attempt] },
            config: Value::Object(config).to_string(),
            files: vec![source.clone()],
            spec_files: vec![source],
            code: None,
            points: self.points,
            samples: None,
        };
        record.check()?;
        Ok(record)
    }
}

/// A value that reads as a number or a truth is one, so that filters can compare it. `serde_json` would read some numbers
/// a bit off.
fn typed(text: &str) -> Value {
    match (text, text.parse::<i64>(), text.parse::<f64>()) {
        ("true" | "True", ..) => json!(true),
        ("false" | "False", ..) => json!(false),
        (_, Ok(whole), _) => json!(whole),
        (_, _, Ok(number)) if number.is_finite() => json!(number),
        _ => json!(text),
    }
}

/// Tags of people: `key`, or `key=value`; those that are none here stay in the run's file `mlflow.json` alone.
fn annotations(tags: &BTreeMap<String, String>) -> Annotations {
    let own = tags.iter().filter(|(key, _)| !key.starts_with("mlflow.") && !key.starts_with(PREFIX));
    let name = |(key, value): (&String, &String)| match value.as_str() {
        "" | "true" => key.clone(),
        value => format!("{key}={value}"),
    };
    let sound = |said: Annotations| said.checked().unwrap_or_default();
    let tags_of = |tag: String| sound(Annotations { tags: vec![tag], ..Annotations::default() }).tags;
    let note = tags.get("mlflow.note.content").filter(|note| !note.is_empty()).cloned();
    Annotations {
        tags: own.map(name).flat_map(tags_of).collect(),
        group: sound(Annotations { group: tags.get(&format!("{PREFIX}group")).cloned(), ..Annotations::default() })
            .group,
        note: sound(Annotations { note, ..Annotations::default() }).note,
    }
}

fn hyphenated(id: &str) -> Option<String> {
    let parts = [id.get(..8)?, id.get(8..12)?, id.get(12..16)?, id.get(16..20)?, id.get(20..)?];
    (id.len() == 32).then(|| parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_run_becomes_a_record() {
        let tracked = Tracked {
            id: "e4d0744e17684368a7131ea48977e0ef".to_owned(),
            name: "r".to_owned(),
            experiment: "x".to_owned(),
            status: Status::Killed,
            started_ms: 1000,
            ended_ms: Some(3000),
            commit: None,
            params: BTreeMap::from([("lr".to_owned(), "0.1".to_owned()), ("arch".to_owned(), "vgg".to_owned())]),
            tags: BTreeMap::from([
                ("team".to_owned(), "red".to_owned()),
                ("mlflow.user".to_owned(), "me".to_owned()),
                ("bad\nname".to_owned(), "x".to_owned()),
            ]),
            points: vec![Point { metric: "loss".to_owned(), step: 3, value: f64::NAN }],
            left_out: 2,
        };
        assert_eq!((tracked.time_of(1), tracked.time_of(3)), (2000, 3000));
        let record = tracked.record().expect("sound");
        assert_eq!(record.facts.uid, "e4d0744e-1768-4368-a713-1ea48977e0ef");
        assert_eq!(record.config, r#"{"arch":"vgg","lr":0.1}"#);
        assert_eq!((record.facts.model.as_str(), record.facts.state.as_str()), ("vgg", "INTERRUPTED"));
        assert_eq!(record.facts.annotations.tags, ["team=red"]);
        assert_eq!((record.facts.warnings.len(), record.facts.cursor_step), (1, 3));
    }
}
