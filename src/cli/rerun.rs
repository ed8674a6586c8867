//! `rerun`.

use super::expected::{Expected, at};
use super::run::{Run, new_run, origin};
use super::run_detail::{flatten, short};
use super::{Context, device, tags};
use crate::error::{Error, Result};
use crate::experiment::{self, Experiment, Loaded};
use crate::registry::run::{CheckpointRecord, Origin, RunDetail};
use crate::registry::store::{Agreement, short_id};
use crate::registry::{Build, Process, RunState};
use crate::task::{Classify, Fetched, NotFetched};
use crate::train::task::Task;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use zoo::WeightCard;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo rerun resnet34_ls                   train once more what the newest run of that name trained
  resnet-zoo rerun 2e3f4a5b --verify             and say whether it came out the same, bit for bit
  resnet-zoo rerun 2e3f4a5b --verify --json | tail -n 1 | jq '.identical, .metrics.first'

The experiment's and the model's text, overrides and seed are those that the run stored, not the files on the disk.
What cannot be the same any more (data, weights, build, vector instructions, device) is said before the first step.
Threads never matter.

Exit codes of --verify: 0 identical (also where both failed alike), 1 different, 2 wrong input, 130 or 143 interrupted.
JSON: that of `run`, with {event: \"rerun\", of, changes: [{what, then, now}]} before it and, with --verify,
{event: \"differs\", step, metric, a, b} as soon as a value does, and {event: \"verified\", of, id, identical,
metrics: {values, different, first}, weights, ended} after it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Id, short id or name of a run
    run: String,
    /// Compare every metric and the weights with the run's, bit for bit; the first other value is told at once
    #[arg(long)]
    verify: bool,
    /// What to call the new run; the run's name and `-rerun` where not given
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
    let mut reader = context.reader()?;
    let listing = reader.find(&arguments.run)?;
    let original = reader.detail(listing)?;
    let (uid, state) = (&original.listing.id, original.listing.state);
    if arguments.verify && matches!(state, RunState::Queued | RunState::Running | RunState::Unknown) {
        return Err(Error::input(format!("the run {uid} is {state}: it can be verified once it has ended")));
    }

    let expected = arguments.verify.then(|| Expected::of(&original.listing, &mut reader)).transpose()?;
    drop(reader);
    let loaded = stored_experiment(&original)?;
    let threads = device::set_threads(arguments.threads)?;
    let mut fetch = |card: &WeightCard| same_weights(&original, card);
    let task = Classify::new(&loaded.experiment, &device, Some(&mut fetch))?;
    let changes = changes(&original, &loaded.experiment, &task, &device::name(&device))?;
    announce(&original, &changes, context)?;

    let name = arguments.name.clone().unwrap_or_else(|| name_of_rerun(&original.listing.name));
    // The stored names are those of another time, and may be those of another machine.
    let origin = Origin { rerun_of: Some(uid.clone()), ..origin(&[]) };
    let new_run = new_run(name, &loaded, original.overrides.clone(), &task, origin)?;
    let again = uuid::Uuid::now_v7().to_string();
    let run = Run { device, threads, pause: None, profile: arguments.profile, expected };
    let result = run.train(&again, &new_run, &loaded.experiment, &task, context);
    if !arguments.verify || matches!(result, Err(Error::Interrupted { .. })) {
        return result;
    }
    let verdict = Verdict::of(uid, &again, context)?;
    verdict.print(context)?;
    match verdict.identical {
        true => Ok(()),
        false => Err(Error::failed(format!("the rerun {} differs from {}", short_id(&again), short_id(uid)))),
    }
}

/// `x-rerun` of `x`, and of `x-rerun`.
fn name_of_rerun(name: &str) -> String {
    format!("{}-rerun", name.strip_suffix("-rerun").unwrap_or(name))
}

/// The experiment that the run's files say, with its overrides.
fn stored_experiment(run: &RunDetail) -> Result<Loaded> {
    let files: Vec<(String, String)> = run.files.iter().map(|file| (file.name.clone(), file.text.clone())).collect();
    experiment::load_stored(&files, &run.overrides).map_err(|error| {
        let id = short_id(&run.listing.id);
        Error::input(format!(
            "{error}\nthis version does not read what the run {id} stored; `runs show {id} --files` prints it"
        ))
    })
}

/// The weights that the run had: the same file, or none where they could not be had then.
fn same_weights(run: &RunDetail, card: &WeightCard) -> std::result::Result<Fetched, NotFetched> {
    if run.weights.get("unavailable").is_some_and(Value::is_string) {
        let id = short_id(&run.listing.id);
        return Err(NotFetched::Unavailable(Error::failed(format!("the run {id} could not have them either"))));
    }
    tags::fetch(card)
}

/// Something that a rerun does not have as the run had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Change {
    what: String,
    then: String,
    now: String,
}

fn changes(run: &RunDetail, experiment: &Experiment, task: &Classify, device: &str) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut compare = |what: &str, then: &str, now: &str| {
        if then != now {
            changes.push(Change { what: what.to_owned(), then: then.to_owned(), now: now.to_owned() });
        }
    };
    let then: BTreeMap<String, String> = flatten(&run.config).into_iter().collect();
    // Through the text, as the stored one came, so that no number differs by the way it was read.
    let now: Value = serde_json::from_str(&experiment.canonical()).expect("canonical text is JSON");
    let now: BTreeMap<String, String> = flatten(&now).into_iter().collect();
    for key in then.keys().chain(now.keys().filter(|key| !then.contains_key(*key))) {
        let of = |config: &BTreeMap<String, String>| config.get(key).cloned().unwrap_or_else(|| "-".to_owned());
        compare(key, &of(&then), &of(&now));
    }
    let card = super::models::find(&experiment.model)?.card;
    compare("(spec)", short(&run.spec_sha256), short(card.spec_sha256));
    let weights = run.weights.get("sha256").and_then(Value::as_str);
    compare("(weights)", weights.map_or("-", short), task.weights.sha256.as_deref().map_or("-", short));
    compare("(data)", short(&run.data_sha256), short(task.data_sha256()));

    let (build, first) = (&run.build, run.attempts.first());
    let sources = first.and_then(|attempt| attempt.sources_sha256.as_deref());
    let commit = |sha: &str, dirty: bool| format!("{}{}", short(sha), if dirty { " + changes" } else { "" });
    match sources {
        Some(sources) => compare("(sources)", short(sources), short(Build::CURRENT.sources_sha256)),
        None => {
            let now = commit(Build::CURRENT.git_sha, Build::CURRENT.dirty);
            compare("(build)", &commit(&build.git_sha, build.dirty), &now);
        }
    }
    compare("(dependencies)", short(&build.lock_sha256), short(Build::CURRENT.lock_sha256));
    compare("(compiler)", &build.rustc, Build::CURRENT.rustc);
    compare("(target)", &build.target, Build::CURRENT.target);
    compare("(features)", &build.features, Build::CURRENT.features);
    if let Some(first) = first {
        let process = Process::current();
        match &first.isa {
            Some(isa) => compare("(vector instructions)", isa, process.isa),
            None => compare("(processor)", &first.cpu, &process.cpu),
        }
        compare("(device)", &first.device, device);
    }
    Ok(changes)
}

/// Says what runs again, and what cannot be the same.
fn announce(run: &RunDetail, changes: &[Change], context: &mut Context) -> Result<()> {
    let listing = &run.listing;
    if context.json {
        return context.terminal.print_json_line(&json!({"event": "rerun", "of": listing.id, "changes": changes}));
    }
    context.terminal.print(&format!("runs {} {} again", listing.name, short_id(&listing.id)))?;
    if !changes.is_empty() {
        context.terminal.heading("not as it was then:")?;
        let width = changes.iter().map(|change| change.what.len()).max().unwrap_or(0);
        for Change { what, then, now } in changes {
            context.terminal.print(&format!("  {what:width$}  {then} -> {now}"))?;
        }
    }
    Ok(())
}

/// Whether a rerun came out as the run did.
#[derive(Debug, Serialize)]
struct Verdict {
    event: &'static str,
    of: String,
    id: String,
    identical: bool,
    metrics: Agreement,
    /// Of each checkpoint that both kept.
    weights: Vec<WeightsPair>,
    /// How the run ended and how the rerun did.
    ended: [String; 2],
}

#[derive(Debug, Serialize)]
struct WeightsPair {
    step: u64,
    role: String,
    /// sha256 of the run's weights.
    a: String,
    /// Of the rerun's.
    b: String,
}

impl Verdict {
    fn of(uid: &str, again: &str, context: &Context) -> Result<Self> {
        let mut reader = context.reader()?;
        let mut detail = |uid: &str| -> Result<RunDetail> {
            let listing = reader.find(uid)?;
            reader.detail(listing)
        };
        let (a, b) = (detail(uid)?, detail(again)?);
        let metrics = reader.agreement(&a.listing, &b.listing)?;
        let weights = common_weights(&a.checkpoints, &b.checkpoints);
        let ended = [&a, &b].map(|run| match &run.listing.reason {
            Some(reason) => format!("{} after {} steps: {reason}", run.listing.state, run.listing.steps),
            None => format!("{} after {} steps", run.listing.state, run.listing.steps),
        });
        // What stopped from outside may stop elsewhere.
        let by_itself = matches!(a.listing.state, RunState::Completed | RunState::Failed);
        let identical = metrics.values > 0
            && metrics.different == 0
            && weights.iter().all(|pair| pair.a == pair.b)
            && (!by_itself || ended[0] == ended[1]);
        let (of, id) = (uid.to_owned(), again.to_owned());
        Ok(Verdict { event: "verified", of, id, identical, metrics, weights, ended })
    }

    fn print(&self, context: &mut Context) -> Result<()> {
        if context.json {
            return context.terminal.print_json_line(self);
        }
        let Agreement { values, different, first } = &self.metrics;
        let id = short_id(&self.of);
        context.terminal.heading(&format!("\n{}", if self.identical { "identical" } else { "different" }))?;
        context.terminal.print(&match first {
            None => format!("  metrics: {values} values equal those of {id}, bit for bit"),
            Some(first) => {
                format!("  metrics: {different} of {values} values differ from those of {id}, first {}", at(first))
            }
        })?;
        for WeightsPair { step, role, a, b } in &self.weights {
            let verdict =
                if a == b { short(a).to_owned() } else { format!("{} was {}: they differ", short(b), short(a)) };
            context.terminal.print(&format!("  weights of step {} ({role}): {verdict}", step + 1))?;
        }
        if self.weights.is_empty() {
            context.terminal.print("  weights: no checkpoint of the same step was kept of both")?;
        }
        if self.ended[0] != self.ended[1] {
            context.terminal.print(&format!("  it was {}, and is {} now", self.ended[0], self.ended[1]))?;
        }
        Ok(())
    }
}

fn common_weights(a: &[CheckpointRecord], b: &[CheckpointRecord]) -> Vec<WeightsPair> {
    let pair = |a: &CheckpointRecord| {
        let b = b.iter().find(|b| b.step == a.step && b.role == a.role)?;
        let (role, a, b) = (a.role.clone(), a.weights_sha256.clone(), b.weights_sha256.clone());
        Some((role, a, b))
    };
    let pairs = a.iter().filter_map(|record| Some((record.step, pair(record)?)));
    pairs.map(|(step, (role, a, b))| WeightsPair { step, role, a, b }).collect()
}
