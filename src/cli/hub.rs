//! What a person sees of a transfer from or to the Hub.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;
use zoo::hub::{Problem, Progress};

/// A bar on a terminal, nothing elsewhere but what goes wrong.
#[derive(Debug, Default)]
pub(super) struct Bar {
    bar: Option<ProgressBar>,
}

impl Progress for Bar {
    fn started(&mut self, file: &str, done: u64, size: Option<u64>) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| bar.prefix() == file) {
            return bar.set_position(done);
        }
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
        let template = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a fixed template").progress_chars("=> "));
        bar.set_prefix(file.to_owned());
        bar.set_position(done);
        self.bar = Some(bar);
    }

    fn advanced(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn retrying(&mut self, problem: &Problem, wait: Duration) {
        eprintln!("{problem}; trying again in {} s", wait.as_secs());
    }

    fn finished(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
