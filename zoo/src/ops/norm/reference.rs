use super::{Epilogue, Extent};
use crate::ops::activation;
use crate::ops::node::computing;
use candle_core::{Result, Tensor};

/// The result, and each channel's mean and biased variance (of group norm: nothing of use).
pub(super) fn normalise(
    x: &Tensor,
    affine: &Tensor,
    extent: Extent,
    given: Option<(Tensor, Tensor)>,
    eps: f64,
    epilogue: Epilogue,
) -> Result<(Tensor, Tensor, Tensor)> {
    let dtype = computing(x.dtype());
    let Extent { segments, rows, channels, groups } = extent;
    let grouped = x.to_dtype(dtype)?.reshape((segments, rows, groups, extent.width()))?;
    let (mean, variance) = match given {
        Some((mean, variance)) => {
            let shape = (1, 1, groups, extent.width());
            (mean.to_dtype(dtype)?.reshape(shape)?, variance.to_dtype(dtype)?.reshape(shape)?)
        }
        None => {
            let mean = grouped.mean_keepdim((1, 3))?;
            let variance = grouped.broadcast_sub(&mean)?.sqr()?.mean_keepdim((1, 3))?;
            (mean, variance)
        }
    };
    let normalised = grouped.broadcast_sub(&mean)?.broadcast_div(&(&variance + eps)?.sqrt()?)?;
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
    Ok((y.to_dtype(x.dtype())?, mean.detach().flatten_all()?, variance.detach().flatten_all()?))
}
