//! What a sweep tries: values, and how they are drawn.

use crate::error::{Error, Result};
use zoo::random::{Key, Stream, stream_of};

/// A key of the experiment and its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// `optimizer.sgd.lr`.
    pub key: String,
    /// What it can be.
    pub space: Space,
}

/// What a key can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Space {
    /// One of these, as YAML.
    Choice(Vec<String>),
    /// Any number between two, each as likely.
    Uniform(f64, f64),
    /// Any number between two above 0, each ratio as likely.
    LogUniform(f64, f64),
    /// A whole number from one to another, both included.
    Int(i64, i64),
}

/// Every combination, the last parameter changing first; all of them are choices.
pub(super) fn grid(parameters: &[Parameter], most: usize) -> Result<Vec<Vec<String>>> {
    let mut points: Vec<Vec<String>> = vec![Vec::new()];
    for parameter in parameters {
        let Space::Choice(values) = &parameter.space else {
            return Err(Error::input(format!("{}: a grid needs a list of values", parameter.key)));
        };
        if points.len().saturating_mul(values.len()) > most {
            return Err(Error::input(format!(
                "the grid has more points than a sweep can have trials, {} at most; draw some: \
                 `strategy: {{random: {{trials: 100}}}}`",
                super::MAX_TRIALS
            )));
        }
        let with = |point: &Vec<String>, value: &String| [point.clone(), vec![value.clone()]].concat();
        points = points.iter().flat_map(|point| values.iter().map(move |value| with(point, value))).collect();
    }
    Ok(points)
}

/// The values of one trial.
pub(super) fn draw(parameters: &[Parameter], seed: u64, trial: u64) -> Vec<String> {
    parameters.iter().map(|parameter| parameter.draw(seed, trial)).collect()
}

impl Parameter {
    fn draw(&self, seed: u64, trial: u64) -> String {
        let stream = stream_of(&format!("sweep.{}", self.key));
        let mut draws = Stream::new(Key { seed, stream, step: trial, index: 0 });
        match &self.space {
            Space::Choice(values) => values[draws.below(values.len() as u64) as usize].clone(),
            Space::Uniform(low, high) => readable(low + (high - low) * draws.unit_f64(), *low, *high),
            Space::LogUniform(low, high) => {
                readable((low.ln() + (high.ln() - low.ln()) * draws.unit_f64()).exp(), *low, *high)
            }
            Space::Int(low, high) => {
                let span = high.abs_diff(*low).saturating_add(1);
                low.saturating_add_unsigned(draws.below(span)).to_string()
            }
        }
    }
}

/// A number of five digits, which people can say, between the two.
fn readable(value: f64, low: f64, high: f64) -> String {
    let rounded: f64 = format!("{value:.4e}").parse().unwrap_or(value);
    rounded.clamp(low, high).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(space: Space) -> Vec<f64> {
        let parameter = Parameter { key: "k".to_owned(), space };
        (0..4000).map(|trial| parameter.draw(0, trial).parse().expect("a number")).collect()
    }

    #[test]
    fn draws_fill_their_space() {
        let below = |values: &[f64], bound: f64| values.iter().filter(|value| **value < bound).count() as f64 / 4000.;
        let uniform = draws(Space::Uniform(-1., 3.));
        assert!(uniform.iter().all(|value| (-1. ..=3.).contains(value)));
        assert!((below(&uniform, 0.) - 0.25).abs() < 0.03, "{}", below(&uniform, 0.));
        let log = draws(Space::LogUniform(1e-4, 1e-1));
        assert!(log.iter().all(|value| (1e-4..=1e-1).contains(value)));
        assert!((below(&log, 1e-3) - 1. / 3.).abs() < 0.03, "{}", below(&log, 1e-3));
        let int = draws(Space::Int(2, 4));
        for whole in [2., 3., 4.] {
            let part = int.iter().filter(|value| **value == whole).count() as f64 / 4000.;
            assert!((part - 1. / 3.).abs() < 0.03, "{whole}: {part}");
        }
        assert_eq!(draws(Space::Int(i64::MIN, i64::MAX)).len(), 4000, "no overflow");
    }
}
