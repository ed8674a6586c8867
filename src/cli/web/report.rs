//! `report`.

use super::evaluation::Evaluation;
use super::story::Story;
use super::{page, tables};
use crate::cli::{Context, device};
use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::registry::Reader;
use crate::registry::run::RunDetail;
use crate::task::{self, Classify};
use crate::train::task::Task;
use candle_core::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo report resnet34_ls                                  report.html, report.csv and report.tex
  resnet-zoo report resnet34_ls resnet34 -o pair.html
  resnet-zoo report 2e3f4a5b --no-evaluation                     what the registry holds alone: no data, no network

The page is one file that needs no network: curves with smoothing and a log scale, the settings that differ, the
confusion matrix, figures by class and the worst mistakes of each run's best checkpoint on its validation data, and the
architecture. Beside it lie the same figures as CSV and as a LaTeX table.
JSON: {page, csv, latex, runs, evaluated}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// Runs: ids, short ids or names
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// Where to write the page
    #[arg(short, long, default_value = "report.html", value_name = "FILE")]
    output: PathBuf,
    /// Leave out what needs the data: confusion matrix, figures by class, mistakes
    #[arg(long)]
    no_evaluation: bool,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

pub(in crate::cli) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    if arguments.output.extension().is_none_or(|extension| extension != "html" && extension != "htm") {
        return Err(Error::input(format!("{} must end in .html", arguments.output.display())));
    }
    let device = device::choose(&arguments.device)?;
    device::set_threads(arguments.threads)?;
    let mut reader = context.reader()?;
    let details = reader.details_of(&arguments.runs)?;
    let mut story = Story::read(&mut reader, &details)?;
    let mut evaluated = 0;
    for (run, detail) in story.runs.iter_mut().zip(&details).filter(|_| !arguments.no_evaluation) {
        match evaluate(&reader, detail, &device) {
            Ok(evaluation) => {
                run.evaluation = Some(evaluation);
                evaluated += 1;
            }
            // The data may be on another machine, and everything else is worth having; the page says why.
            Err(error) => {
                context.say(&format!("warning: {} is not evaluated: {error}", run.listing.name))?;
                run.evaluation_missing = Some(error.to_string());
            }
        }
    }
    let names: Vec<&str> = story.runs.iter().map(|run| run.listing.name.as_str()).collect();
    let title = names.join(", ");
    let (csv, latex) = (arguments.output.with_extension("csv"), arguments.output.with_extension("tex"));
    write(&arguments.output, &page::alone(&title, &story))?;
    write(&csv, &tables::csv(&story)?)?;
    write(&latex, &tables::latex(&story))?;
    if context.json {
        return context.terminal.print_json(&json!({
            "page": arguments.output, "csv": csv, "latex": latex, "runs": story.runs.len(), "evaluated": evaluated,
        }));
    }
    context.terminal.print(&format!(
        "{}, and beside it {} and {}",
        arguments.output.display(),
        csv.file_name().unwrap_or_default().display(),
        latex.file_name().unwrap_or_default().display()
    ))
}

/// What the run's best checkpoint does on its validation data.
fn evaluate(reader: &Reader, detail: &RunDetail, device: &Device) -> Result<Evaluation> {
    let blobs = reader.blobs();
    let weights = blobs.verified(&detail.best_checkpoint()?.weights_sha256)?;
    let experiment = Experiment::from_canonical(&detail.canonical)?;
    let task: Classify = task::of_file(&experiment, &weights, device)?;
    if task.data_sha256() != detail.data_sha256 {
        return Err(Error::failed("its data is no longer what it was trained on"));
    }
    let bar = progress(&detail.listing.name, task.samples().1);
    let predictions = task.predictions(&mut |done| {
        bar.set_position(done as u64);
        Ok(true)
    })?;
    bar.finish_and_clear();
    let predictions = predictions.expect("it ends early only where it is told to");
    Evaluation::new(&predictions, task.val.dataset())
}

fn progress(name: &str, samples: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("evaluate {prefix} {bar:30} {pos}/{len} {eta}").expect("a valid template");
    let bar = ProgressBar::with_draw_target(Some(samples as u64), ProgressDrawTarget::stderr());
    bar.with_style(style).with_prefix(name.replace(char::is_control, " "))
}

/// Writes a whole file or none.
fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        #[cfg(unix)]
        {
            // Others may read it, as any file that somebody writes; a temporary file is its owner's alone.
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.persist(path).map(drop).map_err(|error| error.error)
    });
    written.map_err(|error| Error::input(format!("cannot write {}: {error}", path.display())))
}
