//! The bias as a composition of candle's operations.

use candle_core::{Result, Tensor};

/// See [`super::add_bias`].
pub(super) fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.broadcast_add(bias)
}
