//! ResNets compiled from YAML, and what trains them.

pub mod grad;
#[cfg(feature = "hub")]
pub mod hub;
pub mod model;
pub mod models;
pub mod nn;
pub mod ops;
pub mod params;
pub mod random;
pub mod update;
pub mod weights;

pub use candle_core;
pub use candle_nn;
pub use grad::no_grad;
pub use model::{Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess, WeightCard};
pub use params::Params;
pub use resnet_macros::zoo;
