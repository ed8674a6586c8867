//! Image files, which cannot be trusted.

use crate::error::{Error, Result};
use resnet_pixels::decode::decode;
use std::io::Read;
use std::path::Path;

pub use resnet_pixels::Image;
pub use resnet_pixels::decode::{MAX_ALLOC, MAX_FRAMES, MAX_PIXELS};

/// The largest image file that is read, in bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// Reads a JPEG, PNG, WebP or GIF (its first frame) as RGB, as Pillow's `Image.open(path).convert("RGB")` does: alpha is
/// dropped, grey repeated, 16-bit grey cut at 255 (other 16-bit images keep their high bytes), and an EXIF orientation is not
/// applied. The format follows from the content.
///
/// # Errors
/// [`Error::Input`] where there is no such regular file, it has more than 16 MiB, is not an image, is truncated or corrupt,
/// has more than 8192 x 8192 pixels or needs more than 256 MiB.
pub fn read(path: &Path) -> Result<Image> {
    let image = read_file(path).and_then(|bytes| decode(&bytes));
    image.map_err(|reason| Error::input(format!("{}: {reason}", path.display())))
}

/// The bytes of a regular file of at most [`MAX_FILE`].
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    // Asked before opening, because opening a FIFO waits for a writer.
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("has {} bytes; an image file may have {MAX_FILE}", metadata.len().max(MAX_FILE + 1)));
    }
    Ok(bytes)
}
