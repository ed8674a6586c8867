//! Stems: the layers before the first stage.

use super::MAX_CHANNELS;
use super::block::{Style, sequence};
use crate::diagnostic::{Diagnostics, Span};
use crate::fields::Fields;
use crate::spec::{Conv, Extent, Layer, Op, Pool, Width};
use crate::yaml::Node;

const WORDS: [&str; 5] = ["7x7", "3x3", "deep", "deep_tiered", "2plus1d"];

/// What halves the resolution after the stem's convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    None,
    Max,
    Conv,
}

pub(super) fn read(
    fields: &mut Fields<'_>,
    c_in: usize,
    first_channels: usize,
    style: &Style,
    root: Span,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Layer>> {
    let node = fields.get("stem");
    let (word, settings, span) = match node {
        None => ("7x7", None, root),
        Some(node) => {
            let variant = node.variant("`stem`", &WORDS, diagnostics)?;
            (variant.word, variant.settings, variant.span)
        }
    };
    let deep = word.starts_with("deep");
    if deep && style.dims == 3 {
        diagnostics.error(span, format!("a `{word}` stem is 2d")).help("use `stem: 7x7` or `stem: 2plus1d`");
        return None;
    }
    if word == "2plus1d" && style.dims == 2 {
        diagnostics
            .error(span, "`2plus1d` splits space and time, and this network has no time")
            .help("add `dims: 3d`, or use `stem: 7x7`");
        return None;
    }
    let mut stem = Written::new(word, first_channels, style.dims);
    if let Some(settings) = settings {
        stem.read(settings, word, diagnostics)?;
    }
    Some(stem.layers(word, c_in, style, span))
}

/// A stem's settings.
struct Written {
    widths: Vec<usize>,
    stride: usize,
    after: After,
}

impl Written {
    /// The defaults of each kind: He et al. 2019 (deep), timm (deep_tiered), Tran et al. 2018 (2plus1d).
    fn new(word: &str, first_channels: usize, dims: usize) -> Self {
        let (widths, stride, after) = match word {
            "3x3" => (vec![first_channels], 1, After::None),
            "deep" => (vec![32, 32, 64], 2, After::Max),
            "deep_tiered" => (vec![24, 32, 64], 2, After::Max),
            "2plus1d" => (vec![45, first_channels], 2, After::None),
            _ => (vec![first_channels], 2, if dims == 2 { After::Max } else { After::None }),
        };
        Written { widths, stride, after }
    }

    fn read(&mut self, settings: &Node, word: &str, diagnostics: &mut Diagnostics) -> Option<()> {
        let mut fields = Fields::open(settings, &format!("`{word}`"), diagnostics)?;
        let before = diagnostics.len();
        if let [width] = self.widths.as_mut_slice() {
            if let Some(node) = fields.get("width") {
                *width = node.size("`width`", 1..=MAX_CHANNELS, diagnostics).unwrap_or(1);
            }
        } else if let Some(node) = fields.get("widths") {
            let written = node.list("`widths`", diagnostics)?;
            let count = self.widths.len();
            if written.len() != count {
                diagnostics
                    .error(node.span, format!("a `{word}` stem has {count} widths, not {}", written.len()))
                    .help(format!("write `widths: {:?}`", self.widths));
            }
            for (width, node) in self.widths.iter_mut().zip(written) {
                *width = node.size("a width", 1..=MAX_CHANNELS, diagnostics).unwrap_or(1);
            }
        }
        if let Some(node) = fields.get("stride") {
            self.stride = node.size("`stride`", 1..=8, diagnostics).unwrap_or(1);
        }
        if let Some(node) = fields.get("pool") {
            let words = [("max", After::Max), ("conv", After::Conv), ("none", After::None)];
            self.after = node.choice("`pool`", &words, diagnostics).unwrap_or(After::None);
        }
        fields.close(diagnostics);
        (diagnostics.len() == before).then_some(())
    }

    fn layers(&self, word: &str, c_in: usize, style: &Style, span: Span) -> Vec<Layer> {
        let dims = style.dims;
        let norm = |width| Op::Norm { channels: Width::fixed(width), zero_init: false };
        let activation = Op::Activation(style.activation);
        let layer = |name: &str, op| Layer { name: name.to_owned(), op, span };
        let space = |space: usize, time: usize| match dims {
            2 => vec![space; 2],
            _ => vec![time, space, space],
        };
        let width = *self.widths.last().expect("every stem has a width");
        let mut layers = match (word, self.widths.as_slice()) {
            ("2plus1d", [mid, out]) => {
                let spatial = conv(c_in, *mid, space(7, 1), space(self.stride, 1));
                let temporal = conv(*mid, *out, space(1, 3), space(1, 1));
                let ops = [spatial, norm(*mid), activation.clone(), temporal, norm(*out), activation.clone()];
                vec![layer("stem", sequence("Stem", ops, span))]
            }
            ("deep" | "deep_tiered", [first, second, third]) => {
                let three = |c_in, c_out, stride| conv(c_in, c_out, vec![3; 2], vec![stride; 2]);
                let ops = [
                    three(c_in, *first, self.stride),
                    norm(*first),
                    activation.clone(),
                    three(*first, *second, 1),
                    norm(*second),
                    activation.clone(),
                    three(*second, *third, 1),
                ];
                let conv1 = sequence("DeepStem", ops, span);
                vec![layer("conv1", conv1), layer("bn1", norm(width)), layer("act1", activation.clone())]
            }
            _ => {
                let size = if word == "3x3" { 3 } else { 7 };
                let conv = conv(c_in, width, space(size, 3), space(self.stride, 1));
                if dims == 3 {
                    vec![layer("stem", sequence("Stem", [conv, norm(width), activation.clone()], span))]
                } else {
                    vec![layer("conv1", conv), layer("bn1", norm(width)), layer("act1", activation.clone())]
                }
            }
        };
        match self.after {
            After::None => {}
            After::Max => {
                let fixed = |values: Vec<usize>| values.into_iter().map(Extent::Fixed).collect();
                let pool = Pool { kernel: fixed(space(3, 1)), stride: fixed(space(2, 1)), padding: space(1, 0) };
                layers.push(layer("maxpool", Op::MaxPool(pool)));
            }
            // ResNet-RS (Bello et al. 2021): a strided convolution; timm keeps the name of the pool.
            After::Conv => {
                let ops = [conv(width, width, space(3, 1), space(2, 1)), norm(width), activation];
                layers.push(layer("maxpool", sequence("StemPool", ops, span)));
            }
        }
        layers
    }
}

fn conv(c_in: usize, c_out: usize, kernel: Vec<usize>, stride: Vec<usize>) -> Op {
    let dims = kernel.len();
    Op::Conv(Conv {
        c_in: Width::fixed(c_in),
        c_out: Width::fixed(c_out),
        kernel: kernel.into_iter().map(Extent::Fixed).collect(),
        stride: stride.into_iter().map(Extent::Fixed).collect(),
        padding: None,
        dilation: vec![Extent::Fixed(1); dims],
        groups: Width::fixed(1),
        bias: false,
    })
}
