//! The `augment` section: what happens to samples and batches.

use super::check::{close, get, interval, note, or, require, settings};
use super::options::AugmentOptions;
use crate::data::options::{Erase, PaddingMode, ResizeTo, TransformSpec};
use resnet_codegen::diagnostic::Diagnostics;
use resnet_codegen::fields::{Fields, Variant};
use resnet_codegen::yaml::{Node, Value};
use zoo::{Interpolation, Preprocess};

const TRANSFORMS: [&str; 11] = [
    "random_resized_crop",
    "resize",
    "center_crop",
    "pad",
    "random_crop",
    "random_horizontal_flip",
    "color_jitter",
    "trivial_augment_wide",
    "rand_augment",
    "normalize",
    "random_erasing",
];
const MAX_SIDE: usize = 4096;

/// What the model sees: the defaults of transforms.
pub struct Sight {
    /// Height and width in pixels.
    pub input: usize,
    /// How the weights want it.
    pub preprocess: Preprocess,
    /// Whether a mirrored sample belongs to another class.
    pub directed: bool,
}

/// Reads the section, which may be missing.
pub fn augment(node: Option<&Node>, sight: &Sight, d: &mut Diagnostics) -> Option<AugmentOptions> {
    let mut fields = match node {
        Some(node) => Some(Fields::open(node, "`augment`", d)?),
        None => None,
    };
    let f = &mut fields;
    let train = or(get(f, "train"), sight.default_train(), |node| transforms(node, "`train`", true, sight, d));
    let eval = or(get(f, "eval"), sight.default_eval(), |node| transforms(node, "`eval`", false, sight, d));
    let mixup = or(get(f, "mixup"), 0., |node| node.number("`mixup`", 0.0..=100.0, d));
    let cutmix = or(get(f, "cutmix"), 0., |node| node.number("`cutmix`", 0.0..=100.0, d));
    let mix_probability_node = get(f, "mix_probability");
    let mix_probability = or(mix_probability_node, 1., |node| node.number("`mix_probability`", 0.0..=1.0, d));
    if let (Some(node), Some(0.), Some(0.)) = (mix_probability_node, mixup, cutmix) {
        note(node.span, "`mix_probability` needs `mixup` or `cutmix`", "add for example `mixup: 0.2`", d);
    }
    close(fields, d);
    Some(AugmentOptions {
        train: train?,
        eval: eval?,
        mixup: mixup?,
        cutmix: cutmix?,
        mix_probability: mix_probability?,
    })
}

impl Sight {
    /// torchvision's recipe for training.
    fn default_train(&self) -> Vec<TransformSpec> {
        let crop = TransformSpec::RandomResizedCrop {
            size: self.input,
            scale: (0.08, 1.),
            ratio: (3. / 4., 4. / 3.),
            interpolation: self.preprocess.interpolation,
        };
        let flip = TransformSpec::RandomHorizontalFlip { p: 0.5 };
        let flip = (!self.directed).then_some(flip);
        std::iter::once(crop).chain(flip).chain(std::iter::once(self.normalize())).collect()
    }

    /// The model's evaluation preprocessing, scaled to the input.
    fn default_eval(&self) -> Vec<TransformSpec> {
        let resize = (self.input * self.preprocess.resize).div_ceil(self.preprocess.crop.max(1));
        vec![
            TransformSpec::Resize {
                size: ResizeTo::Shorter(resize.clamp(1, MAX_SIDE)),
                interpolation: self.preprocess.interpolation,
            },
            TransformSpec::CenterCrop { size: self.input },
            self.normalize(),
        ]
    }

    fn normalize(&self) -> TransformSpec {
        TransformSpec::Normalize { mean: self.preprocess.mean.to_vec(), std: self.preprocess.std.to_vec() }
    }
}

fn transforms(node: &Node, what: &str, random: bool, sight: &Sight, d: &mut Diagnostics) -> Option<Vec<TransformSpec>> {
    let items = node.list(what, d)?;
    let mut transforms = Vec::new();
    let mut complete = true;
    let mut last = "";
    for item in items {
        let Some(variant) = item.variant("a transform", &TRANSFORMS, d) else {
            complete = false;
            continue;
        };
        order(&variant, &mut last, d);
        if !random && !["resize", "center_crop", "pad", "normalize"].contains(&variant.word) {
            let message = format!("`{}` is random, and evaluation is not", variant.word);
            note(variant.span, message, "take `resize`, `center_crop`, `pad` or `normalize`", d);
        }
        if sight.directed && variant.word == "random_horizontal_flip" {
            note(variant.span, "a mirrored moving garment belongs to another class", "remove the flip", d);
        }
        match transform(&variant, sight, d) {
            Some(transform) => transforms.push(transform),
            None => complete = false,
        }
    }
    complete.then_some(transforms)
}

/// Transforms of bytes come first, then at most one `normalize`, then `random_erasing`.
fn order(variant: &Variant<'_>, last: &mut &'static str, d: &mut Diagnostics) {
    let rank = |word: &str| match word {
        "normalize" => 1,
        "random_erasing" => 2,
        _ => 0,
    };
    let word = variant.word;
    if rank(word) < rank(last) {
        note(variant.span, format!("`{word}` stands behind `{last}`"), &format!("move `{last}` behind it"), d);
    } else if word == "normalize" && *last == "normalize" {
        note(variant.span, "`normalize` stands twice", "keep one of the two", d);
    } else {
        *last = word;
    }
}

fn transform(variant: &Variant<'_>, sight: &Sight, d: &mut Diagnostics) -> Option<TransformSpec> {
    let mut fields = settings(variant, d)?;
    let f = &mut fields;
    let side = |f: &mut Option<Fields<'_>>, d: &mut Diagnostics| {
        or(get(f, "size"), sight.input, |node| node.size("`size`", 1..=MAX_SIDE, d))
    };
    let transform = match variant.word {
        "random_resized_crop" => {
            let size = side(f, d);
            let scale = or(get(f, "scale"), (0.08, 1.), |node| interval(node, "`scale`", 1e-6, 1., d));
            let ratio = or(get(f, "ratio"), (3. / 4., 4. / 3.), |node| interval(node, "`ratio`", 1e-3, 1e3, d));
            let interpolation = interpolation(get(f, "interpolation"), Interpolation::Bilinear, d);
            (|| {
                Some(TransformSpec::RandomResizedCrop {
                    size: size?,
                    scale: scale?,
                    ratio: ratio?,
                    interpolation: interpolation?,
                })
            })()
        }
        "resize" => {
            let size = or(get(f, "size"), ResizeTo::Shorter(sight.input), |node| resize_to(node, d));
            let interpolation = interpolation(get(f, "interpolation"), Interpolation::Bilinear, d);
            size.zip(interpolation).map(|(size, interpolation)| TransformSpec::Resize { size, interpolation })
        }
        "center_crop" => side(f, d).map(|size| TransformSpec::CenterCrop { size }),
        "pad" => {
            let padding = require(f, variant, "padding", d).and_then(|node| node.size("`padding`", 1..=1024, d));
            let mode = or(get(f, "mode"), PaddingMode::Constant(0), |node| padding_mode(node, d));
            padding.zip(mode).map(|(padding, mode)| TransformSpec::Pad { padding, mode })
        }
        "random_crop" => {
            let size = side(f, d);
            let padding = or(get(f, "padding"), 0, |node| node.size("`padding`", 0..=1024, d));
            let mode = or(get(f, "mode"), PaddingMode::Constant(0), |node| padding_mode(node, d));
            (|| Some(TransformSpec::RandomCrop { size: size?, padding: padding?, mode: mode? }))()
        }
        "random_horizontal_flip" => or(get(f, "p"), 0.5, |node| node.number("`p`", 0.0..=1.0, d))
            .map(|p| TransformSpec::RandomHorizontalFlip { p }),
        "color_jitter" => {
            let brightness = or(get(f, "brightness"), 0., |node| node.number("`brightness`", 0.0..=100.0, d));
            let contrast = or(get(f, "contrast"), 0., |node| node.number("`contrast`", 0.0..=100.0, d));
            let saturation = or(get(f, "saturation"), 0., |node| node.number("`saturation`", 0.0..=100.0, d));
            let hue = or(get(f, "hue"), 0., |node| node.number("`hue`", 0.0..=0.5, d));
            (|| {
                Some(TransformSpec::ColorJitter {
                    brightness: brightness?,
                    contrast: contrast?,
                    saturation: saturation?,
                    hue: hue?,
                })
            })()
        }
        "trivial_augment_wide" => {
            let bins = bins(f, d);
            let interpolation = interpolation(get(f, "interpolation"), Interpolation::Nearest, d);
            bins.zip(interpolation).map(|(num_magnitude_bins, interpolation)| TransformSpec::TrivialAugmentWide {
                num_magnitude_bins,
                interpolation,
            })
        }
        "rand_augment" => {
            let num_ops = or(get(f, "num_ops"), 2, |node| node.size("`num_ops`", 0..=32, d));
            let bins = bins(f, d);
            let top = bins.unwrap_or(31) - 1;
            let magnitude = or(get(f, "magnitude"), 9.min(top), |node| node.size("`magnitude`", 0..=top, d));
            let interpolation = interpolation(get(f, "interpolation"), Interpolation::Nearest, d);
            (|| {
                Some(TransformSpec::RandAugment {
                    num_ops: num_ops?,
                    magnitude: magnitude?,
                    num_magnitude_bins: bins?,
                    interpolation: interpolation?,
                })
            })()
        }
        "normalize" => {
            let mean = or(get(f, "mean"), sight.preprocess.mean.to_vec(), |node| channels(node, "`mean`", -10., d));
            let std = or(get(f, "std"), sight.preprocess.std.to_vec(), |node| channels(node, "`std`", 1e-6, d));
            mean.zip(std).map(|(mean, std)| TransformSpec::Normalize { mean, std })
        }
        _ => {
            let p = or(get(f, "p"), 0.5, |node| node.number("`p`", 0.0..=1.0, d));
            let scale = or(get(f, "scale"), (0.02, 0.33), |node| interval(node, "`scale`", 1e-6, 1., d));
            let ratio = or(get(f, "ratio"), (0.3, 3.3), |node| interval(node, "`ratio`", 1e-3, 1e3, d));
            let value = or(get(f, "value"), Erase::Constant(0.), |node| match node.value {
                Value::Str(_) => node.choice("`value`", &[("random", Erase::Random)], d),
                _ => node.number("`value`", -1e6..=1e6, d).map(|value| Erase::Constant(value as f32)),
            });
            (|| Some(TransformSpec::RandomErasing { p: p?, scale: scale?, ratio: ratio?, value: value? }))()
        }
    };
    close(fields, d);
    transform
}

fn bins(f: &mut Option<Fields<'_>>, d: &mut Diagnostics) -> Option<usize> {
    or(get(f, "num_magnitude_bins"), 31, |node| node.size("`num_magnitude_bins`", 2..=1000, d))
}

fn interpolation(node: Option<&Node>, default: Interpolation, d: &mut Diagnostics) -> Option<Interpolation> {
    let choices = [
        ("nearest", Interpolation::Nearest),
        ("bilinear", Interpolation::Bilinear),
        ("bicubic", Interpolation::Bicubic),
    ];
    or(node, default, |node| node.choice("`interpolation`", &choices, d))
}

fn resize_to(node: &Node, d: &mut Diagnostics) -> Option<ResizeTo> {
    let Value::Seq(items) = &node.value else {
        return node.size("`size`", 1..=MAX_SIDE, d).map(ResizeTo::Shorter);
    };
    let [height, width] = items.as_slice() else {
        note(node.span, "`size` is the shorter side, or `[height, width]`", "write one number or two", d);
        return None;
    };
    let height = height.size("the height", 1..=MAX_SIDE, d);
    let width = width.size("the width", 1..=MAX_SIDE, d);
    Some(ResizeTo::Exact(height?, width?))
}

fn padding_mode(node: &Node, d: &mut Diagnostics) -> Option<PaddingMode> {
    let variant = node.variant("`mode`", &["constant", "reflect", "edge"], d)?;
    if variant.word == "constant" {
        let fill = or(variant.settings, 0, |node| node.size("`constant`", 0..=255, d))?;
        return Some(PaddingMode::Constant(u8::try_from(fill).expect("at most 255")));
    }
    if let Some(settings) = variant.settings {
        note(settings.span, format!("`{}` has no settings", variant.word), "write the word alone", d);
    }
    Some(if variant.word == "reflect" { PaddingMode::Reflect } else { PaddingMode::Edge })
}

/// One number for each channel, or one for all.
fn channels(node: &Node, what: &str, low: f64, d: &mut Diagnostics) -> Option<Vec<f32>> {
    let items = match &node.value {
        Value::Seq(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if ![1, 3].contains(&items.len()) {
        note(node.span, format!("{what} has one number, or one for each of 3 channels"), "write 1 or 3 numbers", d);
        return None;
    }
    let values: Vec<_> = items.iter().map(|item| item.number(what, low..=10.0, d).map(|value| value as f32)).collect();
    values.into_iter().collect()
}
