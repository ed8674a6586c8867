//! Small images of one size, all in memory.

use super::{Dataset, Image};
use crate::error::Result;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// `u8[N, H, W, C]` and labels.
pub(super) struct Packed {
    pub classes: Arc<[String]>,
    /// What an id begins with: `train`, `val`.
    pub part: &'static str,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

impl Packed {
    pub(super) fn sample(&self, index: usize) -> &[u8] {
        let bytes = self.height * self.width * self.channels;
        &self.pixels[index * bytes..][..bytes]
    }

    /// Keeps the first `samples`.
    pub(super) fn truncate(&mut self, samples: usize) {
        self.labels.truncate(samples);
        self.pixels.truncate(samples * self.height * self.width * self.channels);
    }
}

impl Dataset for Packed {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn dims(&self) -> usize {
        2
    }

    fn samples(&self) -> usize {
        self.labels.len()
    }

    fn id(&self, index: usize) -> String {
        format!("{}/{index}", self.part)
    }

    fn label(&self, index: usize) -> u32 {
        u32::from(self.labels[index])
    }

    fn frames(&self, index: usize) -> Result<Vec<Image>> {
        Ok(vec![Image::new(self.height, self.width, self.channels, self.sample(index).to_vec())])
    }

    fn digest(&self, index: usize) -> [u8; 32] {
        Sha256::digest(self.sample(index)).into()
    }
}
