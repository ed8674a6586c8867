//! What every compiled model is: a [`Model`] with a [`ModelCard`].

use candle_core::{Result, Tensor};
use candle_nn::{ModuleT, VarBuilder};

/// A network that `zoo!` compiled.
///
/// `forward_t` takes `f32[N, C, H, W]` (3D: `f32[N, C, D, H, W]`), normalised as the card's
/// preprocessing says, and returns logits `f32[N, classes]`; a headless backbone returns its last
/// feature map.
pub trait Model: ModuleT + Send + Sync {
    /// What the spec says about this architecture.
    fn card(&self) -> &'static ModelCard;

    /// The named feature maps, finest first, each `f32[N, C, H, W]` (3D: `f32[N, C, D, H, W]`).
    ///
    /// # Errors
    /// Where the input's shape does not fit.
    fn forward_features(&self, x: &Tensor, train: bool) -> Result<Features>;
}

/// Named feature maps, finest first: `c2` to `c5`, or with a neck `p2` to `p6`.
#[derive(Debug, Clone)]
pub struct Features(pub Vec<(&'static str, Tensor)>);

impl Features {
    /// The map of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, map)| map)
    }
}

/// A network in a table of networks: its card and how to build it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What the spec says.
    pub card: &'static ModelCard,
    /// Builds it with so many classes, reading or making its parameters; a headless network has none.
    pub build: fn(usize, VarBuilder) -> Result<Box<dyn Model>>,
}

/// Facts about an architecture, all known when it was compiled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelCard {
    /// The module's name: `resnet34`.
    pub name: &'static str,
    /// Parameters with `classes` classes, running statistics not counted.
    pub params: usize,
    /// Multiply-accumulates of one forward pass of one sample at `input`.
    pub macs: u64,
    /// Spatial dimensions: 2 or 3.
    pub dims: usize,
    /// Channels, then the spatial size that the card's figures are for: `[3, 224, 224]`.
    pub input: &'static [usize],
    /// Classes of the published head; 0 for a headless backbone.
    pub classes: usize,
    /// The feature maps that `forward_features` returns, finest first.
    pub features: &'static [FeatureCard],
    /// The path of the first convolution: `conv1`.
    pub first_conv: &'static str,
    /// The path of the classifier, where there is one: `fc`.
    pub classifier: Option<&'static str>,
    /// How to prepare an image for evaluation.
    pub preprocess: Preprocess,
    /// Published weights.
    pub weights: &'static [WeightCard],
    /// The files of the spec, the spec itself first, then what it extends: name and text.
    pub sources: &'static [(&'static str, &'static str)],
    /// sha256 over `sources`, hexadecimal.
    pub spec_sha256: &'static str,
}

/// One named feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureCard {
    /// `c2` to `c5`, `p2` to `p6`.
    pub name: &'static str,
    /// Channels.
    pub channels: usize,
    /// Input pixels (height and width) a cell.
    pub stride: usize,
}

/// How an image becomes an input for evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocess {
    /// The shorter side after resizing, in pixels.
    pub resize: usize,
    /// The side of the central crop, in pixels.
    pub crop: usize,
    /// How to resize.
    pub interpolation: Interpolation,
    /// Mean of each channel, of values in 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

/// Resize filters, with antialiasing as Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Triangle filter.
    Bilinear,
    /// Cubic filter, a = -0.5.
    Bicubic,
}

/// One published set of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightCard {
    /// timm's tag: `a1_in1k`.
    pub tag: &'static str,
    /// The Hub's repository: `timm/resnet34.a1_in1k`.
    pub repository: &'static str,
    /// The commit, 40 hexadecimal digits, where the spec pins one.
    pub revision: Option<&'static str>,
    /// The file in the repository: `model.safetensors`.
    pub file: &'static str,
    /// sha256 of the file, hexadecimal, where the spec pins it.
    pub sha256: Option<&'static str>,
    /// Size of the file in bytes, where the spec pins it.
    pub size: Option<u64>,
    /// SPDX identifier of the weights' licence.
    pub licence: &'static str,
    /// Published top-1 accuracy, 0 to 1, at `preprocess`.
    pub top1: Option<f64>,
    /// The preprocessing of these weights, where it is not the model's.
    pub preprocess: Option<Preprocess>,
}
