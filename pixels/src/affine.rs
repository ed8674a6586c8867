//! Shearing, moving and turning an image inside its frame; what comes in from outside is black.

use super::{Image, Resampling};

/// From a place in the result to a place in the image, `[a, b, c, d, e, f]`: `x = a x' + b y' + c`, `y = d x' + e y' + f`,
/// in pixels from the image's middle.
pub type Matrix = [f64; 6];

/// Shears by tangents about the upper left corner.
pub fn shear(image: &Image, tangent_x: f64, tangent_y: f64) -> Matrix {
    let (cx, cy) = (-0.5 * image.width as f64, -0.5 * image.height as f64);
    let [sx, sy] = [tangent_x, tangent_y].map(|tangent| tangent.atan().to_degrees().to_radians());
    // torchvision's `_get_inverse_affine_matrix` without rotation, translation and scale.
    let a = (-sy).cos() / sy.cos();
    let b = -(a * sx.tan());
    let c = (-sy).sin() / sy.cos();
    let d = 1.0 - c * sx.tan();
    [d, -b, cx - d * cx + b * cy, -c, a, cy + c * cx - a * cy]
}

/// Moves right and down by whole pixels.
pub fn translate(right: f64, down: f64) -> Matrix {
    [1.0, 0.0, -right, 0.0, 1.0, -down]
}

/// Turns about the middle, counter-clockwise, in degrees.
pub fn rotate(degrees: f64) -> Matrix {
    let (sin, cos) = (-degrees.rem_euclid(360.0)).to_radians().sin_cos();
    [cos, sin, 0.0, -sin, cos, 0.0]
}

/// The image seen through a matrix; nearest or bilinear.
pub fn transform(image: &Image, matrix: Matrix, resampling: Resampling) -> Image {
    let (height, width) = (image.height, image.width);
    let (half_w, half_h) = (0.5 * width as f32, 0.5 * height as f32);
    // f32 and this order of operations, because torchvision's choice between two pixels depends on it.
    let [a, b, c] = [0, 1, 2].map(|i| matrix[i] as f32 / half_w);
    let [d, e, f] = [3, 4, 5].map(|i| matrix[i] as f32 / half_h);
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for row in 0..height {
        let y = row as f32 + (1.0 - height as f32) * 0.5;
        for column in 0..width {
            let x = column as f32 + (1.0 - width as f32) * 0.5;
            let source_x = ((x * a + y * b + c + 1.0) * width as f32 - 1.0) / 2.0;
            let source_y = ((x * d + y * e + f + 1.0) * height as f32 - 1.0) / 2.0;
            for channel in 0..image.channels {
                pixels.push(match resampling {
                    Resampling::Nearest => {
                        at(image, source_y.round_ties_even(), source_x.round_ties_even(), channel) as u8
                    }
                    _ => bilinear(image, source_y, source_x, channel),
                });
            }
        }
    }
    Image::new(height, width, image.channels, pixels)
}

fn bilinear(image: &Image, y: f32, x: f32, channel: usize) -> u8 {
    let (top, left) = (y.floor(), x.floor());
    let (down, right) = (y - top, x - left);
    let upper = at(image, top, left, channel) * (1.0 - right) + at(image, top, left + 1.0, channel) * right;
    let lower = at(image, top + 1.0, left, channel) * (1.0 - right) + at(image, top + 1.0, left + 1.0, channel) * right;
    (upper * (1.0 - down) + lower * down).round_ties_even() as u8
}

/// A value, 0 outside the image.
fn at(image: &Image, y: f32, x: f32, channel: usize) -> f32 {
    if y < 0.0 || x < 0.0 || y >= image.height as f32 || x >= image.width as f32 {
        return 0.0;
    }
    f32::from(image.pixel(y as usize, x as usize)[channel])
}
