//! `show`: a model layer by layer, the code that its spec became, or a run.

use super::table::{Align, Table};
use super::{Context, human, models, run_detail, specs};
use crate::error::{Error, Result};
use resnet_codegen::Compiled;
use serde_json::{Value, json};
use std::path::Path;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo show resnet34                 stem, stages and head, with shapes, parameters and MACs
  resnet-zoo show resnet34 --layers        every layer
  resnet-zoo show resnet34 --expand        the Rust that `zoo!` makes of resnet34.yaml
  resnet-zoo show my_resnet.yaml           a spec of your own
  resnet-zoo show resnet34_ls              a run, as `runs show`

JSON of a model: as an element of `models --json`, with `layers`: [{path, layer, output, params, macs}].";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A model of the zoo, a spec file, or a run
    what: String,
    /// Every layer, not only the network's fields
    #[arg(long)]
    layers: bool,
    /// The generated Rust
    #[arg(long, conflicts_with = "layers")]
    expand: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let what = arguments.what.as_str();
    let (compiled, card) = if let Some(entry) = zoo::models::find(what) {
        (specs::compile_card(entry.card)?, models::card_json(entry.card))
    } else if Path::new(what).extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        let compiled = specs::compile_file(Path::new(what))?;
        let card = spec_json(&compiled);
        (compiled, card)
    } else {
        return show_run(arguments, context);
    };
    if arguments.expand {
        let rust = resnet_codegen::pretty(&compiled);
        return match context.json {
            true => context.terminal.print_json(&json!({"name": card["name"], "rust": rust})),
            false => context.terminal.print(rust.trim_end()),
        };
    }
    if context.json {
        return context.terminal.print_json(&with_layers(card, &compiled));
    }
    print(&compiled, &card, arguments.layers, context)
}

fn show_run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    if arguments.expand || arguments.layers {
        return Err(models::find(&arguments.what).map(|_| ()).expect_err("it was no model a moment ago"));
    }
    let found = if context.location.may_exist() {
        context.reader().and_then(|mut reader| {
            let listing = reader.find(&arguments.what)?;
            reader.detail(listing)
        })
    } else {
        Err(Error::input("no registry"))
    };
    match found {
        Ok(detail) if context.json => context.terminal.print_json(&detail),
        Ok(detail) => run_detail::print(&detail, context),
        // Neither a model nor a run: the nearest model helps more than the nearest run.
        Err(Error::Input(_)) => models::find(&arguments.what).map(|_| ()),
        Err(error) => Err(error),
    }
}

fn spec_json(compiled: &Compiled) -> Value {
    let features = compiled.summary.features.iter();
    let features = features.map(|map| json!({"name": map.name, "channels": map.shape[0], "stride": map.stride}));
    json!({
        "name": compiled.spec.name,
        "params": compiled.summary.params,
        "macs": compiled.summary.macs,
        "features": features.collect::<Vec<_>>(),
        "spec_sha256": compiled.sha256,
    })
}

fn with_layers(mut card: Value, compiled: &Compiled) -> Value {
    let rows = compiled.summary.rows.iter().map(|row| {
        json!({"path": row.path, "layer": row.layer, "output": row.output, "params": row.params, "macs": row.macs})
    });
    card["layers"] = rows.collect();
    card
}

fn print(compiled: &Compiled, card: &Value, layers: bool, context: &mut Context) -> Result<()> {
    let summary = &compiled.summary;
    let rows = if layers { summary.rows.clone() } else { summary.by_field() };
    let columns = [
        ("layer", Align::Left),
        ("what", Align::Left),
        ("output", Align::Right),
        ("parameters", Align::Right),
        ("MACs", Align::Right),
    ];
    let mut table = Table::new(&columns, &context.terminal);
    for row in rows {
        let (params, macs) = (row.params.to_string(), human::count(row.macs));
        table.row([row.path, row.layer, models::size(&row.output), params, macs]);
    }
    context.terminal.heading(card["name"].as_str().unwrap_or_default())?;
    context.terminal.print(&table.render())?;
    context.terminal.print(&format!(
        "\n{} parameters ({}, {} as f32), {} MACs a sample",
        summary.params,
        human::count(summary.params),
        human::bytes(4 * summary.params),
        human::count(summary.macs)
    ))?;
    for map in &summary.features {
        let (shape, stride) = (models::size(&map.shape), map.stride);
        context.terminal.print(&format!("feature {}: {shape}, stride {stride}", map.name))?;
    }
    for weights in card["weights"].as_array().into_iter().flatten() {
        let text = |key: &str| weights[key].as_str().unwrap_or("-").to_owned();
        let top1 =
            weights["top1"].as_f64().map_or_else(String::new, |top1| format!(", top-1 {}", human::percent(top1)));
        context.terminal.print(&format!(
            "weights {}: {}, licence {}{top1}",
            text("tag"),
            text("repository"),
            text("licence")
        ))?;
    }
    Ok(())
}
