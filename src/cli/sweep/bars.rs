//! What a terminal shows of a sweep: a line for each trial that runs, and one for all of them.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// The lines; none where standard error is no terminal.
pub(super) struct Bars(Option<(MultiProgress, ProgressBar)>);

impl Bars {
    pub fn new() -> Self {
        Bars(std::io::stderr().is_terminal().then(|| {
            let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(4));
            let all = lines.add(styled("{bar:20} {pos}/{len} trials  {elapsed} elapsed"));
            (lines, all)
        }))
    }

    /// A rung of so many trials begins, some of which are done.
    pub fn of_rung(&self, trials: u64, done: u64) {
        if let Some((_, all)) = &self.0 {
            all.reset();
            all.set_length(trials);
            all.set_position(done);
            all.enable_steady_tick(Duration::from_millis(250));
        }
    }

    /// A line above that of all trials, for one that begins.
    pub fn of_trial(&self, name: &str, values: &str) -> Option<ProgressBar> {
        let (lines, all) = self.0.as_ref()?;
        let line = styled("{prefix} {bar:20} {pos}/{len} steps  {msg}  {eta} left");
        let line = lines.insert_before(all, line);
        line.set_prefix(format!("{name}  {values}"));
        Some(line)
    }

    /// A trial has ended.
    pub fn one_more(&self) {
        if let Some((_, all)) = &self.0 {
            all.inc(1);
        }
    }

    /// Prints something above the lines.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some((lines, _)) => lines.suspend(print),
            None => print(),
        }
    }

    /// Takes them from the screen.
    pub fn clear(&self) {
        if let Some((_, all)) = &self.0 {
            all.finish_and_clear();
        }
    }
}

fn styled(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template(template).expect("a fixed template").progress_chars("=> "));
    bar
}
