//! Who works on a run: a lock on the run's file that the kernel releases when the process dies, however it dies.

use crate::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the second of two is told.
pub const TAKEN: &str = "another process works on this run; wait for it or stop it";

/// The right to work on a run, held as long as this lives.
#[derive(Debug)]
pub struct Lease(File);

impl Lease {
    /// Takes the lease of the run whose folder this is, or says that another process has it.
    ///
    /// # Errors
    /// Where another process holds it, or where the folder cannot be written.
    pub fn take(run_folder: &Path) -> Result<Self> {
        let path = run_folder.join("lock");
        let failed = |error: io::Error| Error::disk(format!("cannot lock {}: {error}", run_folder.display()));
        // `is_held` holds the lock for an instant, so a refusal counts only when it lasts.
        let deadline = Instant::now() + Duration::from_millis(500);
        loop {
            fs::create_dir_all(run_folder).map_err(failed)?;
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, &path) => return Ok(Lease(file)),
                // Somebody removed the file before it was locked: what others lock is another one.
                Ok(()) => {}
                Err(error) if error != rustix::io::Errno::WOULDBLOCK => return Err(failed(error.into())),
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => return Err(Error::input(TAKEN)),
            }
        }
    }

    /// The lock's file once more, for a child process to hold: the lease is free when both are gone.
    ///
    /// # Errors
    /// Where the process has too many files open.
    pub fn share(&self) -> Result<File> {
        self.0.try_clone().map_err(|error| Error::failed(format!("cannot share a lock: {error}")))
    }

    /// Whether a process of this host holds the lease.
    pub fn is_held(run_folder: &Path) -> bool {
        let Ok(file) = File::open(run_folder.join("lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }
}

/// Whether an open file is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |facts: fs::Metadata| (facts.dev(), facts.ino());
    file.metadata().map(identity).is_ok_and(|open| fs::metadata(path).map(identity).is_ok_and(|named| open == named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!Lease::is_held(folder.path()));
        let lease = Lease::take(folder.path()).expect("free");
        assert!(Lease::is_held(folder.path()));
        let message = Lease::take(folder.path()).expect_err("taken").to_string();
        assert!(message.contains("another process works on this run"), "{message}");
        drop(lease);
        Lease::take(folder.path()).expect("free again");
    }
}
