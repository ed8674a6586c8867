//! As much of package `zoo` as the stub of a wrong spec names, so that these cases need no candle.

pub mod candle_core {
    pub struct Error;
    pub type Result<T> = std::result::Result<T, Error>;
    pub struct Tensor;
}

pub mod candle_nn {
    pub struct VarBuilder;
    pub trait ModuleT {
        fn forward_t(&self, x: &super::candle_core::Tensor, train: bool) -> super::candle_core::Result<super::candle_core::Tensor>;
    }
}

use candle_core::{Result, Tensor};

pub struct Features;
pub struct FeatureCard;
pub struct WeightCard;
pub enum Interpolation {
    Nearest,
}
pub struct Preprocess {
    pub resize: usize,
    pub crop: usize,
    pub interpolation: Interpolation,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}
pub struct ModelCard {
    pub name: &'static str,
    pub params: usize,
    pub macs: u64,
    pub dims: usize,
    pub input: &'static [usize],
    pub classes: usize,
    pub features: &'static [FeatureCard],
    pub first_conv: &'static str,
    pub classifier: Option<&'static str>,
    pub preprocess: Preprocess,
    pub weights: &'static [WeightCard],
    pub sources: &'static [(&'static str, &'static str)],
    pub spec_sha256: &'static str,
}
pub trait Model: candle_nn::ModuleT {
    fn card(&self) -> &'static ModelCard;
    fn forward_features(&self, x: &Tensor, train: bool) -> Result<Features>;
}
pub struct Entry {
    pub card: &'static ModelCard,
    pub build: fn(usize, candle_nn::VarBuilder) -> Result<Box<dyn Model>>,
}
