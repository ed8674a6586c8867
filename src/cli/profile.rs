//! `run --profile`: where a run's time goes.

use super::table::{Align, Table};
use super::{Context, human};
use crate::error::Result;
use crate::train::event::Event;
use crate::train::task::{Loss, Metrics, Task};
use serde_json::{Map, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zoo::params::Params;

/// Times the parts of a run as its events go by.
#[derive(Debug)]
pub(super) struct Profile {
    begun: Instant,
    /// When the last event had been dealt with.
    idle: Instant,
    steps: u64,
    data_wait: Duration,
    /// Steps, waiting for data not included.
    stepping: Duration,
    evaluation: Duration,
    checkpoint: Duration,
    /// What the registry and the screen took.
    recording: Duration,
}

impl Profile {
    /// The run begins now.
    pub fn new() -> Self {
        let now = Instant::now();
        let none = Duration::ZERO;
        Profile {
            begun: now,
            idle: now,
            steps: 0,
            data_wait: none,
            stepping: none,
            evaluation: none,
            checkpoint: none,
            recording: none,
        }
    }

    /// Takes note of an event, and of how long `observe` takes to deal with it.
    ///
    /// # Errors
    /// That of `observe`.
    pub fn observe(&mut self, event: &Event<'_>, observe: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.idle;
        let arrived = Instant::now();
        let result = observe();
        self.idle = Instant::now();
        let dealing = self.idle - arrived;
        match *event {
            Event::Step { seconds: (seconds, waited), .. } => {
                self.steps += 1;
                self.data_wait += Duration::from_secs_f64(waited);
                self.stepping += Duration::from_secs_f64((seconds - waited).max(0.));
                self.recording += dealing;
            }
            Event::Evaluated { seconds, .. } => {
                self.evaluation += Duration::from_secs_f64(seconds);
                self.recording += dealing;
            }
            // Its bytes are made since the event before it.
            Event::Checkpoint { .. } => self.checkpoint += self.idle - before,
            // A part of the evaluation's own seconds.
            Event::Evaluating { .. } => {}
            Event::Started { .. } | Event::Warning { .. } => self.recording += dealing,
        }
        result
    }

    /// The parts of the time up to now, of which the forward passes took `forward`.
    fn parts(&self, forward: Duration) -> (Duration, [(&'static str, Duration); 7]) {
        let whole = self.begun.elapsed();
        let known = self.data_wait + self.stepping + self.evaluation + self.checkpoint + self.recording;
        let parts = [
            ("data_wait", self.data_wait),
            ("forward", forward),
            ("backward_and_optimizer", self.stepping.saturating_sub(forward)),
            ("evaluation", self.evaluation),
            ("checkpoint", self.checkpoint),
            ("recording", self.recording),
            ("other", whole.saturating_sub(known)),
        ];
        (whole, parts)
    }

    /// Prints a table, or the event `profile`.
    ///
    /// # Errors
    /// Where standard output cannot be written.
    pub fn print(&self, forward: Duration, context: &mut Context) -> Result<()> {
        let (whole, parts) = self.parts(forward);
        if context.json {
            let parts = parts.into_iter().map(|(name, time)| (name.to_owned(), json!(time.as_secs_f64())));
            return context.terminal.print_json_line(&json!({
                "event": "profile", "steps": self.steps, "seconds": whole.as_secs_f64(),
                "parts": parts.collect::<Map<_, _>>(),
            }));
        }
        let columns =
            [("part", Align::Left), ("seconds", Align::Right), ("ms a step", Align::Right), ("share", Align::Right)];
        let mut table = Table::new(&columns, &context.terminal);
        for (name, time) in parts.into_iter().chain([("all", whole)]) {
            let seconds = time.as_secs_f64();
            table.row([
                name.replace('_', " "),
                format!("{seconds:.2}"),
                format!("{:.2}", 1e3 * seconds / self.steps.max(1) as f64),
                human::percent(seconds / whole.as_secs_f64()),
            ]);
        }
        context.terminal.print("")?;
        context.terminal.print(&table.render())
    }
}

/// A task whose forward passes are timed.
pub(super) struct Timed<'a, T> {
    task: &'a T,
    nanoseconds: AtomicU64,
}

impl<'a, T> Timed<'a, T> {
    pub fn new(task: &'a T) -> Self {
        Timed { task, nanoseconds: AtomicU64::new(0) }
    }

    /// What all training forward passes took, the loss included.
    pub fn forward(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }
}

impl<T: Task> Task for Timed<'_, T> {
    type Batch = T::Batch;

    fn params(&self) -> &Params {
        self.task.params()
    }

    fn samples(&self) -> (usize, usize) {
        self.task.samples()
    }

    fn batches_per_epoch(&self) -> usize {
        self.task.batches_per_epoch()
    }

    fn data_sha256(&self) -> &str {
        self.task.data_sha256()
    }

    fn warnings(&self) -> &[String] {
        self.task.warnings()
    }

    fn batches(&self, epoch: u64, first: usize) -> Result<impl Iterator<Item = Result<Self::Batch>>> {
        self.task.batches(epoch, first)
    }

    fn loss(&self, batch: &Self::Batch) -> Result<Loss> {
        let begun = Instant::now();
        let loss = self.task.loss(batch);
        let nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        loss
    }

    fn evaluate(&self, proceed: &mut dyn FnMut(usize) -> Result<bool>) -> Result<Option<Metrics>> {
        self.task.evaluate(proceed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::event::Role;

    #[test]
    fn the_parts_are_those_of_the_events() {
        let mut profile = Profile::new();
        let step = |step| Event::Step { step, epoch: 0, samples: 1, metrics: &[], seconds: (3., 1.) };
        let events = [
            step(0),
            step(1),
            Event::Evaluating { done: (1, 2) },
            Event::Evaluated { step: 1, epoch: 0, metrics: &[], seconds: 5. },
            Event::Checkpoint { step: 1, role: Role::Last, weights: &[], state: &[] },
        ];
        for event in &events {
            profile.observe(event, || Ok(())).expect("nothing to fail");
        }
        let (_, parts) = profile.parts(Duration::from_secs(1));
        let seconds = |wanted: &str| parts.iter().find(|(name, _)| *name == wanted).map(|(_, time)| time.as_secs());
        assert_eq!((profile.steps, seconds("data_wait"), seconds("forward")), (2, Some(2), Some(1)));
        assert_eq!((seconds("backward_and_optimizer"), seconds("evaluation")), (Some(3), Some(5)));
    }
}
