//! How long something takes, and what else the machine did meanwhile.

use crate::error::Result;
use std::fs;
use std::time::{Duration, Instant};

/// No measurement goes on for longer, however few repetitions that gives.
const LONGEST: Duration = Duration::from_secs(60);
/// Linux counts CPU time in hundredths of a second, on every architecture of interest (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.;
/// Seconds that are too few for ticks.
const SHORT: f64 = 0.2;
/// Cores that others may use before a result is not to be trusted.
const QUIET: f64 = 0.1;

/// How often and how long to measure.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args)]
pub(super) struct Effort {
    /// Repetitions at the least
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub reps: u32,
    /// Seconds of repetitions at the least, up to 60
    #[arg(long, default_value_t = 3., value_name = "S", value_parser = seconds)]
    pub seconds: f64,
    /// Repetitions beforehand that do not count
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub warmup: u32,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timing {
    /// Seconds of a repetition, half of them took longer.
    pub median: f64,
    /// Seconds of the fastest repetition.
    pub best: f64,
    /// Seconds that 99 of 100 repetitions stay below.
    pub p99: f64,
    /// Repetitions.
    pub reps: usize,
    /// What the machine did beside. Unknown without `/proc`, and of less than a fifth of a second, which has too few ticks.
    pub noise: Option<Noise>,
}

/// Cores that were busy with something else, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Noise {
    /// With other processes, or taken by the host of a virtual machine.
    pub others: f64,
    /// Those that the host took.
    pub steal: f64,
}

impl Effort {
    /// Measures `repeat`.
    ///
    /// # Errors
    /// The first one of `repeat`.
    pub fn measure(&self, mut repeat: impl FnMut() -> Result<()>) -> Result<Timing> {
        self.measure_part(|| {
            let start = Instant::now();
            repeat()?;
            Ok(start.elapsed())
        })
    }

    /// Measures what `repeat` says that it took.
    ///
    /// # Errors
    /// The first one of `repeat`.
    pub fn measure_part(&self, mut repeat: impl FnMut() -> Result<Duration>) -> Result<Timing> {
        for _ in 0..self.warmup {
            repeat()?;
        }
        let mut laps = Laps::start();
        loop {
            laps.push(repeat()?);
            let spent = laps.begun.elapsed();
            if (laps.times.len() >= self.reps as usize && spent.as_secs_f64() >= self.seconds) || spent >= LONGEST {
                return Ok(laps.timing());
            }
        }
    }
}

/// Repetitions, one after the other.
pub(super) struct Laps {
    times: Vec<f64>,
    before: Option<CpuTime>,
    begun: Instant,
}

impl Laps {
    /// Now begins the first one.
    pub fn start() -> Self {
        Laps { times: Vec::new(), before: CpuTime::now(), begun: Instant::now() }
    }

    /// One more, and how long it took.
    pub fn push(&mut self, time: Duration) {
        self.times.push(time.as_secs_f64());
    }

    /// What they say together, one at the least.
    pub fn timing(mut self) -> Timing {
        let spent = self.begun.elapsed();
        let noise = self.before.zip(CpuTime::now()).filter(|_| spent.as_secs_f64() >= SHORT);
        let noise = noise.map(|(before, after)| after.noise_since(&before, spent));
        self.times.sort_by(f64::total_cmp);
        let reps = self.times.len();
        let p99 = self.times[(99 * reps).div_ceil(100) - 1];
        Timing { median: median(&self.times), best: self.times[0], p99, reps, noise }
    }
}

impl Noise {
    /// What to tell a person.
    pub fn warning(&self) -> Option<String> {
        (self.others > QUIET).then(|| {
            let Noise { others, steal } = self;
            format!(
                "warning: {others:.2} cores were busy with something else ({steal:.2} with the host): measure again"
            )
        })
    }
}

/// The greatest amount of memory that this process had so far, in MiB (Linux's `VmHWM`).
pub(super) fn peak_rss_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kib.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// Of values in rising order, at least one.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2. } else { sorted[middle] }
}

/// Seconds of CPU time since boot.
struct CpuTime {
    /// Of the whole machine, in what `top` calls us, ni, sy, hi, si and st.
    busy: f64,
    /// Taken by the host of a virtual machine.
    stolen: f64,
    /// Of this process, and of those that it started and waited for.
    own: f64,
}

impl CpuTime {
    fn now() -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        Self::parse(&machine, &fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// proc(5): `user nice system idle iowait irq softirq steal` of the first line; fields 14 to 17 of a process,
    /// whose second is a name in parentheses that can hold spaces.
    fn parse(machine: &str, process: &str) -> Option<Self> {
        let ticks = |word: &str| word.parse::<f64>().ok().map(|ticks| ticks / TICKS_PER_SECOND);
        let machine: Vec<f64> = machine.lines().next()?.split_whitespace().skip(1).map_while(ticks).collect();
        let &[user, nice, system, _, _, irq, softirq, stolen, ..] = machine.as_slice() else { return None };
        let own = process.rsplit_once(')')?.1.split_whitespace().skip(11).take(4).map(ticks).sum::<Option<f64>>()?;
        Some(CpuTime { busy: user + nice + system + irq + softirq + stolen, stolen, own })
    }

    fn noise_since(&self, before: &CpuTime, spent: Duration) -> Noise {
        let spent = spent.as_secs_f64();
        let others = (self.busy - before.busy) - (self.own - before.own);
        let cores = |seconds: f64| (100. * seconds.max(0.) / spent).round() / 100.;
        Noise { others: cores(others), steal: cores(self.stolen - before.stolen) }
    }
}

/// Reads the value of `--seconds`.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0. ..=LONGEST.as_secs_f64()).contains(seconds));
    seconds.ok_or_else(|| format!("it must be a number from 0 to {}", LONGEST.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn repeats_as_often_as_was_asked_and_ends_with_the_first_error() {
        let effort = Effort { reps: 4, seconds: 0., warmup: 2 };
        let mut calls = 0;
        let timing = effort.measure(|| {
            calls += 1;
            Ok(())
        });
        let timing = timing.expect("no error");
        assert_eq!((calls, timing.reps), (6, 4));
        assert!(0. <= timing.best && timing.best <= timing.median && timing.median <= timing.p99);
        assert!(effort.measure(|| Err(Error::failed("no"))).is_err());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!((median(&[1., 2., 9.]), median(&[1., 2., 4., 9.])), (2., 3.));
    }

    #[test]
    fn what_others_took_is_what_the_machine_did_less_its_own() {
        let at = |machine: &str, process: &str| CpuTime::parse(machine, process).expect("as the kernel writes it");
        let before = at("cpu  100 0 0 900 0 0 0 0 0 0\ncpu0 ..", "7 (a) b) S 1 7 7 0 -1 0 1 0 0 0 30 20 0 0 20 0");
        let after = at("cpu  300 0 50 950 9 0 0 50 0 0\ncpu0 ..", "7 (a) b) S 1 7 7 0 -1 0 1 0 0 0 180 20 0 0 20 0");
        let noise = after.noise_since(&before, Duration::from_secs(2));
        assert_eq!(noise, Noise { others: 0.75, steal: 0.25 });
        assert!(noise.warning().is_some_and(|text| text.contains("0.75 cores")));
        assert_eq!(Noise { others: 0.1, steal: 0. }.warning(), None);
        assert!(CpuTime::parse("", "").is_none());
    }
}
