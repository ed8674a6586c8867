//! Colours, in f32 as torchvision's kernels for byte tensors, results cut to whole levels. All change an image in place.

use super::Image;
use pulp::NullaryFnOnce;

/// A change of colours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Times this.
    Brightness(f32),
    /// Away from the mean grey, times this.
    Contrast(f32),
    /// Away from the pixel's grey, times this.
    Saturation(f32),
    /// Around the colour wheel, in turns.
    Hue(f32),
}

/// Changes the colours; a grey image has no saturation and no hue.
pub fn adjust(image: &mut Image, change: Change) {
    let is_grey = image.channels == 1;
    match change {
        Change::Brightness(factor) => map(image, |value| level(f32::from(value) * factor)),
        Change::Contrast(factor) => {
            let mean = mean_grey(image);
            map(image, |value| blend(f32::from(value), mean, factor));
        }
        Change::Saturation(_) | Change::Hue(_) if is_grey => {}
        Change::Saturation(factor) => map_rgb(image, |rgb| {
            let grey = grey(rgb) as f32;
            let [r, g, b] = rgb;
            *r = blend(f32::from(*r), grey, factor);
            *g = blend(f32::from(*g), grey, factor);
            *b = blend(f32::from(*b), grey, factor);
        }),
        Change::Hue(shift) => map_rgb(image, |rgb| {
            let [h, s, v] = to_hsv(rgb.map(|value| f32::from(value) / 255.0));
            let turned = fraction(h + shift);
            let turned = if turned < 0.0 { turned + 1.0 } else { turned };
            // 255.999: what torchvision multiplies with when floats become bytes.
            *rgb = to_rgb([turned, s, v]).map(|value| (value * (256.0 - 1e-3)) as u8);
        }),
    }
}

/// Keeps the upper `bits` of each value.
pub fn posterize(image: &mut Image, bits: u32) {
    let mask = if bits >= 8 { 0xff } else { !(0xff >> bits) };
    map(image, |value| value & mask);
}

/// Inverts the values from `threshold` on.
pub fn solarize(image: &mut Image, threshold: f32) {
    map(image, |value| if f32::from(value) >= threshold { 255 - value } else { value });
}

/// Stretches each channel: its least value becomes 0, its greatest 255.
pub fn auto_contrast(image: &mut Image) {
    each_channel(image, |histogram| {
        let least = histogram.iter().position(|&count| count > 0).expect("an image has pixels");
        let most = histogram.iter().rposition(|&count| count > 0).expect("an image has pixels");
        if least == most {
            return std::array::from_fn(|value| value as u8);
        }
        let scale = (most - least) as f32 * (1.0 / 255.0);
        std::array::from_fn(|value| level((value as f32 - least as f32) / scale))
    });
}

/// Pillow's `ImageOps.equalize`.
pub fn equalize(image: &mut Image) {
    each_channel(image, |histogram| {
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
    });
}

/// Changes each value by itself.
fn map(image: &mut Image, f: impl Fn(u8) -> u8) {
    pulp::Arch::new().dispatch(Map { values: &mut image.pixels, f: |value: &mut u8| *value = f(*value) });
}

/// Changes each pixel by itself.
fn map_rgb(image: &mut Image, f: impl Fn(&mut [u8; 3])) {
    pulp::Arch::new().dispatch(Map { values: image.pixels.as_chunks_mut().0, f });
}

struct Map<'a, T, F> {
    values: &'a mut [T],
    f: F,
}

impl<T, F: Fn(&mut T)> NullaryFnOnce for Map<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for value in self.values {
            (self.f)(value);
        }
    }
}

/// Maps each channel through a table that its histogram gives.
fn each_channel(image: &mut Image, table: impl Fn(&[u32; 256]) -> [u8; 256]) {
    for channel in 0..image.channels {
        let mut histogram = [0; 256];
        for pixel in image.pixels.chunks_exact(image.channels) {
            histogram[usize::from(pixel[channel])] += 1;
        }
        let table = table(&histogram);
        for pixel in image.pixels.chunks_exact_mut(image.channels) {
            pixel[channel] = table[usize::from(pixel[channel])];
        }
    }
}

#[inline(always)]
fn level(value: f32) -> u8 {
    whole(value.clamp(0.0, 255.0)) as u8
}

/// The whole part of a number from 0 to 2^22. Not `as i32`, whose treatment of all other numbers is not vectorised: at 2^23
/// the last bit of a float counts ones.
#[inline(always)]
fn whole(value: f32) -> i32 {
    const ONES: f32 = (1 << 23) as f32;
    (value.floor() + ONES).to_bits() as i32 & 0x7f_ffff
}

/// `ratio` of the first, the rest of the second.
#[inline(always)]
fn blend(first: f32, second: f32, ratio: f32) -> u8 {
    level(first * ratio + second * (1.0 - ratio))
}

/// In whole levels.
#[inline(always)]
fn grey([r, g, b]: &[u8; 3]) -> i32 {
    whole(f32::from(*r) * 0.2989 + f32::from(*g) * 0.587 + f32::from(*b) * 0.114)
}

fn mean_grey(image: &Image) -> f32 {
    let sum = pulp::Arch::new().dispatch(GreySum(image));
    (sum as f64 / (image.height * image.width) as f64) as f32
}

/// The sum of all pixels' greys.
struct GreySum<'a>(&'a Image);

impl NullaryFnOnce for GreySum<'_> {
    type Output = i64;

    #[inline(always)]
    fn call(self) -> i64 {
        let mut sum = 0;
        // By row, because the levels of a large image do not add up to an i32.
        for row in self.0.pixels.chunks_exact(self.0.width * self.0.channels) {
            let mut row_sum = 0i32;
            if self.0.channels == 1 {
                for value in row {
                    row_sum = row_sum.wrapping_add(i32::from(*value));
                }
            } else {
                for rgb in row.as_chunks().0 {
                    row_sum = row_sum.wrapping_add(grey(rgb));
                }
            }
            sum += i64::from(row_sum);
        }
        sum
    }
}

fn to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let (low, high) = (r.min(g).min(b), r.max(g).max(b));
    if low == high {
        return [0.0, 0.0, high];
    }
    let range = high - low;
    let [rc, gc, bc] = [r, g, b].map(|value| (high - value) / range);
    let sixths = if high == r {
        bc - gc
    } else if high == g {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    [fraction(sixths * (1.0 / 6.0) + 1.0), range / high, high]
}

fn to_rgb([h, s, v]: [f32; 3]) -> [f32; 3] {
    let sixth = (h * 6.0) as i32;
    let fraction = h * 6.0 - sixth as f32;
    let q = ((1.0 - s * fraction) * v).clamp(0.0, 1.0);
    let t = ((s * fraction + (1.0 - s)) * v).clamp(0.0, 1.0);
    let p = ((1.0 - s) * v).clamp(0.0, 1.0);
    match sixth % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// `x % 1.0`, exactly, of a small number.
#[inline(always)]
fn fraction(x: f32) -> f32 {
    x - x as i32 as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every grey, and colours all over the cube.
    fn image(channels: usize) -> Image {
        let pixels: Vec<u8> = match channels {
            1 => (0..=255).collect(),
            _ => (0..=255u8).flat_map(|at| [at, at.wrapping_mul(7), at.wrapping_mul(29) ^ 0x55]).collect(),
        };
        Image::new(2, 128, channels, pixels)
    }

    fn adjusted(channels: usize, change: Change) -> Image {
        let mut image = image(channels);
        adjust(&mut image, change);
        image
    }

    /// As `f32 as u8` and `f32::floor` would have it, which is torchvision's.
    #[test]
    fn levels_are_cut_not_rounded() {
        let cut = |value: f32| value.clamp(0.0, 255.0) as u8;
        let grey_of =
            |rgb: &[u8]| (f32::from(rgb[0]) * 0.2989 + f32::from(rgb[1]) * 0.587 + f32::from(rgb[2]) * 0.114).floor();
        for channels in [1, 3] {
            let before = image(channels);
            for factor in [0.0, 0.3, 0.997, 1.0, 1.002, 1.7, 100.0] {
                let mut greys = before.pixels.chunks(channels).map(|pixel| match pixel {
                    [grey] => f32::from(*grey),
                    rgb => grey_of(rgb),
                });
                let mean = (greys.by_ref().map(f64::from).sum::<f64>() / 256.0) as f32;
                let bright = adjusted(channels, Change::Brightness(factor));
                let contrast = adjusted(channels, Change::Contrast(factor));
                let saturated = adjusted(channels, Change::Saturation(factor));
                for (at, &value) in before.pixels.iter().enumerate() {
                    let value = f32::from(value);
                    assert_eq!(bright.pixels[at], cut(value * factor), "{value} x {factor}");
                    assert_eq!(contrast.pixels[at], cut(value * factor + mean * (1.0 - factor)), "{value} x {factor}");
                    let grey = if channels == 1 { value } else { grey_of(&before.pixels[at / 3 * 3..][..3]) };
                    let expected = if channels == 1 { value } else { value * factor + grey * (1.0 - factor) };
                    assert_eq!(saturated.pixels[at], cut(expected), "{value} of {grey} x {factor}");
                }
            }
        }
    }

    #[test]
    fn whole_parts_are_exact() {
        for value in [0.0, 0.999_999_94, 1.0, 1.5, 2.999_999_8, 254.999_98, 255.0, 4_194_303.5] {
            assert_eq!(whole(value), value as i32, "{value}");
        }
        for value in [-1.75f32, -1.0, -0.3, 0.0, 0.3, 1.0, 1.999_999_9] {
            assert_eq!(fraction(value), value % 1.0, "{value}");
        }
    }

    #[test]
    fn a_whole_turn_of_the_hue_changes_nothing() {
        let before = image(3);
        for turns in [-1.0, 0.0, 1.0] {
            let after = adjusted(3, Change::Hue(turns));
            assert!(after.pixels.iter().zip(&before.pixels).all(|(a, b)| a.abs_diff(*b) <= 1), "{turns}");
        }
        let primary = |rgb: [u8; 3], turns| {
            let mut image = Image::new(1, 1, 3, rgb.to_vec());
            adjust(&mut image, Change::Hue(turns));
            image.pixels
        };
        assert_eq!(primary([255, 0, 0], 1.0 / 3.0), [0, 255, 0]);
        assert_eq!(primary([255, 0, 0], -1.0 / 3.0), [0, 0, 255]);
    }
}
