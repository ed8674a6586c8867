//! A learnt constant for each channel: `y[.., c] = x[.., c] + bias[c]`.
//!
//! `dx = g`, and `dbias[c]` is the sum of `g[.., c]` over everything but the channels.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use super::node::{computing, record, values, values_of};
use super::number::{Number, Stored, by_number};
use super::profile;
use candle_core::{Device, Error, Result, Tensor};

/// Adds `bias` `f32[C]` to the last axis of `x` `f32[.., C]` or `bf16[.., C]`.
///
/// # Errors
/// Where `x` has another number of channels than `bias`, or another type.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let _timer = profile::forward("bias");
    let typed = bias.dtype() == x.dtype() || bias.dtype() == computing(x.dtype());
    if bias.rank() != 1 || x.dims().last() != bias.dims().last() || !typed {
        return Err(Error::Msg(format!(
            "bias: x must be [.., C] and the bias [C] of the same type (or f32, of a half-precision x); x is {:?} {}, \
             the bias {:?} {}",
            x.dims(),
            x.dtype().as_str(),
            bias.dims(),
            bias.dtype().as_str()
        )));
    }
    by_number!(
        Stored::of(&[x], &[bias]),
        N => on_cpu::<N>(&x.contiguous()?, &bias.contiguous()?),
        else reference::add_bias(x, bias)
    )
}

fn on_cpu<N: Number>(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let y = cpu::add_bias::<N>(&values_of(x)?, &values(bias)?);
    let (wants, shape) = ([x.track_op(), bias.track_op()], bias.shape().clone());
    record("bias", [x, bias], y, x.shape(), move |dy| {
        let sums =
            || Tensor::from_vec(cpu::sum_of_rows::<N>(&values_of(dy)?, shape.elem_count()), &shape, &Device::Cpu);
        Ok([wants[0].then(|| dy.clone()), wants[1].then(sums).transpose()?])
    })
}
