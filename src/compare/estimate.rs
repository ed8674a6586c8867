//! A mean, and how sure it is.

use super::student;
use serde::Serialize;

/// What several values of the same thing say together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// How many values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// The sample's standard deviation (n - 1); `None` of one value, which says nothing about spread.
    pub sd: Option<f64>,
    /// The 95 % interval of the mean, by Student's t; `None` of one value.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

impl Estimate {
    /// What `values` say; `None` where there are none, or where one of them is not finite.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let n = values.len();
        if values.iter().all(|value| *value == values[0]) && n > 1 {
            // A sum would round, and leave a spread that is not there.
            let same = Some(values[0]);
            return Some(Estimate { n, mean: values[0], sd: Some(0.), low: same, high: same });
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        if n == 1 {
            return Some(Estimate { n, mean, sd: None, low: None, high: None });
        }
        let sd = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt();
        let half = student::critical(0.05, (n - 1) as f64) * sd / (n as f64).sqrt();
        Some(Estimate { n, mean, sd: Some(sd), low: Some(mean - half), high: Some(mean + half) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.mean`, `numpy.std(ddof=1)` and `scipy.stats.t.interval(0.95, 4, mean, sem)`.
    #[test]
    fn means_and_intervals_are_scipys() {
        let estimate = Estimate::of(&[0.871, 0.868, 0.875, 0.869, 0.873]).expect("finite");
        let near = |value: f64, expected: f64| (value - expected).abs() < 1e-13;
        assert!(near(estimate.mean, 0.8712), "{estimate:?}");
        assert!(near(estimate.sd.expect("five"), 0.002863564212655273), "{estimate:?}");
        assert!(near(estimate.low.expect("five"), 0.8676444154106012), "{estimate:?}");
        assert!(near(estimate.high.expect("five"), 0.8747555845893987), "{estimate:?}");
    }

    #[test]
    fn one_value_has_no_spread() {
        assert_eq!(Estimate::of(&[0.5]), Some(Estimate { n: 1, mean: 0.5, sd: None, low: None, high: None }));
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[0.5, f64::NAN]), None, "a diverged run is not averaged away");
        let same = Estimate::of(&[0.1, 0.1, 0.1]).expect("finite");
        assert_eq!((same.mean, same.sd, same.low, same.high), (0.1, Some(0.), Some(0.1), Some(0.1)));
    }
}
