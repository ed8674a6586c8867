//! Mirroring.

use super::Image;

/// Left becomes right.
pub(super) fn horizontal(image: &Image) -> Image {
    let rows = (0..image.height).flat_map(|y| image.row(y).chunks_exact(image.channels).rev());
    Image::new(image.height, image.width, image.channels, rows.flatten().copied().collect())
}
