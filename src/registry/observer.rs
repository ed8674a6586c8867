//! Records a run: an observer of the training loop.

use super::keeper::{Job, Keeper, Trouble};
use super::lease::Lease;
use super::run::{CheckpointRecord, NewRun, Point, RunState};
use super::store::{NewCheckpoint, Start, Store, Working};
use super::system::Sampler;
use super::writer::{Message, Writer};
use crate::error::{Error, Result};
use crate::train::event::{Event, Observer};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The record of a run that this process works on. Dropped without [`end`](Self::end), the run is shown as crashed.
#[derive(Debug)]
pub struct Recorder {
    writer: Writer,
    keeper: Keeper,
    /// The hash chain over all points so far.
    digest: [u8; 32],
    uid: String,
    sampler: Option<Sampler>,
    #[expect(dead_code, reason = "held as long as the run is worked on")]
    lease: Lease,
}

impl Recorder {
    /// Creates the run `uid` and begins to record it.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    pub fn create(mut store: Store, uid: &str, run: &NewRun, start: &Start) -> Result<Self> {
        let lease = Lease::take(&store.location().run_folder(uid))?;
        let working = store.create_run(uid, run, start)?;
        Self::start(store, lease, working, [0; 32])
    }

    /// Goes on with a run after the checkpoint `from`, or from its start. The lease was taken before the checkpoint
    /// was chosen, so that nobody else goes on from it.
    ///
    /// # Errors
    /// Where the run is completed, or where the registry cannot be written.
    pub fn resume(
        mut store: Store,
        lease: Lease,
        uid: &str,
        start: &Start,
        from: Option<&CheckpointRecord>,
    ) -> Result<Self> {
        let working = store.resume_run(uid, start, from.map(|checkpoint| checkpoint.step))?;
        Self::start(store, lease, working, from.map_or([0; 32], |checkpoint| checkpoint.metric_digest))
    }

    fn start(store: Store, lease: Lease, run: Working, digest: [u8; 32]) -> Result<Self> {
        let (uid, blobs) = (run.uid.clone(), store.blobs().clone());
        let writer = Writer::start(store, run, digest)?;
        let keeper = Keeper::start(blobs, &writer)?;
        Ok(Recorder { writer, keeper, digest, uid, sampler: None, lease })
    }

    /// Records what this process takes of its machine, as `system.*`, from now on.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn watch_system(&mut self) -> Result<()> {
        self.sampler = Some(Sampler::start(self.writer.sender())?);
        Ok(())
    }

    /// The run's id.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The checkpoints that are on the disk, with all metrics up to them, and were not when this was asked last.
    pub fn kept(&mut self) -> Vec<NewCheckpoint> {
        self.keeper.kept()
    }

    /// Waits until every checkpoint that was observed is on the disk.
    ///
    /// # Errors
    /// Where one could not be written.
    pub fn settle(&mut self) -> Result<()> {
        let settled = self.keeper.settle();
        settled.map_err(|trouble| self.explain(trouble))
    }

    /// Ends the record, after [`settle`](Self::settle). Returns how many values of its past a resumed run did not
    /// reproduce bit for bit.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    pub fn end(mut self, state: RunState, reason: Option<String>) -> Result<u64> {
        if let Some(sampler) = self.sampler.take() {
            sampler.end();
        }
        match self.keeper.end() {
            Ok(()) => self.writer.end(state, reason),
            Err(Trouble::Failed(error)) => Err(error),
            Err(Trouble::Unwritten) => Err(self.writer.error()),
        }
    }

    fn points(&mut self, step: u64, metrics: &[(&str, f64)]) -> Result<()> {
        let mut points = Vec::with_capacity(metrics.len());
        for (name, value) in metrics {
            let mut chain = Sha256::new();
            chain.update(self.digest);
            chain.update(name.as_bytes());
            chain.update([0]);
            chain.update(step.to_le_bytes());
            chain.update(value.to_bits().to_le_bytes());
            self.digest = chain.finalize().into();
            points.push(Point { metric: (*name).to_owned(), step, value: *value });
        }
        self.writer.send(Message::Points(points, self.digest))
    }

    fn explain(&mut self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Failed(error) => error,
            Trouble::Unwritten => self.writer.error(),
        }
    }
}

impl Observer for Recorder {
    fn make_room(&mut self) -> Result<()> {
        self.settle()
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<()> {
        let checked = self.keeper.check();
        checked.map_err(|trouble| self.explain(trouble))?;
        match *event {
            Event::Started { steps, steps_per_epoch, samples, params, macs, .. } => {
                self.writer.send(Message::Plan(json!({
                    "steps": steps,
                    "steps_per_epoch": steps_per_epoch,
                    "train_samples": samples.0,
                    "val_samples": samples.1,
                    "params": params.0,
                    "trained_params": params.1,
                    "macs": macs,
                })))
            }
            Event::Step { step, samples, metrics, seconds: (seconds, data_seconds), .. } => {
                self.points(step, metrics)?;
                if let Some(sampler) = &self.sampler {
                    sampler.stepped(step, samples, seconds, data_seconds);
                }
                self.writer.send(Message::Trained { samples, seconds, data_seconds })
            }
            Event::Evaluating { .. } => Ok(()),
            Event::Evaluated { step, metrics, .. } => self.points(step, metrics),
            Event::Checkpoint { step, roles, snapshot } => {
                let (roles, snapshot) = (roles.to_vec(), Arc::clone(snapshot));
                let handed = self.keeper.keep(Job { step, roles, snapshot, metric_digest: self.digest });
                handed.map_err(|trouble| self.explain(trouble))
            }
            Event::Warning { step, message } => {
                self.writer.send(Message::Warning { step, message: message.to_owned() })
            }
        }
    }
}
