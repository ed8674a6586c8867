//! The fully connected layer: a convolution with a kernel of one over a line of `N` cells.
//!
//! `y = x w^T + b`, so `dx = dy w`, `dw = dy^T x`, `db = sum of dy over the rows`.

use super::Geometry;
use super::conv::{FiltersOf, conv_with_bias};
use candle_core::{Result, Tensor, bail};

/// `x[N, in]` times `weight[out, in]` transposed, plus `bias[out]`: `[N, out]`.
///
/// # Errors
/// Where the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_with(x, weight, bias, None)
}

/// [`linear`]; without a graph, the weight is kept in the engine's order in `kept`.
///
/// # Errors
/// As of [`linear`].
pub(crate) fn linear_with(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    kept: Option<FiltersOf>,
) -> Result<Tensor> {
    let (&[_, inputs], &[outputs, expected]) = (x.dims(), weight.dims()) else {
        bail!("linear takes x[N, in] and weight[out, in], not {:?} and {:?}", x.shape(), weight.shape());
    };
    if inputs != expected || bias.is_some_and(|bias| bias.dims() != [outputs]) {
        let bias = bias.map(Tensor::shape);
        bail!("linear takes x[N, in], weight[out, in], bias[out], not {:?}, {:?}, {bias:?}", x.shape(), weight.shape());
    }
    conv_with_bias::<1>(&x.unsqueeze(0)?, &weight.unsqueeze(2)?, bias, &Geometry::default(), kept)?.squeeze(0)
}

#[cfg(test)]
mod tests;
