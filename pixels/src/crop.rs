//! Crops.

use super::{Image, Part};

/// A part of the image.
pub fn crop(image: &Image, part: Part) -> Image {
    let (from, bytes) = (part.left * image.channels, part.width * image.channels);
    let mut pixels = Vec::with_capacity(part.height * bytes);
    for y in part.top..part.top + part.height {
        pixels.extend_from_slice(&image.row(y)[from..][..bytes]);
    }
    Image::new(part.height, part.width, image.channels, pixels)
}

/// The central `size` x `size` pixels. What a smaller image lacks is black, the odd pixel of it on the right and below; a
/// half pixel of the corner's place is rounded to the even one, as Python does.
pub fn center(image: &Image, size: usize) -> Image {
    let (top, above) = anchor(image.height, size);
    let (left, before) = anchor(image.width, size);
    let (height, width) = (size.min(image.height), size.min(image.width));
    let part = crop(image, Part { top, left, height, width });
    if (height, width) == (size, size) {
        return part;
    }
    let mut pixels = vec![0; size * size * image.channels];
    for y in 0..height {
        let start = ((above + y) * size + before) * image.channels;
        pixels[start..start + width * image.channels].copy_from_slice(part.row(y));
    }
    Image::new(size, size, image.channels, pixels)
}

/// Where along one side a central crop begins, and how much padding comes before it.
fn anchor(side: usize, size: usize) -> (usize, usize) {
    if side < size { (0, (size - side) / 2) } else { (((side - size) as f64 / 2.0).round_ties_even() as usize, 0) }
}
