//! Runs, metrics and checkpoints: one SQLite file, checkpoints as blobs beside it, and a folder for
//! each run that holds its lock.
//!
//! ```text
//! runs/registry.sqlite3      what ran, and every metric
//! runs/blobs/ab/<sha256>     checkpoints, by content
//! runs/<run id>/lock         held by the process that works on the run
//! runs/<run id>/metrics.spill    what it could not write, while somebody kept the SQLite file locked
//! ```
//!
//! All SQL lives in [`store`]. Time is an argument ([`Clock`]), so that tests own it.

pub mod annotations;
pub mod blob;
pub mod build;
pub mod bundle;
pub mod clock;
pub mod code;
mod filesystem;
pub mod filter;
pub mod formats;
pub mod gc;
mod keeper;
pub mod lease;
pub mod observer;
pub mod process;
pub mod record;
pub mod run;
pub mod secrets;
pub mod spill;
pub mod store;
mod system;
mod writer;

pub use annotations::Annotations;
pub use build::Build;
pub use clock::Clock;
pub use code::Code;
pub use filter::Filter;
pub use observer::Recorder;
pub use process::Process;
pub use run::{NewRun, RunState};
pub use store::{Reader, Store};

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where a registry lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    database: PathBuf,
    on_network: bool,
}

impl Location {
    /// The registry whose SQLite file is `database`; its blobs and run folders lie beside it.
    pub fn new(database: impl Into<PathBuf>) -> Self {
        Location { database: database.into(), on_network: false }
    }

    /// Whether a network filesystem will do. There the registry is written without a write-ahead log, which needs
    /// memory that all processes share.
    pub fn on_network(self, allowed: bool) -> Self {
        Location { on_network: allowed, ..self }
    }

    /// Another registry of the same folder.
    pub(crate) fn with_database(&self, database: PathBuf) -> Self {
        Location { database, ..*self }
    }

    /// The SQLite file.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// The folder that holds everything.
    pub fn folder(&self) -> &Path {
        match self.database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// The folder of one run.
    pub fn run_folder(&self, uid: &str) -> PathBuf {
        self.folder().join(uid)
    }

    /// The network filesystem that the folder lies on, where it is one. The folder is created where it is missing.
    ///
    /// # Errors
    /// Where it cannot be created or looked at.
    pub fn network_filesystem(&self) -> Result<Option<&'static str>> {
        std::fs::create_dir_all(self.folder())
            .map_err(|error| Error::disk(format!("cannot create {}: {error}", self.folder().display())))?;
        filesystem::network(self.folder())
    }
}
