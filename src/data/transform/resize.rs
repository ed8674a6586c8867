//! Resizing with antialiasing, as Pillow does it and torchvision within a level: the filter widens with the scale, rows
//! come first, and between the two passes values are bytes.
//!
//! Own code, because the resizing crate filters columns first, which is another result, and instantiates its kernels for
//! every kind of pixel in the crate that calls it: three quarters of this crate's build time.

use super::{Image, Part};
use crate::data::options::ResizeTo;
use crate::error::{Error, Result};
use zoo::Interpolation;

/// The longest side that a resize may make: a panorama of 1 x 8192 pixels cannot become one of 4096 x 2^25.
const MAX_SIDE: usize = 1 << 16;
/// Bits behind the point of a weight: 8 stay for the pixel and 2 for sign and overshoot.
const PRECISION: u32 = 32 - 8 - 2;

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
    match interpolation {
        Interpolation::Nearest => nearest(image, part, size),
        Interpolation::Bilinear => filtered(image, part, size, &Filter { support: 1.0, weight: triangle }),
        Interpolation::Bicubic => filtered(image, part, size, &Filter { support: 2.0, weight: cubic }),
    }
}

fn nearest(image: &Image, part: Part, (height, width): (usize, usize)) -> Image {
    let source = |at: usize, from: usize, to: usize| ((at as f64 + 0.5) * from as f64 / to as f64) as usize;
    let mut pixels = Vec::with_capacity(height * width * image.channels);
    for y in 0..height {
        for x in 0..width {
            let (down, right) = (source(y, part.height, height), source(x, part.width, width));
            pixels.extend_from_slice(image.pixel(part.top + down, part.left + right));
        }
    }
    Image::new(height, width, image.channels, pixels)
}

fn filtered(image: &Image, part: Part, (height, width): (usize, usize), filter: &Filter) -> Image {
    let rows = if part.width == width {
        super::crop::crop(image, part)
    } else if image.channels == 1 {
        resize_rows::<1>(image, part, width, filter)
    } else {
        resize_rows::<3>(image, part, width, filter)
    };
    if part.height == height { rows } else { resize_columns(&rows, height, filter) }
}

/// Each row of a part at `width` pixels.
fn resize_rows<const C: usize>(image: &Image, part: Part, width: usize, filter: &Filter) -> Image {
    let taps = filter.taps(part.width, width);
    let mut pixels = Vec::with_capacity(part.height * width * C);
    for y in part.top..part.top + part.height {
        let row = &image.row(y).as_chunks::<C>().0[part.left..part.left + part.width];
        for Taps { first, weights } in &taps {
            let mut sums = [1 << (PRECISION - 1); C];
            for (pixel, weight) in row[*first..].iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            pixels.extend(sums.map(level));
        }
    }
    Image::new(part.height, width, C, pixels)
}

/// Each column at `height` pixels.
fn resize_columns(image: &Image, height: usize, filter: &Filter) -> Image {
    let mut pixels = Vec::with_capacity(height * image.width * image.channels);
    let mut sums = vec![0; image.width * image.channels];
    for Taps { first, weights } in filter.taps(image.height, height) {
        sums.fill(1 << (PRECISION - 1));
        for (y, weight) in (first..).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(image.row(y)) {
                *sum += i32::from(*value) * weight;
            }
        }
        pixels.extend(sums.iter().map(|&sum| level(sum)));
    }
    Image::new(height, image.width, image.channels, pixels)
}

fn level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// A resampling filter and how far it reaches, in pixels of the smaller image.
struct Filter {
    support: f64,
    weight: fn(f64) -> f64,
}

/// The pixels that one result is made of: from `first` on, with these weights of sum 2^[`PRECISION`].
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Filter {
    /// For each pixel of a side of `to`, what it takes of a side of `from`.
    fn taps(&self, from: usize, to: usize) -> Vec<Taps> {
        let scale = from as f64 / to as f64;
        let widened = scale.max(1.0);
        let reach = self.support * widened;
        (0..to)
            .map(|at| {
                let center = (at as f64 + 0.5) * scale;
                let first = (center - reach + 0.5).max(0.0) as usize;
                let end = ((center + reach + 0.5) as usize).min(from);
                let weights: Vec<f64> =
                    (first..end).map(|pixel| (self.weight)((pixel as f64 - center + 0.5) / widened)).collect();
                let sum: f64 = weights.iter().sum();
                let fixed = |weight: f64| (weight / sum * f64::from(1 << PRECISION)).round() as i32;
                Taps { first, weights: weights.into_iter().map(fixed).collect() }
            })
            .collect()
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
