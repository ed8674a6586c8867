//! R(2+1)D-18 (Tran et al. 2018), every convolution split into space and time.
//!
//! 31,505,325 parameters, 40,519,080,960 multiply-accumulates at 3x16x112x112.
//! Compiled from `r2plus1d_18.yaml`; tensors are channels-last inside.
use ::zoo::candle_core::{Result, Tensor};
use ::zoo::candle_nn::{ModuleT, VarBuilder};
use ::zoo::nn::{
    Activation, BatchNorm, Conv3d, ConvConfig, Linear, NormConfig, channels_first,
    channels_last, global_avg_pool, segment, stage,
};
use ::zoo::{Entry, FeatureCard, Features, Interpolation, Model, ModelCard, Preprocess};
/// What the spec says about this architecture.
pub const CARD: ModelCard = ModelCard {
    name: "r2plus1d_18",
    params: 31505325,
    macs: 40519080960,
    dims: 3,
    input: &[3, 16, 112, 112],
    classes: 400,
    features: &[
        FeatureCard {
            name: "c2",
            channels: 64,
            stride: 2,
        },
        FeatureCard {
            name: "c3",
            channels: 128,
            stride: 4,
        },
        FeatureCard {
            name: "c4",
            channels: 256,
            stride: 8,
        },
        FeatureCard {
            name: "c5",
            channels: 512,
            stride: 16,
        },
    ],
    first_conv: "stem.0",
    classifier: Some("fc"),
    preprocess: Preprocess {
        resize: 128,
        crop: 112,
        interpolation: Interpolation::Bilinear,
        mean: [0.43216, 0.394666, 0.37645],
        std: [0.22803, 0.22145, 0.216989],
    },
    weights: &[],
    sources: &[
        (
            "r2plus1d_18.yaml",
            r#"name: r2plus1d_18
doc: R(2+1)D-18 (Tran et al. 2018), every convolution split into space and time.
extends: r3d_18.yaml
stem: 2plus1d
kernel: 2plus1d
"#,
        ),
        (
            "r3d_18.yaml",
            r#"name: r3d_18
doc: R3D-18 (Tran et al. 2018, "A closer look at spatiotemporal convolutions for action recognition"), 3x3x3 throughout.
dims: 3d
input: {frames: 16, size: 112}
block: basic
depths: [2, 2, 2, 2]
head: {classes: 400}
preprocess: {resize: 128, crop: 112, mean: [0.43216, 0.394666, 0.37645], std: [0.22803, 0.22145, 0.216989]}
"#,
        ),
    ],
    spec_sha256: "c45b0d7dc313cf7e223a0a73ec2e3d1c9ab891967073e197ca29e38be2c8c5cd",
};
/// The network for a table of models.
pub const ENTRY: Entry = Entry {
    card: &CARD,
    build: |classes, vb| Ok(Box::new(R2plus1d18::new(classes, vb)?)),
};
const NORM: NormConfig = NormConfig {
    zero_init: false,
    eps: 0.00001,
    momentum: 0.1,
};
/// Logits `f32[N, classes]` of an image `f32[N, 3, D, H, W]`.
#[derive(Debug, Clone)]
pub struct R2plus1d18 {
    /// `f32[N, 16, 56, 56, 64]`
    pub stem: Stem,
    /// `f32[N, 16, 56, 56, 64]`
    pub layer1: Vec<BasicBlock>,
    /// `f32[N, 8, 28, 28, 128]`
    pub layer2: Vec<BasicBlock>,
    /// `f32[N, 4, 14, 14, 256]`
    pub layer3: Vec<BasicBlock>,
    /// `f32[N, 2, 7, 7, 512]`
    pub layer4: Vec<BasicBlock>,
    /// `f32[N, classes]`
    pub fc: Linear,
}
impl R2plus1d18 {
    /// Reads or makes the parameters, for so many classes.
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        Ok(R2plus1d18 {
            stem: Stem::new(vb.pp("stem"))?,
            layer1: BasicBlock::stage(2, 64, 64, [1, 1, 1], vb.pp("layer1"))?,
            layer2: BasicBlock::stage(2, 64, 128, [2, 2, 2], vb.pp("layer2"))?,
            layer3: BasicBlock::stage(2, 128, 256, [2, 2, 2], vb.pp("layer3"))?,
            layer4: BasicBlock::stage(2, 256, 512, [2, 2, 2], vb.pp("layer4"))?,
            fc: Linear::new(512, classes, vb.pp("fc"))?,
        })
    }
    /// The channels-last feature maps `c2` to `c5`.
    fn stages(&self, x: &Tensor, train: bool) -> Result<[Tensor; 4]> {
        let x = segment(
            &channels_last(x)?,
            |x| {
                let x = self.stem.1.forward_conv_t(&self.stem.0, x, self.stem.2, train)?;
                self.stem.4.forward_conv_t(&self.stem.3, &x, self.stem.5, train)
            },
        )?;
        let c2 = stage(&x, &self.layer1, move |block, x| block.forward_t(x, train))?;
        let c3 = stage(&c2, &self.layer2, move |block, x| block.forward_t(x, train))?;
        let c4 = stage(&c3, &self.layer3, move |block, x| block.forward_t(x, train))?;
        let c5 = stage(&c4, &self.layer4, move |block, x| block.forward_t(x, train))?;
        Ok([c2, c3, c4, c5])
    }
}
impl ModuleT for R2plus1d18 {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let [_, _, _, c5] = self.stages(x, train)?;
        let x = global_avg_pool(&c5)?;
        self.fc.forward(&x)
    }
}
impl Model for R2plus1d18 {
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
pub struct StridedConv2Plus1d(
    /// 1x3x3 convolution, `c_in` to `mid` channels.
    pub Conv3d,
    /// Norm of `mid` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
    /// 3x1x1 convolution, `mid` to `channels` channels.
    pub Conv3d,
);
impl StridedConv2Plus1d {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        mid: usize,
        stride: [usize; 3],
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(
            StridedConv2Plus1d(
                Conv3d::new(
                    c_in,
                    mid,
                    ConvConfig {
                        stride: [1, stride[1], stride[2]],
                        padding: [0, 1, 1],
                        ..ConvConfig::new([1, 3, 3])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(mid, NORM, vb.pp(1))?,
                Activation::Relu,
                Conv3d::new(
                    mid,
                    channels,
                    ConvConfig {
                        stride: [stride[0], 1, 1],
                        padding: [1, 0, 0],
                        ..ConvConfig::new([3, 1, 1])
                    },
                    vb.pp(3),
                )?,
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Conv1(
    /// 1x3x3 convolution, `c_in` to `mid` channels; Norm of `mid` channels; Relu; 3x1x1 convolution, `mid` to `channels` channels.
    pub StridedConv2Plus1d,
    /// Norm of `channels` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
);
impl Conv1 {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        mid: usize,
        stride: [usize; 3],
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(
            Conv1(
                StridedConv2Plus1d::new(c_in, channels, mid, stride, vb.pp(0))?,
                BatchNorm::new(channels, NORM, vb.pp(1))?,
                Activation::Relu,
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Conv2Plus1d(
    /// 1x3x3 convolution, `channels` to `mid` channels.
    pub Conv3d,
    /// Norm of `mid` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
    /// 3x1x1 convolution, `mid` to `channels` channels.
    pub Conv3d,
);
impl Conv2Plus1d {
    /// Reads or makes the parameters.
    pub fn new(channels: usize, mid: usize, vb: VarBuilder) -> Result<Self> {
        Ok(
            Conv2Plus1d(
                Conv3d::new(
                    channels,
                    mid,
                    ConvConfig {
                        padding: [0, 1, 1],
                        ..ConvConfig::new([1, 3, 3])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(mid, NORM, vb.pp(1))?,
                Activation::Relu,
                Conv3d::new(
                    mid,
                    channels,
                    ConvConfig {
                        padding: [1, 0, 0],
                        ..ConvConfig::new([3, 1, 1])
                    },
                    vb.pp(3),
                )?,
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Conv2(
    /// 1x3x3 convolution, `channels` to `mid` channels; Norm of `mid` channels; Relu; 3x1x1 convolution, `mid` to `channels` channels.
    pub Conv2Plus1d,
    /// Norm of `channels` channels.
    pub BatchNorm,
);
impl Conv2 {
    /// Reads or makes the parameters.
    pub fn new(channels: usize, mid: usize, vb: VarBuilder) -> Result<Self> {
        Ok(
            Conv2(
                Conv2Plus1d::new(channels, mid, vb.pp(0))?,
                BatchNorm::new(channels, NORM, vb.pp(1))?,
            ),
        )
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Downsample(
    /// 1x1x1 convolution, `c_in` to `channels` channels.
    pub Conv3d,
    /// Norm of `channels` channels.
    pub BatchNorm,
);
impl Downsample {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 3],
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(
            Downsample(
                Conv3d::new(
                    c_in,
                    channels,
                    ConvConfig {
                        stride,
                        ..ConvConfig::new([1, 1, 1])
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
    /// 1x3x3 convolution, `c_in` to `mid` channels; Norm of `mid` channels; Relu; 3x1x1 convolution, `mid` to `channels` channels; Norm of `channels` channels; Relu.
    pub conv1: Conv1,
    /// 1x3x3 convolution, `channels` to `mid` channels; Norm of `mid` channels; Relu; 3x1x1 convolution, `mid` to `channels` channels; Norm of `channels` channels.
    pub conv2: Conv2,
    /// The shortcut of a block that changes the shape.
    pub downsample: Option<Downsample>,
}
impl BasicBlock {
    /// Reads or makes the parameters.
    pub fn new(
        c_in: usize,
        channels: usize,
        stride: [usize; 3],
        vb: VarBuilder,
    ) -> Result<Self> {
        let mid = c_in * channels * 27 / (c_in * 9 + 3 * channels);
        let downsample = if stride != [1, 1, 1] || c_in != channels {
            Some(Downsample::new(c_in, channels, stride, vb.pp("downsample"))?)
        } else {
            None
        };
        Ok(BasicBlock {
            conv1: Conv1::new(c_in, channels, mid, stride, vb.pp("conv1"))?,
            conv2: Conv2::new(channels, mid, vb.pp("conv2"))?,
            downsample,
        })
    }
    /// `depth` blocks, the first of which changes the shape.
    pub fn stage(
        depth: usize,
        c_in: usize,
        channels: usize,
        stride: [usize; 3],
        vb: VarBuilder,
    ) -> Result<Vec<Self>> {
        let first = Self::new(c_in, channels, stride, vb.pp(0));
        let rest = (1..depth)
            .map(|index| Self::new(channels, channels, [1, 1, 1], vb.pp(index)));
        std::iter::once(first).chain(rest).collect()
    }
    /// The block's output; `train` says whether norms use the batch and dropouts draw.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward_t(x, train)?,
            None => x.clone(),
        };
        let x = self
            .conv1
            .0
            .1
            .forward_conv_t(&self.conv1.0.0, x, self.conv1.0.2, train)?;
        let x = self.conv1.1.forward_conv_t(&self.conv1.0.3, &x, self.conv1.2, train)?;
        let x = self
            .conv2
            .0
            .1
            .forward_conv_t(&self.conv2.0.0, &x, self.conv2.0.2, train)?;
        self.conv2
            .1
            .forward_conv_add_t(&self.conv2.0.3, &x, &shortcut, Activation::Relu, train)
    }
}
/// In torch a `Sequential`: its fields are the checkpoint's indices.
#[derive(Debug, Clone)]
pub struct Stem(
    /// 1x7x7 convolution, `3` to `45` channels.
    pub Conv3d,
    /// Norm of `45` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
    /// 3x1x1 convolution, `45` to `64` channels.
    pub Conv3d,
    /// Norm of `64` channels.
    pub BatchNorm,
    /// Relu.
    pub Activation,
);
impl Stem {
    /// Reads or makes the parameters.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        Ok(
            Stem(
                Conv3d::new(
                    3,
                    45,
                    ConvConfig {
                        stride: [1, 2, 2],
                        padding: [0, 3, 3],
                        ..ConvConfig::new([1, 7, 7])
                    },
                    vb.pp(0),
                )?,
                BatchNorm::new(45, NORM, vb.pp(1))?,
                Activation::Relu,
                Conv3d::new(
                    45,
                    64,
                    ConvConfig {
                        padding: [1, 0, 0],
                        ..ConvConfig::new([3, 1, 1])
                    },
                    vb.pp(3),
                )?,
                BatchNorm::new(64, NORM, vb.pp(4))?,
                Activation::Relu,
            ),
        )
    }
}
