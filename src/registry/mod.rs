//! Runs, metrics and checkpoints: one SQLite file, checkpoints as blobs beside it, and a folder for
//! each run that holds its lock. Or, for a team, a database on a PostgreSQL server instead of the file, and a folder on
//! each machine for the rest.
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
mod gpu;
mod keeper;
pub mod lease;
pub mod observer;
pub mod process;
pub mod record;
pub mod run;
pub mod secrets;
#[cfg(feature = "postgres")]
mod server;
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
use blob::Blobs;
#[cfg(feature = "postgres")]
use server::Server;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a registry lies.
#[derive(Debug, Clone)]
pub struct Location {
    database: Database,
    folder: PathBuf,
    on_network: bool,
}

#[derive(Debug, Clone)]
enum Database {
    /// A SQLite file.
    File(PathBuf),
    #[cfg(feature = "postgres")]
    Server(Box<Server>),
}

impl Location {
    /// The registry whose SQLite file is `database`; its blobs and run folders lie beside it.
    pub fn new(database: impl Into<PathBuf>) -> Self {
        let database = database.into();
        let folder = match database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Location { database: Database::File(database), folder, on_network: false }
    }

    /// The registry that an argument names: a SQLite file, or `postgres://user@host:port/database`, whose blobs and run
    /// folders then lie in `artifacts`, or in a folder of the database's name below `runs`.
    ///
    /// # Errors
    /// Where the address is wrong, where this build speaks to no server, or where a file is to have `artifacts`. The
    /// message does not repeat an address, which may hold a password.
    pub fn parse(registry: &Path, artifacts: Option<&Path>) -> Result<Self> {
        let address =
            registry.to_str().filter(|text| text.starts_with("postgres://") || text.starts_with("postgresql://"));
        match (address, artifacts) {
            (Some(address), artifacts) => Self::on_server(address, artifacts),
            (None, Some(_)) => Err(Error::input(
                "--artifacts is for a registry on a PostgreSQL server; those of a SQLite file lie beside it",
            )),
            (None, None) => Ok(Self::new(registry)),
        }
    }

    #[cfg(feature = "postgres")]
    fn on_server(address: &str, artifacts: Option<&Path>) -> Result<Self> {
        let server = Server::parse(address)?;
        let folder = artifacts.map_or_else(|| Path::new("runs").join(server.database()), Path::to_owned);
        Ok(Location { database: Database::Server(Box::new(server)), folder, on_network: false })
    }

    #[cfg(not(feature = "postgres"))]
    fn on_server(_: &str, _: Option<&Path>) -> Result<Self> {
        Err(Error::input(
            "this build keeps registries in SQLite files alone; build it with `--features postgres` for one on a \
             PostgreSQL server",
        ))
    }

    /// Whether a network filesystem will do. There the registry is written without a write-ahead log, which needs
    /// memory that all processes share.
    pub fn on_network(self, allowed: bool) -> Self {
        Location { on_network: allowed, ..self }
    }

    /// The SQLite file; `None` where the registry is on a server.
    pub fn file(&self) -> Option<&Path> {
        match &self.database {
            Database::File(path) => Some(path),
            #[cfg(feature = "postgres")]
            Database::Server(_) => None,
        }
    }

    /// Whether it may be there: a server is asked only by whoever opens it.
    pub fn may_exist(&self) -> bool {
        self.file().is_none_or(Path::exists)
    }

    /// What names it in the list of those that share a folder. The same for everybody who uses it.
    fn name(&self) -> String {
        match &self.database {
            Database::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            #[cfg(feature = "postgres")]
            Database::Server(server) => server.name(),
        }
    }

    /// The folder that holds everything but what is in the database.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of one run.
    pub fn run_folder(&self, uid: &str) -> PathBuf {
        self.folder().join(uid)
    }

    /// Its blobs.
    pub fn blobs(&self) -> Blobs {
        Blobs::of(self.folder(), self.file().is_none())
    }

    /// The arguments and variables that make another process of this program use it. The password is no argument: every
    /// user of a machine sees those.
    pub fn for_child(&self) -> (Vec<std::ffi::OsString>, Vec<(&'static str, String)>) {
        match &self.database {
            Database::File(path) => (vec!["--registry".into(), path.into()], Vec::new()),
            #[cfg(feature = "postgres")]
            Database::Server(server) => {
                let arguments = vec![
                    "--registry".into(),
                    server.address().into(),
                    "--artifacts".into(),
                    self.folder.clone().into(),
                ];
                (arguments, server.password().map(|password| ("PGPASSWORD", password.to_owned())).into_iter().collect())
            }
        }
    }

    /// What keeps somebody from writing to it, in the end, and what has to happen then.
    pub(crate) fn blocked(&self) -> (&'static str, &'static str) {
        match &self.database {
            Database::File(_) => ("locked by another program", "the lock is gone"),
            #[cfg(feature = "postgres")]
            Database::Server(_) => ("out of reach, or locked by another program", "that is over"),
        }
    }

    /// The network filesystem that a SQLite file lies on, where it is one. The folder is created where it is missing.
    ///
    /// # Errors
    /// Where it cannot be created or looked at.
    pub fn network_filesystem(&self) -> Result<Option<&'static str>> {
        std::fs::create_dir_all(self.folder())
            .map_err(|error| Error::disk(format!("cannot create {}: {error}", self.folder().display())))?;
        if self.file().is_none() {
            return Ok(None);
        }
        filesystem::network(self.folder())
    }
}

/// The file's path, or the server's address without a password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.database {
            Database::File(path) => path.display().fmt(f),
            #[cfg(feature = "postgres")]
            Database::Server(server) => server.fmt(f),
        }
    }
}
