//! A comparison for programs.

use super::{Comparison, Cost, Setting, Spot, Which};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

impl Comparison {
    pub(super) fn json(&self, pareto: Option<&(Cost, Vec<Spot>)>) -> Value {
        let metrics: BTreeMap<&String, Vec<Value>> =
            self.metrics().into_iter().map(|name| (name, self.of_runs(name))).collect();
        let of_settings = |part: fn(&Setting) -> Option<&String>| -> Map<String, Value> {
            let values = self.settings.iter().map(|(key, settings)| {
                (key.clone(), settings.iter().map(|setting| json!(setting.as_ref().and_then(part))).collect())
            });
            values.collect()
        };
        let differences = self.contrasts().into_iter().map(|contrast| {
            json!({
                "metric": contrast.metric, "of": "best", "group": contrast.unit, "against": 0,
                "difference": contrast.difference, "p_holm": contrast.p_holm,
            })
        });
        let mut json = json!({
            "runs": self.runs.iter().map(|run| &run.listing).collect::<Vec<_>>(),
            "settings": of_settings(|setting| Some(&setting.value)),
            "set_by": of_settings(|setting| setting.set_by.as_ref()),
            "metrics": metrics,
            "identical": self.identical,
            "metric": self.metric,
            "groups": (0..self.units.len()).map(|unit| self.group(unit)).collect::<Vec<_>>(),
            "differences": differences.collect::<Vec<_>>(),
        });
        if let Some((cost, spots)) = pareto {
            let spots = spots.iter().map(
                |spot| json!({"group": spot.unit, "cost": spot.cost, "metric": spot.gain, "on_front": spot.on_front}),
            );
            json["pareto"] = json!({"cost": cost.name(), "metric": self.metric, "groups": spots.collect::<Vec<_>>()});
        }
        json
    }

    /// A metric of each run: its summary, and the value at the best step.
    fn of_runs(&self, name: &str) -> Vec<Value> {
        let of_run = |(index, run): (usize, &crate::registry::run::RunDetail)| {
            let mut value = json!(run.listing.metrics.get(name)?);
            value["at_best"] = json!(self.at_best[index].get(name));
            Some(value)
        };
        self.runs.iter().enumerate().map(|run| json!(of_run(run))).collect()
    }

    fn group(&self, unit: usize) -> Value {
        let group = &self.units[unit].group;
        let estimates = |metric: &str| {
            json!({
                "best": self.estimate(unit, metric, Which::Best),
                "last": self.estimate(unit, metric, Which::Last),
                "at_best": self.estimate(unit, metric, Which::AtBest),
            })
        };
        let seeds: Vec<u64> = group.members.iter().map(|run| self.runs[*run].listing.seed).collect();
        let metrics: Map<String, Value> =
            self.metrics().into_iter().map(|name| (name.clone(), estimates(name))).collect();
        json!({
            "name": self.units[unit].name, "runs": group.members, "repeated": group.repeated, "seeds": seeds,
            "metrics": metrics,
        })
    }
}
