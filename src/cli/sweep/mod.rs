//! `sweep`: an experiment again and again with other values, several processes at once.

mod bars;
mod child;

use super::table::{Align, Table};
use super::{Context, human, signals};
use crate::error::{Error, Result};
use crate::experiment::{self, Length, Mode};
use crate::registry::filter::{Comparison, Field, Filter, Operand, Test, Value};
use crate::registry::lease::Lease;
use crate::registry::run::RunListing;
use crate::registry::store::{Selection, short_id};
use crate::registry::{Reader, RunState};
use crate::sweep::{self, Planned, Rung, Trial};
use bars::Bars;
use child::{Child, News, Work};
use serde_json::{Map, json};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Memory};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo sweep sweeps/resnet34_lr.yaml
  resnet-zoo sweep sweeps/resnet34_lr.yaml --processes 2 --threads 1
  resnet-zoo sweep sweeps/resnet34_lr.yaml --dry-run
  resnet-zoo runs ls 'group = \"resnet34_lr\"' --sort 'val.top1 desc'

Each trial is a run of its own, in the sweep's group, called NAME.0, NAME.1, .. The same command again goes on: what is
done stays, what was interrupted or crashed is resumed bit for bit, and what failed is not tried again. Values depend on
the file alone. Ctrl-C lets the running trials save. docs/sweep.md says what a file can hold.
JSON: one object a line, with `event`: sweep, trial, rung, ended.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The sweep's YAML file
    sweep: PathBuf,
    /// What to call the sweep, the group of its runs; the file's name for it where not given
    #[arg(long)]
    name: Option<String>,
    /// So many trials at once; the file's number where not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    processes: Option<u16>,
    /// CPU threads of each process; 0 divides the cores among them
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    #[arg(long, default_value = "auto", help = super::device::HELP)]
    device: String,
    /// Say what would run, and run nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut planned = sweep::plan(&arguments.sweep)?;
    if let Some(name) = &arguments.name {
        rename(&mut planned, name)?;
    }
    let processes = arguments.processes.map_or(planned.sweep.processes, usize::from);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if arguments.threads == 0 { (cores / processes).max(1) } else { arguments.threads };
    announce(&planned, processes, threads, context)?;
    if arguments.dry_run {
        return dry_run(&planned, context);
    }
    // Creates the registry, so that children find one.
    drop(context.store()?);
    let folder = context.location.folder().join(format!("sweep-{}", planned.sweep.name));
    let lease = alone(&folder, &planned.sweep.name, context)?;
    let (sender, inbox) = channel();
    let mut driver = Driver {
        planned: &planned,
        processes,
        work: Work {
            threads,
            device: arguments.device.clone(),
            registry: context.location.for_child(),
            group: planned.sweep.name.clone(),
            lease,
        },
        reader: context.reader()?,
        running: Vec::new(),
        signal: signals::listen()?,
        sender,
        inbox,
        bars: Bars::new(),
    };
    driver.run(context)
}

/// How long a sweep waits for the trials of one that was killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The right to work on a sweep. Children share it: those of a sweep that was killed keep it until they have saved.
fn alone(folder: &Path, name: &str, context: &mut Context) -> Result<Lease> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        match Lease::take(folder) {
            Err(Error::Input(_)) if begun.elapsed() < PATIENCE => {
                if !std::mem::replace(&mut said, true) {
                    context.say("waiting for another sweep of this name, or for what a killed one left to save")?;
                }
            }
            Err(Error::Input(_)) => {
                return Err(Error::input(format!(
                    "another process works on the sweep {name}; wait for it, or stop it"
                )));
            }
            other => return other,
        }
    }
}

/// Gives the sweep and its trials another name.
fn rename(planned: &mut Planned, name: &str) -> Result<()> {
    if !experiment::is_name(name) {
        return Err(Error::input(format!(
            "{name:?} is no name: write letters, digits, `_`, `-` or `.`, a letter first"
        )));
    }
    for trial in &mut planned.trials {
        trial.name = format!("{name}{}", &trial.name[planned.sweep.name.len()..]);
    }
    name.clone_into(&mut planned.sweep.name);
    Ok(())
}

fn announce(planned: &Planned, processes: usize, threads: usize, context: &mut Context) -> Result<()> {
    let (name, trials) = (&planned.sweep.name, planned.trials.len());
    if context.json {
        return context.terminal.print_json_line(&json!({
            "event": "sweep", "name": name, "experiment": planned.sweep.experiment, "trials": trials,
            "processes": processes, "threads": threads, "metric": planned.metric,
        }));
    }
    let experiment = planned.sweep.experiment.display();
    let at_once = if processes == 1 { "one at a time".to_owned() } else { format!("{processes} at once") };
    let threads = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    context.terminal.print(&format!("sweep {name}: {trials} trials of {experiment}, {at_once} with {threads}"))
}

fn dry_run(planned: &Planned, context: &mut Context) -> Result<()> {
    for trial in &planned.trials {
        if context.json {
            context.terminal.print_json_line(&json!({
                "event": "trial", "trial": trial.number, "name": trial.name, "values": values(trial), "state": null,
            }))?;
        } else {
            context.terminal.print(&format!("  {}  {}", trial.name, trial.overrides.join(" ")))?;
        }
    }
    for (number, rung) in planned.rungs.iter().enumerate().filter(|_| planned.rungs.len() > 1 && !context.json) {
        let until = until_text(rung.until).unwrap_or_else(|| "the end".to_owned());
        context.terminal.print(&format!("rung {number}: {} trials to {until}", rung.trials))?;
    }
    Ok(())
}

fn values(trial: &Trial) -> Map<String, serde_json::Value> {
    trial.values.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
}

/// `optimizer.sgd.lr=0.1 label_smoothing=0`.
fn own_values(trial: &Trial) -> String {
    trial.values.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// As `--pause-after` takes it.
fn until_text(until: Option<Length>) -> Option<String> {
    Some(match until? {
        Length::Epochs(epochs) => format!("epochs={epochs}"),
        Length::Steps(steps) => format!("steps={steps}"),
    })
}

struct Driver<'a> {
    planned: &'a Planned,
    processes: usize,
    work: Work,
    reader: Reader,
    running: Vec<Child>,
    /// That came, 0 before.
    signal: Arc<AtomicUsize>,
    sender: Sender<News>,
    inbox: Receiver<News>,
    bars: Bars,
}

/// What became of a trial on a rung.
struct Standing<'a> {
    trial: &'a Trial,
    run: Option<RunListing>,
    /// The best value up to the rung; `None` of one that has none, or is not a number.
    score: Option<f64>,
}

impl<'a> Driver<'a> {
    fn run(&mut self, context: &mut Context) -> Result<()> {
        let planned = self.planned;
        let mut going: Vec<&Trial> = planned.trials.iter().collect();
        for (number, rung) in planned.rungs.iter().enumerate() {
            going.truncate(rung.trials);
            self.climb(&going, rung, context)?;
            let mut standings =
                going.iter().map(|trial| self.standing(trial, rung.until)).collect::<Result<Vec<_>>>()?;
            standings.sort_by(|a, b| better(a, b, planned.mode));
            going =
                standings.iter().filter(|standing| standing.score.is_some()).map(|standing| standing.trial).collect();
            if planned.rungs.len() > 1 {
                self.say_rung(number, &standings, context)?;
            }
            if going.is_empty() {
                break;
            }
        }
        self.conclude(context)
    }

    /// Brings all of `trials` to the end of a rung, several at once.
    fn climb(&mut self, trials: &[&'a Trial], rung: &Rung, context: &mut Context) -> Result<()> {
        let mut waiting = Vec::new();
        let mut done = 0;
        for trial in trials {
            if self.needs_work(trial, rung.until)? { waiting.push(*trial) } else { done += 1 }
        }
        waiting.reverse();
        self.bars.of_rung(trials.len() as u64, done);
        while !waiting.is_empty() || !self.running.is_empty() {
            let signal = self.signal.load(Memory::Relaxed);
            if signal != 0 {
                return self.stop(i32::try_from(signal).unwrap_or(i32::MAX), context);
            }
            while self.running.len() < self.processes
                && let Some(trial) = waiting.pop()
            {
                let run = self.find(trial)?;
                match run.as_ref().map(|run| run.state) {
                    // Of a sweep that was killed: it notices soon that nobody reads it, saves and ends.
                    Some(RunState::Unknown) => {
                        return Err(Error::failed(format!(
                            "nobody knows whether {} still runs on another host; stop it there, or archive it and take another --name",
                            trial.name
                        )));
                    }
                    Some(RunState::Running | RunState::Queued) => {
                        waiting.insert(0, trial);
                        break;
                    }
                    _ => self.start(trial, run.as_ref(), rung.until)?,
                }
            }
            match self.inbox.recv_timeout(Duration::from_millis(200)) {
                Ok(News::Event { trial, event }) => self.watch(trial, &event),
                Ok(News::Ended { trial, problem }) => self.ended(trial, problem, context)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        self.bars.clear();
        self.all_arrived(trials, rung)
    }

    /// A rung is judged when all of it is there: where a process died, that is for the next sweep to mend.
    fn all_arrived(&mut self, trials: &[&Trial], rung: &Rung) -> Result<()> {
        let mut missing = Vec::new();
        for trial in trials {
            if self.needs_work(trial, rung.until)? {
                missing.push(trial.name.as_str());
            }
        }
        match missing.as_slice() {
            [] => Ok(()),
            names => Err(Error::failed(format!(
                "{} of {} trials ended before their time: {}; the same command goes on with them",
                names.len(),
                trials.len(),
                names.join(", ")
            ))),
        }
    }

    fn start(&mut self, trial: &'a Trial, run: Option<&RunListing>, until: Option<Length>) -> Result<()> {
        let until = until_text(until);
        let mut child = match run {
            Some(run) => self.work.resume(trial, &run.id, until.as_deref(), self.sender.clone())?,
            None => {
                let experiment = &self.planned.sweep.experiment;
                self.work.run(trial, experiment, until.as_deref(), self.sender.clone())?
            }
        };
        child.bar = self.bars.of_trial(&trial.name, &own_values(trial));
        self.running.push(child);
        Ok(())
    }

    /// Lets the running trials save, and waits for them.
    fn stop(&mut self, signal: i32, context: &mut Context) -> Result<()> {
        self.bars.clear();
        context.say("stopping: the running trials save; the same command goes on")?;
        self.running.iter().for_each(Child::interrupt);
        for child in &mut self.running {
            child.wait();
        }
        Err(Error::Interrupted { signal })
    }

    /// Whether a trial has not come to the end of a rung yet, and may.
    fn needs_work(&mut self, trial: &Trial, until: Option<Length>) -> Result<bool> {
        let Some(run) = self.find(trial)? else { return Ok(true) };
        if run.state != RunState::Completed && run.state != RunState::Failed {
            return Ok(self.rung_end(&run, until)?.is_none());
        }
        Ok(false)
    }

    /// The trial's run, where there is one.
    fn find(&mut self, trial: &Trial) -> Result<Option<RunListing>> {
        let is = |field, text: &str| {
            Filter::Test(Operand::Field(field), Test::Compare(Comparison::Equal, Value::Text(text.to_owned())))
        };
        let filter = Filter::All(vec![is(Field::Group, &self.work.group), is(Field::Name, &trial.name)]);
        let selection = Selection { filter: Some(filter), sort: Vec::new(), archived: true };
        let page = self.reader.select(&selection)?.cut(0, Some(1));
        let Some(run) = self.reader.listings(&page)?.pop() else { return Ok(None) };
        let overrides = self.reader.detail(run.clone())?.overrides;
        if overrides != trial.overrides {
            return Err(Error::input(format!(
                "the sweep was another when {} ran: {} instead of {}; give it another --name",
                trial.name,
                overrides.join(" "),
                trial.overrides.join(" ")
            )));
        }
        Ok(Some(run))
    }

    /// The first evaluation at or after the end of a rung; of the last rung, where the run ended.
    fn rung_end(&mut self, run: &RunListing, until: Option<Length>) -> Result<Option<u64>> {
        let Some(until) = until else { return Ok(None) };
        let per_epoch = run.plan.as_ref().and_then(|plan| plan.get("steps_per_epoch")?.as_u64()).unwrap_or(u64::MAX);
        let steps = match until {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => epochs.saturating_mul(per_epoch),
        };
        let points = self.reader.points(run, &self.planned.metric)?;
        Ok(points.iter().map(|point| point.step).find(|step| step + 1 >= steps))
    }

    /// How good a trial is by what it did up to the end of a rung, whatever it did since.
    fn standing(&mut self, trial: &'a Trial, until: Option<Length>) -> Result<Standing<'a>> {
        let Some(run) = self.find(trial)? else { return Ok(Standing { trial, run: None, score: None }) };
        let end = self.rung_end(&run, until)?.unwrap_or(u64::MAX);
        let points = self.reader.points(&run, &self.planned.metric)?;
        let values =
            points.iter().filter(|point| point.step <= end && point.value.is_finite()).map(|point| point.value);
        let score = match self.planned.mode {
            Mode::Min => values.min_by(f64::total_cmp),
            Mode::Max => values.max_by(f64::total_cmp),
        };
        // A run that failed does not go on, however good it was.
        let score = score.filter(|_| run.state != RunState::Failed || until.is_none());
        Ok(Standing { trial, run: Some(run), score })
    }

    /// Shows what the running trials do.
    fn watch(&mut self, trial: usize, event: &serde_json::Value) {
        let Some(child) = self.running.iter_mut().find(|child| child.trial == trial) else { return };
        child.take(event, &self.planned.metric);
    }

    fn ended(&mut self, number: usize, problem: Option<String>, context: &mut Context) -> Result<()> {
        if let Some(at) = self.running.iter().position(|child| child.trial == number) {
            self.running.remove(at).wait();
            self.bars.one_more();
        }
        let trial = &self.planned.trials[number];
        let Some(run) = self.find(trial)? else {
            // It never came so far as to be recorded: the next ones would not either.
            self.running.iter().for_each(Child::interrupt);
            let problem = problem.unwrap_or_else(|| "it said nothing".to_owned());
            return Err(Error::failed(format!("trial {} could not begin: {problem}", trial.name)));
        };
        let best = run.metrics.get(&self.planned.metric).and_then(|metric| metric.best);
        if context.json {
            return context.terminal.print_json_line(&json!({
                "event": "trial", "trial": number, "name": trial.name, "values": values(trial), "id": run.id,
                "state": run.state, "reason": run.reason, "steps": run.steps, "metric": best,
            }));
        }
        let why = run.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        let metric = human::metric(&self.planned.metric, best);
        let text = format!(
            "{}  {}  {}  {} {metric}  {}{why}",
            trial.name,
            short_id(&run.id),
            own_values(trial),
            self.planned.metric,
            run.state
        );
        self.bars.aside(|| context.terminal.print(&text))
    }

    fn say_rung(&self, number: usize, standings: &[Standing<'_>], context: &mut Context) -> Result<()> {
        let next = self.planned.rungs.get(number + 1).map_or(0, |rung| rung.trials);
        let going = standings.iter().filter(|standing| standing.score.is_some()).take(next);
        let names: Vec<&str> = going.map(|standing| standing.trial.name.as_str()).collect();
        if context.json {
            let ranked: Vec<_> = standings
                .iter()
                .map(|standing| json!({"trial": standing.trial.number, "metric": standing.score}))
                .collect();
            return context
                .terminal
                .print_json_line(&json!({"event": "rung", "rung": number, "ranked": ranked, "going_on": names}));
        }
        match names.is_empty() {
            true => Ok(()),
            false => context.terminal.print(&format!("rung {number}: {} go on: {}", names.len(), names.join(", "))),
        }
    }

    /// All trials, the best first.
    fn conclude(&mut self, context: &mut Context) -> Result<()> {
        let planned = self.planned;
        let mut standings =
            planned.trials.iter().map(|trial| self.standing(trial, None)).collect::<Result<Vec<_>>>()?;
        standings.sort_by(|a, b| better(a, b, planned.mode));
        if context.json {
            let trials = standings.iter().map(|standing| {
                let run = standing.run.as_ref();
                json!({
                    "trial": standing.trial.number, "name": standing.trial.name, "values": values(standing.trial),
                    "id": run.map(|run| &run.id), "state": run.map(|run| run.state),
                    "steps": run.map(|run| run.steps), "metric": standing.score,
                })
            });
            context.terminal.print_json_line(&json!({
                "event": "ended", "name": planned.sweep.name, "metric": planned.metric,
                "trials": trials.collect::<Vec<_>>(),
            }))?;
        } else {
            context.terminal.print(&format!("\n{}", table(planned, &standings, context)))?;
            context
                .terminal
                .print(&format!("\nnext:\n  resnet-zoo runs compare --where 'group = \"{}\"'", planned.sweep.name))?;
        }
        if standings.iter().all(|standing| standing.score.is_none()) {
            return Err(Error::failed(format!("no trial of the sweep has a value of {}", planned.metric)));
        }
        Ok(())
    }
}

fn table(planned: &Planned, standings: &[Standing<'_>], context: &Context) -> String {
    let mut columns = vec![("trial", Align::Left), ("id", Align::Left)];
    let keys = planned.trials[0].values.iter().map(|(key, _)| (key.as_str(), Align::Right));
    columns.extend(keys);
    let best = format!("best {}", planned.metric);
    columns.extend([(best.as_str(), Align::Right), ("steps", Align::Right), ("state", Align::Left)]);
    let mut table = Table::new(&columns, &context.terminal);
    for Standing { trial, run, score } in standings {
        let of_run = |text: fn(&RunListing) -> String| run.as_ref().map_or_else(|| "-".to_owned(), text);
        let mut row = vec![trial.name.clone(), of_run(|run| short_id(&run.id).to_owned())];
        row.extend(trial.values.iter().map(|(_, value)| value.clone()));
        row.push(human::metric(&planned.metric, *score));
        row.push(of_run(|run| run.steps.to_string()));
        row.push(of_run(|run| run.state.to_string()));
        table.row(row);
    }
    table.render()
}

/// The better one first; what has no value last; else in the order of the file.
fn better(a: &Standing<'_>, b: &Standing<'_>, mode: Mode) -> Ordering {
    let by_score = match (a.score, b.score) {
        (Some(a), Some(b)) => match mode {
            Mode::Min => a.total_cmp(&b),
            Mode::Max => b.total_cmp(&a),
        },
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    by_score.then(a.trial.number.cmp(&b.trial.number))
}
