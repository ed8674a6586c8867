//! Colours, in f32 as torchvision's kernels for byte tensors, results cut to whole levels.

use super::Image;
use zoo::random::Stream;

/// A change of colours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    /// Times this.
    Brightness(f32),
    /// Away from the mean grey, times this.
    Contrast(f32),
    /// Away from the pixel's grey, times this.
    Saturation(f32),
    /// Around the colour wheel, in turns.
    Hue(f32),
}

/// ColorJitter's factors, in their order.
pub(super) fn draw_jitter(
    brightness: f64,
    contrast: f64,
    saturation: f64,
    hue: f64,
    draws: &mut Stream,
) -> Vec<Change> {
    let order = draws.permutation(4);
    let mut between = |low: f64, high: f64| (low + (high - low) * draws.unit_f64()) as f32;
    let mut factor = |x: f64| (x > 0.0).then(|| between((1.0 - x).max(0.0), 1.0 + x));
    let changes = [
        factor(brightness).map(Change::Brightness),
        factor(contrast).map(Change::Contrast),
        factor(saturation).map(Change::Saturation),
        (hue > 0.0).then(|| Change::Hue(between(-hue, hue))),
    ];
    order.into_iter().filter_map(|at| changes[at]).collect()
}

/// The image with changed colours; a grey image has no saturation and no hue.
pub(super) fn adjust(image: &Image, change: Change) -> Image {
    match change {
        Change::Brightness(factor) => {
            let table: [u8; 256] = std::array::from_fn(|value| level(value as f32 * factor));
            map(image, |value| table[usize::from(value)])
        }
        Change::Contrast(factor) => {
            let mean = mean_grey(image);
            let table: [u8; 256] = std::array::from_fn(|value| blend(value as f32, mean, factor));
            map(image, |value| table[usize::from(value)])
        }
        Change::Saturation(_) | Change::Hue(_) if image.channels == 1 => image.clone(),
        Change::Saturation(factor) => map_rgb(image, |rgb| {
            let grey = grey(rgb);
            rgb.map(|value| blend(f32::from(value), grey, factor))
        }),
        Change::Hue(shift) => map_rgb(image, |rgb| {
            let [h, s, v] = to_hsv(rgb.map(|value| f32::from(value) / 255.0));
            // 255.999: what torchvision multiplies with when floats become bytes.
            to_rgb([(h + shift).rem_euclid(1.0), s, v]).map(|value| (value * (256.0 - 1e-3)) as u8)
        }),
    }
}

/// Each value changed by itself.
pub(super) fn map(image: &Image, f: impl Fn(u8) -> u8) -> Image {
    let pixels = image.pixels.iter().map(|&value| f(value)).collect();
    Image::new(image.height, image.width, image.channels, pixels)
}

fn map_rgb(image: &Image, f: impl Fn([u8; 3]) -> [u8; 3]) -> Image {
    let pixels = image.pixels.chunks_exact(3).flat_map(|rgb| f([rgb[0], rgb[1], rgb[2]])).collect();
    Image::new(image.height, image.width, 3, pixels)
}

fn level(value: f32) -> u8 {
    value.clamp(0.0, 255.0) as u8
}

/// `ratio` of the first, the rest of the second.
fn blend(first: f32, second: f32, ratio: f32) -> u8 {
    level(first * ratio + second * (1.0 - ratio))
}

fn grey([r, g, b]: [u8; 3]) -> f32 {
    (f32::from(r) * 0.2989 + f32::from(g) * 0.587 + f32::from(b) * 0.114).floor()
}

fn mean_grey(image: &Image) -> f32 {
    let sum: f64 = match image.channels {
        1 => image.pixels.iter().map(|&value| f64::from(value)).sum(),
        _ => image.pixels.chunks_exact(3).map(|rgb| f64::from(grey([rgb[0], rgb[1], rgb[2]]))).sum(),
    };
    (sum / (image.height * image.width) as f64) as f32
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
    [(sixths * (1.0 / 6.0) + 1.0) % 1.0, range / high, high]
}

fn to_rgb([h, s, v]: [f32; 3]) -> [f32; 3] {
    let sixth = (h * 6.0).floor();
    let fraction = h * 6.0 - sixth;
    let q = ((1.0 - s * fraction) * v).clamp(0.0, 1.0);
    let t = ((s * fraction + (1.0 - s)) * v).clamp(0.0, 1.0);
    let p = ((1.0 - s) * v).clamp(0.0, 1.0);
    match sixth as i32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
