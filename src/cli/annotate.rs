//! `runs tag`, `untag`, `group`, `note`, `archive` and `unarchive`.

use super::Context;
use super::chosen::Chosen;
use crate::error::{Error, Result};
use crate::registry::annotations::Change;
use serde_json::json;

const TAG_EXAMPLES: &str = "\
Examples:
  resnet-zoo runs tag baseline resnet34_ls 2e3f4a5b
  resnet-zoo runs tag good,paper --where 'val.top1 > 0.87 and state = completed'
  resnet-zoo runs ls 'tag = \"baseline\"'

JSON: {runs, changed}: how many were meant, and how many had it not yet.";

#[derive(Debug, clap::Args)]
#[command(after_help = TAG_EXAMPLES)]
pub(super) struct TagArguments {
    /// A tag, or several with commas between them
    #[arg(value_name = "TAG")]
    tags: String,
    #[command(flatten)]
    chosen: Chosen,
}

const UNTAG_EXAMPLES: &str = "\
Examples:
  resnet-zoo runs untag baseline resnet34_ls
  resnet-zoo runs untag paper --where 'tag = \"paper\"'";

#[derive(Debug, clap::Args)]
#[command(after_help = UNTAG_EXAMPLES)]
pub(super) struct UntagArguments {
    /// A tag, or several with commas between them
    #[arg(value_name = "TAG")]
    tags: String,
    #[command(flatten)]
    chosen: Chosen,
}

const GROUP_EXAMPLES: &str = "\
Examples:
  resnet-zoo runs group ablation resnet34_ls resnet34_no_ls
  resnet-zoo runs group --clear resnet34_ls
  resnet-zoo runs ls 'group = \"ablation\"'";

#[derive(Debug, clap::Args)]
#[command(after_help = GROUP_EXAMPLES)]
pub(super) struct GroupArguments {
    /// Take them out of their group; no GROUP is named then
    #[arg(long)]
    clear: bool,
    /// The group, then the runs
    #[arg(value_name = "GROUP RUN")]
    words: Vec<String>,
    /// Runs that a filter is true of, as of `runs ls`
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<String>,
}

const NOTE_EXAMPLES: &str = "\
Examples:
  resnet-zoo runs note 'the loss jumps in epoch 3' resnet34_ls
  resnet-zoo runs note --clear resnet34_ls";

#[derive(Debug, clap::Args)]
#[command(after_help = NOTE_EXAMPLES)]
pub(super) struct NoteArguments {
    /// Forget the note; no TEXT is given then
    #[arg(long)]
    clear: bool,
    /// The text, then the runs
    #[arg(value_name = "TEXT RUN")]
    words: Vec<String>,
    /// Runs that a filter is true of, as of `runs ls`
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<String>,
}

const ARCHIVE_EXAMPLES: &str = "\
Examples:
  resnet-zoo runs archive 2e3f4a5b 7b6a5f4e
  resnet-zoo runs archive --where 'state = failed and age > 30d'
  resnet-zoo runs ls archived

Nothing is removed: `runs show`, `resume` and `sql` find the runs as before, and `unarchive` brings them back.";

#[derive(Debug, clap::Args)]
#[command(after_help = ARCHIVE_EXAMPLES)]
pub(super) struct ArchiveArguments {
    #[command(flatten)]
    chosen: Chosen,
}

const UNARCHIVE_EXAMPLES: &str = "\
Examples:
  resnet-zoo runs unarchive 2e3f4a5b
  resnet-zoo runs unarchive --where 'archived and tag = \"paper\"'";

#[derive(Debug, clap::Args)]
#[command(after_help = UNARCHIVE_EXAMPLES)]
pub(super) struct UnarchiveArguments {
    #[command(flatten)]
    chosen: Chosen,
}

pub(super) fn tag(arguments: &TagArguments, context: &mut Context) -> Result<()> {
    let change = Change { add_tags: several(&arguments.tags), ..Change::default() };
    apply(change, &arguments.chosen, context)
}

pub(super) fn untag(arguments: &UntagArguments, context: &mut Context) -> Result<()> {
    let change = Change { remove_tags: several(&arguments.tags), ..Change::default() };
    apply(change, &arguments.chosen, context)
}

pub(super) fn group(arguments: &GroupArguments, context: &mut Context) -> Result<()> {
    let (group, chosen) = first_word("GROUP", arguments.clear, &arguments.words, arguments.filter.as_ref())?;
    apply(Change { group: Some(group), ..Change::default() }, &chosen, context)
}

pub(super) fn note(arguments: &NoteArguments, context: &mut Context) -> Result<()> {
    let (note, chosen) = first_word("TEXT", arguments.clear, &arguments.words, arguments.filter.as_ref())?;
    apply(Change { note: Some(note), ..Change::default() }, &chosen, context)
}

pub(super) fn archive(arguments: &ArchiveArguments, context: &mut Context) -> Result<()> {
    apply(Change { archived: Some(true), ..Change::default() }, &arguments.chosen, context)
}

pub(super) fn unarchive(arguments: &UnarchiveArguments, context: &mut Context) -> Result<()> {
    apply(Change { archived: Some(false), ..Change::default() }, &arguments.chosen, context)
}

fn several(tags: &str) -> Vec<String> {
    tags.split(',').map(|tag| tag.trim().to_owned()).collect()
}

/// The new value, of which there is none with --clear, and the runs after it.
fn first_word(what: &str, clear: bool, words: &[String], filter: Option<&String>) -> Result<(Option<String>, Chosen)> {
    let (value, runs) = match (clear, words) {
        (true, runs) => (None, runs),
        (false, [value, runs @ ..]) => (Some(value.clone()), runs),
        (false, []) => return Err(Error::input(format!("say {what} and then the runs, or --clear and the runs"))),
    };
    Ok((value, Chosen { runs: runs.to_vec(), filter: filter.cloned() }))
}

fn apply(change: Change, chosen: &Chosen, context: &mut Context) -> Result<()> {
    let change = change.checked()?;
    let page = chosen.page(&mut context.reader()?)?;
    let changed = context.store()?.annotate(&page, &change)?;
    if context.json {
        return context.terminal.print_json(&json!({"runs": page.len(), "changed": changed}));
    }
    let runs = if page.len() == 1 { "run" } else { "runs" };
    context.terminal.print(&format!("{changed} of {} {runs} changed", page.len()))
}
