//! Student's t distribution.

/// The probability that a value of this distribution lies at least `t` away from 0, on either side.
pub(super) fn two_sided(t: f64, degrees: f64) -> f64 {
    if t.is_nan() || degrees.is_nan() {
        return f64::NAN;
    }
    let square = t * t;
    if square == f64::INFINITY {
        return 0.;
    }
    // Both are given, since of two numbers that make 1 the lesser would lose its digits in a difference.
    incomplete_beta(degrees / 2., degrees / (degrees + square), square / (degrees + square))
}

/// How far from 0 values lie with probability `outside`: [`two_sided`] the other way around.
pub(super) fn critical(outside: f64, degrees: f64) -> f64 {
    let (mut low, mut high) = (0., 1.);
    while two_sided(high, degrees) > outside {
        high *= 2.;
    }
    // Until the two are neighbours.
    loop {
        let middle = low + (high - low) / 2.;
        if middle <= low || middle >= high {
            return middle;
        }
        if two_sided(middle, degrees) > outside {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// The regularised incomplete beta function I_x(a, 1/2), with y = 1 - x, by its continued fraction (Numerical Recipes,
/// 6.4).
fn incomplete_beta(a: f64, x: f64, y: f64) -> f64 {
    if x <= 0. || y <= 0. {
        return if x <= 0. { 0. } else { 1. };
    }
    let b = 0.5;
    // The logarithm of a number near 1 is that of its distance from 1.
    let ln = |part: f64, rest: f64| if rest < 0.5 { (-rest).ln_1p() } else { part.ln() };
    let front = (ln_gamma_ratio(a) - 0.5 * std::f64::consts::PI.ln() + a * ln(x, y) + b * ln(y, x)).exp();
    // The fraction converges fast on this side of the mean.
    if x < (a + 1.) / (a + b + 2.) { front * fraction(a, b, x) / a } else { 1. - front * fraction(b, a, y) / b }
}

fn fraction(a: f64, b: f64, x: f64) -> f64 {
    /// Instead of 0 in a denominator.
    const TINY: f64 = 1e-300;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.;
    let mut d = 1. / away(1. - (a + b) * x / (a + 1.));
    let mut product = d;
    for step in 1..10_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2. * m - 1.) * (a + 2. * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2. * m) * (a + 2. * m + 1.));
        let mut change = 1.;
        for term in [even, odd] {
            d = 1. / away(1. + term * d);
            c = away(1. + term / c);
            change = c * d;
            product *= change;
        }
        if (change - 1.).abs() < f64::EPSILON {
            break;
        }
    }
    product
}

/// ln of gamma(a + 1/2) / gamma(a): its asymptotic series, where that is exact to the last digits. Two gammas apart would
/// lose them for many degrees of freedom.
fn ln_gamma_ratio(a: f64) -> f64 {
    let mut a = a;
    let mut shift = 0.;
    while a < 30. {
        shift += (a / (a + 0.5)).ln();
        a += 1.;
    }
    let square = 1. / (a * a);
    let series = -1. / 8. + square * (1. / 192. + square * (-1. / 640. + square * 17. / 14_336.));
    0.5 * a.ln() + series / a + shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(value: f64, expected: f64, what: &str) {
        assert!((value - expected).abs() <= 1e-10 * expected.abs(), "{what}: {value} is not {expected}");
    }

    /// `2 * scipy.stats.t.sf(t, degrees)` of scipy 1.17.1.
    #[test]
    fn probabilities_are_scipys() {
        let cases = [
            (0.0, 1.0, 1.0),
            (0.3, 1.0, 0.8144528418445154),
            (1.0, 1.0, 0.5),
            (2.5, 1.0, 0.24223788318168682),
            (12.7, 1.0, 0.050024327689344165),
            (60.0, 1.0, 0.010609347265246543),
            (0.3, 2.0, 0.7924856608401776),
            (12.7, 2.0, 0.006142941599595777),
            (60.0, 2.0, 0.00027766209059467876),
            (0.3, 3.7, 0.7802674871314622),
            (2.5, 3.7, 0.07182202291182678),
            (60.0, 3.7, 1.1485741192451842e-6),
            (1.0, 10.0, 0.34089313230206),
            (60.0, 10.0, 4.0185228506884075e-14),
            (2.5, 100.0, 0.014045789124077172),
            (12.7, 100.0, 1.4023965850099587e-22),
            (1.0, 1e6, 0.3173107498335783),
            (2.5, 1e6, 0.012419489502163254),
            (12.7, 1e6, 5.952026107018785e-37),
        ];
        for (t, degrees, expected) in cases {
            assert_near(two_sided(t, degrees), expected, &format!("t = {t}, {degrees} degrees"));
            assert_eq!(two_sided(-t, degrees), two_sided(t, degrees));
        }
    }

    /// `scipy.stats.t.ppf(0.975, degrees)` of scipy 1.17.1.
    #[test]
    fn critical_values_are_scipys() {
        let cases = [
            (1.0, 12.706204736174694),
            (2.0, 4.302652729749462),
            (3.5, 2.9400886379827282),
            (9.0, 2.262157162798205),
            (30.0, 2.0422724563012378),
            (1000.0, 1.9623390808264083),
        ];
        for (degrees, expected) in cases {
            assert_near(critical(0.05, degrees), expected, &format!("{degrees} degrees"));
        }
    }
}
