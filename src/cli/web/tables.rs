//! The report's figures as tables for other programs.

use super::story::{Run, Story};
use crate::cli::human;
use crate::cli::latex::escaped;
use crate::error::{Error, Result};
use crate::registry::run::Goal;
use crate::registry::store::short_id;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Comma-separated values: a line a run, with what differs, and of each metric the best and the last value in all digits.
///
/// # Errors
/// None that is known.
pub(super) fn csv(story: &Story) -> Result<String> {
    let failed = |error: csv::Error| Error::failed(format!("cannot write CSV: {error}"));
    let metrics = metrics(story);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fixed = ["id", "name", "model", "state", "seed", "steps", "seconds"].map(str::to_owned);
    let settings = story.settings.iter().map(|setting| setting.key.clone());
    let columns = metrics.iter().flat_map(|name| [format!("best({name})"), format!("last({name})")]);
    writer.write_record(fixed.into_iter().chain(settings).chain(columns)).map_err(failed)?;
    for (i, run) in story.runs.iter().enumerate() {
        let listing = &run.listing;
        let mut cells = vec![
            listing.id.clone(),
            listing.name.clone(),
            listing.model.clone(),
            listing.state.to_string(),
            listing.seed.to_string(),
            listing.steps.to_string(),
            listing.seconds.to_string(),
        ];
        cells.extend(story.settings.iter().map(|setting| setting.values[i].clone().unwrap_or_default()));
        for name in &metrics {
            let summary = listing.metrics.get(*name);
            let values = [summary.and_then(|summary| summary.best), summary.and_then(|summary| summary.last)];
            cells.extend(values.map(|value| value.map(human::exact).unwrap_or_default()));
        }
        writer.write_record(cells).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| failed(error.into_error().into()))?;
    Ok(String::from_utf8(bytes).expect("made of texts"))
}

/// A table of the `booktabs` package: a line a run, with what differs, and the best value of each validation metric, the best
/// run's in bold.
pub(super) fn latex(story: &Story) -> String {
    let measured: Vec<&String> = metrics(story)
        .into_iter()
        .filter(|name| name.starts_with("val.") && story.runs.iter().any(|run| best(run, name).is_some()))
        .collect();
    let settings: Vec<&super::story::Setting> = story.settings.iter().filter(|setting| setting.key != "name").collect();
    let mut text = String::from("% \\usepackage{booktabs}\n");
    let columns = format!("ll{}{}", "l".repeat(settings.len()), "r".repeat(measured.len()));
    let mut line =
        |cells: Vec<String>| writeln!(text, "{} \\\\", cells.join(" & ")).expect("a String takes everything");
    let mut header = vec!["run".to_owned(), "model".to_owned()];
    header.extend(settings.iter().map(|setting| escaped(&setting.key)));
    header.extend(measured.iter().map(|name| escaped(name)));
    line(header);
    for (i, run) in story.runs.iter().enumerate() {
        let listing = &run.listing;
        let mut cells =
            vec![format!("{} ({})", escaped(&listing.name), short_id(&listing.id)), escaped(&listing.model)];
        cells.extend(settings.iter().map(|setting| setting.values[i].as_deref().map_or("--".to_owned(), escaped)));
        for name in &measured {
            let others = || story.runs.iter().filter_map(|other| best(other, name));
            let is_best = |value: f64| match run.listing.metrics[*name].goal {
                Some(Goal::Min) => others().all(|other| value <= other),
                Some(Goal::Max) => others().all(|other| value >= other),
                None => false,
            };
            cells.push(match best(run, name) {
                None => "--".to_owned(),
                Some(value) => {
                    let shown = escaped(&human::metric(name, Some(value)));
                    if story.runs.len() > 1 && is_best(value) { format!("\\textbf{{{shown}}}") } else { shown }
                }
            });
        }
        line(cells);
    }
    let mut lines = text.lines();
    let (package, header) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let rows: Vec<&str> = lines.collect();
    format!(
        "{package}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\n\\midrule\n{}\n\\bottomrule\n\\end{{tabular}}\n",
        rows.join("\n")
    )
}

fn metrics(story: &Story) -> BTreeSet<&String> {
    story.runs.iter().flat_map(|run| run.listing.metrics.keys()).collect()
}

fn best(run: &Run, name: &str) -> Option<f64> {
    run.listing.metrics.get(name)?.best.filter(|value| value.is_finite())
}
