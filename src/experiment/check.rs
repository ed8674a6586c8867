//! As written -> as resolved: every rule and every message.

use super::Experiment;
use super::augment::{self, Sight};
use super::options::*;
use crate::data::options::{BadImage, CifarLabels, Source, Split};
use resnet_codegen::diagnostic::{Diagnostics, Span, did_you_mean};
use resnet_codegen::fields::{Fields, Variant};
use resnet_codegen::yaml::{Node, Value};
use std::path::PathBuf;
use zoo::params::NormPolicy;
use zoo::weights::{Adapt, Inflate};
use zoo::{Interpolation, ModelCard, Preprocess};

/// What an evaluation measures.
pub(crate) const METRICS: [&str; 6] =
    ["val.loss", "val.top1", "val.top5", "val_ema.loss", "val_ema.top1", "val_ema.top5"];
const MODES: [(&str, Mode); 2] = [("min", Mode::Min), ("max", Mode::Max)];
const MAX_LENGTH: u64 = 1_000_000_000;

/// Reads the merged tree of an experiment.
///
/// # Errors
/// Every mistake, by position.
pub fn check(root: &Node) -> Result<Experiment, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let experiment = experiment(root, &mut diagnostics);
    diagnostics.into_result(experiment)
}

/// What `read` makes of a node, or `default` where there is none.
pub(super) fn or<'a, T>(node: Option<&'a Node>, default: T, read: impl FnOnce(&'a Node) -> Option<T>) -> Option<T> {
    node.map_or(Some(default), read)
}

/// As [`or`], where there is no default.
fn optional<'a, T>(node: Option<&'a Node>, read: impl FnOnce(&'a Node) -> Option<T>) -> Option<Option<T>> {
    node.map_or(Some(None), |node| read(node).map(Some))
}

/// Opens the settings of a variant, which may be missing altogether.
pub(super) fn settings<'a>(variant: &Variant<'a>, d: &mut Diagnostics) -> Option<Option<Fields<'a>>> {
    optional(variant.settings, |node| Fields::open(node, &format!("`{}`", variant.word), d))
}

/// The value of `key` where there are settings at all.
pub(super) fn get<'a>(fields: &mut Option<Fields<'a>>, key: &'static str) -> Option<&'a Node> {
    fields.as_mut().and_then(|fields| fields.get(key))
}

/// The value of `key`; noted as missing at `variant` where there is none.
pub(super) fn require<'a>(
    fields: &mut Option<Fields<'a>>,
    variant: &Variant<'_>,
    key: &'static str,
    d: &mut Diagnostics,
) -> Option<&'a Node> {
    match fields {
        Some(fields) => fields.require(key, d),
        None => {
            let word = variant.word;
            d.error(variant.span, format!("`{word}` has no `{key}`")).help(format!("write `{word}: {{{key}: ...}}`"));
            None
        }
    }
}

pub(super) fn close(fields: Option<Fields<'_>>, d: &mut Diagnostics) {
    if let Some(fields) = fields {
        fields.close(d);
    }
}

fn experiment(root: &Node, d: &mut Diagnostics) -> Option<Experiment> {
    let mut fields = Fields::open(root, "an experiment", d)?;
    let f = &mut fields;
    let name = f.require("name", d).and_then(|node| name(node, d));
    let description = or(f.get("description"), String::new(), |node| Some(node.text("`description`", d)?.to_owned()));
    let seed = or(f.get("seed"), 0, |node| node.integer("`seed`", 0..=u64::MAX >> 1, d));
    let card = f.require("model", d).and_then(|node| model(node, d));
    let weights = or(f.get("weights"), WeightsOptions::Scratch, |node| weights(node, card, d));
    let preprocess = preprocess(card, weights.as_ref());
    let input = or(f.get("input"), preprocess.crop, |node| node.size("`input`", 8..=1024, d));
    let data = f.require("data", d).and_then(|node| data(node, card, d));
    let sight = Sight {
        input: input.unwrap_or(preprocess.crop),
        preprocess,
        directed: data.as_ref().is_some_and(|data| matches!(data.source, Source::MovingGarments { .. })),
    };
    let augment = augment::augment(f.get("augment"), &sight, d);
    let batch_size = or(f.get("batch_size"), 32, |node| node.size("`batch_size`", 1..=65_536, d));
    let eval_batch_size = or(f.get("eval_batch_size"), 64, |node| node.size("`eval_batch_size`", 1..=65_536, d));
    let precision = or(f.get("precision"), Precision::default(), |node| {
        node.choice("`precision`", &Precision::ALL.map(|one| (one.name(), one)), d)
    });
    let exact = or(f.get("exact"), false, |node| node.boolean("`exact`", d));
    let accumulate = or(f.get("accumulate"), 1, |node| node.size("`accumulate`", 1..=65_536, d));
    let grad_checkpointing = or(f.get("grad_checkpointing"), false, |node| node.boolean("`grad_checkpointing`", d));
    let workers = or(f.get("workers"), 1, |node| node.size("`workers`", 0..=64, d));
    let prefetch = or(f.get("prefetch"), 2, |node| node.size("`prefetch`", 1..=64, d));
    let length = length(f, "the experiment", d);
    let label_smoothing = or(f.get("label_smoothing"), 0., |node| node.number("`label_smoothing`", 0.0..=0.99, d));
    let optimizer = f.require("optimizer", d).and_then(|node| optimizer(node, d));
    let layer_decay = or(f.get("layer_decay"), 1., |node| node.number("`layer_decay`", 0.01..=1.0, d));
    let ema_node = f.get("ema");
    let watch = Watch { ema: ema_node.is_some() };
    let schedule_default = ScheduleOptions { shape: ScheduleShape::Cosine { min_lr: 0. }, warmup: None };
    let lr = optimizer.as_ref().map(OptimizerOptions::lr);
    let schedule = or(f.get("schedule"), schedule_default, |node| schedule(node, lr, length, watch, d));
    let clip_norm = optional(f.get("clip_norm"), |node| node.number("`clip_norm`", 1e-6..=1e6, d));
    let ema = optional(ema_node, |node| ema(node, d));
    let freeze = optional(f.get("freeze"), |node| freeze(node, card, d));
    let early_stopping = optional(f.get("early_stopping"), |node| early_stopping(node, watch, d));
    let every_epoch = EvaluateOptions { every: Length::Epochs(1) };
    let evaluate = or(f.get("evaluate"), every_epoch, |node| {
        let mut f = Fields::open(node, "`evaluate`", d)?;
        let every = or(f.get("every"), Length::Epochs(1), |node| every(node, d));
        f.close(d);
        Some(EvaluateOptions { every: every? })
    });
    let checkpoint = checkpoint(f.get("checkpoint"), watch, d);
    fields.close(d);
    Some(Experiment {
        name: name?,
        description: description?,
        seed: seed?,
        model: card?.name.to_owned(),
        input: input?,
        weights: weights?,
        data: data?,
        augment: augment?,
        batch_size: batch_size?,
        eval_batch_size: eval_batch_size?,
        precision: precision?,
        exact: exact?,
        accumulate: accumulate?,
        grad_checkpointing: grad_checkpointing?,
        workers: workers?,
        prefetch: prefetch?,
        length: length?,
        label_smoothing: label_smoothing?,
        optimizer: optimizer?,
        layer_decay: layer_decay?,
        schedule: schedule?,
        clip_norm: clip_norm?,
        ema: ema?,
        freeze: freeze?,
        early_stopping: early_stopping?,
        evaluate: evaluate?,
        checkpoint: checkpoint?,
    })
}

/// Whether a text can be a name, which becomes a folder and a row: 1 to 100 letters, digits, `_`, `-` or `.`, and
/// neither of the last two at first.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    !text.is_empty() && text.len() <= 100 && text.chars().all(fits) && !text.starts_with(['.', '-'])
}

/// A name.
pub(crate) fn name(node: &Node, d: &mut Diagnostics) -> Option<String> {
    let name = node.text("`name`", d)?;
    if !is_name(name) {
        d.error(
            node.span,
            "`name` is 1 to 100 letters, digits, `_`, `-` or `.`, and starts with neither of the last two",
        )
        .help("write for example `name: resnet34_ls`");
        return None;
    }
    Some(name.to_owned())
}

fn model(node: &Node, d: &mut Diagnostics) -> Option<&'static ModelCard> {
    let name = node.text("`model`", d)?;
    let Some(entry) = zoo::models::find(name) else {
        let names = zoo::models::all().iter().map(|entry| entry.card.name);
        let help = match did_you_mean(name, names) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "`resnet-zoo models` lists them".to_owned(),
        };
        d.error(node.span, format!("the zoo has no model `{name}`")).help(help);
        return None;
    };
    if entry.card.classifier.is_none() {
        d.error(node.span, format!("`{name}` has no classifier, so it cannot learn classes"))
            .help("take a model with a head, such as `resnet50`");
        return None;
    }
    Some(entry.card)
}

fn weights(node: &Node, card: Option<&ModelCard>, d: &mut Diagnostics) -> Option<WeightsOptions> {
    if let Value::Str(_) = node.value {
        return node.choice("`weights`", &[("scratch", WeightsOptions::Scratch)], d);
    }
    let mut f = Fields::open(node, "`weights`", d)?;
    let tag_node = f.get("tag");
    let file_node = f.get("file");
    let if_unavailable_node = f.get("if_unavailable");
    let allow = or(f.get("allow"), Adapt { head: true, ..Adapt::default() }, |node| allow(node, d));
    f.close(d);
    match (tag_node, file_node) {
        (Some(tag), None) => {
            let tag = tag.text("`tag`", d).and_then(|name| weight_tag(tag, name, card, d));
            let choices = [("fail", IfUnavailable::Fail), ("scratch", IfUnavailable::Scratch)];
            let if_unavailable =
                or(if_unavailable_node, IfUnavailable::Fail, |node| node.choice("`if_unavailable`", &choices, d));
            Some(WeightsOptions::Tag { tag: tag?, if_unavailable: if_unavailable?, allow: allow? })
        }
        (None, Some(file)) => {
            if let Some(node) = if_unavailable_node {
                d.error(node.span, "`if_unavailable` belongs to `tag`: a file is there or the run fails")
                    .help("remove it");
            }
            let file = path(file, "`file`", d);
            Some(WeightsOptions::File { file: file?, allow: allow? })
        }
        _ => {
            d.error(node.span, "`weights` is `scratch`, or has either a `tag` or a `file`")
                .help("write for example `weights: {tag: a1_in1k}`");
            None
        }
    }
}

fn allow(node: &Node, d: &mut Diagnostics) -> Option<Adapt> {
    let mut f = Fields::open(node, "`allow`", d)?;
    let head = or(f.get("head"), true, |node| node.boolean("`head`", d));
    let first_conv = or(f.get("first_conv"), false, |node| node.boolean("`first_conv`", d));
    let choices = [("repeat", Inflate::Repeat), ("centre", Inflate::Centre)];
    let inflate = optional(f.get("inflate"), |node| node.choice("`inflate`", &choices, d));
    let missing = or(f.get("missing"), Vec::new(), |node| names(node, "`missing`", d));
    let unused = or(f.get("unused"), Vec::new(), |node| names(node, "`unused`", d));
    let reshaped = or(f.get("reshaped"), Vec::new(), |node| names(node, "`reshaped`", d));
    f.close(d);
    Some(Adapt {
        head: head?,
        first_conv: first_conv?,
        inflate: inflate?,
        missing: missing?,
        unused: unused?,
        reshaped: reshaped?,
    })
}

fn weight_tag(node: &Node, tag: &str, card: Option<&ModelCard>, d: &mut Diagnostics) -> Option<String> {
    // The tag of a model that is wrong itself cannot be judged.
    let card = card?;
    if card.weights.iter().any(|weights| weights.tag == tag) {
        return Some(tag.to_owned());
    }
    let tags: Vec<&str> = card.weights.iter().map(|weights| weights.tag).collect();
    let help = match did_you_mean(tag, tags.iter().copied()) {
        Some(known) => format!("did you mean `{known}`?"),
        None if tags.is_empty() => "write `weights: scratch` or `weights: {file: ...}`".to_owned(),
        None => format!("its tags: {}", tags.iter().map(|tag| format!("`{tag}`")).collect::<Vec<_>>().join(", ")),
    };
    d.error(node.span, format!("`{}` has no weights `{tag}`", card.name)).help(help);
    None
}

/// The preprocessing that the weights were trained with.
fn preprocess(card: Option<&ModelCard>, weights: Option<&WeightsOptions>) -> Preprocess {
    let Some(card) = card else {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        return Preprocess { resize: 256, crop: 224, interpolation: Interpolation::Bilinear, mean, std };
    };
    let own = match weights {
        Some(WeightsOptions::Tag { tag, .. }) => card.weights.iter().find(|known| known.tag == tag),
        _ => None,
    };
    own.and_then(|weights| weights.preprocess).unwrap_or(card.preprocess)
}

fn data(node: &Node, card: Option<&ModelCard>, d: &mut Diagnostics) -> Option<DataSection> {
    let mut f = Fields::open(node, "`data`", d)?;
    let source_node = f.require("source", d);
    let source = source_node.and_then(|node| source(node, d));
    let choices = [("fail", BadImage::Fail), ("quarantine", BadImage::Quarantine)];
    let on_bad_image = or(f.get("on_bad_image"), BadImage::Fail, |node| node.choice("`on_bad_image`", &choices, d));
    f.close(d);
    if let (Some(card), Some(source), Some(node)) = (card, &source, source_node)
        && card.dims != source.dims()
    {
        let kind = |dims: usize| if dims == 3 { "clips" } else { "images" };
        let way_out = if card.dims == 3 { "`moving_garments` or `clips`" } else { "`embedded` or `folder`" };
        d.error(node.span, format!("`{}` learns from {}, not {}", card.name, kind(card.dims), kind(source.dims())))
            .help(format!("take a source such as {way_out}, or another model"));
    }
    Some(DataSection { source: source?, on_bad_image: on_bad_image? })
}

fn source(node: &Node, d: &mut Diagnostics) -> Option<Source> {
    let words = ["embedded", "folder", "csv", "idx", "cifar", "moving_garments", "clips"];
    let variant = node.variant("`source`", &words, d)?;
    let mut fields = settings(&variant, d)?;
    let f = &mut fields;
    let required_path = |f: &mut Option<Fields<'_>>, d: &mut Diagnostics| {
        require(f, &variant, "path", d).and_then(|node| path(node, "`path`", d))
    };
    let source = match variant.word {
        "embedded" => {
            let train = or(get(f, "train"), 5000, |node| node.size("`train`", 1..=5000, d));
            let val = or(get(f, "val"), 1000, |node| node.size("`val`", 1..=1000, d));
            (|| Some(Source::Embedded { train: train?, val: val? }))()
        }
        "folder" | "csv" | "clips" => {
            let path = required_path(f, d);
            let split = or(get(f, "split"), Split::Given, |node| split(node, d));
            match variant.word {
                "folder" => (|| Some(Source::Folder { path: path?, split: split? }))(),
                "csv" => (|| Some(Source::Csv { path: path?, split: split? }))(),
                _ => {
                    let frames = or(get(f, "frames"), 16, |node| node.size("`frames`", 1..=256, d));
                    (|| Some(Source::Clips { path: path?, split: split?, frames: frames? }))()
                }
            }
        }
        "idx" => required_path(f, d).map(|path| Source::Idx { path }),
        "cifar" => {
            let path = required_path(f, d);
            let choices = [
                ("cifar10", CifarLabels::Cifar10),
                ("cifar100", CifarLabels::Cifar100),
                ("cifar100_coarse", CifarLabels::Cifar100Coarse),
            ];
            let labels = or(get(f, "labels"), CifarLabels::Cifar10, |node| node.choice("`labels`", &choices, d));
            (|| Some(Source::Cifar { path: path?, labels: labels? }))()
        }
        _ => {
            let train = or(get(f, "train"), 2000, |node| node.size("`train`", 1..=1_000_000, d));
            let val = or(get(f, "val"), 400, |node| node.size("`val`", 1..=1_000_000, d));
            let frames = or(get(f, "frames"), 16, |node| node.size("`frames`", 2..=64, d));
            let size = or(get(f, "size"), 32, |node| node.size("`size`", 16..=128, d));
            let seed = or(get(f, "seed"), 0, |node| node.integer("`seed`", 0..=u64::MAX >> 1, d));
            (|| Some(Source::MovingGarments { train: train?, val: val?, frames: frames?, size: size?, seed: seed? }))()
        }
    };
    close(fields, d);
    source
}

fn split(node: &Node, d: &mut Diagnostics) -> Option<Split> {
    let variant = node.variant("`split`", &["given", "seeded"], d)?;
    let mut fields = settings(&variant, d)?;
    let split = match variant.word {
        "given" => Some(Split::Given),
        _ => {
            let val_fraction = require(&mut fields, &variant, "val_fraction", d)
                .and_then(|node| node.number("`val_fraction`", 0.001..=0.999, d));
            let seed = or(get(&mut fields, "seed"), 0, |node| node.integer("`seed`", 0..=u64::MAX >> 1, d));
            val_fraction.zip(seed).map(|(val_fraction, seed)| Split::Seeded { val_fraction, seed })
        }
    };
    close(fields, d);
    split
}

/// The keys `epochs` and `steps` of a mapping that people know as `what`: exactly one of them.
fn length(f: &mut Fields<'_>, what: &str, d: &mut Diagnostics) -> Option<Length> {
    let epochs = f.get("epochs");
    let steps = f.get("steps");
    match (epochs, steps) {
        (Some(node), None) => node.integer("`epochs`", 1..=MAX_LENGTH, d).map(Length::Epochs),
        (None, Some(node)) => node.integer("`steps`", 1..=MAX_LENGTH, d).map(Length::Steps),
        (Some(_), Some(steps)) => {
            let at = f.key_span("steps").unwrap_or(steps.span);
            d.error(at, format!("{what} has both `epochs` and `steps`")).help("remove one of the two");
            None
        }
        (None, None) => {
            d.error(f.span, format!("{what} has neither `epochs` nor `steps`")).help("add `epochs: ...`");
            None
        }
    }
}

fn every(node: &Node, d: &mut Diagnostics) -> Option<Length> {
    let mut f = Fields::open(node, "`every`", d)?;
    let length = length(&mut f, "`every`", d);
    f.close(d);
    length
}

fn optimizer(node: &Node, d: &mut Diagnostics) -> Option<OptimizerOptions> {
    let variant = node.variant("`optimizer`", &["adamw", "sgd"], d)?;
    let mut fields = settings(&variant, d)?;
    let f = &mut fields;
    let lr = or(get(f, "lr"), 1e-3, |node| node.number("`lr`", 0.0..=1000.0, d));
    let default_decay = if variant.word == "adamw" { 0.01 } else { 0. };
    let weight_decay = or(get(f, "weight_decay"), default_decay, |node| node.number("`weight_decay`", 0.0..=10.0, d));
    let decay_norm_and_bias = or(get(f, "decay_norm_and_bias"), false, |node| node.boolean("`decay_norm_and_bias`", d));
    let options = if variant.word == "adamw" {
        let betas = or(get(f, "betas"), [0.9, 0.999], |node| pair(node, "`betas`", 0.0, 0.999_999, d));
        let eps = or(get(f, "eps"), 1e-8, |node| node.number("`eps`", 0.0..=1.0, d));
        (|| {
            Some(OptimizerOptions::AdamW(AdamWOptions {
                lr: lr?,
                betas: betas?,
                eps: eps?,
                weight_decay: weight_decay?,
                decay_norm_and_bias: decay_norm_and_bias?,
            }))
        })()
    } else {
        let momentum = or(get(f, "momentum"), 0., |node| node.number("`momentum`", 0.0..=0.999_999, d));
        let nesterov_node = get(f, "nesterov");
        let nesterov = or(nesterov_node, false, |node| node.boolean("`nesterov`", d));
        if let (Some(0.), Some(true), Some(node)) = (momentum, nesterov, nesterov_node) {
            d.error(node.span, "`nesterov` needs `momentum`").help("add for example `momentum: 0.9`");
        }
        (|| {
            Some(OptimizerOptions::Sgd(SgdOptions {
                lr: lr?,
                momentum: momentum?,
                nesterov: nesterov?,
                weight_decay: weight_decay?,
                decay_norm_and_bias: decay_norm_and_bias?,
            }))
        })()
    };
    close(fields, d);
    options
}

fn schedule(
    node: &Node,
    lr: Option<f64>,
    total: Option<Length>,
    watch: Watch,
    d: &mut Diagnostics,
) -> Option<ScheduleOptions> {
    const SHAPES: [&str; 5] = ["constant", "cosine", "step", "one_cycle", "plateau"];
    let Value::Map(entries) = &node.value else {
        let shape = shape(&node.variant("`schedule`", &SHAPES, d)?, lr, watch, d)?;
        return Some(ScheduleOptions { shape, warmup: None });
    };
    let mut f = Fields::open(node, "`schedule`", d)?;
    let warmup = optional(f.get("warmup"), |node| warmup(node, total, d));
    let mut shapes = Vec::new();
    for word in SHAPES {
        let settings = f.get(word);
        if let Some((key, _)) = entries.iter().find(|(key, _)| key.name == word) {
            shapes.push(Variant { word, span: key.span, settings });
        }
    }
    // Unknown keys first: a misspelt shape explains why there is none.
    let before = d.len();
    f.close(d);
    let shape = match shapes.as_slice() {
        [variant] => shape(variant, lr, watch, d),
        [] if d.len() > before => None,
        [] => {
            d.error(node.span, "`schedule` says no shape").help("add for example `cosine: {min_lr: 0}`");
            None
        }
        [first, second, ..] => {
            d.error(second.span, format!("`schedule` has both `{}` and `{}`", first.word, second.word))
                .help("remove one of the two");
            None
        }
    };
    Some(ScheduleOptions { shape: shape?, warmup: warmup? })
}

fn shape(variant: &Variant<'_>, lr: Option<f64>, watch: Watch, d: &mut Diagnostics) -> Option<ScheduleShape> {
    let mut fields = settings(variant, d)?;
    let f = &mut fields;
    let shape = match variant.word {
        "constant" => Some(ScheduleShape::Constant {}),
        "cosine" => or(get(f, "min_lr"), 0., |node| min_lr(node, lr, d)).map(|min_lr| ScheduleShape::Cosine { min_lr }),
        "step" => {
            let every = require(f, variant, "every", d).and_then(|node| every(node, d));
            let gamma = or(get(f, "gamma"), 0.1, |node| node.number("`gamma`", 0.0..=1.0, d));
            every.zip(gamma).map(|(every, gamma)| ScheduleShape::Step { every, gamma })
        }
        "one_cycle" => {
            let pct_start = or(get(f, "pct_start"), 0.3, |node| node.number("`pct_start`", 0.0..=1.0, d));
            let div_factor = or(get(f, "div_factor"), 25., |node| node.number("`div_factor`", 1.0..=1e9, d));
            let final_div_factor =
                or(get(f, "final_div_factor"), 1e4, |node| node.number("`final_div_factor`", 1.0..=1e12, d));
            let choices = [("cosine", Anneal::Cosine), ("linear", Anneal::Linear)];
            let anneal = or(get(f, "anneal"), Anneal::Cosine, |node| node.choice("`anneal`", &choices, d));
            (|| {
                Some(ScheduleShape::OneCycle {
                    pct_start: pct_start?,
                    div_factor: div_factor?,
                    final_div_factor: final_div_factor?,
                    anneal: anneal?,
                })
            })()
        }
        _ => {
            let watched = watch.metric(get(f, "metric"), Some("val.loss"), get(f, "mode"), d);
            let factor = or(get(f, "factor"), 0.1, |node| node.number("`factor`", 0.0..=0.999_999, d));
            let patience = or(get(f, "patience"), 10, |node| node.integer("`patience`", 0..=MAX_LENGTH, d));
            let threshold = or(get(f, "threshold"), 1e-4, |node| node.number("`threshold`", 0.0..=1.0, d));
            let cooldown = or(get(f, "cooldown"), 0, |node| node.integer("`cooldown`", 0..=MAX_LENGTH, d));
            let min_lr = or(get(f, "min_lr"), 0., |node| min_lr(node, lr, d));
            (|| {
                let (metric, mode) = watched?;
                Some(ScheduleShape::Plateau(PlateauOptions {
                    metric,
                    mode,
                    factor: factor?,
                    patience: patience?,
                    threshold: threshold?,
                    cooldown: cooldown?,
                    min_lr: min_lr?,
                }))
            })()
        }
    };
    close(fields, d);
    shape
}

fn min_lr(node: &Node, lr: Option<f64>, d: &mut Diagnostics) -> Option<f64> {
    let min_lr = node.number("`min_lr`", 0.0..=1000.0, d)?;
    if let Some(lr) = lr
        && min_lr > lr
    {
        d.error(node.span, format!("`min_lr` is above the optimizer's `lr`, {lr}")).help("write a smaller number");
    }
    Some(min_lr)
}

fn warmup(node: &Node, total: Option<Length>, d: &mut Diagnostics) -> Option<WarmupOptions> {
    let mut f = Fields::open(node, "`warmup`", d)?;
    let length = length(&mut f, "`warmup`", d);
    let start_factor = or(f.get("start_factor"), 0.01, |node| node.number("`start_factor`", 0.0..=1.0, d));
    f.close(d);
    let too_long = match (length, total) {
        (Some(Length::Epochs(warmup)), Some(Length::Epochs(total))) => warmup >= total,
        (Some(Length::Steps(warmup)), Some(Length::Steps(total))) => warmup >= total,
        _ => false,
    };
    if too_long {
        d.error(node.span, "`warmup` is as long as the whole run").help("make it shorter, or the run longer");
    }
    Some(WarmupOptions { length: length?, start_factor: start_factor? })
}

fn ema(node: &Node, d: &mut Diagnostics) -> Option<EmaOptions> {
    let mut f = Fields::open(node, "`ema`", d)?;
    let decay = or(f.get("decay"), 0.9999, |node| node.number("`decay`", 0.0..=0.999_999_9, d));
    let warmup = or(f.get("warmup"), false, |node| node.boolean("`warmup`", d));
    f.close(d);
    Some(EmaOptions { decay: decay?, warmup: warmup? })
}

fn freeze(node: &Node, card: Option<&ModelCard>, d: &mut Diagnostics) -> Option<FreezeOptions> {
    let mut f = Fields::open(node, "`freeze`", d)?;
    let backbone = or(f.get("backbone"), false, |node| node.boolean("`backbone`", d));
    let stage_count = card.map_or(4, |card| card.features.iter().filter(|map| map.name.starts_with('c')).count());
    let stages = optional(f.get("stages"), |node| node.size("`stages`", 0..=stage_count, d));
    let frozen = or(f.get("names"), Vec::new(), |node| names(node, "`names`", d));
    let choices = [("frozen", NormPolicy::Frozen), ("update", NormPolicy::Update)];
    let batch_norm = match f.get("batch_norm") {
        Some(node) => node.choice("`batch_norm`", &choices, d),
        None => {
            d.error(f.span, "`freeze` does not say what its batch norms do").help(
                "add `batch_norm: frozen` (they use their running statistics) or `batch_norm: update` (they \
                 keep updating them)",
            );
            None
        }
    };
    let span = f.span;
    f.close(d);
    let options = FreezeOptions { backbone: backbone?, stages: stages?, names: frozen?, batch_norm: batch_norm? };
    if !options.backbone && options.stages.is_none() && options.names.is_empty() {
        d.error(span, "`freeze` freezes nothing").help("add `backbone: true`, `stages: 2` or `names: [...]`");
    }
    Some(options)
}

fn early_stopping(node: &Node, watch: Watch, d: &mut Diagnostics) -> Option<EarlyStoppingOptions> {
    let mut f = Fields::open(node, "`early_stopping`", d)?;
    let watched = watch.metric(f.get("metric"), None, f.get("mode"), d);
    let patience = f.require("patience", d).and_then(|node| node.integer("`patience`", 1..=MAX_LENGTH, d));
    let min_delta = or(f.get("min_delta"), 0., |node| node.number("`min_delta`", 0.0..=1e6, d));
    f.close(d);
    let (metric, mode) = watched?;
    Some(EarlyStoppingOptions { metric, mode, patience: patience?, min_delta: min_delta? })
}

fn checkpoint(node: Option<&Node>, watch: Watch, d: &mut Diagnostics) -> Option<CheckpointOptions> {
    let mut fields = optional(node, |node| Fields::open(node, "`checkpoint`", d))?;
    let f = &mut fields;
    let every = or(get(f, "every"), Length::Epochs(1), |node| every(node, d));
    let keep_last = or(get(f, "keep_last"), 2, |node| node.size("`keep_last`", 1..=1000, d));
    let mut best_fields = optional(get(f, "best"), |node| Fields::open(node, "`best`", d))?;
    let watched = watch.metric(get(&mut best_fields, "metric"), None, get(&mut best_fields, "mode"), d);
    close(best_fields, d);
    close(fields, d);
    let (metric, mode) = watched?;
    Some(CheckpointOptions { every: every?, keep_last: keep_last?, best: BestOptions { metric, mode } })
}

/// Which metrics there are to watch.
#[derive(Clone, Copy)]
struct Watch {
    /// Whether there is an EMA, and with it `val_ema.*`.
    ema: bool,
}

impl Watch {
    /// A metric (`default`, or top-1 of the weights that count) and which way it gets better.
    fn metric(
        self,
        metric: Option<&Node>,
        default: Option<&'static str>,
        mode: Option<&Node>,
        d: &mut Diagnostics,
    ) -> Option<(String, Mode)> {
        let default = default.unwrap_or(if self.ema { "val_ema.top1" } else { "val.top1" });
        let name = or(metric, default, |node| {
            let choices = METRICS.map(|name| (name, name));
            let name = node.choice("`metric`", &choices, d)?;
            if name.starts_with("val_ema.") && !self.ema {
                d.error(node.span, format!("`{name}` needs an EMA")).help("add `ema: {decay: 0.9999}`");
            }
            Some(name)
        });
        let natural = if name.is_some_and(|name| name.ends_with(".loss")) { Mode::Min } else { Mode::Max };
        let mode = or(mode, natural, |node| node.choice("`mode`", &MODES, d));
        Some((name?.to_owned(), mode?))
    }
}

fn names(node: &Node, what: &str, d: &mut Diagnostics) -> Option<Vec<String>> {
    let items = node.list(what, d)?;
    let names: Vec<_> = items.iter().map(|item| Some(item.text(&format!("a name in {what}"), d)?.to_owned())).collect();
    names.into_iter().collect()
}

fn path(node: &Node, what: &str, d: &mut Diagnostics) -> Option<PathBuf> {
    let text = node.text(what, d)?;
    if text.is_empty() || text.contains('\0') {
        d.error(node.span, format!("{what} is the name of a file or folder")).help("write a path");
        return None;
    }
    Some(PathBuf::from(text))
}

/// Two numbers, each from `low` to `high`.
pub(super) fn pair(node: &Node, what: &str, low: f64, high: f64, d: &mut Diagnostics) -> Option<[f64; 2]> {
    let items = node.list(what, d)?;
    let [first, second] = items else {
        d.error(node.span, format!("{what} has two numbers, not {}", items.len())).help("write it as `[a, b]`");
        return None;
    };
    let first = first.number(what, low..=high, d);
    let second = second.number(what, low..=high, d);
    Some([first?, second?])
}

/// As [`pair`], where the first is not above the second.
pub(super) fn interval(node: &Node, what: &str, low: f64, high: f64, d: &mut Diagnostics) -> Option<(f64, f64)> {
    let [first, second] = pair(node, what, low, high, d)?;
    if first > second {
        note(node.span, format!("{what} is `[low, high]`"), "swap the two numbers", d);
        return None;
    }
    Some((first, second))
}

pub(super) fn note(span: Span, message: impl Into<String>, help: &str, d: &mut Diagnostics) {
    d.error(span, message).help(help);
}
