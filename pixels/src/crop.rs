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

/// The central `size` x `size` pixels. What a smaller image lacks is black, the odd pixel of it on the right and below.
pub fn center(image: &Image, size: usize) -> Image {
    let part = crop(image, central((image.height, image.width), size));
    if (part.height, part.width) == (size, size) {
        return part;
    }
    let (above, before) = ((size - part.height) / 2, (size - part.width) / 2);
    let mut pixels = vec![0; size * size * image.channels];
    for y in 0..part.height {
        let start = ((above + y) * size + before) * image.channels;
        pixels[start..start + part.width * image.channels].copy_from_slice(part.row(y));
    }
    Image::new(size, size, image.channels, pixels)
}

/// What [`center`] keeps of an image of `(height, width)`; a half pixel of its corner's place is rounded to the even one, as
/// Python does.
pub fn central((height, width): (usize, usize), size: usize) -> Part {
    let corner = |side: usize| (side.saturating_sub(size) as f64 / 2.0).round_ties_even() as usize;
    Part { top: corner(height), left: corner(width), height: size.min(height), width: size.min(width) }
}
