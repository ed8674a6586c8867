//! Nearest-neighbour resizing, `torch.nn.functional.interpolate(mode="nearest")`.
//!
//! `y[o] = x[floor(o * in / out)]` on each axis, so `dx[i]` is the sum of `dy[o]` over all `o` that read
//! `i`; an input cell that none reads gets zero.

use crate::ops::bins::{self, Axis, Bin};
use candle_core::{Result, Tensor, bail};

/// Resizes `x[N, spatial.., C]` to `[N, size.., C]`; `size` may be larger or smaller than the input.
///
/// # Errors
/// Where the rank is not `D + 2`, or a size is zero.
pub fn upsample_nearest<const D: usize>(x: &Tensor, size: [usize; D]) -> Result<Tensor> {
    let spatial = bins::spatial::<D>("upsample_nearest", x)?;
    if size.contains(&0) || spatial.contains(&0) {
        bail!("upsample_nearest takes sizes of at least 1, not {:?} to {size:?}", x.shape());
    }
    if size == spatial {
        return Ok(x.clone());
    }
    let axes = std::iter::zip(spatial, size).map(|(input, out)| {
        // In f32, as PyTorch: exact arithmetic picks another cell at a few sizes.
        let scale = input as f32 / out as f32;
        Axis::new(
            input,
            (0..out).map(|o| {
                let start = ((o as f32 * scale) as usize).min(input - 1);
                Bin { start, end: start + 1, count: 1 }
            }),
        )
    });
    bins::mean(x, axes.collect())
}

#[cfg(test)]
mod tests;
