//! What a checked spec says. Only [`check`](crate::check) builds these types, so that below it
//! nothing needs checking again.
//!
//! `basic`, `bottleneck` and a user's own block are all the same thing here: named layers whose
//! widths, strides and kernels may refer to the block they stand in.

use crate::diagnostic::Span;

/// A whole architecture.
#[derive(Debug, Clone)]
pub struct Spec {
    /// A snake_case identifier: `resnet34`.
    pub name: String,
    /// What the network is, in the author's words.
    pub doc: Option<String>,
    /// Spatial dimensions: 2 or 3.
    pub dims: usize,
    /// Channels, then the spatial size: `[3, 224, 224]`.
    pub input: Vec<usize>,
    /// Where it is written.
    pub input_span: Span,
    /// The layers before the first stage, as fields of the network.
    pub stem: Vec<Layer>,
    /// The distinct blocks that the stages are made of.
    pub blocks: Vec<Block>,
    /// `layer1`, `layer2`, ..
    pub stages: Vec<Stage>,
    /// What follows the last stage.
    pub top: Top,
    /// The normalisation of every norm layer.
    pub norm: Norm,
    /// Where it is written.
    pub norm_span: Span,
    /// Stochastic depth: the rate of the last block; it grows linearly from 0 at the first.
    pub drop_path: f64,
    /// How to prepare an image for evaluation.
    pub preprocess: Preprocess,
    /// Published weights.
    pub weights: Vec<Weights>,
}

/// `depth` blocks at one resolution.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Blocks in it.
    pub depth: usize,
    /// The stage's channels, before the block's expansion.
    pub channels: usize,
    /// The stride of its first block, one for each spatial dimension.
    pub stride: Vec<usize>,
    /// The kernel of its spatial convolutions, one for each spatial dimension.
    pub kernel: Vec<usize>,
    /// The dilation of height and width.
    pub dilation: usize,
    /// The dilation that its first block's first convolution has: that of the stage before, as in torchvision.
    pub first_dilation: usize,
    /// Which of [`Spec::blocks`].
    pub block: usize,
    /// Where it is written.
    pub span: Span,
}

/// A residual block: `after(shortcut(x) + layers(x))`.
#[derive(Debug, Clone)]
pub struct Block {
    /// Its type's name: `BasicBlock`.
    pub type_name: String,
    /// Output channels over the stage's channels.
    pub expansion: usize,
    /// The residual branch.
    pub layers: Vec<Layer>,
    /// The other branch.
    pub shortcut: Shortcut,
    /// The activation after the addition.
    pub after: Activation,
}

/// What is added to the residual branch.
#[derive(Debug, Clone)]
pub enum Shortcut {
    /// The input, through these layers (`downsample.0`, ..) where the block changes its shape.
    Layers(Vec<Layer>),
    /// The input, subsampled and padded with zero channels: no parameters (option A of the CIFAR ResNets).
    Pad,
    /// The input where the block keeps its shape, else nothing (MobileNetV2).
    Same,
    /// Nothing: a plain network.
    None,
}

/// An op under a name that is a field and a part of checkpoint keys.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `conv1`; inside a sequence its index.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Where it is written.
    pub span: Span,
}

/// What a layer computes.
#[derive(Debug, Clone)]
pub enum Op {
    /// A convolution.
    Conv(Conv),
    /// The spec's normalisation of that many channels, its scale starting at zero if so said.
    Norm {
        /// Its channels.
        channels: Width,
        /// Whether gamma starts at 0 instead of 1.
        zero_init: bool,
    },
    /// An elementwise function.
    Activation(Activation),
    /// Maximum over windows.
    MaxPool(Pool),
    /// Average over windows, a partial window at the border over what it holds.
    AvgPool(Pool),
    /// Squeeze and excitation.
    SqueezeExcite {
        /// Channels in and out.
        channels: Width,
        /// Inner channels over channels, as numerator and denominator.
        ratio: (usize, usize),
    },
    /// Efficient channel attention.
    EfficientChannelAttention {
        /// Channels in and out.
        channels: Width,
    },
    /// Zeroes elements with this probability in training.
    Dropout(f64),
    /// torch's `Sequential`: a tuple struct of that name.
    Sequence {
        /// `Downsample`.
        type_name: String,
        /// `0`, `1`, ..
        layers: Vec<Layer>,
    },
}

/// A convolution, one entry for each spatial dimension.
#[derive(Debug, Clone)]
pub struct Conv {
    /// Channels in.
    pub c_in: Width,
    /// Channels out.
    pub c_out: Width,
    /// Kernel.
    pub kernel: Vec<Extent>,
    /// Stride.
    pub stride: Vec<Extent>,
    /// Zeros on both sides; `None` keeps the size at stride 1.
    pub padding: Option<Vec<usize>>,
    /// Distance between taps.
    pub dilation: Vec<Extent>,
    /// Groups.
    pub groups: Width,
    /// Whether it adds a bias.
    pub bias: bool,
}

/// A pooling window, one entry for each spatial dimension.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Window.
    pub kernel: Vec<Extent>,
    /// Stride.
    pub stride: Vec<Extent>,
    /// Padding on both sides.
    pub padding: Vec<usize>,
}

/// A size along one axis: a number, or what the block says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The number.
    Fixed(usize),
    /// The stage's kernel along this axis.
    Kernel(usize),
    /// The block's stride along this axis: the stage's in its first block, else 1.
    Stride(usize),
    /// The dilation of a block's first dilated convolution: in a stage's first block that of the stage before.
    FirstDilation,
    /// The stage's dilation.
    Dilation,
}

/// A count of channels: `times * of / over`, always exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    /// Numerator.
    pub times: usize,
    /// What it scales.
    pub of: Of,
    /// Denominator.
    pub over: usize,
}

/// What a [`Width`] scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// 1.
    One,
    /// The block's input channels.
    In,
    /// The stage's channels.
    Channels,
    /// The stage's channels times the block's expansion.
    Out,
    /// The inner channels of an R(2+1)D convolution (Tran et al. 2018, section 3.5): as many as give
    /// it the parameters of the full 3x3x3.
    Mid,
}

impl Width {
    /// A plain number.
    pub const fn fixed(times: usize) -> Self {
        Width { times, of: Of::One, over: 1 }
    }

    /// Exactly `of`.
    pub const fn of(of: Of) -> Self {
        Width { times: 1, of, over: 1 }
    }
}

/// Elementwise functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x.
    Identity,
    /// max(0, x).
    Relu,
    /// x times its logistic sigmoid.
    Silu,
    /// x times the normal distribution function (erf form).
    Gelu,
}

/// What normalises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Groups of a group norm; `None` for batch norm.
    pub groups: Option<usize>,
    /// Added to the variance.
    pub eps: f64,
    /// Share of the new batch in batch norm's running statistics.
    pub momentum: f64,
}

/// What follows the last stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Top {
    /// Global average, dropout, `fc`.
    Classifier {
        /// Classes.
        classes: usize,
        /// Probability of the dropout before `fc`.
        dropout: f64,
    },
    /// Nothing: a backbone.
    Backbone,
    /// A feature pyramid over all stages (Lin et al. 2017).
    Pyramid {
        /// Channels of every level.
        channels: usize,
        /// Whether a max-pool of the coarsest level makes one more.
        extra_maxpool: bool,
    },
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

/// Resize filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Triangle filter.
    Bilinear,
    /// Cubic filter.
    Bicubic,
}

/// One published set of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// `a1_in1k`.
    pub tag: String,
    /// `timm/resnet34.a1_in1k`.
    pub repository: String,
    /// A commit, 40 hexadecimal digits.
    pub revision: Option<String>,
    /// `model.safetensors`.
    pub file: String,
    /// 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// SPDX identifier.
    pub licence: String,
    /// Published top-1 accuracy, 0 to 1.
    pub top1: Option<f64>,
    /// Where it differs from the model's.
    pub preprocess: Option<Preprocess>,
}

impl Spec {
    /// The path of the backbone's parameters: `body.` below a neck, as in torchvision's detection models.
    pub fn prefix(&self) -> &'static str {
        if matches!(self.top, Top::Pyramid { .. }) { "body." } else { "" }
    }

    /// Every block of the network in order: its stage, its index there, its input channels.
    pub fn each_block(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let mut c_in = None;
        self.stages.iter().enumerate().flat_map(move |(index, stage)| {
            let first = c_in.unwrap_or_else(|| self.stem_channels());
            let out = self.out_channels(index);
            c_in = Some(out);
            (0..stage.depth).map(move |block| (index, block, if block == 0 { first } else { out }))
        })
    }

    /// Channels that the stage puts out.
    pub fn out_channels(&self, stage: usize) -> usize {
        self.stages[stage].channels * self.blocks[self.stages[stage].block].expansion
    }

    /// Channels that the stem puts out.
    pub fn stem_channels(&self) -> usize {
        fn last(layers: &[Layer]) -> Option<usize> {
            layers.iter().rev().find_map(|layer| match &layer.op {
                Op::Conv(conv) => Some(conv.c_out.times),
                Op::Sequence { layers, .. } => last(layers),
                _ => None,
            })
        }
        last(&self.stem).expect("every stem has a convolution of fixed width")
    }
}

impl Stage {
    /// Whether its block `index` with `c_in` input channels changes the shape, so that the shortcut cannot be the input.
    pub fn changes_shape(&self, index: usize, c_in: usize, expansion: usize) -> bool {
        c_in != self.channels * expansion || (index == 0 && self.stride.iter().any(|stride| *stride != 1))
    }
}

/// `wide_resnet50_2` -> `WideResNet50_2`: UpperCamelCase as rustc wants it, with the paper's capitals.
pub fn camel_case(name: &str) -> String {
    let mut camel = String::new();
    for part in name.split('_') {
        let digits_meet =
            camel.ends_with(|c: char| c.is_ascii_digit()) && part.starts_with(|c: char| c.is_ascii_digit());
        if digits_meet {
            camel.push('_');
        }
        let mut letters = part.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    [("Resnext", "ResNeXt"), ("Resnet", "ResNet"), ("resnet", "ResNet"), ("resnext", "ResNeXt")]
        .iter()
        .fold(camel, |camel, (plain, paper)| camel.replace(plain, paper))
}
