//! Writes a bundle.

use super::container::Target;
use super::{BUILD, BUNDLE, CODE, CONFIG, CodeFacts, FORMAT, Form, METRICS, Named, PATCH, README, RUN, SAMPLES, SUMS};
use super::{blob_place, place};
use crate::error::{Error, Result};
use crate::registry::blob::Blobs;
use crate::registry::record::RunRecord;
use crate::registry::run::{Point, SourceFile};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;

/// Writes the run and its checkpoints into a new zip where `path` ends in `.zip`, else into a new folder: whole, or not
/// at all.
///
/// # Errors
/// Where there is something at `path` already, where a checkpoint is damaged, or where the disk fails.
pub fn write(path: &Path, record: &RunRecord, blobs: &Blobs) -> Result<()> {
    let mut files = Files { target: Target::create(path)?, sums: String::new() };
    let written = files.record(record).and_then(|()| files.checkpoints(record, blobs));
    written.and_then(|()| files.finish())
}

struct Files {
    target: Target,
    sums: String,
}

impl Files {
    fn record(&mut self, record: &RunRecord) -> Result<()> {
        let named = |folder: &str, files: &[SourceFile]| -> Vec<Named> {
            let files = files.iter().enumerate();
            files.map(|(number, file)| Named { file: place(folder, number, file), name: file.name.clone() }).collect()
        };
        let (experiment, spec) = (named("experiment", &record.files), named("spec", &record.spec_files));
        self.add(README, readme(record).as_bytes())?;
        for (place, file) in experiment.iter().zip(&record.files).chain(spec.iter().zip(&record.spec_files)) {
            self.add(&place.file, file.text.as_bytes())?;
        }
        self.json(BUNDLE, &Form { format: FORMAT, experiment, spec })?;
        self.json(RUN, &record.facts)?;
        self.json(BUILD, &record.work)?;
        self.add(CONFIG, record.config.as_bytes())?;
        if let Some(code) = &record.code {
            let (commit, branch, remote) = (code.commit.clone(), code.branch.clone(), code.remote.clone());
            let (untracked, note) = (code.untracked.clone(), code.note.clone());
            self.json(CODE, &CodeFacts { commit, branch, remote, untracked, note })?;
            if let Some(patch) = &code.patch {
                self.add(PATCH, patch)?;
            }
        }
        self.add(METRICS, metrics(&record.points)?.as_bytes())?;
        if let Some(samples) = &record.samples {
            self.add(SAMPLES, samples.as_bytes())?;
        }
        Ok(())
    }

    fn checkpoints(&mut self, record: &RunRecord, blobs: &Blobs) -> Result<()> {
        record.blobs().into_iter().try_for_each(|sha256| self.add(&blob_place(sha256), &blobs.get(sha256)?))
    }

    fn finish(mut self) -> Result<()> {
        self.target.add(SUMS, self.sums.as_bytes())?;
        self.target.finish()
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::failed(format!("cannot write {name}: {error}")))?;
        text.push('\n');
        self.add(name, text.as_bytes())
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        writeln!(self.sums, "{:x}  {name}", Sha256::digest(bytes)).expect("a String takes everything");
        self.target.add(name, bytes)
    }
}

/// Values with the digits that tell them from any other; `NaN`, `inf`, `-0.0` as they are.
fn metrics(points: &[Point]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |error: csv::Error| Error::failed(format!("cannot write {METRICS}: {error}"));
    writer.write_record(["metric", "step", "value"]).map_err(failed)?;
    for Point { metric, step, value } in points {
        writer.write_record([metric.as_str(), &step.to_string(), &format!("{value:?}")]).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| Error::failed(format!("cannot write {METRICS}: {error}")))?;
    String::from_utf8(bytes).map_err(|error| Error::failed(format!("cannot write {METRICS}: {error}")))
}

fn readme(record: &RunRecord) -> String {
    let facts = &record.facts;
    let mut text = format!(
        "# {}\n\nA run of {} by resnet-zoo {}, {} after {} steps, as one bundle.\n\n```sh\nsha256sum -c SHA256SUMS\n\
         resnet-zoo import THIS_FOLDER_OR_ZIP\nresnet-zoo rerun {} --verify\n```\n\n",
        facts.name,
        facts.model,
        record.work.build.version,
        facts.state,
        facts.cursor_step + 1,
        facts.uid
    );
    text.push_str("| checkpoint | weights | state |\n|---|---|---|\n");
    for one in &facts.checkpoints {
        let (weights, state) = (blob_place(&one.weights_sha256), blob_place(&one.state_sha256));
        writeln!(text, "| step {} ({}) | {weights} | {state} |", one.step + 1, one.role).expect("a String takes it");
    }
    text
}
