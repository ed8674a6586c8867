//! Sharpness.

use super::Image;

/// Blends with the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13: 1 keeps it, 0 blurs it, 2 sharpens it. The
/// outermost pixels stay.
pub fn sharpen(image: &Image, factor: f32) -> Image {
    let mut result = image.clone();
    for y in 1..image.height.saturating_sub(1) {
        for x in 1..image.width.saturating_sub(1) {
            for channel in 0..image.channels {
                let at = |y: usize, x: usize| u32::from(image.pixel(y, x)[channel]);
                let around: u32 = (y - 1..=y + 1).flat_map(|y| (x - 1..=x + 1).map(move |x| at(y, x))).sum();
                let smooth = ((around + 4 * at(y, x)) as f32 / 13.0).round_ties_even();
                let value = at(y, x) as f32;
                let sharp = value + (1.0 - factor) * (smooth - value);
                result.pixels[(y * image.width + x) * image.channels + channel] = sharp.clamp(0.0, 255.0) as u8;
            }
        }
    }
    result
}
