//! TrivialAugmentWide (Müller and Hutter 2021) and RandAugment (Cubuk et al. 2019), with torchvision's operations and
//! tables of strengths.

use super::{Image, affine, color};
use color::Change;
use zoo::Interpolation;
use zoo::random::Stream;

/// One operation at its strength.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Op {
    Identity,
    /// By a tangent.
    ShearX(f64),
    ShearY(f64),
    /// By whole pixels.
    TranslateX(f64),
    TranslateY(f64),
    /// Counter-clockwise, in degrees.
    Rotate(f64),
    Color(Change),
    /// 1 keeps the image, 0 blurs it, 2 sharpens it.
    Sharpness(f32),
    /// Keeps this many bits.
    Posterize(u32),
    /// Inverts from this value on.
    Solarize(f32),
    AutoContrast,
    Equalize,
}

/// The operations that both draw from.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

const KINDS: [Kind; 14] = [
    Kind::Identity,
    Kind::ShearX,
    Kind::ShearY,
    Kind::TranslateX,
    Kind::TranslateY,
    Kind::Rotate,
    Kind::Brightness,
    Kind::Color,
    Kind::Contrast,
    Kind::Sharpness,
    Kind::Posterize,
    Kind::Solarize,
    Kind::AutoContrast,
    Kind::Equalize,
];

/// The largest strengths.
struct Space {
    shear: f64,
    translate_x: f64,
    translate_y: f64,
    rotate: f64,
    /// Of brightness, colour, contrast and sharpness.
    factor: f64,
    /// Bits that are dropped.
    posterize: f64,
}

/// TrivialAugmentWide's strengths.
const WIDE: Space =
    Space { shear: 0.99, translate_x: 32.0, translate_y: 32.0, rotate: 135.0, factor: 0.99, posterize: 6.0 };

/// One operation, its strength uniform over the bins.
pub(super) fn draw_trivial(bins: usize, draws: &mut Stream) -> Op {
    let bin = draws.below(bins as u64) as usize;
    draw_op(&WIDE, bin, bins, draws)
}

/// One operation at the given strength, for an image of `(height, width)`.
pub(super) fn draw_rand(bin: usize, bins: usize, (height, width): (usize, usize), draws: &mut Stream) -> Op {
    let space = Space {
        shear: 0.3,
        translate_x: 150.0 / 331.0 * width as f64,
        translate_y: 150.0 / 331.0 * height as f64,
        rotate: 30.0,
        factor: 0.9,
        posterize: 4.0,
    };
    draw_op(&space, bin, bins, draws)
}

fn draw_op(space: &Space, bin: usize, bins: usize, draws: &mut Stream) -> Op {
    let kind = KINDS[draws.below(KINDS.len() as u64) as usize];
    let mut signed = |most: f64| {
        let strength = f64::from(linspace(0.0, most, bin, bins));
        if draws.unit_f64() < 0.5 { -strength } else { strength }
    };
    match kind {
        Kind::Identity => Op::Identity,
        Kind::ShearX => Op::ShearX(signed(space.shear)),
        Kind::ShearY => Op::ShearY(signed(space.shear)),
        Kind::TranslateX => Op::TranslateX(signed(space.translate_x).trunc()),
        Kind::TranslateY => Op::TranslateY(signed(space.translate_y).trunc()),
        Kind::Rotate => Op::Rotate(signed(space.rotate)),
        Kind::Brightness => Op::Color(Change::Brightness((1.0 + signed(space.factor)) as f32)),
        Kind::Color => Op::Color(Change::Saturation((1.0 + signed(space.factor)) as f32)),
        Kind::Contrast => Op::Color(Change::Contrast((1.0 + signed(space.factor)) as f32)),
        Kind::Sharpness => Op::Sharpness((1.0 + signed(space.factor)) as f32),
        Kind::Posterize => {
            let dropped = bin as f32 / ((bins - 1) as f64 / space.posterize) as f32;
            Op::Posterize((8.0 - dropped).round_ties_even() as u32)
        }
        Kind::Solarize => Op::Solarize((255.0 * f64::from(linspace(1.0, 0.0, bin, bins))) as f32),
        Kind::AutoContrast => Op::AutoContrast,
        Kind::Equalize => Op::Equalize,
    }
}

/// `torch.linspace(start, end, count)[at]`, which rounds once: cut to whole pixels, the difference of a bit is a pixel.
fn linspace(start: f64, end: f64, at: usize, count: usize) -> f32 {
    let [start, end] = [start as f32, end as f32];
    let step = f64::from((end - start) / (count - 1) as f32);
    let (start, end) = (f64::from(start), f64::from(end));
    let value = if at < count / 2 { start + step * at as f64 } else { end - step * (count - 1 - at) as f64 };
    value as f32
}

impl Op {
    pub(super) fn apply(self, image: &Image, interpolation: Interpolation) -> Image {
        let through = |matrix| affine::transform(image, matrix, interpolation);
        match self {
            Op::Identity => image.clone(),
            Op::ShearX(tangent) => through(affine::shear(image, tangent, 0.0)),
            Op::ShearY(tangent) => through(affine::shear(image, 0.0, tangent)),
            Op::TranslateX(right) => through(affine::translate(right, 0.0)),
            Op::TranslateY(down) => through(affine::translate(0.0, down)),
            Op::Rotate(degrees) => through(affine::rotate(degrees)),
            Op::Color(change) => color::adjust(image, change),
            Op::Sharpness(factor) => sharpen(image, factor),
            Op::Posterize(bits) => {
                let mask = if bits >= 8 { 0xff } else { !(0xff >> bits) };
                color::map(image, |value| value & mask)
            }
            Op::Solarize(threshold) => {
                color::map(image, |value| if f32::from(value) >= threshold { 255 - value } else { value })
            }
            Op::AutoContrast => each_channel(image, auto_contrast),
            Op::Equalize => each_channel(image, equalize),
        }
    }
}

/// Blends with the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the outermost pixels stay.
fn sharpen(image: &Image, factor: f32) -> Image {
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

/// Maps each channel through a table that its histogram gives.
fn each_channel(image: &Image, table: fn(&[u32; 256]) -> [u8; 256]) -> Image {
    let mut result = image.clone();
    for channel in 0..image.channels {
        let mut histogram = [0; 256];
        for pixel in image.pixels.chunks_exact(image.channels) {
            histogram[usize::from(pixel[channel])] += 1;
        }
        let table = table(&histogram);
        for pixel in result.pixels.chunks_exact_mut(image.channels) {
            pixel[channel] = table[usize::from(pixel[channel])];
        }
    }
    result
}

/// The least value becomes 0, the greatest 255.
fn auto_contrast(histogram: &[u32; 256]) -> [u8; 256] {
    let least = histogram.iter().position(|&count| count > 0).expect("an image has pixels");
    let most = histogram.iter().rposition(|&count| count > 0).expect("an image has pixels");
    if least == most {
        return std::array::from_fn(|value| value as u8);
    }
    let scale = (most - least) as f32 * (1.0 / 255.0);
    std::array::from_fn(|value| ((value as f32 - least as f32) / scale).clamp(0.0, 255.0) as u8)
}

/// Pillow's `ImageOps.equalize`.
fn equalize(histogram: &[u32; 256]) -> [u8; 256] {
    let most = histogram.iter().rposition(|&count| count > 0).expect("an image has pixels");
    let step = (histogram.iter().sum::<u32>() - histogram[most]) / 255;
    if step == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut before = step / 2;
    std::array::from_fn(|value| {
        let level = (before / step).min(255) as u8;
        before += histogram[value];
        level
    })
}

/// TrivialAugmentWide's operation at one strength, for tests of its table.
#[cfg(test)]
pub(super) fn op_at(bin: usize, bins: usize, draws: &mut Stream) -> Op {
    draw_op(&WIDE, bin, bins, draws)
}
