//! `runs diff`: why two runs differ, from what they were made of to what came out.

mod data;
mod layers;

use super::run_detail::short;
use super::terminal::Terminal;
use super::{Context, human};
use crate::error::{Error, Result};
use crate::registry::run::RunDetail;
use crate::registry::store::{Agreement, Disagreement, ExactValue, short_id};
use console::{Alignment, Style, measure_text_width, pad_str, truncate_str};
use serde::Serialize;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo runs diff resnet34_ls resnet34_no_ls
  resnet-zoo runs diff 2e3f4a5b 91c0d2aa --json | jq '.layers[] | select(.same | not) | .layer'

Layers, in the order in which one follows from the other: code, build, experiment, architecture, weights, data, seed,
device, metrics. Of the experiment only keys that differ are shown, with who set each: the file, what it extends, --set,
or the default.
JSON: {a, b, layers: [{layer, same, differences: [{what, a, b, set_by}], notes}], agreement: {values, different, first},
identical}; docs/json.md says more.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Id, short id or name of a run
    a: String,
    /// Of another one
    b: String,
}

/// What two runs are made of at one level, and how it differs.
#[derive(Debug, Serialize)]
struct Layer {
    layer: &'static str,
    same: bool,
    differences: Vec<Difference>,
    /// What a person should know beside the differences.
    notes: Vec<String>,
}

/// Something that is not the same in both runs; `null` where one of them has no such thing.
#[derive(Debug, Serialize)]
struct Difference {
    what: String,
    a: Value,
    b: Value,
    /// Who set each, where somebody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_by: Option<[Option<String>; 2]>,
}

impl Layer {
    fn new(layer: &'static str) -> Self {
        Layer { layer, same: true, differences: Vec::new(), notes: Vec::new() }
    }

    /// Notes a difference, where there is one.
    fn compare(&mut self, what: &str, a: impl Into<Value>, b: impl Into<Value>) {
        let (a, b) = (a.into(), b.into());
        if a != b {
            self.differ(Difference { what: what.to_owned(), a, b, set_by: None });
        }
    }

    fn differ(&mut self, difference: Difference) {
        self.same = false;
        self.differences.push(difference);
    }
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let mut detail = |wanted: &str| -> Result<RunDetail> {
        let listing = reader.find(wanted)?;
        reader.detail(listing)
    };
    let (a, b) = (detail(&arguments.a)?, detail(&arguments.b)?);
    if a.listing.id == b.listing.id {
        let id = &a.listing.id;
        return Err(Error::input(format!("both are the run {id}; name another, `runs ls` lists them")));
    }
    let agreement = reader.agreement(&a.listing, &b.listing)?;
    let layers = [
        layers::code(&a, &b),
        layers::build(&a, &b),
        layers::experiment(&a, &b),
        layers::architecture(&a, &b),
        layers::weights(&a, &b),
        data::layer(&a, &b, &mut reader)?,
        layers::seed(&a, &b),
        layers::device(&a, &b),
        layers::metrics(&a, &b, &agreement),
    ];
    let identical = layers.last().is_some_and(|metrics| metrics.same) && agreement.values > 0;
    if context.json {
        return context.terminal.print_json(&json!({
            "a": a.listing, "b": b.listing, "layers": layers, "agreement": agreement, "identical": identical,
        }));
    }
    print(&a, &b, &layers, &agreement, context)
}

fn print(a: &RunDetail, b: &RunDetail, layers: &[Layer], agreement: &Agreement, context: &mut Context) -> Result<()> {
    let title = |run: &RunDetail| format!("{} {}", run.listing.name, short_id(&run.listing.id));
    let paint = Paint::new(&context.terminal);
    let terminal = &mut context.terminal;
    terminal.print(&format!("a: {}\nb: {}", paint.a.apply_to(title(a)), paint.b.apply_to(title(b))))?;
    terminal.print("")?;
    for layer in layers {
        let verdict = if layer.same { paint.dim.apply_to("same") } else { paint.differs.apply_to("differs") };
        terminal.print(&format!("{} {verdict}", paint.heading.apply_to(format!("{:<12}", layer.layer))))?;
        rows(layer, &paint, terminal)?;
        for note in &layer.notes {
            terminal.print(&format!("  {}", paint.dim.apply_to(printable(note))))?;
        }
    }
    terminal.print(&format!("\n{}", conclusion(layers, agreement)))
}

/// The last sentences: what came out, and what that is recorded may explain it.
fn conclusion(layers: &[Layer], agreement: &Agreement) -> String {
    let (outcome, causes) = layers.split_last().expect("metrics are the last layer");
    let causes: Vec<&str> = causes.iter().filter(|layer| !layer.same).map(|layer| layer.layer).collect();
    let causes = if causes.is_empty() { "nothing that is recorded".to_owned() } else { causes.join(", ") };
    let outcome = match &agreement.first {
        None if agreement.values == 0 => "there is no metric of both to compare".to_owned(),
        None if outcome.same => "the metrics are identical, bit for bit".to_owned(),
        None => "the metrics are identical, bit for bit; how the runs ended is not".to_owned(),
        Some(first) => format!("the metrics differ {}", at(first)),
    };
    format!("{outcome}\nwhat differs before: {causes}")
}

/// `from step 3 on: train.loss is 0.5 in a and 0.25 in b`.
fn at(first: &Disagreement) -> String {
    let value = |value: &Option<ExactValue>| value.map_or("missing".to_owned(), |value| human::exact(value.0));
    let Disagreement { step, metric, a, b } = first;
    format!("from step {} on: {metric} is {} in a and {} in b", step + 1, value(a), value(b))
}

/// The differences of a layer as aligned columns: what, a, b, and who set them.
fn rows(layer: &Layer, paint: &Paint, terminal: &mut Terminal) -> Result<()> {
    const GAP: &str = "  ";
    let cells = |difference: &Difference| {
        let who = difference.set_by.as_ref().map(|[a, b]| {
            let name = |who: &Option<String>| who.clone().unwrap_or_else(|| "-".to_owned());
            if a == b { name(a) } else { format!("{} | {}", name(a), name(b)) }
        });
        [difference.what.clone(), text(&difference.a), text(&difference.b), who.unwrap_or_default()]
    };
    let table: Vec<[String; 4]> = layer.differences.iter().map(cells).collect();
    let mut widths = [0; 4];
    for row in &table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = measure_text_width(cell).max(*width);
        }
    }
    if let Some(whole) = terminal.width() {
        // The values share what the other columns leave.
        let others = widths[0] + widths[3] + 4 * GAP.len();
        let most = (usize::from(whole).saturating_sub(others) / 2).max(12);
        widths[1] = widths[1].min(most);
        widths[2] = widths[2].min(most);
    }
    let styles = [&paint.plain, &paint.a, &paint.b, &paint.dim];
    for row in &table {
        let cells = row.iter().zip(widths).zip(styles).map(|((cell, width), style)| {
            let cell = truncate_str(cell, width, "…");
            style.apply_to(pad_str(&cell, width, Alignment::Left, None)).to_string()
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        terminal.print(&format!("  {}", line.trim_end()))?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if is_hash(text) => short(text).to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// On one line, whatever a file is called.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn is_hash(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What is coloured how.
struct Paint {
    heading: Style,
    plain: Style,
    dim: Style,
    differs: Style,
    a: Style,
    b: Style,
}

impl Paint {
    fn new(terminal: &Terminal) -> Self {
        let style = || Style::new().force_styling(terminal.is_colored());
        Paint {
            heading: style().bold(),
            plain: style(),
            dim: style().dim(),
            differs: style().yellow(),
            a: style().red(),
            b: style().green(),
        }
    }
}
