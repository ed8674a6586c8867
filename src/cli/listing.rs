//! `runs ls`.

use super::table::{Align, Table};
use super::{Context, human};
use crate::error::Result;
use crate::registry::run::RunListing;
use crate::registry::store::short_id;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo runs ls
  resnet-zoo runs ls --model resnet34
  resnet-zoo runs ls --json | jq '.[] | {name, top1: .metrics[\"val.top1\"].best}'

A run that says RUNNING is alive: one whose process died is shown as CRASHED.
JSON: an array of {id, name, experiment, model, state, steps, seconds, metrics: {\"val.top1\": {last, last_step, best,
best_step}}, ..}, newest first; rates lie between 0 and 1. docs/json.md says more.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Only runs of this model
    #[arg(long)]
    model: Option<String>,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut runs = context.reader()?.runs()?;
    if let Some(model) = &arguments.model {
        runs.retain(|run| run.model == *model);
    }
    if context.json {
        return context.terminal.print_json(&runs);
    }
    if runs.is_empty() {
        return context.terminal.print("no runs; `resnet-zoo run EXPERIMENT` makes one");
    }
    let columns = [
        ("id", Align::Left),
        ("name", Align::Left),
        ("model", Align::Left),
        ("state", Align::Left),
        ("best val.top1", Align::Right),
        ("epochs", Align::Right),
        ("steps", Align::Right),
        ("time", Align::Right),
        ("created", Align::Right),
    ];
    let mut table = Table::new(&columns, &context.terminal);
    for run in &runs {
        table.row([
            short_id(&run.id).to_owned(),
            run.name.clone(),
            run.model.clone(),
            run.state.to_string(),
            human::metric("val.top1", run.metrics.get("val.top1").and_then(|top1| top1.best)),
            epochs(run),
            run.steps.to_string(),
            human::duration(run.seconds),
            human::age(context.clock.now_ms(), run.created_ms),
        ]);
    }
    context.terminal.print(&table.render())
}

/// Epochs done, `-` before the first step.
fn epochs(run: &RunListing) -> String {
    let planned = |key| run.plan.as_ref().and_then(|plan| plan.get(key)).and_then(serde_json::Value::as_u64);
    match planned("steps_per_epoch") {
        Some(steps) if steps > 0 => format!("{:.1}", run.steps as f64 / steps as f64),
        _ => "-".to_owned(),
    }
}
