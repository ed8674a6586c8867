//! RandomErasing (Zhong et al. 2017).

use super::{Erase, Part};
use zoo::random::Stream;

/// The rectangle to erase: ten tries, then none. It is smaller than the image in both directions.
pub(super) fn draw(
    height: usize,
    width: usize,
    scale: (f64, f64),
    ratio: (f64, f64),
    draws: &mut Stream,
) -> Option<Part> {
    let area = (height * width) as f64;
    for _ in 0..10 {
        let target = area * (scale.0 + (scale.1 - scale.0) * draws.unit_f64());
        let (low, high) = (ratio.0.ln(), ratio.1.ln());
        let aspect = (low + (high - low) * draws.unit_f64()).exp();
        let part_height = (target * aspect).sqrt().round_ties_even() as usize;
        let part_width = (target / aspect).sqrt().round_ties_even() as usize;
        if part_height < height && part_width < width {
            let top = draws.below((height - part_height + 1) as u64) as usize;
            let left = draws.below((width - part_width + 1) as u64) as usize;
            return Some(Part { top, left, height: part_height, width: part_width });
        }
    }
    None
}

/// Overwrites the part in each frame of `f32[D, H, W, C]`, all frames alike.
pub(super) fn erase(
    values: &mut [f32],
    (height, width, channels): (usize, usize, usize),
    part: Part,
    value: Erase,
    draws: &mut Stream,
) {
    let noise: Vec<f32> = match value {
        Erase::Constant(value) => vec![value; part.height * part.width * channels],
        Erase::Random => (0..part.height * part.width * channels).map(|_| draws.normal() as f32).collect(),
    };
    let stride = part.width * channels;
    for frame in values.chunks_exact_mut(height * width * channels) {
        for y in 0..part.height {
            let start = ((part.top + y) * width + part.left) * channels;
            frame[start..start + stride].copy_from_slice(&noise[y * stride..][..stride]);
        }
    }
}
