//! `runs compare`: only what differs, then the results side by side.

use super::run_detail::{flatten, short};
use super::table::{Align, Table};
use super::{Context, human};
use crate::error::{Error, Result};
use crate::registry::run::RunDetail;
use crate::registry::store::short_id;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo runs compare resnet34_ls resnet34
  resnet-zoo runs compare 2e3f4a5b 91c0d2aa 7b6a5f4e --json

JSON: {runs: [{id, name, ..}], settings: {key: [value of each run]}, metrics: {\"val.top1\": [{last, best, ..}]},
identical}; `settings` holds only what differs, `identical` says that all metrics are equal bit for bit.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Two or more runs: ids, short ids or names
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<String>,
}

/// What differs between runs, and how each did.
struct Comparison {
    runs: Vec<RunDetail>,
    /// Dotted key -> the value of each run, `None` where a run has no such setting.
    settings: BTreeMap<String, Vec<Option<String>>>,
    /// Whether every value of every metric is the same, bit for bit.
    identical: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let mut runs: Vec<RunDetail> = Vec::new();
    for wanted in &arguments.runs {
        let listing = reader.find(wanted)?;
        if let Some(known) = runs.iter().find(|known| known.listing.id == listing.id) {
            let id = &known.listing.id;
            return Err(Error::input(format!("`{wanted}` is the run {id} again; name another, `runs ls` lists them")));
        }
        runs.push(reader.detail(listing)?);
    }
    let comparison = Comparison::new(runs);
    if context.json { context.terminal.print_json(&comparison.json()) } else { comparison.print(context) }
}

impl Comparison {
    fn new(runs: Vec<RunDetail>) -> Self {
        let flat: Vec<BTreeMap<String, String>> = runs.iter().map(recipe).collect();
        let keys: BTreeSet<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
        let settings = keys
            .into_iter()
            .map(|key| (key.clone(), flat.iter().map(|run| run.get(key).cloned()).collect::<Vec<_>>()))
            .filter(|(_, values)| values.iter().any(|value| *value != values[0]))
            .collect();
        let digest = |run: &RunDetail| run.listing.metric_digest.clone();
        let identical = digest(&runs[0]).is_some() && runs.iter().all(|run| digest(run) == digest(&runs[0]));
        Comparison { runs, settings, identical }
    }

    fn metrics(&self) -> BTreeSet<&String> {
        self.runs.iter().flat_map(|run| run.listing.metrics.keys()).collect()
    }

    fn json(&self) -> Value {
        let metrics: BTreeMap<&String, Vec<_>> = self
            .metrics()
            .into_iter()
            .map(|name| (name, self.runs.iter().map(|run| run.listing.metrics.get(name)).collect()))
            .collect();
        let runs: Vec<_> = self.runs.iter().map(|run| &run.listing).collect();
        json!({"runs": runs, "settings": self.settings, "metrics": metrics, "identical": self.identical})
    }

    fn print(&self, context: &mut Context) -> Result<()> {
        let names: Vec<String> =
            self.runs.iter().map(|run| format!("{} {}", run.listing.name, short_id(&run.listing.id))).collect();
        let columns = |first: &'static str, align| {
            let others = names.iter().map(move |name| (name.as_str(), align));
            std::iter::once((first, Align::Left)).chain(others).collect::<Vec<_>>()
        };
        let mut settings = Table::new(&columns("setting", Align::Left), &context.terminal);
        for (key, values) in &self.settings {
            let values = values.iter().map(|value| value.clone().unwrap_or_else(|| "-".to_owned()));
            settings.row(std::iter::once(key.clone()).chain(values));
        }
        let mut results = Table::new(&columns("result", Align::Right), &context.terminal);
        results.row(self.line("state", |run| run.listing.state.to_string()));
        for name in self.metrics() {
            let summary = |run: &RunDetail| run.listing.metrics.get(name).cloned();
            if self.runs.iter().any(|run| summary(run).is_some_and(|summary| summary.best.is_some())) {
                results.row(self.line(&format!("{name} best"), |run| {
                    human::metric(name, summary(run).and_then(|summary| summary.best))
                }));
            }
            results.row(self.line(&format!("{name} last"), |run| {
                human::metric(name, summary(run).and_then(|summary| summary.last))
            }));
        }
        results.row(self.line("steps", |run| run.listing.steps.to_string()));
        results.row(self.line("time", |run| human::duration(run.listing.seconds)));

        if self.settings.is_empty() {
            context.terminal.print("the recipes are the same: no setting, weight, data, seed or build differs")?;
        } else {
            context.terminal.print(&settings.render())?;
        }
        context.terminal.print("")?;
        context.terminal.print(&results.render())?;
        if self.identical {
            context.terminal.print("\nthe metrics are identical, bit for bit")?;
        }
        Ok(())
    }

    fn line(&self, name: &str, value: impl Fn(&RunDetail) -> String) -> Vec<String> {
        std::iter::once(name.to_owned()).chain(self.runs.iter().map(value)).collect()
    }
}

/// Everything that can make two runs differ, as dotted keys.
fn recipe(run: &RunDetail) -> BTreeMap<String, String> {
    let mut flat: BTreeMap<String, String> = flatten(&run.config).into_iter().collect();
    let weights = run.weights.get("sha256").and_then(Value::as_str).map_or("-", short);
    let device = run.attempts.last().map(|attempt| format!("{}, {}", attempt.device, attempt.cpu));
    let facts = [
        ("(spec)", short(&run.spec_sha256).to_owned()),
        ("(weights)", weights.to_owned()),
        ("(data)", short(&run.data_sha256).to_owned()),
        ("(seed)", run.listing.seed.to_string()),
        ("(device)", device.unwrap_or_default()),
        ("(build)", format!("{}{}", short(&run.build.git_sha), if run.build.dirty { " + changes" } else { "" })),
        ("(rustc)", run.build.rustc.clone()),
        ("(features)", run.build.features.clone()),
    ];
    flat.extend(facts.map(|(key, value)| (key.to_owned(), value)));
    flat
}
