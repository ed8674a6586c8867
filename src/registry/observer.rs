//! Records a run: an observer of the training loop.

use super::blob::Blobs;
use super::lease::Lease;
use super::run::{CheckpointRecord, NewRun, Point, RunState};
use super::store::{Start, Store};
use super::writer::{Message, Writer};
use crate::error::Result;
use crate::train::event::{Event, Observer};
use serde_json::json;

/// The record of a run that this process works on. Dropped without [`end`](Self::end), the run is shown as crashed.
#[derive(Debug)]
pub struct Recorder {
    writer: Writer,
    blobs: Blobs,
    uid: String,
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
        let blobs = store.blobs().clone();
        Ok(Recorder { writer: Writer::start(store, working, [0; 32])?, blobs, uid: uid.to_owned(), lease })
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
        let digest = from.map_or([0; 32], |checkpoint| checkpoint.metric_digest);
        let blobs = store.blobs().clone();
        Ok(Recorder { writer: Writer::start(store, working, digest)?, blobs, uid: uid.to_owned(), lease })
    }

    /// The run's id.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Ends the record. Returns how many values of its past a resumed run did not reproduce bit for bit.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    pub fn end(self, state: RunState, reason: Option<String>) -> Result<u64> {
        self.writer.end(state, reason)
    }

    fn points(&mut self, step: u64, metrics: &[(&str, f64)]) -> Result<()> {
        let point = |(name, value): &(&str, f64)| Point { metric: (*name).to_owned(), step, value: *value };
        self.writer.send(Message::Points(metrics.iter().map(point).collect()))
    }
}

impl Observer for Recorder {
    fn observe(&mut self, event: &Event<'_>) -> Result<()> {
        match *event {
            Event::Started { steps, steps_per_epoch, samples, params, .. } => self.writer.send(Message::Plan(json!({
                "steps": steps,
                "steps_per_epoch": steps_per_epoch,
                "train_samples": samples.0,
                "val_samples": samples.1,
                "params": params.0,
                "trained_params": params.1,
            }))),
            Event::Step { step, samples, metrics, seconds: (seconds, data_seconds), .. } => {
                self.points(step, metrics)?;
                self.writer.send(Message::Trained { samples, seconds, data_seconds })
            }
            Event::Evaluating { .. } => Ok(()),
            Event::Evaluated { step, metrics, .. } => self.points(step, metrics),
            Event::Checkpoint { step, role, weights, state } => {
                let _adding = self.blobs.guard()?;
                let (weights, state) = (self.blobs.put(weights)?, self.blobs.put(state)?);
                self.writer.checkpoint(step, role, weights, state)
            }
            Event::Warning { step, message } => {
                self.writer.send(Message::Warning { step, message: message.to_owned() })
            }
        }
    }
}
