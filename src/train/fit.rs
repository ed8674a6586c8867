//! The training loop.

use crate::error::{Error, Result};
use crate::experiment::{Experiment, Length, ScheduleShape};
use crate::train::checkpoint::{Best, Checkpoint, Patience, Progress, Snapshot};
use crate::train::ema::Ema;
use crate::train::event::{Event, Observer, Role};
use crate::train::exact::Exact;
use crate::train::optimizer::{Optimizer, Parameter, decays, layer_scales};
use crate::train::schedule::{Course, Plateau, learning_rate};
use crate::train::step::{StepOptions, StepReport, train_step};
use crate::train::task::Task;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;
use zoo::ops::profile;
use zoo::random::ForwardKey;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Optimizer steps taken, those before a resume included.
    pub steps: u64,
    /// The metrics of the last evaluation: `val.top1`.
    pub metrics: BTreeMap<String, f64>,
    /// The best value of the experiment's metric, and the last step before it.
    pub best: Option<(f64, u64)>,
    /// Whether it ended before its time because a metric no longer got better.
    pub stopped_early: bool,
}

/// Trains until the experiment's end, and tells `observer` what happens. `resume` goes on after a checkpoint of
/// the same experiment, and gives the same bits as if nothing had interrupted the run. `stop` becomes a signal's
/// number when the run should stop: the step is finished, a checkpoint is emitted.
///
/// # Errors
/// [`Error::Failed`] for a loss or gradient that is not finite, [`Error::Interrupted`] after a stop, and the
/// observer's own errors.
pub fn fit<T: Task>(
    task: &T,
    experiment: &Experiment,
    resume: Option<Checkpoint>,
    stop: &AtomicI32,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    Run::begin(task, experiment, resume, stop, observer)?.train()
}

/// Everything that a step may change, and what it is measured against.
struct Run<'a, T> {
    task: &'a T,
    experiment: &'a Experiment,
    experiment_sha256: String,
    course: Course,
    optimizer: Optimizer,
    ema: Option<Ema>,
    progress: Progress,
    /// Whether it goes on after a checkpoint.
    resumed: bool,
    /// Whether the last step was followed by the best evaluation so far, which is still to be saved.
    improved: bool,
    stop: &'a AtomicI32,
    observer: &'a mut dyn Observer,
}

impl<'a, T: Task> Run<'a, T> {
    fn begin(
        task: &'a T,
        experiment: &'a Experiment,
        resume: Option<Checkpoint>,
        stop: &'a AtomicI32,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let steps_per_epoch = task.batches_per_epoch().div_ceil(experiment.accumulate) as u64;
        let steps = Course { steps: 0, steps_per_epoch }.steps_of(experiment.length);
        let mut run = Run {
            task,
            experiment,
            experiment_sha256: experiment.sha256(),
            course: Course { steps, steps_per_epoch },
            optimizer: Optimizer::new(experiment.optimizer.clone(), parameters(task, experiment)),
            ema: None,
            progress: Progress {
                steps: 0,
                evaluation_due: false,
                metrics: BTreeMap::new(),
                best: None,
                patience: Patience::default(),
                plateau: Plateau::default(),
            },
            resumed: resume.is_some(),
            improved: false,
            stop,
            observer,
        };
        if let Some(checkpoint) = &resume {
            task.params().set_state_dict(&checkpoint.weights).map_err(|error| Error::input(error.to_string()))?;
            run.optimizer.restore(&checkpoint.optimizer, checkpoint.progress.steps)?;
            run.progress = checkpoint.progress.clone();
        }
        if let Some(options) = &experiment.ema {
            let mut ema = Ema::new(options.clone(), &task.params().trainable(), &task.params().buffers())?;
            if let Some(checkpoint) = &resume {
                ema.restore(&checkpoint.ema)?;
            }
            run.ema = Some(ema);
        }
        run.observer.observe(&Event::Started {
            first_step: run.progress.steps,
            steps,
            steps_per_epoch,
            samples: task.samples(),
            params: task.params().counts(),
            macs: task.macs(),
        })?;
        if !run.resumed {
            for message in task.warnings() {
                run.observer.observe(&Event::Warning { step: 0, message })?;
            }
        }
        Ok(run)
    }

    fn train(mut self) -> Result<Outcome> {
        if self.resumed {
            if self.progress.evaluation_due {
                self.evaluate()?;
            }
            // What the process before might have saved after this step, had it lived.
            self.save()?;
        }
        while !self.is_over() {
            self.train_epoch()?;
        }
        let metrics = self.progress.metrics.into_iter().map(|(name, Exact(value))| (name, value)).collect();
        Ok(Outcome {
            steps: self.progress.steps,
            metrics,
            best: self.progress.best.map(|best| (best.value.0, best.step)),
            stopped_early: self.progress.patience.exhausted,
        })
    }

    fn is_over(&self) -> bool {
        self.progress.steps >= self.course.steps || self.progress.patience.exhausted
    }

    /// Trains what is left of the present epoch.
    fn train_epoch(&mut self) -> Result<()> {
        let epoch = self.progress.steps / self.course.steps_per_epoch;
        let first_step = self.progress.steps % self.course.steps_per_epoch;
        let first_batch = first_step as usize * self.experiment.accumulate;
        let mut batches = self.task.batches(epoch, first_batch)?;
        for _ in first_step..self.course.steps_per_epoch {
            let start = Instant::now();
            let step_batches = batches.by_ref().take(self.experiment.accumulate).collect::<Result<Vec<_>>>()?;
            let waited = start.elapsed().as_secs_f64();
            self.step(epoch, &step_batches, start, waited)?;
            self.save()?;
            if self.is_over() {
                break;
            }
        }
        Ok(())
    }

    /// Takes a step, and evaluates where that is due.
    fn step(&mut self, epoch: u64, batches: &[T::Batch], start: Instant, waited: f64) -> Result<()> {
        let step = self.progress.steps;
        let lr = learning_rate(&self.experiment.schedule, self.experiment.optimizer.lr(), step, self.course)
            * self.progress.plateau.factor();
        let pass = step * self.experiment.accumulate as u64;
        let options = StepOptions {
            lr,
            clip_norm: self.experiment.clip_norm,
            forward_key: ForwardKey { seed: self.experiment.seed, step: pass },
        };
        let report =
            train_step(&mut self.optimizer, batches, |batch| self.task.loss(batch), &options, self.ema.as_mut())?;
        let names: Vec<(String, f64)> =
            report.metrics.iter().map(|(name, value)| (format!("train.{name}"), *value)).collect();
        let mut metrics = vec![("train.loss", report.loss)];
        metrics.extend(names.iter().map(|(name, value)| (name.as_str(), *value)));
        metrics.extend([("optim.lr", lr), ("optim.grad_norm", report.grad_norm)]);
        self.observer.observe(&Event::Step {
            step,
            epoch,
            samples: report.samples,
            metrics: &metrics,
            seconds: (start.elapsed().as_secs_f64(), waited),
        })?;
        if !report.is_finite() {
            return Err(diverged(&report, step, epoch));
        }
        self.progress.steps += 1;
        self.progress.evaluation_due =
            self.is_due(self.experiment.evaluate.every) || self.progress.steps == self.course.steps;
        if self.progress.evaluation_due {
            self.evaluate()?;
        }
        Ok(())
    }

    /// Whether something that happens every so often happens after the steps taken so far.
    fn is_due(&self, every: Length) -> bool {
        self.progress.steps.is_multiple_of(self.course.steps_of(every))
    }

    /// The number of the last step.
    fn last_step(&self) -> u64 {
        self.progress.steps - 1
    }

    /// Evaluates, and draws the conclusions. Where a stop was asked for, the evaluation stays due.
    fn evaluate(&mut self) -> Result<()> {
        let start = Instant::now();
        let (task, stop, observer) = (self.task, self.stop, &mut *self.observer);
        let passes = 1 + usize::from(self.ema.is_some());
        let samples = task.samples().1;
        let mut measure = |pass: usize| {
            profile::pause(|| {
                task.evaluate(&mut |done| {
                    observer.observe(&Event::Evaluating { done: (pass * samples + done, passes * samples) })?;
                    Ok(stop.load(Ordering::Relaxed) == 0)
                })
            })
        };
        let Some(live) = measure(0)? else { return Ok(()) };
        let mut metrics: BTreeMap<String, f64> =
            live.into_iter().map(|(name, value)| (format!("val.{name}"), value)).collect();
        if let Some(ema) = &mut self.ema {
            let Some(averaged) = ema.with_averages(|| measure(1))? else { return Ok(()) };
            metrics.extend(averaged.into_iter().map(|(name, value)| (format!("val_ema.{name}"), value)));
        }
        let step = self.last_step();
        let list: Vec<(&str, f64)> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.observer.observe(&Event::Evaluated {
            step,
            epoch: step / self.course.steps_per_epoch,
            metrics: &list,
            seconds: start.elapsed().as_secs_f64(),
        })?;
        self.conclude(&metrics);
        Ok(())
    }

    fn conclude(&mut self, metrics: &BTreeMap<String, f64>) {
        let step = self.last_step();
        let experiment = self.experiment;
        let progress = &mut self.progress;
        progress.evaluation_due = false;
        progress.metrics = metrics.iter().map(|(name, value)| (name.clone(), Exact(*value))).collect();
        if let ScheduleShape::Plateau(options) = &experiment.schedule.shape {
            progress.plateau.observe(metrics[&options.metric], experiment.optimizer.lr(), options);
        }
        if let Some(options) = &experiment.early_stopping {
            let value = metrics[&options.metric];
            let patience = &mut progress.patience;
            if patience.best.is_none_or(|Exact(best)| options.mode.beats(value, best, options.min_delta)) {
                *patience = Patience { best: Some(Exact(value)), spent: 0, exhausted: false };
            } else {
                patience.spent += 1;
                patience.exhausted = patience.spent >= options.patience;
            }
        }
        let best = &experiment.checkpoint.best;
        let value = metrics[&best.metric];
        if progress.best.is_none_or(|known| best.mode.beats(value, known.value.0, 0.)) {
            progress.best = Some(Best { value: Exact(value), step });
            self.improved = true;
        }
    }

    /// Hands over what is worth keeping of the state after the last step, and stops where that was asked for.
    fn save(&mut self) -> Result<()> {
        let signal = self.stop.load(Ordering::Relaxed);
        let mut roles = Vec::new();
        if std::mem::take(&mut self.improved) {
            roles.push(Role::Best);
        }
        if signal != 0 || self.is_due(self.experiment.checkpoint.every) || self.is_over() {
            roles.push(Role::Last);
        }
        if !roles.is_empty() {
            self.observer.make_room()?;
            let (step, snapshot) = (self.last_step(), Arc::new(self.snapshot()?));
            self.observer.observe(&Event::Checkpoint { step, roles: &roles, snapshot: &snapshot })?;
        }
        match signal {
            0 => Ok(()),
            signal => Err(Error::Interrupted { signal }),
        }
    }

    fn snapshot(&self) -> Result<Snapshot> {
        // The optimizer's and the averages' states are copies already.
        let copied = |(name, tensor): (String, Tensor)| -> Result<_> {
            Ok((name, if tensor.device().is_cpu() { tensor.copy()? } else { tensor.to_device(&Device::Cpu)? }))
        };
        let checkpoint = Checkpoint {
            weights: self.task.params().state_dict().into_iter().map(copied).collect::<Result<_>>()?,
            optimizer: self.optimizer.state()?,
            ema: self.ema.as_ref().map_or_else(|| Ok(BTreeMap::new()), Ema::state)?,
            progress: self.progress.clone(),
        };
        Ok(Snapshot {
            checkpoint,
            experiment_sha256: self.experiment_sha256.clone(),
            data_sha256: self.task.data_sha256().to_owned(),
            best_of_averages: self.experiment.checkpoint.best.metric.starts_with("val_ema."),
        })
    }
}

fn diverged(report: &StepReport, step: u64, epoch: u64) -> Error {
    let (what, value) =
        if report.loss.is_finite() { ("gradient's norm", report.grad_norm) } else { ("loss", report.loss) };
    Error::failed(format!(
        "the {what} is {value} at step {step} (epoch {epoch}): earlier checkpoints are intact; lower the learning rate, \
         lengthen the warm-up or set `clip_norm`"
    ))
}

/// The trained parameters, each with its group's settings.
fn parameters(task: &impl Task, experiment: &Experiment) -> Vec<Parameter> {
    let trainable = task.params().trainable();
    let scales = layer_scales(trainable.iter().map(|(name, _)| name.as_str()), experiment.layer_decay);
    let all_decay = experiment.optimizer.decay_norm_and_bias();
    let parameter = |(name, var): &(String, candle_core::Var)| Parameter {
        name: name.clone(),
        var: var.clone(),
        lr_scale: scales[name.as_str()],
        decays: all_decay || decays(name, var),
    };
    trainable.iter().map(parameter).collect()
}
