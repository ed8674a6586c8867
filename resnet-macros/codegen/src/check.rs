//! The spec as written -> [`Spec`]: every rule and every message.

mod block;
mod card;
mod stem;

use crate::diagnostic::{Diagnostics, Span};
use crate::fields::Fields;
use crate::shape::{self, Summary};
use crate::spec::{Activation, Block, Norm, Spec, Stage, Top};
use crate::yaml::{Node, Value};
use block::{Attention, Declared, Downsample, Style};

/// Most blocks of a network: ResNet-1202 is the deepest in the paper (He et al. 2016, section 4.2), and no use.
pub const MAX_BLOCKS: usize = 1024;
/// Most channels that a spec may name.
pub const MAX_CHANNELS: usize = 65_536;
const MAX_STAGES: usize = 8;
const MAX_SIDE: usize = 8192;

const ACTIVATIONS: [(&str, Activation); 4] = [
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("none", Activation::Identity),
];

/// A checked spec and what follows from it at its own input size.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What the spec says.
    pub spec: Spec,
    /// Shapes, parameters and multiply-accumulates.
    pub summary: Summary,
}

/// Checks a merged spec.
///
/// # Errors
/// Every mistake that the pass found.
pub fn check(root: &Node) -> Result<Checked, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let spec = read(root, &mut diagnostics);
    let spec = diagnostics.into_result(spec)?;
    let summary = shape::summarize(&spec, &spec.input, root.span)?;
    Ok(Checked { spec, summary })
}

/// Keys are read in the order in which people write them; `None` only where a mistake was noted.
fn read(root: &Node, diagnostics: &mut Diagnostics) -> Option<Spec> {
    let mut fields = Fields::open(root, "a spec", diagnostics)?;
    fields.get("extends");
    let name = fields.require("name", diagnostics).and_then(|node| identifier(node, "the name", diagnostics));
    let doc = text(&mut fields, "doc", diagnostics);
    let dims = fields.get("dims").map_or(Some(2), |node| node.choice("`dims`", &[("2d", 2), ("3d", 3)], diagnostics));
    let dims = dims.unwrap_or(2);
    let input_span = fields.key_span("input").unwrap_or(root.span);
    let input = fields.get("input").map_or_else(|| Some(default_input(dims)), |node| input(node, dims, diagnostics));
    let style = style(&mut fields, dims, diagnostics);
    let declared = fields.get("blocks").map(|node| block::declarations(node, diagnostics)).unwrap_or_default();
    let stages = stages(&mut fields, &style, &declared, diagnostics);
    let first_channels = stages.as_ref().and_then(|(stages, _)| stages.first()).map_or(64, |stage| stage.channels);
    let c_in = input.as_ref().map_or(3, |input| input[0]);
    let stem = stem::read(&mut fields, c_in, first_channels, &style, root.span, diagnostics);
    let top = top(&mut fields, dims, diagnostics);
    let drop_path = rate(&mut fields, "drop_path", diagnostics);
    let side = input.as_ref().map_or(224, |input| input[input.len() - 1]);
    let preprocess = fields.get("preprocess").map_or_else(
        || Some(card::default_preprocess(side)),
        |node| card::preprocess(node, card::default_preprocess(side), diagnostics),
    );
    let weights = fields.get("weights").map_or_else(
        || Some(Vec::new()),
        |node| card::weights(node, name.as_deref().unwrap_or("model"), preprocess.as_ref(), side, diagnostics),
    );
    fields.close(diagnostics);
    let (stages, blocks) = stages?;
    Some(Spec {
        name: name?,
        doc,
        dims,
        input: input?,
        input_span,
        stem: stem?,
        blocks,
        stages,
        top: top?,
        norm: style.norm,
        norm_span: style.norm_span,
        drop_path: drop_path?,
        preprocess: preprocess?,
        weights: weights?,
    })
}

/// A snake_case Rust identifier of at most 64 letters.
fn identifier(node: &Node, what: &str, diagnostics: &mut Diagnostics) -> Option<String> {
    let text = node.text(what, diagnostics)?;
    identifier_of(text, node.span, what, diagnostics)
}

fn identifier_of(text: &str, at: Span, what: &str, diagnostics: &mut Diagnostics) -> Option<String> {
    let snake_case = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !text.contains("__")
        && !text.ends_with('_')
        && text.len() <= 64;
    if !snake_case {
        diagnostics
            .error(at, format!("{what} is a snake_case identifier of at most 64 letters"))
            .help("write it like `resnet34`: small letters, digits, single underscores");
        return None;
    }
    if syn::parse_str::<syn::Ident>(text).is_err() {
        diagnostics.error(at, format!("{what} is not a Rust keyword")).help(format!("write `my_{text}`, say"));
        return None;
    }
    Some(text.to_owned())
}

fn text(fields: &mut Fields<'_>, key: &'static str, diagnostics: &mut Diagnostics) -> Option<String> {
    fields.get(key)?.text(&format!("`{key}`"), diagnostics).map(str::to_owned)
}

fn rate(fields: &mut Fields<'_>, key: &'static str, diagnostics: &mut Diagnostics) -> Option<f64> {
    fields.get(key).map_or(Some(0.0), |node| node.number(&format!("`{key}`"), 0.0..=0.99, diagnostics))
}

fn boolean(fields: &mut Fields<'_>, key: &'static str, diagnostics: &mut Diagnostics) -> bool {
    fields.get(key).and_then(|node| node.boolean(&format!("`{key}`"), diagnostics)).unwrap_or(false)
}

fn default_input(dims: usize) -> Vec<usize> {
    if dims == 2 { vec![3, 224, 224] } else { vec![3, 16, 112, 112] }
}

fn input(node: &Node, dims: usize, diagnostics: &mut Diagnostics) -> Option<Vec<usize>> {
    let mut fields = Fields::open(node, "`input`", diagnostics)?;
    let default = default_input(dims);
    let channels =
        fields.get("channels").map_or(Some(3), |node| node.size("`channels`", 1..=MAX_CHANNELS, diagnostics));
    let frames = if dims == 3 {
        fields
            .get("frames")
            .map_or(Some(Some(default[1])), |node| node.size("`frames`", 1..=1024, diagnostics).map(Some))
    } else {
        Some(None)
    };
    let side = default[default.len() - 1];
    let size = fields.get("size").map_or(Some(vec![side, side]), |node| match &node.value {
        Value::Seq(sides) if sides.len() == 2 => {
            sides.iter().map(|side| side.size("a side of `size`", 1..=MAX_SIDE, diagnostics)).collect()
        }
        _ => node.size("`size`", 1..=MAX_SIDE, diagnostics).map(|side| vec![side, side]),
    });
    fields.close(diagnostics);
    Some([vec![channels?], frames?.into_iter().collect(), size?].concat())
}

/// What holds for the whole network unless a stage says otherwise.
fn style(fields: &mut Fields<'_>, dims: usize, diagnostics: &mut Diagnostics) -> Style {
    let count = |fields: &mut Fields<'_>, key: &'static str, default, diagnostics: &mut Diagnostics| {
        let read = fields.get(key).map(|node| node.size(&format!("`{key}`"), 1..=MAX_CHANNELS, diagnostics));
        read.flatten().unwrap_or(default)
    };
    let norm_span = fields.key_span("norm").unwrap_or(fields.span);
    let norm = fields.get("norm").and_then(|node| norm(node, diagnostics));
    let activation = fields.get("activation").and_then(|node| node.choice("`activation`", &ACTIVATIONS, diagnostics));
    let expansion_span = fields.key_span("expansion");
    let expansion = fields.get("expansion").and_then(|node| node.size("`expansion`", 1..=64, diagnostics));
    let stride_in = [("conv1", true), ("conv2", false)];
    Style {
        dims,
        norm: norm.unwrap_or(Norm { groups: None, eps: 1e-5, momentum: 0.1 }),
        norm_span,
        activation: activation.unwrap_or(Activation::Relu),
        zero_init_last: boolean(fields, "zero_init_last", diagnostics),
        groups: count(fields, "groups", 1, diagnostics),
        width_per_group: count(fields, "width_per_group", 64, diagnostics),
        groups_span: fields.key_span("groups").or(fields.key_span("width_per_group")),
        expansion: expansion.zip(expansion_span),
        stride_in_span: fields.key_span("stride_in"),
        stride_in_conv1: fields
            .get("stride_in")
            .and_then(|node| node.choice("`stride_in`", &stride_in, diagnostics))
            .unwrap_or(false),
        downsample: fields
            .get("downsample")
            .and_then(|node| node.choice("`downsample`", &Downsample::WORDS, diagnostics))
            .unwrap_or(Downsample::Conv),
    }
}

fn norm(node: &Node, diagnostics: &mut Diagnostics) -> Option<Norm> {
    let variant = node.variant("`norm`", &["batch", "group"], diagnostics)?;
    let mut norm = Norm { groups: None, eps: 1e-5, momentum: 0.1 };
    if variant.word == "group" {
        norm.groups = Some(32);
        if let Some(settings) = variant.settings
            && matches!(settings.value, Value::Int(_))
        {
            norm.groups = Some(settings.size("the groups of a norm", 1..=MAX_CHANNELS, diagnostics)?);
            return Some(norm);
        }
    }
    let Some(settings) = variant.settings else { return Some(norm) };
    let mut fields = Fields::open(settings, &format!("`{}`", variant.word), diagnostics)?;
    if let Some(node) = fields.get("eps") {
        norm.eps = node.number("`eps`", 1e-12..=1.0, diagnostics)?;
    }
    if variant.word == "batch" {
        if let Some(node) = fields.get("momentum") {
            norm.momentum = node.number("`momentum`", 0.0..=1.0, diagnostics)?;
        }
    } else if let Some(node) = fields.get("groups") {
        norm.groups = Some(node.size("`groups`", 1..=MAX_CHANNELS, diagnostics)?);
    }
    fields.close(diagnostics);
    Some(norm)
}

/// `stages`, or `depths` alone, or `depths` over the stages of an extended spec; and the blocks they need.
fn stages(
    fields: &mut Fields<'_>,
    style: &Style,
    declared: &[Declared<'_>],
    diagnostics: &mut Diagnostics,
) -> Option<(Vec<Stage>, Vec<Block>)> {
    let default_block = fields.get("block");
    let default_kernel = fields.get("kernel");
    let default_attention = fields.get("attention");
    let depths = fields.get("depths");
    let written = fields.get("stages");
    // A mistake in what all stages share is noted once, here.
    let before = diagnostics.len();
    if depths.is_none() && written.is_none() {
        diagnostics
            .error(fields.span, "the spec has neither `depths` nor `stages`")
            .help("add `depths: [3, 4, 6, 3]`: the blocks of each stage");
    }
    if default_block.is_none() && written.is_none() {
        diagnostics
            .error(fields.span, "the spec has no `block`")
            .help(format!("add `block: basic`, or one of {}", block::listed(declared)));
    }
    let shared = Shared {
        names_block: default_block.is_some(),
        block: default_block.and_then(|node| block::resolve(node, declared, diagnostics).map(|name| (name, node.span))),
        kernel: default_kernel
            .map_or_else(|| Some(block::plain_kernel(style.dims)), |node| block::kernel(node, style.dims, diagnostics)),
        attention: default_attention.map_or(Some((Attention::None, None)), |node| attention(node, diagnostics)),
    };
    if written.is_none() && (depths.is_none() || default_block.is_none()) {
        return None;
    }
    let columns = columns(depths, written, diagnostics)?;
    let mut planner = block::Planner::new(style, declared);
    let mut stages = Vec::new();
    let mut dilation = 1;
    for (index, column) in columns.iter().enumerate() {
        let planned = stage(index, column, &shared, &mut planner, dilation, style, diagnostics);
        if let Some(stage) = planned {
            dilation = stage.dilation;
            stages.push(stage);
        }
    }
    let count: usize = stages.iter().map(|stage: &Stage| stage.depth).sum();
    if count > MAX_BLOCKS {
        diagnostics
            .error(depths.or(written)?.span, format!("a network has at most {MAX_BLOCKS} blocks, not {count}"))
            .help("make its stages less deep");
    }
    let blocks = planner.finish(diagnostics);
    (diagnostics.len() == before).then_some((stages, blocks))
}

struct Shared {
    /// Whether the spec names a block, though perhaps a wrong one.
    names_block: bool,
    block: Option<(block::Name, Span)>,
    kernel: Option<block::Kernel>,
    attention: Option<(Attention, Option<Span>)>,
}

/// One stage as written: its mapping if there is one, and its depth where `depths` says it.
struct Column<'a> {
    node: Option<&'a Node>,
    depth: Option<&'a Node>,
    span: Span,
}

fn columns<'a>(
    depths: Option<&'a Node>,
    written: Option<&'a Node>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Column<'a>>> {
    let depths_list = match depths {
        Some(node) => Some(node.list("`depths`", diagnostics)?),
        None => None,
    };
    let stages_list = match written {
        Some(node) => Some(node.list("`stages`", diagnostics)?),
        None => None,
    };
    let span = depths.or(written)?.span;
    let count = stages_list.or(depths_list)?.len();
    if !(1..=MAX_STAGES).contains(&count) {
        diagnostics
            .error(written.or(depths)?.span, format!("a network has 1 to {MAX_STAGES} stages, not {count}"))
            .help("the paper's have 4, its CIFAR networks 3");
        return None;
    }
    if let (Some(depths), Some(stages)) = (depths_list, stages_list)
        && depths.len() != stages.len()
    {
        let message = format!("`depths` has {} entries, `stages` has {}", depths.len(), stages.len());
        diagnostics.error(span, message).help("give each stage one depth");
        return None;
    }
    let column = |index: usize| {
        let node = stages_list.map(|stages| &stages[index]);
        let depth = depths_list.map(|depths| &depths[index]);
        Column { node, depth, span: node.or(depth).map_or(span, |node| node.span) }
    };
    Some((0..count).map(column).collect())
}

fn stage(
    index: usize,
    column: &Column<'_>,
    shared: &Shared,
    planner: &mut block::Planner<'_>,
    dilation_before: usize,
    style: &Style,
    diagnostics: &mut Diagnostics,
) -> Option<Stage> {
    let default_stride = if index == 0 { 1 } else { 2 };
    let default_channels = 64 << index.min(10);
    let mut kernel = shared.kernel.clone();
    let mut block = shared.block;
    let mut attention = shared.attention;
    let (mut depth, mut channels, mut stride, mut dilation) = (None, Some(default_channels), None, Some(1));
    let mut dilation_span = None;
    if let Some(node) = column.node {
        let mut fields = Fields::open(node, "a stage", diagnostics)?;
        let own_depth = fields.get("depth");
        if let Some(node) = own_depth {
            depth = node.size("`depth`", 1..=MAX_BLOCKS, diagnostics);
            if let Some(other) = column.depth.filter(|other| other.span.file == node.span.file) {
                diagnostics
                    .error(other.span, "the depth of a stage stands twice")
                    .help("write `depths` or `stages`, or `depth` in each stage");
            }
        } else if column.depth.is_none() {
            diagnostics.error(node.span, "the stage has no `depth`").help("add `depth: 3`: its number of blocks");
        }
        if let Some(node) = fields.get("channels") {
            channels = node.size("`channels`", 1..=MAX_CHANNELS, diagnostics);
        }
        if let Some(node) = fields.get("stride") {
            stride = block::stride(node, style.dims, diagnostics);
        }
        if let Some(node) = fields.get("dilation") {
            dilation = node.size("`dilation`", 1..=64, diagnostics);
            dilation_span = Some(node.span);
        }
        if let Some(node) = fields.get("block") {
            block = block::resolve(node, planner.declared(), diagnostics).map(|name| (name, node.span));
        }
        if let Some(node) = fields.get("kernel") {
            kernel = block::kernel(node, style.dims, diagnostics);
        }
        if let Some(node) = fields.get("attention") {
            attention = self::attention(node, diagnostics);
        }
        if !shared.names_block && fields.key_span("block").is_none() {
            diagnostics
                .error(node.span, "neither the stage nor the spec has a `block`")
                .help(format!("add `block: basic`, or one of {}", block::listed(planner.declared())));
        }
        fields.close(diagnostics);
    }
    if let Some(node) = column.depth {
        depth = node.size("a depth", 1..=MAX_BLOCKS, diagnostics);
    }
    let (kernel, (name, span)) = (kernel?, block?);
    let stride = block::strides(stride.unwrap_or(block::Stride::Every(default_stride)), &kernel);
    let wanted = block::Wanted { name, span, attention: attention?, kernel: &kernel, dilation_span };
    let block = planner.plan(&wanted, diagnostics)?;
    Some(Stage {
        depth: depth?,
        channels: channels?,
        stride,
        kernel: kernel.sizes,
        dilation: dilation?,
        first_dilation: if index == 0 { dilation? } else { dilation_before },
        block,
        span: column.span,
    })
}

fn attention(node: &Node, diagnostics: &mut Diagnostics) -> Option<(Attention, Option<Span>)> {
    block::attention(node, diagnostics).map(|attention| (attention, Some(node.span)))
}

fn top(fields: &mut Fields<'_>, dims: usize, diagnostics: &mut Diagnostics) -> Option<Top> {
    let dropout_span = fields.key_span("dropout");
    let dropout = rate(fields, "dropout", diagnostics);
    let head = fields.get("head");
    let neck = fields.get("neck");
    let no_head = head.is_some_and(|node| node.value == Value::Str("none".to_owned()));
    let top = match (neck, head) {
        (Some(_), Some(head)) if !no_head => {
            diagnostics
                .error(head.span, "a spec with a neck has no head: its feature maps are the result")
                .help("write `head: none`, or remove the neck");
            None
        }
        (Some(neck), _) if dims == 3 => {
            diagnostics.error(neck.span, "a feature pyramid is 2d").help("remove `dims: 3d` or the neck");
            None
        }
        (Some(neck), _) => pyramid(neck, diagnostics),
        (None, _) if no_head => Some(Top::Backbone),
        (None, head) => {
            let mut classes = Some(1000);
            if let Some(node) = head {
                let mut fields = Fields::open(node, "`head`", diagnostics)?;
                if let Some(node) = fields.get("classes") {
                    classes = node.size("`classes`", 1..=1_000_000, diagnostics);
                }
                fields.close(diagnostics);
            }
            classes.zip(dropout).map(|(classes, dropout)| Top::Classifier { classes, dropout })
        }
    };
    if let (Some(span), Some(Top::Backbone | Top::Pyramid { .. })) = (dropout_span, top) {
        diagnostics
            .error(span, "`dropout` stands before the classifier, and this network has none")
            .help("remove it, or give the network a `head`");
    }
    top
}

fn pyramid(node: &Node, diagnostics: &mut Diagnostics) -> Option<Top> {
    let variant = node.variant("`neck`", &["fpn"], diagnostics)?;
    let (mut channels, mut extra_maxpool) = (Some(256), Some(true));
    if let Some(settings) = variant.settings {
        let mut fields = Fields::open(settings, "`fpn`", diagnostics)?;
        if let Some(node) = fields.get("channels") {
            channels = node.size("`channels`", 1..=MAX_CHANNELS, diagnostics);
        }
        if let Some(node) = fields.get("extra") {
            extra_maxpool = node.choice("`extra`", &[("maxpool", true), ("none", false)], diagnostics);
        }
        fields.close(diagnostics);
    }
    Some(Top::Pyramid { channels: channels?, extra_maxpool: extra_maxpool? })
}
