//! Resizing with antialiasing, as Pillow and torchvision do it: the filter widens with the scale, rows first, bytes between
//! the two passes.

use super::{Image, Part};
use crate::data::options::ResizeTo;
use crate::error::{Error, Result};
use fast_image_resize::images::{CroppedImage, Image as Buffer, ImageRef};
use fast_image_resize::{FilterType, IntoImageView, PixelType, ResizeAlg, ResizeOptions, Resizer};
use zoo::Interpolation;

/// The longest side that a resize may make: a panorama of 1 x 8192 pixels cannot become one of 4096 x 2^25.
const MAX_SIDE: usize = 1 << 16;

/// The `(height, width)` that an image of `height` x `width` gets. Of the longer side, fractions are cut off.
pub(super) fn target(to: ResizeTo, height: usize, width: usize) -> Result<(usize, usize)> {
    let size = match to {
        ResizeTo::Exact(height, width) => (height, width),
        ResizeTo::Shorter(side) if height <= width => (side, side * width / height),
        ResizeTo::Shorter(side) => (side * height / width, side),
    };
    if size.0.max(size.1) > MAX_SIDE || size.0 * size.1 > crate::data::image::MAX_PIXELS as usize {
        return Err(Error::failed(format!(
            "resized from {height} x {width}, an image would have {} x {} pixels: too large",
            size.0, size.1
        )));
    }
    Ok(size)
}

/// The image at `(height, width)`.
pub(super) fn resize(image: &Image, size: (usize, usize), interpolation: Interpolation) -> Image {
    let whole = Part { top: 0, left: 0, height: image.height, width: image.width };
    resize_part(image, whole, size, interpolation)
}

/// A part of the image at `(height, width)`; pixels outside the part count for nothing.
pub(super) fn resize_part(image: &Image, part: Part, size: (usize, usize), interpolation: Interpolation) -> Image {
    let pixel = if image.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let whole = ImageRef::new(image.width as u32, image.height as u32, &image.pixels, pixel)
        .expect("an image has as many pixels as its sizes say");
    let [left, top, width, height] = [part.left, part.top, part.width, part.height].map(|side| side as u32);
    let part = CroppedImage::new(&whole, left, top, width, height).expect("a part lies inside its image");
    let pixels = match interpolation {
        Interpolation::Nearest => pass(&part, size, ResizeAlg::Nearest),
        Interpolation::Bilinear => two_passes(&part, size, FilterType::Bilinear),
        Interpolation::Bicubic => two_passes(&part, size, FilterType::CatmullRom),
    };
    Image::new(size.0, size.1, image.channels, pixels.into_vec())
}

/// The library itself would filter columns first, and bytes between the passes make that another result.
fn two_passes(part: &impl IntoImageView, (height, width): (usize, usize), filter: FilterType) -> Buffer<'static> {
    let rows = pass(part, (part.height() as usize, width), ResizeAlg::Convolution(filter));
    if part.height() as usize == height { rows } else { pass(&rows, (height, width), ResizeAlg::Convolution(filter)) }
}

fn pass(from: &impl IntoImageView, (height, width): (usize, usize), algorithm: ResizeAlg) -> Buffer<'static> {
    let pixel = from.pixel_type().expect("an image's pixels have one type");
    let mut to = Buffer::new(width as u32, height as u32, pixel);
    let options = ResizeOptions::new().resize_alg(algorithm);
    Resizer::new().resize(from, &mut to, &options).expect("both images have pixels of one type");
    to
}
