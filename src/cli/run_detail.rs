//! `runs show`, and `show RUN`.

use super::table::{Align, Table};
use super::{Context, human};
use crate::error::Result;
use crate::registry::Code;
use crate::registry::run::RunDetail;
use crate::registry::store::short_id;
use serde_json::Value;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo runs show resnet34_ls              the newest run of that name
  resnet-zoo runs show 2e3f4a5b                 by its short id
  resnet-zoo runs show resnet34_ls --files      the experiment and the spec as they were
  resnet-zoo runs show resnet34_ls --json | jq .config

RUN is an id, the beginning or the end of one (short ids are the last 8 digits), or a name: the newest run of that name.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Id, short id or name
    run: String,
    /// Print the experiment's and the model's files as they were
    #[arg(long)]
    files: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let listing = reader.find(&arguments.run)?;
    let detail = reader.detail(listing)?;
    if context.json {
        return context.terminal.print_json(&detail);
    }
    print(&detail, context)?;
    if arguments.files {
        for file in detail.files.iter().chain(&detail.spec_files) {
            context.terminal.heading(&format!("\n{}", file.name))?;
            context.terminal.print(file.text.trim_end())?;
        }
    }
    Ok(())
}

/// Everything about a run that fits on a page.
pub(super) fn print(detail: &RunDetail, context: &mut Context) -> Result<()> {
    facts(detail, context)?;
    metrics(detail, context)?;
    settings(detail, context)?;
    checkpoints(detail, context)?;
    if !detail.warnings.is_empty() {
        context.terminal.heading("\nwarnings")?;
        for warning in &detail.warnings {
            context.terminal.print(&format!("  step {}: {}", warning.step + 1, warning.message))?;
        }
    }
    if detail.replay_mismatches > 0 {
        context.terminal.print(&format!(
            "\n{} values of a resume differ from those of the first pass: `resnet-zoo sql \"SELECT * FROM replay_mismatch\"`",
            detail.replay_mismatches
        ))?;
    }
    Ok(())
}

fn facts(detail: &RunDetail, context: &mut Context) -> Result<()> {
    let listing = &detail.listing;
    context.terminal.heading(&format!("{}  {}", listing.name, listing.id))?;
    let state = match &listing.reason {
        Some(reason) => format!("{} ({reason})", listing.state),
        None => listing.state.to_string(),
    };
    let (samples, step_seconds) = detail.speed();
    let data_seconds: f64 = detail.attempts.iter().map(|attempt| attempt.data_seconds).sum();
    let speed = if step_seconds > 0.0 {
        let waiting = human::percent(data_seconds / step_seconds);
        format!("{:.0} samples/s in training, {waiting} of it waiting for data", samples / step_seconds)
    } else {
        "-".to_owned()
    };
    let build = &detail.build;
    let dirty = if build.dirty { " + changes" } else { "" };
    let commit = build.git_sha.get(..12).unwrap_or(&build.git_sha);
    let last = detail.attempts.last();
    let rows = [
        ("state", state),
        ("experiment", listing.experiment.clone()),
        ("model", format!("{} (spec {})", listing.model, short(&detail.spec_sha256))),
        ("weights", weights(&detail.weights)),
        ("data", short(&detail.data_sha256).to_owned()),
        ("seed", listing.seed.to_string()),
        ("created", listing.created.clone()),
        ("time", human::duration(listing.seconds)),
        ("speed", speed),
        ("steps", listing.steps.to_string()),
        (
            "device",
            last.map_or_else(String::new, |attempt| {
                let isa = attempt.isa.as_ref().map(|isa| format!(" ({isa})")).unwrap_or_default();
                format!("{}, {}{isa}, {} threads", attempt.device, attempt.cpu, attempt.threads)
            }),
        ),
        ("attempts", detail.attempts.len().to_string()),
        ("build", format!("{commit}{dirty}, {}, features {}", build.rustc, build.features)),
        ("code", detail.origin.code.as_ref().map_or_else(|| "-".to_owned(), Code::summary)),
        ("config", short(&listing.config_sha256).to_owned()),
        ("digest", listing.metric_digest.as_deref().map_or("-", short).to_owned()),
    ];
    let said = [
        ("tags", (!listing.tags.is_empty()).then(|| listing.tags.join(", "))),
        ("group", listing.group.clone()),
        ("note", listing.note.clone()),
        ("archived", listing.archived.then(|| "yes, lists hide it".to_owned())),
    ];
    let said = said.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let environment = detail.origin.environment.iter().map(|(name, value)| ("environment", format!("{name}={value}")));
    let rerun_of = detail.origin.rerun_of.iter().map(|uid| ("rerun of", uid.clone()));
    for (name, value) in rows.into_iter().chain(environment).chain(rerun_of).chain(said) {
        context.terminal.print(&format!("  {name:<11} {value}"))?;
    }
    Ok(())
}

fn metrics(detail: &RunDetail, context: &mut Context) -> Result<()> {
    if detail.listing.metrics.is_empty() {
        return Ok(());
    }
    context.terminal.heading("\nmetrics")?;
    let columns = [("metric", Align::Left), ("last", Align::Right), ("best", Align::Right), ("at step", Align::Right)];
    let mut table = Table::new(&columns, &context.terminal);
    for (name, summary) in &detail.listing.metrics {
        table.row([
            name.clone(),
            human::metric(name, summary.last),
            human::metric(name, summary.best),
            summary.best_step.map_or_else(|| "-".to_owned(), |step| (step + 1).to_string()),
        ]);
    }
    context.terminal.print(&table.render())
}

fn settings(detail: &RunDetail, context: &mut Context) -> Result<()> {
    context.terminal.heading("\nsettings")?;
    for (key, value) in flatten(&detail.config) {
        context.terminal.print(&format!("  {key}: {value}"))?;
    }
    Ok(())
}

fn checkpoints(detail: &RunDetail, context: &mut Context) -> Result<()> {
    if detail.checkpoints.is_empty() {
        return Ok(());
    }
    context.terminal.heading("\ncheckpoints")?;
    let blobs = context.location.blobs();
    for checkpoint in &detail.checkpoints {
        let path = blobs.path(&checkpoint.weights_sha256);
        context.terminal.print(&format!("  step {} ({}): {}", checkpoint.step + 1, checkpoint.role, path.display()))?;
    }
    context.terminal.print(&format!("  use them: resnet-zoo eval {}", short_id(&detail.listing.id)))
}

fn weights(weights: &Value) -> String {
    let text = |key: &str| weights.get(key).and_then(Value::as_str);
    match (text("from"), text("sha256")) {
        (Some(from), Some(sha256)) => format!("{from} ({})", short(sha256)),
        (Some(from), None) => from.to_owned(),
        (None, _) => weights.to_string(),
    }
}

/// The first 12 digits of a hash.
pub(super) fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

/// A JSON tree as dotted keys and values, `optimizer.sgd.lr` -> `0.1`, in the order of the keys.
pub(super) fn flatten(value: &Value) -> Vec<(String, String)> {
    fn walk(path: &str, value: &Value, flat: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, flat);
                }
            }
            Value::String(text) => flat.push((path.to_owned(), text.clone())),
            other => flat.push((path.to_owned(), other.to_string())),
        }
    }
    let mut flat = Vec::new();
    walk("", value, &mut flat);
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flattens_to_dotted_keys() {
        let tree = serde_json::json!({"a": {"b": 1, "c": [1, 2]}, "d": "x", "e": {}});
        let pairs = [("a.b", "1"), ("a.c", "[1,2]"), ("d", "x"), ("e", "{}")];
        assert_eq!(flatten(&tree), pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
