//! Resizing with antialiasing, as Pillow does it and torchvision within a level: the filter widens with the scale, rows
//! come first, and between the two passes values are bytes.
//!
//! Own code, because the resizing crate filters columns first, which is another result.

use super::{Image, Part, Resampling};
use crate::crop;
use pulp::NullaryFnOnce;
use std::ops::Range;

/// Bits behind the point of a weight: 8 stay for the pixel and 2 for sign and overshoot.
const PRECISION: u32 = 32 - 8 - 2;
/// What a sum of weighted bytes starts at, so that cutting its fraction off rounds it.
const HALF: i32 = 1 << (PRECISION - 1);
/// Columns that are summed up together.
const LANES: usize = 32;

/// The image at `(height, width)`.
pub fn resize(image: &Image, size: (usize, usize), resampling: Resampling) -> Image {
    resize_part(image, whole((image.height, image.width)), size, resampling)
}

/// A part of the image at `(height, width)`; pixels outside the part count for nothing, nor are they read.
pub fn resize_part(image: &Image, part: Part, size: (usize, usize), resampling: Resampling) -> Image {
    window_of(image, part, size, whole(size), resampling)
}

/// What [`crop`] takes of the image at `(height, width)`: only that is computed.
pub fn resize_window(image: &Image, size: (usize, usize), window: Part, resampling: Resampling) -> Image {
    window_of(image, whole((image.height, image.width)), size, window, resampling)
}

fn whole((height, width): (usize, usize)) -> Part {
    Part { top: 0, left: 0, height, width }
}

/// A window of what a part of the image becomes at `size`.
fn window_of(image: &Image, part: Part, size: (usize, usize), window: Part, resampling: Resampling) -> Image {
    match resampling {
        Resampling::Nearest => nearest(image, part, size, window),
        Resampling::Bilinear => filtered(image, part, size, window, &Filter { support: 1.0, weight: triangle }),
        Resampling::Bicubic => filtered(image, part, size, window, &Filter { support: 2.0, weight: cubic }),
    }
}

fn nearest(image: &Image, part: Part, (height, width): (usize, usize), window: Part) -> Image {
    let source = |at: usize, from: usize, to: usize| ((at as f64 + 0.5) * from as f64 / to as f64) as usize;
    let mut pixels = Vec::with_capacity(window.height * window.width * image.channels);
    for y in window.top..window.top + window.height {
        for x in window.left..window.left + window.width {
            let (down, right) = (source(y, part.height, height), source(x, part.width, width));
            pixels.extend_from_slice(image.pixel(part.top + down, part.left + right));
        }
    }
    Image::new(window.height, window.width, image.channels, pixels)
}

fn filtered(image: &Image, part: Part, (height, width): (usize, usize), window: Part, filter: &Filter) -> Image {
    let (down, across) = (window.top..window.top + window.height, window.left..window.left + window.width);
    let columns = (part.height != height).then(|| filter.taps(part.height, height, down.clone()));
    // The rows of the part that the window is made of.
    let rows = columns.as_ref().map_or(down, |taps| taps.span(part.height));
    let part = Part { top: part.top + rows.start, height: rows.len(), ..part };
    let resized = if part.width == width {
        crop::crop(image, Part { left: part.left + across.start, width: across.len(), ..part })
    } else {
        let taps = &filter.taps(part.width, width, across);
        let mut pixels = vec![0; part.height.next_multiple_of(VECTOR) * window.width * image.channels];
        match image.channels {
            1 => pulp::Arch::new().dispatch(Rows::<1, 1> { image, part, taps, pixels: &mut pixels }),
            _ => pulp::Arch::new().dispatch(Rows::<3, 4> { image, part, taps, pixels: &mut pixels }),
        }
        pixels.truncate(part.height * window.width * image.channels);
        Image::new(part.height, window.width, image.channels, pixels)
    };
    let Some(mut taps) = columns else { return resized };
    taps.first.iter_mut().for_each(|first| *first -= rows.start);
    let mut pixels = vec![0; window.height * window.width * image.channels];
    pulp::Arch::new().dispatch(Columns { image: &resized, taps: &taps, pixels: &mut pixels });
    Image::new(window.height, window.width, image.channels, pixels)
}

/// Values of a vector of 32-bit numbers, on CPUs with AVX2.
const VECTOR: usize = 8;

/// Resizes each row of a part of an image with C channels. A pixel takes S values of a vector, so that the pixels of
/// VECTOR / S rows, side by side, fill one.
struct Rows<'a, const C: usize, const S: usize> {
    image: &'a Image,
    part: Part,
    taps: &'a Taps,
    /// As many rows as the part has, or some more.
    pixels: &'a mut [u8],
}

impl<const C: usize, const S: usize> NullaryFnOnce for Rows<'_, C, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Rows { image, part, taps, pixels } = self;
        let width = taps.first.len();
        let mut side_by_side = vec![[0; VECTOR]; part.width + 1];
        let mut sums = vec![[0; VECTOR]; width];
        let mut levels = vec![[0; VECTOR]; width];
        for (top, group) in (part.top..).step_by(VECTOR / S).zip(pixels.chunks_exact_mut(width * C * (VECTOR / S))) {
            for (place, y) in (top..part.top + part.height).take(VECTOR / S).enumerate() {
                let row = &image.row(y)[part.left * C..][..part.width * C];
                copy_spaced::<C, S>(row, &mut side_by_side, place);
            }
            weigh(&side_by_side, taps, &mut sums);
            for (level_of, sum) in levels.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                *level_of = level(*sum);
            }
            for (place, row) in group.chunks_exact_mut(width * C).enumerate() {
                for (pixel, levels) in row.as_chunks_mut::<C>().0.iter_mut().zip(&levels) {
                    let levels = levels.as_chunks::<S>().0[place];
                    *pixel = std::array::from_fn(|channel| levels[channel]);
                }
            }
        }
    }
}

/// Puts each pixel of a row into its place of a vector. Spare values take what follows, and mean nothing.
#[inline(always)]
fn copy_spaced<const C: usize, const S: usize>(row: &[u8], vectors: &mut [[u8; VECTOR]], place: usize) {
    let mut last = [0; S];
    last[..C].copy_from_slice(&row[row.len() - C..]);
    for (vector, at) in vectors.iter_mut().zip((0..row.len()).step_by(C)) {
        vector.as_chunks_mut().0[place] = *row[at..].first_chunk::<S>().unwrap_or(&last);
    }
}

/// Sums up what each pixel of a row is made of. But for a large scale, the compiler knows the number of taps, and keeps what
/// it sums up in registers.
#[inline(always)]
fn weigh(vectors: &[[u8; VECTOR]], taps: &Taps, sums: &mut [[i32; VECTOR]]) {
    match taps.count {
        2 => weigh_n::<2>(vectors, taps, sums),
        4 => weigh_n::<4>(vectors, taps, sums),
        6 => weigh_n::<6>(vectors, taps, sums),
        8 => weigh_n::<8>(vectors, taps, sums),
        _ => {
            for (sums, (first, weights)) in sums.iter_mut().zip(taps.iter()) {
                *sums = [HALF; VECTOR];
                for (vectors, weights) in vectors[first..].as_chunks::<2>().0.iter().zip(weights.as_chunks().0) {
                    *sums = weighted(*sums, vectors, weights);
                }
            }
        }
    }
}

#[inline(always)]
fn weigh_n<const N: usize>(vectors: &[[u8; VECTOR]], taps: &Taps, sums: &mut [[i32; VECTOR]]) {
    for ((sums, &first), weights) in sums.iter_mut().zip(&taps.first).zip(taps.weights.as_chunks::<N>().0) {
        let vectors = vectors[first..].first_chunk().expect("taps lie in the row");
        *sums = weighted([HALF; VECTOR], vectors, weights);
    }
}

/// Wrapping, though nothing overflows: checks, which a development build makes, would not be vectorised.
#[inline(always)]
fn weighted<const N: usize>(sums: [i32; VECTOR], vectors: &[[u8; VECTOR]; N], weights: &[i32; N]) -> [i32; VECTOR] {
    std::array::from_fn(|lane| {
        let products =
            vectors.iter().zip(weights).map(|(vector, weight)| i32::from(vector[lane]).wrapping_mul(*weight));
        products.fold(sums[lane], i32::wrapping_add)
    })
}

/// Resizes each column of an image.
struct Columns<'a> {
    image: &'a Image,
    taps: &'a Taps,
    pixels: &'a mut [u8],
}

impl NullaryFnOnce for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Columns { image, taps, pixels } = self;
        let stride = image.width * image.channels;
        for ((first, weights), pixels) in taps.iter().zip(pixels.chunks_exact_mut(stride)) {
            let rows = &image.pixels[first * stride..];
            let (chunks, rest) = pixels.as_chunks_mut::<LANES>();
            for (at, chunk) in chunks.iter_mut().enumerate() {
                let mut sums = [HALF; LANES];
                for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(&row[at * LANES..][..LANES]) {
                        *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(weight));
                    }
                }
                *chunk = std::array::from_fn(|at| level(sums[at]));
            }
            let done = stride - rest.len();
            for (x, value) in (done..).zip(rest) {
                let weighted = rows.chunks_exact(stride).zip(weights).map(|(row, weight)| i32::from(row[x]) * weight);
                *value = level(weighted.fold(HALF, |sum, value| sum + value));
            }
        }
    }
}

#[inline(always)]
fn level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// A resampling filter and how far it reaches, in pixels of the smaller image.
struct Filter {
    support: f64,
    weight: fn(f64) -> f64,
}

/// What each result is made of: `count` neighbouring pixels each, from `first` on, with weights of sum 2^[`PRECISION`].
/// Where fewer are in reach, others weigh nothing. The count is even, so the last one may lie one pixel behind the side.
struct Taps {
    count: usize,
    first: Vec<usize>,
    weights: Vec<i32>,
}

impl Taps {
    /// All pixels of a side of `from` that any result is made of.
    fn span(&self, from: usize) -> Range<usize> {
        let (first, last) = (self.first.first().copied(), self.first.last().copied());
        first.unwrap_or(0)..last.map_or(0, |last| (last + self.count).min(from))
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.first.iter().copied().zip(self.weights.chunks_exact(self.count))
    }
}

impl Filter {
    /// For pixels `wanted` of a side of `to`, what they take of a side of `from`.
    fn taps(&self, from: usize, to: usize, wanted: Range<usize>) -> Taps {
        let scale = from as f64 / to as f64;
        let widened = scale.max(1.0);
        let reach = self.support * widened;
        let in_reach = |at: usize| {
            let center = (at as f64 + 0.5) * scale;
            let first = (center - reach + 0.5).max(0.0) as usize;
            (center, first..((center + reach + 0.5) as usize).min(from))
        };
        let most = wanted.clone().map(|at| in_reach(at).1.len()).max().expect("a side has a pixel");
        let count = most.next_multiple_of(2);
        let mut taps = Taps { count, first: Vec::with_capacity(wanted.len()), weights: vec![0; wanted.len() * count] };
        for (at, fixed) in wanted.zip(taps.weights.chunks_exact_mut(count)) {
            let (center, pixels) = in_reach(at);
            let first = pixels.start.min(from.saturating_sub(count));
            taps.first.push(first);
            let fixed = &mut fixed[pixels.start - first..];
            let weight = |pixel: usize| (self.weight)((pixel as f64 - center + 0.5) / widened);
            let sum: f64 = pixels.clone().map(weight).sum();
            for (fixed, pixel) in fixed.iter_mut().zip(pixels) {
                *fixed = (weight(pixel) / sum * f64::from(1 << PRECISION)).round() as i32;
            }
        }
        taps
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Any bytes, the same ones each time.
    fn noise(height: usize, width: usize, channels: usize) -> Image {
        let mut state = 1u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let pixels = (0..height * width * channels).map(|_| byte()).collect();
        Image::new(height, width, channels, pixels)
    }

    /// One side resized, a value at a time.
    fn plain(image: &Image, part: Part, to: usize, filter: &Filter, along_rows: bool) -> Image {
        let (height, width) = if along_rows { (part.height, to) } else { (to, part.width) };
        let from = if along_rows { part.width } else { part.height };
        let scale = from as f64 / to as f64;
        let reach = filter.support * scale.max(1.0);
        let mut result = Image::new(height, width, image.channels, vec![0; height * width * image.channels]);
        for (at, value) in result.pixels.iter_mut().enumerate() {
            let (y, x, channel) = (at / image.channels / width, at / image.channels % width, at % image.channels);
            let center = (if along_rows { x } else { y } as f64 + 0.5) * scale;
            let first = (center - reach + 0.5).max(0.0) as usize;
            let end = ((center + reach + 0.5) as usize).min(from);
            let weight = |pixel: usize| (filter.weight)((pixel as f64 - center + 0.5) / scale.max(1.0));
            let all: f64 = (first..end).map(weight).sum();
            let sum: i64 = (first..end)
                .map(|pixel| {
                    let (y, x) = if along_rows { (y, pixel) } else { (pixel, x) };
                    let fixed = (weight(pixel) / all * f64::from(1 << PRECISION)).round() as i64;
                    i64::from(image.pixel(part.top + y, part.left + x)[channel]) * fixed
                })
                .sum();
            *value = ((sum + i64::from(HALF)) >> PRECISION).clamp(0, 255) as u8;
        }
        result
    }

    #[test]
    fn vectors_hold_what_single_values_would() {
        for channels in [1, 3] {
            for (height, width) in [(1, 1), (2, 3), (9, 7), (17, 40), (61, 33), (8, 200)] {
                let image = noise(height, width, channels);
                for (to_height, to_width) in [(1, 1), (1, 5), (4, 3), (16, 16), (33, 61), (height, 12), (12, width)] {
                    let part =
                        Part { top: height / 3, left: width / 4, height: height.div_ceil(2), width: width.div_ceil(2) };
                    for (filter, resampling) in [
                        (Filter { support: 1.0, weight: triangle }, Resampling::Bilinear),
                        (Filter { support: 2.0, weight: cubic }, Resampling::Bicubic),
                    ] {
                        let rows = match part.width == to_width {
                            true => crop::crop(&image, part),
                            false => plain(&image, part, to_width, &filter, true),
                        };
                        let whole = Part { top: 0, left: 0, height: rows.height, width: rows.width };
                        let expected = match rows.height == to_height {
                            true => rows,
                            false => plain(&rows, whole, to_height, &filter, false),
                        };
                        let size = (to_height, to_width);
                        let found = resize_part(&image, part, size, resampling);
                        assert!(found == expected, "{channels} channels, {part:?} to {to_height} x {to_width}");
                        let window = Part {
                            top: to_height / 3,
                            left: to_width / 4,
                            height: to_height.div_ceil(2),
                            width: to_width.div_ceil(3),
                        };
                        let found = resize_window(&image, size, window, resampling);
                        let expected = crop::crop(&resize(&image, size, resampling), window);
                        assert!(found == expected, "{channels} channels, {window:?} of {to_height} x {to_width}");
                    }
                }
            }
        }
    }
}
