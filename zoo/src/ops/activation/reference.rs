use super::Activation;
use candle_core::{Result, Tensor};
use std::f64::consts::FRAC_1_SQRT_2;

pub(super) fn forward(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(x.clone()),
        Activation::Relu => relu(x),
        Activation::Silu => x * sigmoid(x)?,
        Activation::Gelu => (x * 0.5)? * ((x * FRAC_1_SQRT_2)?.erf()? + 1.)?,
        Activation::Sigmoid => sigmoid(x),
    }
}

/// candle's own has derivative 1 at 0.
pub(in crate::ops) fn relu(x: &Tensor) -> Result<Tensor> {
    x.le(0.)?.where_cond(&x.zeros_like()?, x)
}

/// `(1 + tanh(x / 2)) / 2`, which cannot overflow.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    ((x * 0.5)?.tanh()? + 1.)? * 0.5
}
