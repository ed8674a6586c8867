//! As written -> a [`Sweep`]: every rule and every message.

use super::{MAX_TRIALS, Parameter, Space, Strategy, Sweep};
use crate::experiment::{self, Length};
use resnet_codegen::diagnostic::Diagnostics;
use resnet_codegen::fields::{Fields, Variant};
use resnet_codegen::yaml::{Node, Value};
use std::path::Path;

/// Processes of one machine.
const MAX_PROCESSES: usize = 256;
/// Keys that differ, and keys that are set for all.
const MAX_KEYS: usize = 64;

pub(super) fn check(root: &Node, folder: &Path) -> Result<Sweep, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let sweep = sweep(root, folder, &mut diagnostics);
    diagnostics.into_result(sweep)
}

fn sweep(root: &Node, folder: &Path, d: &mut Diagnostics) -> Option<Sweep> {
    let mut f = Fields::open(root, "a sweep", d)?;
    let name = f.require("name", d).and_then(|node| experiment::name(node, d));
    let file = f.require("experiment", d).and_then(|node| node.text("`experiment`", d));
    let set = match f.get("set") {
        Some(node) => set(node, d),
        None => Some(Vec::new()),
    };
    let seeds = match f.get("seeds") {
        Some(node) => seeds(node, d),
        None => Some(Vec::new()),
    };
    let strategy_node = f.get("strategy");
    let strategy = match strategy_node {
        Some(node) => strategy(node, d),
        None => Some(Strategy::Grid),
    };
    if let (Some(Strategy::Halving { .. }), Some(node), Some([_, ..])) = (&strategy, strategy_node, seeds.as_deref()) {
        d.error(node.span, "halving compares single runs: it takes no `seeds`")
            .help("remove `seeds`, or draw with `random`");
    }
    let parameters_span = f.key_span("parameters").unwrap_or(f.span);
    let parameters = match f.get("parameters") {
        Some(node) => parameters(node, strategy.as_ref(), d),
        None => Some(Vec::new()),
    };
    if let (Some([]), Some([])) = (parameters.as_deref(), seeds.as_deref()) {
        d.error(parameters_span, "nothing differs between trials")
            .help("write for example `parameters: {optimizer.sgd.lr: [0.01, 0.1]}`, or `seeds: [0, 1, 2]`");
    }
    if let (Some(parameters), Some([_, ..])) = (&parameters, seeds.as_deref())
        && parameters.iter().any(|parameter| parameter.key == "seed")
    {
        d.error(parameters_span, "`seed` cannot be a parameter where `seeds` sets it").help("remove one of them");
    }
    let metric = match f.get("metric") {
        Some(node) => node.choice("`metric`", &experiment::METRICS.map(|name| (name, name.to_owned())), d).map(Some),
        None => Some(None),
    };
    let processes = match f.get("processes") {
        Some(node) => node.size("`processes`", 1..=MAX_PROCESSES, d),
        None => Some(1),
    };
    f.close(d);
    Some(Sweep {
        name: name?,
        experiment: folder.join(file?),
        set: set?,
        parameters: parameters?,
        strategy: strategy?,
        seeds: seeds?,
        metric: metric?,
        processes: processes?,
    })
}

/// A mapping's keys and values, not too many.
fn entries<'a>(node: &'a Node, what: &str, d: &mut Diagnostics) -> Option<Vec<(&'a str, &'a Node)>> {
    match &node.value {
        Value::Map(entries) if entries.len() <= MAX_KEYS => {
            Some(entries.iter().map(|(key, node)| (key.name.as_str(), node)).collect())
        }
        Value::Map(_) => {
            d.error(node.span, format!("{what} has more than {MAX_KEYS} keys")).help("split the sweep");
            None
        }
        other => {
            d.error(node.span, format!("{what} is a mapping, not {}", other.kind()))
                .help("write keys of the experiment with dots: `optimizer.sgd.lr: ..`");
            None
        }
    }
}

fn set(node: &Node, d: &mut Diagnostics) -> Option<Vec<String>> {
    let entries = entries(node, "`set`", d)?;
    Some(entries.into_iter().map(|(key, node)| format!("{key}={}", yaml(node))).collect())
}

fn seeds(node: &Node, d: &mut Diagnostics) -> Option<Vec<u64>> {
    let nodes = node.list("`seeds`", d)?;
    if nodes.is_empty() || nodes.len() > MAX_TRIALS {
        d.error(node.span, format!("`seeds` has 1 to {MAX_TRIALS} numbers"))
            .help("write for example `seeds: [0, 1, 2]`");
        return None;
    }
    let mut seeds = Vec::new();
    for node in nodes {
        let seed = node.integer("a seed", 0..=u64::MAX >> 1, d)?;
        if seeds.contains(&seed) {
            d.error(node.span, "this seed is there twice: the same run again").help("remove it");
        }
        seeds.push(seed);
    }
    Some(seeds)
}

fn strategy(node: &Node, d: &mut Diagnostics) -> Option<Strategy> {
    let variant = node.variant("`strategy`", &["grid", "random", "halving"], d)?;
    let what = format!("`{}`", variant.word);
    let mut f = match variant.settings {
        Some(node) => Some(Fields::open(node, &what, d)?),
        None => None,
    };
    if variant.word == "grid" {
        if let Some(f) = f {
            f.close(d);
        }
        return Some(Strategy::Grid);
    }
    let trials = trials(f.as_mut(), &variant, d);
    let mut get = |key| f.as_mut().and_then(|f| f.get(key));
    let seed = get("seed").map_or(Some(0), |node| node.integer("`seed`", 0..=u64::MAX >> 1, d));
    let strategy = if variant.word == "random" {
        Strategy::Random { trials: trials?, seed: seed? }
    } else {
        let factor = get("factor").map_or(Some(3), |node| node.size("`factor`", 2..=100, d));
        let least = get("least").map_or(Some(Length::Epochs(1)), |node| length(node, d));
        Strategy::Halving { trials: trials?, seed: seed?, factor: factor?, least: least? }
    };
    if let Some(f) = f {
        f.close(d);
    }
    Some(strategy)
}

fn trials(f: Option<&mut Fields<'_>>, variant: &Variant<'_>, d: &mut Diagnostics) -> Option<usize> {
    match f {
        Some(f) => f.require("trials", d)?.size("`trials`", 1..=MAX_TRIALS, d),
        None => {
            let word = variant.word;
            d.error(variant.span, format!("`{word}` has no `trials`")).help(format!("write `{word}: {{trials: 20}}`"));
            None
        }
    }
}

fn length(node: &Node, d: &mut Diagnostics) -> Option<Length> {
    let mut f = Fields::open(node, "`least`", d)?;
    let epochs = f.get("epochs").map(|node| node.integer("`epochs`", 1..=1_000_000_000, d));
    let steps = f.get("steps").map(|node| node.integer("`steps`", 1..=1_000_000_000, d));
    f.close(d);
    match (epochs, steps) {
        (Some(epochs), None) => epochs.map(Length::Epochs),
        (None, Some(steps)) => steps.map(Length::Steps),
        _ => {
            d.error(node.span, "`least` has either `epochs` or `steps`").help("write for example `least: {epochs: 1}`");
            None
        }
    }
}

fn parameters(node: &Node, strategy: Option<&Strategy>, d: &mut Diagnostics) -> Option<Vec<Parameter>> {
    let entries = entries(node, "`parameters`", d)?;
    let parameters: Vec<_> = entries
        .into_iter()
        .map(|(key, node)| {
            let space = space(key, node, d)?;
            if !matches!(space, Space::Choice(_)) && strategy == Some(&Strategy::Grid) {
                d.error(node.span, "a grid needs a list of values")
                    .help("list them, or draw: `strategy: {random: {trials: 20}}`");
            }
            Some(Parameter { key: key.to_owned(), space })
        })
        .collect();
    parameters.into_iter().collect()
}

fn space(key: &str, node: &Node, d: &mut Diagnostics) -> Option<Space> {
    let what = format!("`{key}`");
    let values = match &node.value {
        Value::Seq(values) => Some(values.as_slice()),
        Value::Map(_) => None,
        other => {
            d.error(node.span, format!("{what} is a list of values, or a range, not {}", other.kind()))
                .help("write `[0.01, 0.1]`, or `{log_uniform: [0.01, 0.1]}`");
            return None;
        }
    };
    if let Some(values) = values {
        return choice(values, node, d);
    }
    let variant = node.variant(&what, &["choice", "uniform", "log_uniform", "int"], d)?;
    let Some(settings) = variant.settings else {
        d.error(variant.span, format!("`{}` has no values", variant.word))
            .help("write two, from and to: `[0.01, 0.1]`");
        return None;
    };
    let values = settings.list(&format!("`{}`", variant.word), d)?;
    if variant.word == "choice" {
        return choice(values, settings, d);
    }
    let [low, high] = values else {
        d.error(settings.span, format!("`{}` has two numbers, from and to", variant.word)).help("write `[0.01, 0.1]`");
        return None;
    };
    let ordered = |ordered: bool, d: &mut Diagnostics| {
        if !ordered {
            d.error(settings.span, "of the two numbers the first is less").help("turn them around");
        }
        ordered
    };
    if variant.word == "int" {
        let whole = |node: &Node, d: &mut Diagnostics| match node.value {
            Value::Int(value) => i64::try_from(value).ok(),
            _ => {
                d.error(node.span, "an end of `int` is a whole number").help("write for example `{int: [1, 8]}`");
                None
            }
        };
        let (low, high) = (whole(low, d), whole(high, d));
        let (low, high) = (low?, high?);
        return ordered(low < high, d).then_some(Space::Int(low, high));
    }
    let least = if variant.word == "log_uniform" { 1e-12 } else { -1e12 };
    let number =
        |node: &Node, d: &mut Diagnostics| node.number(&format!("an end of `{}`", variant.word), least..=1e12, d);
    let (low, high) = (number(low, d), number(high, d));
    let (low, high) = (low?, high?);
    let space = if variant.word == "uniform" { Space::Uniform(low, high) } else { Space::LogUniform(low, high) };
    ordered(low < high, d).then_some(space)
}

fn choice(values: &[Node], node: &Node, d: &mut Diagnostics) -> Option<Space> {
    if values.is_empty() || values.len() > MAX_TRIALS {
        let wrong = if values.is_empty() { "an empty list has nothing to try" } else { "this list is too long to try" };
        d.error(node.span, wrong).help("write the values: `[0.01, 0.1]`");
        return None;
    }
    Some(Space::Choice(values.iter().map(yaml).collect()))
}

/// A value on one line.
fn yaml(node: &Node) -> String {
    experiment::json(node.value.clone()).to_string()
}
