//! Inverted residuals (Sandler et al. 2018, "MobileNetV2") with squeeze-and-excitation, as a block of one's own.
//!
//! 69,874 parameters, 11,292,560 multiply-accumulates at 3x64x64.
//! Compiled from `inverted_residual.yaml`; tensors are channels-last inside.
use ::zoo::candle_core::{Result, Tensor};
use ::zoo::candle_nn::{ModuleT, VarBuilder};
use ::zoo::nn::{
    Activation, BatchNorm, Conv2d, ConvConfig, DropPath, Dropout, Linear, NormConfig,
    SqueezeExcite, add_activation, channels_first, channels_last, global_avg_pool,
    segment, stage,
};
use ::zoo::{Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess};
/// What the spec says about this architecture.
pub const CARD: ModelCard = ModelCard {
    name: "inverted_residual",
    params: 69874,
    macs: 11292560,
    dims: 2,
    input: &[3, 64, 64],
    classes: 10,
    features: &[
        FeatureCard {
            name: "c2",
            channels: 16,
            stride: 2,
        },
        FeatureCard {
            name: "c3",
            channels: 24,
            stride: 4,
        },
        FeatureCard {
            name: "c4",
            channels: 40,
            stride: 8,
        },
    ],
    first_conv: "conv1",
    classifier: Some("fc"),
    preprocess: Preprocess {
        resize: 73,
        crop: 64,
        interpolation: Interpolation::Bilinear,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    },
    weights: &[],
    sources: &[
        (
            "inverted_residual.yaml",
            r#"name: inverted_residual
doc: Inverted residuals (Sandler et al. 2018, "MobileNetV2") with squeeze-and-excitation, as a block of one's own.
input: {size: 64}
stem: {3x3: {width: 16, stride: 2}}
activation: silu
block: inverted
blocks:
  inverted:
    layers:
      expand: {conv: {kernel: 1, channels: 4 * in}}
      bn1: norm
      act1: activation
      depthwise: {conv: {stride: block, channels: 4 * in, groups: depthwise}}
      bn2: norm
      act2: activation
      se: {se: {ratio: 1/4}}
      project: {conv: {kernel: 1, channels: out}}
      bn3: norm
    shortcut: same
    after: none
stages:
  - {depth: 2, channels: 16}
  - {depth: 2, channels: 24, stride: 2, kernel: 5}
  - {depth: 2, channels: 40, stride: 2}
drop_path: 0.1
dropout: 0.2
head: {classes: 10}
"#,
        ),
    ],
    spec_sha256: "6ad054cf4cc91d8735a5bcd69ce4f1b70b89596d6bc9ac4888dad41adbb048ed",
};
/// The network for a table of models.
pub const ENTRY: Entry = Entry {
    card: &CARD,
    build: |classes, vb| Ok(Box::new(InvertedResidual::new(classes, vb)?)),
};
const NORM: NormConfig = NormConfig {
    zero_init: false,
    eps: 0.00001,
    momentum: 0.1,
};
/// Logits `f32[N, classes]` of an image `f32[N, 3, H, W]`.
#[derive(Debug, Clone)]
pub struct InvertedResidual {
    /// `f32[N, 32, 32, 16]`
    pub conv1: Conv2d,
    /// `f32[N, 32, 32, 16]`
    pub bn1: BatchNorm,
    /// `f32[N, 32, 32, 16]`
    pub layer1: Vec<InvertedBlock>,
    /// `f32[N, 16, 16, 24]`
    pub layer2: Vec<InvertedBlock>,
    /// `f32[N, 8, 8, 40]`
    pub layer3: Vec<InvertedBlock>,
    /// Before the classifier, in training.
    pub dropout: Dropout,
    /// `f32[N, classes]`
    pub fc: Linear,
}
impl InvertedResidual {
    /// Reads or makes the parameters, for so many classes.
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        Ok(InvertedResidual {
            conv1: Conv2d::new(
                3,
                16,
                ConvConfig {
                    stride: [2, 2],
                    padding: [1, 1],
                    ..ConvConfig::new([3, 3])
                },
                vb.pp("conv1"),
            )?,
            bn1: BatchNorm::new(16, NORM, vb.pp("bn1"))?,
            layer1: InvertedBlock::stage(2, 16, 16, [3, 3], [1, 1], 0, vb.pp("layer1"))?,
            layer2: InvertedBlock::stage(2, 16, 24, [5, 5], [2, 2], 2, vb.pp("layer2"))?,
            layer3: InvertedBlock::stage(2, 24, 40, [3, 3], [2, 2], 4, vb.pp("layer3"))?,
            dropout: Dropout::new(0.2, &vb.pp("dropout"))?,
            fc: Linear::new(40, classes, vb.pp("fc"))?,
        })
    }
    /// The channels-last feature maps `c2` to `c4`.
    fn stages(&self, x: &Tensor, train: bool) -> Result<[Tensor; 3]> {
        let x = segment(
            &channels_last(x)?,
            |x| { self.bn1.forward_conv_t(&self.conv1, x, Activation::Silu, train) },
        )?;
        let c2 = stage(&x, &self.layer1, move |block, x| block.forward_t(x, train))?;
        let c3 = stage(&c2, &self.layer2, move |block, x| block.forward_t(x, train))?;
        let c4 = stage(&c3, &self.layer3, move |block, x| block.forward_t(x, train))?;
        Ok([c2, c3, c4])
    }
}
impl ModuleT for InvertedResidual {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let [_, _, c4] = self.stages(x, train)?;
        let x = global_avg_pool(&c4)?;
        let x = self.dropout.forward_t(&x, train)?;
        self.fc.forward(&x)
    }
}
impl Model for InvertedResidual {
    fn card(&self) -> &'static ModelCard {
        &CARD
    }
    fn forward_features(&self, x: &Tensor, train: bool) -> Result<Features> {
        let [c2, c3, c4] = self.stages(x, train)?;
        Ok(
            Features(
                Vec::from([
                    ("c2", channels_first(&c2)?),
                    ("c3", channels_first(&c3)?),
                    ("c4", channels_first(&c4)?),
                ]),
            ),
        )
    }
}
/// A residual block: `[N, .., c_in]` to `[N, .., channels]`.
#[derive(Debug, Clone)]
pub struct InvertedBlock {
    /// 1x1 convolution, `c_in` to `4 * c_in` channels.
    pub expand: Conv2d,
    /// Norm of `4 * c_in` channels.
    pub bn1: BatchNorm,
    /// kernel[0]xkernel[1] convolution, `4 * c_in` to `4 * c_in` channels in 4 * c_in groups.
    pub depthwise: Conv2d,
    /// Norm of `4 * c_in` channels.
    pub bn2: BatchNorm,
    /// Squeeze and excitation of `4 * c_in` channels.
    pub se: SqueezeExcite,
    /// 1x1 convolution, `4 * c_in` to `channels` channels.
    pub project: Conv2d,
    /// Norm of `channels` channels.
    pub bn3: BatchNorm,
    /// Whether the block keeps its input's shape, and so adds it.
    pub keeps_shape: bool,
    /// Stochastic depth, likelier in later blocks.
    pub drop_path: DropPath,
}
impl InvertedBlock {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        block: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(InvertedBlock {
            expand: Conv2d::new(
                c_in,
                4 * c_in,
                ConvConfig::new([1, 1]),
                vb.pp("expand"),
            )?,
            bn1: BatchNorm::new(4 * c_in, NORM, vb.pp("bn1"))?,
            depthwise: Conv2d::new(
                4 * c_in,
                4 * c_in,
                ConvConfig {
                    stride,
                    padding: [kernel[0] / 2, kernel[1] / 2],
                    groups: 4 * c_in,
                    ..ConvConfig::new(kernel)
                },
                vb.pp("depthwise"),
            )?,
            bn2: BatchNorm::new(4 * c_in, NORM, vb.pp("bn2"))?,
            se: SqueezeExcite::new(
                4 * c_in,
                ((4 * c_in / 4 + 4) / 8 * 8).max(8),
                vb.pp("se"),
            )?,
            project: Conv2d::new(
                4 * c_in,
                channels,
                ConvConfig::new([1, 1]),
                vb.pp("project"),
            )?,
            bn3: BatchNorm::new(channels, NORM, vb.pp("bn3"))?,
            keeps_shape: stride == [1, 1] && c_in == channels,
            drop_path: DropPath::new(0.1 * block as f64 / 5.0, &vb.pp("drop_path"))?,
        })
    }
    /// `depth` blocks, the first of which changes the shape.
    pub fn stage(
        depth: usize,
        c_in: usize,
        channels: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        block: usize,
        vb: VarBuilder,
    ) -> Result<Vec<Self>> {
        let first = Self::new(c_in, channels, kernel, stride, block, vb.pp(0));
        let rest = (1..depth)
            .map(|index| Self::new(
                channels,
                channels,
                kernel,
                [1, 1],
                block + index,
                vb.pp(index),
            ));
        std::iter::once(first).chain(rest).collect()
    }
    /// The block's output; `train` says whether norms use the batch and dropouts draw.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = x.clone();
        let x = self.bn1.forward_conv_t(&self.expand, x, Activation::Silu, train)?;
        let x = self.bn2.forward_conv_t(&self.depthwise, &x, Activation::Silu, train)?;
        let x = self.se.forward(&x)?;
        let x = self.bn3.forward_conv_t(&self.project, &x, Activation::Identity, train)?;
        if self.keeps_shape {
            let x = self.drop_path.forward_t(&x, train)?;
            add_activation(&x, &shortcut, Activation::Identity)
        } else {
            Ok(x)
        }
    }
}
