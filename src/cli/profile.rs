//! `run --profile`: where a run's time goes.

use super::table::{Align, Table};
use super::{Context, human};
use crate::error::Result;
use crate::train::event::Event;
use serde_json::{Map, json};
use std::time::{Duration, Instant};
use zoo::ops::profile::{Part, Pass};

/// Times the parts of a run as its events go by.
#[derive(Debug)]
pub(super) struct Profile {
    begun: Instant,
    /// When the last event had been dealt with.
    idle: Instant,
    steps: u64,
    data_wait: Duration,
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
            Event::Step { seconds: (_, waited), .. } => {
                self.steps += 1;
                self.data_wait += Duration::from_secs_f64(waited);
                self.recording += dealing;
            }
            Event::Evaluated { seconds, .. } => {
                self.evaluation += Duration::from_secs_f64(seconds);
                self.recording += dealing;
            }
            // Its state is copied since the event before it.
            Event::Checkpoint { .. } => self.checkpoint += self.idle - before,
            // A part of the evaluation's own seconds.
            Event::Evaluating { .. } => {}
            Event::Started { .. } | Event::Warning { .. } => self.recording += dealing,
        }
        result
    }

    /// The parts of the time up to now, of which `work` is known more closely.
    fn parts(&self, work: &[Part]) -> (Duration, Vec<(String, Duration)>) {
        let whole = self.begun.elapsed();
        let mut work = work.to_vec();
        work.sort_by_key(|part| (part.pass, std::cmp::Reverse(part.time)));
        let mut parts = vec![("data_wait".to_owned(), self.data_wait)];
        parts.extend(work.iter().map(|part| (name(part), part.time)));
        parts.extend(
            [("evaluation", self.evaluation), ("checkpoint", self.checkpoint), ("recording", self.recording)]
                .map(|(name, time)| (name.to_owned(), time)),
        );
        let known = parts.iter().map(|(_, time)| time).sum();
        parts.push(("other".to_owned(), whole.saturating_sub(known)));
        (whole, parts)
    }

    /// Prints a table, or the event `profile`. `work` is what the steps consisted of.
    ///
    /// # Errors
    /// Where standard output cannot be written.
    pub fn print(&self, work: &[Part], context: &mut Context) -> Result<()> {
        let (whole, parts) = self.parts(work);
        if context.json {
            let parts = parts.into_iter().map(|(name, time)| (name, json!(time.as_secs_f64())));
            return context.terminal.print_json_line(&json!({
                "event": "profile", "steps": self.steps, "seconds": whole.as_secs_f64(),
                "parts": parts.collect::<Map<_, _>>(),
            }));
        }
        let columns =
            [("part", Align::Left), ("seconds", Align::Right), ("ms a step", Align::Right), ("share", Align::Right)];
        let mut table = Table::new(&columns, &context.terminal);
        for (name, time) in parts.into_iter().chain([("all".to_owned(), whole)]) {
            let seconds = time.as_secs_f64();
            if seconds >= LEAST {
                table.row([
                    name.replace('_', " "),
                    format!("{seconds:.2}"),
                    format!("{:.2}", 1e3 * seconds / self.steps.max(1) as f64),
                    human::percent(seconds / whole.as_secs_f64()),
                ]);
            }
        }
        context.terminal.print("")?;
        context.terminal.print(&table.render())
    }
}

/// Seconds that a table shows as more than 0.
const LEAST: f64 = 0.005;

/// `convolution_data_gradient`, `norm_forward`, `optimizer`.
fn name(part: &Part) -> String {
    let pass = match part.pass {
        Pass::Forward => "forward",
        Pass::Recomputation => "recomputation",
        Pass::Backward => "backward",
        Pass::DataGradient => "data_gradient",
        Pass::WeightGradient => "weight_gradient",
        Pass::Update => return part.kind.to_owned(),
    };
    format!("{}_{pass}", part.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::checkpoint::Snapshot;
    use crate::train::event::Role;
    use std::sync::Arc;

    #[test]
    fn the_parts_are_those_of_the_events() {
        let mut profile = Profile::new();
        let step = |step| Event::Step { step, epoch: 0, samples: 1, metrics: &[], seconds: (3., 1.) };
        let snapshot = Arc::new(Snapshot::default());
        let events = [
            step(0),
            step(1),
            Event::Evaluating { done: (1, 2) },
            Event::Evaluated { step: 1, epoch: 0, metrics: &[], seconds: 5. },
            Event::Checkpoint { step: 1, roles: &[Role::Last], snapshot: &snapshot },
        ];
        for event in &events {
            profile.observe(event, || Ok(())).expect("nothing to fail");
        }
        let part = |kind, pass, seconds| Part { kind, pass, time: Duration::from_secs(seconds) };
        let work = [
            part("optimizer", Pass::Update, 1),
            part("norm", Pass::Forward, 2),
            part("convolution", Pass::DataGradient, 4),
            part("convolution", Pass::Forward, 3),
        ];
        let (_, parts) = profile.parts(&work);
        let parts: Vec<(&str, u64)> = parts.iter().map(|(name, time)| (name.as_str(), time.as_secs())).collect();
        assert_eq!(profile.steps, 2);
        assert_eq!(
            parts,
            [
                ("data_wait", 2),
                ("convolution_forward", 3),
                ("norm_forward", 2),
                ("convolution_data_gradient", 4),
                ("optimizer", 1),
                ("evaluation", 5),
                ("checkpoint", 0),
                ("recording", 0),
                ("other", 0),
            ]
        );
    }
}
