//! Borders.

use super::PaddingMode;
use crate::error::{Error, Result};

/// Whether an image is large enough to be mirrored that far.
pub(super) fn check_fits(padding: usize, mode: PaddingMode, height: usize, width: usize) -> Result<()> {
    if mode == PaddingMode::Reflect && padding >= height.min(width) {
        return Err(Error::failed(format!(
            "a reflecting border of {padding} pixels needs a larger image than {height} x {width}: resize it first"
        )));
    }
    Ok(())
}
