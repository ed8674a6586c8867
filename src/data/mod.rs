//! Datasets, transforms, and the loader that makes batches of them.
//!
//! [`open`] turns a [`Source`] into two [`Dataset`]s whose every sample was read once, a [`Pipeline`] makes of a sample
//! what a network takes, and a [`Loader`] makes batches, the same ones for any number of workers.

mod cifar;
mod embedded;
mod files;
mod folder;
mod garments;
mod idx;
pub mod image;
mod loader;
mod manifest;
mod mix;
pub mod options;
mod packed;
mod samples;
mod split;
pub mod transform;

pub use image::Image;
pub use loader::{Batch, Epoch, Loader};
pub use options::{BadImage, Batchwise, DataOptions, LoaderOptions, Source, Split, TransformSpec};
pub use samples::{Sample, read_sample_list, sample_list};
pub use transform::Pipeline;

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;

/// Labelled images or clips.
pub trait Dataset: Send + Sync {
    /// The classes' names; a label is an index into them.
    fn classes(&self) -> &[String];

    /// Spatial dimensions of a sample: 2 for images, 3 for clips.
    fn dims(&self) -> usize;

    /// How many samples there are, at least 1.
    fn samples(&self) -> usize;

    /// What a person calls the sample: its path below the root, or `train/17`.
    fn id(&self, index: usize) -> String;

    /// The class.
    fn label(&self, index: usize) -> u32;

    /// The frames of a clip, or the one frame of an image; all of one size.
    ///
    /// # Errors
    /// [`Error::Failed`] where a file can no longer be read.
    fn frames(&self, index: usize) -> Result<Vec<Image>>;

    /// As [`Self::frames`], but frames may end below the rows above `rows(height, width)`, which is asked once, where that
    /// saves work.
    ///
    /// # Errors
    /// As [`Self::frames`]'s.
    fn upper_frames(&self, index: usize, rows: &mut dyn FnMut(usize, usize) -> usize) -> Result<Vec<Image>> {
        let frames = self.frames(index)?;
        rows(frames[0].height, frames[0].width);
        Ok(frames)
    }

    /// sha256 of the sample's content: of the file as it was when the set was opened, or of the pixels.
    fn digest(&self, index: usize) -> [u8; 32];
}

/// An opened [`Source`].
#[derive(Clone)]
pub struct Data {
    /// What trains.
    pub train: Arc<dyn Dataset>,
    /// What validates; its classes are the training set's.
    pub val: Arc<dyn Dataset>,
    /// What was left out under [`BadImage::Quarantine`], in the order of the sets.
    pub quarantined: Vec<BadSample>,
    /// sha256, hexadecimal, over every class name and every sample's part, id, label and content: two sets with the same
    /// hash hold the same samples in the same order.
    pub sha256: String,
}

/// A sample that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSample {
    /// Its path below the root.
    pub id: String,
    /// Why: "is truncated: ..".
    pub reason: String,
}

/// Opens a source: lists it, reads and decodes every file once, and hashes it.
///
/// # Errors
/// [`Error::Input`] where the source's layout or an option is wrong, [`Error::Failed`] for bad images under
/// [`BadImage::Fail`].
pub fn open(source: &Source, on_bad_image: BadImage) -> Result<Data> {
    let (train, val, quarantined): (Arc<dyn Dataset>, Arc<dyn Dataset>, _) = match source {
        Source::Embedded { train, val } => {
            let (train, val) = embedded::open(*train, *val)?;
            (Arc::new(train), Arc::new(val), Vec::new())
        }
        Source::Idx { path } => {
            let (train, val) = idx::open(path)?;
            (Arc::new(train), Arc::new(val), Vec::new())
        }
        Source::Cifar { path, labels } => {
            let (train, val) = cifar::open(path, *labels)?;
            (Arc::new(train), Arc::new(val), Vec::new())
        }
        Source::MovingGarments { train, val, frames, size, seed } => {
            let (train, val) = garments::open(*train, *val, *frames, *size, *seed)?;
            (Arc::new(train), Arc::new(val), Vec::new())
        }
        Source::Folder { path, split } => open_files(folder::list_images(path, split)?, on_bad_image)?,
        Source::Csv { path, split } => open_files(manifest::list(path, split)?, on_bad_image)?,
        Source::Clips { path, split, frames } => open_files(folder::list_clips(path, split, *frames)?, on_bad_image)?,
    };
    let sha256 = fingerprint(train.as_ref(), val.as_ref());
    Ok(Data { train, val, quarantined, sha256 })
}

type OpenFiles = (Arc<dyn Dataset>, Arc<dyn Dataset>, Vec<BadSample>);

fn open_files(listing: files::Listing, on_bad_image: BadImage) -> Result<OpenFiles> {
    let (train, val, bad) = listing.read()?;
    if on_bad_image == BadImage::Fail && !bad.is_empty() {
        return Err(bad_images(&bad));
    }
    for (part, set) in [("training", &train), ("validation", &val)] {
        if set.samples() == 0 {
            return Err(Error::input(format!(
                "no usable {part} sample is left: {} were quarantined, the first, {}, because it {}",
                bad.len(),
                bad[0].id,
                bad[0].reason
            )));
        }
    }
    Ok((Arc::new(train), Arc::new(val), bad))
}

fn bad_images(bad: &[BadSample]) -> Error {
    let mut message = format!("{} of the data set's images cannot be used:", bad.len());
    for sample in bad.iter().take(10) {
        write!(message, "\n  {} {}", sample.id, sample.reason).expect("a String takes everything");
    }
    if bad.len() > 10 {
        write!(message, "\n  and {} more", bad.len() - 10).expect("a String takes everything");
    }
    message.push_str("\nreplace or remove them, or say `on_bad_image: quarantine` to leave them out");
    Error::Failed(message)
}

fn fingerprint(train: &dyn Dataset, val: &dyn Dataset) -> String {
    let mut hash = Sha256::new();
    // Lengths stand before texts, so that no two sets are written alike.
    let text = |hash: &mut Sha256, text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    for (part, set) in [("train", train), ("val", val)] {
        text(&mut hash, part);
        hash.update((set.classes().len() as u64).to_le_bytes());
        for class in set.classes() {
            text(&mut hash, class);
        }
        hash.update((set.samples() as u64).to_le_bytes());
        for index in 0..set.samples() {
            text(&mut hash, &set.id(index));
            hash.update(set.label(index).to_le_bytes());
            hash.update(set.digest(index));
        }
    }
    hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes everything");
        hex
    })
}
