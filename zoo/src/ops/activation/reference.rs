use super::Activation;
use crate::ops::node::computing;
use candle_core::{Result, Tensor};
use std::f64::consts::FRAC_1_SQRT_2;

pub(super) fn forward(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let wide = x.to_dtype(computing(x.dtype()))?;
    let y = match activation {
        Activation::Identity => Ok(wide),
        Activation::Relu => relu(&wide),
        Activation::Silu => &wide * sigmoid(&wide)?,
        Activation::Gelu => (&wide * 0.5)? * ((&wide * FRAC_1_SQRT_2)?.erf()? + 1.)?,
        Activation::Sigmoid => sigmoid(&wide),
    };
    y?.to_dtype(x.dtype())
}

/// candle's own has derivative 1 at 0.
pub(in crate::ops) fn relu(x: &Tensor) -> Result<Tensor> {
    x.le(0.)?.where_cond(&x.zeros_like()?, x)
}

/// `(1 + tanh(x / 2)) / 2`, which cannot overflow.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? + 1.)? * 0.5
}
