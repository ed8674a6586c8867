//! `export`.

use super::run_detail::flatten;
use super::{Context, human};
use crate::error::{Error, Result};
use crate::registry::formats::mlflow::Tracked;
use crate::registry::formats::{self, Series, new_file, new_folder, parquet, tensorboard};
use crate::registry::run::{RunDetail, RunListing};
use crate::registry::store::{mlflow, short_id};
use crate::registry::{Reader, bundle};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo export resnet34_ls --bundle run.zip              all of a run, for `import` and `rerun` elsewhere
  resnet-zoo export resnet34_ls --weights best.safetensors    the best weights, for torchvision and timm
  resnet-zoo export resnet34_ls 2e3f4a5b --csv metrics.csv    also --jsonl and --parquet; `-` is standard output
  resnet-zoo export resnet34_ls 2e3f4a5b --tensorboard logs   then: tensorboard --logdir logs
  resnet-zoo export resnet34_ls --mlflow mlflow.db            then: mlflow ui --backend-store-uri sqlite:///mlflow.db

A bundle holds the recipe, the sources, the patch, every metric, the checkpoints, the build record and SHA256SUMS.
Nothing that exists is overwritten, but --mlflow adds to a file that MLflow made.
JSON: {runs: [id], file, bytes}; nothing where the file is standard output. docs/formats.md says more.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "resnet-zoo export [OPTIONS] <RUN>... --FORM <FILE>")]
pub(super) struct Arguments {
    /// Ids, short ids or names; one for --bundle and --weights
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Form {
    /// A new zip (FILE.zip) or a new folder with all of a run that has ended
    #[arg(long, value_name = "FILE.zip|FOLDER")]
    bundle: Option<PathBuf>,
    /// A new safetensors file with the weights of the best checkpoint
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// A new CSV file with every value: run, run_name, metric, step, value
    #[arg(long, value_name = "FILE|-")]
    csv: Option<PathBuf>,
    /// The same as a line of JSON a value
    #[arg(long, value_name = "FILE|-")]
    jsonl: Option<PathBuf>,
    /// The same as a Parquet file
    #[arg(long, value_name = "FILE")]
    parquet: Option<PathBuf>,
    /// A folder of TensorBoard's, which gets a new folder for each run
    #[arg(long, value_name = "FOLDER")]
    tensorboard: Option<PathBuf>,
    /// MLflow's SQLite file, new or with other runs
    #[arg(long, value_name = "FILE")]
    mlflow: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let mut runs: Vec<RunListing> = Vec::new();
    for wanted in &arguments.runs {
        let listing = reader.find(wanted)?;
        if let Some(known) = runs.iter().find(|known| known.id == listing.id) {
            return Err(Error::input(format!("`{wanted}` is the run {} again", known.id)));
        }
        runs.push(listing);
    }
    let path = write(&arguments.form, &runs, &mut reader, context)?;
    if path == Path::new("-") {
        return Ok(());
    }
    let bytes = size(&path);
    if context.json {
        let ids: Vec<&String> = runs.iter().map(|run| &run.id).collect();
        return context.terminal.print_json(&json!({"runs": ids, "file": path, "bytes": bytes}));
    }
    let names: Vec<String> = runs.iter().map(|run| format!("{} {}", run.name, short_id(&run.id))).collect();
    context.terminal.print(&format!("{}: in {}, {}", names.join(", "), path.display(), human::bytes(bytes)))
}

/// Writes the form that was asked for; where to.
fn write(form: &Form, runs: &[RunListing], reader: &mut Reader, context: &mut Context) -> Result<PathBuf> {
    let blobs = context.location.blobs();
    let one = |option: &str| match runs {
        [run] => Ok(run.clone()),
        _ => Err(Error::input(format!("{option} takes one run, not {}", runs.len()))),
    };
    if let Some(path) = &form.bundle {
        bundle::write(path, &reader.record(one("--bundle")?)?, &blobs)?;
        return Ok(path.clone());
    }
    if let Some(path) = &form.weights {
        let detail = reader.detail(one("--weights")?)?;
        let bytes = blobs.get(&detail.best_checkpoint()?.weights_sha256)?;
        new_file(path, |file| file.write_all(&bytes))?;
        return Ok(path.clone());
    }
    let details = reader.details(runs.to_vec())?;
    if let Some(path) = &form.mlflow {
        let tracked = details.iter().map(|run| {
            let points = reader.series(&run.listing)?.points;
            Ok(Tracked::of(run, flatten(&run.config), points))
        });
        mlflow::export(path, &tracked.collect::<Result<Vec<_>>>()?)?;
        return Ok(path.clone());
    }
    let series = runs.iter().map(|run| reader.series(run)).collect::<Result<Vec<Series>>>()?;
    if let Some(path) = &form.tensorboard {
        details.iter().zip(&series).try_for_each(|(run, series)| to_tensorboard(path, run, series))?;
        return Ok(path.clone());
    }
    type Writer = fn(&[Series], &mut dyn Write) -> std::io::Result<()>;
    let forms: [(&Option<PathBuf>, Writer); 3] = [
        (&form.csv, |series, into| formats::write_csv(series, into)),
        (&form.jsonl, |series, into| formats::write_json_lines(series, into)),
        (&form.parquet, |series, into| parquet::write(series, into)),
    ];
    let (path, write) =
        forms.iter().find_map(|(path, write)| Some((path.as_ref()?, write))).expect("clap wants one of them");
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        write(&series, &mut bytes).map_err(|error| Error::failed(format!("cannot write: {error}")))?;
        context.terminal.print_bytes(&bytes)?;
    } else {
        new_file(path, |file| write(&series, file))?;
    }
    Ok(path.clone())
}

/// A folder below `logs` that TensorBoard shows as one run.
fn to_tensorboard(logs: &Path, run: &RunDetail, series: &Series) -> Result<()> {
    let listing = &run.listing;
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = listing.name.chars().map(plain).collect();
    let began = listing.created_ms as f64 / 1000.0;
    std::fs::create_dir_all(logs)
        .map_err(|error| Error::failed(format!("cannot create {}: {error}", logs.display())))?;
    new_folder(&logs.join(format!("{name}-{}", short_id(&listing.id))), |folder| {
        let file = folder.join(format!("events.out.tfevents.{}.resnet-zoo", listing.created_ms / 1000));
        let experiment = &run.files.first().map(|file| file.text.clone()).unwrap_or_default();
        new_file(&file, |file| tensorboard::write(series, began, listing.seconds, experiment, file))
    })
}

/// Bytes of a file, or of all files below a folder.
fn size(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(size(&entry.ok()?.path()))).sum(),
        Err(_) => path.metadata().map_or(0, |metadata| metadata.len()),
    }
}
