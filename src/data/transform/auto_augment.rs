//! TrivialAugmentWide (Müller and Hutter 2021) and RandAugment (Cubuk et al. 2019), with torchvision's operations and
//! tables of strengths.

use super::Image;
use resnet_pixels::color::{self, Change};
use resnet_pixels::{Resampling, affine, sharpen};
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
    pub(super) fn apply(self, mut image: Image, resampling: Resampling) -> Image {
        let through = |image: &Image, matrix| affine::transform(image, matrix, resampling);
        match self {
            Op::Identity => {}
            Op::ShearX(tangent) => return through(&image, affine::shear(&image, tangent, 0.0)),
            Op::ShearY(tangent) => return through(&image, affine::shear(&image, 0.0, tangent)),
            Op::TranslateX(right) => return through(&image, affine::translate(right, 0.0)),
            Op::TranslateY(down) => return through(&image, affine::translate(0.0, down)),
            Op::Rotate(degrees) => return through(&image, affine::rotate(degrees)),
            Op::Sharpness(factor) => return sharpen::sharpen(&image, factor),
            Op::Color(change) => color::adjust(&mut image, change),
            Op::Posterize(bits) => color::posterize(&mut image, bits),
            Op::Solarize(threshold) => color::solarize(&mut image, threshold),
            Op::AutoContrast => color::auto_contrast(&mut image),
            Op::Equalize => color::equalize(&mut image),
        }
        image
    }
}

/// TrivialAugmentWide's operation at one strength, for tests of its table.
#[cfg(test)]
pub(super) fn op_at(bin: usize, bins: usize, draws: &mut Stream) -> Op {
    draw_op(&WIDE, bin, bins, draws)
}
