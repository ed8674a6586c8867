//! Pre-activation bottlenecks (He et al. 2016, "Identity mappings"), with group norm and a dilated last stage.
//!
//! 461,600 parameters, 40,468,480 multiply-accumulates at 3x64x64.
//! Compiled from `preactivation.yaml`; tensors are channels-last inside.
use ::zoo::candle_core::{Result, Tensor};
use ::zoo::candle_nn::{ModuleT, VarBuilder};
use ::zoo::nn::{
    Activation, Conv2d, ConvConfig, Dropout, GroupNorm, MaxPool, NormConfig,
    add_activation, channels_first, channels_last, segment, stage,
};
use ::zoo::{Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess};
/// What the spec says about this architecture.
pub const CARD: ModelCard = ModelCard {
    name: "preactivation",
    params: 461600,
    macs: 40468480,
    dims: 2,
    input: &[3, 64, 64],
    classes: 0,
    features: &[
        FeatureCard {
            name: "c2",
            channels: 64,
            stride: 4,
        },
        FeatureCard {
            name: "c3",
            channels: 128,
            stride: 8,
        },
        FeatureCard {
            name: "c4",
            channels: 128,
            stride: 8,
        },
    ],
    first_conv: "conv1",
    classifier: None,
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
            "preactivation.yaml",
            r#"name: preactivation
doc: Pre-activation bottlenecks (He et al. 2016, "Identity mappings"), with group norm and a dilated last stage.
input: {size: 64}
norm: {group: 8}
zero_init_last: true
block: preact
groups: 2
blocks:
  preact:
    expansion: 2
    layers:
      norm1: norm
      act1: relu
      conv1: {conv: {kernel: 1, channels: width}}
      norm2: norm
      act2: relu
      conv2: {conv: {kernel: block, channels: width, stride: block, dilation: block, groups: block}}
      drop: {dropout: 0.1}
      norm3: norm
      act3: relu
      conv3: {conv: {kernel: 1, channels: out, bias: true}}
    after: none
stages:
  - {depth: 1, channels: 32}
  - {depth: 2, channels: 64}
  - {depth: 2, channels: 64, stride: 1, dilation: 2}
head: none
"#,
        ),
    ],
    spec_sha256: "60788f4c9972386a36d78f2734b8ca94cc5e8e869276d7cbc6afa0b60183ba85",
};
/// The network for a table of models.
pub const ENTRY: Entry = Entry {
    card: &CARD,
    build: |_, vb| Ok(Box::new(Preactivation::new(vb)?)),
};
const NORM: NormConfig = NormConfig {
    zero_init: false,
    eps: 0.00001,
    momentum: 0.1,
};
/// The last feature map of an image `f32[N, 3, H, W]`.
#[derive(Debug, Clone)]
pub struct Preactivation {
    /// `f32[N, 32, 32, 32]`
    pub conv1: Conv2d,
    /// `f32[N, 32, 32, 32]`
    pub bn1: GroupNorm,
    /// `f32[N, 16, 16, 32]`
    pub maxpool: MaxPool<2>,
    /// `f32[N, 16, 16, 64]`
    pub layer1: Vec<PreactBlock>,
    /// `f32[N, 8, 8, 128]`
    pub layer2: Vec<PreactBlock>,
    /// `f32[N, 8, 8, 128]`
    pub layer3: Vec<PreactBlock>,
}
impl Preactivation {
    /// Reads or makes the parameters.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Preactivation {
            conv1: Conv2d::new(
                3,
                32,
                ConvConfig {
                    stride: [2, 2],
                    padding: [3, 3],
                    ..ConvConfig::new([7, 7])
                },
                vb.pp("conv1"),
            )?,
            bn1: GroupNorm::new(8, 32, NORM, vb.pp("bn1"))?,
            maxpool: MaxPool {
                kernel: [3, 3],
                stride: [2, 2],
                padding: [1, 1],
            },
            layer1: PreactBlock::stage(1, 32, 32, [1, 1], 1, 1, vb.pp("layer1"))?,
            layer2: PreactBlock::stage(2, 64, 64, [2, 2], 1, 1, vb.pp("layer2"))?,
            layer3: PreactBlock::stage(2, 128, 64, [1, 1], 1, 2, vb.pp("layer3"))?,
        })
    }
    /// The channels-last feature maps `c2` to `c4`.
    fn stages(&self, x: &Tensor, train: bool) -> Result<[Tensor; 3]> {
        let x = segment(
            &channels_last(x)?,
            |x| {
                let x = self
                    .bn1
                    .forward_conv_t(&self.conv1, x, Activation::Relu, train)?;
                self.maxpool.forward(&x)
            },
        )?;
        let c2 = stage(&x, &self.layer1, move |block, x| block.forward_t(x, train))?;
        let c3 = stage(&c2, &self.layer2, move |block, x| block.forward_t(x, train))?;
        let c4 = stage(&c3, &self.layer3, move |block, x| block.forward_t(x, train))?;
        Ok([c2, c3, c4])
    }
}
impl ModuleT for Preactivation {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let [_, _, c4] = self.stages(x, train)?;
        channels_first(&c4)
    }
}
impl Model for Preactivation {
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
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Downsample(
    /// 1x1 convolution, `c_in` to `2 * channels` channels.
    pub Conv2d,
    /// Norm of `2 * channels` channels.
    pub GroupNorm,
);
impl Downsample {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(
            Downsample(
                Conv2d::new(
                    c_in,
                    2 * channels,
                    ConvConfig {
                        stride,
                        ..ConvConfig::new([1, 1])
                    },
                    vb.pp(0),
                )?,
                GroupNorm::new(8, 2 * channels, NORM, vb.pp(1))?,
            ),
        )
    }
    /// The layers, one after another.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.1.forward_conv_t(&self.0, x, Activation::Identity, train)
    }
}
/// A residual block: `[N, .., c_in]` to `[N, .., 2 * channels]`.
#[derive(Debug, Clone)]
pub struct PreactBlock {
    /// Norm of `c_in` channels.
    pub norm1: GroupNorm,
    /// 1x1 convolution, `c_in` to `2 * channels` channels.
    pub conv1: Conv2d,
    /// Norm of `2 * channels` channels.
    pub norm2: GroupNorm,
    /// 3x3 convolution, `2 * channels` to `2 * channels` channels in 2 groups.
    pub conv2: Conv2d,
    /// Dropout of 0.1.
    pub drop: Dropout,
    /// Norm of `2 * channels` channels.
    pub norm3: GroupNorm,
    /// 1x1 convolution, `2 * channels` to `2 * channels` channels.
    pub conv3: Conv2d,
    /// The shortcut of a block that changes the shape.
    pub downsample: Option<Downsample>,
}
impl PreactBlock {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        first_dilation: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let downsample = if stride != [1, 1] || c_in != 2 * channels {
            Some(Downsample::new(c_in, channels, stride, vb.pp("downsample"))?)
        } else {
            None
        };
        Ok(PreactBlock {
            norm1: GroupNorm::new(8, c_in, NORM, vb.pp("norm1"))?,
            conv1: Conv2d::new(
                c_in,
                2 * channels,
                ConvConfig::new([1, 1]),
                vb.pp("conv1"),
            )?,
            norm2: GroupNorm::new(8, 2 * channels, NORM, vb.pp("norm2"))?,
            conv2: Conv2d::new(
                2 * channels,
                2 * channels,
                ConvConfig {
                    stride,
                    padding: [first_dilation, first_dilation],
                    dilation: [first_dilation, first_dilation],
                    groups: 2,
                    ..ConvConfig::new([3, 3])
                },
                vb.pp("conv2"),
            )?,
            drop: Dropout::new(0.1, &vb.pp("drop"))?,
            norm3: GroupNorm::new(
                8,
                2 * channels,
                NormConfig {
                    zero_init: true,
                    ..NORM
                },
                vb.pp("norm3"),
            )?,
            conv3: Conv2d::new(
                2 * channels,
                2 * channels,
                ConvConfig {
                    bias: true,
                    ..ConvConfig::new([1, 1])
                },
                vb.pp("conv3"),
            )?,
            downsample,
        })
    }
    /// `depth` blocks, the first of which changes the shape.
    pub fn stage(
        depth: usize,
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        first_dilation: usize,
        dilation: usize,
        vb: VarBuilder,
    ) -> Result<Vec<Self>> {
        let first = Self::new(c_in, channels, stride, first_dilation, vb.pp(0));
        let rest = (1..depth)
            .map(|index| Self::new(
                2 * channels,
                channels,
                [1, 1],
                dilation,
                vb.pp(index),
            ));
        std::iter::once(first).chain(rest).collect()
    }
    /// The block's output; `train` says whether norms use the batch and dropouts draw.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_t(x, train)?,
            None => x.clone(),
        };
        let x = self.norm1.forward_t(x, Activation::Relu, train)?;
        let x = self.norm2.forward_conv_t(&self.conv1, &x, Activation::Relu, train)?;
        let x = self.conv2.forward(&x)?;
        let x = self.drop.forward_t(&x, train)?;
        let x = self.norm3.forward_t(&x, Activation::Relu, train)?;
        let x = self.conv3.forward(&x)?;
        add_activation(&x, &shortcut, Activation::Identity)
    }
}
