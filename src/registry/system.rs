//! What a run takes of its machine, sampled on a thread of its own: `system.cpu_percent` (100 is one core),
//! `system.rss_bytes`, `system.samples_per_s` and `system.data_wait` (of the time in steps, the part that waited for data),
//! and what [`Gpus`] says of each GPU.
//!
//! They are points like others, with curves, filters and summaries, but no replay reproduces them: they are no part of
//! the metric digest, and are never compared bit for bit.

use super::gpu::Gpus;
use super::process::Usage;
use super::run::Point;
use super::writer::Message;
use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From one sample to the next; the last one comes at the end.
const INTERVAL: Duration = Duration::from_secs(5);

/// What training did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Done {
    /// The last step; none before the first one.
    pub step: Option<u64>,
    pub samples: u64,
    /// In steps.
    pub seconds: f64,
    /// Of these, waiting for data.
    pub data_seconds: f64,
}

/// The thread, and what it is told.
#[derive(Debug)]
pub(super) struct Sampler {
    done: Arc<Mutex<Done>>,
    /// Closed, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts sampling this process.
    pub fn start(writer: SyncSender<Message>) -> Result<Self> {
        let done = Arc::new(Mutex::new(Done::default()));
        let (stop, stopped) = channel();
        let seen = Arc::clone(&done);
        let thread =
            std::thread::Builder::new().name("system".to_owned()).spawn(move || sample(&seen, &stopped, &writer));
        let thread = thread.map_err(|error| Error::failed(format!("cannot start the thread that samples: {error}")))?;
        Ok(Sampler { done, stop: Some(stop), thread: Some(thread) })
    }

    /// Takes note of a step.
    pub fn stepped(&self, step: u64, samples: usize, seconds: f64, data_seconds: f64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.step = Some(step);
        done.samples += samples as u64;
        done.seconds += seconds;
        done.data_seconds += data_seconds;
    }

    /// Takes the last sample.
    pub fn end(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say that would be worth a run.
            let _ = thread.join();
        }
    }
}

fn sample(done: &Mutex<Done>, stopped: &Receiver<()>, writer: &SyncSender<Message>) {
    let gpus = Gpus::find();
    let (mut before, mut usage_before, mut then) = (Done::default(), Usage::current(), Instant::now());
    loop {
        let is_last = stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout);
        let now = *done.lock().unwrap_or_else(PoisonError::into_inner);
        // One value a step: an evaluation has none of its own.
        if let (Some(step), true) = (now.step, now.step != before.step) {
            let usage = Usage::current();
            let mut values = rates(before, now);
            if let (Some(before), Some(now)) = (usage_before, usage) {
                let wall = then.elapsed().as_secs_f64();
                let cpu_seconds = now.cpu_seconds - before.cpu_seconds;
                values.push(("system.cpu_percent".to_owned(), 100. * cpu_seconds / wall.max(1e-9)));
                values.push(("system.rss_bytes".to_owned(), now.rss_bytes as f64));
            }
            values.extend(gpus.iter().flat_map(Gpus::sample));
            let point = |(metric, value): (String, f64)| Point { metric, step, value };
            if writer.send(Message::Measured(values.into_iter().map(point).collect())).is_err() {
                return;
            }
            (before, usage_before, then) = (now, usage, Instant::now());
        }
        if is_last {
            return;
        }
    }
}

/// Throughput and data wait between two looks.
fn rates(before: Done, now: Done) -> Vec<(String, f64)> {
    let seconds = now.seconds - before.seconds;
    if seconds <= 0. {
        return Vec::new();
    }
    vec![
        ("system.samples_per_s".to_owned(), (now.samples - before.samples) as f64 / seconds),
        ("system.data_wait".to_owned(), (now.data_seconds - before.data_seconds) / seconds),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn rates_are_of_the_time_since_the_last_look() {
        let before = Done { step: Some(9), samples: 100, seconds: 10., data_seconds: 4. };
        let now = Done { step: Some(19), samples: 300, seconds: 12., data_seconds: 4.5 };
        let expected = [("system.samples_per_s", 100.), ("system.data_wait", 0.25)];
        assert_eq!(rates(before, now), expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(rates(now, now), []);
    }

    #[test]
    fn the_last_sample_comes_at_the_end_and_only_after_a_step() {
        let (sender, inbox) = sync_channel(8);
        Sampler::start(sender.clone()).expect("started").end();
        assert!(inbox.try_recv().is_err(), "no step, no sample");
        let sampler = Sampler::start(sender).expect("started");
        sampler.stepped(0, 8, 0.5, 0.25);
        sampler.stepped(1, 8, 0.5, 0.25);
        sampler.end();
        let Ok(Message::Measured(points)) = inbox.try_recv() else { panic!("a sample") };
        assert!(points.iter().all(|point| point.step == 1));
        let value = |name: &str| points.iter().find(|point| point.metric == name).map(|point| point.value);
        assert_eq!((value("system.samples_per_s"), value("system.data_wait")), (Some(16.), Some(0.5)));
        #[cfg(target_os = "linux")]
        {
            assert!(value("system.rss_bytes").expect("known") > 1e6);
            assert!(value("system.cpu_percent").expect("known") >= 0.);
        }
    }
}
