//! ResNet-50-D (He et al. 2019, "Bag of tricks for image classification", section 4.2).
//!
//! 25,576,264 parameters, 4,328,824,832 multiply-accumulates at 3x224x224.
//! Compiled from `resnet50d.yaml`; tensors are channels-last inside.
use ::zoo::candle_core::{Result, Tensor};
use ::zoo::candle_nn::{ModuleT, VarBuilder};
use ::zoo::nn::{
    Activation, AvgPool, BatchNorm, Conv2d, ConvConfig, Linear, MaxPool, NormConfig,
    channels_first, channels_last, global_avg_pool, segment, stage,
};
use ::zoo::{
    Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess, WeightCard,
};
/// What the spec says about this architecture.
pub const CARD: ModelCard = ModelCard {
    name: "resnet50d",
    params: 25576264,
    macs: 4328824832,
    dims: 2,
    input: &[3, 224, 224],
    classes: 1000,
    features: &[
        FeatureCard {
            name: "c2",
            channels: 256,
            stride: 4,
        },
        FeatureCard {
            name: "c3",
            channels: 512,
            stride: 8,
        },
        FeatureCard {
            name: "c4",
            channels: 1024,
            stride: 16,
        },
        FeatureCard {
            name: "c5",
            channels: 2048,
            stride: 32,
        },
    ],
    first_conv: "conv1.0",
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
            tag: "ra4_e3600_r224_in1k",
            repository: "timm/resnet50d.ra4_e3600_r224_in1k",
            revision: None,
            file: "model.safetensors",
            sha256: None,
            size: None,
            licence: "Apache-2.0",
            top1: Some(0.80956),
            preprocess: Some(Preprocess {
                resize: 235,
                crop: 224,
                interpolation: Interpolation::Bicubic,
                mean: [0.5, 0.5, 0.5],
                std: [0.5, 0.5, 0.5],
            }),
        },
        WeightCard {
            tag: "a1_in1k",
            repository: "timm/resnet50d.a1_in1k",
            revision: None,
            file: "model.safetensors",
            sha256: None,
            size: None,
            licence: "Apache-2.0",
            top1: None,
            preprocess: Some(Preprocess {
                resize: 235,
                crop: 224,
                interpolation: Interpolation::Bicubic,
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            }),
        },
        WeightCard {
            tag: "ra2_in1k",
            repository: "timm/resnet50d.ra2_in1k",
            revision: None,
            file: "model.safetensors",
            sha256: None,
            size: None,
            licence: "Apache-2.0",
            top1: None,
            preprocess: Some(Preprocess {
                resize: 256,
                crop: 224,
                interpolation: Interpolation::Bicubic,
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            }),
        },
    ],
    sources: &[
        (
            "resnet50d.yaml",
            r#"name: resnet50d
doc: ResNet-50-D (He et al. 2019, "Bag of tricks for image classification", section 4.2).
extends: resnet50.yaml
stem: deep
downsample: avg_down
weights:
  - tag: ra4_e3600_r224_in1k
    licence: Apache-2.0
    top1: 0.80956
    preprocess: {resize: 235, interpolation: bicubic, mean: [0.5], std: [0.5]}
  - tag: a1_in1k
    licence: Apache-2.0
    preprocess: {resize: 235, interpolation: bicubic}
  - tag: ra2_in1k
    licence: Apache-2.0
    preprocess: {resize: 256, interpolation: bicubic}
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
    spec_sha256: "2f12dd6c8ea4201b8036cb266aea280ff25cda7b5def83f77e7c949eba35625e",
};
/// The network for a table of models.
pub const ENTRY: Entry = Entry {
    card: &CARD,
    build: |classes, vb| Ok(Box::new(ResNet50d::new(classes, vb)?)),
};
const NORM: NormConfig = NormConfig {
    zero_init: false,
    eps: 0.00001,
    momentum: 0.1,
};
/// Logits `f32[N, classes]` of an image `f32[N, 3, H, W]`.
#[derive(Debug, Clone)]
pub struct ResNet50d {
    /// `f32[N, 112, 112, 64]`
    pub conv1: DeepStem,
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
    /// `f32[N, classes]`
    pub fc: Linear,
}
impl ResNet50d {
    /// Reads or makes the parameters, for so many classes.
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        Ok(ResNet50d {
            conv1: DeepStem::new(vb.pp("conv1"))?,
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
            fc: Linear::new(2048, classes, vb.pp("fc"))?,
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
impl ModuleT for ResNet50d {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let [_, _, _, c5] = self.stages(x, train)?;
        let x = global_avg_pool(&c5)?;
        self.fc.forward(&x)
    }
}
impl Model for ResNet50d {
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
    /// stride[0]xstride[1] average.
    pub AvgPool<2>,
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
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct DeepStem(
    /// 3x3 convolution, `3` to `32` channels.
    pub Conv2d,
    /// Norm of `32` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
    /// 3x3 convolution, `32` to `32` channels.
    pub Conv2d,
    /// Norm of `32` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
    /// 3x3 convolution, `32` to `64` channels.
    pub Conv2d,
);
impl DeepStem {
    /// Reads or makes the parameters.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(
            DeepStem(
                Conv2d::new(
                    3,
                    32,
                    ConvConfig {
                        stride: [2, 2],
                        padding: [1, 1],
                        ..ConvConfig::new([3, 3])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(32, NORM, vb.pp(1))?,
                Activation::Relu,
                Conv2d::new(
                    32,
                    32,
                    ConvConfig {
                        padding: [1, 1],
                        ..ConvConfig::new([3, 3])
                    },
                    vb.pp(3),
                )?,
                BatchNorm::new(32, NORM, vb.pp(4))?,
                Activation::Relu,
                Conv2d::new(
                    32,
                    64,
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
