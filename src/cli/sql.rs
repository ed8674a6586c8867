//! `sql`.

use super::Context;
use super::table::{Align, Table};
use crate::error::Result;
use serde_json::{Map, Value};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo sql \"SELECT run_name, best FROM results WHERE metric = 'val.top1' ORDER BY best DESC\"
  resnet-zoo sql \"SELECT step, value FROM metrics WHERE run_name = 'resnet34_ls' AND metric = 'train.loss'\" --json
  resnet-zoo sql \"SELECT name, sql FROM sqlite_schema WHERE type = 'view'\"

On a PostgreSQL server the statement is PostgreSQL's; the views are the same.
Views for people: runs, metrics, results, checkpoints, settings, annotations, tags. The connection is read-only.
JSON: an array with one object a row; a blob is hexadecimal text.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// One statement that begins with SELECT, WITH, VALUES or EXPLAIN
    #[arg(value_name = "STATEMENT")]
    statement: String,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let answer = context.reader()?.query(&arguments.statement)?;
    if context.json {
        let object = |row: &Vec<Value>| answer.columns.iter().cloned().zip(row.iter().cloned()).collect::<Map<_, _>>();
        return context.terminal.print_json(&answer.rows.iter().map(object).collect::<Vec<_>>());
    }
    let is_number = |column: usize| answer.rows.iter().all(|row| row[column].is_number() || row[column].is_null());
    let columns: Vec<(&str, Align)> = answer
        .columns
        .iter()
        .enumerate()
        .map(|(index, name)| (name.as_str(), if is_number(index) { Align::Right } else { Align::Left }))
        .collect();
    let mut table = Table::new(&columns, &context.terminal);
    for row in &answer.rows {
        table.row(row.iter().map(|cell| match cell {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }));
    }
    context.terminal.print(&table.render())
}
