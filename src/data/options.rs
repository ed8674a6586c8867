//! What an experiment says about its data: plain structs, every default filled in.
//!
//! They are checked where they become something: a [`Source`] by `data::open`, transforms by
//! `data::Pipeline::new`, the rest by `data::Loader`.

use serde::{Deserialize, Serialize, Serializer};
use std::path::PathBuf;
use zoo::Interpolation;

/// The data section of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataOptions {
    /// Where samples come from.
    pub source: Source,
    /// What a corrupt, huge or missing image means.
    pub on_bad_image: BadImage,
    /// What training does to a sample, in order.
    pub train: Vec<TransformSpec>,
    /// What evaluation does to a sample, in order; nothing random.
    pub val: Vec<TransformSpec>,
    /// What training does to a batch.
    pub batchwise: Batchwise,
    /// How batches are made.
    pub loader: LoaderOptions,
}

/// Where samples come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The first `train` and `val` images of the 5,000 + 1,000 of Fashion-MNIST that the binary carries,
    /// in the order T-shirt/top, Trouser, .., Ankle boot, T-shirt/top, ..: any multiple of 10 is balanced.
    Embedded {
        /// Training images, 1 to 5000. Default 5000.
        train: usize,
        /// Validation images, 1 to 1000. Default 1000.
        val: usize,
    },
    /// Class folders of images (.jpeg, .jpg, .png, .webp, .gif; nested ones too) in `path/train` and `path/val`,
    /// or directly in `path` with a seeded split. Classes are the folders' names, sorted.
    Folder {
        /// The root.
        path: PathBuf,
        /// Given by the folders `train` and `val`, or seeded.
        split: Split,
    },
    /// A CSV file with the header `path,label` or `path,label,split`, in any order; paths relative to its folder, which they
    /// cannot leave. Labels are class names, sorted, or where all are whole numbers, class indices.
    Csv {
        /// The manifest.
        path: PathBuf,
        /// Given by the column `split` (`train` or `val`), or seeded.
        split: Split,
    },
    /// A folder with MNIST's four files, plain or `.gz`: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
    /// `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`.
    Idx {
        /// The folder.
        path: PathBuf,
    },
    /// The folder of a binary version of CIFAR-10 or CIFAR-100.
    Cifar {
        /// The folder with `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, or `train.bin` and `test.bin`.
        path: PathBuf,
        /// Which of them.
        labels: CifarLabels,
    },
    /// Synthetic clips: an embedded garment moves over a black torus; the class is one of eight directions,
    /// which no single frame tells. A horizontal flip changes the direction, so do not augment with one.
    MovingGarments {
        /// Training clips, 1 to 1,000,000. Default 2000.
        train: usize,
        /// Validation clips, 1 to 1,000,000. Default 400.
        val: usize,
        /// Frames of a clip, 2 to 64. Default 16.
        frames: usize,
        /// Height and width of a frame, 16 to 128. Default 32.
        size: usize,
        /// Which garments, places and speeds. Default 0.
        seed: u64,
    },
    /// Class folders of clips in `path/train` and `path/val`, or directly in `path` with a seeded split. A clip is a
    /// folder of frames in the order of their names, or an animated `.gif`.
    Clips {
        /// The root.
        path: PathBuf,
        /// Given by the folders `train` and `val`, or seeded.
        split: Split,
        /// Frames that a sample takes, evenly over the clip (a shorter clip repeats some), 1 to 256. Default 16.
        frames: usize,
    },
}

impl Source {
    /// The whole embedded set.
    pub const EMBEDDED: Source = Source::Embedded { train: 5000, val: 1000 };
    /// The moving garments with their defaults.
    pub const MOVING_GARMENTS: Source = Source::MovingGarments { train: 2000, val: 400, frames: 16, size: 32, seed: 0 };

    /// Spatial dimensions of a sample: 2 for images, 3 for clips.
    pub fn dims(&self) -> usize {
        match self {
            Source::MovingGarments { .. } | Source::Clips { .. } => 3,
            _ => 2,
        }
    }
}

/// Which samples train and which validate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// As the source says: folders `train` and `val`, or a column `split`.
    #[default]
    Given,
    /// A random part of each class validates: at least one sample, never all.
    Seeded {
        /// The part, above 0 and below 1.
        val_fraction: f64,
        /// Which part. Default 0.
        seed: u64,
    },
}

/// Which CIFAR, and which of its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CifarLabels {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100, its 100 fine labels.
    Cifar100,
    /// CIFAR-100, its 20 coarse labels.
    Cifar100Coarse,
}

/// What a corrupt, huge or missing image means. Every image is read and decoded once when the set is opened, so bad ones
/// are known, named and counted before the first step, and what is left is the set: batches stay reproducible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum BadImage {
    /// An error that counts them and names the first ten.
    #[default]
    Fail,
    /// They are left out, and reported by `data::open`.
    Quarantine,
}

/// One transform, named and parametrised as torchvision's v2.
///
/// The order is: any on bytes, then at most one [`Normalize`](TransformSpec::Normalize), then any number of
/// [`RandomErasing`](TransformSpec::RandomErasing). Without a `Normalize`, values are between 0 and 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformSpec {
    /// A random part of the image, resized to `size` x `size`.
    RandomResizedCrop {
        /// Side of the result in pixels, 1 to 4096.
        size: usize,
        /// Area of the part, as fractions of the image's: `0 < low <= high <= 1`. Default (0.08, 1).
        scale: (f64, f64),
        /// Width / height of the part: `0 < low <= high`. Default (3/4, 4/3).
        ratio: (f64, f64),
        /// Default bilinear.
        interpolation: Interpolation,
    },
    /// Resizes, with antialiasing.
    Resize {
        /// To what.
        size: ResizeTo,
        /// Default bilinear.
        interpolation: Interpolation,
    },
    /// The central `size` x `size` pixels; a smaller image is padded with black.
    CenterCrop {
        /// Side in pixels, 1 to 4096.
        size: usize,
    },
    /// Adds a border.
    Pad {
        /// Pixels on each side, 1 to 1024.
        padding: usize,
        /// What is in it. Default a constant 0.
        mode: PaddingMode,
    },
    /// Adds a border, then takes a random `size` x `size` part.
    RandomCrop {
        /// Side in pixels, 1 to 4096; at most the padded image's.
        size: usize,
        /// Pixels on each side, 0 to 1024. Default 0.
        padding: usize,
        /// What is in it. Default a constant 0.
        mode: PaddingMode,
    },
    /// Mirrors left and right.
    RandomHorizontalFlip {
        /// Probability, 0 to 1. Default 0.5.
        p: f64,
    },
    /// Changes the four in random order, each by a random factor from `max(0, 1 - x)` to `1 + x`, the hue by a shift from
    /// `-hue` to `hue` turns.
    ColorJitter {
        /// 0 or more. Default 0.
        brightness: f64,
        /// 0 or more. Default 0.
        contrast: f64,
        /// 0 or more. Default 0.
        saturation: f64,
        /// 0 to 0.5. Default 0.
        hue: f64,
    },
    /// One random operation at a random strength (Müller and Hutter 2021).
    TrivialAugmentWide {
        /// Number of strengths, 2 to 1000. Default 31.
        num_magnitude_bins: usize,
        /// Of the geometric operations. Default nearest.
        interpolation: Interpolation,
    },
    /// Several random operations at one strength (Cubuk et al. 2019).
    RandAugment {
        /// Operations, 0 to 32. Default 2.
        num_ops: usize,
        /// Strength, 0 to `num_magnitude_bins - 1`. Default 9.
        magnitude: usize,
        /// Number of strengths, 2 to 1000. Default 31.
        num_magnitude_bins: usize,
        /// Of the geometric operations. Default nearest.
        interpolation: Interpolation,
    },
    /// `(value / 255 - mean) / std` for each channel.
    Normalize {
        /// One for each channel, or one for all.
        #[serde(serialize_with = "shortest")]
        mean: Vec<f32>,
        /// One for each channel, or one for all; above 0.
        #[serde(serialize_with = "shortest")]
        std: Vec<f32>,
    },
    /// Overwrites a random rectangle of the normalised values (Zhong et al. 2017).
    RandomErasing {
        /// Probability, 0 to 1. Default 0.5.
        p: f64,
        /// Area of the rectangle, as fractions of the image's: `0 < low <= high <= 1`. Default (0.02, 0.33).
        scale: (f64, f64),
        /// Height / width of the rectangle: `0 < low <= high`. Default (0.3, 3.3).
        ratio: (f64, f64),
        /// With what. Default 0, which is the mean.
        value: Erase,
    },
}

/// The size that [`TransformSpec::Resize`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeTo {
    /// The shorter side, 1 to 4096 pixels; the other follows, as torchvision truncates it.
    Shorter(usize),
    /// Exactly `(height, width)`, each 1 to 4096 pixels.
    Exact(usize, usize),
}

/// What a border holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaddingMode {
    /// This value, 0 to 255.
    Constant(u8),
    /// The image mirrored, its edge not repeated. Padding must be smaller than the image.
    Reflect,
    /// The edge repeated.
    Edge,
}

impl Default for PaddingMode {
    fn default() -> Self {
        PaddingMode::Constant(0)
    }
}

/// What [`TransformSpec::RandomErasing`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Erase {
    /// This normalised value.
    #[serde(serialize_with = "shortest_one")]
    Constant(f32),
    /// Standard normal noise, an own draw for each value.
    Random,
}

/// What training does to a batch; soft targets `f32[N, K]` come of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Batchwise {
    /// Mixup's alpha (Zhang et al. 2017), 0 (off) to 100. Default 0.
    pub mixup_alpha: f64,
    /// CutMix's alpha (Yun et al. 2019), 0 (off) to 100. Default 0. With both on, each batch draws one of them.
    pub cutmix_alpha: f64,
    /// Probability that a batch is mixed, 0 to 1. Default 1.
    pub probability: f64,
}

impl Batchwise {
    /// Whether batches get soft targets.
    pub fn is_on(&self) -> bool {
        self.probability > 0.0 && (self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0)
    }
}

impl Default for Batchwise {
    fn default() -> Self {
        Batchwise { mixup_alpha: 0.0, cutmix_alpha: 0.0, probability: 1.0 }
    }
}

/// How batches are made. Neither `workers` nor `prefetch` changes a bit of any batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderOptions {
    /// Samples in a training batch, 1 to 65536. Default 32.
    pub batch_size: usize,
    /// Samples in an evaluation batch, 1 to 65536. Default 64.
    pub eval_batch_size: usize,
    /// Threads that decode and augment, 0 to 64; 0 means the calling thread. Default 1.
    pub workers: usize,
    /// Finished batches that each worker may hold, 1 to 64. Default 2.
    pub prefetch: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        LoaderOptions { batch_size: 32, eval_batch_size: 64, workers: 1, prefetch: 2 }
    }
}

/// Writes 0.485 and not 0.48500001430511475, which is what an `f32` becomes in a `serde_json::Value`.
fn shortest<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| shortest_f64(*value)))
}

fn shortest_one<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(shortest_f64(*value))
}

fn shortest_f64(value: f32) -> f64 {
    value.to_string().parse().expect("what Rust writes of a number, it reads")
}
