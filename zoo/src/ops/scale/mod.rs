//! Scaling the channels of each sample, the end of a channel attention: Hu et al., "Squeeze-and-Excitation
//! Networks" (2017), equation 4.
//!
//! `y[n, i, c] = x[n, i, c] s[n, c]`, so `dx = dy s` and `ds[n, c] = sum of dy[n, i, c] x[n, i, c] over i`.

mod cpu;
mod reference;

use crate::ops::number::{Stored, by_number};
use crate::ops::profile;
use candle_core::{Result, Tensor, bail};

/// `x[N, .., C]` times `s[N, C]`, which is `f32` where `x` is half precision.
///
/// # Errors
/// Where the shapes do not fit.
pub fn scale(x: &Tensor, s: &Tensor) -> Result<Tensor> {
    let _timer = profile::forward("scale");
    let dims = x.dims();
    if dims.len() < 2 || s.dims() != [dims[0], dims[dims.len() - 1]] {
        bail!("scale takes [N, .., C] and [N, C], not {:?} and {:?}", x.shape(), s.shape());
    }
    if s.dims()[1] == 0 {
        bail!("scale takes at least one channel, not {:?}", x.shape());
    }
    by_number!(Stored::of(&[x], &[s]), N => cpu::scale::<N>(x, s), else reference::scale(x, s))
}

#[cfg(test)]
mod tests;
