//! Bytes to values.

use super::Image;
use crate::error::{Error, Result};

/// What each byte of each channel becomes.
#[derive(Clone)]
pub(super) struct Normalize {
    tables: Vec<[f32; 256]>,
}

impl std::fmt::Debug for Normalize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.tables.iter().map(|table| table[0]..=table[255])).finish()
    }
}

impl Normalize {
    /// `(value / 255 - mean) / std`.
    pub(super) fn new(mean: &[f32], std: &[f32], channels: usize) -> Result<Self> {
        for (name, values) in [("mean", mean), ("std", std)] {
            if values.len() != 1 && values.len() != channels {
                return Err(Error::input(format!(
                    "normalize: {name} must have 1 or {channels} values, not {}",
                    values.len()
                )));
            }
        }
        if !mean.iter().all(|mean| mean.is_finite()) || !std.iter().all(|std| std.is_normal() && *std > 0.0) {
            return Err(Error::input("normalize: mean must be finite, std finite and above 0"));
        }
        let of = |values: &[f32], channel: usize| values[channel % values.len()];
        let tables = (0..channels)
            .map(|channel| std::array::from_fn(|value| (value as f32 / 255.0 - of(mean, channel)) / of(std, channel)))
            .collect();
        Ok(Normalize { tables })
    }

    /// Writes an image as `f32[H, W, C]`.
    pub(super) fn write(&self, image: &Image, values: &mut [f32]) {
        let channels = self.tables.len();
        for (pixel, values) in image.pixels.chunks_exact(channels).zip(values.chunks_exact_mut(channels)) {
            for ((value, byte), table) in values.iter_mut().zip(pixel).zip(&self.tables) {
                *value = table[usize::from(*byte)];
            }
        }
    }
}
