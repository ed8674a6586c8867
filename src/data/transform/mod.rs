//! What becomes of a sample before a network takes it: torchvision's v2 transforms. Here is what they draw and in what order
//! they come; `resnet_pixels` has what they do to pixels.
//!
//! Everything random is drawn from the sample's own [`Stream`], so neither workers nor a resume change it, and once for all
//! frames of a clip.

mod auto_augment;
mod crop;
mod erasing;
mod jitter;
mod pad;
mod resize;

use super::Image;
use super::options::{Erase, PaddingMode, ResizeTo, TransformSpec};
use crate::error::{Error, Result};
use resnet_pixels::pad::Border;
use resnet_pixels::{self as pixels, Normalize, Part, Resampling, channels, color, flip};
use zoo::random::Stream;
use zoo::{Interpolation, Preprocess};

/// A checked list of transforms.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Channels of its results: 1 or 3.
    channels: usize,
    /// Those on bytes.
    steps: Vec<TransformSpec>,
    normalize: Normalize,
    /// Those on normalised values.
    erasing: Vec<TransformSpec>,
}

/// What a pipeline looks at of a sample, known from its size alone.
pub(super) struct View {
    /// What the first transform takes, where that is drawn.
    part: Option<Part>,
    /// The rows from the top that hold all of it.
    pub rows: usize,
}

/// The transforms that a model's card asks for in evaluation.
pub fn evaluation(preprocess: &Preprocess) -> Vec<TransformSpec> {
    vec![
        TransformSpec::Resize { size: ResizeTo::Shorter(preprocess.resize), interpolation: preprocess.interpolation },
        TransformSpec::CenterCrop { size: preprocess.crop },
        TransformSpec::Normalize { mean: preprocess.mean.to_vec(), std: preprocess.std.to_vec() },
    ]
}

impl Pipeline {
    /// Checks a list. Samples become images of `channels` channels before its first transform: grey is repeated as RGB, RGB
    /// becomes the luma of ITU-R 601-2, both as Pillow's `convert`.
    ///
    /// # Errors
    /// [`Error::Input`] where `channels` is neither 1 nor 3, a parameter is out of its range, or the order is not bytes,
    /// [`TransformSpec::Normalize`], [`TransformSpec::RandomErasing`].
    pub fn new(specs: &[TransformSpec], channels: usize) -> Result<Self> {
        if !matches!(channels, 1 | 3) {
            return Err(Error::input(format!("images have 1 or 3 channels, not {channels}")));
        }
        let (mut steps, mut normalize, mut erasing) = (Vec::new(), None, Vec::new());
        for spec in specs {
            check(spec)?;
            match spec {
                TransformSpec::Normalize { mean, std } => {
                    if normalize.is_some() {
                        return Err(Error::input("normalize stands twice"));
                    }
                    if !erasing.is_empty() {
                        return Err(Error::input(
                            "random_erasing works on normalised values: move it behind normalize",
                        ));
                    }
                    check_normalize(mean, std, channels)?;
                    normalize = Some(Normalize::new(mean, std, channels));
                }
                TransformSpec::RandomErasing { .. } => erasing.push(spec.clone()),
                _ if normalize.is_some() || !erasing.is_empty() => {
                    return Err(Error::input(format!(
                        "{} works on bytes: move it before normalize and random_erasing",
                        name(spec)
                    )));
                }
                _ => steps.push(spec.clone()),
            }
        }
        let normalize = normalize.unwrap_or_else(|| Normalize::new(&[0.0], &[1.0], channels));
        Ok(Pipeline { channels, steps, normalize, erasing })
    }

    /// Channels of the results: 1 or 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Whether it draws anything.
    pub fn is_random(&self) -> bool {
        !self.erasing.is_empty() || self.steps.iter().any(is_random)
    }

    /// The transforms on bytes. `frames` are the frames of a clip, or the one of an image, all of one size.
    ///
    /// # Errors
    /// [`Error::Failed`] where an image is too small for a crop or a reflection.
    pub fn augment(&self, frames: Vec<Image>, draws: &mut Stream) -> Result<Vec<Image>> {
        let view = self.view(frames[0].height, frames[0].width, draws);
        self.augment_view(frames, view, draws)
    }

    /// What [`Self::augment`] will look at of frames of this size.
    pub(super) fn view(&self, height: usize, width: usize, draws: &mut Stream) -> View {
        let part = match self.steps.first() {
            Some(&TransformSpec::RandomResizedCrop { scale, ratio, .. }) => {
                Some(crop::draw_resized(height, width, scale, ratio, draws))
            }
            _ => None,
        };
        View { part, rows: part.map_or(height, |part| part.top + part.height) }
    }

    /// Goes on from a [`View`] of frames, which need its rows only.
    pub(super) fn augment_view(&self, frames: Vec<Image>, view: View, draws: &mut Stream) -> Result<Vec<Image>> {
        let mut frames = each(frames, |frame| channels::convert(frame, self.channels));
        let mut steps = &self.steps[..];
        if let (Some(part), [TransformSpec::RandomResizedCrop { size, interpolation, .. }, rest @ ..]) =
            (view.part, steps)
        {
            frames = resize_part(frames, part, *size, *interpolation);
            steps = rest;
        }
        while let [step, rest @ ..] = steps {
            (frames, steps) = match (step, rest) {
                // What the crop drops need not be computed.
                (
                    &TransformSpec::Resize { size, interpolation },
                    [TransformSpec::CenterCrop { size: side }, rest @ ..],
                ) => (resize_center(frames, size, *side, interpolation)?, rest),
                _ => (apply(step, frames, draws)?, rest),
            };
        }
        Ok(frames)
    }

    /// Writes what [`Self::augment`] returned as values: `f32[D, H, W, C]`, then erases.
    ///
    /// # Panics
    /// Where `values` has not the frames' size.
    pub fn write(&self, frames: &[Image], draws: &mut Stream, values: &mut [f32]) {
        let size = frames[0].pixels.len();
        for (frame, values) in frames.iter().zip(values.chunks_exact_mut(size)) {
            self.normalize.write(frame, values);
        }
        for spec in &self.erasing {
            let &TransformSpec::RandomErasing { p, scale, ratio, value } = spec else {
                unreachable!("only random_erasing is put here")
            };
            let (height, width) = (frames[0].height, frames[0].width);
            if draws.unit_f64() < p
                && let Some(part) = erasing::draw(height, width, scale, ratio, draws)
            {
                erasing::erase(values, (height, width, self.channels), part, value, draws);
            }
        }
    }
}

fn apply(step: &TransformSpec, frames: Vec<Image>, draws: &mut Stream) -> Result<Vec<Image>> {
    let (height, width) = (frames[0].height, frames[0].width);
    Ok(match *step {
        TransformSpec::RandomResizedCrop { size, scale, ratio, interpolation } => {
            let part = crop::draw_resized(height, width, scale, ratio, draws);
            resize_part(frames, part, size, interpolation)
        }
        TransformSpec::Resize { size, interpolation } => {
            let size = resize::target(size, height, width)?;
            each(frames, |frame| pixels::resize::resize(&frame, size, resampling(interpolation)))
        }
        TransformSpec::CenterCrop { size } => each(frames, |frame| pixels::crop::center(&frame, size)),
        TransformSpec::Pad { padding, mode } => {
            pad::check_fits(padding, mode, height, width)?;
            each(frames, |frame| pixels::pad::pad(&frame, padding, border(mode)))
        }
        TransformSpec::RandomCrop { size, padding, mode } => {
            pad::check_fits(padding, mode, height, width)?;
            let part = crop::draw(height + 2 * padding, width + 2 * padding, size, draws)?;
            each(frames, |frame| pixels::crop::crop(&pixels::pad::pad(&frame, padding, border(mode)), part))
        }
        TransformSpec::RandomHorizontalFlip { p } => {
            let flips = draws.unit_f64() < p;
            each_in_place(frames, |frame| {
                if flips {
                    flip::horizontal(frame);
                }
            })
        }
        TransformSpec::ColorJitter { brightness, contrast, saturation, hue } => {
            let changes = jitter::draw(brightness, contrast, saturation, hue, draws);
            each_in_place(frames, |frame| changes.iter().for_each(|&change| color::adjust(frame, change)))
        }
        TransformSpec::TrivialAugmentWide { num_magnitude_bins, interpolation } => {
            let op = auto_augment::draw_trivial(num_magnitude_bins, draws);
            each(frames, |frame| op.apply(frame, resampling(interpolation)))
        }
        TransformSpec::RandAugment { num_ops, magnitude, num_magnitude_bins, interpolation } => {
            let ops: Vec<_> = (0..num_ops)
                .map(|_| auto_augment::draw_rand(magnitude, num_magnitude_bins, (height, width), draws))
                .collect();
            each(frames, |frame| ops.iter().fold(frame, |frame, op| op.apply(frame, resampling(interpolation))))
        }
        TransformSpec::Normalize { .. } | TransformSpec::RandomErasing { .. } => {
            unreachable!("a pipeline keeps what works on values apart")
        }
    })
}

fn resize_part(frames: Vec<Image>, part: Part, size: usize, interpolation: Interpolation) -> Vec<Image> {
    each(frames, |frame| pixels::resize::resize_part(&frame, part, (size, size), resampling(interpolation)))
}

fn resize_center(frames: Vec<Image>, to: ResizeTo, side: usize, interpolation: Interpolation) -> Result<Vec<Image>> {
    let size = resize::target(to, frames[0].height, frames[0].width)?;
    let part = pixels::crop::central(size, side);
    let resized = |frame: &Image| pixels::resize::resize_window(frame, size, part, resampling(interpolation));
    Ok(each(frames, |frame| pixels::crop::center(&resized(&frame), side)))
}

fn each(frames: Vec<Image>, f: impl FnMut(Image) -> Image) -> Vec<Image> {
    frames.into_iter().map(f).collect()
}

fn each_in_place(mut frames: Vec<Image>, f: impl FnMut(&mut Image)) -> Vec<Image> {
    frames.iter_mut().for_each(f);
    frames
}

fn resampling(interpolation: Interpolation) -> Resampling {
    match interpolation {
        Interpolation::Nearest => Resampling::Nearest,
        Interpolation::Bilinear => Resampling::Bilinear,
        Interpolation::Bicubic => Resampling::Bicubic,
    }
}

fn border(mode: PaddingMode) -> Border {
    match mode {
        PaddingMode::Constant(value) => Border::Constant(value),
        PaddingMode::Reflect => Border::Reflect,
        PaddingMode::Edge => Border::Edge,
    }
}

fn is_random(spec: &TransformSpec) -> bool {
    !matches!(
        spec,
        TransformSpec::Resize { .. }
            | TransformSpec::CenterCrop { .. }
            | TransformSpec::Pad { .. }
            | TransformSpec::Normalize { .. }
    )
}

fn name(spec: &TransformSpec) -> &'static str {
    match spec {
        TransformSpec::RandomResizedCrop { .. } => "random_resized_crop",
        TransformSpec::Resize { .. } => "resize",
        TransformSpec::CenterCrop { .. } => "center_crop",
        TransformSpec::Pad { .. } => "pad",
        TransformSpec::RandomCrop { .. } => "random_crop",
        TransformSpec::RandomHorizontalFlip { .. } => "random_horizontal_flip",
        TransformSpec::ColorJitter { .. } => "color_jitter",
        TransformSpec::TrivialAugmentWide { .. } => "trivial_augment_wide",
        TransformSpec::RandAugment { .. } => "rand_augment",
        TransformSpec::Normalize { .. } => "normalize",
        TransformSpec::RandomErasing { .. } => "random_erasing",
    }
}

/// Every range that [`TransformSpec`] documents.
fn check(spec: &TransformSpec) -> Result<()> {
    let rule = |holds: bool, rule: &str| {
        if holds { Ok(()) } else { Err(Error::input(format!("{}: {rule}", name(spec)))) }
    };
    let side = |size: usize| rule((1..=4096).contains(&size), "a side must be 1 to 4096 pixels");
    let probability = |p: f64| rule((0.0..=1.0).contains(&p), "p must be 0 to 1");
    let area = |(low, high): (f64, f64)| {
        rule(0.0 < low && low <= high && high <= 1.0, "scale must be [low, high] with 0 < low <= high <= 1")
    };
    let aspect = |(low, high): (f64, f64)| {
        rule(0.0 < low && low <= high && high <= 1e3, "ratio must be [low, high] with 0 < low <= high <= 1000")
    };
    let bins = |bins: usize| rule((2..=1000).contains(&bins), "num_magnitude_bins must be 2 to 1000");
    let geometric = |interpolation: Interpolation| {
        rule(interpolation != Interpolation::Bicubic, "interpolation must be nearest or bilinear")
    };
    match *spec {
        TransformSpec::RandomResizedCrop { size, scale, ratio, .. } => {
            side(size)?;
            area(scale)?;
            aspect(ratio)
        }
        TransformSpec::Resize { size: ResizeTo::Shorter(size), .. } | TransformSpec::CenterCrop { size } => side(size),
        TransformSpec::Resize { size: ResizeTo::Exact(height, width), .. } => {
            side(height)?;
            side(width)
        }
        TransformSpec::Pad { padding, .. } => rule((1..=1024).contains(&padding), "padding must be 1 to 1024"),
        TransformSpec::RandomCrop { size, padding, .. } => {
            rule(padding <= 1024, "padding must be 0 to 1024")?;
            side(size)
        }
        TransformSpec::RandomHorizontalFlip { p } => probability(p),
        TransformSpec::ColorJitter { brightness, contrast, saturation, hue } => {
            let factor =
                |x: f64| rule((0.0..=100.0).contains(&x), "brightness, contrast and saturation must be 0 to 100");
            factor(brightness)?;
            factor(contrast)?;
            factor(saturation)?;
            rule((0.0..=0.5).contains(&hue), "hue must be 0 to 0.5")
        }
        TransformSpec::TrivialAugmentWide { num_magnitude_bins, interpolation } => {
            bins(num_magnitude_bins)?;
            geometric(interpolation)
        }
        TransformSpec::RandAugment { num_ops, magnitude, num_magnitude_bins, interpolation } => {
            rule(num_ops <= 32, "num_ops must be 0 to 32")?;
            bins(num_magnitude_bins)?;
            rule(magnitude < num_magnitude_bins, "magnitude must be below num_magnitude_bins")?;
            geometric(interpolation)
        }
        TransformSpec::Normalize { .. } => Ok(()),
        TransformSpec::RandomErasing { p, scale, ratio, value } => {
            probability(p)?;
            area(scale)?;
            aspect(ratio)?;
            rule(!matches!(value, Erase::Constant(value) if !value.is_finite()), "value must be finite")
        }
    }
}

fn check_normalize(mean: &[f32], std: &[f32], channels: usize) -> Result<()> {
    for (name, values) in [("mean", mean), ("std", std)] {
        if values.len() != 1 && values.len() != channels {
            return Err(Error::input(format!(
                "normalize: {name} must have 1 or {channels} values, not {}",
                values.len()
            )));
        }
    }
    if !mean.iter().all(|mean| mean.is_finite()) || !std.iter().all(|std| std.is_normal() && *std > 0.0) {
        return Err(Error::input("normalize: mean must be finite, std finite and above 0"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
