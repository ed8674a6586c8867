//! The thread that writes: training never waits for the disk, but where the queue is full or a checkpoint is due.

use super::blob::Stored;
use super::run::{Point, RunState};
use super::store::{Batch, Store, Working};
use crate::error::{Error, Result};
use crate::train::event::Role;
use serde_json::Value;
use sha2::{Digest, Sha256};
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
    Points(Vec<Point>),
    Warning { step: u64, message: String },
    Trained { samples: usize, seconds: f64, data_seconds: f64 },
    Checkpoint { step: u64, role: Role, weights: Stored, state: Stored, stored: SyncSender<()> },
    End { state: RunState, reason: Option<String> },
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
        let worker =
            Worker { inbox, store, run, batch: Batch::default(), digest, mismatches: 0, begun: Instant::now() };
        let thread = std::thread::Builder::new().name("registry".to_owned()).spawn(|| worker.work());
        let thread = thread.map_err(|error| Error::failed(format!("cannot start the registry's thread: {error}")))?;
        Ok(Writer { sender, thread: Some(thread) })
    }

    /// Queues a message. Where the thread has ended, its error comes back.
    pub(super) fn send(&mut self, message: Message) -> Result<()> {
        match self.sender.send(message) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.error()),
        }
    }

    /// Waits until the registry has the checkpoint.
    pub(super) fn checkpoint(&mut self, step: u64, role: Role, weights: Stored, state: Stored) -> Result<()> {
        let (stored, answer) = sync_channel(1);
        self.send(Message::Checkpoint { step, role, weights, state, stored })?;
        answer.recv().map_err(|_| self.error())
    }

    /// Ends the run; returns how many values of its past a resumed run did not reproduce.
    pub(super) fn end(mut self, state: RunState, reason: Option<String>) -> Result<u64> {
        self.send(Message::End { state, reason })?;
        self.join()
    }

    fn error(&mut self) -> Error {
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
    batch: Batch,
    digest: [u8; 32],
    mismatches: u64,
    begun: Instant,
}

impl Worker {
    fn work(mut self) -> Result<u64> {
        let mut flushed = Instant::now();
        loop {
            let pending = !self.batch.points.is_empty() || !self.batch.warnings.is_empty();
            let due = flushed + if pending { FLUSH_AFTER } else { HEARTBEAT };
            let message = match self.inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush()?;
                    return Ok(self.mismatches);
                }
            };
            match message {
                None => {}
                Some(Message::Plan(plan)) => self.store.plan(&self.run, &plan)?,
                Some(Message::Points(points)) => self.take(points),
                Some(Message::Warning { step, message }) => self.batch.warnings.push((step, message)),
                Some(Message::Trained { samples, seconds, data_seconds }) => {
                    self.batch.samples += samples as u64;
                    self.batch.step_seconds += seconds;
                    self.batch.data_seconds += data_seconds;
                }
                Some(Message::Checkpoint { step, role, weights, state, stored }) => {
                    self.stamp();
                    let (store, run) = (&mut self.store, &self.run);
                    self.mismatches += store.commit_checkpoint(run, &self.batch, step, role, &weights, &state)?;
                    self.written();
                    flushed = Instant::now();
                    // The sender may have given up; the checkpoint is stored all the same.
                    let _ = stored.send(());
                    self.store.prune()?;
                    continue;
                }
                Some(Message::End { state, reason }) => {
                    self.flush()?;
                    self.store.end_run(&self.run, state, reason.as_deref())?;
                    self.store.prune()?;
                    return Ok(self.mismatches);
                }
            }
            if self.batch.points.len() >= FLUSH_POINTS || Instant::now() >= due {
                self.flush()?;
                flushed = Instant::now();
            }
        }
    }

    fn take(&mut self, points: Vec<Point>) {
        for point in &points {
            let mut chain = Sha256::new();
            chain.update(self.digest);
            chain.update(point.metric.as_bytes());
            chain.update([0]);
            chain.update(point.step.to_le_bytes());
            chain.update(point.value.to_bits().to_le_bytes());
            self.digest = chain.finalize().into();
        }
        self.batch.points.extend(points);
    }

    fn flush(&mut self) -> Result<()> {
        self.stamp();
        self.mismatches += self.store.flush(&self.run, &self.batch)?;
        self.written();
        Ok(())
    }

    fn stamp(&mut self) {
        self.batch.seconds = self.begun.elapsed().as_secs_f64();
        self.batch.metric_digest = Some(self.digest);
    }

    fn written(&mut self) {
        self.batch.points.clear();
        self.batch.warnings.clear();
    }
}
