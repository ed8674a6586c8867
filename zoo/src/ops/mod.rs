//! The operations that training a convolutional network needs, one folder each: forward and backward,
//! channels-last (`[N, .., C]`).
//!
//! An op has two implementations behind one door. `reference` is a composition of candle's operations:
//! slow, any device, any float type, differentiated by candle itself; it is the oracle of the tests.
//! `cpu` is the CPU's, with its own derivative, for maps of `f32` or `bf16` with `f32` parameters. It computes in `f32`
//! and rounds a `bf16` result once; gradients of parameters, and means over all cells, stay `f32`.
//!
//! Results do not depend on the number of threads: work is split over outputs, or over chunks of fixed
//! size that are summed in a fixed order.

pub mod activation;
mod amx;
pub mod bias;
mod bins;
pub mod ceiling;
pub mod conv;
pub mod dropout;
pub mod isa;
mod lanes;
pub mod linear;
pub mod loss;
mod memory;
pub(crate) mod moments;
mod node;
pub mod norm;
mod number;
mod parallel;
pub mod pool;
pub mod profile;
pub mod scale;
pub mod shortcut;
mod tape;
mod tasks;
mod transpose;
pub mod upsample;

#[cfg(test)]
pub(crate) mod oracle;

pub use activation::{Activation, add_activation};
pub use bias::add_bias;
pub use conv::{Geometry, conv, with_direct_convolutions};
pub use dropout::{DropRate, drop_path, dropout};
pub use isa::Isa;
pub use linear::linear;
pub use loss::{Target, cross_entropy};
pub use memory::{MapAllocator, keep_freed_memory};
pub use norm::{BatchStatistics, Epilogue, batch_norm, batch_norm_with, group_norm};
pub use pool::{AvgPool, MaxPool, adaptive_avg_pool, avg_pool, global_avg_pool, max_pool};
pub use scale::scale;
pub use shortcut::pad_shortcut;
pub use tape::{backward, checkpoint, segment};
pub use upsample::upsample_nearest;
