//! The thread that keeps checkpoints: it makes, hashes and writes their files while training goes on.

use super::blob::{Blobs, Stored};
use super::store::NewCheckpoint;
use super::writer::{Message, Writer};
use crate::error::{Error, Result};
use crate::train::checkpoint::Snapshot;
use crate::train::event::Role;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long what is no longer kept may wait for others that are adding. Whoever prunes next takes it along.
const PRUNE_PATIENCE: Duration = Duration::from_millis(500);

/// A state, and what for.
pub(super) struct Job {
    pub step: u64,
    pub roles: Vec<Role>,
    pub snapshot: Arc<Snapshot>,
    /// The hash chain of the points up to it.
    pub metric_digest: [u8; 32],
}

/// The sending half, and the thread behind it. At most one job is under way.
#[derive(Debug)]
pub(super) struct Keeper {
    jobs: SyncSender<Job>,
    answers: Receiver<Answer>,
    is_busy: bool,
    kept: Vec<NewCheckpoint>,
    thread: JoinHandle<()>,
}

/// The checkpoints that the registry has now.
type Answer = Result<Vec<NewCheckpoint>, Trouble>;

/// Why a checkpoint was not kept.
#[derive(Debug)]
pub(super) enum Trouble {
    Failed(Error),
    /// The registry's thread has ended, and knows why.
    Unwritten,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Failed(error)
    }
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(blobs: Blobs, writer: &Writer) -> Result<Self> {
        let (jobs, inbox) = sync_channel::<Job>(1);
        let (sender, answers) = sync_channel(1);
        let registry = writer.sender();
        let work = move || {
            while let Ok(job) = inbox.recv() {
                let answer = keep(&job, &blobs, &registry);
                let kept = answer.is_ok();
                // The memory is free before the next snapshot may be taken.
                drop(job);
                if sender.send(answer).is_err() || !kept {
                    return;
                }
                // What is not removed now is removed by whoever prunes next.
                let _ = prune(&blobs, &registry);
            }
        };
        let thread = std::thread::Builder::new().name("checkpoints".to_owned()).spawn(work);
        let thread = thread.map_err(|error| Error::failed(format!("cannot start the checkpoints' thread: {error}")))?;
        Ok(Keeper { jobs, answers, is_busy: false, kept: Vec::new(), thread })
    }

    /// Waits until nothing is left to do.
    pub(super) fn end(mut self) -> Result<(), Trouble> {
        let settled = self.settle();
        drop(self.jobs);
        match self.thread.join() {
            Ok(()) => settled,
            Err(_) => Err(Trouble::Failed(Error::failed("the checkpoints' thread panicked"))),
        }
    }

    /// Hands a job over, once the one before is done.
    pub(super) fn keep(&mut self, job: Job) -> Result<(), Trouble> {
        self.settle()?;
        self.jobs.send(job).map_err(|_| Trouble::Unwritten)?;
        self.is_busy = true;
        Ok(())
    }

    /// Whether the job under way has failed; does not wait for it.
    pub(super) fn check(&mut self) -> Result<(), Trouble> {
        match self.is_busy.then(|| self.answers.try_recv()) {
            Some(Ok(answer)) => self.take(answer),
            _ => Ok(()),
        }
    }

    /// Waits until no job is under way.
    pub(super) fn settle(&mut self) -> Result<(), Trouble> {
        match self.is_busy.then(|| self.answers.recv()) {
            None => Ok(()),
            Some(Ok(answer)) => self.take(answer),
            Some(Err(_)) => Err(Trouble::Failed(Error::failed("the checkpoints' thread panicked"))),
        }
    }

    /// The checkpoints that the registry has got since the last time.
    pub(super) fn kept(&mut self) -> Vec<NewCheckpoint> {
        std::mem::take(&mut self.kept)
    }

    fn take(&mut self, answer: Answer) -> Result<(), Trouble> {
        self.is_busy = false;
        self.kept.extend(answer?);
        Ok(())
    }
}

fn keep(job: &Job, blobs: &Blobs, registry: &SyncSender<Message>) -> Answer {
    let _adding = blobs.guard()?;
    let mut checkpoints: Vec<NewCheckpoint> = Vec::new();
    for role in &job.roles {
        let (weights, state) = match checkpoints.first() {
            Some(first) if !job.snapshot.best_of_averages => (first.weights.clone(), first.state.clone()),
            _ => files(job, *role, blobs)?,
        };
        let (step, metric_digest) = (job.step, job.metric_digest);
        checkpoints.push(NewCheckpoint { step, role: *role, weights, state, metric_digest });
    }
    let (stored, answer) = sync_channel(1);
    let message = Message::Checkpoints { checkpoints: checkpoints.clone(), stored };
    registry.send(message).map_err(|_| Trouble::Unwritten)?;
    answer.recv().map_err(|_| Trouble::Unwritten)?;
    Ok(checkpoints)
}

fn files(job: &Job, role: Role, blobs: &Blobs) -> Result<(Stored, Stored)> {
    let (weights, state) = job.snapshot.files(role)?;
    Ok((blobs.put(&weights)?, blobs.put(&state)?))
}

/// Removes the blobs that no checkpoint names any more, where this registry alone uses the folder and nobody is adding
/// to it.
fn prune(blobs: &Blobs, registry: &SyncSender<Message>) -> Result<()> {
    if blobs.users()?.len() > 1 {
        return Ok(());
    }
    let Some(_alone) = blobs.alone(PRUNE_PATIENCE)? else { return Ok(()) };
    let (forgotten, answer) = sync_channel(1);
    if registry.send(Message::Prune { forgotten }).is_err() {
        return Ok(());
    }
    let names: Vec<String> = answer.recv().unwrap_or_default();
    names.iter().try_for_each(|sha256| blobs.remove(sha256))
}
