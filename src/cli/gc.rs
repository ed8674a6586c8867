//! `gc`.

use super::table::{Align, Table};
use super::{Context, human};
use crate::error::Result;
use crate::registry::gc;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo gc --dry-run       what would be removed
  resnet-zoo gc                 remove it
  resnet-zoo gc --json | jq .bytes

Removes checkpoint files that no run names any more, files and folders that a killed process left unfinished, and
nothing else: the newest checkpoints of each run, the best one, and all metrics stay. Stores what a run could not
write while another program kept the registry locked. Registries that share a folder keep what they name.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let garbage = gc::collect(&context.location, &context.clock, arguments.dry_run)?;
    if context.json {
        return context.terminal.print_json(&json!({
            "dry_run": arguments.dry_run, "bytes": garbage.bytes(), "spills": garbage.spills, "blobs": garbage.blobs,
            "unfinished": garbage.unfinished, "folders": garbage.folders,
        }));
    }
    let mut table = Table::new(&[("what", Align::Left), ("bytes", Align::Right)], &context.terminal);
    for blob in &garbage.blobs {
        table.row([format!("checkpoint file {}", blob.sha256), blob.bytes.to_string()]);
    }
    for file in &garbage.unfinished {
        table.row([format!("unfinished file {}", file.path.display()), file.bytes.to_string()]);
    }
    for folder in &garbage.folders {
        table.row([format!("folder of no run {}", folder.display()), "0".to_owned()]);
    }
    let count = garbage.blobs.len() + garbage.unfinished.len() + garbage.folders.len();
    if count > 0 {
        context.terminal.print(&table.render())?;
    }
    for spilled in &garbage.spills {
        let verb = if arguments.dry_run { "would be stored" } else { "were stored" };
        context
            .terminal
            .print(&format!("{} transactions that the run {} could not write {verb}", spilled.entries, spilled.run))?;
    }
    let verb = if arguments.dry_run { "would be removed" } else { "removed" };
    context.terminal.print(&format!("{count} things, {} bytes {verb}", human::count(garbage.bytes())))
}
