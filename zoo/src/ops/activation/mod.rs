//! Activations, alone or after an addition.
//!
//! | | `y` | `dx / dy` |
//! |---|---|---|
//! | ReLU | `max(x, 0)` | 1 where `y > 0`, else 0: at 0 it is 0 |
//! | SiLU | `x s(x)`, `s` the sigmoid | `s(x) (1 + x (1 - s(x)))` |
//! | GELU | `x F(x)`, `F` the standard normal distribution | `F(x) + x exp(-x^2 / 2) / sqrt(2 pi)` |
//! | sigmoid | `s(x)` | `y (1 - y)` |
//!
//! ReLU: Nair and Hinton (2010). SiLU: Elfwing et al. (2017). GELU, exact: Hendrycks and Gimpel (2016).

pub(super) mod cpu;
pub(super) mod reference;

use crate::ops::node::in_main_memory;
use candle_core::{Result, Tensor, bail};

/// A function of each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`, also called swish.
    Silu,
    /// `x F(x)` with the exact normal distribution function.
    Gelu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Activation {
    /// The activation of every value of `x`, of any shape.
    ///
    /// # Errors
    /// Where the dtype is no float.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        if !x.dtype().is_float() {
            bail!("an activation takes floats, not {:?}", x.dtype());
        }
        match self {
            Activation::Identity => Ok(x.clone()),
            _ if in_main_memory(&[x]) => cpu::forward(x, self),
            _ => reference::forward(x, self),
        }
    }
}

/// `activation(a + b)`, the end of a residual block; the shapes are equal.
///
/// # Errors
/// Where the shapes differ.
pub fn add_activation(a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("add_activation takes equal shapes, not {:?} and {:?}", a.shape(), b.shape());
    }
    match activation {
        Activation::Relu if in_main_memory(&[a, b]) => cpu::add_relu(a, b),
        _ => activation.forward(&(a + b)?),
    }
}

#[cfg(test)]
mod tests;
