//! ResNet-50 with a feature pyramid (Lin et al. 2017), the backbone of torchvision's detection models.
//!
//! 26,852,416 parameters, 6,929,104,896 multiply-accumulates at 3x224x224.
//! Compiled from `resnet50_fpn.yaml`; tensors are channels-last inside.
use ::zoo::candle_core::{Result, Tensor};
use ::zoo::candle_nn::{ModuleT, VarBuilder};
use ::zoo::nn::{
    Activation, BatchNorm, Conv2d, ConvConfig, FeaturePyramid, MaxPool, NormConfig,
    channels_first, channels_last, segment, stage,
};
use ::zoo::{Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess};
/// What the spec says about this architecture.
pub const CARD: ModelCard = ModelCard {
    name: "resnet50_fpn",
    params: 26852416,
    macs: 6929104896,
    dims: 2,
    input: &[3, 224, 224],
    classes: 0,
    features: &[
        FeatureCard {
            name: "p2",
            channels: 256,
            stride: 4,
        },
        FeatureCard {
            name: "p3",
            channels: 256,
            stride: 8,
        },
        FeatureCard {
            name: "p4",
            channels: 256,
            stride: 16,
        },
        FeatureCard {
            name: "p5",
            channels: 256,
            stride: 32,
        },
        FeatureCard {
            name: "p6",
            channels: 256,
            stride: 64,
        },
    ],
    first_conv: "body.conv1",
    classifier: None,
    preprocess: Preprocess {
        resize: 256,
        crop: 224,
        interpolation: Interpolation::Bilinear,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    },
    weights: &[],
    sources: &[
        (
            "resnet50_fpn.yaml",
            r#"name: resnet50_fpn
doc: ResNet-50 with a feature pyramid (Lin et al. 2017), the backbone of torchvision's detection models.
extends: resnet50.yaml
neck: {fpn: {channels: 256, extra: maxpool}}
"#,
        ),
        (
            "resnet50.yaml",
            r#"name: resnet50
doc: ResNet-50 (He et al. 2016, table 1), with the stride on the 3x3 convolution as in torchvision.
block: bottleneck
depths: [3, 4, 6, 3]
weights:
  - tag: a1_in1k
    licence: Apache-2.0
    top1: 0.80382
    preprocess: {resize: 235, interpolation: bicubic}
  - tag: tv_in1k
    licence: BSD-3-Clause
    top1: 0.7613
  - tag: tv2_in1k
    licence: BSD-3-Clause
    top1: 0.80858
    preprocess: {resize: 232}
"#,
        ),
    ],
    spec_sha256: "019e121ce95a659ccb650c03f87fc4a837ef2b096b2824004a5a04da0264c58e",
};
/// The network for a table of models.
pub const ENTRY: Entry = Entry {
    card: &CARD,
    build: |_, vb| Ok(Box::new(ResNet50Fpn::new(vb)?)),
};
const NORM: NormConfig = NormConfig {
    zero_init: false,
    eps: 0.00001,
    momentum: 0.1,
};
/// Feature maps of an image `f32[N, 3, H, W]`.
#[derive(Debug, Clone)]
pub struct ResNet50Fpn {
    /// The backbone, named as in torchvision's detection models.
    pub body: Body,
    /// Lateral and top-down connections.
    pub fpn: FeaturePyramid,
}
impl ResNet50Fpn {
    /// Reads or makes the parameters.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(ResNet50Fpn {
            body: Body::new(vb.pp("body"))?,
            fpn: FeaturePyramid::new(&[256, 512, 1024, 2048], 256, true, vb.pp("fpn"))?,
        })
    }
}
impl ModuleT for ResNet50Fpn {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let levels = self.fpn.forward(&self.body.stages(x, train)?)?;
        channels_first(&levels[levels.len() - 1])
    }
}
impl Model for ResNet50Fpn {
    fn card(&self) -> &'static ModelCard {
        &CARD
    }
    fn forward_features(&self, x: &Tensor, train: bool) -> Result<Features> {
        let levels = self.fpn.forward(&self.body.stages(x, train)?)?;
        let maps = ["p2", "p3", "p4", "p5", "p6"].into_iter().zip(&levels);
        Ok(
            Features(
                maps
                    .map(|(name, level)| Ok((name, channels_first(level)?)))
                    .collect::<Result<_>>()?,
            ),
        )
    }
}
/// The backbone.
#[derive(Debug, Clone)]
pub struct Body {
    /// `f32[N, 112, 112, 64]`
    pub conv1: Conv2d,
    /// `f32[N, 112, 112, 64]`
    pub bn1: BatchNorm,
    /// `f32[N, 56, 56, 64]`
    pub maxpool: MaxPool<2>,
    /// `f32[N, 56, 56, 256]`
    pub layer1: Vec<Bottleneck>,
    /// `f32[N, 28, 28, 512]`
    pub layer2: Vec<Bottleneck>,
    /// `f32[N, 14, 14, 1024]`
    pub layer3: Vec<Bottleneck>,
    /// `f32[N, 7, 7, 2048]`
    pub layer4: Vec<Bottleneck>,
}
impl Body {
    /// Reads or makes the parameters.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Body {
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
            layer1: Bottleneck::stage(3, 64, 64, [1, 1], vb.pp("layer1"))?,
            layer2: Bottleneck::stage(4, 256, 128, [2, 2], vb.pp("layer2"))?,
            layer3: Bottleneck::stage(6, 512, 256, [2, 2], vb.pp("layer3"))?,
            layer4: Bottleneck::stage(3, 1024, 512, [2, 2], vb.pp("layer4"))?,
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
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Downsample(
    /// 1x1 convolution, `c_in` to `4 * channels` channels.
    pub Conv2d,
    /// Norm of `4 * channels` channels.
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
                    4 * channels,
                    ConvConfig {
                        stride,
                        ..ConvConfig::new([1, 1])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(4 * channels, NORM, vb.pp(1))?,
            ),
        )
    }
    /// The layers, one after another.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.1.forward_conv_t(&self.0, x, Activation::Identity, train)
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
    pub downsample: Option<Downsample>,
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
            Some(Downsample::new(c_in, channels, stride, vb.pp("downsample"))?)
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
