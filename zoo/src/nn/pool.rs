//! Pooling layers.

use crate::ops;
use candle_core::{Result, Tensor};

pub use ops::{AvgPool, MaxPool};

/// Max pooling of `[N, L, C]`.
pub type MaxPool1d = MaxPool<1>;
/// Max pooling of `[N, H, W, C]`.
pub type MaxPool2d = MaxPool<2>;
/// Max pooling of `[N, D, H, W, C]`.
pub type MaxPool3d = MaxPool<3>;
/// Average pooling of `[N, L, C]`.
pub type AvgPool1d = AvgPool<1>;
/// Average pooling of `[N, H, W, C]`.
pub type AvgPool2d = AvgPool<2>;
/// Average pooling of `[N, D, H, W, C]`.
pub type AvgPool3d = AvgPool<3>;

impl<const D: usize> MaxPool<D> {
    /// `x[N, spatial.., C]` to `[N, windows.., C]`.
    ///
    /// # Errors
    /// Where the rank is not `D + 2`, or the windows do not fit the input.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::max_pool(x, self)
    }
}

impl<const D: usize> AvgPool<D> {
    /// `x[N, spatial.., C]` to `[N, windows.., C]`.
    ///
    /// # Errors
    /// Where the rank is not `D + 2`, or the windows do not fit the input.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::avg_pool(x, self)
    }
}
