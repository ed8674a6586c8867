//! Normalisation, with an optional residual and ReLU in the same pass over memory.
//!
//! `y = relu(weight * (x - mean) / sqrt(variance + eps) + bias + residual)`, the mean and the (biased)
//! variance of each *group*: for batch norm one channel over all samples and cells (Ioffe and Szegedy,
//! "Batch Normalization" (2015), algorithm 1), for group norm a run of channels over the cells of one
//! sample (Wu and He, "Group Normalization" (2018), section 3).
//!
//! With `g = dy` where `y > 0`, `n` values a group and `z = (x - mean) / sqrt(variance + eps)`:
//! `dbias = sum g`, `dweight = sum g z`, `dresidual = g`,
//! `dx = (weight g - (sum weight g) / n - z (sum weight g z) / n) / sqrt(variance + eps)`, the sums inside
//! the parenthesis over the group. With given statistics the two sums in `dx` are absent.

mod cpu;
mod passes;
mod reference;

use crate::ops::moments::Moments;
use crate::ops::number::{Stored, by_number};
use crate::ops::profile;
use candle_core::{D, Result, Tensor, bail};

/// What the same pass over memory does after normalising.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added after normalising, of the input's shape.
    pub residual: Option<&'a Tensor>,
    /// Whether a ReLU ends it; its derivative at 0 is 0.
    pub relu: bool,
}

/// The statistics of one batch, without a graph.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// `f32[C]`.
    pub mean: Tensor,
    /// `f32[C]`, unbiased (divided by n - 1), as running statistics want it.
    pub variance: Tensor,
}

/// Batch norm with the statistics of this batch.
///
/// `x` and the result are `[N, .., C]`; `affine` is `f32[2, C]`, weight and bias. Where `x` is half
/// precision, parameters and statistics stay `f32`.
///
/// # Errors
/// Where shapes do not fit, or a channel has fewer than two values.
pub fn batch_norm(x: &Tensor, affine: &Tensor, eps: f64, epilogue: Epilogue) -> Result<(Tensor, BatchStatistics)> {
    batch_norm_of(x, None, affine, eps, epilogue)
}

/// [`batch_norm`] where whoever made `x` may have its `moments` already.
///
/// # Errors
/// As of [`batch_norm`].
pub(crate) fn batch_norm_of(
    x: &Tensor,
    moments: Option<Moments>,
    affine: &Tensor,
    eps: f64,
    epilogue: Epilogue,
) -> Result<(Tensor, BatchStatistics)> {
    let _timer = profile::forward("norm");
    let channels = check("batch_norm", x, affine, epilogue)?;
    let rows = x.elem_count() / channels;
    if rows < 2 {
        bail!(
            "batch norm needs at least two values a channel in training, and {:?} has {rows}: use a larger batch or \
             image, or freeze the norms",
            x.shape()
        );
    }
    let extent = Extent { segments: 1, rows, channels, groups: channels };
    let (y, [mean, variance]) = by_number!(stored(x, &[affine], epilogue), N => {
        let statistics = match moments {
            Some(moments) => cpu::Statistics::of_channels(moments),
            None => cpu::Statistics::of::<N>(x, extent)?,
        };
        let tensors = statistics.tensors()?;
        (cpu::normalise::<N>(x, affine, extent, statistics, true, eps, epilogue)?, tensors)
    }, else {
        let statistics = reference::statistics(x, extent)?;
        let tensors = statistics.clone().map(|statistic| statistic.detach());
        (reference::normalise(x, affine, extent, statistics, eps, epilogue)?, tensors)
    });
    let unbiased = rows as f64 / (rows - 1) as f64;
    let (mean, variance) = (mean.flatten_all()?, (variance.flatten_all()? * unbiased)?);
    Ok((y, BatchStatistics { mean, variance }))
}

/// Batch norm with given statistics: `mean` and `variance` are `f32[C]`, and no gradient reaches them.
///
/// # Errors
/// Where shapes do not fit.
pub fn batch_norm_with(
    x: &Tensor,
    affine: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    eps: f64,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let _timer = profile::forward("norm");
    let channels = check("batch_norm", x, affine, epilogue)?;
    if mean.dims() != [channels] || variance.dims() != [channels] {
        bail!("batch_norm takes statistics of [{channels}], not {:?} and {:?}", mean.shape(), variance.shape());
    }
    let extent = Extent { segments: 1, rows: x.elem_count() / channels, channels, groups: channels };
    by_number!(stored(x, &[affine, mean, variance], epilogue), N => {
        cpu::normalise::<N>(x, affine, extent, cpu::Statistics::given(mean, variance)?, false, eps, epilogue)
    }, else {
        let shape = (1, 1, channels, 1);
        let given = [mean.detach().reshape(shape)?, variance.detach().reshape(shape)?];
        reference::normalise(x, affine, extent, given, eps, epilogue)
    })
}

/// Group norm: each sample's channels in `groups` equal runs. Shapes as for [`batch_norm`].
///
/// # Errors
/// Where shapes do not fit, or the groups do not divide the channels.
pub fn group_norm(x: &Tensor, affine: &Tensor, groups: usize, eps: f64, epilogue: Epilogue) -> Result<Tensor> {
    let _timer = profile::forward("norm");
    let channels = check("group_norm", x, affine, epilogue)?;
    if groups == 0 || !channels.is_multiple_of(groups) {
        bail!("group_norm takes a number of groups that divides the channels, not {groups} of {channels}");
    }
    let segments = x.dims()[0];
    let extent = Extent { segments, rows: x.elem_count() / (segments * channels).max(1), channels, groups };
    by_number!(
        stored(x, &[affine], epilogue),
        N => cpu::normalise::<N>(x, affine, extent, cpu::Statistics::of::<N>(x, extent)?, true, eps, epilogue),
        else reference::normalise(x, affine, extent, reference::statistics(x, extent)?, eps, epilogue)
    )
}

/// Where one mean and variance hold: in each of `segments` runs of `rows` rows, each of `groups` runs of
/// channels has its own.
#[derive(Debug, Clone, Copy)]
struct Extent {
    segments: usize,
    rows: usize,
    channels: usize,
    groups: usize,
}

impl Extent {
    /// Channels a group.
    fn width(&self) -> usize {
        self.channels / self.groups
    }

    /// Values a group.
    fn values(&self) -> usize {
        self.rows * self.width()
    }
}

fn check(op: &str, x: &Tensor, affine: &Tensor, epilogue: Epilogue) -> Result<usize> {
    let channels = x.dim(D::Minus1)?;
    if x.rank() < 2 || channels == 0 {
        bail!("{op} takes [N, .., C] with at least one channel, not {:?}", x.shape());
    }
    if !x.dtype().is_float() {
        bail!("{op} takes floats, not {:?}: convert the input", x.dtype());
    }
    if affine.dims() != [2, channels] {
        bail!("{op} of {:?} takes a weight and a bias as [2, {channels}], not {:?}", x.shape(), affine.shape());
    }
    if let Some(residual) = epilogue.residual
        && residual.dims() != x.dims()
    {
        bail!("{op} adds a residual of the same shape, not {:?} to {:?}", residual.shape(), x.shape());
    }
    Ok(channels)
}

fn stored(x: &Tensor, parameters: &[&Tensor], epilogue: Epilogue) -> Option<Stored> {
    Stored::of(&[x, epilogue.residual.unwrap_or(x)], parameters)
}

#[cfg(test)]
mod tests;
