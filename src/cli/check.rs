//! `check`.

use super::{Context, specs};
use crate::error::{Error, Result};
use crate::{experiment, sweep};
use resnet_codegen::diagnostic::Sources;
use resnet_codegen::yaml::{self, Value};
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo check my_resnet.yaml                     a spec: every mistake at once, with carets
  resnet-zoo check experiments/*.yaml                 experiments
  resnet-zoo check e.yaml --set optimizer.sgd.lr=0.1  an experiment with overrides

A file that has `model`, `data`, `optimizer` or another key of experiments is read as one, with `experiment`,
`parameters` or another key of sweeps as one of these, and all else as a spec.
JSON: an array of {file, kind: \"spec\" | \"experiment\" | \"sweep\", ok, message}. Exit code 2 where a file is wrong.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Specs or experiments
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Override a value of an experiment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    file: String,
    kind: &'static str,
    ok: bool,
    message: String,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let verdicts: Vec<Verdict> =
        arguments.files.iter().map(|path| verdict(path, &arguments.overrides, context)).collect();
    let wrong: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.ok).collect();
    if context.json {
        context.terminal.print_json(&verdicts)?;
        return match wrong.len() {
            0 => Ok(()),
            wrong => Err(Error::input(format!("{wrong} of {} files are wrong", verdicts.len()))),
        };
    }
    for verdict in verdicts.iter().filter(|verdict| verdict.ok) {
        context.terminal.print(&format!("{}: {}", verdict.file, verdict.message))?;
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => {
            let messages: Vec<&str> = wrong.iter().map(|verdict| verdict.message.as_str()).collect();
            Err(Error::input(messages.join("\n\n")))
        }
    }
}

fn verdict(path: &Path, overrides: &[String], context: &Context) -> Verdict {
    let file = path.display().to_string();
    let text = match specs::read(path) {
        Ok(text) => text,
        Err(message) => return Verdict { file, kind: "unknown", ok: false, message },
    };
    if overrides.is_empty() && says(path, &text, &SWEEP_KEYS) {
        let result = sweep::plan(path);
        let ok = result.is_ok();
        let message = match result {
            Ok(planned) => format!("a sound sweep: {}, {} trials", planned.sweep.name, planned.trials.len()),
            Err(error) => error.to_string(),
        };
        return Verdict { file, kind: "sweep", ok, message };
    }
    if !overrides.is_empty() || says(path, &text, &EXPERIMENT_KEYS) {
        let result = experiment::load(path, overrides).map(|loaded| {
            let experiment = loaded.experiment;
            format!("a sound experiment: {} trains {}", experiment.name, experiment.model)
        });
        let ok = result.is_ok();
        return Verdict { file, kind: "experiment", ok, message: result.unwrap_or_else(|error| error.to_string()) };
    }
    let (result, sources) = specs::compile_text(path, text);
    let ok = result.is_ok();
    let message = match result {
        Ok(compiled) => format!("a sound spec: {}, {} parameters", compiled.spec.name, compiled.summary.params),
        Err(mistakes) if context.terminal.is_colored() && !context.json => mistakes.render_styled(&sources),
        Err(mistakes) => mistakes.render(&sources),
    };
    Verdict { file, kind: "spec", ok, message }
}

/// Keys that only a sweep has.
const SWEEP_KEYS: [&str; 5] = ["experiment", "parameters", "strategy", "seeds", "processes"];
/// Keys that only an experiment has.
const EXPERIMENT_KEYS: [&str; 23] = [
    "seed",
    "model",
    "data",
    "augment",
    "batch_size",
    "eval_batch_size",
    "precision",
    "exact",
    "accumulate",
    "grad_checkpointing",
    "workers",
    "prefetch",
    "epochs",
    "steps",
    "label_smoothing",
    "optimizer",
    "layer_decay",
    "schedule",
    "clip_norm",
    "ema",
    "freeze",
    "evaluate",
    "checkpoint",
];
/// As many files as an experiment may extend.
const MAX_EXTENDS: usize = 16;

/// Whether a file, or what it extends, has one of these keys. A file that is not YAML is reported as a spec would be.
fn says(path: &Path, text: &str, keys: &[&str]) -> bool {
    let (mut path, mut text) = (path.to_path_buf(), text.to_owned());
    for _ in 0..MAX_EXTENDS {
        let mut sources = Sources::default();
        let file = sources.add("", text);
        let Ok(Value::Map(entries)) = yaml::parse(&sources, file).map(|node| node.value) else { return false };
        if entries.iter().any(|(key, _)| keys.contains(&key.name.as_str())) {
            return true;
        }
        let extends = entries.into_iter().find(|(key, _)| key.name == "extends").map(|(_, node)| node.value);
        let Some(Value::Str(extends)) = extends else { return false };
        path = path.parent().map(Path::to_path_buf).unwrap_or_default().join(extends);
        let Ok(extended) = specs::read(&path) else { return false };
        text = extended;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides() {
        let is = |text| says(Path::new("no/folder/x.yaml"), text, &EXPERIMENT_KEYS);
        assert!(is("name: x\nmodel: resnet34\n"));
        assert!(is("extends: base.yaml\nlabel_smoothing: 0\n"));
        assert!(!is("name: x\ndepths: [3, 4, 6, 3]\n"));
        assert!(!is("- a list"));
        assert!(!is("{"));
    }

    #[test]
    fn what_is_extended_decides_too() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("base.yaml"), "model: resnet34\n").expect("written");
        let is = |text| says(&folder.path().join("x.yaml"), text, &EXPERIMENT_KEYS);
        assert!(is("extends: base.yaml\nname: x\n"));
        assert!(!is("extends: x.yaml\n"));
    }
}
