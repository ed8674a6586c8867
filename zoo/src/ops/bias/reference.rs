//! The bias as a composition of candle's operations.

use crate::ops::node::computing;
use candle_core::{Result, Tensor};

/// See [`super::add_bias`].
pub(super) fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let wide = computing(x.dtype());
    x.to_dtype(wide)?.broadcast_add(&bias.to_dtype(wide)?)?.to_dtype(x.dtype())
}
