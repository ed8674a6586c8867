//! Checkpoint files become a model's first values.
//!
//! [`load`] reads a file of any of the formats in the wild (`.safetensors`, `.pth` as a zip archive, `.pth`
//! as `torch.save` wrote it before 1.6), finds the names that a model asks for ([`Target`]) in it, adapts
//! what [`Adapt`] allows, and refuses everything else that does not fit. Nothing in a file is ever executed.

mod adapt;
mod names;
mod pickle;
mod safetensors;
mod target;
mod torch;

pub use adapt::{Adapt, Inflate, Mismatch, adapt};
pub use target::Target;

use crate::params::Loaded;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

/// The largest file that is looked at. The largest ResNet has 0.4 GB.
const LARGEST_FILE: u64 = 8 << 30;

/// Why a file did not become a model's values.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no checkpoint, or a damaged one.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file is a checkpoint that does not fit the model.
    #[error("{}: {mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit, and what would accept it.
        mismatch: Box<Mismatch>,
    },
}

/// The values that the file has for a model. The format is told by the content, not by the file's name.
///
/// # Errors
/// Where the file cannot be read, is damaged, or differs from what the model asks for in a way that
/// `allowed` does not name.
pub fn load(path: &Path, target: &Target, allowed: &Adapt) -> Result<Loaded, WeightsError> {
    adapt(read(path)?, target, allowed)
        .map_err(|mismatch| WeightsError::Mismatch { path: path.to_path_buf(), mismatch: mismatch.into() })
}

/// The tensors of a file, on the CPU, under the names and in the types that the file gives them.
///
/// # Errors
/// Where the file cannot be read or is no checkpoint.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let io = |error| WeightsError::Io { path: path.to_path_buf(), error };
    let format = |what: String| WeightsError::Format { path: path.to_path_buf(), what };
    let metadata = std::fs::metadata(path).map_err(io)?;
    // A pipe or a device would block or never end.
    if !metadata.is_file() {
        return Err(format("it is not a regular file".into()));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(format(format!("it has {} bytes, more than 8 GiB", metadata.len())));
    }
    let mut file = File::open(path).map_err(io)?;
    let mut start = Vec::new();
    file.by_ref().take(512).read_to_end(&mut start).map_err(io)?;
    file.rewind().map_err(io)?;
    read_from(&mut file, metadata.len(), &start).map_err(format)
}

fn read_from(file: &mut File, len: u64, start: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    if start.starts_with(b"PK\x03\x04") {
        torch::read_zip(file, len)
    } else if torch::is_legacy(start) {
        torch::read_legacy(file, len)
    } else if start.get(8) == Some(&b'{') {
        safetensors::read(file, len)
    } else {
        Err(unknown(start))
    }
}

/// What a file that is no checkpoint looks like.
fn unknown(start: &[u8]) -> String {
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start();
    let looks_like = if start.is_empty() {
        "it is empty"
    } else if text.starts_with("version https://git-lfs") {
        "it is a pointer of Git LFS, not the file itself: fetch it with git lfs pull"
    } else if text.starts_with('<') {
        "it is a web page, not a checkpoint: download the file again"
    } else if start.get(257..262) == Some(b"ustar") {
        "it is a tar archive, as torch before 0.1.10 wrote them: load and save it with a newer torch"
    } else {
        "it is no checkpoint"
    };
    format!("{looks_like} (known are .safetensors, and .pth as torch.save writes it)")
}

#[cfg(test)]
mod tests;
