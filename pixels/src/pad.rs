//! Borders.

use super::Image;

/// What a border holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Border {
    /// This value.
    Constant(u8),
    /// The image mirrored, its edge not repeated.
    Reflect,
    /// The edge repeated.
    Edge,
}

/// The image with a border of `padding` pixels on each side; to be mirrored, it must be larger than `padding` both ways.
pub fn pad(image: &Image, padding: usize, border: Border) -> Image {
    let (height, width) = (image.height + 2 * padding, image.width + 2 * padding);
    let mut pixels = Vec::with_capacity(height * width * image.channels);
    for y in 0..height {
        let Some(y) = source(y, padding, image.height, border) else {
            pixels.extend(std::iter::repeat_n(constant(border), width * image.channels));
            continue;
        };
        let outside = |columns: std::ops::Range<usize>, pixels: &mut Vec<u8>| {
            for x in columns {
                match source(x, padding, image.width, border) {
                    Some(x) => pixels.extend_from_slice(image.pixel(y, x)),
                    None => pixels.extend(std::iter::repeat_n(constant(border), image.channels)),
                }
            }
        };
        outside(0..padding, &mut pixels);
        pixels.extend_from_slice(image.row(y));
        outside(padding + image.width..width, &mut pixels);
    }
    Image::new(height, width, image.channels, pixels)
}

/// Which pixel of a side of `side` pixels stands at `at` of the padded side; none where a constant does.
fn source(at: usize, padding: usize, side: usize, border: Border) -> Option<usize> {
    let at = at as isize - padding as isize;
    let last = side as isize - 1;
    let source = match border {
        Border::Constant(_) => return usize::try_from(at).ok().filter(|&at| at < side),
        Border::Edge => at.clamp(0, last),
        Border::Reflect if at > last => 2 * last - at,
        Border::Reflect => at.abs(),
    };
    Some(source as usize)
}

fn constant(border: Border) -> u8 {
    match border {
        Border::Constant(value) => value,
        Border::Reflect | Border::Edge => unreachable!("only a constant border has no source"),
    }
}
