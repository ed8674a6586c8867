//! The command line: one file a command.
//!
//! Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 74 the registry's disk is full, read-only or broken, or its server out of reach, 130
//! and 143 interrupted by SIGINT and SIGTERM.

mod annotate;
mod bench;
mod check;
mod chosen;
mod compare;
mod device;
mod diff;
mod environment;
mod eval;
mod expected;
mod export;
mod gc;
#[cfg(feature = "hub")]
mod hub;
mod human;
mod import;
mod latex;
mod listing;
mod models;
mod network;
mod plot;
mod predict;
mod profile;
mod progress;
mod publish;
mod pull;
mod rerun;
mod resume;
mod run;
mod run_detail;
mod session;
mod show;
mod signals;
mod specs;
mod sql;
mod sweep;
mod table;
mod tags;
mod terminal;
mod watch;
mod web;

use crate::error::{Error, Result};
use crate::registry::store::{PATIENCE, Start, short_id};
use crate::registry::{Clock, Location, Reader, Store};
use clap::{Args, ColorChoice, Parser, Subcommand};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use terminal::Terminal;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo models                                the architectures, with parameters and MACs
  resnet-zoo run experiments/resnet34_ls.yaml      train, with a progress bar, and record the run
  resnet-zoo runs ls                               what ran, with its best accuracy
  resnet-zoo runs compare resnet34_ls resnet34     what differs: settings, then results
  resnet-zoo predict resnet34 --weights best.safetensors cat.jpg

Exit codes: 0 done, 1 failed, 2 wrong input, 74 the registry's disk or server fails, 130 interrupted by Ctrl-C, 143 by
SIGTERM.";

/// Fine-tune ResNets that are described in YAML, and never lose or confuse a result.
#[derive(Debug, Parser)]
#[command(name = "resnet-zoo", version, after_help = EXAMPLES, arg_required_else_help = true, color = ColorChoice::Auto)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Globals {
    /// The registry's SQLite file, checkpoints beside it; or postgres://USER@HOST:PORT/DATABASE
    #[arg(long, global = true, value_name = "PATH", default_value = "runs/registry.sqlite3")]
    registry: PathBuf,
    /// With a PostgreSQL server, the folder of checkpoints: runs/DATABASE where none is named
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    artifacts: Option<PathBuf>,
    /// Seconds to wait for a locked registry; a run then writes to a file beside it, and goes on
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(), hide_short_help = true)]
    lock_timeout: u64,
    /// Use the registry although it lies on a network filesystem, without SQLite's write-ahead log
    #[arg(long, global = true, hide_short_help = true)]
    network_filesystem: bool,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

impl Globals {
    fn location(&self) -> Result<Location> {
        let location = Location::parse(&self.registry, self.artifacts.as_deref())?;
        if self.network_filesystem && location.file().is_none() {
            return Err(Error::input(
                "--network-filesystem is for a registry in a SQLite file; a PostgreSQL server needs none of it",
            ));
        }
        Ok(location.on_network(self.network_filesystem))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train what an experiment says, and record it
    Run(run::Arguments),
    /// Go on with a run that was interrupted, failed or crashed
    Resume(resume::Arguments),
    /// Run again what a run stored, and verify that it comes out the same
    Rerun(rerun::Arguments),
    /// Run an experiment again and again with other values: grid, random, successive halving
    Sweep(sweep::Arguments),
    /// List the architectures
    Models(models::Arguments),
    /// Show a model layer by layer, its generated code, or a run
    Show(show::Arguments),
    /// Check specs and experiments: every mistake at once
    Check(check::Arguments),
    /// Download published weights, verified
    Pull(pull::Arguments),
    /// Classify images
    Predict(predict::Arguments),
    /// Measure a run's or a file's weights on validation data
    Eval(eval::Arguments),
    /// What ran: list, show, compare
    #[command(subcommand)]
    Runs(Runs),
    /// Write a run into a file for other machines and programs
    Export(export::Arguments),
    /// Take over runs of another registry or of MLflow
    Import(import::Arguments),
    /// Publish a run's weights with a model card: to the Hugging Face Hub, or a folder of its layout
    Publish(publish::Arguments),
    /// Follow a run on the terminal: curves, speed, time left
    Watch(watch::Arguments),
    /// Write runs down as one web page, with tables for papers beside it
    Report(web::report::Arguments),
    /// Show the registry as a web page on this machine, with live curves
    Serve(web::serve::Arguments),
    /// Ask the registry in SQL, read-only
    Sql(sql::Arguments),
    /// Remove what no run needs any more
    Gc(gc::Arguments),
    /// Measure how fast this machine trains and predicts
    #[command(subcommand, after_help = bench::EXAMPLES)]
    Bench(bench::Bench),
}

#[derive(Debug, Subcommand)]
enum Runs {
    /// List runs: filtered, sorted, in pages
    Ls(listing::Arguments),
    /// Show everything about one run
    Show(run_detail::Arguments),
    /// Compare runs: the settings that differ, then the results
    Compare(compare::Arguments),
    /// Why two runs differ, layer by layer, and where their metrics part
    Diff(diff::Arguments),
    /// Give runs a tag, by which they are found again
    Tag(annotate::TagArguments),
    /// Take a tag away from runs
    Untag(annotate::UntagArguments),
    /// Put runs into a group, or out of theirs
    Group(annotate::GroupArguments),
    /// Note something about runs
    Note(annotate::NoteArguments),
    /// Put runs away: lists no longer show them, and nothing is lost
    Archive(annotate::ArchiveArguments),
    /// Bring runs back that were put away
    Unarchive(annotate::UnarchiveArguments),
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    location: Location,
    /// How long a locked registry is waited for.
    patience: Duration,
    json: bool,
    terminal: Terminal,
    clock: Clock,
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong; [`report`] prints it, [`Error::exit_code`] is the exit code.
    pub fn run(self) -> Result<()> {
        let mut context = Context {
            location: self.globals.location()?,
            patience: Duration::from_secs(self.globals.lock_timeout),
            json: self.globals.json,
            terminal: Terminal::new(self.globals.color),
            clock: Clock::new(system_time_ms),
        };
        match &self.command {
            Command::Run(arguments) => run::run(arguments, &mut context),
            Command::Resume(arguments) => resume::run(arguments, &mut context),
            Command::Rerun(arguments) => rerun::run(arguments, &mut context),
            Command::Sweep(arguments) => sweep::run(arguments, &mut context),
            Command::Models(arguments) => models::run(arguments, &mut context),
            Command::Show(arguments) => show::run(arguments, &mut context),
            Command::Check(arguments) => check::run(arguments, &mut context),
            Command::Pull(arguments) => pull::run(arguments, &mut context),
            Command::Predict(arguments) => predict::run(arguments, &mut context),
            Command::Eval(arguments) => eval::run(arguments, &mut context),
            Command::Runs(Runs::Ls(arguments)) => listing::run(arguments, &mut context),
            Command::Runs(Runs::Show(arguments)) => run_detail::run(arguments, &mut context),
            Command::Runs(Runs::Compare(arguments)) => compare::run(arguments, &mut context),
            Command::Runs(Runs::Diff(arguments)) => diff::run(arguments, &mut context),
            Command::Runs(Runs::Tag(arguments)) => annotate::tag(arguments, &mut context),
            Command::Runs(Runs::Untag(arguments)) => annotate::untag(arguments, &mut context),
            Command::Runs(Runs::Group(arguments)) => annotate::group(arguments, &mut context),
            Command::Runs(Runs::Note(arguments)) => annotate::note(arguments, &mut context),
            Command::Runs(Runs::Archive(arguments)) => annotate::archive(arguments, &mut context),
            Command::Runs(Runs::Unarchive(arguments)) => annotate::unarchive(arguments, &mut context),
            Command::Export(arguments) => export::run(arguments, &mut context),
            Command::Import(arguments) => import::run(arguments, &mut context),
            Command::Publish(arguments) => publish::run(arguments, &mut context),
            Command::Watch(arguments) => watch::run(arguments, &mut context),
            Command::Report(arguments) => web::report::run(arguments, &mut context),
            Command::Serve(arguments) => web::serve::run(arguments, &mut context),
            Command::Sql(arguments) => sql::run(arguments, &mut context),
            Command::Gc(arguments) => gc::run(arguments, &mut context),
            Command::Bench(bench) => bench::run(bench, &mut context),
        }
    }
}

impl Context {
    fn reader(&self) -> Result<Reader> {
        Reader::open(self.location.clone(), self.clock.clone())
    }

    /// Says something to a person: on stderr where stdout is for programs.
    fn say(&mut self, text: &str) -> Result<()> {
        if self.json {
            eprintln!("{text}");
            return Ok(());
        }
        self.terminal.print(text)
    }

    /// Says which run begins.
    fn announce(&mut self, uid: &str, name: &str, model: &str, start: &Start) -> Result<()> {
        if self.json {
            let registry = self.location.to_string();
            return self.terminal.print_json_line(&json!({
                "event": "run", "id": uid, "name": name, "model": model, "device": start.device,
                "threads": start.threads, "registry": registry,
            }));
        }
        let (id, device, threads) = (short_id(uid), &start.device, start.threads);
        self.terminal.print(&format!("run {id}: {name}, {model} on {device} with {threads} threads"))
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::open(self.location.clone(), self.clock.clone())?.with_patience(self.patience))
    }
}

/// Prints an error to stderr; a reader that went away (`| head`) gets silence.
pub fn report(error: &Error) {
    if let Error::Interrupted { signal: terminal::SIGPIPE } = error {
        return;
    }
    let message = error.to_string();
    // Diagnostics with carets begin with the word already.
    let prefix = if message.starts_with("error") { "" } else { "error: " };
    eprintln!("{prefix}{message}");
}

fn system_time_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
