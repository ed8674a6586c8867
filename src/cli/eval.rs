//! `eval`.

use super::table::{Align, Table};
use super::{Context, device, human, models, tags};
use crate::error::{Error, Result};
use crate::experiment::{self, Experiment};
use crate::task;
use crate::train::task::Task;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo eval resnet34_ls                                        a run's best checkpoint on its validation data
  resnet-zoo eval experiments/resnet34_ls.yaml --weights my.pth      a file on an experiment's data
  resnet-zoo eval resnet34_ls --weights a1_in1k                      published weights, by their tag

JSON: {model, weights, samples, metrics: {\"val.loss\", \"val.top1\", ..}, seconds}; rates lie between 0 and 1.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A run, or an experiment's YAML file
    #[arg(value_name = "RUN|EXPERIMENT")]
    what: String,
    /// A checkpoint file or a weight tag; of a run, its best checkpoint where not given
    #[arg(long, value_name = "FILE|TAG")]
    weights: Option<String>,
    /// Override a value of the experiment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let device = device::choose(&arguments.device)?;
    let path = Path::new(&arguments.what);
    let is_file = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let (experiment, own) = if is_file {
        (experiment::load(path, &arguments.overrides)?.experiment, None)
    } else {
        of_run(arguments, context)?
    };
    let card = models::find(&experiment.model)?.card;
    let file = match (&arguments.weights, own) {
        (Some(weights), _) => match tags::find(card, weights) {
            Some(tag) => tags::fetch(tag)?.path,
            None => tags::file(card, weights)?,
        },
        (None, Some(own)) => own,
        (None, None) => {
            return Err(Error::input(
                "an experiment says what to train, not what came of it: pass --weights FILE or TAG",
            ));
        }
    };
    device::set_threads(arguments.threads)?;
    let task = task::of_file(&experiment, &file, &device)?;
    let begun = Instant::now();
    let metrics = task.evaluate(&mut |_| Ok(true))?.expect("an evaluation ends early only where it is told to");
    let seconds = begun.elapsed().as_secs_f64();
    let metrics: Vec<(String, f64)> = metrics.into_iter().map(|(name, value)| (format!("val.{name}"), value)).collect();
    if context.json {
        let metrics: Map<_, _> = metrics.into_iter().map(|(name, value)| (name, json!(value))).collect();
        return context.terminal.print_json(&json!({
            "model": experiment.model, "weights": file, "samples": task.samples().1, "metrics": metrics,
            "seconds": seconds,
        }));
    }
    let mut table = Table::new(&[("metric", Align::Left), ("value", Align::Right)], &context.terminal);
    for (name, value) in &metrics {
        table.row([name.clone(), human::metric(name, Some(*value))]);
    }
    context.terminal.print(&table.render())?;
    context.terminal.print(&format!(
        "{} with {} on {} samples in {}",
        experiment.model,
        file.display(),
        task.samples().1,
        human::duration(seconds)
    ))
}

/// A run's experiment, and its best weights.
fn of_run(arguments: &Arguments, context: &mut Context) -> Result<(Experiment, Option<PathBuf>)> {
    if !arguments.overrides.is_empty() {
        return Err(Error::input("--set changes an experiment's file; a run is evaluated as it was"));
    }
    let mut reader = context.reader()?;
    let listing = reader.find(&arguments.what)?;
    let detail = reader.detail(listing)?;
    let experiment = Experiment::from_canonical(&detail.canonical)?;
    if arguments.weights.is_some() {
        return Ok((experiment, None));
    }
    let blobs = context.location.blobs();
    Ok((experiment, Some(blobs.verified(&detail.best_checkpoint()?.weights_sha256)?)))
}
