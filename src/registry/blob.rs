//! Files by their sha256: written whole or not at all, verified before use.

use crate::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder `blobs` beside a registry.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

/// What [`Blobs::put`] stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
}

/// Keeps others from removing blobs, or, held alone, from adding some.
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Blobs {
    /// The blobs of the registry file `database`.
    pub fn beside(database: &Path) -> Self {
        Blobs { folder: database.with_file_name("blobs") }
    }

    /// Creates the folder and notes that the registry called `registry` uses it.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn create(&self, registry: &str) -> Result<()> {
        let attempt = || -> io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            let _alone = self.lock(FlockOperation::LockExclusive)?;
            if !self.registries()?.iter().any(|known| known == registry) {
                let mut file = OpenOptions::new().append(true).create(true).open(self.folder.join("registries"))?;
                writeln!(file, "{registry}")?;
            }
            Ok(())
        };
        attempt().map_err(|error| self.failed("create", &self.folder, &error))
    }

    /// Where a blob lies.
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(&sha256[..2]).join(sha256)
    }

    /// Held from before [`put`](Self::put) until the registry knows the blob, so that nobody removes it in between.
    ///
    /// # Errors
    /// Where the lock file cannot be opened.
    pub fn guard(&self) -> Result<Guard> {
        self.lock(FlockOperation::LockShared).map_err(|error| self.failed("lock", &self.folder, &error))
    }

    /// Held while removing. `None` where somebody is adding, or where another registry shares the folder: then the
    /// blobs stay.
    ///
    /// # Errors
    /// Where the lock file cannot be opened.
    pub fn alone(&self) -> Result<Option<Guard>> {
        let shared = self.registries().map_err(|error| self.failed("read", &self.folder, &error))?.len() > 1;
        if shared {
            return Ok(None);
        }
        match self.lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(guard) => Ok(Some(guard)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(self.failed("lock", &self.folder, &error)),
        }
    }

    /// Stores `bytes` durably; where they are there already, nothing is written.
    ///
    /// # Errors
    /// Where the disk is full or fails; nothing partial is left under the blob's name.
    pub fn put(&self, bytes: &[u8]) -> Result<Stored> {
        let stored = Stored { sha256: format!("{:x}", Sha256::digest(bytes)), bytes: bytes.len() as u64 };
        let path = self.path(&stored.sha256);
        if fs::read(&path).is_ok_and(|present| present == bytes) {
            return Ok(stored);
        }
        let folder = path.parent().expect("a blob lies in a folder of two digits");
        let temporary = folder.join(format!(".{}.{}.tmp", stored.sha256, std::process::id()));
        let attempt = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(folder)?.sync_all()?;
            File::open(&self.folder)?.sync_all()
        };
        attempt().map_err(|error| {
            // The blob was not stored; the reason is the error to report, not a second failure to tidy up.
            let _ = fs::remove_file(&temporary);
            self.failed("write", &path, &error)
        })?;
        Ok(stored)
    }

    /// The bytes of a blob, verified.
    ///
    /// # Errors
    /// Where it is missing, or where its bytes are not the ones that were stored.
    pub fn get(&self, sha256: &str) -> Result<Vec<u8>> {
        let path = self.path(sha256);
        let bytes = fs::read(&path).map_err(|error| self.failed("read", &path, &error))?;
        let actual = format!("{:x}", Sha256::digest(&bytes));
        if actual != sha256 {
            return Err(Error::failed(format!(
                "{} is damaged: its sha256 is {actual}; restore it from a copy, or use an older checkpoint",
                path.display()
            )));
        }
        Ok(bytes)
    }

    /// Removes a blob; one that is gone already is fine. Call it under [`alone`](Self::alone).
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn remove(&self, sha256: &str) -> Result<()> {
        let path = self.path(sha256);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", &path, &error)),
            _ => Ok(()),
        }
    }

    fn registries(&self) -> io::Result<Vec<String>> {
        match fs::read_to_string(self.folder.join("registries")) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, operation: FlockOperation) -> io::Result<Guard> {
        let path = self.folder.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        flock(&file, operation)?;
        Ok(Guard(file))
    }

    fn failed(&self, verb: &str, path: &Path, error: &io::Error) -> Error {
        Error::failed(format!("cannot {verb} {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(folder: &tempfile::TempDir) -> Blobs {
        let blobs = Blobs::beside(&folder.path().join("registry.sqlite3"));
        blobs.create("registry.sqlite3").expect("created");
        blobs
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = blobs(&folder);
        let stored = blobs.put(b"some weights").expect("stored");
        assert_eq!(blobs.get(&stored.sha256).expect("sound"), b"some weights");
        for bit in 0..8 * 12 {
            let mut bytes = b"some weights".to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(blobs.path(&stored.sha256), &bytes).expect("written");
            let message = blobs.get(&stored.sha256).expect_err("damaged").to_string();
            assert!(message.contains("is damaged"), "{message}");
        }
        assert_eq!(blobs.put(b"some weights").expect("healed"), stored);
        assert_eq!(blobs.get(&stored.sha256).expect("sound again"), b"some weights");
    }

    #[test]
    fn nobody_removes_while_somebody_adds_or_shares() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = blobs(&folder);
        let adding = blobs.guard().expect("shared");
        assert!(blobs.alone().expect("asked").is_none());
        drop(adding);
        assert!(blobs.alone().expect("asked").is_some());
        blobs.create("other.sqlite3").expect("shared from now on");
        assert!(blobs.alone().expect("asked").is_none());
    }
}
