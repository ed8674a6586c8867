//! Convolution (cross-correlation, as in every framework) over one to three spatial dimensions.
//!
//! `y[n, q, o] = sum over taps t and channels c of x[n, q * stride - padding + t * dilation, c] * w[o, c, t]`
//!
//! Derivatives, with `g` the gradient of `y`:
//! `dx[n, p, c] = sum over o and all (q, t) with q * stride - padding + t * dilation = p of g[n, q, o] * w[o, c, t]`
//! `dw[o, c, t] = sum over n, q of g[n, q, o] * x[n, q * stride - padding + t * dilation, c]`

mod cpu;
mod problem;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use cpu::{FiltersOf, KeptFilters, forget_kept_filters};
pub(crate) use problem::Problem;

use super::moments::Moments;
use super::node::{record_onto, values, values_of};
use super::number::{Stored, by_number};
use super::profile::{self, Pass};
use super::{Isa, add_bias};
use candle_core::{Device, Result, Shape, Tensor};
use cpu::{Finish, Map, Observed, Weight};
use std::cell::Cell;

/// How the windows of a convolution lie on its input; the kernel's size is the weight's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry<const D: usize> {
    /// Input positions from one window to the next.
    pub stride: [usize; D],
    /// Zeros added before and after each axis.
    pub padding: [usize; D],
    /// Input positions from one tap of a window to the next.
    pub dilation: [usize; D],
    /// Channels are cut into that many groups, which do not see each other.
    pub groups: usize,
}

impl<const D: usize> Default for Geometry<D> {
    /// Stride 1, no padding, no dilation, one group.
    fn default() -> Self {
        Geometry { stride: [1; D], padding: [0; D], dilation: [1; D], groups: 1 }
    }
}

thread_local! { static DIRECT: Cell<bool> = const { Cell::new(false) }; }

/// Runs `f` with the convolutions of this thread as direct sums where `direct`: Winograd's method, which is faster
/// for 3x3 kernels, rounds about three times as much, and AMX multiplies numbers of `f32` in two parts, which have 16 bits. A
/// convolution's derivatives follow its forward pass.
pub fn with_direct_convolutions<R>(direct: bool, f: impl FnOnce() -> R) -> R {
    crate::grad::with(&DIRECT, direct, f)
}

/// Whether [`with_direct_convolutions`] says so.
pub(crate) fn are_convolutions_direct() -> bool {
    DIRECT.get()
}

/// Convolves `x` with `weight`.
///
/// | `D` | `x` | `weight` | result |
/// |---|---|---|---|
/// | 1 | `f32[N, L, C]` | `f32[O, C / groups, K]` | `f32[N, L', O]` |
/// | 2 | `f32[N, H, W, C]` | `f32[O, C / groups, KH, KW]` | `f32[N, H', W', O]` |
/// | 3 | `f32[N, D, H, W, C]` | `f32[O, C / groups, KD, KH, KW]` | `f32[N, D', H', W', O]` |
///
/// Each output axis has `(in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1` positions. A
/// fully connected layer is the case `D = 1` with a kernel of 1: `x` as `[N, 1, C]`, `weight` as
/// `[O, C, 1]`. `x` may be `bf16`, with an `f32` weight; the result is then `bf16`. Other float types, and other devices
/// than the CPU, are served by a slower composition of candle's operations. A gradient is computed only for an operand that descends from a `Var`.
///
/// # Errors
/// Where shapes, types or the geometry do not fit together.
pub fn conv<const D: usize>(x: &Tensor, weight: &Tensor, geometry: &Geometry<D>) -> Result<Tensor> {
    let _timer = profile::forward("convolution");
    let problem = Problem::new(x, weight, geometry)?;
    convolve(problem, D, x, weight, None)
}

/// [`conv`], and `bias` `[O]`. Without a graph that is one pass, and the filters are kept in `kept`.
///
/// # Errors
/// As of [`conv`], and where the bias has another number of channels.
pub(crate) fn conv_with_bias<const D: usize>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: &Geometry<D>,
    kept: Option<FiltersOf>,
) -> Result<Tensor> {
    let parameters: Vec<&Tensor> = std::iter::once(weight).chain(bias).collect();
    if can_fuse(&[x], &parameters) {
        let shift = bias.map(Tensor::to_vec1::<f32>).transpose()?;
        let scale = vec![1.; shift.as_ref().map_or(0, Vec::len)];
        let fused = shift.as_ref().map(|shift| Fused { scale: &scale, shift, residual: None, relu: false });
        return conv_fused(x, weight, geometry, fused, kept);
    }
    let y = conv(x, weight, geometry)?;
    match bias {
        Some(bias) => add_bias(&y, bias),
        None => Ok(y),
    }
}

/// [`conv`], and the moments of the result's channels where its kernels take them. Without a graph, the filters are kept in
/// `kept`.
///
/// # Errors
/// As of [`conv`].
pub(crate) fn conv_with_moments<const D: usize>(
    x: &Tensor,
    weight: &Tensor,
    geometry: &Geometry<D>,
    kept: Option<FiltersOf>,
) -> Result<(Tensor, Option<Moments>)> {
    let _timer = profile::forward("convolution");
    let problem = Problem::new(x, weight, geometry)?;
    let observed = Observed::default();
    let y = match can_fuse(&[x], &[weight]) {
        true => convolve_fused(problem, problem.output_shape(D), x, weight, None, kept, Some(&observed))?,
        false => convolve(problem, D, x, weight, Some(&observed))?,
    };
    Ok((y, observed.joined(problem.out_channels)))
}

/// Not generic, so that the kernels are compiled in this crate, with its optimisations.
fn convolve(problem: Problem, dims: usize, x: &Tensor, weight: &Tensor, observed: Option<&Observed>) -> Result<Tensor> {
    by_number!(
        Stored::of(&[x], &[weight]),
        N => on_cpu::<N>(Isa::chosen()?, problem, dims, &x.contiguous()?, &weight.contiguous()?, observed),
        else reference::conv(x, weight, &problem, dims)
    )
}

/// What follows a convolution in the same pass over memory: `relu(scale * y + shift + residual)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fused<'a> {
    /// `[O]`.
    pub scale: &'a [f32],
    /// `[O]`.
    pub shift: &'a [f32],
    /// Of the result's shape.
    pub residual: Option<&'a Tensor>,
    pub relu: bool,
}

/// Whether [`conv_fused`] takes these maps and parameters.
pub(crate) fn can_fuse(maps: &[&Tensor], parameters: &[&Tensor]) -> bool {
    Stored::of(maps, parameters).is_some() && !maps.iter().chain(parameters).any(|operand| operand.track_op())
}

/// [`conv`] without a graph, and what follows it; the filters are kept in `kept`.
///
/// # Errors
/// As of [`conv`], and where what follows has other shapes.
pub(crate) fn conv_fused<const D: usize>(
    x: &Tensor,
    weight: &Tensor,
    geometry: &Geometry<D>,
    fused: Option<Fused>,
    kept: Option<FiltersOf>,
) -> Result<Tensor> {
    let _timer = profile::forward("convolution");
    let problem = Problem::new(x, weight, geometry)?;
    let shape = problem.output_shape(D);
    if let Some(Fused { scale, shift, residual, .. }) = fused {
        let out = problem.out_channels;
        if scale.len() != out || shift.len() != out {
            let (scale, shift) = (scale.len(), shift.len());
            candle_core::bail!("a norm of {scale} and {shift} channels follows a convolution to {out}");
        }
        if let Some(residual) = residual.filter(|residual| *residual.shape() != shape) {
            candle_core::bail!("a residual of {:?} cannot be added to {shape:?}", residual.shape());
        }
    }
    convolve_fused(problem, shape, x, weight, fused, kept, None)
}

/// As [`convolve`].
fn convolve_fused(
    problem: Problem,
    shape: Shape,
    x: &Tensor,
    weight: &Tensor,
    fused: Option<Fused>,
    kept: Option<FiltersOf>,
    observed: Option<&Observed>,
) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let residual = fused.and_then(|fused| fused.residual).map(Tensor::contiguous).transpose()?;
    let maps: Vec<&Tensor> = std::iter::once(&x).chain(&residual).collect();
    by_number!(Stored::of(&maps, &[&weight]), N => {
        let residual = residual.as_ref().map(values_of::<N>).transpose()?;
        let residual = residual.as_deref();
        let finish = fused.map(|Fused { scale, shift, relu, .. }| Finish { scale, shift, residual, relu });
        let weight = values(&weight)?;
        let weight = Weight { values: &weight, kept };
        let y = cpu::forward(Isa::chosen()?, &problem, &values_of::<N>(&x)?, weight, finish, observed, false)?;
        Tensor::from_vec(y, shape, &Device::Cpu)
    }, else candle_core::bail!("only f32 and bf16 in main memory are fused: ask `can_fuse`"))
}

fn on_cpu<N: Map>(
    isa: Isa,
    problem: Problem,
    dims: usize,
    x: &Tensor,
    weight: &Tensor,
    observed: Option<&Observed>,
) -> Result<Tensor> {
    let wants = [x.track_op(), weight.track_op()];
    let precise = wants[0] || wants[1];
    let y = cpu::forward::<N>(isa, &problem, &values_of(x)?, Weight::new(&values(weight)?), None, observed, precise)?;
    let (x_saved, weight_saved) = (x.detach(), weight.detach());
    record_onto("convolution", [x, weight], y, problem.output_shape(dims), move |dy, others| {
        let dx = || {
            let _timer = profile::start("convolution", Pass::DataGradient);
            let others = others.map(Tensor::contiguous).transpose()?;
            let others = others.as_ref().map(values_of::<N>).transpose()?;
            let weight = values(&weight_saved)?;
            let dx = cpu::data_gradient::<N>(isa, &problem, &values_of(dy)?, &weight, others.as_deref())?;
            Tensor::from_vec(dx, x_saved.shape(), &Device::Cpu)
        };
        let dw = || {
            let _timer = profile::start("convolution", Pass::WeightGradient);
            let dw = cpu::weight_gradient::<N>(isa, &problem, &values_of(&x_saved)?, &values_of(dy)?)?;
            Tensor::from_vec(dw, weight_saved.shape(), &Device::Cpu)
        };
        Ok([wants[0].then(dx).transpose()?, wants[1].then(dw).transpose()?])
    })
}
