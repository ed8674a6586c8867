//! Published weights become a verified local file, and files become a commit of a repository ([`publish`]).
//!
//! [`fetch`] finds a file in the cache that it shares with Python's huggingface_hub, or downloads it there.
//! Not a byte is used before size and sha256 are verified, against the spec's pin or else against what the
//! Hub says of the file, and the commit that it is of is resolved and reported.
//!
//! hf-hub gives the names: the URLs of a repository and its folder in the cache. Its download is not used:
//! it resumes without asking whether the server went along, stores any body of any status (an error page,
//! half a file) as the file, has no time limits, verifies neither size nor hash, and follows a relative
//! redirect to itself for ever. The transfer is [ureq]'s, with redirects followed here, so that a token goes
//! to the Hub alone.

mod cache;
mod client;
mod config;
mod error;
mod transfer;
mod upload;

pub use config::{HubConfig, Limits, Token};
pub use error::{HubError, Problem};
pub use upload::{Destination, NewFile, Published, publish};

use crate::model::WeightCard;
use cache::{Cached, Slot};
use std::path::PathBuf;
use std::time::Duration;
use transfer::Transfer;

/// A file of a repository of the Hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubFile<'a> {
    /// `timm/resnet34.a1_in1k`.
    pub repository: &'a str,
    /// A branch, a tag or a commit of 40 hexadecimal digits; `main` where there is none.
    pub revision: Option<&'a str>,
    /// The path in the repository: `model.safetensors`.
    pub file: &'a str,
    /// sha256 of the file, hexadecimal, where it is known beforehand.
    pub sha256: Option<&'a str>,
    /// Size in bytes, where it is known beforehand.
    pub size: Option<u64>,
}

/// A file that is here and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where.
    pub path: PathBuf,
    /// The commit that it is of, 40 hexadecimal digits.
    pub commit: String,
    /// sha256 of its content, hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Whether it was here before.
    pub from_cache: bool,
}

/// Listens to a download or an upload.
pub trait Progress {
    /// The transfer starts, or starts again after a fault: `done` bytes of `size` are there already.
    fn started(&mut self, file: &str, done: u64, size: Option<u64>);
    /// So many more bytes arrived, or left.
    fn advanced(&mut self, bytes: u64);
    /// Something went wrong that is tried again after a wait.
    fn retrying(&mut self, problem: &Problem, wait: Duration);
    /// The file is there and verified; all files are published.
    fn finished(&mut self);
}

/// Nobody listens.
impl Progress for () {
    fn started(&mut self, _: &str, _: u64, _: Option<u64>) {}
    fn advanced(&mut self, _: u64) {}
    fn retrying(&mut self, _: &Problem, _: Duration) {}
    fn finished(&mut self) {}
}

impl<'a> From<&'a WeightCard> for HubFile<'a> {
    fn from(card: &'a WeightCard) -> Self {
        HubFile {
            repository: card.repository,
            revision: card.revision,
            file: card.file,
            sha256: card.sha256,
            size: card.size,
        }
    }
}

/// The file, from the cache where it is there and verifies, else from the Hub. No network is used for a
/// cached file whose revision is a commit or whose sha256 is given, and none when `config.offline`.
///
/// # Errors
/// Where the file cannot be had, is not what it should be, or cannot be verified.
pub fn fetch(file: &HubFile<'_>, config: &HubConfig, progress: &mut dyn Progress) -> Result<Fetched, HubError> {
    let error = |problem| HubError { file: format!("{}/{}", file.repository, file.file), problem };
    let file = CheckedFile::new(file).map_err(|what| error(Problem::Invalid(what)))?;
    fetch_checked(&file, config, progress).map_err(error)
}

fn fetch_checked(file: &CheckedFile, config: &HubConfig, progress: &mut dyn Progress) -> Result<Fetched, Problem> {
    let slot = Slot::new(&config.cache, file);
    if config.offline || file.sha256.is_some() || is_commit(&file.revision) {
        match slot.find(file)? {
            Cached::Good(fetched) => return Ok(fetched),
            Cached::Absent if config.offline => return Err(Problem::NotCached(config.cache.clone())),
            Cached::Damaged(path) if config.offline => return Err(Problem::DamagedCache(path)),
            Cached::Other(problem) if config.offline || is_commit(&file.revision) => return Err(problem),
            Cached::Absent | Cached::Damaged(_) | Cached::Other(_) => {}
        }
    }
    let transfer = Transfer::new(file, config)?;
    let remote = transfer.describe(progress)?;
    let _lock = slot.lock(&remote.blob, config.limits.lock)?;
    let blob = slot.blob(&remote.blob);
    let from_cache = cache::is_intact(&blob, &remote)?;
    if !from_cache {
        transfer.download(&remote, &slot.incomplete(&remote.blob), progress)?;
        cache::install(&slot.incomplete(&remote.blob), &blob)?;
    }
    let path = slot.link(&remote, file)?;
    let size = std::fs::metadata(&path).map_err(|error| Problem::io(&path, error))?.len();
    progress.finished();
    Ok(Fetched { path, commit: remote.commit, sha256: remote.sha256, size, from_cache })
}

/// What the Hub says of a file, checked against what was asked for.
#[derive(Debug)]
struct Remote {
    commit: String,
    /// The name of the content in the cache: the entity tag, which for large files is the sha256.
    blob: String,
    sha256: String,
    size: Option<u64>,
}

/// A request of which no part can lead out of the repository or the cache.
#[derive(Debug)]
struct CheckedFile {
    repository: String,
    revision: String,
    file: String,
    sha256: Option<String>,
    size: Option<u64>,
}

impl CheckedFile {
    fn new(file: &HubFile<'_>) -> Result<Self, String> {
        let repository = file.repository.split('/').collect::<Vec<_>>();
        if repository.len() > 2 || !repository.iter().all(|part| is_plain(part)) || file.repository.contains("--") {
            return Err(format!("the repository must be OWNER/NAME, not `{}`", file.repository.escape_debug()));
        }
        let revision = file.revision.unwrap_or("main");
        if !revision.split('/').all(is_plain) {
            return Err(format!("the revision must be a branch, a tag or a commit, not `{}`", revision.escape_debug()));
        }
        if !file.file.split('/').all(is_file_name) {
            return Err(format!(
                "the file must be a path inside of the repository without `..`, not `{}`",
                file.file.escape_debug()
            ));
        }
        let sha256 = file.sha256.map(str::to_ascii_lowercase);
        if let Some(sha256) = sha256.as_deref().filter(|sha256| !is_sha256(sha256)) {
            return Err(format!("a sha256 must have 64 hexadecimal digits, not `{}`", sha256.escape_debug()));
        }
        Ok(CheckedFile {
            repository: file.repository.to_string(),
            revision: revision.to_string(),
            file: file.file.to_string(),
            sha256,
            size: file.size,
        })
    }
}

/// A part of a repository's or a revision's name.
fn is_plain(part: &str) -> bool {
    is_file_name(part) && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// A name of a file on every file system: not empty, no path, no way up, nothing invisible.
fn is_file_name(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 255
        && part != "."
        && part != ".."
        && !part.contains(['/', '\\', ':'])
        && !part.chars().any(char::is_control)
}

fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}

fn is_sha256(text: &str) -> bool {
    is_hex(text, 64)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
