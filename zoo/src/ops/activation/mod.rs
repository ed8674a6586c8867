//! Activations, alone or after an addition.
//!
//! | | `y` | `dx / dy` |
//! |---|---|---|
//! | ReLU | `max(x, 0)` | 1 where `y > 0`, else 0: at 0 it is 0 |
//! | SiLU | `x s(x)`, `s` the sigmoid | `s(x) (1 + x (1 - s(x)))` |
//! | GELU | `x F(x)`, `F` the standard normal distribution | `F(x) + x exp(-x^2 / 2) / sqrt(2 pi)` |
//! | sigmoid | `s(x)` | `s(x) (1 - s(x))` |
//!
//! ReLU: Nair and Hinton (2010). SiLU: Elfwing et al. (2017). GELU, exact: Hendrycks and Gimpel (2016).

pub(super) mod cpu;
pub(super) mod reference;

use crate::ops::number::{Stored, by_number};
use crate::ops::profile;
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
        let _timer = profile::forward("activation");
        if !x.dtype().is_float() {
            bail!("an activation takes floats, not {:?}", x.dtype());
        }
        match self {
            Activation::Identity => Ok(x.clone()),
            _ => {
                by_number!(Stored::of(&[x], &[]), N => cpu::forward::<N>(x, self), else reference::forward(x, self))
            }
        }
    }
}

/// `activation(a + b)`, the end of a residual block; the shapes are equal.
///
/// # Errors
/// Where the shapes differ.
pub fn add_activation(a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
    let _timer = profile::forward("activation");
    if a.dims() != b.dims() {
        bail!("add_activation takes equal shapes, not {:?} and {:?}", a.shape(), b.shape());
    }
    let stored = Stored::of(&[a, b], &[]).filter(|_| activation == Activation::Relu);
    by_number!(stored, N => cpu::add_relu::<N>(a, b), else activation.forward(&(a + b)?))
}

#[cfg(test)]
mod tests;
