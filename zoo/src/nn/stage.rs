//! A stage of a residual network.

use crate::ops::segment;
use candle_core::{Result, Tensor};

/// Runs `blocks` one after the other, as one node of candle's graph (see [`segment`]).
///
/// # Errors
/// Those of `forward`.
pub fn stage<B>(x: &Tensor, blocks: &[B], forward: impl Fn(&B, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    segment(x, |x| blocks.iter().try_fold(x.clone(), |x, block| forward(block, &x)))
}
