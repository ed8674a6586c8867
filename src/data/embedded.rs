//! A balanced part of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), inside the binary: `scripts/make_embedded.py` made it,
//! `embedded/LICENSE` is its licence (MIT).

use super::idx;
use super::packed::Packed;
use crate::error::{Error, Result};

const CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

const TRAIN: [&[u8]; 2] =
    [include_bytes!("embedded/train-images-idx3-ubyte.gz"), include_bytes!("embedded/train-labels-idx1-ubyte.gz")];
const VAL: [&[u8]; 2] =
    [include_bytes!("embedded/t10k-images-idx3-ubyte.gz"), include_bytes!("embedded/t10k-labels-idx1-ubyte.gz")];

/// The first `train` and `val` images.
pub(super) fn open(train: usize, val: usize) -> Result<(Packed, Packed)> {
    let mut sets = all();
    for (part, set, samples) in [("train", &mut sets.0, train), ("val", &mut sets.1, val)] {
        let most = set.labels.len();
        if samples == 0 || samples > most {
            return Err(Error::input(format!("the embedded set has 1 to {most} samples for {part}, not {samples}")));
        }
        set.truncate(samples);
    }
    Ok(sets)
}

/// All 5,000 + 1,000 images.
pub(super) fn all() -> (Packed, Packed) {
    let classes = CLASSES.map(str::to_owned).into();
    let set = |[images, labels]: [&[u8]; 2], part| {
        idx::parse(images, labels, part, std::sync::Arc::clone(&classes)).expect("a test reads the embedded files")
    };
    (set(TRAIN, "train"), set(VAL, "val"))
}
