//! A block of sequences with a pooled shortcut, squeeze-excited bottlenecks after it, and a pooled stem.
//!
//! 59,835 parameters, 6,069,792 multiply-accumulates at 3x64x64.
//! Compiled from `mixed_blocks.yaml`; tensors are channels-last inside.
use ::zoo::candle_core::{Result, Tensor};
use ::zoo::candle_nn::{ModuleT, VarBuilder};
use ::zoo::nn::{
    Activation, AvgPool, BatchNorm, Conv2d, ConvConfig, EfficientChannelAttention,
    Linear, MaxPool, NormConfig, SqueezeExcite, add_activation, channels_first,
    channels_last, global_avg_pool, segment, stage,
};
use ::zoo::{Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess};
/// What the spec says about this architecture.
pub const CARD: ModelCard = ModelCard {
    name: "mixed_blocks",
    params: 59835,
    macs: 6069792,
    dims: 2,
    input: &[3, 64, 64],
    classes: 10,
    features: &[
        FeatureCard {
            name: "c2",
            channels: 32,
            stride: 4,
        },
        FeatureCard {
            name: "c3",
            channels: 32,
            stride: 8,
        },
        FeatureCard {
            name: "c4",
            channels: 64,
            stride: 16,
        },
        FeatureCard {
            name: "c5",
            channels: 128,
            stride: 32,
        },
    ],
    first_conv: "conv1.0",
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
            "mixed_blocks.yaml",
            r#"name: mixed_blocks
doc: A block of sequences with a pooled shortcut, squeeze-excited bottlenecks after it, and a pooled stem.
input: {size: 64}
stem: {deep: {widths: [8, 8, 16], pool: conv}}
downsample: avg_down
blocks:
  resnet_d:
    expansion: 2
    layers:
      reduce: [{conv: {kernel: 1}}, norm, relu]
      pool: {max_pool: {kernel: 3, stride: block}}
      conv: [{conv: {channels: out}}, norm]
      attention: eca
    shortcut: [{avg_pool: {stride: block}}, {conv: {kernel: 1, channels: out}}, norm]
stages:
  - {depth: 2, channels: 16, block: resnet_d}
  - {depth: 1, channels: 16, stride: 2, block: resnet_d}
  - {depth: 2, channels: 16, stride: 2, block: bottleneck, attention: {se: {ratio: 1/8}}}
  - {depth: 1, channels: 32, stride: 2, block: bottleneck}
head: {classes: 10}
"#,
        ),
    ],
    spec_sha256: "67c9cc2999e526b1bf9d24b4bb42d9e90d2e995b1b1e1ec6981b3e6edcbbf797",
};
/// The network for a table of models.
pub const ENTRY: Entry = Entry {
    card: &CARD,
    build: |classes, vb| Ok(Box::new(MixedBlocks::new(classes, vb)?)),
};
const NORM: NormConfig = NormConfig {
    zero_init: false,
    eps: 0.00001,
    momentum: 0.1,
};
/// Logits `f32[N, classes]` of an image `f32[N, 3, H, W]`.
#[derive(Debug, Clone)]
pub struct MixedBlocks {
    /// `f32[N, 32, 32, 16]`
    pub conv1: DeepStem,
    /// `f32[N, 32, 32, 16]`
    pub bn1: BatchNorm,
    /// `f32[N, 16, 16, 16]`
    pub maxpool: StemPool,
    /// `f32[N, 16, 16, 32]`
    pub layer1: Vec<ResNetDBlock>,
    /// `f32[N, 8, 8, 32]`
    pub layer2: Vec<ResNetDBlock>,
    /// `f32[N, 4, 4, 64]`
    pub layer3: Vec<SeBottleneck>,
    /// `f32[N, 2, 2, 128]`
    pub layer4: Vec<Bottleneck>,
    /// `f32[N, classes]`
    pub fc: Linear,
}
impl MixedBlocks {
    /// Reads or makes the parameters, for so many classes.
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        Ok(MixedBlocks {
            conv1: DeepStem::new(vb.pp("conv1"))?,
            bn1: BatchNorm::new(16, NORM, vb.pp("bn1"))?,
            maxpool: StemPool::new(vb.pp("maxpool"))?,
            layer1: ResNetDBlock::stage(2, 16, 16, [1, 1], vb.pp("layer1"))?,
            layer2: ResNetDBlock::stage(1, 32, 16, [2, 2], vb.pp("layer2"))?,
            layer3: SeBottleneck::stage(2, 32, 16, [2, 2], vb.pp("layer3"))?,
            layer4: Bottleneck::stage(1, 64, 32, [2, 2], vb.pp("layer4"))?,
            fc: Linear::new(128, classes, vb.pp("fc"))?,
        })
    }
    /// The channels-last feature maps `c2` to `c5`.
    fn stages(&self, x: &Tensor, train: bool) -> Result<[Tensor; 4]> {
        let x = segment(
            &channels_last(x)?,
            |x| {
                let x = self
                    .conv1
                    .1
                    .forward_conv_t(&self.conv1.0, x, self.conv1.2, train)?;
                let x = self
                    .conv1
                    .4
                    .forward_conv_t(&self.conv1.3, &x, self.conv1.5, train)?;
                let x = self
                    .bn1
                    .forward_conv_t(&self.conv1.6, &x, Activation::Relu, train)?;
                self.maxpool.1.forward_conv_t(&self.maxpool.0, &x, self.maxpool.2, train)
            },
        )?;
        let c2 = stage(&x, &self.layer1, move |block, x| block.forward_t(x, train))?;
        let c3 = stage(&c2, &self.layer2, move |block, x| block.forward_t(x, train))?;
        let c4 = stage(&c3, &self.layer3, move |block, x| block.forward_t(x, train))?;
        let c5 = stage(&c4, &self.layer4, move |block, x| block.forward_t(x, train))?;
        Ok([c2, c3, c4, c5])
    }
}
impl ModuleT for MixedBlocks {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let [_, _, _, c5] = self.stages(x, train)?;
        let x = global_avg_pool(&c5)?;
        self.fc.forward(&x)
    }
}
impl Model for MixedBlocks {
    fn card(&self) -> &'static ModelCard {
        &CARD
    }
    fn forward_features(&self, x: &Tensor, train: bool) -> Result<Features> {
        let [c2, c3, c4, c5] = self.stages(x, train)?;
        Ok(
            Features(
                Vec::from([
                    ("c2", channels_first(&c2)?),
                    ("c3", channels_first(&c3)?),
                    ("c4", channels_first(&c4)?),
                    ("c5", channels_first(&c5)?),
                ]),
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Reduce(
    /// 1x1 convolution, `c_in` to `channels` channels.
    pub Conv2d,
    /// Norm of `channels` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
);
impl Reduce {
    /// Reads or makes the parameters.
    pub fn new(c_in: usize, channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(
            Reduce(
                Conv2d::new(c_in, channels, ConvConfig::new([1, 1]), vb.pp(0))?,
                BatchNorm::new(channels, NORM, vb.pp(1))?,
                Activation::Relu,
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Conv(
    /// 3x3 convolution, `channels` to `2 * channels` channels.
    pub Conv2d,
    /// Norm of `2 * channels` channels.
    pub BatchNorm,
);
impl Conv {
    /// Reads or makes the parameters.
    pub fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(
            Conv(
                Conv2d::new(
                    channels,
                    2 * channels,
                    ConvConfig {
                        padding: [1, 1],
                        ..ConvConfig::new([3, 3])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(2 * channels, NORM, vb.pp(1))?,
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Downsample(
    /// stride[0]xstride[1] average.
    pub AvgPool<2>,
    /// 1x1 convolution, `c_in` to `2 * channels` channels.
    pub Conv2d,
    /// Norm of `2 * channels` channels.
    pub BatchNorm,
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
                AvgPool {
                    kernel: stride,
                    stride,
                    padding: [0, 0],
                    ceil_mode: true,
                    count_include_pad: false,
                },
                Conv2d::new(c_in, 2 * channels, ConvConfig::new([1, 1]), vb.pp(1))?,
                BatchNorm::new(2 * channels, NORM, vb.pp(2))?,
            ),
        )
    }
    /// The layers, one after another.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.0.forward(x)?;
        self.2.forward_conv_t(&self.1, &x, Activation::Identity, train)
    }
}
/// A residual block: `[N, .., c_in]` to `[N, .., 2 * channels]`.
#[derive(Debug, Clone)]
pub struct ResNetDBlock {
    /// 1x1 convolution, `c_in` to `channels` channels; Norm of `channels` channels; Relu.
    pub reduce: Reduce,
    /// 3x3 maximum.
    pub pool: MaxPool<2>,
    /// 3x3 convolution, `channels` to `2 * channels` channels; Norm of `2 * channels` channels.
    pub conv: Conv,
    /// Efficient channel attention over `2 * channels` channels.
    pub attention: EfficientChannelAttention,
    /// The shortcut of a block that changes the shape.
    pub downsample: Option<Downsample>,
}
impl ResNetDBlock {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        let downsample = if stride != [1, 1] || c_in != 2 * channels {
            Some(Downsample::new(c_in, channels, stride, vb.pp("downsample"))?)
        } else {
            None
        };
        Ok(ResNetDBlock {
            reduce: Reduce::new(c_in, channels, vb.pp("reduce"))?,
            pool: MaxPool {
                kernel: [3, 3],
                stride,
                padding: [1, 1],
            },
            conv: Conv::new(channels, vb.pp("conv"))?,
            attention: EfficientChannelAttention::new(2 * channels, vb.pp("attention"))?,
            downsample,
        })
    }
    /// `depth` blocks, the first of which changes the shape.
    pub fn stage(
        depth: usize,
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Vec<Self>> {
        let first = Self::new(c_in, channels, stride, vb.pp(0));
        let rest = (1..depth)
            .map(|index| Self::new(2 * channels, channels, [1, 1], vb.pp(index)));
        std::iter::once(first).chain(rest).collect()
    }
    /// The block's output; `train` says whether norms use the batch and dropouts draw.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_t(x, train)?,
            None => x.clone(),
        };
        let x = self.reduce.1.forward_conv_t(&self.reduce.0, x, self.reduce.2, train)?;
        let x = self.pool.forward(&x)?;
        let x = self
            .conv
            .1
            .forward_conv_t(&self.conv.0, &x, Activation::Identity, train)?;
        let x = self.attention.forward(&x)?;
        add_activation(&x, &shortcut, Activation::Relu)
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Downsample2(
    /// stride[0]xstride[1] average.
    pub AvgPool<2>,
    /// 1x1 convolution, `c_in` to `4 * channels` channels.
    pub Conv2d,
    /// Norm of `4 * channels` channels.
    pub BatchNorm,
);
impl Downsample2 {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(
            Downsample2(
                AvgPool {
                    kernel: stride,
                    stride,
                    padding: [0, 0],
                    ceil_mode: true,
                    count_include_pad: false,
                },
                Conv2d::new(c_in, 4 * channels, ConvConfig::new([1, 1]), vb.pp(1))?,
                BatchNorm::new(4 * channels, NORM, vb.pp(2))?,
            ),
        )
    }
    /// The layers, one after another.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.0.forward(x)?;
        self.2.forward_conv_t(&self.1, &x, Activation::Identity, train)
    }
}
/// A residual block: `[N, .., c_in]` to `[N, .., 4 * channels]`.
#[derive(Debug, Clone)]
pub struct SeBottleneck {
    /// 1x1 convolution, `c_in` to `channels` channels.
    pub conv1: Conv2d,
    /// Norm of `channels` channels.
    pub bn1: BatchNorm,
    /// 3x3 convolution, `channels` to `channels` channels.
    pub conv2: Conv2d,
    /// Norm of `channels` channels.
    pub bn2: BatchNorm,
    /// 1x1 convolution, `channels` to `4 * channels` channels.
    pub conv3: Conv2d,
    /// Norm of `4 * channels` channels.
    pub bn3: BatchNorm,
    /// Squeeze and excitation of `4 * channels` channels.
    pub se: SqueezeExcite,
    /// The shortcut of a block that changes the shape.
    pub downsample: Option<Downsample2>,
}
impl SeBottleneck {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        let downsample = if stride != [1, 1] || c_in != 4 * channels {
            Some(Downsample2::new(c_in, channels, stride, vb.pp("downsample"))?)
        } else {
            None
        };
        Ok(SeBottleneck {
            conv1: Conv2d::new(c_in, channels, ConvConfig::new([1, 1]), vb.pp("conv1"))?,
            bn1: BatchNorm::new(channels, NORM, vb.pp("bn1"))?,
            conv2: Conv2d::new(
                channels,
                channels,
                ConvConfig {
                    stride,
                    padding: [1, 1],
                    ..ConvConfig::new([3, 3])
                },
                vb.pp("conv2"),
            )?,
            bn2: BatchNorm::new(channels, NORM, vb.pp("bn2"))?,
            conv3: Conv2d::new(
                channels,
                4 * channels,
                ConvConfig::new([1, 1]),
                vb.pp("conv3"),
            )?,
            bn3: BatchNorm::new(4 * channels, NORM, vb.pp("bn3"))?,
            se: SqueezeExcite::new(
                4 * channels,
                ((4 * channels / 8 + 4) / 8 * 8).max(8),
                vb.pp("se"),
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
        vb: VarBuilder,
    ) -> Result<Vec<Self>> {
        let first = Self::new(c_in, channels, stride, vb.pp(0));
        let rest = (1..depth)
            .map(|index| Self::new(4 * channels, channels, [1, 1], vb.pp(index)));
        std::iter::once(first).chain(rest).collect()
    }
    /// The block's output; `train` says whether norms use the batch and dropouts draw.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_t(x, train)?,
            None => x.clone(),
        };
        let x = self.bn1.forward_conv_t(&self.conv1, x, Activation::Relu, train)?;
        let x = self.bn2.forward_conv_t(&self.conv2, &x, Activation::Relu, train)?;
        let x = self.bn3.forward_conv_t(&self.conv3, &x, Activation::Identity, train)?;
        let x = self.se.forward(&x)?;
        add_activation(&x, &shortcut, Activation::Relu)
    }
}
/// A residual block: `[N, .., c_in]` to `[N, .., 4 * channels]`.
#[derive(Debug, Clone)]
pub struct Bottleneck {
    /// 1x1 convolution, `c_in` to `channels` channels.
    pub conv1: Conv2d,
    /// Norm of `channels` channels.
    pub bn1: BatchNorm,
    /// 3x3 convolution, `channels` to `channels` channels.
    pub conv2: Conv2d,
    /// Norm of `channels` channels.
    pub bn2: BatchNorm,
    /// 1x1 convolution, `channels` to `4 * channels` channels.
    pub conv3: Conv2d,
    /// Norm of `4 * channels` channels.
    pub bn3: BatchNorm,
    /// The shortcut of a block that changes the shape.
    pub downsample: Option<Downsample2>,
}
impl Bottleneck {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        let downsample = if stride != [1, 1] || c_in != 4 * channels {
            Some(Downsample2::new(c_in, channels, stride, vb.pp("downsample"))?)
        } else {
            None
        };
        Ok(Bottleneck {
            conv1: Conv2d::new(c_in, channels, ConvConfig::new([1, 1]), vb.pp("conv1"))?,
            bn1: BatchNorm::new(channels, NORM, vb.pp("bn1"))?,
            conv2: Conv2d::new(
                channels,
                channels,
                ConvConfig {
                    stride,
                    padding: [1, 1],
                    ..ConvConfig::new([3, 3])
                },
                vb.pp("conv2"),
            )?,
            bn2: BatchNorm::new(channels, NORM, vb.pp("bn2"))?,
            conv3: Conv2d::new(
                channels,
                4 * channels,
                ConvConfig::new([1, 1]),
                vb.pp("conv3"),
            )?,
            bn3: BatchNorm::new(4 * channels, NORM, vb.pp("bn3"))?,
            downsample,
        })
    }
    /// `depth` blocks, the first of which changes the shape.
    pub fn stage(
        depth: usize,
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Vec<Self>> {
        let first = Self::new(c_in, channels, stride, vb.pp(0));
        let rest = (1..depth)
            .map(|index| Self::new(4 * channels, channels, [1, 1], vb.pp(index)));
        std::iter::once(first).chain(rest).collect()
    }
    /// The block's output; `train` says whether norms use the batch and dropouts draw.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_t(x, train)?,
            None => x.clone(),
        };
        let x = self.bn1.forward_conv_t(&self.conv1, x, Activation::Relu, train)?;
        let x = self.bn2.forward_conv_t(&self.conv2, &x, Activation::Relu, train)?;
        self.bn3.forward_conv_add_t(&self.conv3, &x, &shortcut, Activation::Relu, train)
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct DeepStem(
    /// 3x3 convolution, `3` to `8` channels.
    pub Conv2d,
    /// Norm of `8` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
    /// 3x3 convolution, `8` to `8` channels.
    pub Conv2d,
    /// Norm of `8` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
    /// 3x3 convolution, `8` to `16` channels.
    pub Conv2d,
);
impl DeepStem {
    /// Reads or makes the parameters.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(
            DeepStem(
                Conv2d::new(
                    3,
                    8,
                    ConvConfig {
                        stride: [2, 2],
                        padding: [1, 1],
                        ..ConvConfig::new([3, 3])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(8, NORM, vb.pp(1))?,
                Activation::Relu,
                Conv2d::new(
                    8,
                    8,
                    ConvConfig {
                        padding: [1, 1],
                        ..ConvConfig::new([3, 3])
                    },
                    vb.pp(3),
                )?,
                BatchNorm::new(8, NORM, vb.pp(4))?,
                Activation::Relu,
                Conv2d::new(
                    8,
                    16,
                    ConvConfig {
                        padding: [1, 1],
                        ..ConvConfig::new([3, 3])
                    },
                    vb.pp(6),
                )?,
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct StemPool(
    /// 3x3 convolution, `16` to `16` channels.
    pub Conv2d,
    /// Norm of `16` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
);
impl StemPool {
    /// Reads or makes the parameters.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(
            StemPool(
                Conv2d::new(
                    16,
                    16,
                    ConvConfig {
                        stride: [2, 2],
                        padding: [1, 1],
                        ..ConvConfig::new([3, 3])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(16, NORM, vb.pp(1))?,
                Activation::Relu,
            ),
        )
    }
}
