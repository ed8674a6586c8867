//! The registry's promises, attacked: processes killed at every call that writes, disks that fail, many writers, power
//! losses, flipped bits. Samples of each run in the everyday suite; all of it, with a table of figures, is
//!
//! ```sh
//! RESNET_ZOO_PROMISES=full cargo test --test it -- promises --nocapture --test-threads 1
//! ```

mod commands;
mod deaths;
mod disk;
mod filesystems;
mod hostile;
mod power;
mod scale;
mod swarm;
mod upkeep;

use crate::it::cli::{json, stderr, stdout, zoo};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zoo::random::{Key, Stream, stream_of};

/// Whether to do all of it.
fn is_full() -> bool {
    std::env::var("RESNET_ZOO_PROMISES").is_ok_and(|wanted| wanted == "full")
}

/// How many: a few every day, or all.
fn count(everyday: usize, full: usize) -> usize {
    if is_full() { full } else { everyday }
}

/// A row of the table of figures.
fn figure(test: &str, what: &str, figures: &str) {
    println!("| {test} | {what} | {figures} |");
}

fn draws(of: &str) -> Stream {
    Stream::new(Key { seed: 20, stream: stream_of(of), step: 0, index: 0 })
}

/// An experiment that trains in a third of a second, and a folder for it.
struct Toy {
    folder: TempDir,
}

const DATA: &str = "model: cifar_resnet20\ninput: 8\nweights: scratch\n\
    data: {source: {embedded: {train: 24, val: 16}}}\n\
    batch_size: 4\neval_batch_size: 8\nsteps: 20\ncheckpoint: {every: {steps: 2}}\n";
const AUGMENT: &str = "augment:\n  \
    train: [{resize: {size: 8}}, {random_crop: {padding: 1}}, {random_horizontal_flip: {}}, normalize]\n  \
    eval: [{resize: {size: 8}}, normalize]\n";

/// What a resume has to restore: accumulation, averages, mixtures, plateaus, early stops, frozen stages, norms,
/// both optimizers, every kind of schedule.
const TOYS: [(&str, &str); 4] = [
    (
        "mixed",
        "  mixup: 0.2\n  cutmix: 1\naccumulate: 2\noptimizer: {sgd: {lr: 0.05, momentum: 0.9}}\n\
         schedule: {cosine: {}, warmup: {steps: 5, start_factor: 0.1}}\nema: {decay: 0.9, warmup: true}\n\
         evaluate: {every: {steps: 5}}\n",
    ),
    (
        "stopped_early",
        "optimizer: {adamw: {lr: 0.01, weight_decay: 0.1}}\nschedule: {one_cycle: {}}\nclip_norm: 1\nlayer_decay: 0.8\n\
         label_smoothing: 0.1\nevaluate: {every: {steps: 3}}\n\
         early_stopping: {metric: val.top5, mode: max, patience: 2, min_delta: 1}\n",
    ),
    (
        "plateau",
        "optimizer: {sgd: {lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.001}}\n\
         schedule: {plateau: {metric: val.loss, mode: min, factor: 0.5, patience: 0, threshold: 0.01}}\n\
         precision: bf16\nworkers: 2\nprefetch: 3\nevaluate: {every: {steps: 2}}\n",
    ),
    (
        "frozen",
        "optimizer: {adamw: {lr: 0.01}}\nschedule: {step: {every: {steps: 7}, gamma: 0.5}}\n\
         freeze: {stages: 1, batch_norm: update}\nema: {decay: 0.5}\naccumulate: 3\ngrad_checkpointing: true\n",
    ),
];

/// How a run ended: equal outcomes are equal in every bit of metrics, final weights and final state.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    state: String,
    reason: Value,
    steps: u64,
    metric_digest: String,
    /// Step, weights and state of the newest checkpoint, and of the best one.
    last: [Value; 3],
    best: [Value; 3],
    replay_mismatches: u64,
}

impl Toy {
    fn new() -> Self {
        let toy = Toy { folder: tempfile::tempdir().expect("a folder") };
        for (name, options) in TOYS {
            fs::write(toy.experiment(name), format!("name: {name}\n{DATA}{AUGMENT}{options}")).expect("written");
        }
        toy
    }

    fn experiment(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.yaml"))
    }

    /// A folder for a registry; its path has no links, so that the faults recognise it.
    fn registry(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("it exists").join(name)
    }

    /// Begins an experiment in the registry of that folder.
    fn run(&self, registry: &Path, experiment: &str) -> Command {
        let mut command = command(registry);
        command.arg("run").arg(self.experiment(experiment));
        command
    }

    /// The outcome of a run that nothing disturbs.
    fn undisturbed(&self, experiment: &str) -> Outcome {
        let registry = self.registry(&format!("undisturbed_{experiment}"));
        stdout(&self.run(&registry, experiment).output().expect("started"));
        outcome(&registry, experiment)
    }

    /// Goes on with the experiment's run until it is completed, from its start where no process got so far as to
    /// record it.
    fn finish(&self, registry: &Path, experiment: &str) -> Outcome {
        let shown = shown(registry, experiment);
        match shown.status.code() {
            Some(0) => {
                let run: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
                assert_ne!(run["state"], "RUNNING", "nobody lives");
                if run["state"] != "COMPLETED" {
                    stdout(&zoo(registry, &["resume", experiment]));
                }
            }
            code => {
                let message = stderr(&shown);
                let is_missing = message.contains("there is no registry") || message.contains("there is no run");
                assert!(code == Some(2) && is_missing, "{code:?} {message}");
                stdout(&self.run(registry, experiment).output().expect("started"));
            }
        }
        outcome(registry, experiment)
    }
}

/// `runs show`, once a server has noticed who died.
fn shown(registry: &Path, run: &str) -> Output {
    let begun = Instant::now();
    loop {
        let shown = zoo(registry, &["runs", "show", run, "--json"]);
        let is_server = crate::it::registry::location(registry).file().is_none();
        let is_running = || String::from_utf8_lossy(&shown.stdout).contains("\"state\": \"RUNNING\"");
        if !is_server || !is_running() || begun.elapsed() > Duration::from_secs(30) {
            return shown;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `resnet-zoo --registry REGISTRY/registry.sqlite3`; arguments follow.
fn command(registry: &Path) -> Command {
    let mut command = crate::it::cli::binary();
    command.args(crate::it::registry::registry_of(registry));
    command
}

fn outcome(registry: &Path, run: &str) -> Outcome {
    let run = json(registry, &["runs", "show", run]);
    let checkpoints = run["checkpoints"].as_array().expect("a list");
    let newest = |role: &str| {
        let kept = checkpoints.iter().find(|kept| kept["role"] == role).unwrap_or(&Value::Null);
        ["step", "weights_sha256", "state_sha256"].map(|key| kept[key].clone())
    };
    Outcome {
        state: run["state"].as_str().expect("text").to_owned(),
        reason: run["reason"].clone(),
        steps: run["steps"].as_u64().expect("a number"),
        metric_digest: run["metric_digest"].as_str().expect("text").to_owned(),
        last: newest("last"),
        best: newest("best"),
        replay_mismatches: run["replay_mismatches"].as_u64().expect("a number"),
    }
}

/// The database finds nothing wrong with a registry, and its summaries are those of its metrics.
fn assert_sound(registry: &Path) {
    let summaries = "SELECT count(*) AS wrong FROM summary LEFT JOIN (
            SELECT run_id, key_id, count(*) AS points, max(step) AS last_step, min(value) AS least, max(value) AS most
            FROM metric GROUP BY run_id, key_id
        ) AS m ON m.run_id = summary.run_id AND m.key_id = summary.key_id
        WHERE m.points IS DISTINCT FROM n OR m.last_step IS DISTINCT FROM summary.last_step
            OR least IS DISTINCT FROM min OR most IS DISTINCT FROM max";
    assert_eq!(json(registry, &["sql", summaries]), serde_json::json!([{"wrong": 0}]));
    if crate::it::registry::location(registry).file().is_none() {
        return;
    }
    let check = json(registry, &["sql", "SELECT * FROM pragma_integrity_check"]);
    assert_eq!(check, serde_json::json!([{"integrity_check": "ok"}]));
    assert_eq!(json(registry, &["sql", "SELECT * FROM pragma_foreign_key_check"]), serde_json::json!([]));
}

/// Makes calls that write fail, or the last ones of a process.
struct Faults<'a> {
    /// Only calls that change something below this folder count.
    root: &'a Path,
    /// Which of them, from 1.
    at: u64,
    /// `before`, `half` or `after`: SIGKILL there; or an errno.
    how: &'a str,
    /// Whether all that follow fail, too.
    rest: bool,
}

impl Faults<'_> {
    fn arm<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let rest = if self.rest { "1" } else { "0" };
        preload(command, self.root)
            .env("FAULT_AT", self.at.to_string())
            .env("FAULT_HOW", self.how)
            .env("FAULT_REST", rest)
    }
}

fn preload<'a>(command: &'a mut Command, root: &Path) -> &'a mut Command {
    command.env("LD_PRELOAD", library()).env("FAULT_ROOT", root)
}

/// How many calls of an undisturbed process change something below `root`.
fn calls(command: &mut Command, root: &Path) -> u64 {
    let (output, calls) = counted(preload(command, root), root);
    stdout(&output);
    calls.expect("nobody kills it")
}

/// What an armed process says, and how many calls it made if it was not killed.
fn counted(command: &mut Command, root: &Path) -> (Output, Option<u64>) {
    let counted = root.with_extension("count");
    let output = command.env("FAULT_COUNT", &counted).output().expect("started");
    // Who is killed while it ends may have begun to write them.
    let ended = output.status.code().is_some();
    let calls = ended.then(|| fs::read_to_string(counted).expect("counted").parse().expect("a number"));
    (output, calls)
}

/// `faults.c`, compiled by the C compiler that SQLite needs, too.
fn library() -> &'static Path {
    static LIBRARY: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("faults.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/promises/faults.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        stdout(&command.args(["-ldl", "-lpthread"]).output().expect("a C compiler"));
        (folder, library)
    });
    &LIBRARY.1
}
