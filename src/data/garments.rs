//! Moving garments: synthetic clips of real garments, whose class only motion tells.
//!
//! One embedded garment, halved to 14 x 14 pixels, moves over a black torus at a constant speed of 0.75 to 2 pixels a frame
//! in one of eight directions, the class. It starts anywhere, so in any single frame every place is equally likely under
//! every class. A clip is a function of (seed, part, index): classes follow each other, all else is drawn.

use super::packed::Packed;
use super::{Dataset, Image, embedded};
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use zoo::random::{Key, Stream, stream_of};

/// Directions by compass, and where they lead: (down, right).
const DIRECTIONS: [(&str, f64, f64); 8] = [
    ("north", -1.0, 0.0),
    ("north-east", -DIAGONAL, DIAGONAL),
    ("east", 0.0, 1.0),
    ("south-east", DIAGONAL, DIAGONAL),
    ("south", 1.0, 0.0),
    ("south-west", DIAGONAL, -DIAGONAL),
    ("west", 0.0, -1.0),
    ("north-west", -DIAGONAL, -DIAGONAL),
];
const DIAGONAL: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// Clips `u8[frames, size, size, 1]`.
struct MovingGarments {
    classes: Arc<[String]>,
    garments: Packed,
    samples: usize,
    frames: usize,
    size: usize,
    seed: u64,
}

pub(super) fn open(
    train: usize,
    val: usize,
    frames: usize,
    size: usize,
    seed: u64,
) -> Result<(impl Dataset, impl Dataset)> {
    for (name, value, least, most) in
        [("train", train, 1, 1_000_000), ("val", val, 1, 1_000_000), ("frames", frames, 2, 64), ("size", size, 16, 128)]
    {
        if !(least..=most).contains(&value) {
            return Err(Error::input(format!("moving garments: `{name}` must be {least} to {most}, not {value}")));
        }
    }
    let classes: Arc<[String]> = DIRECTIONS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let (train_garments, val_garments) = embedded::all();
    let set =
        |garments, samples| MovingGarments { classes: Arc::clone(&classes), garments, samples, frames, size, seed };
    Ok((set(train_garments, train), set(val_garments, val)))
}

impl MovingGarments {
    fn clip(&self, index: usize) -> Vec<Image> {
        let stream = stream_of(&format!("data.garments.{}", self.garments.part));
        let mut draws = Stream::new(Key { seed: self.seed, stream, step: 0, index: index as u64 });
        let garment = halved(self.garments.sample(draws.below(self.garments.samples() as u64) as usize));
        let (_, down, right) = DIRECTIONS[index % DIRECTIONS.len()];
        let speed = 0.75 + 1.25 * draws.unit_f64();
        let mut start = || draws.unit_f64() * self.size as f64;
        let (top, left) = (start(), start());
        (0..self.frames)
            .map(|frame| {
                let moved = speed * frame as f64;
                let place =
                    |start: f64, towards: f64| (start + moved * towards).round().rem_euclid(self.size as f64) as usize;
                self.frame(&garment, place(top, down), place(left, right))
            })
            .collect()
    }

    fn frame(&self, garment: &[u8; 14 * 14], top: usize, left: usize) -> Image {
        let mut pixels = vec![0; self.size * self.size];
        for (at, &value) in garment.iter().enumerate() {
            let (y, x) = ((top + at / 14) % self.size, (left + at % 14) % self.size);
            pixels[y * self.size + x] = value;
        }
        Image::new(self.size, self.size, 1, pixels)
    }
}

/// A 28 x 28 garment at half its size: means of 2 x 2 pixels.
fn halved(garment: &[u8]) -> [u8; 14 * 14] {
    std::array::from_fn(|at| {
        let corner = 2 * (at / 14) * 28 + 2 * (at % 14);
        let sum: u32 = [0, 1, 28, 29].iter().map(|offset| u32::from(garment[corner + offset])).sum();
        ((sum + 2) / 4) as u8
    })
}

impl Dataset for MovingGarments {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn dims(&self) -> usize {
        3
    }

    fn samples(&self) -> usize {
        self.samples
    }

    fn id(&self, index: usize) -> String {
        format!("{}/{index}", self.garments.part)
    }

    fn label(&self, index: usize) -> u32 {
        (index % DIRECTIONS.len()) as u32
    }

    fn frames(&self, index: usize) -> Result<Vec<Image>> {
        Ok(self.clip(index))
    }

    fn digest(&self, index: usize) -> [u8; 32] {
        let mut hash = Sha256::new();
        for frame in self.clip(index) {
            hash.update(&frame.pixels);
        }
        hash.finalize().into()
    }
}
