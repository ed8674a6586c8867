//! `resume`.

use super::session::Session;
use super::{Context, device, tags};
use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::registry::blob::Blobs;
use crate::registry::lease::Lease;
use crate::registry::run::{CheckpointRecord, RunDetail};
use crate::registry::store::Start;
use crate::registry::{Build, Process, Recorder, RunState};
use crate::task::{Classify, Fetch};
use crate::train::Checkpoint;
use crate::train::checkpoint::Origin;
use crate::train::task::Task;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo resume resnet34_ls          the newest run of that name
  resnet-zoo resume 2e3f4a5b             by its short id

Goes on after the newest checkpoint whose files are sound, with the stored experiment, whatever became of its file.
Steps that are taken again are compared with what the registry holds, bit for bit.";

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
    /// Say at the end where the time went
    #[arg(long)]
    profile: bool,
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
        RunState::Unknown | RunState::Running | RunState::Queued => {
            let state = listing.state;
            return Err(Error::input(format!("the run {uid} is {state}; wait for it, or stop it where it runs")));
        }
        RunState::Interrupted | RunState::Failed | RunState::Crashed => {}
    }
    // Before anything is read: nobody else goes on from what is read below.
    let lease = Lease::take(&context.location.run_folder(&uid))?;
    let listing = reader.find(&uid)?;
    let detail = reader.detail(listing)?;
    drop(reader);

    let experiment = Experiment::from_canonical(&detail.canonical)?;
    let threads = device::set_threads(arguments.threads)?;
    // A checkpoint brings every value: no need to have what the run once started from.
    let mut fetch = tags::fetch;
    let fetch: Option<Fetch<'_>> = if detail.checkpoints.is_empty() { Some(&mut fetch) } else { None };
    let task = Classify::new(&experiment, &device, fetch)?;
    let experiment_sha256 = experiment.sha256();
    let origin = Origin { experiment_sha256: &experiment_sha256, data_sha256: task.data_sha256() };
    let blobs = Blobs::beside(context.location.database());
    let found = newest_sound(&detail, &blobs, origin)?;

    let start = Start {
        process: Process::current(),
        build: Build::CURRENT,
        device: device::name(&device),
        threads,
        keep_last: experiment.checkpoint.keep_last,
    };
    let exact = is_same_machine(&detail, &start);
    let recorder = Recorder::resume(context.store()?, lease, &uid, &start, found.record.as_ref())?;
    context.announce(&uid, &detail.listing.name, &detail.listing.model, &start)?;
    Session {
        experiment: &experiment,
        resume: found.checkpoint,
        warnings: found.damaged,
        exact,
        profile: arguments.profile,
    }
    .train(&task, recorder, context)
}

/// Where a run goes on, and what was wrong with newer checkpoints.
#[derive(Default)]
struct Found {
    record: Option<CheckpointRecord>,
    checkpoint: Option<Checkpoint>,
    damaged: Vec<String>,
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
                found.damaged.push(format!("the checkpoint of step {} is not used: {error}", record.step + 1))
            }
        }
    }
    if found.damaged.is_empty() {
        return Ok(found);
    }
    Err(Error::failed(format!("no checkpoint of the run is sound:\n  {}", found.damaged.join("\n  "))))
}

/// Whether the run's first process had this build, processor and device.
fn is_same_machine(detail: &RunDetail, start: &Start) -> bool {
    let build = &detail.build;
    let same_build = build.git_sha == start.build.git_sha
        && build.rustc == start.build.rustc
        && build.features == start.build.features
        && build.lock_sha256 == start.build.lock_sha256
        && !build.dirty
        && !start.build.dirty;
    let same =
        |attempt: &crate::registry::run::Attempt| attempt.cpu == start.process.cpu && attempt.device == start.device;
    same_build && detail.attempts.first().is_some_and(same)
}
