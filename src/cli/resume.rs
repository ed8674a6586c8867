//! `resume`.

use super::session::Session;
use super::{Context, device, tags};
use crate::error::{Error, Result};
use crate::experiment::{Experiment, Length};
use crate::registry::blob::Blobs;
use crate::registry::lease::{Lease, TAKEN};
use crate::registry::run::{CheckpointRecord, RunDetail};
use crate::registry::spill::Spill;
use crate::registry::store::Start;
use crate::registry::{Build, Process, Recorder, RunState};
use crate::task::{Classify, Fetch};
use crate::train::Checkpoint;
use crate::train::checkpoint::{self, Origin};
use crate::train::task::Task;
use candle_core::Device;
use serde_json::Value;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo resume resnet34_ls          the newest run of that name
  resnet-zoo resume 2e3f4a5b             by its short id

Goes on after the newest checkpoint whose files are sound, with the stored experiment, whatever became of its file.
Steps that are taken again are compared with what the registry holds, bit for bit. Two that resume a run at once: one
does, the other is told. A run of another machine that has been silent for a minute is UNKNOWN; --take-over goes on
with it, and should it still be alive, it stops at its next write.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Id, short id or name of an interrupted, failed or crashed run
    run: String,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Save and end after the first evaluation at or after so many steps or epochs of the run
    #[arg(long, value_name = "epochs=N|steps=N", value_parser = super::run::length)]
    pause_after: Option<Length>,
    /// Say at the end where the time went
    #[arg(long)]
    profile: bool,
    /// Go on with a run of another machine that is UNKNOWN, because that machine is gone
    #[arg(long)]
    take_over: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let device = device::choose(&arguments.device)?;
    let mut reader = context.reader()?;
    let listing = reader.find(&arguments.run)?;
    let uid = listing.id.clone();
    match listing.state {
        RunState::Completed => {
            return Err(Error::input(format!("the run {uid} is completed; there is nothing to resume")));
        }
        RunState::Unknown if !arguments.take_over => {
            return Err(Error::input(format!(
                "the run {uid} is UNKNOWN: it runs on another machine, or did; where that is gone, pass --take-over"
            )));
        }
        RunState::Running | RunState::Queued => {
            let state = listing.state;
            return Err(Error::input(format!("the run {uid} is {state}; wait for it, or stop it where it runs")));
        }
        RunState::Unknown | RunState::Interrupted | RunState::Failed | RunState::Crashed => {}
    }
    // Before anything is read: nobody else goes on from what is read below.
    let lease = Lease::take(&context.location.run_folder(&uid))?;
    let mut store = context.store()?;
    if !store.claim(&uid)? {
        return Err(Error::input(TAKEN));
    }
    Spill::of(&context.location.run_folder(&uid))
        .restore(&mut store, &uid, true)?
        .ok_or_else(|| Error::failed(format!("{} is {}", context.location, context.location.blocked().0)))?;
    let listing = reader.find(&uid)?;
    let detail = reader.detail(listing)?;
    drop(reader);

    let experiment = Experiment::from_canonical(&detail.canonical)?;
    let threads = device::set_threads(arguments.threads)?;
    let task = open(&detail, &experiment, &device)?;
    let experiment_sha256 = experiment.sha256();
    let origin = Origin { experiment_sha256: &experiment_sha256, data_sha256: task.data_sha256() };
    if context.location.file().is_none() {
        refuse_elsewhere(&detail, context)?;
    }
    let mut found = newest_sound(&detail, store.blobs(), origin)?;
    found.warnings.extend(store.warning());
    store.blobs().preflight(checkpoint::size(&experiment, task.params()))?;

    let start = Start {
        process: Process::current(),
        build: Build::CURRENT,
        device: device::name(&device),
        threads,
        keep_last: experiment.checkpoint.keep_last,
    };
    let exact = is_same_machine(&detail, &start);
    let recorder = Recorder::resume(store, lease, &uid, &start, found.record.as_ref())?;
    context.announce(&uid, &detail.listing.name, &detail.listing.model, &start)?;
    Session {
        experiment: &experiment,
        resume: found.checkpoint,
        warnings: found.warnings,
        exact,
        pause: arguments.pause_after,
        profile: arguments.profile,
        expected: None,
    }
    .train(&task, recorder, context)
}

/// What the run learns, as it was when the run began.
fn open(detail: &RunDetail, experiment: &Experiment, device: &Device) -> Result<Classify> {
    // A checkpoint brings every value: no need to have what the run once started from. Where there is none, it starts
    // as it did: from the seed also when what could not be had then can be had now.
    let started = |key: &str| detail.weights.get(key).and_then(Value::as_str);
    let has_checkpoint = !detail.checkpoints.is_empty();
    let mut fetch = tags::fetch;
    let is_loaded = !has_checkpoint && started("unavailable").is_none();
    let fetch: Option<Fetch<'_>> = if is_loaded { Some(&mut fetch) } else { None };
    let task = Classify::new(experiment, device, fetch)?;
    if task.data_sha256() != detail.data_sha256 {
        return Err(Error::input("the data have changed since the run began: run the experiment again"));
    }
    if is_loaded && task.weights.sha256.as_deref() != started("sha256") {
        return Err(Error::input(format!(
            "the run began with weights from {} with the sha256 {}, and now there are others: run the experiment again",
            started("from").unwrap_or("a file"),
            started("sha256").unwrap_or("of none")
        )));
    }
    Ok(task)
}

/// Where a run goes on, and what a person should know of it.
#[derive(Default)]
struct Found {
    record: Option<CheckpointRecord>,
    checkpoint: Option<Checkpoint>,
    warnings: Vec<String>,
}

/// With a server, each machine may have a folder of its own.
fn refuse_elsewhere(detail: &RunDetail, context: &Context) -> Result<()> {
    let blobs = context.location.blobs();
    let is_here = |kept: &CheckpointRecord| blobs.has(&kept.weights_sha256) && blobs.has(&kept.state_sha256);
    if detail.checkpoints.is_empty() || detail.checkpoints.iter().any(is_here) {
        return Ok(());
    }
    let host = detail.attempts.last().map_or("another machine", |attempt| &attempt.host);
    Err(Error::input(format!(
        "the checkpoints of the run {} are not in {}: {host} wrote them; resume it there, or pass --artifacts DIR, a copy \
         or a mount of the folder that has them",
        detail.listing.id,
        context.location.folder().display()
    )))
}

fn newest_sound(detail: &RunDetail, blobs: &Blobs, origin: Origin<'_>) -> Result<Found> {
    let mut found = Found::default();
    for record in &detail.checkpoints {
        let files =
            blobs.get(&record.weights_sha256).and_then(|weights| Ok((weights, blobs.get(&record.state_sha256)?)));
        match files {
            Ok((weights, state)) => {
                found.checkpoint = Some(Checkpoint::from_bytes(&weights, &state, origin)?);
                found.record = Some(record.clone());
                return Ok(found);
            }
            Err(error) => {
                found.warnings.push(format!("the checkpoint of step {} is not used: {error}", record.step + 1))
            }
        }
    }
    if found.warnings.is_empty() {
        return Ok(found);
    }
    Err(Error::disk(format!(
        "no checkpoint of the run is sound; restore one from a copy, or run the experiment again:\n  {}",
        found.warnings.join("\n  ")
    )))
}

/// Whether the run's first process had this build, processor and device.
fn is_same_machine(detail: &RunDetail, start: &Start) -> bool {
    let Some(first) = detail.attempts.first() else { return false };
    let build = &detail.build;
    let same_sources = match &first.sources_sha256 {
        Some(sources) => sources == start.build.sources_sha256,
        None => build.git_sha == start.build.git_sha && !build.dirty && !start.build.dirty,
    };
    same_sources
        && build.rustc == start.build.rustc
        && build.features == start.build.features
        && build.lock_sha256 == start.build.lock_sha256
        && first.cpu == start.process.cpu
        && first.device == start.device
}
