//! What the page knows of runs.

use super::architecture::{self, Architecture};
use super::evaluation::Evaluation;
use crate::cli::run_detail::flatten;
use crate::error::Result;
use crate::registry::Reader;
use crate::registry::run::{Point, RunDetail, RunListing, RunState, WarningRecord};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Points of a curve that a page shows, at most: more than a screen has pixels.
const POINTS: usize = 2_000;

/// Some runs beside each other.
#[derive(Debug, Serialize)]
pub(super) struct Story {
    pub runs: Vec<Run>,
    /// Settings that differ, by key.
    pub settings: Vec<Setting>,
}

/// One run.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    #[serde(flatten)]
    pub listing: RunListing,
    /// Whether more may come.
    pub live: bool,
    /// Optimizer steps of an epoch, where they are known.
    pub epoch_steps: Option<u64>,
    pub curves: BTreeMap<String, Curve>,
    pub architecture: Option<Architecture>,
    pub classes: Vec<String>,
    pub warnings: Vec<WarningRecord>,
    /// Of its best checkpoint on its validation data.
    pub evaluation: Option<Evaluation>,
    /// Why there is none.
    pub evaluation_missing: Option<String>,
}

/// The values of a metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Curve {
    /// How many there are, some of which may have been left out.
    pub count: usize,
    /// Step, from 0, and value; `null` where it is not finite.
    pub points: Vec<(u64, Option<f64>)>,
}

/// A setting of each run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    /// `optimizer.adamw.lr`.
    pub key: String,
    /// One a run; `None` where it has no such key.
    pub values: Vec<Option<String>>,
    /// Who set it: `default`, a file with a line, `--set`.
    pub set_by: Vec<Option<String>>,
}

impl Story {
    /// What the registry holds of these runs.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(reader: &mut Reader, details: &[RunDetail]) -> Result<Self> {
        let runs = details.iter().map(|detail| Run::read(reader, detail)).collect::<Result<_>>()?;
        Ok(Story { runs, settings: differences(details) })
    }
}

impl Run {
    fn read(reader: &mut Reader, detail: &RunDetail) -> Result<Self> {
        let listing = detail.listing.clone();
        let mut curves = BTreeMap::new();
        for name in listing.metrics.keys() {
            curves.insert(name.clone(), Curve::of(&reader.points(&listing, name)?));
        }
        let epoch_steps = listing.plan.as_ref().and_then(|plan| plan["steps_per_epoch"].as_u64());
        Ok(Run {
            live: matches!(listing.state, RunState::Running | RunState::Queued | RunState::Unknown),
            epoch_steps,
            curves,
            // A spec that this version no longer understands has no drawing; everything else is there.
            architecture: architecture::of_files(&detail.spec_texts()).ok(),
            classes: detail.classes.clone(),
            warnings: detail.warnings.clone(),
            evaluation: None,
            evaluation_missing: None,
            listing,
        })
    }
}

impl Curve {
    fn of(points: &[Point]) -> Self {
        let all: Vec<(u64, f64)> = points.iter().map(|point| (point.step, point.value)).collect();
        let points = thin(&all, POINTS).into_iter();
        let points = points.map(|(step, value)| (step, value.is_finite().then_some(value)));
        Curve { count: all.len(), points: points.collect() }
    }
}

/// At most so many of the points, those that make the picture: of each run of them the least, the greatest, and what is not a
/// number; and the very last one.
fn thin(points: &[(u64, f64)], most: usize) -> Vec<(u64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let length = points.len().div_ceil((most / 3).max(1));
    let mut kept = Vec::new();
    for part in points.chunks(length) {
        let numbers = || part.iter().enumerate().filter(|(_, (_, value))| !value.is_nan());
        let by_value = |a: &(usize, &(u64, f64)), b: &(usize, &(u64, f64))| a.1.1.total_cmp(&b.1.1);
        let chosen: BTreeSet<usize> = [
            numbers().min_by(by_value).map(|(at, _)| at),
            numbers().max_by(by_value).map(|(at, _)| at),
            part.iter().position(|(_, value)| value.is_nan()),
        ]
        .into_iter()
        .flatten()
        .collect();
        kept.extend(chosen.into_iter().map(|at| part[at]));
    }
    if let (Some(last), Some(kept_last)) = (points.last(), kept.last_mut())
        && kept_last.0 != last.0
    {
        *kept_last = *last;
    }
    kept
}

/// The settings in which the runs differ, with who set each.
fn differences(details: &[RunDetail]) -> Vec<Setting> {
    let flat: Vec<BTreeMap<String, String>> =
        details.iter().map(|detail| flatten(&detail.config).into_iter().collect()).collect();
    let keys: BTreeSet<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    let setting = |key: &&String| Setting {
        key: (*key).clone(),
        values: flat.iter().map(|settings| settings.get(*key).cloned()).collect(),
        set_by: details.iter().map(|detail| set_by(&detail.provenance, key)).collect(),
    };
    let differs = |setting: &Setting| setting.values.iter().any(|value| *value != setting.values[0]);
    keys.iter().map(setting).filter(differs).collect()
}

/// Who set a key, or the nearest one above it.
fn set_by(provenance: &Value, key: &str) -> Option<String> {
    let mut key = key;
    loop {
        if let Some(who) = provenance.get(key) {
            return Some(who.as_str().map_or_else(|| who.to_string(), str::to_owned));
        }
        key = key.rsplit_once('.')?.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_peaks_and_its_end() {
        let mut points: Vec<(u64, f64)> = (0..100_000).map(|step| (step, (step % 7) as f64)).collect();
        (points[5_003].1, points[70_001].1, points[90_000].1) = (-50., 900., f64::NAN);
        let thinned = thin(&points, 300);
        assert!(thinned.len() <= 300, "{}", thinned.len());
        for at in [5_003, 70_001, 90_000, 99_999] {
            assert!(thinned.iter().any(|(step, _)| *step == at), "{at} is gone");
        }
        assert!(thinned.is_sorted_by_key(|(step, _)| *step));
        assert_eq!(thin(&points[..300], 300), points[..300]);
        assert_eq!(thin(&[], 300), []);
    }

    #[test]
    fn a_key_is_set_by_whoever_set_what_holds_it() {
        let provenance = serde_json::json!({"optimizer": "a.yaml:3", "seed": "default"});
        assert_eq!(set_by(&provenance, "optimizer.sgd.lr").as_deref(), Some("a.yaml:3"));
        assert_eq!(set_by(&provenance, "seed").as_deref(), Some("default"));
        assert_eq!(set_by(&provenance, "epochs"), None);
    }
}
