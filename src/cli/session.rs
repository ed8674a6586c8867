//! Training under observation: what `run` and `resume` share.

use super::expected::Expected;
use super::profile::Profile;
use super::progress::Progress;
use super::table::{Align, Table};
use super::terminal::SIGPIPE;
use super::{Context, human, signals};
use crate::error::{Error, Result};
use crate::experiment::{Experiment, Length};
use crate::registry::run::{RunDetail, is_measured};
use crate::registry::store::short_id;
use crate::registry::{Recorder, RunState};
use crate::train::event::{Event, Observer};
use crate::train::task::Task;
use crate::train::{Checkpoint, fit};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use zoo::ops::profile::collect;

/// How a recorded run goes on.
pub(super) struct Session<'a> {
    pub experiment: &'a Experiment,
    /// Where it goes on after; from the start where there is none.
    pub resume: Option<Checkpoint>,
    /// What to say, and to record, before the first step.
    pub warnings: Vec<String>,
    /// Whether the same build on the same processor must reproduce the run's past bit for bit.
    pub exact: bool,
    /// After how much of it to save and end.
    pub pause: Option<Length>,
    /// Whether to say at the end where the time went.
    pub profile: bool,
    /// What it should do, where it repeats another run.
    pub expected: Option<Expected>,
}

/// First the registry, then the screen: what is shown is recorded.
struct Both<'a> {
    recorder: &'a mut Recorder,
    progress: Progress<'a>,
    profile: &'a mut Profile,
    /// The signal that came, 0 before.
    signal: Arc<AtomicUsize>,
    /// What the loop asks after each event.
    stop: &'a AtomicI32,
    pause: Option<Length>,
    /// Steps of the whole run and of an epoch, as it began.
    course: (u64, u64),
    expected: Option<Expected>,
}

impl Observer for Both<'_> {
    fn make_room(&mut self) -> Result<()> {
        self.settle()
    }

    fn observe(&mut self, event: &Event<'_>) -> Result<()> {
        let signal = self.signal.load(Ordering::Relaxed);
        self.stop.store(i32::try_from(signal).unwrap_or(SIGTERM), Ordering::Relaxed);
        self.profile.observe(event, || {
            self.recorder.observe(event)?;
            self.recorder.kept().iter().try_for_each(|checkpoint| self.progress.kept(checkpoint))?;
            self.progress.observe(event)?;
            let first = self.expected.as_mut().and_then(|expected| expected.differs(event));
            first.map_or(Ok(()), |first| self.progress.differs(&first))
        })?;
        match *event {
            Event::Started { steps, steps_per_epoch, .. } => self.course = (steps, steps_per_epoch),
            Event::Evaluated { step, .. } if self.is_pause(step + 1) => self.stop.store(PAUSE, Ordering::Relaxed),
            _ => {}
        }
        Ok(())
    }
}

/// What the loop is told where nothing but the pause came.
const PAUSE: i32 = SIGTERM;

impl Both<'_> {
    /// Whether the run ends here for now: not where it ends anyway.
    fn is_pause(&self, steps: u64) -> bool {
        let (whole, steps_per_epoch) = self.course;
        let pause = match self.pause {
            Some(Length::Steps(steps)) => steps,
            Some(Length::Epochs(epochs)) => epochs.saturating_mul(steps_per_epoch),
            None => u64::MAX,
        };
        (pause..whole).contains(&steps)
    }

    /// Waits for the checkpoint that is being written.
    fn settle(&mut self) -> Result<()> {
        self.recorder.settle()?;
        self.recorder.kept().iter().try_for_each(|checkpoint| self.progress.kept(checkpoint))
    }
}

impl Session<'_> {
    /// Trains to the end, records how it ended, and says so.
    pub fn train<T: Task>(mut self, task: &T, mut recorder: Recorder, context: &mut Context) -> Result<()> {
        let uid = recorder.uid().to_owned();
        recorder.watch_system()?;
        let (signal, stop) = (signals::listen()?, AtomicI32::new(0));
        let mut profile = Profile::new();
        let train = || {
            let progress = Progress::new(&mut context.terminal, context.json);
            let (pause, course, signal) = (self.pause, (0, 0), Arc::clone(&signal));
            let (recorder, profile, expected) = (&mut recorder, &mut profile, self.expected.take());
            let mut both = Both { recorder, progress, profile, signal, stop: &stop, pause, course, expected };
            let result = self
                .warnings
                .iter()
                .try_for_each(|message| both.observe(&Event::Warning { step: 0, message }))
                .and_then(|()| fit(task, self.experiment, self.resume, &stop, &mut both));
            match (result, both.settle()) {
                // What went wrong first says most; an interruption says that the checkpoint is there.
                (Ok(_) | Err(Error::Interrupted { signal: SIGINT | SIGTERM }), Err(error)) => Err(error),
                (result, _) => result,
            }
        };
        let (result, work) = if self.profile { collect(train) } else { (train(), Vec::new()) };
        let paused = matches!(result, Err(Error::Interrupted { signal: PAUSE })) && signal.load(Ordering::Relaxed) == 0;
        let (state, reason) = match &result {
            _ if paused => (RunState::Interrupted, Some("paused, as asked".to_owned())),
            Ok(outcome) if outcome.stopped_early => {
                (RunState::Completed, Some("stopped early: the metric no longer got better".to_owned()))
            }
            Ok(_) => (RunState::Completed, None),
            Err(Error::Interrupted { signal }) => (RunState::Interrupted, Some(signal_name(*signal).to_owned())),
            Err(error) => (RunState::Failed, Some(error.to_string())),
        };
        let ended = recorder.end(state, reason);
        if self.profile && !matches!(result, Err(Error::Interrupted { signal: SIGPIPE })) {
            profile.print(&work, context)?;
        }
        match (result, ended) {
            // The registry's own failure comes back as the run's; ending it again then says nothing new.
            (Err(error), Err(_)) => Err(error),
            (Err(error), Ok(_)) => {
                if !matches!(error, Error::Interrupted { signal: SIGPIPE }) {
                    conclude(&uid, context)?;
                }
                if paused { Ok(()) } else { Err(error) }
            }
            (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(mismatches)) => {
                conclude(&uid, context)?;
                match mismatches {
                    0 => Ok(()),
                    _ if !self.exact => context.say(&format!(
                        "{mismatches} replayed values differ from the first pass: the build, processor or device is another"
                    )),
                    _ => Err(Error::failed(format!(
                        "{mismatches} replayed values differ from the first pass, on the same build and processor; \
                         `resnet-zoo sql \"SELECT * FROM replay_mismatch\"` lists them"
                    ))),
                }
            }
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGTERM => "SIGTERM",
        SIGPIPE => "the reader of standard output went away",
        _ => "a signal",
    }
}

/// Says how a run ended: the registry's view of it, and what to type next.
fn conclude(uid: &str, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let listing = reader.find(uid)?;
    let detail = reader.detail(listing)?;
    if context.json {
        let listing = &detail.listing;
        return context.terminal.print_json_line(&json!({
            "event": "ended", "id": listing.id, "name": listing.name, "state": listing.state, "reason": listing.reason,
            "steps": listing.steps, "seconds": listing.seconds, "metrics": listing.metrics,
            "registry": context.location.to_string(),
        }));
    }
    print(&detail, context)
}

fn print(detail: &RunDetail, context: &mut Context) -> Result<()> {
    let listing = &detail.listing;
    let columns =
        [("metric", Align::Left), ("last", Align::Right), ("best", Align::Right), ("best at step", Align::Right)];
    let mut table = Table::new(&columns, &context.terminal);
    for (name, summary) in listing.metrics.iter().filter(|(name, _)| !name.starts_with("optim.") && !is_measured(name))
    {
        table.row([
            name.clone(),
            human::metric(name, summary.last),
            human::metric(name, summary.best),
            summary.best_step.map_or_else(|| "-".to_owned(), |step| (step + 1).to_string()),
        ]);
    }
    context.terminal.print("")?;
    context.terminal.print(&table.render())?;
    let (samples, seconds) = detail.speed();
    let speed = if seconds > 0.0 { format!(", {:.0} images/s in training", samples / seconds) } else { String::new() };
    let id = short_id(&listing.id);
    context.terminal.print(&format!(
        "\n{} {id} is {} after {} steps and {}{speed}",
        listing.name,
        listing.state,
        listing.steps,
        human::duration(listing.seconds)
    ))?;
    context.terminal.print(&format!("recorded in {}", context.location))?;
    if let Ok(best) = detail.best_checkpoint() {
        let path = context.location.blobs().path(&best.weights_sha256);
        context.terminal.print(&format!("weights of step {} in {}", best.step + 1, path.display()))?;
    }
    let next = match listing.state {
        RunState::Completed => format!("runs show {id}\n  resnet-zoo runs ls\n  resnet-zoo eval {id}"),
        _ => format!("resume {id}"),
    };
    context.terminal.print(&format!("next:\n  resnet-zoo {next}"))
}
