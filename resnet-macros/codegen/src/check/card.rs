//! What a spec says about its use: preprocessing and published weights.

use crate::diagnostic::Diagnostics;
use crate::fields::Fields;
use crate::spec::{Interpolation, Preprocess, Weights};
use crate::yaml::Node;

const INTERPOLATIONS: [(&str, Interpolation); 3] =
    [("nearest", Interpolation::Nearest), ("bilinear", Interpolation::Bilinear), ("bicubic", Interpolation::Bicubic)];

/// ImageNet's mean and deviation; a central crop of 7/8 of the shorter side, as He et al. 2016.
pub(super) fn default_preprocess(side: usize) -> Preprocess {
    Preprocess {
        resize: side * 8 / 7,
        crop: side,
        interpolation: Interpolation::Bilinear,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    }
}

/// What `node` says over `base`.
pub(super) fn preprocess(node: &Node, base: Preprocess, diagnostics: &mut Diagnostics) -> Option<Preprocess> {
    let mut fields = Fields::open(node, "`preprocess`", diagnostics)?;
    let before = diagnostics.len();
    let mut read = base;
    if let Some(node) = fields.get("crop") {
        read.crop = node.size("`crop`", 1..=8192, diagnostics).unwrap_or(1);
        read.resize = default_preprocess(read.crop).resize;
    }
    if let Some(node) = fields.get("resize") {
        read.resize = node.size("`resize`", 1..=8192, diagnostics).unwrap_or(8192);
    }
    if let Some(node) = fields.get("interpolation") {
        read.interpolation =
            node.choice("`interpolation`", &INTERPOLATIONS, diagnostics).unwrap_or(Interpolation::Bilinear);
    }
    if let Some(node) = fields.get("mean") {
        read.mean = channels(node, "`mean`", 0.0..=1.0, diagnostics).unwrap_or_default();
    }
    if let Some(node) = fields.get("std") {
        read.std = channels(node, "`std`", 1e-4..=10.0, diagnostics).unwrap_or_default();
    }
    fields.close(diagnostics);
    if read.resize < read.crop {
        diagnostics
            .error(node.span, format!("a crop of {} does not fit into an image resized to {}", read.crop, read.resize))
            .help("let `resize` be at least `crop`");
    }
    (diagnostics.len() == before).then_some(read)
}

fn channels(
    node: &Node,
    what: &str,
    range: std::ops::RangeInclusive<f64>,
    diagnostics: &mut Diagnostics,
) -> Option<[f32; 3]> {
    let items = node.list(what, diagnostics)?;
    let values: Option<Vec<f32>> =
        items.iter().map(|item| item.number(what, range.clone(), diagnostics).map(|value| value as f32)).collect();
    match values?.as_slice() {
        [grey] => Some([*grey; 3]),
        [red, green, blue] => Some([*red, *green, *blue]),
        _ => {
            diagnostics
                .error(node.span, format!("{what} has one number a colour: three, or one for all"))
                .help("write it like `[0.485, 0.456, 0.406]`");
            None
        }
    }
}

/// The list `weights`; `None` where a mistake was noted.
pub(super) fn weights(
    node: &Node,
    name: &str,
    base: Option<&Preprocess>,
    side: usize,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Weights>> {
    let items = node.list("`weights`", diagnostics)?;
    let before = diagnostics.len();
    let base = base.copied().unwrap_or_else(|| default_preprocess(side));
    let mut all: Vec<Weights> = Vec::new();
    for item in items {
        let Some(weights) = one(item, name, base, diagnostics) else { continue };
        if all.iter().any(|known| known.tag == weights.tag) {
            diagnostics
                .error(item.span, format!("the weights `{}` stand twice", weights.tag))
                .help("keep one of the two, or give one another tag");
        }
        all.push(weights);
    }
    (diagnostics.len() == before).then_some(all)
}

fn one(node: &Node, name: &str, base: Preprocess, diagnostics: &mut Diagnostics) -> Option<Weights> {
    let mut fields = Fields::open(node, "an entry of `weights`", diagnostics)?;
    let tag = fields.require("tag", diagnostics).and_then(|node| {
        word(
            node,
            "a tag",
            "letters, digits, `_`, `-` and `.`",
            |c| c.is_ascii_alphanumeric() || "_-.".contains(c),
            diagnostics,
        )
    });
    let repository = match fields.get("repository") {
        None => tag.as_ref().map(|tag| format!("timm/{name}.{tag}")),
        Some(node) => repository(node, diagnostics),
    };
    let file = match fields.get("file") {
        None => Some("model.safetensors".to_owned()),
        Some(node) => file(node, diagnostics),
    };
    let mut hexadecimal = |key: &'static str, digits: usize| match fields.get(key) {
        None => Some(None),
        Some(node) => digest(node, key, digits, diagnostics).map(Some),
    };
    let (revision, sha256) = (hexadecimal("revision", 40), hexadecimal("sha256", 64));
    let size = match fields.get("size") {
        None => Some(None),
        Some(node) => node.integer("`size`", 1..=1 << 40, diagnostics).map(Some),
    };
    let licence = fields.require("licence", diagnostics).and_then(|node| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-.+ ()".contains(c);
        word(node, "a licence", "an SPDX identifier", fits, diagnostics)
    });
    let top1 = match fields.get("top1") {
        None => Some(None),
        Some(node) => node.number("`top1`", 0.0..=1.0, diagnostics).map(Some),
    };
    let preprocess = match fields.get("preprocess") {
        None => Some(None),
        Some(node) => preprocess(node, base, diagnostics).map(Some),
    };
    fields.close(diagnostics);
    Some(Weights {
        tag: tag?,
        repository: repository?,
        revision: revision?,
        file: file?,
        sha256: sha256?,
        size: size?,
        licence: licence?,
        top1: top1?,
        preprocess: preprocess?,
    })
}

fn word(
    node: &Node,
    what: &str,
    rule: &str,
    fits: impl Fn(char) -> bool,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let text = node.text(what, diagnostics)?;
    if text.is_empty() || text.len() > 96 || !text.chars().all(fits) {
        diagnostics.error(node.span, format!("{what} is {rule}, 1 to 96 letters")).help("write it as the Hub does");
        return None;
    }
    Some(text.to_owned())
}

/// `owner/name`.
fn repository(node: &Node, diagnostics: &mut Diagnostics) -> Option<String> {
    let text = node.text("`repository`", diagnostics)?;
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() != 2 || text.len() > 192 || !parts.into_iter().all(part) {
        diagnostics.error(node.span, "`repository` is `owner/name`").help("write it like `timm/resnet34.a1_in1k`");
        return None;
    }
    Some(text.to_owned())
}

/// A relative path that cannot leave its repository.
fn file(node: &Node, diagnostics: &mut Diagnostics) -> Option<String> {
    let text = node.text("`file`", diagnostics)?;
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    if text.len() > 192 || !text.split('/').all(part) {
        diagnostics
            .error(node.span, "`file` is a path inside the repository")
            .help("write it like `model.safetensors`");
        return None;
    }
    Some(text.to_owned())
}

fn digest(node: &Node, key: &str, digits: usize, diagnostics: &mut Diagnostics) -> Option<String> {
    let text = node.text(&format!("`{key}`"), diagnostics)?;
    if text.len() != digits || !text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
        diagnostics
            .error(node.span, format!("`{key}` is {digits} small hexadecimal digits"))
            .help("copy it from the Hub, and put it in quotes");
        return None;
    }
    Some(text.to_owned())
}
