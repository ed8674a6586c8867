//! A benchmark's result: one JSON line, or a table.

use super::ceiling;
use super::measure::{Timing, peak_rss_mib};
use super::workload::Workload;
use crate::cli::table::{Align, Table};
use crate::cli::{Context, human, models};
use crate::error::Result;
use crate::experiment::Precision;
use serde::{Serialize, Serializer};

/// How fast a model is. Those keys that the scripts of other frameworks write too come under their names.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BenchResult {
    bench: &'static str,
    model: &'static str,
    variant: &'static str,
    precision: Precision,
    batch: usize,
    size: usize,
    /// Of a clip.
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<usize>,
    /// Images (or clips) a second, by the median.
    #[serde(serialize_with = "hundredths")]
    img_s: f64,
    #[serde(serialize_with = "hundredths")]
    best_img_s: f64,
    /// Of a batch, the median.
    #[serde(serialize_with = "hundredths")]
    ms: f64,
    reps: usize,
    /// The process's greatest, the ceiling's measurement not included.
    rss_mib: Option<u64>,
    /// See [`Noise`](super::measure::Noise).
    others: Option<f64>,
    steal: Option<f64>,
    threads: usize,
    isa: &'static str,
    /// Operations of direct convolutions, whatever algorithm ran.
    #[serde(serialize_with = "hundredths")]
    gflop_s: f64,
    /// `gflop_s` in per cent of what the same threads reach in registers alone.
    #[serde(serialize_with = "hundredths")]
    ceiling_pct: f64,
}

impl BenchResult {
    /// What `timing` says of `workload`, a batch of which takes `operations`; then measures the ceiling.
    pub fn new(
        bench: &'static str,
        variant: &'static str,
        workload: &Workload,
        timing: &Timing,
        operations: u64,
    ) -> Self {
        let rss_mib = peak_rss_mib();
        BenchResult { rss_mib, ..Self::of_processes(bench, variant, workload, timing, operations) }
    }

    /// The same where other processes did it, whose memory is not known.
    pub fn of_processes(
        bench: &'static str,
        variant: &'static str,
        workload: &Workload,
        timing: &Timing,
        operations: u64,
    ) -> Self {
        let images = workload.batch as f64;
        let gflop_s = operations as f64 / timing.median / 1e9;
        BenchResult {
            bench,
            model: workload.entry.card.name,
            variant,
            precision: workload.precision,
            batch: workload.batch,
            size: workload.size(),
            frames: workload.frames(),
            img_s: images / timing.median,
            best_img_s: images / timing.best,
            ms: timing.median * 1e3,
            reps: timing.reps,
            rss_mib: None,
            others: timing.noise.map(|noise| noise.others),
            steal: timing.noise.map(|noise| noise.steal),
            threads: workload.threads,
            isa: workload.isa.name(),
            gflop_s,
            ceiling_pct: 100. * gflop_s / ceiling::gflop_s(workload.isa, workload.precision),
        }
    }

    /// Prints it; what else the machine did goes to stderr.
    pub fn print(&self, workload: &Workload, timing: &Timing, context: &mut Context) -> Result<()> {
        if let Some(warning) = timing.noise.and_then(|noise| noise.warning()) {
            eprintln!("{warning}");
        }
        if context.json {
            return context.terminal.print_json_line(self);
        }
        context.terminal.heading(&format!(
            "{} {}, {} x {}, {} threads, {}",
            self.variant,
            self.model,
            self.batch,
            models::size(&workload.input),
            self.threads,
            self.isa
        ))?;
        let names = ["images/s", "best", "ms a batch", "repetitions", "GFLOP/s", "of the ceiling", "peak memory"];
        let mut table = Table::new(&names.map(|name| (name, Align::Right)), &context.terminal);
        table.row([
            format!("{:.2}", self.img_s),
            format!("{:.2}", self.best_img_s),
            format!("{:.1}", self.ms),
            self.reps.to_string(),
            format!("{:.1}", self.gflop_s),
            human::percent(self.ceiling_pct / 100.),
            self.rss_mib.map_or_else(|| "-".to_owned(), |mib| human::bytes(mib << 20)),
        ]);
        context.terminal.print(&table.render())
    }
}

/// To hundredths.
pub(super) fn round(value: f64) -> f64 {
    (100. * value).round() / 100.
}

/// Writes a number as [`round`] makes it.
pub(super) fn hundredths<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(round(*value))
}
