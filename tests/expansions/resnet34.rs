//! ResNet-34 (He et al. 2016, "Deep residual learning for image recognition", table 1).
//!
//! 21,797,672 parameters, 3,663,761,408 multiply-accumulates at 3x224x224.
//! Compiled from `resnet34.yaml`; tensors are channels-last inside.
use ::zoo::candle_core::{Result, Tensor};
use ::zoo::candle_nn::{ModuleT, VarBuilder};
use ::zoo::nn::{
    Activation, BatchNorm, Conv2d, ConvConfig, Linear, MaxPool, NormConfig,
    channels_first, channels_last, global_avg_pool, segment, stage,
};
use ::zoo::{
    Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess, WeightCard,
};
/// What the spec says about this architecture.
pub const CARD: ModelCard = ModelCard {
    name: "resnet34",
    params: 21797672,
    macs: 3663761408,
    dims: 2,
    input: &[3, 224, 224],
    classes: 1000,
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
            channels: 256,
            stride: 16,
        },
        FeatureCard {
            name: "c5",
            channels: 512,
            stride: 32,
        },
    ],
    first_conv: "conv1",
    classifier: Some("fc"),
    preprocess: Preprocess {
        resize: 256,
        crop: 224,
        interpolation: Interpolation::Bilinear,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    },
    weights: &[
        WeightCard {
            tag: "a1_in1k",
            repository: "timm/resnet34.a1_in1k",
            revision: None,
            file: "model.safetensors",
            sha256: None,
            size: None,
            licence: "Apache-2.0",
            top1: Some(0.7642),
            preprocess: Some(Preprocess {
                resize: 235,
                crop: 224,
                interpolation: Interpolation::Bicubic,
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            }),
        },
        WeightCard {
            tag: "tv_in1k",
            repository: "timm/resnet34.tv_in1k",
            revision: None,
            file: "model.safetensors",
            sha256: None,
            size: None,
            licence: "BSD-3-Clause",
            top1: Some(0.73314),
            preprocess: None,
        },
    ],
    sources: &[
        (
            "resnet34.yaml",
            r#"name: resnet34
doc: ResNet-34 (He et al. 2016, "Deep residual learning for image recognition", table 1).
block: basic
depths: [3, 4, 6, 3]
weights:
  - tag: a1_in1k
    licence: Apache-2.0
    top1: 0.7642
    preprocess: {resize: 235, interpolation: bicubic}
  - tag: tv_in1k
    licence: BSD-3-Clause
    top1: 0.73314
"#,
        ),
    ],
    spec_sha256: "6ea33cd4dca75811d2416ffb81a1ee7fee7a19b0634a61cc039689bc25049d77",
};
/// The network for a table of models.
pub const ENTRY: Entry = Entry {
    card: &CARD,
    build: |classes, vb| Ok(Box::new(ResNet34::new(classes, vb)?)),
};
const NORM: NormConfig = NormConfig {
    zero_init: false,
    eps: 0.00001,
    momentum: 0.1,
};
/// Logits `f32[N, classes]` of an image `f32[N, 3, H, W]`.
#[derive(Debug, Clone)]
pub struct ResNet34 {
    /// `f32[N, 112, 112, 64]`
    pub conv1: Conv2d,
    /// `f32[N, 112, 112, 64]`
    pub bn1: BatchNorm,
    /// `f32[N, 56, 56, 64]`
    pub maxpool: MaxPool<2>,
    /// `f32[N, 56, 56, 64]`
    pub layer1: Vec<BasicBlock>,
    /// `f32[N, 28, 28, 128]`
    pub layer2: Vec<BasicBlock>,
    /// `f32[N, 14, 14, 256]`
    pub layer3: Vec<BasicBlock>,
    /// `f32[N, 7, 7, 512]`
    pub layer4: Vec<BasicBlock>,
    /// `f32[N, classes]`
    pub fc: Linear,
}
impl ResNet34 {
    /// Reads or makes the parameters, for so many classes.
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        Ok(ResNet34 {
            conv1: Conv2d::new(
                3,
                64,
                ConvConfig {
                    stride: [2, 2],
                    padding: [3, 3],
                    ..ConvConfig::new([7, 7])
                },
                vb.pp("conv1"),
            )?,
            bn1: BatchNorm::new(64, NORM, vb.pp("bn1"))?,
            maxpool: MaxPool {
                kernel: [3, 3],
                stride: [2, 2],
                padding: [1, 1],
            },
            layer1: BasicBlock::stage(3, 64, 64, [1, 1], vb.pp("layer1"))?,
            layer2: BasicBlock::stage(4, 64, 128, [2, 2], vb.pp("layer2"))?,
            layer3: BasicBlock::stage(6, 128, 256, [2, 2], vb.pp("layer3"))?,
            layer4: BasicBlock::stage(3, 256, 512, [2, 2], vb.pp("layer4"))?,
            fc: Linear::new(512, classes, vb.pp("fc"))?,
        })
    }
    /// The channels-last feature maps `c2` to `c5`.
    fn stages(&self, x: &Tensor, train: bool) -> Result<[Tensor; 4]> {
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
        let c5 = stage(&c4, &self.layer4, move |block, x| block.forward_t(x, train))?;
        Ok([c2, c3, c4, c5])
    }
}
impl ModuleT for ResNet34 {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let [_, _, _, c5] = self.stages(x, train)?;
        let x = global_avg_pool(&c5)?;
        self.fc.forward(&x)
    }
}
impl Model for ResNet34 {
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
pub struct Downsample(
    /// 1x1 convolution, `c_in` to `channels` channels.
    pub Conv2d,
    /// Norm of `channels` channels.
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
                Conv2d::new(
                    c_in,
                    channels,
                    ConvConfig {
                        stride,
                        ..ConvConfig::new([1, 1])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(channels, NORM, vb.pp(1))?,
            ),
        )
    }
    /// The layers, one after another.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.1.forward_conv_t(&self.0, x, Activation::Identity, train)
    }
}
/// A residual block: `[N, .., c_in]` to `[N, .., channels]`.
#[derive(Debug, Clone)]
pub struct BasicBlock {
    /// 3x3 convolution, `c_in` to `channels` channels.
    pub conv1: Conv2d,
    /// Norm of `channels` channels.
    pub bn1: BatchNorm,
    /// 3x3 convolution, `channels` to `channels` channels.
    pub conv2: Conv2d,
    /// Norm of `channels` channels.
    pub bn2: BatchNorm,
    /// The shortcut of a block that changes the shape.
    pub downsample: Option<Downsample>,
}
impl BasicBlock {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 2],
        vb: VarBuilder,
    ) -> Result<Self> {
        let downsample = if stride != [1, 1] || c_in != channels {
            Some(Downsample::new(c_in, channels, stride, vb.pp("downsample"))?)
        } else {
            None
        };
        Ok(BasicBlock {
            conv1: Conv2d::new(
                c_in,
                channels,
                ConvConfig {
                    stride,
                    padding: [1, 1],
                    ..ConvConfig::new([3, 3])
                },
                vb.pp("conv1"),
            )?,
            bn1: BatchNorm::new(channels, NORM, vb.pp("bn1"))?,
            conv2: Conv2d::new(
                channels,
                channels,
                ConvConfig {
                    padding: [1, 1],
                    ..ConvConfig::new([3, 3])
                },
                vb.pp("conv2"),
            )?,
            bn2: BatchNorm::new(channels, NORM, vb.pp("bn2"))?,
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
            .map(|index| Self::new(channels, channels, [1, 1], vb.pp(index)));
        std::iter::once(first).chain(rest).collect()
    }
    /// The block's output; `train` says whether norms use the batch and dropouts draw.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_t(x, train)?,
            None => x.clone(),
        };
        let x = self.bn1.forward_conv_t(&self.conv1, x, Activation::Relu, train)?;
        self.bn2.forward_conv_add_t(&self.conv2, &x, &shortcut, Activation::Relu, train)
    }
}
