//! Samples that are files: images, folders of frames, animations.

use super::image::{self, Image};
use super::{BadSample, Dataset};
use crate::error::{Error, Result};
use resnet_pixels::decode;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a source found, not yet read.
pub(super) struct Listing {
    pub classes: Arc<[String]>,
    pub format: Format,
    pub train: Vec<Found>,
    pub val: Vec<Found>,
}

/// What all samples of a set are.
#[derive(Clone, Copy)]
pub(super) enum Format {
    Image,
    /// Clips, of which a sample takes this many frames, evenly.
    Clip(usize),
}

/// A sample that was found.
pub(super) struct Found {
    pub id: String,
    pub label: u32,
    /// Where it is, or why it cannot be used.
    pub content: Result<Content, String>,
}

/// Where a sample's frames are.
pub(super) enum Content {
    Image(PathBuf),
    /// The frames of a clip, in order, at least one.
    Frames(Vec<PathBuf>),
    /// An animated GIF.
    Animation(PathBuf),
}

/// Samples that were all read once.
pub(super) struct FileSet {
    classes: Arc<[String]>,
    format: Format,
    entries: Vec<Entry>,
}

struct Entry {
    id: String,
    label: u32,
    content: Content,
    digest: [u8; 32],
}

impl Listing {
    /// Reads and decodes every sample once, on all cores; what cannot be used is told apart.
    pub(super) fn read(self) -> Result<(FileSet, FileSet, Vec<BadSample>)> {
        let mut bad = Vec::new();
        let mut sets = Vec::new();
        for found in [self.train, self.val] {
            let digests = digests(&found, self.format);
            let mut entries = Vec::new();
            for (Found { id, label, content }, digest) in found.into_iter().zip(digests) {
                match content.and_then(|content| Ok((content, digest?))) {
                    Ok((content, digest)) => entries.push(Entry { id, label, content, digest }),
                    Err(reason) => bad.push(BadSample { id, reason }),
                }
            }
            sets.push(FileSet { classes: Arc::clone(&self.classes), format: self.format, entries });
        }
        let [train, val] = <[FileSet; 2]>::try_from(sets).map_err(|_| Error::failed("two sets were listed"))?;
        Ok((train, val, bad))
    }
}

/// The digest of every sample, or why it cannot be used.
fn digests(found: &[Found], format: Format) -> Vec<Result<[u8; 32], String>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let share = found.len().div_ceil(threads).max(1);
    let digest_of = |found: &Found| match &found.content {
        Ok(content) => digest(content, format),
        Err(reason) => Err(reason.clone()),
    };
    std::thread::scope(|scope| {
        let shares: Vec<_> = found
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(digest_of).collect::<Vec<_>>()))
            .collect();
        shares.into_iter().flat_map(|share| share.join().expect("decoders' panics are caught")).collect()
    })
}

/// The frames that a sample takes; each file that they come from is shown to `see`.
fn load(content: &Content, format: Format, mut see: impl FnMut(&[u8])) -> Result<Vec<Image>, String> {
    match (content, format) {
        (Content::Image(path), _) => {
            let bytes = image::read_file(path)?;
            see(&bytes);
            Ok(vec![decode::decode(&bytes)?])
        }
        (Content::Animation(path), Format::Clip(frames)) => {
            let bytes = image::read_file(path)?;
            see(&bytes);
            let all = decode::decode_animation(&bytes)?;
            Ok(evenly(all.len(), frames).map(|at| all[at].clone()).collect())
        }
        (Content::Frames(paths), Format::Clip(frames)) => {
            let mut images: Vec<Image> = Vec::with_capacity(frames);
            for at in evenly(paths.len(), frames) {
                let name = paths[at].file_name().unwrap_or_default().display();
                let bytes =
                    image::read_file(&paths[at]).map_err(|reason| format!("has a frame {name} that {reason}"))?;
                see(&bytes);
                let frame = decode::decode(&bytes).map_err(|reason| format!("has a frame {name} that {reason}"))?;
                if let Some(first) = images.first()
                    && (first.height, first.width) != (frame.height, frame.width)
                {
                    return Err(format!("has frames of different sizes: {name} is not as large as the first"));
                }
                images.push(frame);
                if images.len() as u64 * images[0].pixels.len() as u64 > image::MAX_ALLOC {
                    return Err(format!("is too large: {frames} frames may have {} bytes", image::MAX_ALLOC));
                }
            }
            Ok(images)
        }
        (Content::Animation(_) | Content::Frames(_), Format::Image) => {
            unreachable!("a listing of images holds images")
        }
    }
}

/// The sha256 of a file, or over those of a clip's frames, all of which can be decoded.
fn digest(content: &Content, format: Format) -> Result<[u8; 32], String> {
    let mut files = Vec::new();
    load(content, format, |bytes| files.push(<[u8; 32]>::from(Sha256::digest(bytes))))?;
    Ok(match content {
        Content::Frames(_) => Sha256::digest(files.as_flattened()).into(),
        Content::Image(_) | Content::Animation(_) => files[0],
    })
}

/// `wanted` indices in the middle of as many equal parts of `0..there`.
fn evenly(there: usize, wanted: usize) -> impl Iterator<Item = usize> {
    (0..wanted).map(move |i| (2 * i + 1) * there / (2 * wanted))
}

impl Dataset for FileSet {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn dims(&self) -> usize {
        match self.format {
            Format::Image => 2,
            Format::Clip(_) => 3,
        }
    }

    fn samples(&self) -> usize {
        self.entries.len()
    }

    fn id(&self, index: usize) -> String {
        self.entries[index].id.clone()
    }

    fn label(&self, index: usize) -> u32 {
        self.entries[index].label
    }

    fn frames(&self, index: usize) -> Result<Vec<Image>> {
        self.upper_frames(index, &mut |height, _| height)
    }

    fn upper_frames(&self, index: usize, rows: &mut dyn FnMut(usize, usize) -> usize) -> Result<Vec<Image>> {
        let entry = &self.entries[index];
        let frames = match &entry.content {
            Content::Image(path) => {
                let image = image::read_file(path).and_then(|bytes| decode::decode_upper(&bytes, rows));
                image.map(|image| vec![image])
            }
            content => load(content, self.format, |_| ()).inspect(|frames| {
                rows(frames[0].height, frames[0].width);
            }),
        };
        frames.map_err(|reason| {
            Error::failed(format!("{} {reason}, though it could be read when the set was opened", entry.id))
        })
    }

    fn digest(&self, index: usize) -> [u8; 32] {
        self.entries[index].digest
    }
}

/// Whether a path of a set, whose root is `root` (canonical), is a regular file inside it, wherever links lead.
pub(super) fn vet(root: &Path, path: &Path) -> Result<(), String> {
    let real = path.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "is missing".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    if !real.starts_with(root) {
        return Err("is a link that leads out of the data set's folder".to_owned());
    }
    if !real.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("is not a regular file".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::evenly;

    #[test]
    fn frames_are_taken_evenly_and_repeated_where_they_are_few() {
        assert_eq!(evenly(4, 4).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(evenly(8, 4).collect::<Vec<_>>(), [1, 3, 5, 7]);
        assert_eq!(evenly(2, 4).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_eq!(evenly(1, 3).collect::<Vec<_>>(), [0, 0, 0]);
    }
}
