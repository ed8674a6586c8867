//! Files by their sha256: written whole or not at all, verified before use.

use crate::error::{Error, Result};
use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often somebody who waits for a lock looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The folder `blobs` beside a registry.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
    /// Whether other machines may have blobs of the same registry in folders of their own.
    is_apart: bool,
}

/// What [`Blobs::put`] stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
}

/// What lies in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Blobs, by the name that their files have, sorted.
    pub blobs: Vec<Stored>,
    /// Files that a process which died was still writing, sorted, and their bytes.
    pub unfinished: Vec<(PathBuf, u64)>,
}

/// Keeps others from removing blobs, or, held alone, from adding some.
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Blobs {
    /// The blobs in a registry's folder, of which each machine may have one of its own.
    pub fn of(folder: &Path, is_apart: bool) -> Self {
        Blobs { folder: folder.join("blobs"), is_apart }
    }

    /// Whether a blob lies in the folder, sound or not.
    pub fn has(&self, sha256: &str) -> bool {
        self.path(sha256).exists()
    }

    /// Creates the folder and notes that the registry called `registry` uses it.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn create(&self, registry: &str) -> Result<()> {
        let attempt = || -> io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            if self.registries()?.iter().any(|known| known == registry) {
                return Ok(());
            }
            let _alone = self.lock(FlockOperation::LockExclusive)?;
            if !self.registries()?.iter().any(|known| known == registry) {
                let mut file = OpenOptions::new().append(true).create(true).open(self.folder.join("registries"))?;
                writeln!(file, "{registry}")?;
                file.sync_all()?;
            }
            sync_folder(&self.folder)?;
            self.folder.parent().map_or(Ok(()), sync_folder)
        };
        attempt().map_err(|error| failed("create", &self.folder, &error))
    }

    /// Where a blob lies.
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(&sha256[..2]).join(sha256)
    }

    /// Whether the disk can be written and has room for three checkpoints of `bytes` each: two that are kept, and one
    /// that is being written.
    ///
    /// # Errors
    /// Where it cannot, or has not.
    pub fn preflight(&self, bytes: u64) -> Result<()> {
        let (probe, renamed) = (self.temporary("probe"), self.temporary("probed"));
        let attempt = || -> io::Result<u64> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&probe)?;
            file.write_all(b"can this disk be written?")?;
            file.sync_all()?;
            fs::rename(&probe, &renamed)?;
            fs::remove_file(&renamed)?;
            let disk = statvfs(&self.folder)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        };
        let free = attempt().map_err(|error| {
            // Whichever is there; the reason is the error to report.
            let _ = (fs::remove_file(&probe), fs::remove_file(&renamed));
            failed("write", &self.folder, &error)
        })?;
        room_for(bytes, free, &self.folder)
    }

    /// Held from before [`put`](Self::put) until the registry knows the blob, so that nobody removes it in between.
    ///
    /// # Errors
    /// Where the lock file cannot be opened.
    pub fn guard(&self) -> Result<Guard> {
        self.lock(FlockOperation::LockShared).map_err(|error| failed("lock", &self.folder, &error))
    }

    /// Held while removing, so that nobody is adding. `None` where somebody still is after `patience`.
    ///
    /// # Errors
    /// Where the lock file cannot be opened.
    pub fn alone(&self, patience: Duration) -> Result<Option<Guard>> {
        let begun = Instant::now();
        loop {
            match self.lock(FlockOperation::NonBlockingLockExclusive) {
                Ok(guard) => return Ok(Some(guard)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(failed("lock", &self.folder, &error));
                }
                Err(_) if begun.elapsed() >= patience => return Ok(None),
                Err(_) => std::thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Stores `bytes` durably; where they are there already, nothing is written. A write that fails is tried once
    /// more, in a new file, but for a disk that is full or read-only.
    ///
    /// # Errors
    /// Where the disk is full or fails; nothing partial is left under the blob's name.
    pub fn put(&self, bytes: &[u8]) -> Result<Stored> {
        let stored = Stored { sha256: format!("{:x}", Sha256::digest(bytes)), bytes: bytes.len() as u64 };
        let path = self.path(&stored.sha256);
        if fs::read(&path).is_ok_and(|present| present == bytes) {
            // Whoever wrote it may have died before it was on the disk.
            let durable = || -> io::Result<()> {
                File::open(&path)?.sync_all()?;
                self.sync_folders(&path)
            };
            durable().map_err(|error| failed("write", &path, &error))?;
            return Ok(stored);
        }
        let written = match self.write(&path, bytes) {
            Err(error) if !is_permanent(&error) => self.write(&path, bytes),
            result => result,
        };
        written.map_err(|error| failed("write", &path, &error))?;
        Ok(stored)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(self.temporary(&name).file_name().unwrap_or_default());
        let attempt = || -> io::Result<()> {
            fs::create_dir_all(path.parent().expect("a blob lies in a folder of two digits"))?;
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            self.sync_folders(path)
        };
        attempt().inspect_err(|_| {
            // The blob was not stored; the reason is the error to report, not a second failure to tidy up.
            let _ = fs::remove_file(&temporary);
        })
    }

    fn sync_folders(&self, path: &Path) -> io::Result<()> {
        sync_folder(path.parent().expect("a blob lies in a folder of two digits"))?;
        sync_folder(&self.folder)
    }

    /// A name that no other process uses.
    fn temporary(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}.{}.tmp", std::process::id()))
    }

    /// Where a blob lies whose bytes were read once and found to be those that were stored.
    ///
    /// # Errors
    /// As of [`get`](Self::get).
    pub fn verified(&self, sha256: &str) -> Result<PathBuf> {
        self.get(sha256)?;
        Ok(self.path(sha256))
    }

    /// The bytes of a blob, verified.
    ///
    /// # Errors
    /// Where it is missing, or where its bytes are not the ones that were stored.
    pub fn get(&self, sha256: &str) -> Result<Vec<u8>> {
        let path = self.path(sha256);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.is_apart => Error::input(format!(
                "there is no {}: another machine may have written it; go there, or pass --artifacts DIR, a copy or a mount \
                 of the folder that has it",
                path.display()
            )),
            _ => failed("read", &path, &error),
        })?;
        let actual = format!("{:x}", Sha256::digest(&bytes));
        if actual != sha256 {
            return Err(Error::disk(format!(
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
        remove_file(&self.path(sha256))
    }

    /// Everything that lies in the folder. What is neither a blob nor the beginning of one is left out.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn contents(&self) -> Result<Contents> {
        let mut contents = Contents::default();
        let mut look = |folder: &Path| -> io::Result<Vec<PathBuf>> {
            let mut folders = Vec::new();
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let (kind, name) = (entry.file_type()?, entry.file_name().to_string_lossy().into_owned());
                let is_hex = |length| name.len() == length && name.bytes().all(|byte| byte.is_ascii_hexdigit());
                if kind.is_dir() && is_hex(2) {
                    folders.push(entry.path());
                } else if kind.is_file() && is_hex(64) {
                    contents.blobs.push(Stored { bytes: entry.metadata()?.len(), sha256: name });
                } else if kind.is_file() && name.starts_with('.') && name.ends_with(".tmp") {
                    contents.unfinished.push((entry.path(), entry.metadata()?.len()));
                }
            }
            Ok(folders)
        };
        let mut all = || -> io::Result<()> {
            for folder in look(&self.folder)? {
                look(&folder)?;
            }
            Ok(())
        };
        all().map_err(|error| failed("read", &self.folder, &error))?;
        contents.blobs.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        contents.unfinished.sort();
        Ok(contents)
    }

    /// The names of the registries that use the folder.
    ///
    /// # Errors
    /// Where the list cannot be read.
    pub fn users(&self) -> Result<Vec<String>> {
        self.registries().map_err(|error| failed("read", &self.folder, &error))
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
}

/// Removes a file; one that is gone already is fine.
///
/// # Errors
/// Where it cannot be removed.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, &error)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

/// Whether trying again is of no use.
fn is_permanent(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

fn room_for(bytes: u64, free: u64, folder: &Path) -> Result<()> {
    if free >= bytes.saturating_mul(3) {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Error::disk(format!(
        "the disk of {} has {} MiB free, too few for three checkpoints of {} MiB; free some, or pass --registry PATH \
         on another disk",
        folder.display(),
        mib(free),
        mib(bytes)
    )))
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::disk(format!("cannot {verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(folder: &tempfile::TempDir) -> Blobs {
        let blobs = Blobs::of(folder.path(), false);
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
    fn nobody_removes_while_somebody_adds() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = blobs(&folder);
        let adding = blobs.guard().expect("shared");
        assert!(blobs.alone(LOOK_AGAIN).expect("asked").is_none());
        drop(adding);
        // A process that another test is just starting holds a copy of the lock until it becomes its program.
        assert!(blobs.alone(Duration::from_secs(10)).expect("asked").is_some());
    }

    #[test]
    fn what_lies_around_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = blobs(&folder);
        let stored = blobs.put(b"some weights").expect("stored");
        let unfinished = blobs.path(&stored.sha256).with_file_name(".half.1.tmp");
        fs::write(&unfinished, b"some").expect("written");
        fs::write(folder.path().join("blobs/notes.txt"), b"of a person").expect("written");
        assert_eq!(
            blobs.contents().expect("read"),
            Contents { blobs: vec![stored], unfinished: vec![(unfinished, 4)] }
        );
        assert_eq!(blobs.users().expect("read"), ["registry.sqlite3"]);
    }

    #[test]
    fn a_run_needs_room_for_three_checkpoints() {
        let folder = tempfile::tempdir().expect("a folder");
        blobs(&folder).preflight(1).expect("a byte");
        assert!(folder.path().join("blobs").read_dir().expect("a folder").count() == 2, "the list and the lock");
        room_for(5 << 20, 15 << 20, folder.path()).expect("just enough");
        let error = room_for(5 << 20, (15 << 20) - 1, folder.path()).expect_err("too few");
        assert!(error.to_string().contains("has 15 MiB free, too few for three checkpoints of 5 MiB"), "{error}");
        assert_eq!(error.exit_code(), 74);
    }
}
