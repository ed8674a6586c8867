//! `bench registry`.

use super::corpus::Corpus;
use super::measure::{Effort, Laps, Timing};
use super::result::{hundredths, round};
use crate::cli::table::{Align, Table};
use crate::cli::{Context, human};
use crate::error::{Error, Result};
use crate::registry::filter::{self, Filter};
use crate::registry::run::{Point, RunListing};
use crate::registry::store::{Batch, End, Page, Selection, Start};
use crate::registry::{Build, Location, Process, Reader, RunState, Store};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::TempDir;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench registry                              200 runs of 960 points, in a folder that is removed
  resnet-zoo bench registry --runs 10000 --points 1000 --keep big      ten million, in a new folder that stays
  benches/registry.py --python VENV/bin/python           MLflow's store does the same, in turns

One line each: `log` is a run: created, its points in transactions of 1,000, each one synced, and its end. `search` is
the first 50 runs that a filter of a metric and a setting is true of, sorted by the metric, with their settings and
last values. `history` is all values of one metric of a run, `compare` settings and last values of 20 runs,
`curves` all values of 20 runs. `cli_ls` and `cli_compare` are processes that print a search and a comparison, from
their start to their end. What is read is held against what was written, and sha256 says what it was.";

/// Points of a transaction, as a run writes them.
const BATCH: u64 = 1000;
/// Runs of a page.
const PAGE: usize = 50;
/// Runs that are compared.
const COMPARED: u64 = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// Runs to write
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(20..=1_000_000))]
    runs: u64,
    /// Points of each run, over all of its metrics
    #[arg(long, default_value_t = 960, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    points: u64,
    /// Metrics of each run
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    metrics: u64,
    /// Settings of each run
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    settings: u64,
    /// A new folder for the registry, which stays there
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

/// How fast one kind of work is.
#[derive(Debug, Serialize)]
struct Measured {
    bench: &'static str,
    work: &'static str,
    variant: &'static str,
    runs: u64,
    points: u64,
    metrics: u64,
    settings: u64,
    /// The median.
    #[serde(serialize_with = "thousandths")]
    ms: f64,
    #[serde(serialize_with = "thousandths")]
    best_ms: f64,
    #[serde(serialize_with = "thousandths")]
    p99_ms: f64,
    reps: usize,
    others: Option<f64>,
    steal: Option<f64>,
    /// Of what was written, or read in the last repetition.
    sha256: String,
    #[serde(flatten)]
    written: Option<Written>,
}

/// What `log` says beside.
#[derive(Debug, Serialize)]
struct Written {
    /// Over all runs.
    #[serde(serialize_with = "hundredths")]
    points_s: f64,
    /// Of the SQLite file.
    bytes: u64,
    #[serde(serialize_with = "hundredths")]
    bytes_a_point: f64,
    journal_mode: String,
    synchronous: String,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let corpus = arguments.corpus()?;
    let temporary;
    let folder = match &arguments.keep {
        Some(folder) if folder.exists() => {
            return Err(Error::input(format!("{} exists; name a new folder", folder.display())));
        }
        Some(folder) => folder,
        // Removed when it is dropped.
        None => {
            temporary =
                TempDir::with_prefix("resnet-zoo-").map_err(|error| Error::failed(format!("no folder: {error}")))?;
            temporary.path()
        }
    };
    let location = Location::new(folder.join("registry.sqlite3"));
    let mut bench = Bench { corpus, location, effort: arguments.effort, context, results: Vec::new() };
    bench.log()?;
    bench.read()?;
    bench.processes()?;
    bench.print()
}

impl Arguments {
    fn corpus(&self) -> Result<Corpus> {
        let &Arguments { runs, points, metrics, settings, .. } = self;
        if !points.is_multiple_of(metrics) {
            return Err(Error::input(format!(
                "--points {points} is no multiple of --metrics {metrics}: every metric has the same number of points"
            )));
        }
        if runs.checked_mul(points).is_none_or(|all| all > 1 << 32) {
            return Err(Error::input("more than 2^32 points: pass a smaller --runs or --points"));
        }
        Ok(Corpus { runs, points, metrics, settings })
    }
}

struct Bench<'a> {
    corpus: Corpus,
    location: Location,
    effort: Effort,
    context: &'a mut Context,
    results: Vec<Measured>,
}

impl Bench<'_> {
    /// Writes every run, then reads all of it back.
    fn log(&mut self) -> Result<()> {
        let corpus = self.corpus;
        let mut store = Store::open(self.location.clone(), self.context.clock.clone())?;
        let build = Build::CURRENT;
        let start = Start { process: Process::current(), build, device: "cpu".to_owned(), threads: 1, keep_last: 2 };
        let mut laps = Laps::start();
        let begun = Instant::now();
        for run in 0..corpus.runs {
            let lap = Instant::now();
            let working = store.create_run(&Corpus::uid(run), &corpus.new_run(run), &start)?;
            for first in (0..corpus.points).step_by(BATCH as usize) {
                let last = (first + BATCH).min(corpus.points);
                let end = (last == corpus.points).then_some(End { state: RunState::Completed, reason: None });
                store.flush(&working, &Batch { points: corpus.points(run, first..last), end, ..Batch::default() })?;
            }
            laps.push(lap.elapsed());
        }
        let (timing, seconds) = (laps.timing(), begun.elapsed().as_secs_f64());
        store.close()?;
        let all = (corpus.runs * corpus.points) as f64;
        let bytes = self.location.file().and_then(|file| std::fs::metadata(file).ok()).map_or(0, |facts| facts.len());
        let mut reader = self.reader()?;
        let mut pragma = |name: &str| -> Result<String> {
            let answer = reader.query(&format!("SELECT {name} FROM pragma_{name}"))?;
            Ok(answer.rows[0][0].as_str().map_or_else(|| answer.rows[0][0].to_string(), str::to_owned))
        };
        let written = Written {
            points_s: all / seconds,
            bytes,
            bytes_a_point: bytes as f64 / all,
            journal_mode: pragma("journal_mode")?,
            synchronous: pragma("synchronous")?,
        };
        let mut hash = Sha256::new();
        for run in 0..corpus.runs {
            let curves = self.curves(&mut reader, run)?;
            curves.iter().for_each(|point| hash.update(point.value.to_le_bytes()));
        }
        self.add("log", &timing, &hex(hash), Some(written));
        Ok(())
    }

    /// Reads in this process.
    fn read(&mut self) -> Result<()> {
        let mut reader = self.reader()?;
        self.measure("search", |_| {
            let page = search(&mut reader)?;
            Found::of(&mut reader, &page)
        })?;
        self.measure("history", |next| {
            let run = reader.find(&Corpus::uid(next()))?;
            reader.points(&run, &Corpus::metric(0))
        })?;
        self.measure("compare", |next| {
            let runs: Vec<String> = (0..COMPARED).map(|_| Corpus::uid(next())).collect();
            let page = Page::join(reader.find_all(&runs)?);
            Found::of(&mut reader, &page)
        })?;
        self.measure("curves", |next| {
            let mut points = Vec::new();
            for _ in 0..COMPARED {
                let run = reader.find(&Corpus::uid(next()))?;
                points.extend(reader.series(&run)?.points);
            }
            Ok(points)
        })
    }

    /// Measures a kind of work, and then does it once more to see what it reads.
    fn measure<T: Sha>(
        &mut self,
        work: &'static str,
        mut once: impl FnMut(&mut dyn FnMut() -> u64) -> Result<T>,
    ) -> Result<()> {
        let mut next = self.draws();
        let timing = self.effort.measure(|| once(&mut next).map(drop))?;
        let read = once(&mut self.draws())?;
        self.add(work, &timing, &read.sha256(&self.corpus)?, None);
        Ok(())
    }

    /// As a person does it.
    fn processes(&mut self) -> Result<()> {
        let limit = PAGE.to_string();
        let ls = ["runs", "ls", FILTER, "--sort", SORT, "--limit", &limit, "--json"].map(str::to_owned).to_vec();
        let mut next = self.draws();
        let mut compare = vec!["runs".to_owned(), "compare".to_owned(), "--json".to_owned()];
        compare.extend((0..COMPARED).map(|_| Corpus::uid(next())));
        let database = self.location.file().expect("it was made as a file").to_owned();
        self.measure("cli_ls", |_| process(&database, &ls))?;
        self.measure("cli_compare", |_| process(&database, &compare))
    }

    fn reader(&self) -> Result<Reader> {
        Reader::open(self.location.clone(), self.context.clock.clone())
    }

    /// Runs in an order that no cache knows; a different one each time, until all have had their turn.
    fn draws(&self) -> impl FnMut() -> u64 + use<> {
        let runs = self.corpus.runs;
        let stride = (7919..).find(|stride| gcd(*stride, runs) == 1).expect("there are endless primes");
        let mut drawn = 0;
        move || {
            drawn = (drawn + stride) % runs;
            drawn
        }
    }

    fn curves(&self, reader: &mut Reader, run: u64) -> Result<Vec<Point>> {
        let listing = reader.find(&Corpus::uid(run))?;
        let series = reader.series(&listing)?.points;
        // By name, and the names of ten metrics and more are not in the order of their numbers.
        let mut keys: Vec<u64> = (0..self.corpus.metrics).collect();
        keys.sort_by_key(|key| Corpus::metric(*key));
        let steps = self.corpus.steps() as usize;
        let same = series.len() == keys.len() * steps
            && series.chunks(steps).zip(keys).all(|(points, key)| self.corpus.are_points(run, key, points));
        if same { Ok(series) } else { Err(Error::failed(format!("run {run} does not read back as it was written"))) }
    }

    fn add(&mut self, work: &'static str, timing: &Timing, sha256: &str, written: Option<Written>) {
        let Corpus { runs, points, metrics, settings } = self.corpus;
        if let Some(warning) = timing.noise.and_then(|noise| noise.warning()) {
            eprintln!("{work}: {warning}");
        }
        self.results.push(Measured {
            bench: "registry",
            work,
            variant: "resnet-zoo",
            runs,
            points,
            metrics,
            settings,
            ms: timing.median * 1e3,
            best_ms: timing.best * 1e3,
            p99_ms: timing.p99 * 1e3,
            reps: timing.reps,
            others: timing.noise.map(|noise| noise.others),
            steal: timing.noise.map(|noise| noise.steal),
            sha256: sha256.to_owned(),
            written,
        });
    }

    fn print(self) -> Result<()> {
        let Bench { context, results, corpus, .. } = self;
        if context.json {
            return results.iter().try_for_each(|result| context.terminal.print_json_line(result));
        }
        context.terminal.heading(&format!(
            "{} runs of {} points in {} metrics, {} settings each",
            corpus.runs, corpus.points, corpus.metrics, corpus.settings
        ))?;
        let columns = [("work", Align::Left), ("ms", Align::Right), ("best", Align::Right), ("p99", Align::Right)];
        let mut table = Table::new(&columns, &context.terminal);
        for result in &results {
            let ms = |value: f64| format!("{value:.3}");
            table.row([result.work.to_owned(), ms(result.ms), ms(result.best_ms), ms(result.p99_ms)]);
        }
        context.terminal.print(&table.render())?;
        let Some(written) = results.iter().find_map(|result| result.written.as_ref()) else { return Ok(()) };
        context.terminal.print(&format!(
            "\n{:.0} points/s written; {}, {} bytes a point; journal_mode {}, synchronous {}",
            written.points_s,
            human::bytes(written.bytes),
            round(written.bytes_a_point),
            written.journal_mode,
            written.synchronous
        ))
    }
}

const FILTER: &str = "last(val.m0) > 0.25 and config.s0 != 3";
const SORT: &str = "last(val.m0) desc";

fn search(reader: &mut Reader) -> Result<Page> {
    let filter = Some(Filter::parse(FILTER, reader)?);
    let sort = filter::sort_order(SORT, reader)?;
    Ok(reader.select(&Selection { filter, sort, archived: false })?.cut(0, Some(PAGE)))
}

/// Runs with their settings.
struct Found {
    runs: Vec<RunListing>,
    configs: Vec<Value>,
}

impl Found {
    fn of(reader: &mut Reader, page: &Page) -> Result<Self> {
        Ok(Found { runs: reader.listings(page)?, configs: reader.configs(page)? })
    }
}

/// What was read, in a form that the other side has too.
trait Sha {
    fn sha256(&self, corpus: &Corpus) -> Result<String>;
}

impl Sha for Found {
    /// A line a run: its name, its settings and the bits of its metrics' last values.
    fn sha256(&self, corpus: &Corpus) -> Result<String> {
        let mut hash = Sha256::new();
        for (run, config) in self.runs.iter().zip(&self.configs) {
            hash.update(&run.name);
            (0..corpus.settings).for_each(|number| hash.update(format!(" {}", config[Corpus::setting(number)])));
            for key in 0..corpus.metrics {
                let last = run.metrics.get(&Corpus::metric(key)).and_then(|summary| summary.last);
                hash.update(format!(" {:016x}", last.unwrap_or(f64::NAN).to_bits()));
            }
            hash.update("\n");
        }
        Ok(hex(hash))
    }
}

impl Sha for Vec<Point> {
    fn sha256(&self, _: &Corpus) -> Result<String> {
        let mut hash = Sha256::new();
        self.iter().for_each(|point| hash.update(point.value.to_le_bytes()));
        Ok(hex(hash))
    }
}

impl Sha for Vec<u8> {
    fn sha256(&self, _: &Corpus) -> Result<String> {
        Ok(hex(Sha256::new_with_prefix(self)))
    }
}

/// What a process of this program prints.
fn process(database: &Path, arguments: &[String]) -> Result<Vec<u8>> {
    let program = std::env::current_exe().map_err(|error| Error::failed(format!("where is this program: {error}")))?;
    let mut command = Command::new(program);
    command.arg("--registry").arg(database).args(arguments).stdin(Stdio::null());
    let output = command.output().map_err(|error| Error::failed(format!("cannot start a process: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::failed(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("error: ").to_owned()))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn thousandths<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((1e3 * value).round() / 1e3)
}
