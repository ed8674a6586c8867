//! `runs compare`: only what differs, then the results, with seeds as one unit.

mod cost;
mod export;
mod json;
mod page;

use super::run_detail::{flatten, short};
use super::{Context, plot};
use crate::compare::{Difference, Estimate, Group, front, group_by_recipe};
use crate::error::{Error, Result};
use crate::registry::filter::Catalogue;
use crate::registry::run::{Goal, Point, RunDetail};
use crate::registry::store::{Page, Selection, short_id};
use crate::registry::{Filter, Reader};
use cost::Cost;
use resnet_codegen::diagnostic::did_you_mean;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo runs compare resnet34_ls resnet34_no_ls
  resnet-zoo runs compare 2e3f4a5b 91c0d2aa 7b6a5f4e --json
  resnet-zoo runs compare --where 'group = \"seeds\"'                seeds as one: mean, spread, 95 % interval, tests
  resnet-zoo runs compare --where 'tag = \"paper\"' --latex          a table for a paper
  resnet-zoo runs compare --where 'state = completed' --pareto macs
  resnet-zoo runs compare resnet34_ls resnet34_no_ls --curve val.loss

Runs that differ in nothing but the seed are one column: mean and standard deviation, the 95 % interval of the mean (by
Student's t), and how it differs from the first column: by pairs where two seeds or more are shared, else by Welch's
test. A p of the sign-flip test assumes nothing of the values; of few pairs it cannot be small. --each takes runs apart,
and so are runs that were named and would be one column.

JSON: {runs: [{id, name, ..}], settings: {key: [value of each run]}, set_by, metrics: {\"val.top1\": [{last, best, ..}]},
identical, groups, differences, pareto}; docs/json.md says more.";

/// More are no comparison, but a list.
const MOST_RUNS: usize = 1000;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Ids, short ids or names
    #[arg(value_name = "RUN")]
    runs: Vec<String>,
    /// Also the runs that a filter is true of, as of `runs ls`
    #[arg(long = "where", value_name = "FILTER")]
    filter: Option<String>,
    /// Compare by this metric; where not given, by the one that chooses the best checkpoint
    #[arg(long, value_name = "METRIC")]
    metric: Option<String>,
    /// Runs that differ in their seed alone stay apart
    #[arg(long)]
    each: bool,
    /// Say which runs nothing beats in both the metric and this cost
    #[arg(long, value_name = "COST", num_args = 0..=1, default_missing_value = "params")]
    pareto: Option<Cost>,
    /// Draw the curves of this metric
    #[arg(long, value_name = "METRIC")]
    curve: Option<String>,
    /// Print comma-separated values, with all digits
    #[arg(long, conflicts_with_all = ["json", "latex"])]
    csv: bool,
    /// Print a LaTeX table; it needs the package booktabs
    #[arg(long, conflicts_with = "json")]
    latex: bool,
}

/// What differs between runs, and how each did.
struct Comparison {
    runs: Vec<RunDetail>,
    /// Columns: runs that are one unit.
    units: Vec<Unit>,
    /// Dotted key -> the value of each run and who set it, `None` where a run has no such setting.
    settings: BTreeMap<String, Vec<Option<Setting>>>,
    /// Whether every value of every metric is the same, bit for bit.
    identical: bool,
    /// What is better, of every metric for which something is.
    goals: BTreeMap<String, Goal>,
    /// The metric that runs are compared by.
    metric: String,
    /// Of each run: the values of its metrics at the step at which that one was best.
    at_best: Vec<BTreeMap<String, f64>>,
}

/// A column.
struct Unit {
    name: String,
    group: Group,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    value: String,
    /// A file, `--set` or `default`; nobody set what is no setting.
    set_by: Option<String>,
}

/// Which value of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Best,
    AtBest,
    Last,
}

/// A unit against the first one.
struct Contrast {
    metric: String,
    unit: usize,
    difference: Difference,
    /// The t test's p, corrected for the number of units that it was done for.
    p_holm: Option<f64>,
}

/// A place between cost and gain.
struct Spot {
    unit: usize,
    cost: f64,
    gain: f64,
    on_front: bool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let mut reader = context.reader()?;
    let page = arguments.page(&mut reader)?;
    let comparison = Comparison::new(arguments, page, &mut reader)?;
    let pareto = match arguments.pareto {
        Some(cost) => Some((cost, comparison.pareto(cost)?)),
        None => None,
    };
    if context.json {
        return context.terminal.print_json(&comparison.json(pareto.as_ref()));
    }
    if arguments.csv {
        return context.terminal.print(comparison.csv()?.trim_end_matches('\n'));
    }
    if arguments.latex {
        return context.terminal.print(&comparison.latex());
    }
    comparison.print(context)?;
    if let Some((cost, spots)) = &pareto {
        comparison.print_pareto(*cost, spots, context)?;
    }
    if let Some(metric) = &arguments.curve {
        let curves = comparison.curves(metric, &mut reader)?;
        context.terminal.print(&format!("\n{}", plot::draw(metric, &curves, plot::HEIGHT)))?;
    }
    Ok(())
}

impl Arguments {
    fn page(&self, reader: &mut Reader) -> Result<Page> {
        let mut pages = reader.find_all(&self.runs)?;
        if let Some(again) = (1..pages.len()).find(|index| pages[..*index].contains(&pages[*index])) {
            let wanted = &self.runs[again];
            let id = reader.find(wanted)?.id;
            return Err(Error::input(format!("`{wanted}` is the run {id} again; name another, `runs ls` lists them")));
        }
        if let Some(text) = &self.filter {
            let filter = Some(Filter::parse(text, reader)?);
            pages.push(reader.select(&Selection { filter, ..Selection::default() })?);
        }
        let page = Page::join(pages);
        match page.len() {
            0 | 1 => Err(Error::input(format!(
                "a comparison needs two runs or more, not {}; name them, or pass --where FILTER",
                page.len()
            ))),
            2..=MOST_RUNS => Ok(page),
            count => Err(Error::input(format!(
                "{count} runs are too many to compare, {MOST_RUNS} at most; `runs ls` lists more, with --sort and --columns"
            ))),
        }
    }
}

impl Comparison {
    fn new(arguments: &Arguments, page: Page, reader: &mut Reader) -> Result<Self> {
        let listings = reader.listings(&page)?;
        let runs = reader.details(listings)?;
        let goals = reader.goals()?;
        for metric in arguments.metric.iter().chain(&arguments.curve) {
            known_metric(metric, &runs, reader)?;
        }
        let metric = match &arguments.metric {
            Some(metric) if !goals.contains_key(metric) => {
                return Err(Error::input(format!(
                    "of {metric}, nothing is better or worse; compare by another metric"
                )));
            }
            Some(metric) => metric.clone(),
            None => {
                let chosen = runs[0].config.pointer("/checkpoint/best/metric").and_then(Value::as_str);
                chosen.unwrap_or("val.top1").to_owned()
            }
        };
        let at_best = runs.iter().map(|run| match run.listing.metrics.get(&metric).and_then(|of| of.best_step) {
            Some(step) => reader.values_at(&run.listing, step),
            None => Ok(BTreeMap::new()),
        });
        let at_best = at_best.collect::<Result<Vec<_>>>()?;
        let mut groups = group_by_recipe(&runs);
        // One column is no comparison of runs that somebody named.
        if arguments.each || groups.len() == 1 && arguments.filter.is_none() {
            groups = (0..runs.len()).map(|index| Group { members: vec![index], repeated: Vec::new() }).collect();
        }
        let units = groups.into_iter().map(|group| Unit { name: unit_name(&group, &runs), group }).collect();
        let digest = |run: &RunDetail| run.listing.metric_digest.clone();
        let identical = digest(&runs[0]).is_some() && runs.iter().all(|run| digest(run) == digest(&runs[0]));
        Ok(Comparison { settings: differing(&runs), runs, units, identical, goals, metric, at_best })
    }

    /// The names of all metrics of these runs.
    fn metrics(&self) -> BTreeSet<&String> {
        self.runs.iter().flat_map(|run| run.listing.metrics.keys()).collect()
    }

    /// The values of a unit's runs, by seed; NaN where a value was recorded that is no number.
    fn values(&self, unit: usize, metric: &str, which: Which) -> Vec<(u64, f64)> {
        let value = |index: &usize| {
            let listing = &self.runs[*index].listing;
            let summary = listing.metrics.get(metric)?;
            let value = match which {
                Which::Best => summary.best.or(self.goals.contains_key(metric).then_some(f64::NAN))?,
                Which::Last => summary.last.unwrap_or(f64::NAN),
                Which::AtBest => *self.at_best[*index].get(metric)?,
            };
            Some((listing.seed, value))
        };
        self.units[unit].group.members.iter().filter_map(value).collect()
    }

    /// What the values of a unit's runs say together; `None` where there are none, or one is no number.
    fn estimate(&self, unit: usize, metric: &str, which: Which) -> Option<Estimate> {
        let values: Vec<f64> = self.values(unit, metric, which).into_iter().map(|(_, value)| value).collect();
        Estimate::of(&values)
    }

    /// Whether any column is more than one run.
    fn has_seeds(&self) -> bool {
        self.units.iter().any(|unit| unit.group.members.len() > 1)
    }

    /// Every unit against the first, by the best of every metric of an evaluation.
    fn contrasts(&self) -> Vec<Contrast> {
        let mut contrasts = Vec::new();
        for metric in self.metrics().into_iter().filter(|name| self.is_result(name)) {
            let first = self.values(0, metric, Which::Best);
            let differences: Vec<Difference> = (1..self.units.len())
                .map(|unit| Difference::between(&first, &self.values(unit, metric, Which::Best)))
                .collect();
            let corrected = crate::compare::holm(&differences.iter().map(|one| one.p).collect::<Vec<_>>());
            let units = (1..).zip(differences).zip(corrected);
            contrasts.extend(units.map(|((unit, difference), p_holm)| Contrast {
                metric: metric.clone(),
                unit,
                difference,
                p_holm,
            }));
        }
        contrasts
    }

    /// Whether a metric says how good a run is: that of an evaluation, or the one that was asked for.
    fn is_result(&self, metric: &str) -> bool {
        let evaluated = metric.starts_with("val") || metric.starts_with("test");
        self.goals.contains_key(metric) && (evaluated || *metric == self.metric)
    }

    fn pareto(&self, cost: Cost) -> Result<Vec<Spot>> {
        let sign = if self.goals.get(&self.metric) == Some(&Goal::Min) { -1. } else { 1. };
        let mut spots = Vec::new();
        for (index, unit) in self.units.iter().enumerate() {
            let costs = unit.group.members.iter().map(|run| cost.of(&self.runs[*run]));
            let costs = costs.collect::<Result<Option<Vec<f64>>>>()?.unwrap_or_default();
            let gain = self.estimate(index, &self.metric, Which::Best);
            if let (Some(cost), Some(gain)) = (Estimate::of(&costs), gain) {
                spots.push(Spot { unit: index, cost: cost.mean, gain: gain.mean, on_front: false });
            }
        }
        let on_front = front(&spots.iter().map(|spot| (spot.cost, sign * spot.gain)).collect::<Vec<_>>());
        spots.iter_mut().zip(on_front).for_each(|(spot, on_front)| spot.on_front = on_front);
        spots.sort_by(|a, b| a.cost.total_cmp(&b.cost).then((sign * b.gain).total_cmp(&(sign * a.gain))));
        Ok(spots)
    }

    fn curves(&self, metric: &str, reader: &mut Reader) -> Result<Vec<(String, Vec<Point>)>> {
        let mut curves = Vec::new();
        for unit in &self.units {
            // One line a column: that of its first seed.
            let run = &self.runs[unit.group.members[0]].listing;
            let of_seed = if unit.group.members.len() > 1 { format!(", seed {}", run.seed) } else { String::new() };
            curves.push((format!("{}{of_seed}", unit.name), reader.points(run, metric)?));
        }
        Ok(curves)
    }
}

fn known_metric(metric: &str, runs: &[RunDetail], reader: &mut Reader) -> Result<()> {
    if runs.iter().any(|run| run.listing.metrics.contains_key(metric)) {
        return Ok(());
    }
    let all = reader.metrics()?;
    let hint = match did_you_mean(metric, all.iter().map(String::as_str).filter(|name| *name != metric)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("metrics are {}", all.join(", ")),
    };
    Err(Error::input(format!("none of these runs has a metric `{metric}`; {hint}")))
}

fn unit_name(group: &Group, runs: &[RunDetail]) -> String {
    let first = &runs[group.members[0]].listing;
    match group.members.len() {
        1 => format!("{} {}", first.name, short_id(&first.id)),
        seeds => format!("{} ({seeds} seeds)", first.name),
    }
}

/// The settings in which the runs differ.
fn differing(runs: &[RunDetail]) -> BTreeMap<String, Vec<Option<Setting>>> {
    let flat: Vec<BTreeMap<String, Setting>> = runs.iter().map(recipe).collect();
    let keys: BTreeSet<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    let value = |setting: &Option<Setting>| setting.as_ref().map(|setting| setting.value.clone());
    keys.into_iter()
        .map(|key| (key.clone(), flat.iter().map(|run| run.get(key).cloned()).collect::<Vec<_>>()))
        .filter(|(_, settings)| settings.iter().any(|setting| value(setting) != value(&settings[0])))
        .collect()
}

/// Everything that can make two runs differ, as dotted keys.
fn recipe(run: &RunDetail) -> BTreeMap<String, Setting> {
    let set_by = |key: &str| run.provenance.get(key).and_then(Value::as_str).map(str::to_owned);
    let settings = flatten(&run.config).into_iter();
    let mut flat: BTreeMap<String, Setting> =
        settings.map(|(key, value)| (key.clone(), Setting { value, set_by: set_by(&key) })).collect();
    let weights = run.weights.get("sha256").and_then(Value::as_str).map_or("-", short);
    let device = run.attempts.last().map(|attempt| format!("{}, {}", attempt.device, attempt.cpu));
    let facts = [
        ("(spec)", short(&run.spec_sha256).to_owned()),
        ("(weights)", weights.to_owned()),
        ("(data)", short(&run.data_sha256).to_owned()),
        ("(device)", device.unwrap_or_default()),
        ("(build)", format!("{}{}", short(&run.build.git_sha), if run.build.dirty { " + changes" } else { "" })),
        ("(rustc)", run.build.rustc.clone()),
        ("(features)", run.build.features.clone()),
    ];
    flat.extend(facts.map(|(key, value)| (key.to_owned(), Setting { value, set_by: None })));
    flat
}
