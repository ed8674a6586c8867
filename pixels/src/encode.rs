//! Images become files.

use crate::Image;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// A PNG of the image.
///
/// # Errors
/// Where it is larger than a PNG can be.
pub fn png(image: &Image) -> Result<Vec<u8>, String> {
    let side = |length: usize| u32::try_from(length).map_err(|_| "it is too large for a PNG".to_owned());
    let color = if image.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(&image.pixels, side(image.width)?, side(image.height)?, color)
        .map_err(|error| format!("it cannot become a PNG: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode;

    #[test]
    fn a_png_holds_the_same_pixels() {
        let image = Image::new(2, 3, 3, (0..18).collect());
        assert_eq!(png(&image).and_then(|bytes| decode(&bytes)), Ok(image));
        let grey = Image::new(1, 2, 1, vec![7, 200]);
        let read = png(&grey).and_then(|bytes| decode(&bytes)).expect("a PNG");
        assert_eq!(read.pixels, [7, 7, 7, 200, 200, 200]);
    }
}
