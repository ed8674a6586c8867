//! What a run that is repeated should do, told as it happens.

use super::human;
use crate::error::Result;
use crate::registry::Reader;
use crate::registry::run::{RunListing, is_measured};
use crate::registry::store::{Disagreement, ExactValue};
use crate::train::event::Event;
use std::collections::BTreeMap;

/// The values of a run, to be compared with those of its repetition until one of them differs.
pub(super) struct Expected {
    /// By metric, sorted by step.
    values: BTreeMap<String, Vec<(u64, f64)>>,
    /// Steps that the run took.
    steps: u64,
    differed: bool,
}

impl Expected {
    /// Those of a run that has ended.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn of(run: &RunListing, reader: &mut Reader) -> Result<Self> {
        let mut values = BTreeMap::new();
        for metric in run.metrics.keys().filter(|metric| !is_measured(metric)) {
            let points = reader.points(run, metric)?;
            values.insert(metric.clone(), points.into_iter().map(|point| (point.step, point.value)).collect());
        }
        Ok(Expected { values, steps: run.steps, differed: false })
    }

    /// The first value that is another one, once. Where the run ended earlier, nothing is expected of the rest.
    pub fn differs(&mut self, event: &Event<'_>) -> Option<Disagreement> {
        let (Event::Step { step, metrics, .. } | Event::Evaluated { step, metrics, .. }) = *event else { return None };
        if self.differed || step >= self.steps {
            return None;
        }
        let first = metrics.iter().find_map(|(metric, value)| {
            let then = self.value(metric, step);
            let is_same = then.is_some_and(|then| then.to_bits() == value.to_bits() || then.is_nan() && value.is_nan());
            let (a, b) = (then.map(ExactValue), Some(ExactValue(*value)));
            (!is_same).then(|| Disagreement { step, metric: (*metric).to_owned(), a, b })
        });
        self.differed = first.is_some();
        first
    }

    fn value(&self, metric: &str, step: u64) -> Option<f64> {
        let points = self.values.get(metric)?;
        points.binary_search_by_key(&step, |(step, _)| *step).ok().map(|at| points[at].1)
    }
}

/// `at step 3: train.loss is 0.5 and was 0.25`.
pub(super) fn at(first: &Disagreement) -> String {
    let value = |value: &Option<ExactValue>| match value {
        Some(value) => human::exact(value.0),
        None => "missing".to_owned(),
    };
    let Disagreement { step, metric, a, b } = first;
    format!("at step {}: {metric} is {} and was {}", step + 1, value(b), value(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_other_value_is_told_once() {
        let values = BTreeMap::from([
            ("train.loss".to_owned(), vec![(0, 2.), (1, f64::NAN), (2, 0.5)]),
            ("val.top1".to_owned(), vec![(1, 0.25)]),
        ]);
        let mut expected = Expected { values, steps: 3, differed: false };
        let mut step = |step, metrics: &[(&str, f64)]| {
            let found = expected.differs(&Event::Step { step, epoch: 0, samples: 8, metrics, seconds: (1., 0.) });
            found.map(|first| at(&first))
        };
        assert_eq!(step(0, &[("train.loss", 2.)]), None);
        assert_eq!(step(1, &[("train.loss", f64::NAN), ("val.top1", 0.25)]), None);
        assert_eq!(step(3, &[("train.loss", 9.)]), None, "the run ended before");
        let first = step(2, &[("train.loss", 0.5), ("val.top1", 0.75)]);
        assert_eq!(first.as_deref(), Some("at step 3: val.top1 is 0.75 and was missing"));
        assert_eq!(step(2, &[("train.loss", 0.)]), None, "told already");
    }
}
