//! What an optimizer's step and an average do to a run of numbers. Elementwise, so whoever splits the work changes no bit.

/// `torch.optim.SGD` without dampening, for parameters that share its coefficients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// What of the past gradients is kept.
    pub momentum: f32,
    /// Whether the step looks ahead by one momentum.
    pub nesterov: bool,
    /// Weight decay.
    pub decay: f32,
    /// What the gradient is multiplied with first.
    pub scale: f32,
}

/// `torch.optim.AdamW` (Loshchilov and Hutter 2019) at one step, for parameters that share its coefficients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate over the bias correction of the first moment.
    pub step_size: f32,
    /// What decoupled weight decay leaves of a value: 1 - lr x decay.
    pub keep: f32,
    /// 1 - beta1.
    pub weight1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// 1 - beta2.
    pub weight2: f32,
    /// Root of the bias correction of the second moment.
    pub root_correction: f32,
    /// Added after the bias correction of the root.
    pub eps: f32,
    /// What the gradient is multiplied with first.
    pub scale: f32,
}

impl Sgd {
    /// `p -= lr (g + decay p)`.
    pub fn step(&self, values: &mut [f32], gradient: &[f32]) {
        let Sgd { lr, decay, scale, .. } = *self;
        for (p, g) in values.iter_mut().zip(gradient) {
            *p -= lr * (g * scale + decay * *p);
        }
    }

    /// `g += decay p; b = momentum b + g; p -= lr b`, with Nesterov `p -= lr (g + momentum b)`.
    pub fn step_with_momentum(&self, values: &mut [f32], gradient: &[f32], buffer: &mut [f32]) {
        let Sgd { lr, momentum, nesterov, decay, scale } = *self;
        for ((p, g), b) in values.iter_mut().zip(gradient).zip(buffer) {
            let g = g * scale + decay * *p;
            *b = momentum * *b + g;
            *p -= lr * if nesterov { g + momentum * *b } else { *b };
        }
    }
}

impl AdamW {
    /// Moves the values, and both moments.
    pub fn step(&self, values: &mut [f32], gradient: &[f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32]) {
        let AdamW { step_size, keep, weight1, beta2, weight2, root_correction, eps, scale } = *self;
        for (((p, g), m), v) in values.iter_mut().zip(gradient).zip(exp_avg).zip(exp_avg_sq) {
            let g = g * scale;
            *m += weight1 * (g - *m);
            *v = beta2 * *v + weight2 * g * g;
            *p = keep * *p - step_size * *m / (v.sqrt() / root_correction + eps);
        }
    }
}

/// Moves averages towards values: `average += weight (value - average)`.
pub fn average(averages: &mut [f32], values: &[f32], weight: f32) {
    for (average, value) in averages.iter_mut().zip(values) {
        *average += weight * (value - *average);
    }
}

/// Adds `weight` times the numbers of `other`.
pub fn add(sum: &mut [f32], other: &[f32], weight: f32) {
    for (sum, other) in sum.iter_mut().zip(other) {
        *sum += weight * other;
    }
}

/// The sum of squares of each run of `chunk` numbers, added up one after the other in f64.
///
/// # Panics
/// Where `chunk` is 0.
pub fn square_sums(values: &[f32], chunk: usize) -> Vec<f64> {
    /// Chunks that are added up at a time: an addition waits for the one before it, but not for other chunks'.
    const TOGETHER: usize = 4;
    let mut sums = Vec::with_capacity(values.len().div_ceil(chunk));
    let mut groups = values.chunks_exact(TOGETHER * chunk);
    for group in &mut groups {
        let parts: [&[f32]; TOGETHER] = std::array::from_fn(|at| &group[at * chunk..][..chunk]);
        let [a, b, c, d] = parts;
        let mut group_sums = [0f64; TOGETHER];
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for (sum, value) in group_sums.iter_mut().zip([a, b, c, d]) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
        sums.extend(group_sums);
    }
    sums.extend(
        groups
            .remainder()
            .chunks(chunk)
            .map(|chunk| chunk.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>()),
    );
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of a length that no vector divides.
    fn run(seed: u32, len: usize) -> Vec<f32> {
        (0..len as u32).map(|at| ((at.wrapping_mul(2_654_435_761) ^ seed) >> 8) as f32 / 8e6 - 1.0).collect()
    }

    #[test]
    fn sums_are_those_of_each_chunk_by_itself() {
        for len in [0, 1, 6, 7, 8, 27, 28, 29, 56, 100] {
            let values = run(1, len);
            let plain: Vec<f64> = values
                .chunks(7)
                .map(|chunk| chunk.iter().fold(0., |sum, value| sum + f64::from(*value) * f64::from(*value)))
                .collect();
            assert_eq!(square_sums(&values, 7), plain, "{len}");
        }
    }

    /// A vector's values are those that one value alone would get.
    #[test]
    fn steps_are_elementwise() {
        let (values, gradient, slots) =
            (run(1, 37), run(2, 37), [run(3, 37), run(4, 37).iter().map(|v| v * v).collect()]);
        let step = |range: std::ops::Range<usize>| {
            let part = |of: &[f32]| of[range.clone()].to_vec();
            let [mut p, mut q, mut r, mut a] = [(); 4].map(|()| part(&values));
            let [mut b, mut m] = [(); 2].map(|()| part(&slots[0]));
            let mut v = part(&slots[1]);
            let gradient = part(&gradient);
            let sgd = Sgd { lr: 0.1, momentum: 0.9, nesterov: true, decay: 0.01, scale: 0.5 };
            sgd.step(&mut p, &gradient);
            sgd.step_with_momentum(&mut q, &gradient, &mut b);
            let adamw = AdamW {
                step_size: 0.01,
                keep: 0.999,
                weight1: 0.1,
                beta2: 0.99,
                weight2: 0.01,
                root_correction: 0.3,
                eps: 1e-8,
                scale: 0.5,
            };
            adamw.step(&mut r, &gradient, &mut m, &mut v);
            average(&mut a, &gradient, 0.25);
            add(&mut a, &gradient, 0.75);
            [p, q, r, a, b, m, v]
        };
        let whole = step(0..37);
        for at in 0..37 {
            let single = step(at..at + 1);
            for (whole, single) in whole.iter().zip(&single) {
                assert_eq!(whole[at].to_bits(), single[0].to_bits(), "{at}");
            }
        }
    }
}
