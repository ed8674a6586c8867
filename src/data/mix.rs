//! Mixup (Zhang et al. 2017) and CutMix (Yun et al. 2019) of a batch with itself, rolled by one sample, as torchvision's v2.

use super::options::Batchwise;
use crate::error::{Error, Result};
use zoo::random::Stream;

/// How a batch is mixed: `lambda` of each sample, the rest of the sample before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mix {
    /// Not at all.
    Keep,
    /// All values.
    Blend { lambda: f64 },
    /// The rectangle `y1..y2`, `x1..x2` comes from the sample before.
    Cut { x1: usize, y1: usize, x2: usize, y2: usize, lambda: f64 },
}

/// Every range that [`Batchwise`] documents.
pub(super) fn check(batchwise: &Batchwise) -> Result<()> {
    let Batchwise { mixup_alpha, cutmix_alpha, probability } = *batchwise;
    for (name, alpha) in [("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)] {
        if !(0.0..=100.0).contains(&alpha) {
            return Err(Error::input(format!("{name} must be 0 (off) to 100, not {alpha}")));
        }
    }
    if !(0.0..=1.0).contains(&probability) {
        return Err(Error::input(format!("the probability of mixing must be 0 to 1, not {probability}")));
    }
    Ok(())
}

impl Mix {
    /// What a batch of `height` x `width` samples draws.
    pub(super) fn draw(batchwise: &Batchwise, height: usize, width: usize, draws: &mut Stream) -> Self {
        let Batchwise { mixup_alpha, cutmix_alpha, probability } = *batchwise;
        if draws.unit_f64() >= probability {
            return Mix::Keep;
        }
        let cuts = match (mixup_alpha > 0.0, cutmix_alpha > 0.0) {
            (true, true) => draws.unit_f64() < 0.5,
            (false, cuts) => cuts,
            (true, false) => false,
        };
        if !cuts {
            return Mix::Blend { lambda: beta(mixup_alpha, draws) };
        }
        let side = 0.5 * (1.0 - beta(cutmix_alpha, draws)).sqrt();
        let mut between = |side_of: usize| {
            let middle = draws.below(side_of as u64) as usize;
            let half = (side * side_of as f64) as usize;
            (middle.saturating_sub(half), (middle + half).min(side_of))
        };
        let ((x1, x2), (y1, y2)) = (between(width), between(height));
        let lambda = 1.0 - ((x2 - x1) * (y2 - y1)) as f64 / (width * height) as f64;
        Mix::Cut { x1, y1, x2, y2, lambda }
    }

    /// Mixes `f32[N, D, H, W, C]`, whose samples have `sample` values and rows of `row` = (width, channels).
    pub(super) fn apply(self, values: &mut [f32], sample: usize, height: usize, row: (usize, usize)) {
        if self == Mix::Keep {
            return;
        }
        let last = values[values.len() - sample..].to_vec();
        let samples = values.len() / sample;
        // From the end, so that the sample before is still as it was.
        for index in (0..samples).rev() {
            let (before, this) = values.split_at_mut(index * sample);
            let before = before.len().checked_sub(sample).map_or(&last[..], |start| &before[start..]);
            self.mix(&mut this[..sample], before, height, row);
        }
    }

    fn mix(self, this: &mut [f32], before: &[f32], height: usize, (width, channels): (usize, usize)) {
        match self {
            Mix::Keep => {}
            Mix::Blend { lambda } => {
                let (lambda, rest) = (lambda as f32, (1.0 - lambda) as f32);
                for (value, before) in this.iter_mut().zip(before) {
                    *value = before * rest + *value * lambda;
                }
            }
            Mix::Cut { x1, y1, x2, y2, .. } => {
                let rows = this.chunks_exact_mut(width * channels).zip(before.chunks_exact(width * channels));
                for (at, (row, before)) in rows.enumerate() {
                    if (y1..y2).contains(&(at % height)) {
                        row[x1 * channels..x2 * channels].copy_from_slice(&before[x1 * channels..x2 * channels]);
                    }
                }
            }
        }
    }

    /// Soft targets `f32[N, K]`, each row of sum 1.
    pub(super) fn targets(self, labels: &[u32], classes: usize) -> Vec<f32> {
        let lambda = match self {
            Mix::Keep => 1.0,
            Mix::Blend { lambda } | Mix::Cut { lambda, .. } => lambda,
        };
        let mut targets = vec![0.0; labels.len() * classes];
        for (index, row) in targets.chunks_exact_mut(classes).enumerate() {
            let before = labels[(index + labels.len() - 1) % labels.len()];
            row[labels[index] as usize] += lambda as f32;
            row[before as usize] += (1.0 - lambda) as f32;
        }
        targets
    }
}

/// A draw from Beta(alpha, alpha): `x / (x + y)` of two gamma draws, in logarithms, because those of a small alpha are 0 in
/// floats.
fn beta(alpha: f64, draws: &mut Stream) -> f64 {
    let (x, y) = (ln_gamma_draw(alpha, draws), ln_gamma_draw(alpha, draws));
    1.0 / (1.0 + (y - x).exp())
}

/// The logarithm of a draw from Gamma(alpha, 1): Marsaglia and Tsang (2000) at alpha + 1, then their boost.
fn ln_gamma_draw(alpha: f64, draws: &mut Stream) -> f64 {
    let d = alpha + 1.0 - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = draws.normal();
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - draws.unit_f64();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d.ln() + v.ln() + (1.0 - draws.unit_f64()).ln() / alpha;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoo::random::Key;

    fn draws(index: u64) -> Stream {
        Stream::new(Key { seed: 3, stream: 0, step: 0, index })
    }

    #[test]
    fn beta_has_its_moments() {
        for alpha in [0.01, 0.2, 1.0, 8.0] {
            let mut draws = draws(0);
            let values: Vec<f64> = (0..20_000).map(|_| beta(alpha, &mut draws)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!(values.iter().all(|x| (0.0..=1.0).contains(x)), "{alpha}");
            assert!((mean - 0.5).abs() < 0.02 && (variance - expected).abs() < 0.01, "{alpha}: {mean} {variance}");
        }
    }

    #[test]
    fn a_blend_takes_the_sample_before() {
        let mut values = vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0];
        let mix = Mix::Blend { lambda: 0.75 };
        mix.apply(&mut values, 2, 1, (2, 1));
        assert_eq!(values, [1.75, 1.75, 1.75, 1.75, 3.5, 3.5]);
        assert_eq!(mix.targets(&[0, 1, 1], 3), [0.75, 0.25, 0.0, 0.25, 0.75, 0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_cut_takes_a_rectangle_of_every_frame() {
        // Two samples of two frames of 2 x 2 pixels.
        let mut values: Vec<f32> = (0..16).map(|value| value as f32).collect();
        let mix = Mix::Cut { x1: 1, y1: 0, x2: 2, y2: 2, lambda: 0.5 };
        mix.apply(&mut values, 8, 2, (2, 1));
        assert_eq!(values, [0., 9., 2., 11., 4., 13., 6., 15., 8., 1., 10., 3., 12., 5., 14., 7.]);
    }

    #[test]
    fn cuts_cover_what_lambda_says_and_both_kinds_are_drawn() {
        let batchwise = Batchwise { mixup_alpha: 0.8, cutmix_alpha: 1.0, probability: 0.9 };
        let (mut kept, mut blended, mut cut) = (0, 0, 0);
        for index in 0..1000 {
            match Mix::draw(&batchwise, 30, 20, &mut draws(index)) {
                Mix::Keep => kept += 1,
                Mix::Blend { lambda } => {
                    blended += 1;
                    assert!((0.0..=1.0).contains(&lambda));
                }
                Mix::Cut { x1, y1, x2, y2, lambda } => {
                    cut += 1;
                    assert!(x1 <= x2 && x2 <= 20 && y1 <= y2 && y2 <= 30);
                    assert!((1.0 - lambda - ((x2 - x1) * (y2 - y1)) as f64 / 600.0).abs() < 1e-12);
                }
            }
        }
        assert!((60..140).contains(&kept) && (380..520).contains(&blended) && (380..520).contains(&cut));
    }
}
