//! A comparison as CSV, and as a table for a paper.

use super::{Comparison, Which};
use crate::cli::human;
use crate::cli::latex::escaped;
use crate::compare::Estimate;
use crate::error::{Error, Result};
use crate::registry::run::Goal;
use std::collections::BTreeMap;

/// More settings than these make no table for a paper.
const LATEX_SETTINGS: usize = 6;

impl Comparison {
    /// One line a column of the comparison, all digits.
    pub(super) fn csv(&self) -> Result<String> {
        let failed = |error: csv::Error| Error::failed(format!("cannot write CSV: {error}"));
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut header: Vec<String> = ["name", "runs", "n", "seeds"].map(str::to_owned).to_vec();
        header.extend(self.telling_settings().into_iter().cloned());
        for metric in self.metrics() {
            for which in ["best", "last", "at_best"] {
                header.extend(["mean", "sd", "low", "high"].map(|part| format!("{metric} {which} {part}")));
            }
        }
        writer.write_record(&header).map_err(failed)?;
        for unit in 0..self.units.len() {
            let members = &self.units[unit].group.members;
            let joined =
                |text: &dyn Fn(usize) -> String| members.iter().map(|run| text(*run)).collect::<Vec<_>>().join(" ");
            let mut row = vec![
                self.runs[members[0]].listing.name.clone(),
                joined(&|run| self.runs[run].listing.id.clone()),
                members.len().to_string(),
                joined(&|run| self.runs[run].listing.seed.to_string()),
            ];
            row.extend(self.telling_settings().into_iter().map(|key| self.setting(unit, key)));
            for metric in self.metrics() {
                for which in [Which::Best, Which::Last, Which::AtBest] {
                    let estimate = self.estimate(unit, metric, which);
                    let part = |part: fn(&Estimate) -> Option<f64>| {
                        estimate.as_ref().and_then(part).map_or_else(String::new, |value| value.to_string())
                    };
                    row.extend([part(|e| Some(e.mean)), part(|e| e.sd), part(|e| e.low), part(|e| e.high)]);
                }
            }
            writer.write_record(&row).map_err(failed)?;
        }
        let bytes = writer.into_inner().map_err(|error| failed(error.into_error().into()))?;
        Ok(String::from_utf8(bytes).expect("made of texts"))
    }

    /// A `tabular` with one line a column of the comparison, the best mean of each metric in bold.
    pub(super) fn latex(&self) -> String {
        let metrics: Vec<&String> = self.metrics().into_iter().filter(|name| self.is_result(name)).collect();
        let settings: Vec<&String> = self.telling_settings().into_iter().take(LATEX_SETTINGS).collect();
        let with_seeds = self.has_seeds();
        let mut header = vec!["Run".to_owned()];
        header.extend(settings.iter().map(|key| escaped(key)));
        header.extend(with_seeds.then(|| "$n$".to_owned()));
        header.extend(metrics.iter().map(|metric| {
            let unit = if human::is_rate(metric) { " (\\%)" } else { "" };
            format!("{}{unit}", escaped(metric))
        }));
        let best: BTreeMap<&String, f64> = metrics
            .iter()
            .filter_map(|metric| {
                let means =
                    (0..self.units.len()).filter_map(|unit| Some(self.estimate(unit, metric, Which::Best)?.mean));
                let best = match self.goals.get(*metric)? {
                    Goal::Min => means.min_by(f64::total_cmp),
                    Goal::Max => means.max_by(f64::total_cmp),
                };
                Some((*metric, best?))
            })
            .collect();
        let mut lines = vec![
            format!("\\begin{{tabular}}{{l{}}}", "r".repeat(header.len() - 1)),
            "\\toprule".to_owned(),
            format!("{} \\\\", header.join(" & ")),
            "\\midrule".to_owned(),
        ];
        for unit in 0..self.units.len() {
            let members = &self.units[unit].group.members;
            let mut row = vec![escaped(&self.runs[members[0]].listing.name)];
            row.extend(settings.iter().map(|key| escaped(&self.setting(unit, key))));
            row.extend(with_seeds.then(|| members.len().to_string()));
            row.extend(metrics.iter().map(|metric| {
                let estimate = self.estimate(unit, metric, Which::Best);
                latex_cell(metric, estimate, best.get(metric).copied())
            }));
            lines.push(format!("{} \\\\", row.join(" & ")));
        }
        lines.extend(["\\bottomrule", "\\end{tabular}"].map(str::to_owned));
        lines.join("\n")
    }

    /// The keys that differ between columns, apart from what only names a run.
    fn telling_settings(&self) -> Vec<&String> {
        let first = |key: &str| self.setting(0, key);
        let tells = |key: &&String| {
            !["name", "description", "seed"].contains(&key.as_str())
                && !key.starts_with('(')
                && (1..self.units.len()).any(|unit| self.setting(unit, key) != first(key))
        };
        self.settings.keys().filter(tells).collect()
    }

    /// A setting of a column; its runs have the same.
    fn setting(&self, unit: usize, key: &str) -> String {
        let setting = self.settings.get(key).and_then(|runs| runs[self.units[unit].group.members[0]].as_ref());
        setting.map_or_else(String::new, |setting| setting.value.clone())
    }
}

fn latex_cell(metric: &str, estimate: Option<Estimate>, best: Option<f64>) -> String {
    let Some(Estimate { mean, sd, .. }) = estimate else { return "--".to_owned() };
    let number = |value: f64| match human::is_rate(metric) {
        true => format!("{:.2}", 100. * value),
        false => format!("{value:.4}"),
    };
    let number_of_mean = if best == Some(mean) { format!("\\mathbf{{{}}}", number(mean)) } else { number(mean) };
    match sd {
        Some(sd) => format!("${number_of_mean} \\pm {}$", number(sd)),
        None => format!("${number_of_mean}$"),
    }
}
