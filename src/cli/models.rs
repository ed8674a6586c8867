//! `models`.

use super::table::{Align, Table};
use super::{Context, human};
use crate::error::{Error, Result};
use resnet_codegen::diagnostic::did_you_mean;
use serde_json::{Value, json};
use zoo::Entry;
use zoo::{ModelCard, WeightCard};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo models
  resnet-zoo models --json | jq -r '.[] | select(.params < 3e7) | .name'

JSON: an array of {name, params, macs, input, classes, dims, features: [{name, channels, stride}], weights: [{tag,
repository, revision, file, sha256, bytes, licence, top1}], spec_sha256}. `input` is channels, then the spatial size;
`macs` are multiply-accumulates of one sample at that size; accuracies lie between 0 and 1.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments, context: &mut Context) -> Result<()> {
    let cards: Vec<&ModelCard> = zoo::models::all().iter().map(|entry| entry.card).collect();
    if context.json {
        return context.terminal.print_json(&cards.into_iter().map(card_json).collect::<Vec<_>>());
    }
    let columns = [
        ("model", Align::Left),
        ("parameters", Align::Right),
        ("MACs", Align::Right),
        ("input", Align::Right),
        ("classes", Align::Right),
        ("weights", Align::Left),
    ];
    let mut table = Table::new(&columns, &context.terminal);
    for card in cards {
        table.row([
            card.name.to_owned(),
            human::count(card.params as u64),
            human::count(card.macs),
            size(card.input),
            card.classes.to_string(),
            card.weights.iter().map(weights_text).collect::<Vec<_>>().join(", "),
        ]);
    }
    context.terminal.print(&table.render())
}

/// The model of that name.
pub(super) fn find(name: &str) -> Result<&'static Entry> {
    zoo::models::find(name).ok_or_else(|| {
        let names = zoo::models::all().iter().map(|entry| entry.card.name);
        let hint = match did_you_mean(name, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`resnet-zoo models` lists them".to_owned(),
        };
        Error::input(format!("there is no model `{name}`; {hint}"))
    })
}

pub(super) fn card_json(card: &ModelCard) -> Value {
    let features = card.features.iter();
    let features = features.map(|map| json!({"name": map.name, "channels": map.channels, "stride": map.stride}));
    json!({
        "name": card.name,
        "params": card.params,
        "macs": card.macs,
        "input": card.input,
        "classes": card.classes,
        "dims": card.dims,
        "features": features.collect::<Vec<_>>(),
        "weights": card.weights.iter().map(weights_json).collect::<Vec<_>>(),
        "spec_sha256": card.spec_sha256,
    })
}

pub(super) fn weights_json(weights: &WeightCard) -> Value {
    json!({
        "tag": weights.tag,
        "repository": weights.repository,
        "revision": weights.revision,
        "file": weights.file,
        "sha256": weights.sha256,
        "bytes": weights.size,
        "licence": weights.licence,
        "top1": weights.top1,
    })
}

/// `3 x 224 x 224`.
pub(super) fn size(input: &[usize]) -> String {
    input.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

fn weights_text(weights: &WeightCard) -> String {
    match weights.top1 {
        Some(top1) => format!("{} ({})", weights.tag, human::percent(top1)),
        None => weights.tag.to_owned(),
    }
}
