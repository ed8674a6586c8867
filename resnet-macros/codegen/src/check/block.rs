//! Blocks: `basic` and `bottleneck` as lists of named layers, and the user's own.

use super::{ACTIVATIONS, identifier_of};
use crate::diagnostic::{Diagnostics, Span};
use crate::fields::{Fields, Variant};
use crate::spec::{Activation, Block, Conv, Extent, Layer, Norm, Of, Op, Pool, Shortcut, Width};
use crate::yaml::{Node, Value};

/// What holds for the whole network unless a stage says otherwise.
pub(super) struct Style {
    pub dims: usize,
    pub norm: Norm,
    /// Where it is written.
    pub norm_span: Span,
    pub activation: Activation,
    pub zero_init_last: bool,
    pub groups: usize,
    pub width_per_group: usize,
    /// Where `groups` or `width_per_group` is written.
    pub groups_span: Option<Span>,
    pub expansion: Option<(usize, Span)>,
    pub stride_in_conv1: bool,
    pub stride_in_span: Option<Span>,
    pub downsample: Downsample,
}

/// The shortcut of a block that changes its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Downsample {
    Conv,
    AvgDown,
    Pad,
}

impl Downsample {
    pub const WORDS: [(&str, Downsample); 3] =
        [("conv", Downsample::Conv), ("avg_down", Downsample::AvgDown), ("pad", Downsample::Pad)];
}

/// Channel attention at the end of the residual branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    None,
    SqueezeExcite((usize, usize)),
    Efficient,
}

/// The kernel of a stage's spatial convolutions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    pub sizes: Vec<usize>,
    /// `2plus1d`: space and time apart, with a norm and an activation between.
    pub split: bool,
    /// Where it is written; `None` for the default.
    span: Option<Span>,
}

/// A block that a spec refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Basic,
    Bottleneck,
    /// The index in `blocks`.
    Declared(usize),
}

/// An entry of `blocks`.
pub(super) struct Declared<'a> {
    name: String,
    node: &'a Node,
}

pub(super) fn declarations<'a>(node: &'a Node, diagnostics: &mut Diagnostics) -> Vec<Declared<'a>> {
    let Value::Map(entries) = &node.value else {
        diagnostics
            .error(node.span, format!("`blocks` is a mapping, not {}", node.value.kind()))
            .help("write `blocks: {my_block: {layers: {...}}}`");
        return Vec::new();
    };
    let mut declared = Vec::new();
    for (key, node) in entries {
        if ["basic", "bottleneck"].contains(&key.name.as_str()) {
            diagnostics.error(key.span, format!("`{}` is built in", key.name)).help("give your block another name");
        } else if let Some(name) = identifier_of(&key.name, key.span, "a block's name", diagnostics) {
            declared.push(Declared { name, node });
        }
    }
    declared
}

/// `` `basic`, `bottleneck`, `mine` ``.
pub(super) fn listed(declared: &[Declared<'_>]) -> String {
    let own = declared.iter().map(|block| block.name.as_str());
    ["basic", "bottleneck"].into_iter().chain(own).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub(super) fn resolve(node: &Node, declared: &[Declared<'_>], diagnostics: &mut Diagnostics) -> Option<Name> {
    let own = declared.iter().enumerate().map(|(index, block)| (block.name.as_str(), Name::Declared(index)));
    let names: Vec<(&str, Name)> =
        [("basic", Name::Basic), ("bottleneck", Name::Bottleneck)].into_iter().chain(own).collect();
    node.choice("`block`", &names, diagnostics)
}

pub(super) fn attention(node: &Node, diagnostics: &mut Diagnostics) -> Option<Attention> {
    let variant = node.variant("`attention`", &["se", "eca", "none"], diagnostics)?;
    match variant.word {
        "se" => Some(Attention::SqueezeExcite(ratio(variant.settings, diagnostics)?)),
        word => {
            no_settings(&variant, diagnostics)?;
            Some(if word == "eca" { Attention::Efficient } else { Attention::None })
        }
    }
}

/// `{ratio: 1/16}`, the default.
fn ratio(settings: Option<&Node>, diagnostics: &mut Diagnostics) -> Option<(usize, usize)> {
    let Some(settings) = settings else { return Some((1, 16)) };
    let mut fields = Fields::open(settings, "`se`", diagnostics)?;
    let node = fields.get("ratio");
    fields.close(diagnostics);
    let Some(node) = node else { return Some((1, 16)) };
    let parsed = match &node.value {
        Value::Str(text) => text.split_once('/').and_then(|(numerator, denominator)| {
            Some((numerator.trim().parse::<usize>().ok()?, denominator.trim().parse::<usize>().ok()?))
        }),
        Value::Int(1) => Some((1, 1)),
        Value::Float(value) if *value > 0.0 => {
            let denominator = (1.0 / value).round();
            ((1.0 / denominator - value).abs() < 1e-9).then_some((1, denominator as usize))
        }
        _ => None,
    };
    let parsed =
        parsed.filter(|(numerator, denominator)| *numerator >= 1 && numerator <= denominator && *denominator <= 1024);
    if parsed.is_none() {
        diagnostics.error(node.span, "`ratio` is a fraction from 1/1024 to 1").help("write `ratio: 1/16`");
    }
    parsed
}

pub(super) fn plain_kernel(dims: usize) -> Kernel {
    Kernel { sizes: vec![3; dims], split: false, span: None }
}

/// `3`, `3x3`, `(1,3,3)`, `[1, 3, 3]` or `2plus1d`.
pub(super) fn kernel(node: &Node, dims: usize, diagnostics: &mut Diagnostics) -> Option<Kernel> {
    if node.value == Value::Str("2plus1d".to_owned()) {
        if dims != 3 {
            diagnostics
                .error(node.span, "`2plus1d` splits space and time, and this network has no time")
                .help("add `dims: 3d`, or write `kernel: 3`");
            return None;
        }
        return Some(Kernel { sizes: vec![3; 3], split: true, span: Some(node.span) });
    }
    let sizes = odd_sizes(node, dims, diagnostics)?;
    Some(Kernel { sizes, split: false, span: Some(node.span) })
}

fn odd_sizes(node: &Node, dims: usize, diagnostics: &mut Diagnostics) -> Option<Vec<usize>> {
    let sizes = kernel_sizes(node, dims, diagnostics)?;
    if sizes.iter().any(|size| size % 2 == 0) {
        diagnostics
            .error(node.span, "a kernel is odd, so that its output has its input's size")
            .help("write 3, 5 or 7, or give the convolution its own `padding`");
        return None;
    }
    Some(sizes)
}

fn kernel_sizes(node: &Node, dims: usize, diagnostics: &mut Diagnostics) -> Option<Vec<usize>> {
    let word: Option<Vec<usize>> = match &node.value {
        Value::Str(text) => {
            let text = text.trim_start_matches('(').trim_end_matches(')');
            text.split([',', 'x']).map(|size| size.trim().parse().ok()).collect()
        }
        _ => None,
    };
    let sizes = match word {
        Some(sizes) => Some(sizes),
        None => sizes(node, "a kernel", 1..=31, dims, diagnostics).map(Some)?,
    }?;
    if sizes.len() != dims || !sizes.iter().all(|size| (1..=31).contains(size)) {
        let example = if dims == 2 { "`3` or `3x3`" } else { "`3` or `1x3x3`" };
        diagnostics
            .error(node.span, format!("a kernel has {dims} sizes from 1 to 31 in a {dims}d network"))
            .help(format!("write {example}"));
        return None;
    }
    Some(sizes)
}

/// A number for all axes, or a list with one for each.
fn sizes(
    node: &Node,
    what: &str,
    range: std::ops::RangeInclusive<usize>,
    dims: usize,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<usize>> {
    let Value::Seq(items) = &node.value else {
        return node.size(what, range, diagnostics).map(|size| vec![size; dims]);
    };
    if items.len() != dims {
        diagnostics
            .error(node.span, format!("{what} has {dims} entries in a {dims}d network, not {}", items.len()))
            .help("write one number for all axes, or a list with one for each");
        return None;
    }
    items.iter().map(|item| item.size(what, range.clone(), diagnostics)).collect()
}

/// The stride of a stage as written.
pub(super) enum Stride {
    /// One number: see [`strides`].
    Every(usize),
    /// One for each axis.
    Each(Vec<usize>),
}

pub(super) fn stride(node: &Node, dims: usize, diagnostics: &mut Diagnostics) -> Option<Stride> {
    let Value::Seq(_) = &node.value else {
        return node.size("`stride`", 1..=8, diagnostics).map(Stride::Every);
    };
    let strides = sizes(node, "`stride`", 1..=8, dims, diagnostics)?;
    if strides[dims - 1] != strides[dims - 2] {
        diagnostics
            .error(node.span, "height and width have the same stride")
            .help("write one number, or in 3d `[time, space, space]`");
        return None;
    }
    Some(Stride::Each(strides))
}

/// One stride for all axes along which the kernel reaches: a `(1,3,3)` convolution never skips frames.
pub(super) fn strides(stride: Stride, kernel: &Kernel) -> Vec<usize> {
    match stride {
        Stride::Each(strides) => strides,
        Stride::Every(stride) => {
            let time = kernel.sizes.len() - 2;
            let reaches = |axis: usize| axis >= time || kernel.sizes[axis] > 1;
            (0..kernel.sizes.len()).map(|axis| if reaches(axis) { stride } else { 1 }).collect()
        }
    }
}

/// Collects the distinct blocks of a network: name, attention and whether the kernel is split make one.
pub(super) struct Planner<'a> {
    style: &'a Style,
    declared: &'a [Declared<'a>],
    plans: Vec<Plan>,
}

/// The block that a stage asks for.
pub(super) struct Wanted<'a> {
    pub name: Name,
    pub span: Span,
    /// And where it is written.
    pub attention: (Attention, Option<Span>),
    pub kernel: &'a Kernel,
    pub dilation_span: Option<Span>,
}

struct Plan {
    name: Name,
    attention: Attention,
    split: bool,
    block: Block,
    uses: Uses,
}

/// Which settings of the network and the stage a block's layers refer to.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    kernel: bool,
    dilation: bool,
    groups: bool,
    attention: bool,
}

impl<'a> Planner<'a> {
    pub fn new(style: &'a Style, declared: &'a [Declared<'a>]) -> Self {
        Planner { style, declared, plans: Vec::new() }
    }

    pub fn declared(&self) -> &'a [Declared<'a>] {
        self.declared
    }

    /// The index of the block that a stage needs.
    pub fn plan(&mut self, wanted: &Wanted<'_>, diagnostics: &mut Diagnostics) -> Option<usize> {
        let Wanted { name, span, attention: (attention, attention_span), kernel, dilation_span } = *wanted;
        let known = |plan: &Plan| plan.name == name && plan.attention == attention && plan.split == kernel.split;
        let index = match self.plans.iter().position(known) {
            Some(index) => index,
            None => {
                let mut build =
                    Build { style: self.style, split: kernel.split, attention, span, uses: Uses::default() };
                let block = match name {
                    Name::Basic => build.basic(diagnostics)?,
                    Name::Bottleneck => build.bottleneck(diagnostics)?,
                    Name::Declared(index) => build.declared(&self.declared[index], diagnostics)?,
                };
                self.plans.push(Plan { name, attention, split: kernel.split, block, uses: build.uses });
                self.plans.len() - 1
            }
        };
        let uses = self.plans[index].uses;
        let mut unused = |span: Option<Span>, used: bool, key: &str, layer: &str| {
            if let Some(span) = span.filter(|_| !used) {
                diagnostics
                    .error(span, format!("no layer of the block takes the `{key}`"))
                    .help(format!("give the block {layer}, or remove `{key}`"));
            }
        };
        unused(kernel.span, uses.kernel, "kernel", "a `conv` without a `kernel` of its own");
        unused(dilation_span, uses.dilation, "dilation", "a `conv` with `dilation: block`");
        unused(
            attention_span.filter(|_| attention != Attention::None),
            uses.attention,
            "attention",
            "a layer `se: attention`",
        );
        let grouped = self.style.groups_span.filter(|_| name != Name::Basic);
        unused(grouped, uses.groups, "groups", "a `conv` with `groups: block`");
        Some(index)
    }

    /// The blocks, named apart.
    pub fn finish(self, diagnostics: &mut Diagnostics) -> Vec<Block> {
        for (index, declared) in self.declared.iter().enumerate() {
            if !self.plans.iter().any(|plan| plan.name == Name::Declared(index)) {
                let span = declared.node.span;
                let mut build =
                    Build { style: self.style, split: false, attention: Attention::None, span, uses: Uses::default() };
                build.declared(declared, diagnostics);
            }
        }
        let names: Vec<Name> = self.plans.iter().map(|plan| plan.name).collect();
        let named = |mut plan: Plan| {
            if names.iter().filter(|name| **name == plan.name).count() > 1 {
                let attention = match plan.attention {
                    Attention::None => "",
                    Attention::SqueezeExcite(_) => "Se",
                    Attention::Efficient => "Eca",
                };
                let split = if plan.split { "Split" } else { "" };
                plan.block.type_name = format!("{attention}{split}{}", plan.block.type_name);
            }
            plan.block
        };
        self.plans.into_iter().map(named).collect()
    }
}

/// Builds the layers of one block.
struct Build<'a> {
    style: &'a Style,
    split: bool,
    attention: Attention,
    span: Span,
    uses: Uses,
}

impl Build<'_> {
    /// Two 3x3 convolutions (He et al. 2016, figure 5 left).
    fn basic(&mut self, diagnostics: &mut Diagnostics) -> Option<Block> {
        let mut refuse = |span: Option<Span>, message: &str, help: &str| {
            if let Some(span) = span {
                diagnostics.error(span, message).help(help);
            }
        };
        refuse(self.style.groups_span, "`basic` has neither groups nor a width of its own", "use `block: bottleneck`");
        refuse(self.style.stride_in_span, "`stride_in` chooses a convolution of `bottleneck`", "remove it");
        let widened = self.style.expansion.filter(|(expansion, _)| *expansion != 1);
        refuse(widened.map(|(_, span)| span), "`basic` has the expansion 1", "use `block: bottleneck`");
        let branch = vec![
            ("1", self.spatial(Width::of(Of::In), Width::of(Of::Channels), true, false), Width::of(Of::Channels)),
            ("2", self.spatial(Width::of(Of::Channels), Width::of(Of::Out), false, false), Width::of(Of::Out)),
        ];
        Some(self.built_in("BasicBlock", 1, branch))
    }

    /// 1x1, 3x3, 1x1 (He et al. 2016, figure 5 right); the stride is on the 3x3, as in torchvision.
    fn bottleneck(&mut self, diagnostics: &mut Diagnostics) -> Option<Block> {
        let first = self.style.stride_in_conv1;
        if self.split && self.style.groups != 1 {
            diagnostics
                .error(self.style.groups_span?, "a `2plus1d` convolution has no groups")
                .help("remove `groups`, or write the kernel out");
        }
        let width = self.width();
        let out = Width::of(Of::Out);
        self.uses.groups = true;
        let branch = vec![
            ("1", self.pointwise(Width::of(Of::In), width, first), width),
            ("2", self.spatial(width, width, !first, true), width),
            ("3", self.pointwise(width, out, false), out),
        ];
        let expansion = self.style.expansion.map_or(4, |(expansion, _)| expansion);
        let mut block = self.built_in("Bottleneck", expansion, branch);
        if let (Some(span), Some(grouped)) =
            (self.style.groups_span, block.layers.iter_mut().find(|layer| layer.name == "conv2"))
        {
            grouped.span = span;
        }
        Some(block)
    }

    /// `planes * width_per_group / 64 * groups`, the inner width of ResNeXt and Wide ResNet.
    fn width(&self) -> Width {
        simplified(Width { times: self.style.width_per_group * self.style.groups, of: Of::Channels, over: 64 })
    }

    /// A norm after each convolution, an activation between; in 3d as torchvision's video networks group them.
    fn built_in(&mut self, type_name: &str, expansion: usize, branch: Vec<(&str, Op, Width)>) -> Block {
        let count = branch.len();
        let mut layers = Vec::new();
        for (index, (number, conv, channels)) in branch.into_iter().enumerate() {
            let last = index + 1 == count;
            let norm = Op::Norm { channels, zero_init: last && self.style.zero_init_last };
            let mut ops = vec![("conv", conv), ("bn", norm)];
            if !last {
                ops.push(("act", Op::Activation(self.style.activation)));
            }
            if self.style.dims == 3 {
                let ops = ops.into_iter().map(|(_, op)| op);
                layers.push(self.layer(format!("conv{number}"), sequence(&format!("Conv{number}"), ops, self.span)));
            } else {
                layers.extend(ops.into_iter().map(|(name, op)| self.layer(format!("{name}{number}"), op)));
            }
        }
        layers.extend(self.attention(Width::of(Of::Out)).map(|op| self.layer("se".to_owned(), op)));
        self.uses.kernel = true;
        self.uses.dilation = !self.split;
        self.uses.attention = true;
        Block {
            type_name: type_name.to_owned(),
            expansion,
            layers,
            shortcut: self.shortcut(self.style.downsample),
            after: self.style.activation,
        }
    }

    fn layer(&self, name: String, op: Op) -> Layer {
        Layer { name, op, span: self.span }
    }

    fn attention(&self, channels: Width) -> Option<Op> {
        match self.attention {
            Attention::None => None,
            Attention::SqueezeExcite(ratio) => Some(Op::SqueezeExcite { channels, ratio }),
            Attention::Efficient => Some(Op::EfficientChannelAttention { channels }),
        }
    }

    fn shortcut(&self, downsample: Downsample) -> Shortcut {
        let (c_in, out) = (Width::of(Of::In), Width::of(Of::Out));
        let norm = Op::Norm { channels: out, zero_init: false };
        let ops = match downsample {
            Downsample::Pad => return Shortcut::Pad,
            Downsample::Conv => vec![self.pointwise(c_in, out, true), norm],
            Downsample::AvgDown => {
                let strides: Vec<Extent> = (0..self.style.dims).map(Extent::Stride).collect();
                let pool = Pool { kernel: strides.clone(), stride: strides, padding: vec![0; self.style.dims] };
                vec![Op::AvgPool(pool), self.pointwise(c_in, out, false), norm]
            }
        };
        Shortcut::Layers(numbered(ops, self.span))
    }

    /// The stage's kernel.
    fn spatial(&self, c_in: Width, c_out: Width, strided: bool, grouped: bool) -> Op {
        let conv = Conv {
            kernel: (0..self.style.dims).map(Extent::Kernel).collect(),
            dilation: self.dilation(if strided { Extent::FirstDilation } else { Extent::Dilation }),
            groups: Width::fixed(if grouped { self.style.groups } else { 1 }),
            ..self.conv(c_in, c_out, strided)
        };
        if self.split { self.split(conv) } else { Op::Conv(conv) }
    }

    fn pointwise(&self, c_in: Width, c_out: Width, strided: bool) -> Op {
        Op::Conv(self.conv(c_in, c_out, strided))
    }

    /// 1x1, without bias.
    fn conv(&self, c_in: Width, c_out: Width, strided: bool) -> Conv {
        let dims = self.style.dims;
        Conv {
            c_in,
            c_out,
            kernel: vec![Extent::Fixed(1); dims],
            stride: (0..dims).map(|axis| if strided { Extent::Stride(axis) } else { Extent::Fixed(1) }).collect(),
            padding: None,
            dilation: vec![Extent::Fixed(1); dims],
            groups: Width::fixed(1),
            bias: false,
        }
    }

    /// Dilation is spatial: frames keep their distance.
    fn dilation(&self, dilation: Extent) -> Vec<Extent> {
        let space = self.style.dims - 2;
        (0..self.style.dims).map(|axis| if axis < space { Extent::Fixed(1) } else { dilation }).collect()
    }

    /// A convolution over space, a norm, an activation, a convolution over time.
    fn split(&self, conv: Conv) -> Op {
        let one = Extent::Fixed(1);
        let mid = Width::of(Of::Mid);
        let axes = |extents: &[Extent], keep: [bool; 3]| {
            extents.iter().zip(keep).map(|(extent, keep)| if keep { *extent } else { one }).collect::<Vec<_>>()
        };
        let (space, time) = ([false, true, true], [true, false, false]);
        let three = vec![Extent::Fixed(3); 3];
        let part = |c_in, c_out, keep| Conv {
            c_in,
            c_out,
            kernel: axes(&three, keep),
            stride: axes(&conv.stride, keep),
            padding: None,
            dilation: vec![one; 3],
            groups: Width::fixed(1),
            bias: false,
        };
        let ops = [
            Op::Conv(part(conv.c_in, mid, space)),
            Op::Norm { channels: mid, zero_init: false },
            Op::Activation(self.style.activation),
            Op::Conv(part(mid, conv.c_out, time)),
        ];
        let strided = conv.stride.iter().any(|stride| matches!(stride, Extent::Stride(_)));
        sequence(if strided { "StridedConv2Plus1d" } else { "Conv2Plus1d" }, ops, self.span)
    }

    /// The user's own block.
    fn declared(&mut self, declared: &Declared<'_>, diagnostics: &mut Diagnostics) -> Option<Block> {
        let mut fields = Fields::open(declared.node, "a block", diagnostics)?;
        if let Some((_, span)) = self.style.expansion {
            diagnostics
                .error(span, "a block of your own has its own `expansion`")
                .help("move it into the block's declaration");
        }
        if let Some(span) = self.style.stride_in_span {
            diagnostics.error(span, "`stride_in` chooses a convolution of `bottleneck`").help("remove it");
        }
        let expansion = fields.get("expansion").map_or(Some(1), |node| node.size("`expansion`", 1..=64, diagnostics));
        let layers = fields.require("layers", diagnostics).and_then(|node| {
            let mut chain = Chain { width: Width::of(Of::In), dilated: false };
            self.layers(node, &mut chain, diagnostics)
        });
        let shortcut = match fields.get("shortcut") {
            None => Some(self.shortcut(self.style.downsample)),
            Some(node) => self.declared_shortcut(node, diagnostics),
        };
        let after = fields
            .get("after")
            .map_or(Some(self.style.activation), |node| node.choice("`after`", &ACTIVATIONS, diagnostics));
        fields.close(diagnostics);
        let mut layers = layers?;
        if self.style.zero_init_last && !zero_last_norm(&mut layers) {
            diagnostics
                .error(declared.node.span, "`zero_init_last` needs a norm in the block")
                .help("remove `zero_init_last`, or add a layer `bn: norm`");
        }
        let camel = crate::spec::camel_case(&declared.name);
        let type_name = if camel.ends_with("Block") { camel } else { format!("{camel}Block") };
        Some(Block { type_name, expansion: expansion?, layers, shortcut: shortcut?, after: after? })
    }

    fn declared_shortcut(&mut self, node: &Node, diagnostics: &mut Diagnostics) -> Option<Shortcut> {
        if let Value::Seq(items) = &node.value {
            let mut chain = Chain { width: Width::of(Of::In), dilated: false };
            return self.sequence(items, &mut chain, diagnostics).map(Shortcut::Layers);
        }
        let words = [
            ("conv", Some(Downsample::Conv)),
            ("avg_down", Some(Downsample::AvgDown)),
            ("pad", Some(Downsample::Pad)),
            ("same", None),
            ("none", None),
        ];
        let chosen = node.choice("`shortcut`", &words, diagnostics)?;
        Some(match chosen {
            Some(downsample) => self.shortcut(downsample),
            None if node.value == Value::Str("same".to_owned()) => Shortcut::Same,
            None => Shortcut::None,
        })
    }

    fn layers(&mut self, node: &Node, chain: &mut Chain, diagnostics: &mut Diagnostics) -> Option<Vec<Layer>> {
        let Value::Map(entries) = &node.value else {
            diagnostics
                .error(node.span, format!("`layers` is a mapping of names to layers, not {}", node.value.kind()))
                .help("write `layers: {conv1: {conv: {kernel: 3}}, bn1: norm}`");
            return None;
        };
        if !(1..=64).contains(&entries.len()) {
            diagnostics.error(node.span, "a block has 1 to 64 layers").help("split it into blocks");
            return None;
        }
        let mut layers = Vec::new();
        let before = diagnostics.len();
        for (key, node) in entries {
            if ["downsample", "drop_path", "channels", "stride", "keeps_shape"].contains(&key.name.as_str()) {
                diagnostics
                    .error(key.span, format!("`{}` is a name that blocks have already", key.name))
                    .help("give the layer another name");
                continue;
            }
            let name = identifier_of(&key.name, key.span, "a layer's name", diagnostics);
            let op = self.op(node, &key.name, chain, diagnostics);
            if let (Some(name), Some(Some(op))) = (name, op) {
                layers.push(Layer { name, op, span: key.span });
            }
        }
        (diagnostics.len() == before).then_some(layers)
    }

    fn sequence(&mut self, items: &[Node], chain: &mut Chain, diagnostics: &mut Diagnostics) -> Option<Vec<Layer>> {
        let before = diagnostics.len();
        let mut layers = Vec::new();
        for item in items.iter().take(64) {
            if let Some(Some(op)) = self.op(item, "", chain, diagnostics) {
                layers.push(Layer { name: layers.len().to_string(), op, span: item.span });
            }
        }
        (diagnostics.len() == before).then_some(layers)
    }

    /// `Some(None)` for an attention layer in a stage that has no attention.
    fn op(&mut self, node: &Node, name: &str, chain: &mut Chain, diagnostics: &mut Diagnostics) -> Option<Option<Op>> {
        if let Value::Seq(items) = &node.value {
            if items.is_empty() || items.len() > 64 {
                diagnostics
                    .error(node.span, "a sequence has 1 to 64 layers")
                    .help("write `[{conv: {kernel: 3}}, norm]`");
                return None;
            }
            let layers = self.sequence(items, chain, diagnostics)?;
            return Some(Some(Op::Sequence { type_name: crate::spec::camel_case(name), layers }));
        }
        const WORDS: [&str; 12] = [
            "conv",
            "norm",
            "activation",
            "relu",
            "silu",
            "gelu",
            "attention",
            "se",
            "eca",
            "max_pool",
            "avg_pool",
            "dropout",
        ];
        let variant = node.variant("a layer", &WORDS, diagnostics)?;
        let channels = chain.width;
        let settings = variant.settings;
        let op = match variant.word {
            "conv" => return self.declared_conv(settings, chain, diagnostics).map(Some),
            "norm" => {
                let mut zero_init = false;
                if let Some(settings) = settings {
                    let mut fields = Fields::open(settings, "`norm`", diagnostics)?;
                    zero_init = super::boolean(&mut fields, "zero_init", diagnostics);
                    fields.close(diagnostics);
                }
                return Some(Some(Op::Norm { channels, zero_init }));
            }
            "se" => return ratio(settings, diagnostics).map(|ratio| Some(Op::SqueezeExcite { channels, ratio })),
            "max_pool" | "avg_pool" => return self.declared_pool(&variant, diagnostics).map(Some),
            "dropout" => {
                let Some(settings) = settings else {
                    diagnostics.error(node.span, "a dropout has a probability").help("write `{dropout: 0.1}`");
                    return None;
                };
                return settings
                    .number("a dropout's probability", 0.0..=0.99, diagnostics)
                    .map(|p| Some(Op::Dropout(p)));
            }
            "attention" => {
                self.uses.attention = true;
                self.attention(channels)
            }
            "eca" => Some(Op::EfficientChannelAttention { channels }),
            "relu" => Some(Op::Activation(Activation::Relu)),
            "silu" => Some(Op::Activation(Activation::Silu)),
            "gelu" => Some(Op::Activation(Activation::Gelu)),
            _ => Some(Op::Activation(self.style.activation)),
        };
        no_settings(&variant, diagnostics)?;
        Some(op)
    }

    fn declared_conv(
        &mut self,
        settings: Option<&Node>,
        chain: &mut Chain,
        diagnostics: &mut Diagnostics,
    ) -> Option<Op> {
        let dims = self.style.dims;
        let mut conv = self.conv(chain.width, Width::of(Of::Channels), false);
        conv.kernel = (0..dims).map(Extent::Kernel).collect();
        let mut own_kernel = false;
        let before = diagnostics.len();
        if let Some(settings) = settings {
            let mut fields = Fields::open(settings, "`conv`", diagnostics)?;
            if let Some(c_out) = fields.get("channels").and_then(|node| self.channels(node, diagnostics)) {
                conv.c_out = c_out;
            }
            let padding = fields.get("padding");
            conv.padding = padding.and_then(|node| sizes(node, "`padding`", 0..=64, dims, diagnostics));
            if let Some(node) = fields.get("kernel").filter(|node| !is_block(node)) {
                own_kernel = true;
                let read = if padding.is_some() { kernel_sizes } else { odd_sizes };
                if let Some(sizes) = read(node, dims, diagnostics) {
                    conv.kernel = sizes.into_iter().map(Extent::Fixed).collect();
                }
            }
            if let Some(node) = fields.get("stride")
                && let Some(stride) = self.extents(node, "`stride`", 1..=8, Extent::Stride, diagnostics)
            {
                conv.stride = stride;
            }
            if let Some(node) = fields.get("dilation")
                && let Some(dilation) = self.declared_dilation(node, chain, diagnostics)
            {
                conv.dilation = dilation;
            }
            if let Some(node) = fields.get("groups")
                && let Some(groups) = self.declared_groups(node, conv.c_in, diagnostics)
            {
                conv.groups = groups;
            }
            conv.bias = super::boolean(&mut fields, "bias", diagnostics);
            fields.close(diagnostics);
        }
        chain.width = conv.c_out;
        self.uses.kernel |= !own_kernel;
        if diagnostics.len() != before {
            return None;
        }
        Some(if self.split && !own_kernel { self.split(conv) } else { Op::Conv(conv) })
    }

    fn declared_dilation(
        &mut self,
        node: &Node,
        chain: &mut Chain,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<Extent>> {
        if !is_block(node) {
            return node.size("`dilation`", 1..=64, diagnostics).map(|size| self.dilation(Extent::Fixed(size)));
        }
        self.uses.dilation = true;
        let dilation = if chain.dilated { Extent::Dilation } else { Extent::FirstDilation };
        chain.dilated = true;
        Some(self.dilation(dilation))
    }

    fn declared_groups(&mut self, node: &Node, c_in: Width, diagnostics: &mut Diagnostics) -> Option<Width> {
        match &node.value {
            Value::Str(word) if word == "depthwise" => Some(c_in),
            Value::Str(word) if word == "block" => {
                self.uses.groups = true;
                Some(Width::fixed(self.style.groups))
            }
            Value::Str(_) => {
                diagnostics
                    .error(node.span, "`groups` is a number, `block` or `depthwise`")
                    .help("write `groups: depthwise` for one group a channel");
                None
            }
            _ => node.size("`groups`", 1..=super::MAX_CHANNELS, diagnostics).map(Width::fixed),
        }
    }

    fn declared_pool(&self, variant: &Variant<'_>, diagnostics: &mut Diagnostics) -> Option<Op> {
        let dims = self.style.dims;
        let average = variant.word == "avg_pool";
        let strides: Vec<Extent> = (0..dims).map(Extent::Stride).collect();
        let fixed = if average { strides.clone() } else { vec![Extent::Fixed(3); dims] };
        let mut pool = Pool { kernel: fixed, stride: strides, padding: vec![usize::from(!average); dims] };
        if let Some(settings) = variant.settings {
            let mut fields = Fields::open(settings, &format!("`{}`", variant.word), diagnostics)?;
            if let Some(node) = fields.get("kernel") {
                let sizes = kernel_sizes(node, dims, diagnostics)?;
                pool.padding = sizes.iter().map(|size| (size - 1) / 2).collect();
                pool.kernel = sizes.into_iter().map(Extent::Fixed).collect();
            }
            if let Some(node) = fields.get("stride") {
                pool.stride = self.extents(node, "`stride`", 1..=8, Extent::Stride, diagnostics)?;
                if average && fields.key_span("kernel").is_none() {
                    pool.kernel.clone_from(&pool.stride);
                }
            }
            if let Some(node) = fields.get("padding") {
                pool.padding = sizes(node, "`padding`", 0..=15, dims, diagnostics)?;
            }
            let kernel = pool.kernel.iter().zip(&pool.padding);
            if kernel.clone().any(|(kernel, padding)| matches!(kernel, Extent::Fixed(size) if 2 * padding > *size)) {
                diagnostics
                    .error(settings.span, "the padding of a pool is at most half its kernel")
                    .help("write a smaller `padding`");
                return None;
            }
            fields.close(diagnostics);
        }
        Some(if average { Op::AvgPool(pool) } else { Op::MaxPool(pool) })
    }

    fn extents(
        &self,
        node: &Node,
        what: &str,
        range: std::ops::RangeInclusive<usize>,
        block: impl Fn(usize) -> Extent,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<Extent>> {
        if is_block(node) {
            return Some((0..self.style.dims).map(block).collect());
        }
        if let Value::Str(_) = node.value {
            diagnostics
                .error(node.span, format!("{what} is a number, a list or `block`"))
                .help("write `block` for the block's");
            return None;
        }
        Some(sizes(node, what, range, self.style.dims, diagnostics)?.into_iter().map(Extent::Fixed).collect())
    }

    /// `64`, `in`, `channels`, `width`, `out`, or one of these times or over numbers: `6 * in`, `out / 4`.
    fn channels(&mut self, node: &Node, diagnostics: &mut Diagnostics) -> Option<Width> {
        if let Value::Int(_) = node.value {
            return node.size("`channels`", 1..=super::MAX_CHANNELS, diagnostics).map(Width::fixed);
        }
        let text = node.text("`channels`", diagnostics)?;
        let parsed = self.expression(text);
        if parsed.is_none() {
            diagnostics
                .error(node.span, "`channels` is a number, `in`, `channels`, `width` or `out`, times or over numbers")
                .help("write it like `64`, `out`, `6 * in` or `out / 4`");
        }
        parsed
    }

    fn expression(&mut self, text: &str) -> Option<Width> {
        let mut width: Option<Width> = None;
        let (mut times, mut over) = (1usize, 1usize);
        let mut rest = text;
        let mut divide = false;
        loop {
            let end = rest.find(['*', '/']).unwrap_or(rest.len());
            let word = rest[..end].trim();
            let named = match word {
                "in" => Some(Width::of(Of::In)),
                "channels" => Some(Width::of(Of::Channels)),
                "out" => Some(Width::of(Of::Out)),
                "width" => {
                    self.uses.groups = true;
                    Some(self.width())
                }
                _ => None,
            };
            match named {
                Some(named) if !divide && width.is_none() => width = Some(named),
                Some(_) => return None,
                None => {
                    let number =
                        word.parse::<usize>().ok().filter(|number| (1..=super::MAX_CHANNELS).contains(number))?;
                    let factor = if divide { &mut over } else { &mut times };
                    *factor = factor.checked_mul(number).filter(|product| *product <= 1 << 20)?;
                }
            }
            let Some(operator) = rest[end..].chars().next() else { break };
            divide = operator == '/';
            rest = &rest[end + 1..];
        }
        let width = width.unwrap_or(Width::fixed(1));
        Some(simplified(Width { times: width.times * times, of: width.of, over: width.over * over }))
    }
}

/// What a chain of layers hands on.
struct Chain {
    width: Width,
    /// Whether a layer before took the block's first dilation.
    dilated: bool,
}

fn is_block(node: &Node) -> bool {
    node.value == Value::Str("block".to_owned())
}

fn no_settings(variant: &Variant<'_>, diagnostics: &mut Diagnostics) -> Option<()> {
    match variant.settings {
        None => Some(()),
        Some(settings) => {
            diagnostics
                .error(settings.span, format!("`{}` takes no settings", variant.word))
                .help(format!("write `{}` alone", variant.word));
            None
        }
    }
}

fn zero_last_norm(layers: &mut [Layer]) -> bool {
    layers.iter_mut().rev().any(|layer| match &mut layer.op {
        Op::Norm { zero_init, .. } => {
            *zero_init = true;
            true
        }
        Op::Sequence { layers, .. } => zero_last_norm(layers),
        _ => false,
    })
}

fn simplified(width: Width) -> Width {
    let (mut a, mut b) = (width.times, width.over);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Width { times: width.times / a, of: width.of, over: width.over / a }
}

pub(super) fn sequence(type_name: &str, ops: impl IntoIterator<Item = Op>, span: Span) -> Op {
    Op::Sequence { type_name: type_name.to_owned(), layers: numbered(ops, span) }
}

fn numbered(ops: impl IntoIterator<Item = Op>, span: Span) -> Vec<Layer> {
    ops.into_iter().enumerate().map(|(index, op)| Layer { name: index.to_string(), op, span }).collect()
}
