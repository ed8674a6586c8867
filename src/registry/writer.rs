//! The thread that writes: training never waits for the disk, but where the queue is full.

use super::run::{Point, RunState};
use super::spill::{Entry, Spill};
use super::store::{Batch, End, NewCheckpoint, Store, Working};
use crate::error::{Error, Result};
use serde_json::Value;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A kill -9 loses at most so much time of metrics, or so many points.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
const FLUSH_POINTS: usize = 1000;
/// A run with nothing to say still shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Messages in the queue before the sender waits.
const QUEUE: usize = 256;

pub(super) enum Message {
    Plan(Value),
    /// Points, and the hash chain that they end.
    Points(Vec<Point>, [u8; 32]),
    /// Points that no replay reproduces, and that are no part of the hash chain.
    Measured(Vec<Point>),
    Warning {
        step: u64,
        message: String,
    },
    Trained {
        samples: usize,
        seconds: f64,
        data_seconds: f64,
    },
    /// Checkpoints whose blobs are stored, and whom to tell that the registry has them.
    Checkpoints {
        checkpoints: Vec<NewCheckpoint>,
        stored: SyncSender<()>,
    },
    /// Forget the blobs that no checkpoint names, and say which.
    Prune {
        forgotten: SyncSender<Vec<String>>,
    },
    End(End),
}

/// The sending half, and the thread behind it.
#[derive(Debug)]
pub(super) struct Writer {
    sender: SyncSender<Message>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Writer {
    /// Starts the thread. `digest` is the hash chain of the points before the first one that comes.
    pub(super) fn start(store: Store, run: Working, digest: [u8; 32]) -> Result<Self> {
        let (sender, inbox) = sync_channel(QUEUE);
        let spill = Spill::of(&store.location().run_folder(&run.uid));
        let batch = Batch { metric_digest: Some(digest), ..Batch::default() };
        let worker = Worker { inbox, store, run, spill, batch, mismatches: 0, begun: Instant::now() };
        let thread = std::thread::Builder::new().name("registry".to_owned()).spawn(|| worker.work());
        let thread = thread.map_err(|error| Error::failed(format!("cannot start the registry's thread: {error}")))?;
        Ok(Writer { sender, thread: Some(thread) })
    }

    /// For other threads that have something to write.
    pub(super) fn sender(&self) -> SyncSender<Message> {
        self.sender.clone()
    }

    /// Queues a message. Where the thread has ended, its error comes back.
    pub(super) fn send(&mut self, message: Message) -> Result<()> {
        match self.sender.send(message) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.error()),
        }
    }

    /// Ends the run; returns how many values of its past a resumed run did not reproduce.
    pub(super) fn end(mut self, state: RunState, reason: Option<String>) -> Result<u64> {
        self.send(Message::End(End { state, reason }))?;
        self.join()
    }

    /// Why the thread has ended.
    pub(super) fn error(&mut self) -> Error {
        match self.join() {
            Err(error) => error,
            Ok(_) => Error::failed("the registry stopped writing"),
        }
    }

    fn join(&mut self) -> Result<u64> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::failed("the registry's thread panicked")),
            None => Err(Error::failed("the registry stopped writing before")),
        }
    }
}

struct Worker {
    inbox: Receiver<Message>,
    store: Store,
    run: Working,
    spill: Spill,
    batch: Batch,
    mismatches: u64,
    begun: Instant,
}

impl Worker {
    fn work(mut self) -> Result<u64> {
        let mut flushed = Instant::now();
        loop {
            let due = flushed + if self.has_news() { FLUSH_AFTER } else { HEARTBEAT };
            let message = match self.inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush()?;
                    return Ok(self.mismatches);
                }
            };
            let mut is_due = Instant::now() >= due;
            let mut stored = None;
            match message {
                None => {}
                Some(Message::Plan(plan)) => self.batch.plan = Some(plan),
                Some(Message::Points(points, digest)) => {
                    self.batch.points.extend(points);
                    self.batch.metric_digest = Some(digest);
                    is_due |= self.batch.points.len() >= FLUSH_POINTS;
                }
                Some(Message::Measured(points)) => self.batch.points.extend(points),
                Some(Message::Warning { step, message }) => self.batch.warnings.push((step, message)),
                Some(Message::Trained { samples, seconds, data_seconds }) => {
                    self.batch.samples += samples as u64;
                    self.batch.step_seconds += seconds;
                    self.batch.data_seconds += data_seconds;
                }
                Some(Message::Checkpoints { checkpoints, stored: whom }) => {
                    self.batch.checkpoints = checkpoints;
                    (stored, is_due) = (Some(whom), true);
                }
                Some(Message::Prune { forgotten }) => {
                    // Whoever asked may have given up; then the files stay for `gc`.
                    let _ = forgotten.send(self.store.forget_unreferenced()?);
                }
                Some(Message::End(end)) => {
                    self.batch.end = Some(end);
                    self.flush()?;
                    return self.finish();
                }
            }
            if is_due {
                self.flush()?;
                flushed = Instant::now();
            }
            // The checkpoint is stored also where whoever sent it has given up.
            let _ = stored.map(|whom| whom.send(()));
        }
    }

    fn has_news(&self) -> bool {
        let batch = &self.batch;
        !batch.points.is_empty() || !batch.warnings.is_empty() || batch.plan.is_some()
    }

    /// Writes the batch, into the spill file where others keep the registry locked.
    fn flush(&mut self) -> Result<()> {
        self.batch.seconds = self.begun.elapsed().as_secs_f64();
        // What was spilled comes first. Somebody who waited in vain once does not wait again.
        let was_spilled = self.spill.exists();
        let is_free = !was_spilled || self.restore(false)?;
        let written = if is_free { self.store.try_flush(&self.run, &self.batch, !was_spilled)? } else { None };
        match written {
            Some(mismatches) => self.mismatches += mismatches,
            None => self.spill.append(&Entry::new(&self.run, &self.batch))?,
        }
        self.batch.points.clear();
        self.batch.warnings.clear();
        self.batch.checkpoints.clear();
        self.batch.plan = None;
        Ok(())
    }

    /// Stores what was spilled; false where the registry is still locked.
    fn restore(&mut self, patient: bool) -> Result<bool> {
        let restored = self.spill.restore(&mut self.store, &self.run.uid, patient)?;
        self.mismatches += restored.map_or(0, |(_, mismatches)| mismatches);
        Ok(restored.is_some())
    }

    fn finish(mut self) -> Result<u64> {
        if self.spill.exists() && !self.restore(true)? {
            let location = self.store.location();
            let (blocked, freed) = location.blocked();
            return Err(Error::failed(format!(
                "{location} is {blocked}; what it lacks of the run lies in {}: once {freed}, `resnet-zoo gc` stores it",
                self.spill.path().display()
            )));
        }
        self.store.close()?;
        Ok(self.mismatches)
    }
}
