//! The runs that `bench registry` writes and reads. benches/peers/mlflow_bench.py makes the same of the same numbers.

use crate::registry::run::{Origin, Point};
use crate::registry::{Annotations, NewRun};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// How many runs, and what each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Corpus {
    pub runs: u64,
    /// Of each run, the same number of each metric.
    pub points: u64,
    /// Names of metrics.
    pub metrics: u64,
    /// Settings, apart from the seed.
    pub settings: u64,
}

impl Corpus {
    /// `val.m0`, `val.m1`, ..
    pub fn metric(key: u64) -> String {
        format!("val.m{key}")
    }

    /// `s0`, `s1`, ..
    pub fn setting(number: u64) -> String {
        format!("s{number}")
    }

    /// The id of a run.
    pub fn uid(run: u64) -> String {
        format!("0193a1b2-c3d4-7e5f-8a9b-{run:012x}")
    }

    /// Of each metric.
    pub fn steps(&self) -> u64 {
        self.points / self.metrics
    }

    /// From 0 to below 1, another one for each of up to 2^32 points, exact in binary.
    pub fn value(&self, run: u64, step: u64, key: u64) -> f64 {
        let index = run * self.points + step * self.metrics + key;
        (index.wrapping_mul(2_654_435_761) % (1 << 32)) as f64 / (1_u64 << 32) as f64
    }

    /// From 0 to 9.
    pub fn setting_value(run: u64, number: u64) -> u64 {
        (run + number) % 10
    }

    /// What a run is before its first step.
    pub fn new_run(&self, run: u64) -> NewRun {
        let settings =
            (0..self.settings).map(|number| (Self::setting(number), json!(Self::setting_value(run, number))));
        let mut config: Map<String, Value> = settings.collect();
        config.insert("seed".to_owned(), json!(run));
        NewRun {
            name: format!("run-{run}"),
            experiment: "bench".to_owned(),
            files: vec![("bench.yaml".to_owned(), "name: bench\n".to_owned())],
            overrides: Vec::new(),
            config: Value::Object(config),
            provenance: json!({}),
            model: "resnet18".to_owned(),
            spec_files: vec![("resnet18.yaml".to_owned(), "name: resnet18\n".to_owned())],
            spec_sha256: "00".repeat(32),
            weights: json!({"from": "scratch"}),
            data_sha256: "11".repeat(32),
            classes: Vec::new(),
            seed: run,
            origin: Origin::default(),
            annotations: Annotations::default(),
        }
    }

    /// Points of a run by their number, in the order in which training has them: by step, then by metric.
    pub fn points(&self, run: u64, numbers: Range<u64>) -> Vec<Point> {
        let point = |number: u64| {
            let (step, key) = (number / self.metrics, number % self.metrics);
            Point { metric: Self::metric(key), step, value: self.value(run, step, key) }
        };
        numbers.map(point).collect()
    }

    /// Whether these are all points of a metric of a run, by step.
    pub fn are_points(&self, run: u64, key: u64, points: &[Point]) -> bool {
        let same = |(step, point): (u64, &Point)| {
            point.step == step && point.value.to_bits() == self.value(run, step, key).to_bits()
        };
        points.len() as u64 == self.steps() && (0..).zip(points).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_read_back() {
        let corpus = Corpus { runs: 3, points: 8, metrics: 2, settings: 1 };
        let points: Vec<Point> = (0..3).flat_map(|run| corpus.points(run, 0..8)).collect();
        let mut bits: Vec<u64> = points.iter().map(|point| point.value.to_bits()).collect();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!(bits.len(), 24);
        assert!(points.iter().all(|point| (0.0..1.0).contains(&point.value)));
        let of_key: Vec<Point> = points[8..16].iter().filter(|point| point.metric == "val.m1").cloned().collect();
        assert!(corpus.are_points(1, 1, &of_key));
        assert!(!corpus.are_points(2, 1, &of_key) && !corpus.are_points(1, 1, &of_key[1..]));
    }
}
