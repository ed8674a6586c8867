//! `import`.

use super::Context;
use crate::error::Result;
use crate::registry::bundle::Bundle;
use crate::registry::store::short_id;
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo import resnet34_ls.zip
  resnet-zoo import resnet34_ls.zip --registry elsewhere/registry.sqlite3
  resnet-zoo rerun resnet34_ls --verify                        does it come out the same here?

A bundle is what `export --bundle` wrote. All of it is checked before anything is written, it is imported whole or not
at all, and importing it twice changes nothing.
JSON: {run, name, imported}; `imported` is false where the registry had the run already.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A bundle: a zip or a folder
    #[arg(value_name = "FILE.zip|FOLDER")]
    bundle: PathBuf,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let bundle = Bundle::open(&arguments.bundle)?;
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
