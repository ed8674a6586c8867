//! Curves in characters.

use super::human;
use crate::registry::run::Point;

const WIDTH: usize = 72;
/// Lines of a curve, where there is room.
pub(super) const HEIGHT: usize = 16;
/// One curve each; a later one lies over an earlier one.
const MARKS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// Curves over steps, a letter each, and which is whose; `height` lines, at least 2.
pub(super) fn draw(metric: &str, curves: &[(String, Vec<Point>)], height: usize) -> String {
    let height = height.max(2);
    let finite = |points: &[Point]| -> Vec<(u64, f64)> {
        points.iter().filter(|point| point.value.is_finite()).map(|point| (point.step, point.value)).collect()
    };
    let shown: Vec<(&str, Vec<(u64, f64)>)> =
        curves.iter().take(MARKS.len()).map(|(name, points)| (name.as_str(), finite(points))).collect();
    let all = || shown.iter().flat_map(|(_, points)| points);
    let Some(last_step) = all().map(|(step, _)| *step).max() else {
        return format!("{metric}: no finite value");
    };
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    // Halves, so that the difference of two great numbers is finite.
    let span = (high / 2. - low / 2.).max(f64::MIN_POSITIVE);
    let mut grid = vec![vec![b' '; WIDTH]; height];
    for ((_, points), mark) in shown.iter().zip(MARKS) {
        for (step, value) in points {
            let x = (*step as f64 / last_step.max(1) as f64 * (WIDTH - 1) as f64).round() as usize;
            let y = ((high / 2. - value / 2.) / span * (height - 1) as f64).round() as usize;
            grid[y.min(height - 1)][x.min(WIDTH - 1)] = *mark;
        }
    }
    let label = |row: usize| match row {
        0 => human::metric(metric, Some(high)),
        _ if row == height - 1 => human::metric(metric, Some(low)),
        _ => String::new(),
    };
    let mut lines = vec![metric.to_owned()];
    for (row, cells) in grid.iter().enumerate() {
        let cells = String::from_utf8_lossy(cells);
        lines.push(format!("{:>10} │{}", label(row), cells.trim_end()));
    }
    lines.push(format!("{:>10} └{}", "", "─".repeat(WIDTH)));
    lines.push(format!("{:>10}  step 1{:>width$}", "", last_step + 1, width = WIDTH - 6));
    for ((name, points), mark) in shown.iter().zip(MARKS) {
        let nothing = if points.is_empty() { ": no finite value" } else { "" };
        lines.push(format!("  {}  {name}{nothing}", char::from(*mark)));
    }
    if curves.len() > MARKS.len() {
        lines.push(format!("  and {} more that are not drawn", curves.len() - MARKS.len()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, values: &[f64]) -> (String, Vec<Point>) {
        let point = |(step, value): (u64, &f64)| Point { metric: "val.loss".to_owned(), step, value: *value };
        (name.to_owned(), (0..).zip(values).map(point).collect())
    }

    #[test]
    fn the_ends_lie_in_the_corners() {
        let drawing = draw("val.loss", &[curve("falls", &[2., 1., 0.]), curve("lost", &[f64::NAN])], HEIGHT);
        let lines: Vec<&str> = drawing.lines().collect();
        assert_eq!(lines[1], "    2.0000 │a");
        assert_eq!(lines[HEIGHT], format!("    0.0000 │{}a", " ".repeat(WIDTH - 1)));
        assert!(drawing.ends_with("  a  falls\n  b  lost: no finite value"), "{drawing}");
    }

    #[test]
    fn any_values_can_be_drawn() {
        for values in [&[f64::MAX, f64::MIN][..], &[0.5], &[f64::INFINITY], &[], &[1e-310, 0.]] {
            let drawing = draw("val.loss", &[curve("odd", values)], HEIGHT);
            assert!(drawing.lines().all(|line| line.chars().count() <= WIDTH + 12), "{drawing}");
        }
    }
}
