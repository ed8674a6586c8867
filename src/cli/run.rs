//! `run`.

use super::expected::Expected;
use super::session::Session;
use super::{Context, device, environment, models, tags};
use crate::data::sample_list;
use crate::error::Result;
use crate::experiment::{self, Experiment, Length, Loaded};
use crate::registry::run::Origin;
use crate::registry::store::Start;
use crate::registry::{Annotations, Build, Code, NewRun, Process, Recorder};
use crate::task::Classify;
use crate::train::checkpoint;
use crate::train::task::Task;
use candle_core::Device;
use resnet_codegen::diagnostic::Source;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo run experiments/resnet34_ls.yaml
  resnet-zoo run experiments/resnet34_ls.yaml --set optimizer.sgd.lr=0.05 --set epochs=5 --name lr-0.05
  resnet-zoo run experiments/resnet34_ls.yaml --seed 1 --device cpu --threads 2
  resnet-zoo run experiments/resnet34_ls.yaml --tag baseline --group seeds --note \"before the new schedule\"
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
    /// A word by which it is found again; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// What it belongs to, together with others
    #[arg(long)]
    group: Option<String>,
    /// A text for people
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Save and end after the first evaluation at or after so many steps or epochs; `resume` goes on
    #[arg(long, value_name = "epochs=N|steps=N", value_parser = length)]
    pause_after: Option<Length>,
    /// Say at the end where the time went
    #[arg(long)]
    profile: bool,
}

/// Reads `epochs=2` or `steps=100`.
pub(super) fn length(text: &str) -> std::result::Result<Length, String> {
    let number = |digits: &str| digits.parse().ok().filter(|number| *number > 0);
    let read = match text.split_once('=') {
        Some(("epochs", digits)) => number(digits).map(Length::Epochs),
        Some(("steps", digits)) => number(digits).map(Length::Steps),
        _ => None,
    };
    read.ok_or_else(|| "write epochs=N or steps=N, with a number above 0".to_owned())
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let annotations =
        Annotations { tags: arguments.tags.clone(), group: arguments.group.clone(), note: arguments.note.clone() };
    let annotations = annotations.checked()?;
    let device = device::choose(&arguments.device)?;
    let mut overrides = arguments.overrides.clone();
    overrides.extend(arguments.seed.map(|seed| format!("seed={seed}")));
    let loaded = experiment::load(&arguments.experiment, &overrides)?;
    let threads = device::set_threads(arguments.threads)?;
    let task = Classify::new(&loaded.experiment, &device, Some(&mut tags::fetch))?;
    let name = arguments.name.clone().unwrap_or_else(|| loaded.experiment.name.clone());
    let paths: Vec<PathBuf> = written_files(&loaded).map(|source| PathBuf::from(&source.name)).collect();
    let (run, origin) = (
        Run { device, threads, pause: arguments.pause_after, profile: arguments.profile, expected: None },
        origin(&paths),
    );
    let new_run = NewRun { annotations, ..new_run(name, &loaded, overrides, &task, origin)? };
    run.train(&uuid::Uuid::now_v7().to_string(), &new_run, &loaded.experiment, &task, context)
}

/// Where a run of these files comes from; without any, git is asked about the current directory.
pub(super) fn origin(files: &[PathBuf]) -> Origin {
    Origin { code: Some(Code::of(files)), environment: environment::recorded(), rerun_of: None }
}

/// All that is recorded of a run before its first step.
pub(super) fn new_run(
    name: String,
    loaded: &Loaded,
    overrides: Vec<String>,
    task: &Classify,
    origin: Origin,
) -> Result<NewRun> {
    let experiment = &loaded.experiment;
    let card = models::find(&experiment.model)?.card;
    Ok(NewRun {
        name,
        experiment: experiment.name.clone(),
        files: written_files(loaded).map(|source| (source.name.clone(), source.text.clone())).collect(),
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
        origin,
        annotations: Annotations::default(),
    })
}

/// The experiment and what it extends, without the overrides.
fn written_files(loaded: &Loaded) -> impl Iterator<Item = &Source> {
    loaded.sources.iter().filter(|source| source.name != "--set")
}

/// How a run is carried out.
pub(super) struct Run {
    pub device: Device,
    pub threads: usize,
    pub pause: Option<Length>,
    pub profile: bool,
    pub expected: Option<Expected>,
}

impl Run {
    /// Records and trains a new run, whose id is `uid`.
    pub fn train(
        self,
        uid: &str,
        new_run: &NewRun,
        experiment: &Experiment,
        task: &Classify,
        context: &mut Context,
    ) -> Result<()> {
        let start = Start {
            process: Process::current(),
            build: Build::CURRENT,
            device: device::name(&self.device),
            threads: self.threads,
            keep_last: experiment.checkpoint.keep_last,
        };
        let mut store = context.store()?;
        store.blobs().preflight(checkpoint::size(experiment, task.params()))?;
        let warnings = store.warning().into_iter().collect();
        let (train, val) = (task.train.dataset(), task.val.dataset());
        if !store.keep_samples(&task.data_sha256, || sample_list(train, val))? {
            context.say("the list of samples is too long to be kept: `runs diff` will not say which ones differ")?;
        }
        let recorder = Recorder::create(store, uid, new_run, &start)?;
        context.announce(uid, &new_run.name, &new_run.model, &start)?;
        if !context.json {
            let weights = &task.weights;
            let loaded = if weights.sha256.is_some() { format!(": {}", weights.report) } else { String::new() };
            context.terminal.print(&format!("weights from {}{loaded}", weights.from))?;
        }
        if let Some(code) = &new_run.origin.code {
            context.say(&format!("code: {}", code.summary()))?;
        }
        let Run { pause, profile, expected, .. } = self;
        Session { experiment, resume: None, warnings, exact: true, pause, profile, expected }
            .train(task, recorder, context)
    }
}
