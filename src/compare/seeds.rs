//! Runs that differ in nothing but the seed are one thing.

use crate::registry::run::RunDetail;
use serde_json::Value;
use std::collections::BTreeMap;

/// Runs of one recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which of the runs that were given, one a seed, by seed.
    pub members: Vec<usize>,
    /// Those of the same recipe whose seed a newer one has: the same experiment once more, not another draw.
    pub repeated: Vec<usize>,
}

/// Keys of an experiment that change no number of a run: what it is called, and how its data is fetched.
const NO_RECIPE: [&str; 5] = ["seed", "name", "description", "workers", "prefetch"];

/// The groups of `runs`, in the order in which their first members come. Builds and devices do not tell them apart.
pub fn group_by_recipe(runs: &[RunDetail]) -> Vec<Group> {
    let mut recipes: Vec<String> = Vec::new();
    let mut members: Vec<BTreeMap<u64, Vec<usize>>> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let recipe = recipe(run);
        let group = recipes.iter().position(|known| *known == recipe).unwrap_or_else(|| {
            recipes.push(recipe);
            members.push(BTreeMap::new());
            members.len() - 1
        });
        members[group].entry(run.listing.seed).or_default().push(index);
    }
    let newest = |same_seed: &Vec<usize>| same_seed.iter().copied().max_by_key(|index| &runs[*index].listing.id);
    members
        .iter()
        .map(|by_seed| {
            let members: Vec<usize> = by_seed.values().filter_map(newest).collect();
            let all = by_seed.values().flatten().copied();
            Group { repeated: all.filter(|index| !members.contains(index)).collect(), members }
        })
        .collect()
}

/// Everything that decides what a run computes, but for its seed, build and device.
fn recipe(run: &RunDetail) -> String {
    let config = match &run.config {
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| !NO_RECIPE.contains(&key.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        other => other.clone(),
    };
    let weights = run.weights.get("sha256").cloned().unwrap_or_default();
    Value::from(vec![config, run.spec_sha256.clone().into(), run.data_sha256.clone().into(), weights]).to_string()
}
