//! A comparison for people.

use super::{Comparison, Cost, Setting, Spot, Which};
use crate::cli::table::{Align, Table};
use crate::cli::{Context, human};
use crate::compare::{Estimate, Method};
use crate::error::Result;
use crate::registry::RunState;
use crate::registry::run::{RunDetail, is_measured};

impl Comparison {
    pub(super) fn print(&self, context: &mut Context) -> Result<()> {
        let settings = self.settings_table(context);
        match settings {
            None => {
                context.terminal.print("the recipes are the same: no setting, weight, data, seed or build differs")?
            }
            Some(table) => context.terminal.print(&table.render())?,
        }
        context.terminal.print("")?;
        context.terminal.print(&self.results_table(context).render())?;
        if self.has_seeds() && self.units.len() > 1 {
            context.terminal.print(&format!("\nbest values less those of {}", self.units[0].name))?;
            context.terminal.print(&self.differences_table(context).render())?;
        }
        for note in self.notes() {
            context.terminal.print(&format!("\n{note}"))?;
        }
        Ok(())
    }

    fn columns<'a>(&'a self, first: &'a str, align: Align) -> Vec<(&'a str, Align)> {
        let others = self.units.iter().map(move |unit| (unit.name.as_str(), align));
        std::iter::once((first, Align::Left)).chain(others).collect()
    }

    fn settings_table(&self, context: &Context) -> Option<Table> {
        if self.settings.is_empty() {
            return None;
        }
        let mut table = Table::new(&self.columns("setting", Align::Left), &context.terminal);
        for (key, settings) in &self.settings {
            let cells = self.units.iter().map(|unit| {
                let mut texts: Vec<String> = Vec::new();
                for member in &unit.group.members {
                    let text = settings[*member].as_ref().map_or_else(|| "-".to_owned(), with_author);
                    if !texts.contains(&text) {
                        texts.push(text);
                    }
                }
                texts.join(", ")
            });
            table.row(std::iter::once(key.clone()).chain(cells));
        }
        Some(table)
    }

    fn results_table(&self, context: &Context) -> Table {
        let mut table = Table::new(&self.columns("result", Align::Right), &context.terminal);
        table.row(self.each_unit("state", |members| {
            let mut states: Vec<String> = members.iter().map(|run| run.listing.state.to_string()).collect();
            states.dedup();
            states.join(", ")
        }));
        for name in self.metrics().into_iter().filter(|name| !is_measured(name)) {
            let cell =
                |unit: usize, which| spread(name, &self.values(unit, name, which), self.estimate(unit, name, which));
            let mut row = |title: String, which| {
                table.row(std::iter::once(title).chain((0..self.units.len()).map(|unit| cell(unit, which))));
            };
            if self.goals.contains_key(name) {
                row(format!("{name} best"), Which::Best);
            }
            if *name != self.metric && self.at_best.iter().any(|values| values.contains_key(name)) {
                row(format!("{name} at best"), Which::AtBest);
            }
            row(format!("{name} last"), Which::Last);
            if self.has_seeds() && self.is_result(name) {
                let interval = |unit| interval(name, self.estimate(unit, name, Which::Best));
                table.row(std::iter::once(format!("{name} best, 95 %")).chain((0..self.units.len()).map(interval)));
            }
        }
        let mean = |members: &[&RunDetail], value: fn(&RunDetail) -> f64| {
            members.iter().map(|run| value(run)).sum::<f64>() / members.len() as f64
        };
        table.row(self.each_unit("steps", |members| mean(members, |run| run.listing.steps as f64).round().to_string()));
        table.row(self.each_unit("time", |members| human::duration(mean(members, |run| run.listing.seconds))));
        table
    }

    fn each_unit(&self, title: &str, cell: impl Fn(&[&RunDetail]) -> String) -> Vec<String> {
        let cells = self.units.iter().map(|unit| {
            let members: Vec<&RunDetail> = unit.group.members.iter().map(|run| &self.runs[*run]).collect();
            cell(&members)
        });
        std::iter::once(title.to_owned()).chain(cells).collect()
    }

    fn differences_table(&self, context: &Context) -> Table {
        let corrected = self.units.len() > 2;
        let mut columns = vec![
            ("metric", Align::Left),
            ("column", Align::Left),
            ("test", Align::Left),
            ("difference", Align::Right),
            ("95 % interval", Align::Right),
            ("p", Align::Right),
        ];
        if corrected {
            columns.push(("p, Holm", Align::Right));
        }
        columns.push(("p, sign flips", Align::Right));
        let mut table = Table::new(&columns, &context.terminal);
        for contrast in self.contrasts() {
            let difference = &contrast.difference;
            let method = match difference.method {
                Method::Paired => format!("{} pairs", difference.n),
                Method::Welch => "Welch".to_owned(),
                Method::Impossible => "none".to_owned(),
            };
            let signed = |value: Option<f64>| human::difference(&contrast.metric, value);
            let between = match (difference.low, difference.high) {
                (Some(_), Some(_)) => format!("{} to {}", signed(difference.low), signed(difference.high)),
                _ => "-".to_owned(),
            };
            let mut row = vec![
                contrast.metric.clone(),
                self.units[contrast.unit].name.clone(),
                method,
                signed(difference.mean),
                between,
                probability(difference.p),
            ];
            if corrected {
                row.push(probability(contrast.p_holm));
            }
            row.push(probability(difference.p_sign_flip));
            table.row(row);
        }
        table
    }

    /// What a reader should know before believing a number.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.metrics().into_iter().any(|name| *name != self.metric) && self.at_best.iter().any(|at| !at.is_empty()) {
            notes.push(format!("at best: where {} is best", self.metric));
        }
        let unfinished = self.runs.iter().filter(|run| run.listing.state != RunState::Completed).count();
        if unfinished > 0 {
            notes.push(format!("{unfinished} of {} runs did not complete; theirs are values so far", self.runs.len()));
        }
        let repeated: usize = self.units.iter().map(|unit| unit.group.repeated.len()).sum();
        if repeated > 0 {
            notes.push(format!("{repeated} runs repeat the recipe and seed of a newer one, and are not counted twice"));
        }
        if self.has_seeds() {
            if self.units.iter().any(|unit| unit.group.members.len() == 1) {
                notes.push("a column of one run has no spread: nothing tells its difference from chance".to_owned());
            }
            let least = |unit: &super::Unit| unit.group.members.len();
            if self.units.iter().map(least).filter(|seeds| *seeds > 1).min().is_some_and(|seeds| seeds < 4) {
                notes.push(
                    "two or three seeds are few: intervals are wide, and p by sign flips is 0.25 or more".to_owned(),
                );
            }
        }
        if self.identical {
            notes.push("the metrics are identical, bit for bit".to_owned());
        }
        notes
    }

    pub(super) fn print_pareto(&self, cost: Cost, spots: &[Spot], context: &mut Context) -> Result<()> {
        let gain = format!("best {}", self.metric);
        let columns =
            [("run", Align::Left), (cost.name(), Align::Right), (&gain, Align::Right), ("on the front", Align::Left)];
        let mut table = Table::new(&columns, &context.terminal);
        for spot in spots {
            let price = match cost {
                Cost::Time => human::duration(spot.cost),
                Cost::Params | Cost::Macs => human::count(spot.cost.round() as u64),
            };
            let on_front = if spot.on_front { "yes" } else { "" };
            let gain = human::metric(&self.metric, Some(spot.gain));
            table.row([self.units[spot.unit].name.clone(), price, gain, on_front.to_owned()]);
        }
        context.terminal.print(&format!("\n{}", table.render()))?;
        let missing = self.units.len() - spots.len();
        if missing > 0 {
            context.terminal.print(&format!("\n{missing} without the metric or the cost"))?;
        }
        Ok(())
    }
}

/// A value, and in parentheses who set it.
fn with_author(setting: &Setting) -> String {
    match &setting.set_by {
        Some(author) => {
            let file =
                std::path::Path::new(author).file_name().map_or_else(|| author.into(), |name| name.to_string_lossy());
            format!("{} ({file})", setting.value)
        }
        None => setting.value.clone(),
    }
}

/// `87.10 %`, or of several runs `87.10 % ± 0.25 %`: their mean and standard deviation.
fn spread(metric: &str, values: &[(u64, f64)], estimate: Option<Estimate>) -> String {
    match estimate {
        Some(Estimate { mean, sd: Some(sd), .. }) => {
            format!("{} ± {}", human::metric(metric, Some(mean)), human::metric(metric, Some(sd)))
        }
        Some(Estimate { mean, .. }) => human::metric(metric, Some(mean)),
        None if values.is_empty() => "-".to_owned(),
        None if values.len() == 1 => human::metric(metric, Some(values[0].1)),
        None => {
            let lost = values.iter().filter(|(_, value)| !value.is_finite()).count();
            format!("{lost} of {} not finite", values.len())
        }
    }
}

fn interval(metric: &str, estimate: Option<Estimate>) -> String {
    match estimate {
        Some(Estimate { low: Some(low), high: Some(high), .. }) => {
            format!("{} to {}", human::metric(metric, Some(low)), human::metric(metric, Some(high)))
        }
        _ => "-".to_owned(),
    }
}

fn probability(p: Option<f64>) -> String {
    match p {
        None => "-".to_owned(),
        Some(p) if p < 1e-4 => format!("{p:.1e}"),
        Some(p) => format!("{p:.4}"),
    }
}
