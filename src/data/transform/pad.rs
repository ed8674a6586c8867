//! Borders.

use super::{Image, PaddingMode};
use crate::error::{Error, Result};

/// Whether an image is large enough to be mirrored that far.
pub(super) fn check_fits(padding: usize, mode: PaddingMode, height: usize, width: usize) -> Result<()> {
    if mode == PaddingMode::Reflect && padding >= height.min(width) {
        return Err(Error::failed(format!(
            "a reflecting border of {padding} pixels needs a larger image than {height} x {width}: resize it first"
        )));
    }
    Ok(())
}

/// The image with a border of `padding` pixels on each side.
pub(super) fn pad(image: &Image, padding: usize, mode: PaddingMode) -> Image {
    if padding == 0 {
        return image.clone();
    }
    let (height, width) = (image.height + 2 * padding, image.width + 2 * padding);
    let mut pixels = Vec::with_capacity(height * width * image.channels);
    for y in 0..height {
        for x in 0..width {
            match (source(y, padding, image.height, mode), source(x, padding, image.width, mode), mode) {
                (Some(y), Some(x), _) => pixels.extend_from_slice(image.pixel(y, x)),
                (_, _, PaddingMode::Constant(value)) => pixels.extend(std::iter::repeat_n(value, image.channels)),
                _ => unreachable!("only a constant border has no source"),
            }
        }
    }
    Image::new(height, width, image.channels, pixels)
}

/// Which pixel of a side of `side` pixels stands at `at` of the padded side.
fn source(at: usize, padding: usize, side: usize, mode: PaddingMode) -> Option<usize> {
    let at = at as isize - padding as isize;
    let last = side as isize - 1;
    let source = match mode {
        PaddingMode::Constant(_) => return usize::try_from(at).ok().filter(|&at| at < side),
        PaddingMode::Edge => at.clamp(0, last),
        PaddingMode::Reflect if at > last => 2 * last - at,
        PaddingMode::Reflect => at.abs(),
    };
    Some(source as usize)
}
