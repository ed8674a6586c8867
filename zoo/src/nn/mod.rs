//! Layers, one a file, as generated code uses them. Inside a network tensors are contiguous
//! channels-last: `[N, H, W, C]`, `[N, D, H, W, C]`.

mod conv;
mod dropout;
mod eca;
mod fpn;
mod layout;
mod linear;
mod norm;
mod pool;
mod squeeze_excite;
mod stage;

pub use crate::ops::segment;
pub use crate::ops::{Activation, adaptive_avg_pool, add_activation, global_avg_pool, pad_shortcut};
pub use conv::{Conv, Conv1d, Conv2d, Conv3d, ConvConfig};
pub use dropout::{DropPath, Dropout};
pub use eca::EfficientChannelAttention;
pub use fpn::FeaturePyramid;
pub use layout::{channels_first, channels_last, to_dtype};
pub use linear::Linear;
pub use norm::{BatchNorm, GroupNorm, NormConfig};
pub use pool::{AvgPool, AvgPool1d, AvgPool2d, AvgPool3d, MaxPool, MaxPool1d, MaxPool2d, MaxPool3d};
pub use squeeze_excite::SqueezeExcite;
pub use stage::stage;

#[cfg(test)]
mod tests;
