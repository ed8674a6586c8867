//! `import`.

use super::Context;
use crate::error::{Error, Result};
use crate::registry::bundle::Bundle;
use crate::registry::formats::mlflow::Tracked;
use crate::registry::store::{mlflow, short_id};
use serde_json::json;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo import resnet34_ls.zip
  resnet-zoo import resnet34_ls.zip --registry elsewhere/registry.sqlite3
  resnet-zoo rerun resnet34_ls --verify          does it come out the same here?
  resnet-zoo import --mlflow mlflow.db           every run of MLflow's SQLite file: parameters, metrics, tags, note

A bundle is what `export --bundle` wrote. All of it is checked before anything is written, it is imported whole or not
at all, and importing it twice changes nothing.
JSON: {run, name, imported}, of --mlflow an array of them; `imported` is false where the registry had the run already.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A bundle: a zip or a folder
    #[arg(value_name = "FILE.zip|FOLDER", required_unless_present = "mlflow", conflicts_with = "mlflow")]
    bundle: Option<PathBuf>,
    /// MLflow's SQLite file
    #[arg(long, value_name = "FILE")]
    mlflow: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    if let Some(path) = &arguments.mlflow {
        return from_mlflow(path, context);
    }
    let path = arguments.bundle.as_deref().expect("clap wants one of them");
    let bundle = Bundle::open(path)?;
    let (uid, name) = (bundle.record.facts.uid.clone(), bundle.record.facts.name.clone());
    let imported = bundle.import(&mut context.store()?)?;
    if context.json {
        return context.terminal.print_json(&json!({"run": uid, "name": name, "imported": imported}));
    }
    let id = short_id(&uid);
    match imported {
        true => context.terminal.print(&format!(
            "imported {name} {id}\nnext:\n  resnet-zoo runs show {id}\n  resnet-zoo rerun {id} --verify"
        )),
        false => context.terminal.print(&format!("{name} {id} is here already; nothing was changed")),
    }
}

/// All runs are read and checked before the first is written; each is then written whole.
fn from_mlflow(path: &Path, context: &mut Context) -> Result<()> {
    let of = |run: Tracked| {
        let id = run.id.clone();
        run.record().map_err(|error| Error::input(format!("{}: run {id}: {error}", path.display())))
    };
    let records = mlflow::read(path)?.into_iter().map(of).collect::<Result<Vec<_>>>()?;
    let mut store = context.store()?;
    // A run that went to MLflow from here is whole here, and less there.
    let known = context.reader()?.run_ids()?;
    let mut verdicts = Vec::new();
    for record in &records {
        let imported = !known.contains(&record.facts.uid) && store.import(record, &[])?;
        verdicts.push(json!({"run": record.facts.uid, "name": record.facts.name, "imported": imported}));
    }
    if context.json {
        return context.terminal.print_json(&verdicts);
    }
    let new = verdicts.iter().filter(|verdict| verdict["imported"] == true).count();
    context.terminal.print(&format!(
        "imported {new} runs of {}; {} were here already\nnext:\n  resnet-zoo runs ls",
        path.display(),
        verdicts.len() - new
    ))
}
