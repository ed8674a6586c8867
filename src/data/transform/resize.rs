//! The size that a resize makes.

use crate::data::options::ResizeTo;
use crate::error::{Error, Result};
use resnet_pixels::decode::MAX_PIXELS;

/// The longest side that a resize may make: a panorama of 1 x 8192 pixels cannot become one of 4096 x 2^25.
const MAX_SIDE: usize = 1 << 16;

/// The `(height, width)` that an image of `height` x `width` gets. Of the longer side, fractions are cut off.
pub(super) fn target(to: ResizeTo, height: usize, width: usize) -> Result<(usize, usize)> {
    let size = match to {
        ResizeTo::Exact(height, width) => (height, width),
        ResizeTo::Shorter(side) if height <= width => (side, side * width / height),
        ResizeTo::Shorter(side) => (side * height / width, side),
    };
    if size.0.max(size.1) > MAX_SIDE || size.0 * size.1 > MAX_PIXELS as usize {
        return Err(Error::failed(format!(
            "resized from {height} x {width}, an image would have {} x {} pixels: too large",
            size.0, size.1
        )));
    }
    Ok(size)
}
