//! `export`.

use super::{Context, human};
use crate::error::Result;
use crate::registry::blob::Blobs;
use crate::registry::bundle;
use crate::registry::store::short_id;
use serde_json::json;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo export resnet34_ls --bundle resnet34_ls.zip      all of a run, for `import` and `rerun` on another machine
  resnet-zoo export resnet34_ls --bundle resnet34_ls          the same as a folder

A bundle holds the recipe, the sources, the patch, every metric, the checkpoints, the build record and SHA256SUMS.
JSON: {run, file, bytes}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Id, short id or name of a run that has ended
    run: String,
    /// A new zip (FILE.zip) or a new folder with all of the run
    #[arg(long, value_name = "FILE.zip|FOLDER")]
    bundle: PathBuf,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let listing = reader.find(&arguments.run)?;
    let record = reader.record(listing)?;
    let path = &arguments.bundle;
    bundle::write(path, &record, &Blobs::beside(context.location.database()))?;
    let bytes = size(path);
    if context.json {
        return context.terminal.print_json(&json!({"run": record.facts.uid, "file": path, "bytes": bytes}));
    }
    let (name, id) = (&record.facts.name, short_id(&record.facts.uid));
    context.terminal.print(&format!("{name} {id} is in {}, {}", path.display(), human::bytes(bytes)))
}

/// Bytes of a file, or of all files below a folder.
fn size(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(size(&entry.ok()?.path()))).sum(),
        Err(_) => path.metadata().map_or(0, |metadata| metadata.len()),
    }
}
