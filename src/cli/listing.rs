//! `runs ls`.

use super::table::{Align, Table};
use super::{Context, human};
use crate::error::{Error, Result};
use crate::registry::filter::{self, Catalogue, Field, Kind, Operand, Statistic};
use crate::registry::store::{Cell, Page, Selection, short_id};
use crate::registry::{Filter, Reader};
use serde_json::{Map, Value, json};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo runs ls
  resnet-zoo runs ls 'val.top1 > 0.85 and (model = \"resnet34\" or tag = \"baseline\")'
  resnet-zoo runs ls 'state = crashed or last(train.loss) is nan'
  resnet-zoo runs ls 'config.optimizer.adamw.lr > 1e-4 and age < 7d' --sort 'val.top1 desc, created'
  resnet-zoo runs ls --columns 'name, seed, val.top1, last(val.loss), config.label_smoothing' --csv
  resnet-zoo runs ls --limit 20 --after 2e3f4a5b

A metric alone is the best value of a run, as in the list: the least loss, the greatest rate; `last(val.top1)` is the
newest, and there are `min`, `max` and `count`. A comparison with what a run does not have is false, `not` of it true.
Operators: = != < <= > >= in like ilike between is, and or not (). Text in quotes; like has % and _. A name that is no
word is put in backquotes. 85%, 25M, 2h30m and 2026-11-25 are numbers, times and days (UTC).

A run that says RUNNING is alive: one whose process died is shown as CRASHED. Archived runs are shown with --archived.
JSON: an array of {id, name, experiment, model, state, steps, seconds, metrics: {\"val.top1\": {last, last_step, best,
best_step}}, ..}, newest first; with --columns of objects with these keys. docs/json.md says more.";

/// Runs of a table, unless somebody asks for more or less.
const PAGE: usize = 50;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Only runs that this is true of
    filter: Vec<String>,
    /// Only runs of this model
    #[arg(long)]
    model: Option<String>,
    /// By fields or metrics, each with `asc` (the default) or `desc`; what is missing comes last
    #[arg(long, value_name = "KEYS", allow_hyphen_values = true)]
    sort: Option<String>,
    /// These columns: fields, metrics or settings
    #[arg(long, value_name = "COLUMNS")]
    columns: Option<String>,
    /// At most so many; a table has 50, JSON and CSV have all
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Leave out the first N
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: usize,
    /// Only those that come after this run, the last one of the page before
    #[arg(long, value_name = "RUN")]
    after: Option<String>,
    /// Also runs that were put away
    #[arg(long)]
    archived: bool,
    /// Print comma-separated values, with all digits
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// A column: what stands above it, and what in it.
type Column = (String, Operand);

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let selection = arguments.selection(&mut reader)?;
    let columns = match &arguments.columns {
        Some(text) => Some(filter::columns(text, &mut reader)?),
        None => None,
    };
    let all = match &arguments.after {
        Some(run) => {
            let run = reader.find(run)?;
            reader.select_after(&selection, &run)?
        }
        None => reader.select(&selection)?,
    };
    let for_programs = context.json || arguments.csv;
    let page = all.cut(arguments.offset, arguments.limit.or((!for_programs).then_some(PAGE)));
    if context.json {
        return match columns {
            None => context.terminal.print_json(&reader.listings(&page)?),
            Some(columns) => context.terminal.print_json(&objects(&mut reader, &page, &columns)?),
        };
    }
    if arguments.csv {
        let columns = columns.map_or_else(|| every_column(&mut reader), Ok)?;
        return context.terminal.print(csv(&mut reader, &page, &columns)?.trim_end_matches('\n'));
    }
    if page.is_empty() {
        let asks = selection.filter.is_some();
        let every = reader.select(&Selection { archived: true, ..Selection::default() })?.total;
        return context.terminal.print(match (all.total, every) {
            (1.., _) => "no runs there: the list is shorter",
            (0, 1..) if asks => "no runs are like that; `resnet-zoo runs ls --archived` shows all",
            (0, 1..) => "no runs; `resnet-zoo runs ls --archived` shows those that were put away",
            (0, 0) => "no runs; `resnet-zoo run EXPERIMENT` makes one",
        });
    }
    let table = table(&mut reader, &page, columns, context)?;
    context.terminal.print(&table)?;
    let shown = page.before + page.len();
    if page.len() < page.total {
        let more = match (shown < page.total, reader.listings(&page.cut(page.len() - 1, None))?.pop()) {
            (true, Some(last)) => format!("; the next with --after {}", short_id(&last.id)),
            _ => String::new(),
        };
        let first = page.before + 1;
        context.terminal.print(&format!("\nruns {first} to {shown} of {}{more}", page.total))?;
    }
    Ok(())
}

impl Arguments {
    fn selection(&self, reader: &mut Reader) -> Result<Selection> {
        let text = self.filter.join(" ");
        let mut parts = Vec::new();
        if !text.trim().is_empty() {
            parts.push(Filter::parse(&text, reader)?);
        }
        if let Some(model) = &self.model {
            let is_model = filter::Test::Compare(filter::Comparison::Equal, filter::Value::Text(model.clone()));
            parts.push(Filter::Test(Operand::Field(Field::Model), is_model));
        }
        let sort = match &self.sort {
            Some(text) => filter::sort_order(text, reader)?,
            None => Vec::new(),
        };
        let filter = (!parts.is_empty()).then_some(Filter::All(parts));
        Ok(Selection { filter, sort, archived: self.archived })
    }
}

fn table(reader: &mut Reader, page: &Page, columns: Option<Vec<Column>>, context: &Context) -> Result<String> {
    let chosen = columns.is_some();
    let mut columns = columns.unwrap_or_else(default_columns);
    let mut rows = reader.cells(page, &operands(&columns))?;
    if !chosen {
        // Most people have no tags; a column of dashes says nothing.
        let is_bare = |column: usize| {
            rows.iter().all(|row| row[column] == Cell::Missing || row[column] == Cell::List(Vec::new()))
        };
        let dropped: Vec<usize> = (0..columns.len())
            .filter(|at| matches!(columns[*at].1, Operand::Field(Field::Tag | Field::Group)) && is_bare(*at))
            .collect();
        for column in dropped.into_iter().rev() {
            columns.remove(column);
            rows.iter_mut().for_each(|row| drop(row.remove(column)));
        }
    }
    let headers: Vec<(&str, Align)> = columns.iter().map(|(name, operand)| (name.as_str(), align(operand))).collect();
    let mut table = Table::new(&headers, &context.terminal);
    let now = context.clock.now_ms();
    for row in &rows {
        table.row(columns.iter().zip(row).map(|((_, operand), cell)| for_people(operand, cell, now)));
    }
    Ok(table.render())
}

fn default_columns() -> Vec<Column> {
    let field = |name: &str, field| (name.to_owned(), Operand::Field(field));
    let top1 = Operand::Metric { name: "val.top1".to_owned(), statistic: Statistic::Best };
    vec![
        field("id", Field::Id),
        field("name", Field::Name),
        field("model", Field::Model),
        field("state", Field::State),
        ("best val.top1".to_owned(), top1),
        field("epochs", Field::Epochs),
        field("steps", Field::Steps),
        field("time", Field::Duration),
        field("created", Field::Created),
        field("group", Field::Group),
        field("tags", Field::Tag),
    ]
}

/// All fields, and the best and last value of every metric.
fn every_column(reader: &mut Reader) -> Result<Vec<Column>> {
    // How long ago depends on when one asks.
    let fields = Field::ALL.iter().filter(|field| **field != Field::Age);
    let mut columns: Vec<Column> = fields.map(|field| (field.name().to_owned(), Operand::Field(*field))).collect();
    for name in reader.metrics()? {
        for (function, statistic) in [("best", Statistic::Best), ("last", Statistic::Last)] {
            columns.push((format!("{function}({name})"), Operand::Metric { name: name.clone(), statistic }));
        }
    }
    Ok(columns)
}

fn operands(columns: &[Column]) -> Vec<Operand> {
    columns.iter().map(|(_, operand)| operand.clone()).collect()
}

fn align(operand: &Operand) -> Align {
    match operand {
        Operand::Metric { .. } | Operand::Config(_) => Align::Right,
        Operand::Field(field) => match field.kind() {
            Kind::Number | Kind::Duration | Kind::Time => Align::Right,
            _ => Align::Left,
        },
    }
}

/// A cell with its unit.
fn for_people(operand: &Operand, cell: &Cell, now_ms: i64) -> String {
    match (operand, cell) {
        (Operand::Field(Field::Id), Cell::Text(id)) => short_id(id).to_owned(),
        (Operand::Field(Field::Created), Cell::Integer(ms)) => {
            human::age(now_ms, i64::try_from(*ms).unwrap_or(i64::MAX))
        }
        (Operand::Field(Field::Epochs), Cell::Number(epochs)) => format!("{epochs:.1}"),
        (Operand::Field(Field::Age | Field::Duration), cell) => {
            number(cell).map_or_else(|| "-".to_owned(), human::duration)
        }
        (Operand::Field(Field::Params | Field::TrainedParams), Cell::Integer(count)) => {
            human::count(u64::try_from(*count).unwrap_or(0))
        }
        (Operand::Metric { statistic: Statistic::Count, .. }, cell) => exact(cell),
        (Operand::Metric { name, .. }, cell) => human::metric(name, number(cell)),
        (_, Cell::Missing) => "-".to_owned(),
        (_, cell) => exact(cell),
    }
}

fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Number(number) => Some(*number),
        Cell::Integer(number) => Some(*number as f64),
        _ => None,
    }
}

/// A cell with all its digits; nothing where there is none.
fn exact(cell: &Cell) -> String {
    match cell {
        Cell::Missing => String::new(),
        Cell::Number(number) => number.to_string(),
        Cell::Integer(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
        Cell::Bool(value) => value.to_string(),
        Cell::List(items) => items.join(","),
        Cell::Json(value) => value.to_string(),
    }
}

fn csv(reader: &mut Reader, page: &Page, columns: &[Column]) -> Result<String> {
    let failed = |error: csv::Error| Error::failed(format!("cannot write CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|(name, _)| name)).map_err(failed)?;
    for row in reader.cells(page, &operands(columns))? {
        let cells = columns.iter().zip(&row).map(|((_, operand), cell)| match (operand, cell) {
            (Operand::Field(Field::Created), Cell::Integer(ms)) => {
                human::timestamp(i64::try_from(*ms).unwrap_or(i64::MAX))
            }
            (_, cell) => exact(cell),
        });
        writer.write_record(cells).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| failed(error.into_error().into()))?;
    Ok(String::from_utf8(bytes).expect("made of texts"))
}

fn objects(reader: &mut Reader, page: &Page, columns: &[Column]) -> Result<Vec<Map<String, Value>>> {
    let rows = reader.cells(page, &operands(columns))?;
    let object = |row: Vec<Cell>| {
        let values = columns.iter().zip(row).map(|((name, operand), cell)| {
            let value = match (operand, cell) {
                (Operand::Field(Field::Created), Cell::Integer(ms)) => {
                    json!(human::timestamp(i64::try_from(ms).unwrap_or(i64::MAX)))
                }
                (_, Cell::Missing) => Value::Null,
                (_, Cell::Number(number)) => json!(number),
                (_, Cell::Integer(number)) => i64::try_from(number).map_or_else(|_| json!(number as u64), |n| json!(n)),
                (_, Cell::Text(text)) => json!(text),
                (_, Cell::Bool(value)) => json!(value),
                (_, Cell::List(items)) => json!(items),
                (_, Cell::Json(value)) => value,
            };
            (name.clone(), value)
        });
        values.collect()
    };
    Ok(rows.into_iter().map(object).collect())
}
