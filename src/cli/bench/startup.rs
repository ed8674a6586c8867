//! `bench startup`.

use super::against::Against;
use super::measure::Effort;
use super::result::BenchResult;
use super::workload::{Workload, WorkloadArguments};
use crate::cli::{Context, tags};
use crate::error::{Error, Result};
use crate::experiment::Precision;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use zoo::params::Params;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench startup resnet34 cat.jpg
  resnet-zoo bench startup resnet50 cat.jpg --weights my.safetensors --json

Each repetition is a process: `predict MODEL --weights FILE IMAGE --json --logits`, from its start to its end. The files
come from the cache of the operating system, as from the second start on; random weights where none are given.
JSON: the line of `bench infer`, with \"startup\" for `bench` and `variant`, and null for `rss_mib`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// A model of the zoo that classifies images
    model: String,
    /// A photo: JPEG, PNG, WebP or GIF
    image: PathBuf,
    /// A checkpoint file
    #[arg(long, value_name = "FILE")]
    weights: Option<String>,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    against: Against,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let workload = Workload::new(&WorkloadArguments {
        model: arguments.model.clone(),
        batch: 1,
        size: None,
        frames: None,
        precision: Precision::F32,
        threads: arguments.threads,
    })?;
    let peers = arguments.against.read()?;
    peers.check(&workload.work("startup", "startup"))?;
    // Removed when it is dropped.
    let folder = TempDir::with_prefix("resnet-zoo-").map_err(|error| Error::failed(format!("no folder: {error}")))?;
    let weights = match &arguments.weights {
        Some(file) => tags::file(workload.entry.card, file)?,
        None => random_weights(&workload, folder.path())?,
    };
    let timing = arguments.effort.measure(|| predict(&workload, &weights, &arguments.image))?;
    let operations = 2 * workload.summary.macs;
    let result = BenchResult::of_processes("startup", "startup", &workload, &timing, operations);
    result.print(&workload, &timing, context)?;
    peers.compare(&result, context)
}

fn random_weights(workload: &Workload, folder: &Path) -> Result<PathBuf> {
    let params = Params::new(0);
    workload.build(&params)?;
    let path = folder.join("weights.safetensors");
    safetensors::serialize_to_file(params.state_dict(), None, &path)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))?;
    Ok(path)
}

/// Classifies an image in a process of its own.
fn predict(workload: &Workload, weights: &Path, image: &Path) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| Error::failed(format!("where is this program: {error}")))?;
    let mut command = Command::new(program);
    command
        .args(["predict", workload.entry.card.name, "--json", "--logits", "--device", "cpu", "--weights"])
        .arg(weights);
    command.args(["--threads", &workload.threads.to_string(), "--"]).arg(image).stdin(Stdio::null());
    let output = command.output().map_err(|error| Error::failed(format!("cannot start a process: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim().strip_prefix("error: ").unwrap_or(message.trim()).to_owned();
    Err(if output.status.code() == Some(2) { Error::input(message) } else { Error::failed(message) })
}
