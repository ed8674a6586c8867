//! ColorJitter.

use resnet_pixels::color::Change;
use zoo::random::Stream;

/// ColorJitter's factors, in their order.
pub(super) fn draw(brightness: f64, contrast: f64, saturation: f64, hue: f64, draws: &mut Stream) -> Vec<Change> {
    let order = draws.permutation(4);
    let mut between = |low: f64, high: f64| (low + (high - low) * draws.unit_f64()) as f32;
    let mut factor = |x: f64| (x > 0.0).then(|| between((1.0 - x).max(0.0), 1.0 + x));
    let changes = [
        factor(brightness).map(Change::Brightness),
        factor(contrast).map(Change::Contrast),
        factor(saturation).map(Change::Saturation),
        (hue > 0.0).then(|| Change::Hue(between(-hue, hue))),
    ];
    order.into_iter().filter_map(|at| changes[at]).collect()
}
