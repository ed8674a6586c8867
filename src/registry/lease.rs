//! Who works on a run: a lock on the run's file that the kernel releases when the process dies, however it dies.

use crate::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The right to work on a run, held as long as this lives.
#[derive(Debug)]
pub struct Lease(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Lease {
    /// Takes the lease of the run whose folder this is, or says that another process has it.
    ///
    /// # Errors
    /// Where another process holds it, or where the folder cannot be written.
    pub fn take(run_folder: &Path) -> Result<Self> {
        let open = || -> io::Result<File> {
            fs::create_dir_all(run_folder)?;
            OpenOptions::new().write(true).create(true).truncate(false).open(run_folder.join("lock"))
        };
        let failed = |error: io::Error| Error::failed(format!("cannot lock {}: {error}", run_folder.display()));
        let file = open().map_err(failed)?;
        // `is_held` holds the lock for an instant, so a refusal counts only when it lasts.
        let deadline = Instant::now() + Duration::from_millis(500);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lease(file)),
                Err(error) if error != rustix::io::Errno::WOULDBLOCK => return Err(failed(error.into())),
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => return Err(Error::input("another process works on this run; wait for it or stop it")),
            }
        }
    }

    /// Whether a process of this host holds the lease.
    pub fn is_held(run_folder: &Path) -> bool {
        let Ok(file) = File::open(run_folder.join("lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }
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
