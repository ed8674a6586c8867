//! The runs that nothing else beats.

/// Which of `points`, pairs of a cost and a gain, are on the front: no other one costs no more and gains no less, and is
/// better in one of the two. What has a value that is not a number is not.
pub fn front(points: &[(f64, f64)]) -> Vec<bool> {
    let mut order: Vec<usize> =
        (0..points.len()).filter(|index| !points[*index].0.is_nan() && !points[*index].1.is_nan()).collect();
    order.sort_by(|a, b| points[*a].0.total_cmp(&points[*b].0).then(points[*b].1.total_cmp(&points[*a].1)));
    let mut on_front = vec![false; points.len()];
    let mut best: Option<(f64, f64)> = None;
    for index in order {
        let point = points[index];
        if best.is_none_or(|best| point.1 > best.1 || point == best) {
            on_front[index] = true;
            best = Some(point);
        }
    }
    on_front
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, point by point.
    fn by_definition(points: &[(f64, f64)]) -> Vec<bool> {
        let beats = |a: &(f64, f64), b: &(f64, f64)| a.0 <= b.0 && a.1 >= b.1 && (a.0 < b.0 || a.1 > b.1);
        points
            .iter()
            .map(|point| !point.0.is_nan() && !point.1.is_nan() && !points.iter().any(|other| beats(other, point)))
            .collect()
    }

    #[test]
    fn fronts_are_those_of_the_definition() {
        let cases: [&[(f64, f64)]; 5] = [
            &[],
            &[(1., 1.)],
            &[(1., 1.), (1., 1.), (1., 0.5), (2., 1.)],
            &[(3., 0.9), (1., 0.5), (2., 0.7), (2.5, 0.6), (2., 0.7), (4., 0.9)],
            &[(1., f64::NAN), (f64::NAN, 1.), (2., 0.1), (f64::INFINITY, 0.2)],
        ];
        for points in cases {
            assert_eq!(front(points), by_definition(points), "{points:?}");
        }
        // Every way to place 4 points on a small grid.
        for code in 0..9u32.pow(4) {
            let cell = |at: u32| code / 9u32.pow(at) % 9;
            let points: Vec<_> = (0..4).map(|at| (f64::from(cell(at) / 3), f64::from(cell(at) % 3))).collect();
            assert_eq!(front(&points), by_definition(&points), "{points:?}");
        }
    }
}
