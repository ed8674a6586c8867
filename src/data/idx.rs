//! MNIST's IDX files (LeCun, Cortes and Burges), plain or gzipped.

use super::packed::Packed;
use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes that an unpacked file may have.
const MAX_BYTES: usize = 1 << 30;

/// The four files of a folder.
pub(super) fn open(folder: &Path) -> Result<(Packed, Packed)> {
    let read = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
        let path = find(folder, name)?;
        let bytes = std::fs::read(&path).map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
        Ok((path, bytes))
    };
    let set = |prefix: &str, part, classes: Arc<[String]>| -> Result<Packed> {
        let (image_path, images) = read(&format!("{prefix}-images-idx3-ubyte"))?;
        let (label_path, labels) = read(&format!("{prefix}-labels-idx1-ubyte"))?;
        parse(&images, &labels, part, classes).map_err(|(wrong, reason)| {
            let path = if wrong == Wrong::Images { image_path } else { label_path };
            Error::input(format!("{}: {reason}", path.display()))
        })
    };
    let mut train = set("train", "train", Arc::from([]))?;
    let most = train.labels.iter().max().copied().unwrap_or(0);
    train.classes = (0..=most).map(|class| class.to_string()).collect();
    let val = set("t10k", "val", Arc::clone(&train.classes))?;
    if let Some(at) = val.labels.iter().position(|&label| label > most) {
        return Err(Error::input(format!(
            "{}: label {} of sample {at} is out of range: the training labels are 0 to {most}",
            folder.join("t10k-labels-idx1-ubyte").display(),
            val.labels[at]
        )));
    }
    if (val.height, val.width) != (train.height, train.width) {
        return Err(Error::input(format!(
            "{}: training images have {} x {} pixels, the test images {} x {}",
            folder.display(),
            train.height,
            train.width,
            val.height,
            val.width
        )));
    }
    Ok((train, val))
}

/// `name` or `name.gz`, with `.idx` for `-idx` too, as some mirrors write it.
fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let dotted = name.replace("-idx", ".idx");
    [name.to_owned(), format!("{name}.gz"), dotted.clone(), format!("{dotted}.gz")]
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::input(format!("{}: holds neither {name} nor {name}.gz", folder.display())))
}

/// Which of two files a message is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Images,
    Labels,
}

/// A set from the bytes of its two files.
pub(super) fn parse(
    images: &[u8],
    labels: &[u8],
    part: &'static str,
    classes: Arc<[String]>,
) -> Result<Packed, (Wrong, String)> {
    let ([samples, height, width], pixels) = unpack::<3>(images).map_err(|reason| (Wrong::Images, reason))?;
    let ([count], labels) = unpack::<1>(labels).map_err(|reason| (Wrong::Labels, reason))?;
    if count != samples {
        return Err((Wrong::Labels, format!("has {count} labels for {samples} images")));
    }
    Ok(Packed { classes, part, height, width, channels: 1, pixels, labels })
}

/// The sizes and the bytes of an IDX file of bytes with `D` dimensions.
fn unpack<const D: usize>(bytes: &[u8]) -> Result<([usize; D], Vec<u8>), String> {
    if bytes.starts_with(&[0x1f, 0x8b]) { read_idx(MultiGzDecoder::new(bytes)) } else { read_idx(bytes) }
}

fn read_idx<const D: usize>(mut from: impl Read) -> Result<([usize; D], Vec<u8>), String> {
    let mut word = || -> Result<[u8; 4], String> {
        let mut word = [0; 4];
        from.read_exact(&mut word).map_err(|error| format!("ends inside its header: {error}"))?;
        Ok(word)
    };
    let magic = word()?;
    if magic != [0, 0, 8, D as u8] {
        return Err(format!("begins with {magic:02x?}; an IDX file of bytes in {D} dimensions with 00 00 08 {D:02x}"));
    }
    let mut sizes = [0; D];
    for size in &mut sizes {
        *size = u32::from_be_bytes(word()?) as usize;
    }
    let said = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let said = match said {
        Some(0) => return Err(format!("says its sizes are {sizes:?}: it holds nothing")),
        Some(said) if said <= MAX_BYTES => said,
        _ => return Err(format!("says its sizes are {sizes:?}: more than the {MAX_BYTES} bytes that are allowed")),
    };
    // The buffer grows with what is really there, not with what the header says.
    let mut data = Vec::new();
    from.take(said as u64 + 1).read_to_end(&mut data).map_err(|error| format!("is corrupt: {error}"))?;
    match data.len() {
        length if length < said => Err(format!("is truncated: {sizes:?} need {said} bytes, and {length} are there")),
        length if length > said => Err(format!("has bytes after the {said} that its sizes {sizes:?} need")),
        _ => Ok((sizes, data)),
    }
}
