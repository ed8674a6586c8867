//! Crops: random, and random in size.

use super::Part;
use crate::error::{Error, Result};
use zoo::random::Stream;

/// A random place for `size` x `size` pixels.
pub(super) fn draw(height: usize, width: usize, size: usize, draws: &mut Stream) -> Result<Part> {
    if height < size || width < size {
        return Err(Error::failed(format!(
            "random_crop takes {size} x {size} pixels, but the padded image has {height} x {width}: resize it first"
        )));
    }
    let (top, left) = (below(height - size + 1, draws), below(width - size + 1, draws));
    Ok(Part { top, left, height: size, width: size })
}

/// The part that a RandomResizedCrop takes: ten tries, then the largest central one whose ratio is allowed.
pub(super) fn draw_resized(
    height: usize,
    width: usize,
    scale: (f64, f64),
    ratio: (f64, f64),
    draws: &mut Stream,
) -> Part {
    let area = (height * width) as f64;
    for _ in 0..10 {
        let target = area * between(scale, draws);
        let aspect = between((ratio.0.ln(), ratio.1.ln()), draws).exp();
        let part_width = (target * aspect).sqrt().round_ties_even() as usize;
        let part_height = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&part_width) && (1..=height).contains(&part_height) {
            let top = below(height - part_height + 1, draws);
            let left = below(width - part_width + 1, draws);
            return Part { top, left, height: part_height, width: part_width };
        }
    }
    let aspect = width as f64 / height as f64;
    let (part_height, part_width) = if aspect < ratio.0 {
        ((width as f64 / ratio.0).round_ties_even() as usize, width)
    } else if aspect > ratio.1 {
        (height, (height as f64 * ratio.1).round_ties_even() as usize)
    } else {
        (height, width)
    };
    let (part_height, part_width) = (part_height.clamp(1, height), part_width.clamp(1, width));
    Part { top: (height - part_height) / 2, left: (width - part_width) / 2, height: part_height, width: part_width }
}

fn between((low, high): (f64, f64), draws: &mut Stream) -> f64 {
    low + (high - low) * draws.unit_f64()
}

fn below(bound: usize, draws: &mut Stream) -> usize {
    draws.below(bound as u64) as usize
}
