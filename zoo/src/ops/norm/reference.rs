use super::{Epilogue, Extent};
use crate::ops::activation;
use crate::ops::node::computing;
use candle_core::{Result, Tensor};

/// Mean and biased variance of each group of each segment of `x`, `[segments, 1, groups, 1]`.
pub(super) fn statistics(x: &Tensor, extent: Extent) -> Result<[Tensor; 2]> {
    let x = grouped(x, extent)?;
    let mean = x.mean_keepdim((1, 3))?;
    let variance = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim((1, 3))?;
    Ok([mean, variance])
}

/// Normalises with statistics that can be broadcast to `[segments, rows, groups, width]`.
pub(super) fn normalise(
    x: &Tensor,
    affine: &Tensor,
    extent: Extent,
    [mean, variance]: [Tensor; 2],
    eps: f64,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let dtype = computing(x.dtype());
    let Extent { segments, rows, channels, .. } = extent;
    let (mean, variance) = (mean.to_dtype(dtype)?, variance.to_dtype(dtype)?);
    let normalised = grouped(x, extent)?.broadcast_sub(&mean)?.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let affine = affine.to_dtype(dtype)?;
    let mut y = normalised
        .reshape((segments * rows, channels))?
        .broadcast_mul(&affine.narrow(0, 0, 1)?)?
        .broadcast_add(&affine.narrow(0, 1, 1)?)?
        .reshape(x.shape())?;
    if let Some(residual) = epilogue.residual {
        y = (y + residual.to_dtype(dtype)?)?;
    }
    if epilogue.relu {
        y = activation::reference::relu(&y)?;
    }
    y.to_dtype(x.dtype())
}

fn grouped(x: &Tensor, extent: Extent) -> Result<Tensor> {
    let Extent { segments, rows, groups, .. } = extent;
    x.to_dtype(computing(x.dtype()))?.reshape((segments, rows, groups, extent.width()))
}
