//! What a person sees of a run: a live bar on a terminal, one line an evaluation everywhere, JSON lines for programs.

use super::terminal::Terminal;
use super::{expected, human};
use crate::error::Result;
use crate::registry::store::{Disagreement, NewCheckpoint};
use crate::train::event::{Event, Observer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::time::Duration;

/// An observer that shows a run.
pub(super) struct Progress<'a> {
    terminal: &'a mut Terminal,
    json: bool,
    bar: Option<ProgressBar>,
    steps: u64,
    steps_per_epoch: u64,
    /// Since the last evaluation.
    recent: Recent,
    /// Images a second, smoothed over about 20 steps.
    speed: f64,
}

/// What training did since the last evaluation.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    samples: f64,
    loss: f64,
    top1: f64,
    seconds: f64,
    data_seconds: f64,
}

impl<'a> Progress<'a> {
    pub fn new(terminal: &'a mut Terminal, json: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            let template = "{prefix} {bar:20} {pos}/{len} steps  {msg}  {elapsed} elapsed, {eta} left";
            bar.set_style(ProgressStyle::with_template(template).expect("a fixed template").progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Progress { terminal, json, bar, steps: 0, steps_per_epoch: 1, recent: Recent::default(), speed: 0.0 }
    }

    /// Prints a line for a person, above the bar.
    fn line(&mut self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let terminal = &mut *self.terminal;
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal.print(text)),
            None => terminal.print(text),
        }
    }

    fn stepped(&mut self, step: u64, samples: usize, metrics: &[(&str, f64)], seconds: f64, data_seconds: f64) {
        let value = |wanted: &str| metrics.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let (loss, top1) = (value("train.loss"), value("train.top1"));
        let samples = samples as f64;
        self.recent.samples += samples;
        self.recent.loss += samples * loss.unwrap_or(f64::NAN);
        self.recent.top1 += samples * top1.unwrap_or(f64::NAN);
        self.recent.seconds += seconds;
        self.recent.data_seconds += data_seconds;
        if seconds > 0.0 {
            let now = samples / seconds;
            self.speed = if self.speed == 0.0 { now } else { 0.95 * self.speed + 0.05 * now };
        }
        let Some(bar) = &self.bar else { return };
        let mut message = format!("loss {:.4}", loss.unwrap_or(f64::NAN));
        if let Some(top1) = top1 {
            message += &format!("  top1 {}", human::percent(top1));
        }
        if let Some(lr) = value("optim.lr") {
            message += &format!("  lr {lr:.2e}");
        }
        message += &format!("  {:.0} img/s", self.speed);
        if self.recent.seconds > 0.0 {
            message += &format!("  data wait {:.0} %", 100.0 * self.recent.data_seconds / self.recent.seconds);
        }
        bar.set_prefix(self.epoch(step));
        bar.set_message(message);
        bar.set_position(step + 1);
    }

    /// `epoch 2/3`, counted from 1.
    fn epoch(&self, step: u64) -> String {
        format!("epoch {}/{}", step / self.steps_per_epoch + 1, self.steps.div_ceil(self.steps_per_epoch))
    }

    fn evaluated(&mut self, step: u64, metrics: &[(&str, f64)], seconds: f64) -> Result<()> {
        let recent = std::mem::take(&mut self.recent);
        let mut text = format!("{}  step {:>5}/{}", self.epoch(step), step + 1, self.steps);
        if recent.samples > 0.0 {
            text += &format!("  train loss {}", human::metric("train.loss", Some(recent.loss / recent.samples)));
            if !recent.top1.is_nan() {
                text += &format!(" top1 {}", human::percent(recent.top1 / recent.samples));
            }
        }
        let mut group = "";
        for (name, value) in metrics {
            let (prefix, short) = name.split_once('.').unwrap_or(("", name));
            if prefix != group {
                text += &format!("  {prefix}");
                group = prefix;
            }
            text += &format!(" {short} {}", human::metric(name, Some(*value)));
        }
        if recent.seconds > 0.0 {
            text += &format!("  {:.0} img/s", recent.samples / recent.seconds);
        }
        text += &format!("  evaluated in {}", human::duration(seconds));
        self.line(&text)
    }
}

impl Progress<'_> {
    /// Says that a checkpoint is on the disk.
    ///
    /// # Errors
    /// Where standard output cannot be written.
    pub fn kept(&mut self, checkpoint: &NewCheckpoint) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        self.terminal.print_json_line(&json!({
            "event": "checkpoint", "step": checkpoint.step, "role": checkpoint.role,
            "weights_bytes": checkpoint.weights.bytes, "state_bytes": checkpoint.state.bytes,
        }))
    }

    /// Says that a run does not repeat another one any more.
    ///
    /// # Errors
    /// Where standard output cannot be written.
    pub fn differs(&mut self, first: &Disagreement) -> Result<()> {
        if self.json {
            let Disagreement { step, metric, a, b } = first;
            let line = json!({"event": "differs", "step": step, "metric": metric, "a": a, "b": b});
            return self.terminal.print_json_line(&line);
        }
        self.line(&format!("differs {}; it goes on, Ctrl-C ends it", expected::at(first)))
    }
}

impl Observer for Progress<'_> {
    fn observe(&mut self, event: &Event<'_>) -> Result<()> {
        if self.json
            && let Some(object) = event_json(event)
        {
            self.terminal.print_json_line(&object)?;
        }
        match *event {
            Event::Started { first_step, steps, steps_per_epoch, samples, params, macs } => {
                (self.steps, self.steps_per_epoch) = (steps, steps_per_epoch.max(1));
                if let Some(bar) = &self.bar {
                    bar.set_length(steps);
                    bar.set_position(first_step);
                    bar.reset_eta();
                }
                let trained = match params.0 == params.1 {
                    true => String::new(),
                    false => format!(", {} of them trained", human::count(params.1 as u64)),
                };
                let macs = macs.map_or_else(String::new, |macs| format!(", {} MACs a sample", human::count(macs)));
                let resumed = if first_step > 0 { format!(" from step {first_step}") } else { String::new() };
                self.line(&format!(
                    "{} parameters{trained}{macs}; {} training and {} validation samples; {steps} steps{resumed}, {steps_per_epoch} an epoch",
                    human::count(params.0 as u64),
                    samples.0,
                    samples.1
                ))
            }
            Event::Step { step, samples, metrics, seconds: (seconds, data_seconds), .. } => {
                self.stepped(step, samples, metrics, seconds, data_seconds);
                Ok(())
            }
            Event::Evaluating { done: (done, all) } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("evaluating {done}/{all}"));
                }
                Ok(())
            }
            Event::Evaluated { step, metrics, seconds, .. } => self.evaluated(step, metrics, seconds),
            Event::Checkpoint { .. } => Ok(()),
            Event::Warning { step, message } => self.line(&format!("warning at step {}: {message}", step + 1)),
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The JSON line of an event; none for the progress of an evaluation, and for a checkpoint that is not on the disk yet. Steps count from 0, NaN is `null`.
fn event_json(event: &Event<'_>) -> Option<Value> {
    let object = |metrics: &[(&str, f64)]| {
        metrics.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Map<_, _>>()
    };
    Some(match *event {
        Event::Started { first_step, steps, steps_per_epoch, samples, params, macs } => json!({
            "event": "started", "first_step": first_step, "steps": steps, "steps_per_epoch": steps_per_epoch,
            "train_samples": samples.0, "val_samples": samples.1, "params": params.0, "trained_params": params.1, "macs": macs,
        }),
        Event::Step { step, epoch, samples, metrics, seconds } => json!({
            "event": "step", "step": step, "epoch": epoch, "samples": samples, "metrics": object(metrics),
            "seconds": seconds.0, "data_seconds": seconds.1,
        }),
        Event::Evaluating { .. } | Event::Checkpoint { .. } => return None,
        Event::Evaluated { step, epoch, metrics, seconds } => json!({
            "event": "evaluated", "step": step, "epoch": epoch, "metrics": object(metrics), "seconds": seconds,
        }),
        Event::Warning { step, message } => json!({"event": "warning", "step": step, "message": message}),
    })
}
