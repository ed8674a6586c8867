//! Whether two groups of runs differ by more than their seeds.

use super::student;
use serde::Serialize;

/// Sign flips are counted one by one up to so many pairs: 2^20 sums.
const MOST_PAIRS: usize = 20;

/// What was compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Runs of the same seeds, pair by pair: Student's t of the differences.
    Paired,
    /// Runs of other seeds: Welch's t.
    Welch,
    /// Nothing can be said: too few values, or one that is not finite.
    Impossible,
}

/// Two groups compared: the second less the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// How.
    pub method: Method,
    /// Pairs, or the values of both.
    pub n: usize,
    /// The mean difference; `None` where a side has no value.
    pub mean: Option<f64>,
    /// Its 95 % interval.
    pub low: Option<f64>,
    /// The interval's upper end.
    pub high: Option<f64>,
    /// Student's t; `None` where no difference has a spread.
    pub t: Option<f64>,
    /// Degrees of freedom.
    pub degrees: Option<f64>,
    /// Two-sided probability of such a t where the groups are the same.
    pub p: Option<f64>,
    /// The same without the assumption of normal differences: the part of all ways to flip the pairs' signs whose mean is
    /// as far from 0. Of few pairs it cannot be small: 0.5 of two, 0.25 of three, 0.0625 of five.
    pub p_sign_flip: Option<f64>,
}

impl Difference {
    /// Compares values with their seeds. Pairs are made of two shared seeds or more, else the groups are taken as
    /// independent.
    pub fn between(a: &[(u64, f64)], b: &[(u64, f64)]) -> Self {
        let pairs: Vec<f64> =
            a.iter().filter_map(|(seed, value)| Some(b.iter().find(|(other, _)| other == seed)?.1 - value)).collect();
        let finite = a.iter().chain(b).all(|(_, value)| value.is_finite());
        match (finite, pairs.len(), a.len(), b.len()) {
            (true, 2.., _, _) => paired(&pairs),
            (true, _, 2.., 2..) => welch(&values(a), &values(b)),
            (finite, _, 1.., 1..) => {
                let mean = finite.then(|| mean(&values(b)) - mean(&values(a)));
                Difference { mean, ..impossible(a.len().min(b.len())) }
            }
            _ => impossible(0),
        }
    }
}

fn impossible(n: usize) -> Difference {
    let (mean, low, high, t, degrees, p, p_sign_flip) = (None, None, None, None, None, None, None);
    Difference { method: Method::Impossible, n, mean, low, high, t, degrees, p, p_sign_flip }
}

fn values(group: &[(u64, f64)]) -> Vec<f64> {
    group.iter().map(|(_, value)| *value).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

fn paired(differences: &[f64]) -> Difference {
    let n = differences.len();
    let error = (variance(differences) / n as f64).sqrt();
    let p_sign_flip = sign_flips(differences);
    Difference { p_sign_flip, ..by_t(Method::Paired, n, mean(differences), error, (n - 1) as f64) }
}

fn welch(a: &[f64], b: &[f64]) -> Difference {
    let parts = [a, b].map(|values| variance(values) / values.len() as f64);
    let error = parts[0] + parts[1];
    let degrees =
        error * error / (parts[0] * parts[0] / (a.len() - 1) as f64 + parts[1] * parts[1] / (b.len() - 1) as f64);
    by_t(Method::Welch, a.len() + b.len(), mean(b) - mean(a), error.sqrt(), degrees)
}

fn by_t(method: Method, n: usize, mean: f64, error: f64, degrees: f64) -> Difference {
    let (low, high, t, p) = if error > 0. {
        let half = student::critical(0.05, degrees) * error;
        let t = mean / error;
        (Some(mean - half), Some(mean + half), Some(t), Some(student::two_sided(t, degrees)))
    } else {
        // Without any spread there is no t: it would be infinite, and its p a claim of certainty.
        (None, None, None, None)
    };
    let degrees = t.is_some().then_some(degrees);
    Difference { method, n, mean: Some(mean), low, high, t, degrees, p, p_sign_flip: None }
}

/// The exact two-sided test by sign flips; `None` of too many pairs to count.
fn sign_flips(differences: &[f64]) -> Option<f64> {
    if differences.len() > MOST_PAIRS {
        return None;
    }
    let all: f64 = differences.iter().sum();
    // Sums in another order differ in their last bits, which must not decide.
    let near = all.abs() * (1. - 1e-12);
    let ways = 1u32 << differences.len();
    let as_far = (0..ways).filter(|flips| {
        let signed = differences.iter().enumerate();
        let sum: f64 = signed.map(|(index, value)| if flips >> index & 1 == 1 { -value } else { *value }).sum();
        sum.abs() >= near
    });
    Some(as_far.count() as f64 / f64::from(ways))
}

/// Holm's correction of several tests at once: what each p becomes so that one of them all is wrongly below 0.05 in at
/// most 5 of 100 cases.
pub fn holm(p: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<usize> = (0..p.len()).filter(|index| p[*index].is_some()).collect();
    order.sort_by(|a, b| p[*a].unwrap_or(1.).total_cmp(&p[*b].unwrap_or(1.)));
    let mut corrected = vec![None; p.len()];
    let mut least = 0f64;
    for (rank, index) in order.iter().enumerate() {
        let times = (order.len() - rank) as f64;
        least = least.max(p[*index].unwrap_or(1.) * times).min(1.);
        corrected[*index] = Some(least);
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded(values: &[f64]) -> Vec<(u64, f64)> {
        (0..).zip(values.iter().copied()).collect()
    }

    fn assert_near(value: Option<f64>, expected: f64) {
        let value = value.expect("a value");
        assert!((value - expected).abs() <= 1e-9 * expected.abs(), "{value} is not {expected}");
    }

    const A: [f64; 5] = [0.871, 0.868, 0.875, 0.869, 0.873];
    const B: [f64; 5] = [0.878, 0.872, 0.877, 0.874, 0.88];

    /// `scipy.stats.ttest_rel(b, a)` and `permutation_test((b - a,), mean, permutation_type="samples")` of scipy 1.17.1.
    #[test]
    fn pairs_are_scipys() {
        let difference = Difference::between(&seeded(&A), &seeded(&B));
        assert_eq!((difference.method, difference.n, difference.degrees), (Method::Paired, 5, Some(4.)));
        assert_near(difference.t, 5.2704627669473);
        assert_near(difference.p, 0.006210192438562995);
        assert_near(difference.low, 0.002366032900744754);
        assert_near(difference.high, 0.007633967099255255);
        assert_eq!(difference.p_sign_flip, Some(0.0625));
        assert_eq!(sign_flips(&[1., -2., 3., 4., 5., -0.5]), Some(0.1875));
        let mut shuffled = seeded(&B);
        shuffled.reverse();
        assert_eq!(Difference::between(&seeded(&A), &shuffled), difference, "seeds make the pairs, not the order");
    }

    /// `scipy.stats.ttest_ind(b, a, equal_var=False)` of scipy 1.17.1.
    #[test]
    fn other_seeds_are_scipys_welch() {
        let others: Vec<(u64, f64)> = (100..).zip(B).collect();
        let difference = Difference::between(&seeded(&A), &others);
        assert_eq!((difference.method, difference.n, difference.p_sign_flip), (Method::Welch, 10, None));
        assert_near(difference.t, 2.6064301757134922);
        assert_near(difference.p, 0.031612680172616675);
        assert_near(difference.degrees, 7.906585707613265);
        assert_near(difference.low, 0.0005672031665634588);
        assert_near(difference.high, 0.009432796833436771);
        let few = Difference::between(&seeded(&[0.5, 0.61]), &[(7, 0.7), (8, 0.74), (9, 0.69)]);
        assert_near(few.p, 0.19650915923022966);
        assert_near(few.high, 0.684682808430311);
    }

    #[test]
    fn few_runs_claim_little() {
        let two = Difference::between(&seeded(&[0.5, 0.61]), &seeded(&[0.7, 0.74]));
        assert_near(two.p, 0.1330681382689261);
        assert_eq!(two.p_sign_flip, Some(0.5), "two pairs cannot be more unlikely");
        let one = Difference::between(&[(0, 0.5)], &[(0, 0.75)]);
        assert_eq!((one.method, one.mean, one.p, one.low), (Method::Impossible, Some(0.25), None, None));
        let uneven = Difference::between(&[(0, 0.5)], &[(1, 0.75), (2, 0.85)]);
        assert_eq!((uneven.method, uneven.p), (Method::Impossible, None));
        assert_eq!(Difference::between(&[], &[(0, 1.)]).mean, None);
        let equal = Difference::between(&seeded(&[1., 2., 3.]), &seeded(&[2., 3., 4.]));
        assert_eq!((equal.mean, equal.t, equal.p, equal.p_sign_flip), (Some(1.), None, None, Some(0.25)));
        let diverged = Difference::between(&seeded(&[1., f64::NAN]), &seeded(&[2., 3.]));
        assert_eq!((diverged.method, diverged.mean), (Method::Impossible, None));
    }

    #[test]
    fn many_tests_are_corrected() {
        let corrected = holm(&[Some(0.01), None, Some(0.04), Some(0.03)]);
        let expected = [Some(0.03), None, Some(0.06), Some(0.06)];
        for (value, expected) in corrected.iter().zip(expected) {
            assert_eq!(value.is_some(), expected.is_some());
            assert!(
                value.zip(expected).is_none_or(|(value, expected)| (value - expected).abs() < 1e-15),
                "{corrected:?}"
            );
        }
        assert_eq!(holm(&[Some(0.9), Some(0.8)]), [Some(1.), Some(1.)]);
    }
}
