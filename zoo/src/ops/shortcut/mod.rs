//! The parameter-free shortcut of the CIFAR ResNets: He et al., "Deep Residual Learning for Image
//! Recognition" (2015), section 3.3, option (A).
//!
//! `y[o, before + c] = x[o * stride, c]`, zero in the added channels, so `dx[o * stride, c] =
//! dy[o, before + c]` and zero elsewhere. The paper does not say where the zeros go: half of them go
//! before and half after, as the common implementations do (an odd one after).

use crate::ops::bins::{self, Axis, Bin};
use candle_core::{Result, Tensor, bail};

/// Subsamples every spatial axis of `x[N, spatial.., C]` by `stride` and pads to `channels` channels.
///
/// # Errors
/// Where `x` has more than `channels` channels, or the stride is zero.
pub fn pad_shortcut(x: &Tensor, channels: usize, stride: usize) -> Result<Tensor> {
    let Some(added) = x.dims().last().and_then(|&c| channels.checked_sub(c)) else {
        bail!("pad_shortcut cannot make {channels} channels of {:?}: it only adds channels", x.shape());
    };
    if stride == 0 {
        bail!("pad_shortcut takes a stride of at least 1");
    }
    let subsampled = match (x.rank(), stride) {
        (_, 1) => x.clone(),
        (3, _) => subsample::<1>(x, stride)?,
        (4, _) => subsample::<2>(x, stride)?,
        (5, _) => subsample::<3>(x, stride)?,
        _ => bail!("pad_shortcut takes [N, spatial.., C] with one to three spatial axes, not {:?}", x.shape()),
    };
    subsampled.pad_with_zeros(x.rank() - 1, added / 2, added - added / 2)
}

fn subsample<const D: usize>(x: &Tensor, stride: usize) -> Result<Tensor> {
    let axes = bins::spatial::<D>("pad_shortcut", x)?
        .map(|input| Axis::new(input, (0..input).step_by(stride).map(|start| Bin { start, end: start + 1, count: 1 })));
    bins::mean(x, axes.into())
}

#[cfg(test)]
mod tests;
