//! Images as bytes: what a loader does to every pixel, away from everything that knows of files, draws or tensors.
//!
//! A crate of its own, because the development build, which is the one that people time, optimises crates apart: here in
//! full, and so are the decoders that callers instantiate.
//!
//! Loops are written so that the compiler vectorises them, and run through [`pulp::Arch::dispatch`], which compiles them for
//! what the CPU has. All arithmetic is of integers, or of floats in a fixed order without fused operations: every CPU makes the
//! same bytes.

pub mod affine;
pub mod channels;
pub mod color;
pub mod crop;
pub mod decode;
pub mod encode;
pub mod flip;
mod jpeg;
mod normalize;
pub mod pad;
pub mod resize;
pub mod sharpen;

pub use normalize::Normalize;

/// An image: `u8[H, W, C]`, where C is 1 (grey) or 3 (RGB).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels from top to bottom, at least 1.
    pub height: usize,
    /// Pixels from left to right, at least 1.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Row by row, the channels of a pixel side by side.
    pub pixels: Vec<u8>,
}

impl Image {
    /// An image of these pixels.
    ///
    /// # Panics
    /// Where their number is not `height * width * channels`.
    pub fn new(height: usize, width: usize, channels: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len(), height * width * channels, "{height} x {width} x {channels}");
        Image { height, width, channels, pixels }
    }

    /// One row: `u8[W, C]`.
    pub fn row(&self, y: usize) -> &[u8] {
        let stride = self.width * self.channels;
        &self.pixels[y * stride..][..stride]
    }

    /// The channels of one pixel.
    pub fn pixel(&self, y: usize, x: usize) -> &[u8] {
        &self.pixels[(y * self.width + x) * self.channels..][..self.channels]
    }
}

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Rows above it.
    pub top: usize,
    /// Columns to the left of it.
    pub left: usize,
    /// Its rows.
    pub height: usize,
    /// Its columns.
    pub width: usize,
}

/// How a value between pixels is found, in Pillow's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampling {
    /// The nearest pixel's.
    Nearest,
    /// Linear between neighbours.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}
