//! `watch`.

use super::{Context, human, plot, signals};
use crate::error::{Error, Result};
use crate::registry::Reader;
use crate::registry::run::{Point, RunListing, RunState};
use crate::registry::store::short_id;
use clap::builder::RangedU64ValueParser;
use console::Term;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo watch resnet34_ls                        until the run ends, or Ctrl-C
  resnet-zoo watch resnet34_ls --metric train.loss    other curves
  resnet-zoo watch resnet34_ls --once                 one look, also at a run that has ended
  resnet-zoo watch resnet34_ls --json                 for programs

The run may be anybody's who writes to this registry; it takes no notice. Into a file or a pipe goes one line whenever
the run has moved on. The exit code is 1 where the run fails or its process dies, and 0 where it completes.
JSON: one line whenever the run has moved on, a run as in `runs ls` with {event: \"watch\", samples_per_s, seconds_left}.";

/// How often to look.
const LOOK: Duration = Duration::from_millis(100);
/// Lines that are not a curve: what the run is doing, and around a curve its name, axis and legend.
const AROUND: usize = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A run: an id, a short id or a name
    run: String,
    /// Curves to draw; the validation's loss and accuracy where not given
    #[arg(long, value_name = "METRIC")]
    metric: Vec<String>,
    /// Seconds from one look to the next
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600))]
    interval: u64,
    /// Look once
    #[arg(long)]
    once: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    // The id, so that a newer run of the same name does not take its place.
    let id = reader.find(&arguments.run)?.id;
    let signal = signals::listen()?;
    let mut screen = Screen { terminal: Term::stdout(), lines: 0 };
    let live = std::io::stdout().is_terminal() && !context.json && !arguments.once;
    let mut last = None;
    loop {
        let listing = reader.find(&id)?;
        let look = Look::at(&mut reader, listing)?;
        let seen = (look.listing.state, look.listing.steps);
        if live {
            let height = usize::from(Term::stdout().size().0);
            screen.show(&look.frame(&mut reader, &arguments.metric, height)?)?;
        } else if last != Some(seen) {
            look.print(&mut reader, arguments, context)?;
        }
        last = Some(seen);
        if arguments.once {
            return Ok(());
        }
        match look.listing.state {
            RunState::Running | RunState::Queued | RunState::Unknown => {}
            RunState::Completed | RunState::Interrupted => return Ok(()),
            RunState::Failed | RunState::Crashed => {
                let why = look.listing.reason.as_deref().unwrap_or("its process died");
                return Err(Error::failed(format!("the run {} {}: {why}", short_id(&id), look.listing.state)));
            }
        }
        wait(Duration::from_secs(arguments.interval), &signal)?;
    }
}

/// Until it is time to look again.
fn wait(interval: Duration, signal: &AtomicUsize) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < interval {
        if let signal @ 1.. = signal.load(Ordering::Relaxed) {
            return Err(Error::Interrupted { signal: i32::try_from(signal).unwrap_or(i32::MAX) });
        }
        sleep(LOOK.min(interval));
    }
    Ok(())
}

/// A run at a moment.
struct Look {
    listing: RunListing,
    /// Steps in all, where they are known.
    planned: Option<u64>,
    /// The newest that the run measured of itself.
    samples_per_s: Option<f64>,
    /// By its mean speed so far, evaluations included.
    seconds_left: Option<f64>,
}

impl Look {
    fn at(reader: &mut Reader, listing: RunListing) -> Result<Self> {
        let planned = listing.plan.as_ref().and_then(|plan| plan["steps"].as_u64());
        let speed = reader.points(&listing, "system.samples_per_s")?;
        let left = planned.map(|planned| planned.saturating_sub(listing.steps));
        let is_known = listing.steps > 0 && matches!(listing.state, RunState::Running);
        let seconds_left = left.filter(|_| is_known).map(|left| listing.seconds / listing.steps as f64 * left as f64);
        let samples_per_s = speed.last().map(|point| point.value).filter(|value| value.is_finite());
        Ok(Look { planned, samples_per_s, seconds_left, listing })
    }

    /// `resnet34_ls 1aaab6d3  RUNNING  step 320 of 624  val.top1 84.10 %  761 samples/s  21 s, 20 s left`.
    fn line(&self) -> String {
        let run = &self.listing;
        let mut parts = vec![format!("{} {}", run.name, short_id(&run.id)), run.model.clone(), run.state.to_string()];
        parts.push(
            self.planned
                .map_or_else(|| format!("step {}", run.steps), |planned| format!("step {} of {planned}", run.steps)),
        );
        for name in ["train.loss", "val.loss", "val.top1"] {
            if let Some(summary) = run.metrics.get(name) {
                parts.push(format!("{name} {}", human::metric(name, summary.last)));
            }
        }
        parts.extend(self.samples_per_s.map(|speed| format!("{speed:.0} samples/s")));
        let left = self.seconds_left.map(|left| format!(", {} left", human::duration(left)));
        parts.push(format!("{}{}", human::duration(run.seconds), left.unwrap_or_default()));
        parts.join("  ").replace(char::is_control, " ")
    }

    /// What a screen of so many lines shows.
    fn frame(&self, reader: &mut Reader, metrics: &[String], height: usize) -> Result<String> {
        let known = |name: &&str| self.listing.metrics.contains_key(*name);
        let chosen: Vec<&str> = if metrics.is_empty() {
            // Before the first evaluation there is the training's loss.
            let of_validation: Vec<&str> = ["val.loss", "val.top1"].into_iter().filter(known).collect();
            if of_validation.is_empty() { vec!["train.loss"] } else { of_validation }
        } else {
            metrics.iter().map(String::as_str).collect()
        };
        let room = height.saturating_sub(2) / chosen.len().max(1);
        let lines = room.saturating_sub(AROUND).clamp(4, plot::HEIGHT);
        let mut frame = vec![self.line()];
        for name in chosen {
            let points: Vec<Point> = reader.points(&self.listing, name)?;
            frame.push(plot::draw(name, &[(self.listing.name.clone(), points)], lines));
        }
        Ok(frame.join("\n"))
    }

    fn print(&self, reader: &mut Reader, arguments: &Arguments, context: &mut Context) -> Result<()> {
        if context.json {
            let mut value = serde_json::to_value(&self.listing).expect("its maps have keys of text");
            value["event"] = json!("watch");
            value["samples_per_s"] = json!(self.samples_per_s);
            value["seconds_left"] = json!(self.seconds_left);
            return context.terminal.print_json_line(&value);
        }
        if arguments.once || !arguments.metric.is_empty() {
            return context.terminal.print(&self.frame(reader, &arguments.metric, usize::MAX)?);
        }
        context.terminal.print(&self.line())
    }
}

/// A part of a terminal that is drawn anew.
struct Screen {
    terminal: Term,
    lines: usize,
}

impl Screen {
    fn show(&mut self, frame: &str) -> Result<()> {
        let width = usize::from(self.terminal.size().1).max(1);
        // Lines that are too long would wrap, and be one more to clear.
        let lines: Vec<String> = frame.lines().map(|line| line.chars().take(width - 1).collect()).collect();
        let drawn = self.terminal.clear_last_lines(self.lines).and_then(|()| {
            writeln!(self.terminal, "{}", lines.join("\n"))?;
            self.terminal.flush()
        });
        self.lines = lines.len();
        drawn.map_err(|error| Error::failed(format!("cannot write to the terminal: {error}")))
    }
}
