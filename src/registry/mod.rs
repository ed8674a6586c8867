//! Runs, metrics and checkpoints: one SQLite file, checkpoints as blobs beside it, and a folder for
//! each run that holds its lock.
//!
//! ```text
//! runs/registry.sqlite3      what ran, and every metric
//! runs/blobs/ab/<sha256>     checkpoints, by content
//! runs/<run id>/lock         held by the process that works on the run
//! ```
//!
//! All SQL lives in [`store`]. Time is an argument ([`Clock`]), so that tests own it.

pub mod blob;
pub mod build;
pub mod clock;
pub mod lease;
pub mod observer;
pub mod process;
pub mod run;
pub mod store;
mod writer;

pub use build::Build;
pub use clock::Clock;
pub use observer::Recorder;
pub use process::Process;
pub use run::{NewRun, RunState};
pub use store::{Reader, Store};

use std::path::{Path, PathBuf};

/// Where a registry lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    database: PathBuf,
}

impl Location {
    /// The registry whose SQLite file is `database`; its blobs and run folders lie beside it.
    pub fn new(database: impl Into<PathBuf>) -> Self {
        Location { database: database.into() }
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
}
