//! Grey and RGB, as Pillow's `convert("RGB")` and `convert("L")`.

use super::Image;

/// The image with 1 or 3 channels.
pub fn convert(image: Image, channels: usize) -> Image {
    let pixels = match (image.channels, channels) {
        (1, 3) => image.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        (3, 1) => image.pixels.as_chunks().0.iter().map(luma).collect(),
        _ => return image,
    };
    Image::new(image.height, image.width, channels, pixels)
}

/// ITU-R 601-2 in Pillow's fixed point.
fn luma(rgb: &[u8; 3]) -> u8 {
    let [r, g, b] = rgb.map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}
