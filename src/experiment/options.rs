//! What an experiment can say about training: plain data, every default filled in.

use crate::data::options::{BadImage, Source, TransformSpec};
use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use zoo::params::NormPolicy;
use zoo::weights::Adapt;

/// What the parameters are at first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsOptions {
    /// Drawn from the seed.
    Scratch,
    /// Published weights.
    #[serde(untagged)]
    Tag {
        /// One of the model's weight tags.
        tag: String,
        /// What to do where they cannot be had.
        if_unavailable: IfUnavailable,
        /// What need not fit the model. Default: the head.
        allow: Adapt,
    },
    /// A local file.
    #[serde(untagged)]
    File {
        /// `.safetensors` or `.pth`.
        file: PathBuf,
        /// What need not fit the model. Default: the head.
        allow: Adapt,
    },
}

/// What to do where published weights cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfUnavailable {
    /// End with an error.
    Fail,
    /// Go on from scratch, and say so.
    Scratch,
}

/// What is learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSection {
    /// Where samples come from.
    pub source: Source,
    /// What a corrupt, huge or missing image means.
    pub on_bad_image: BadImage,
}

/// What happens to samples and batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AugmentOptions {
    /// To a training sample, in order.
    pub train: Vec<TransformSpec>,
    /// To an evaluation sample, in order.
    pub eval: Vec<TransformSpec>,
    /// Mixup's alpha. 0: off.
    pub mixup: f64,
    /// CutMix's alpha. 0: off.
    pub cutmix: f64,
    /// Part of the batches that are mixed.
    pub mix_probability: f64,
}

/// A length of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// In passes over the training samples.
    Epochs(u64),
    /// In optimizer steps.
    Steps(u64),
}

/// What activations and their gradients are stored in. Parameters, sums and statistics are `f32` with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16: 16 bits, with the range of `f32` and 8 bits of precision.
    Bf16,
}

impl Precision {
    /// Every one.
    pub const ALL: [Precision; 2] = [Precision::F32, Precision::Bf16];

    /// The name that an experiment gives it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The type of tensors.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }

    /// A batch as a model takes it, on its device: a network computes in the type of its input.
    ///
    /// # Errors
    /// Where the device has no memory for it.
    pub fn input(self, images: &Tensor, device: &Device) -> Result<Tensor> {
        zoo::nn::to_dtype(&images.to_device(device)?, self.dtype())
    }
}

/// What takes the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerOptions {
    /// `torch.optim.SGD`.
    Sgd(SgdOptions),
    /// `torch.optim.AdamW`.
    #[serde(rename = "adamw")]
    AdamW(AdamWOptions),
}

impl OptimizerOptions {
    /// The learning rate that the schedule scales.
    pub fn lr(&self) -> f64 {
        match self {
            OptimizerOptions::Sgd(options) => options.lr,
            OptimizerOptions::AdamW(options) => options.lr,
        }
    }

    /// Whether weight decay also pulls at norms and biases.
    pub fn decay_norm_and_bias(&self) -> bool {
        match self {
            OptimizerOptions::Sgd(options) => options.decay_norm_and_bias,
            OptimizerOptions::AdamW(options) => options.decay_norm_and_bias,
        }
    }
}

/// Stochastic gradient descent. Defaults are torch's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SgdOptions {
    /// Learning rate. Default 0.001.
    pub lr: f64,
    /// Momentum. Default 0.
    pub momentum: f64,
    /// Nesterov's form of it. Default false.
    pub nesterov: bool,
    /// Coupled weight decay. Default 0.
    pub weight_decay: f64,
    /// Whether it also pulls at norms and biases. Default false, as timm's.
    pub decay_norm_and_bias: bool,
}

/// Adam with decoupled weight decay. Defaults are torch's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdamWOptions {
    /// Learning rate. Default 0.001.
    pub lr: f64,
    /// Decay of the two moments. Default [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the denominator. Default 1e-8.
    pub eps: f64,
    /// Decoupled weight decay. Default 0.01.
    pub weight_decay: f64,
    /// Whether it also pulls at norms and biases. Default false, as timm's.
    pub decay_norm_and_bias: bool,
}

/// What the learning rate does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleOptions {
    /// After the warm-up; written in place, as in `schedule: {cosine: {min_lr: 0}, warmup: {epochs: 1}}`.
    #[serde(flatten)]
    pub shape: ScheduleShape,
    /// A linear rise before it.
    pub warmup: Option<WarmupOptions>,
}

/// What the learning rate does after its warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleShape {
    /// It stays.
    Constant {},
    /// It follows half a cosine down: torch's `CosineAnnealingLR`, by the step (Loshchilov and Hutter 2017).
    Cosine {
        /// Where it ends. Default 0.
        min_lr: f64,
    },
    /// It is multiplied now and then: torch's `StepLR`.
    Step {
        /// How often.
        every: Length,
        /// With what. Default 0.1.
        gamma: f64,
    },
    /// It rises and falls once: torch's `OneCycleLR`, by the step; momentum is not cycled (Smith and Topin 2019).
    OneCycle {
        /// The part of the run that rises. Default 0.3.
        pct_start: f64,
        /// It starts at `lr / div_factor`. Default 25.
        div_factor: f64,
        /// It ends at `lr / div_factor / final_div_factor`. Default 10000.
        final_div_factor: f64,
        /// How it moves. Default cosine.
        anneal: Anneal,
    },
    /// It is reduced when a metric no longer gets better.
    Plateau(PlateauOptions),
}

/// A linear rise to the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WarmupOptions {
    /// How long: `epochs` or `steps`.
    #[serde(flatten)]
    pub length: Length,
    /// The part of the learning rate that it starts from. Default 0.01.
    pub start_factor: f64,
}

/// How one-cycle moves between its rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anneal {
    /// Half a cosine.
    Cosine,
    /// A line.
    Linear,
}

/// torch's `ReduceLROnPlateau`, by the evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlateauOptions {
    /// What is watched. Default `val.loss`.
    pub metric: String,
    /// Which way is better.
    pub mode: Mode,
    /// The factor. Default 0.1.
    pub factor: f64,
    /// Evaluations without a better value that are borne. Default 10.
    pub patience: u64,
    /// What counts as better, relative to the best. Default 0.0001.
    pub threshold: f64,
    /// Evaluations after a reduction that do not count. Default 0.
    pub cooldown: u64,
    /// Where it ends. Default 0.
    pub min_lr: f64,
}

/// Which way a metric gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Down.
    Min,
    /// Up.
    Max,
}

impl Mode {
    /// Whether `value` beats `best` by more than `min_delta`. Any number beats NaN, which beats nothing.
    pub fn beats(self, value: f64, best: f64, min_delta: f64) -> bool {
        match self {
            _ if best.is_nan() => !value.is_nan(),
            Mode::Min => value < best - min_delta,
            Mode::Max => value > best + min_delta,
        }
    }
}

/// Averages of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmaOptions {
    /// The part of an average that stays in each step. Default 0.9999, as timm's.
    pub decay: f64,
    /// Whether the decay starts at 0 and rises, as timm's `use_warmup`. Default false.
    pub warmup: bool,
}

/// What is not trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FreezeOptions {
    /// Everything but the classifier.
    pub backbone: bool,
    /// The stem (0), or the stem and that many stages.
    pub stages: Option<usize>,
    /// Parameters by name; `*` stands for anything.
    pub names: Vec<String>,
    /// What frozen batch norms do in training.
    pub batch_norm: NormPolicy,
}

/// When to give up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStoppingOptions {
    /// What is watched.
    pub metric: String,
    /// Which way is better.
    pub mode: Mode,
    /// Evaluations without a better value that are borne.
    pub patience: u64,
    /// By how much a value must be better. Default 0.
    pub min_delta: f64,
}

/// When to evaluate; the end of the run always is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluateOptions {
    /// How often. Default each epoch.
    pub every: Length,
}

/// When to save, and what to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointOptions {
    /// How often. Default each epoch; the end of the run always is.
    pub every: Length,
    /// How many of the newest to keep. Default 2.
    pub keep_last: usize,
    /// Which is the best.
    pub best: BestOptions,
}

/// Which checkpoint is the best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestOptions {
    /// By what. Default `val.top1`, with an EMA `val_ema.top1`.
    pub metric: String,
    /// Which way is better.
    pub mode: Mode,
}
