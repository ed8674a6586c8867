//! The learning rate as a pure function of the step, so that a resume has nothing to restore.
//! Each equals PyTorch's where PyTorch has it; `plateau` alone depends on what was measured.

use crate::experiment::{Anneal, Length, Mode, PlateauOptions, ScheduleOptions, ScheduleShape};
use crate::train::exact::Exact;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Where a run is and how long it lasts, in optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
}

impl Course {
    /// A length in steps.
    pub fn steps_of(&self, length: Length) -> u64 {
        match length {
            Length::Epochs(epochs) => epochs.saturating_mul(self.steps_per_epoch),
            Length::Steps(steps) => steps,
        }
    }
}

/// The learning rate of optimizer step `step`, from 0, where `lr` is the optimizer's own.
/// A plateau's reductions are not in it: multiply by [`Plateau::factor`].
pub fn learning_rate(schedule: &ScheduleOptions, lr: f64, step: u64, course: Course) -> f64 {
    let warmup = schedule.warmup.map_or(0, |warmup| course.steps_of(warmup.length).min(course.steps));
    if let Some(options) = schedule.warmup
        && step < warmup
    {
        // torch's `LinearLR`; what follows starts at its own step 0, as in `SequentialLR`.
        return lr * (options.start_factor + (1. - options.start_factor) * step as f64 / warmup as f64);
    }
    let (step, steps) = (step - warmup, (course.steps - warmup).max(1));
    match &schedule.shape {
        ScheduleShape::Constant {} | ScheduleShape::Plateau(_) => lr,
        ScheduleShape::Cosine { min_lr } => cosine(lr, *min_lr, step as f64 / steps as f64),
        ScheduleShape::Step { every, gamma } => {
            let reductions = step / course.steps_of(*every).max(1);
            lr * gamma.powi(i32::try_from(reductions).unwrap_or(i32::MAX))
        }
        ScheduleShape::OneCycle { pct_start, div_factor, final_div_factor, anneal } => {
            let first = lr / div_factor;
            let last = first / final_div_factor;
            let end_of_rise = pct_start * steps as f64 - 1.;
            let end = steps as f64 - 1.;
            let step = step as f64;
            let (from, to, progress) = if step <= end_of_rise {
                (first, lr, if end_of_rise > 0. { step / end_of_rise } else { 1. })
            } else {
                (lr, last, ((step - end_of_rise) / (end - end_of_rise)).min(1.))
            };
            match anneal {
                Anneal::Cosine => cosine(from, to, progress),
                Anneal::Linear => from + (to - from) * progress,
            }
        }
    }
}

/// Half a cosine wave from one value to another.
fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * (1. + (PI * progress).cos()) / 2.
}

/// torch's `ReduceLROnPlateau` with a relative threshold: what it has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    factor: Exact,
    best: Option<Exact>,
    bad_evaluations: u64,
    cooldown: u64,
}

impl Default for Plateau {
    fn default() -> Self {
        Plateau { factor: Exact(1.), best: None, bad_evaluations: 0, cooldown: 0 }
    }
}

impl Plateau {
    /// What the learning rate is multiplied with.
    pub fn factor(&self) -> f64 {
        self.factor.0
    }

    /// Takes note of a new value of the watched metric; `lr` is the optimizer's own.
    pub fn observe(&mut self, value: f64, lr: f64, options: &PlateauOptions) {
        let threshold = options.threshold;
        let better = self.best.is_none_or(|Exact(best)| match options.mode {
            Mode::Min => value < best * (1. - threshold),
            Mode::Max => value > best * (1. + threshold),
        });
        if better {
            self.best = Some(Exact(value));
            self.bad_evaluations = 0;
        } else {
            self.bad_evaluations += 1;
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.bad_evaluations = 0;
        }
        if self.bad_evaluations > options.patience {
            let now = lr * self.factor();
            let reduced = (now * options.factor).max(options.min_lr).min(now);
            if now > 0. {
                self.factor = Exact(reduced / lr);
            }
            self.cooldown = options.cooldown;
            self.bad_evaluations = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::WarmupOptions;

    const COURSE: Course = Course { steps: 10, steps_per_epoch: 5 };

    fn assert_rates(schedule: &ScheduleOptions, expected: [f64; 10]) {
        for (step, expected) in expected.into_iter().enumerate() {
            let found = learning_rate(schedule, 0.1, step as u64, COURSE);
            assert!((found - expected).abs() < 1e-9, "{schedule:?} at {step}: {found} instead of {expected}");
        }
    }

    /// Printed by torch 2.15's schedulers of the same names.
    #[test]
    fn rates_equal_torch() {
        let plain = |shape| ScheduleOptions { shape, warmup: None };
        let cosine = |warmup| ScheduleOptions { shape: ScheduleShape::Cosine { min_lr: 0.001 }, warmup };
        assert_rates(
            &cosine(None),
            [
                0.1,
                0.0975772976,
                0.0905463412,
                0.07959537,
                0.0657963412,
                0.0505,
                0.0352036588,
                0.02140463,
                0.0104536588,
                0.0034227024,
            ],
        );
        let warmup = WarmupOptions { length: Length::Steps(4), start_factor: 0.01 };
        assert_rates(
            &cosine(Some(warmup)),
            [0.001, 0.02575, 0.0505, 0.07525, 0.1, 0.0933682575, 0.07525, 0.0505, 0.02575, 0.0076317425],
        );
        let one_cycle =
            ScheduleShape::OneCycle { pct_start: 0.25, div_factor: 25., final_div_factor: 1e4, anneal: Anneal::Cosine };
        assert_rates(
            &plain(one_cycle),
            [
                0.004,
                0.076,
                0.0989073844,
                0.0904508879,
                0.0750001,
                0.0552266023,
                0.0345494121,
                0.0165438035,
                0.0043231098,
                4e-7,
            ],
        );
        let linear =
            ScheduleShape::OneCycle { pct_start: 0.3, div_factor: 10., final_div_factor: 100., anneal: Anneal::Linear };
        assert_rates(
            &plain(linear),
            [
                0.01,
                0.055,
                0.1,
                0.0857285714,
                0.0714571429,
                0.0571857143,
                0.0429142857,
                0.0286428571,
                0.0143714286,
                0.0001,
            ],
        );
        let step = ScheduleShape::Step { every: Length::Steps(3), gamma: 0.5 };
        assert_rates(&plain(step), [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025, 0.0125]);
        let warmup = Some(WarmupOptions { length: Length::Epochs(1), start_factor: 0.5 });
        assert_rates(
            &ScheduleOptions { shape: ScheduleShape::Constant {}, warmup },
            [0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.1, 0.1, 0.1, 0.1],
        );
    }

    /// Printed by torch 2.15's `ReduceLROnPlateau`.
    #[test]
    fn a_plateau_equals_torch() {
        let options = PlateauOptions {
            metric: "val.top1".to_owned(),
            mode: Mode::Max,
            factor: 0.5,
            patience: 1,
            threshold: 0.01,
            cooldown: 1,
            min_lr: 0.02,
        };
        let values = [0.5, 0.6, 0.6, 0.605, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7];
        let expected = [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025, 0.025, 0.02, 0.02, 0.02, 0.02, 0.02];
        let mut plateau = Plateau::default();
        for (value, expected) in values.into_iter().zip(expected) {
            plateau.observe(value, 0.1, &options);
            let found = 0.1 * plateau.factor();
            assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
        }
    }

    #[test]
    fn degenerate_courses_stay_finite() {
        let course = Course { steps: 1, steps_per_epoch: 1 };
        let one_cycle =
            ScheduleShape::OneCycle { pct_start: 0.3, div_factor: 25., final_div_factor: 1e4, anneal: Anneal::Cosine };
        let warmup = Some(WarmupOptions { length: Length::Epochs(9), start_factor: 0.01 });
        let shapes = [
            one_cycle,
            ScheduleShape::Cosine { min_lr: 0. },
            ScheduleShape::Step { every: Length::Epochs(1), gamma: 0.1 },
        ];
        for (shape, warmup) in shapes.into_iter().flat_map(|shape| [(shape.clone(), None), (shape, warmup)]) {
            let schedule = ScheduleOptions { shape, warmup };
            let rate = learning_rate(&schedule, 0.1, 0, course);
            assert!(rate.is_finite() && rate >= 0., "{schedule:?}: {rate}");
        }
    }
}
