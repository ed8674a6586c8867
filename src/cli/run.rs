//! `run`.

use super::session::Session;
use super::{Context, device, models, tags};
use crate::error::Result;
use crate::experiment;
use crate::registry::store::Start;
use crate::registry::{Build, NewRun, Process, Recorder};
use crate::task::Classify;
use crate::train::checkpoint;
use crate::train::task::Task;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo run experiments/resnet34_ls.yaml
  resnet-zoo run experiments/resnet34_ls.yaml --set optimizer.sgd.lr=0.05 --set epochs=5 --name lr-0.05
  resnet-zoo run experiments/resnet34_ls.yaml --seed 1 --device cpu --threads 2
  resnet-zoo run experiments/resnet34_ls.yaml --set steps=20 --profile
  resnet-zoo run experiments/resnet34_ls.yaml --json | jq -c 'select(.event == \"evaluated\") | .metrics'

Ctrl-C (or SIGTERM) finishes the step, saves and exits with 130 (143); `resnet-zoo resume RUN` goes on. A second one
ends at once.
JSON: one object a line, with `event`: run, started, step, evaluated, checkpoint, warning, profile, ended;
steps count from 0.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The experiment's YAML file
    experiment: PathBuf,
    /// Override a value of the experiment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The seed of all randomness; the same as --set seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What to call the run; the experiment's name where not given
    #[arg(long)]
    name: Option<String>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Say at the end where the time went
    #[arg(long)]
    profile: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let device = device::choose(&arguments.device)?;
    let mut overrides = arguments.overrides.clone();
    overrides.extend(arguments.seed.map(|seed| format!("seed={seed}")));
    let loaded = experiment::load(&arguments.experiment, &overrides)?;
    let experiment = &loaded.experiment;
    let threads = device::set_threads(arguments.threads)?;
    let task = Classify::new(experiment, &device, Some(&mut tags::fetch))?;

    let card = models::find(&experiment.model)?.card;
    let files = loaded.sources.iter().filter(|source| source.name != "--set");
    let new_run = NewRun {
        name: arguments.name.clone().unwrap_or_else(|| experiment.name.clone()),
        experiment: experiment.name.clone(),
        files: files.map(|source| (source.name.clone(), source.text.clone())).collect(),
        overrides,
        config: experiment.to_json(),
        provenance: json!(loaded.provenance),
        model: card.name.to_owned(),
        spec_files: card.sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        spec_sha256: card.spec_sha256.to_owned(),
        weights: json!(task.weights),
        data_sha256: task.data_sha256().to_owned(),
        classes: task.classes().to_vec(),
        seed: experiment.seed,
    };
    let start = Start {
        process: Process::current(),
        build: Build::CURRENT,
        device: device::name(&device),
        threads,
        keep_last: experiment.checkpoint.keep_last,
    };
    let uid = uuid::Uuid::now_v7().to_string();
    let store = context.store()?;
    store.blobs().preflight(checkpoint::size(experiment, task.params()))?;
    let warnings = store.warning().into_iter().collect();
    let recorder = Recorder::create(store, &uid, &new_run, &start)?;
    context.announce(&uid, &new_run.name, card.name, &start)?;
    if !context.json {
        let weights = &task.weights;
        let loaded = if weights.sha256.is_some() { format!(": {}", weights.report) } else { String::new() };
        context.terminal.print(&format!("weights from {}{loaded}", weights.from))?;
    }
    Session { experiment, resume: None, warnings, exact: true, profile: arguments.profile }
        .train(&task, recorder, context)
}
