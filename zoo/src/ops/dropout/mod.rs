//! Dropout of values and of whole samples, with masks that are recomputed, never stored.
//!
//! `y = x m / (1 - p)` where `m` is 1 with probability `1 - p`, else 0, so `dx = dy m / (1 - p)`: the same
//! op again. [`dropout`] draws for each value: Srivastava et al., "Dropout" (2014). [`drop_path`] draws
//! for each sample: Huang et al., "Deep Networks with Stochastic Depth" (2016), scaled as timm does.
//! The draws of a sample are those of `Key { index: its position in the batch, .. }`.

mod cpu;
mod reference;

use crate::ops::number::{Number, Stored, by_number};
use crate::ops::profile;
use crate::random::{Key, Stream};
use candle_core::{Result, Tensor, bail};

/// A probability of dropping: at least 0, below 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropRate(f64);

impl DropRate {
    /// Checks the probability.
    ///
    /// # Errors
    /// Where `p` is not in `[0, 1)`.
    pub fn new(p: f64) -> Result<Self> {
        if !(0. ..1.).contains(&p) {
            bail!("a dropout probability is at least 0 and below 1, not {p}");
        }
        Ok(DropRate(p))
    }

    /// The probability.
    pub fn get(self) -> f64 {
        self.0
    }

    /// What becomes of a value under the next draw: nothing, or its share of the whole.
    fn factor(self, stream: &mut Stream) -> f32 {
        if f64::from(stream.uniform()) < self.0 { 0. } else { (1. / (1. - self.0)) as f32 }
    }
}

/// Drops values of `x[N, ..]`. The key's index is ignored: it is the sample's position in the batch.
///
/// # Errors
/// Where `x` has no axis, or is no float.
pub fn dropout(x: &Tensor, rate: DropRate, key: Key) -> Result<Tensor> {
    drop(x, Mask { rate, key, whole_samples: false })
}

/// Drops whole samples of `x[N, ..]`. The key's index is ignored: it is the sample's position in the batch.
///
/// # Errors
/// Where `x` has no axis, or is no float.
pub fn drop_path(x: &Tensor, rate: DropRate, key: Key) -> Result<Tensor> {
    drop(x, Mask { rate, key, whole_samples: true })
}

fn drop(x: &Tensor, mask: Mask) -> Result<Tensor> {
    let _timer = profile::forward("dropout");
    if x.rank() == 0 || !x.dtype().is_float() {
        bail!("dropout takes floats [N, ..], not {:?} of {:?}", x.shape(), x.dtype());
    }
    if mask.rate.0 == 0. {
        return Ok(x.clone());
    }
    by_number!(Stored::of(&[x], &[]), N => cpu::apply::<N>(x, mask), else reference::apply(x, mask))
}

/// What a value is multiplied with, as a function of where it is.
#[derive(Debug, Clone, Copy)]
struct Mask {
    rate: DropRate,
    key: Key,
    whole_samples: bool,
}

impl Mask {
    /// Multiplies the values of one sample.
    fn apply<N: Number>(&self, sample: usize, values: &mut [N]) {
        let mut stream = Stream::new(Key { index: sample as u64, ..self.key });
        if self.whole_samples {
            let factor = self.rate.factor(&mut stream);
            values.iter_mut().for_each(|value| *value = N::narrow(value.wide() * factor));
        } else {
            let mut factor = || self.rate.factor(&mut stream);
            values.iter_mut().for_each(|value| *value = N::narrow(value.wide() * factor()));
        }
    }
}

#[cfg(test)]
mod tests;
