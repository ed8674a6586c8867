//! Bytes to values.

use super::Image;

/// What each byte of each channel becomes: `(value / 255 - mean) / std`.
#[derive(Clone)]
pub struct Normalize {
    tables: Vec<[f32; 256]>,
}

impl std::fmt::Debug for Normalize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.tables.iter().map(|table| table[0]..=table[255])).finish()
    }
}

impl Normalize {
    /// Of `channels` channels, 1 or 3; each of `mean` and `std` has one value for each of them, or one for all.
    pub fn new(mean: &[f32], std: &[f32], channels: usize) -> Self {
        let of = |values: &[f32], channel: usize| values[channel % values.len()];
        let tables = (0..channels)
            .map(|channel| std::array::from_fn(|value| (value as f32 / 255.0 - of(mean, channel)) / of(std, channel)))
            .collect();
        Normalize { tables }
    }

    /// Writes an image as `f32[H, W, C]`.
    pub fn write(&self, image: &Image, values: &mut [f32]) {
        match &self.tables[..] {
            [grey] => {
                for (value, &byte) in values.iter_mut().zip(&image.pixels) {
                    *value = grey[usize::from(byte)];
                }
            }
            [red, green, blue] => {
                let pixels = image.pixels.as_chunks().0.iter();
                for (values, &[r, g, b]) in values.as_chunks_mut().0.iter_mut().zip(pixels) {
                    *values = [red[usize::from(r)], green[usize::from(g)], blue[usize::from(b)]];
                }
            }
            tables => unreachable!("images have 1 or 3 channels, not {}", tables.len()),
        }
    }
}
