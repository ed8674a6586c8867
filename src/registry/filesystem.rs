//! Where SQLite's write-ahead log is safe, and where not.

use crate::error::{Error, Result};
use rustix::fs::statfs;
use std::path::Path;

/// The network filesystem that a folder lies on, where it is one.
///
/// # Errors
/// Where the folder cannot be looked at.
pub(super) fn network(folder: &Path) -> Result<Option<&'static str>> {
    match statfs(folder) {
        Ok(facts) => Ok(name(facts.f_type as u32)),
        Err(error) => Err(Error::disk(format!("cannot look at the filesystem of {}: {error}", folder.display()))),
    }
}

/// The magic numbers of statfs(2). FUSE may be a local disk, but its locks are anybody's guess.
fn name(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B | 0xFE53_4D42 => "SMB",
        0xFF53_4D42 => "CIFS",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x00C3_6400 => "Ceph",
        0x0BD0_0BD0 => "Lustre",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_named() {
        assert_eq!(name(0x6969), Some("NFS"));
        assert_eq!(name(0xEF53), None);
        assert_eq!(name(0x0102_1994), None, "tmpfs is local");
        assert_eq!(network(Path::new("/proc")).expect("a filesystem"), None);
    }
}
