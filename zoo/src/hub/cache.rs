//! The cache, in huggingface_hub's layout: `models--OWNER--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/FILE}`,
//! where a snapshot's file is a link to the blob, and `.locks/models--OWNER--NAME/ETAG.lock`.

use super::error::Problem;
use super::{CheckedFile, Fetched, Remote, is_commit, is_sha256};
use hf_hub::{Repo, RepoType};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The places of one repository.
pub(super) struct Slot {
    root: PathBuf,
    locks: PathBuf,
}

/// What the cache has of a file.
pub(super) enum Cached {
    Absent,
    Good(Fetched),
    /// The content is not what its name says.
    Damaged(PathBuf),
    /// Intact, but not what was pinned.
    Other(Problem),
}

impl Slot {
    pub fn new(cache: &Path, file: &CheckedFile) -> Self {
        let folder = Repo::new(file.repository.clone(), RepoType::Model).folder_name();
        Slot { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// The file as the cache has it, verified by its content.
    pub fn find(&self, file: &CheckedFile) -> Result<Cached, Problem> {
        let commit = if is_commit(&file.revision) {
            file.revision.clone()
        } else {
            match fs::read_to_string(self.reference(&file.revision)) {
                Ok(commit) if is_commit(commit.trim()) => commit.trim().to_string(),
                _ => return Ok(Cached::Absent),
            }
        };
        let path = self.pointer(&commit, &file.file);
        let Ok(blob) = fs::canonicalize(&path) else { return Ok(Cached::Absent) };
        if !blob.is_file() {
            return Ok(Cached::Absent);
        }
        let (size, sha256) = digest(&blob)?;
        let named = blob.file_name().and_then(|name| name.to_str()).filter(|name| is_sha256(name));
        if named.is_some_and(|named| named != sha256) {
            return Ok(Cached::Damaged(blob));
        }
        if let Some(expected) = file.sha256.as_ref().filter(|expected| **expected != sha256) {
            return Ok(Cached::Other(Problem::WrongHash { expected: expected.clone(), got: sha256 }));
        }
        if let Some(expected) = file.size.filter(|expected| *expected != size) {
            return Ok(Cached::Other(Problem::WrongSize { expected, got: size }));
        }
        Ok(Cached::Good(Fetched { path, commit, sha256, size, from_cache: true }))
    }

    pub fn blob(&self, name: &str) -> PathBuf {
        self.root.join("blobs").join(name)
    }

    /// Where a blob grows.
    pub fn incomplete(&self, name: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{name}.incomplete"))
    }

    /// Waits until this process alone may download the blob.
    pub fn lock(&self, name: &str, longest: Duration) -> Result<File, Problem> {
        let path = self.locks.join(format!("{name}.lock"));
        for folder in [&self.locks, &self.root.join("blobs")] {
            fs::create_dir_all(folder).map_err(|error| Problem::io(folder, error))?;
        }
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| Problem::io(&path, error))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < longest => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => return Err(Problem::Locked(path)),
                Err(TryLockError::Error(error)) => return Err(Problem::io(&path, error)),
            }
        }
    }

    /// Makes the snapshot's file point to the blob, and the revision to the commit.
    pub fn link(&self, remote: &Remote, file: &CheckedFile) -> Result<PathBuf, Problem> {
        let path = self.pointer(&remote.commit, &file.file);
        let up = "../".repeat(2 + file.file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{}", remote.blob));
        let io = |error| Problem::io(&path, error);
        if fs::read_link(&path).ok().as_ref() != Some(&target) {
            replace(&path, |new| point(&target, &self.blob(&remote.blob), new)).map_err(io)?;
        }
        if !is_commit(&file.revision) {
            let reference = self.reference(&file.revision);
            replace(&reference, |new| fs::write(new, &remote.commit))
                .map_err(|error| Problem::io(&reference, error))?;
        }
        Ok(path)
    }

    fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.root.join("snapshots").join(commit).join(file)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }
}

/// Whether the blob is there and is what the Hub says; one that is not is removed.
pub(super) fn is_intact(blob: &Path, remote: &Remote) -> Result<bool, Problem> {
    if !blob.is_file() {
        return Ok(false);
    }
    let intact = digest(blob)?.1 == remote.sha256;
    if !intact {
        fs::remove_file(blob).map_err(|error| Problem::io(blob, error))?;
    }
    Ok(intact)
}

/// Gives a verified file its name, so that it is there whole or not at all, after a power cut too.
pub(super) fn install(incomplete: &Path, blob: &Path) -> Result<(), Problem> {
    let install = || {
        File::open(incomplete)?.sync_all()?;
        fs::rename(incomplete, blob)?;
        sync_folder(blob)
    };
    install().map_err(|error| Problem::io(blob, error))
}

/// Size and sha256 of a file.
pub(super) fn digest(path: &Path) -> Result<(u64, String), Problem> {
    let digest = || {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let size = io::copy(&mut file, &mut hash)?;
        Ok((size, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
    };
    digest().map_err(|error| Problem::io(path, error))
}

/// Makes a file beside `path` and moves it there.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().expect("every file of the cache lies in a folder");
    fs::create_dir_all(folder)?;
    let name = path.file_name().expect("every file of the cache has a name").to_string_lossy();
    let new = folder.join(format!("{name}.{}.new", std::process::id()));
    if fs::symlink_metadata(&new).is_ok() {
        fs::remove_file(&new)?;
    }
    make(&new)?;
    fs::rename(&new, path)
}

#[cfg(unix)]
fn point(target: &Path, _: &Path, new: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, new)
}

#[cfg(not(unix))]
fn point(_: &Path, blob: &Path, new: &Path) -> io::Result<()> {
    fs::copy(blob, new).map(drop)
}

#[cfg(unix)]
fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(file.parent().expect("a blob lies in a folder"))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
