//! Mirroring.

use super::Image;

/// Left becomes right, in place.
pub fn horizontal(image: &mut Image) {
    for row in image.pixels.chunks_exact_mut(image.width * image.channels) {
        match image.channels {
            1 => row.reverse(),
            _ => row.as_chunks_mut::<3>().0.reverse(),
        }
    }
}
