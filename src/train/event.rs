//! What a training run tells the outside. `train` knows no console, no SQL: it hands each [`Event`]
//! to an [`Observer`], and whoever listens never touches the loop.

use crate::error::Result;
use crate::train::checkpoint::Snapshot;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Something that happened, in order. Steps count optimizer steps from 0; a metric's name is
/// `train.*`, `val.*` or `optim.*`, rates lie between 0 and 1, times are in seconds.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The loop is about to take its first step, or the first one after a resume.
    Started {
        /// The step that comes first: 0, or more after a resume.
        first_step: u64,
        /// Optimizer steps of the whole run.
        steps: u64,
        /// Optimizer steps of one epoch.
        steps_per_epoch: u64,
        /// Training and validation samples.
        samples: (usize, usize),
        /// All parameters, and those that are trained.
        params: (usize, usize),
        /// Multiply-accumulates of one sample, where they are known.
        macs: Option<u64>,
    },
    /// An optimizer step was taken.
    Step {
        /// Which, from 0.
        step: u64,
        /// The epoch it belongs to, from 0.
        epoch: u64,
        /// Samples in it.
        samples: usize,
        /// `train.loss`, `train.top1`, `optim.lr`, `optim.grad_norm`: a pure function of config, seed and build.
        metrics: &'a [(&'a str, f64)],
        /// Seconds the step took, and of these the seconds it waited for data. Not reproducible, so not metrics.
        seconds: (f64, f64),
    },
    /// Samples of a running evaluation, for progress.
    Evaluating {
        /// Samples done and samples in all.
        done: (usize, usize),
    },
    /// An evaluation ended.
    Evaluated {
        /// The step after which it ran.
        step: u64,
        /// The epoch of that step.
        epoch: u64,
        /// `val.loss`, `val.top1`, `val.top5`, with EMA also `val_ema.*`.
        metrics: &'a [(&'a str, f64)],
        /// Seconds it took.
        seconds: f64,
    },
    /// The state after a step, for the observer to keep. It is a copy: training goes on while it is written.
    Checkpoint {
        /// The last step that is in it.
        step: u64,
        /// What for: one or both, each once.
        roles: &'a [Role],
        /// The state.
        snapshot: &'a Arc<Snapshot>,
    },
    /// Something a person should read, and that the registry keeps.
    Warning {
        /// The step at which it happened.
        step: u64,
        /// What.
        message: &'a str,
    },
}

/// What a checkpoint is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The newest.
    Last,
    /// The best by the experiment's metric.
    Best,
}

impl Role {
    /// `last` or `best`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Last => "last",
            Role::Best => "best",
        }
    }
}

/// Listens to a run.
pub trait Observer {
    /// Takes note of an event. What it returns as an error ends the run.
    ///
    /// # Errors
    /// Where the event cannot be kept: a full disk, a run that another process took over.
    fn observe(&mut self, event: &Event<'_>) -> Result<()>;

    /// Comes before a state is copied: waits until the copy before is no longer needed, so that there is one at a time.
    ///
    /// # Errors
    /// Where that one could not be kept.
    fn make_room(&mut self) -> Result<()> {
        Ok(())
    }
}
