//! One process of a sweep: `resnet-zoo run` or `resume`, whose events are read line by line.

use crate::cli::human;
use crate::error::{Error, Result};
use crate::registry::lease::Lease;
use crate::sweep::Trial;
use indicatif::ProgressBar;
use serde_json::Value;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;

/// What is kept of what a process says on stderr.
const LONGEST_PROBLEM: u64 = 16 * 1024;

/// What all processes of a sweep have in common.
#[derive(Debug)]
pub(super) struct Work {
    pub threads: usize,
    pub device: String,
    /// The arguments and variables that name it.
    pub registry: (Vec<OsString>, Vec<(&'static str, String)>),
    pub group: String,
    /// Held by each child as its standard input, which it does not read.
    pub lease: Lease,
}

/// What a process tells.
#[derive(Debug)]
pub(super) enum News {
    /// A line of its JSON.
    Event { trial: usize, event: Value },
    /// Its output has ended; what it said went wrong, if it did.
    Ended { trial: usize, problem: Option<String> },
}

/// A process that works on a trial.
#[derive(Debug)]
pub(super) struct Child {
    /// The trial's number.
    pub trial: usize,
    /// Its line on the terminal, where there is one.
    pub bar: Option<ProgressBar>,
    process: std::process::Child,
}

impl Work {
    /// Begins a trial.
    pub fn run(&self, trial: &Trial, experiment: &Path, until: Option<&str>, news: Sender<News>) -> Result<Child> {
        let mut command = Self::command()?;
        command.arg("run").arg(experiment).args(["--name", &trial.name, "--group", &self.group]);
        for text in &trial.overrides {
            command.args(["--set", text]);
        }
        self.spawn(command, trial, until, news)
    }

    /// Goes on with the run of a trial.
    pub fn resume(&self, trial: &Trial, run: &str, until: Option<&str>, news: Sender<News>) -> Result<Child> {
        let mut command = Self::command()?;
        command.args(["resume", run]);
        self.spawn(command, trial, until, news)
    }

    fn command() -> Result<Command> {
        let program = std::env::current_exe();
        let program = program.map_err(|error| Error::failed(format!("cannot find this program's file: {error}")))?;
        Ok(Command::new(program))
    }

    fn spawn(&self, mut command: Command, trial: &Trial, until: Option<&str>, news: Sender<News>) -> Result<Child> {
        command.args(["--json", "--device", &self.device, "--threads", &self.threads.to_string()]);
        let (arguments, variables) = &self.registry;
        command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
        if let Some(until) = until {
            command.args(["--pause-after", until]);
        }
        // Ctrl-C reaches the sweep alone, which asks each child once: a second signal would end it without saving.
        command.process_group(0);
        command.stdin(self.lease.share()?).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |error: std::io::Error| Error::failed(format!("cannot start a process: {error}"));
        let mut process = command.spawn().map_err(failed)?;
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let number = trial.number;
        let errors = std::thread::Builder::new().name("sweep-errors".to_owned()).spawn(move || last_lines(stderr));
        let errors = errors.map_err(failed)?;
        let read = move || {
            let lines = stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines());
            for line in lines.map_while(std::result::Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    // Where nobody listens any more, the sweep is at its end.
                    let _ = news.send(News::Event { trial: number, event });
                }
            }
            let problem = errors.join().ok().filter(|text| !text.is_empty());
            let _ = news.send(News::Ended { trial: number, problem });
        };
        std::thread::Builder::new().name("sweep-events".to_owned()).spawn(read).map_err(failed)?;
        Ok(Child { trial: number, bar: None, process })
    }
}

/// The end of what a process said, all of which is read so that it never waits.
fn last_lines(stderr: Option<impl Read>) -> String {
    let mut kept = Vec::new();
    if let Some(mut stderr) = stderr {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stderr.read(&mut piece) {
            kept.extend_from_slice(&piece[..length]);
            let surplus = kept.len().saturating_sub(LONGEST_PROBLEM as usize);
            kept.drain(..surplus);
        }
    }
    String::from_utf8_lossy(&kept).trim().trim_start_matches("error: ").to_owned()
}

impl Child {
    /// Shows an event; of an evaluation, its value of `metric`.
    pub fn take(&mut self, event: &Value, metric: &str) {
        let Some(bar) = &self.bar else { return };
        let number = |key: &str| event.get(key).and_then(Value::as_u64).unwrap_or(0);
        match event.get("event").and_then(Value::as_str) {
            Some("started") => {
                bar.set_length(number("steps"));
                bar.set_position(number("first_step"));
                bar.reset_eta();
            }
            Some("step") => bar.set_position(number("step") + 1),
            Some("evaluated") => {
                if let Some(value) = event["metrics"].get(metric).and_then(Value::as_f64) {
                    bar.set_message(format!("{metric} {}", human::metric(metric, Some(value))));
                }
            }
            _ => {}
        }
    }

    /// Asks it to save and end.
    pub fn interrupt(&self) {
        let id = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            // One that has ended needs no signal.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        // Its output ended, or it was asked to end; an error here means that it is gone already.
        let _ = self.process.wait();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
