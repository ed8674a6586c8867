//! All SQL. [`Store`] is the one connection of a process that writes, [`Reader`] a connection that cannot.
//!
//! A write is one `BEGIN IMMEDIATE` transaction: a deferred one would fail with "database is locked" where two
//! processes upgrade their read locks at once.

mod agreement;
mod annotations;
mod checkpoints;
mod dialect;
mod find;
pub mod mlflow;
mod points;
mod query;
mod read;
mod runs;
mod samples;
mod select;
mod sql;
mod sqlite;
mod transfer;

pub use agreement::{Agreement, Disagreement, ExactValue};
pub use checkpoints::NewCheckpoint;
pub use points::{Batch, End};
pub use query::Answer;
pub use read::{Reader, short_id};
pub use runs::{Start, Working};
pub use samples::LONGEST_LIST;
pub use select::{Cell, Page, Selection};

use super::blob::Blobs;
use super::{Clock, Location};
use crate::error::{Error, Result};
use sql::{Connection, Trouble};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long a write waits for others, where nobody says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A registry, open for writing. A process has one.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    runtime: Runtime,
    location: Location,
    blobs: Blobs,
    clock: Clock,
    patience: Duration,
    network: Option<&'static str>,
}

impl Store {
    /// Opens the registry, creates it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// Where the file is something else or from a newer version, where it lies on a network filesystem and
    /// [`Location::on_network`] does not allow that, or where the disk fails.
    pub fn open(location: Location, clock: Clock) -> Result<Self> {
        let network = location.network_filesystem()?;
        Self::open_on(location, clock, network)
    }

    /// As [`open`](Self::open), on the network filesystem of that name, or on a local one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(location: Location, clock: Clock, network: Option<&'static str>) -> Result<Self> {
        let runtime = runtime()?;
        let connection = runtime.block_on(sqlite::writer(&location, network))?;
        let blobs = Blobs::beside(location.database());
        let name = location.database().file_name().unwrap_or_default().to_string_lossy();
        blobs.create(&name)?;
        Ok(Store { connection, runtime, location, blobs, clock, patience: PATIENCE, network })
    }

    /// Closes the registry: whoever is the last one leaves it in its one file, without a log beside it.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn close(self) -> Result<()> {
        let Store { connection, runtime, location, .. } = self;
        runtime.block_on(connection.close()).map_err(|error| Fault::Sql(error).explain(location.database()))
    }

    /// Waits for others at most so long.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What a person should know of where the registry lies.
    pub fn warning(&self) -> Option<String> {
        let kind = self.network?;
        Some(format!(
            "the registry {} lies on a network filesystem ({kind}): it is written without a write-ahead log, slowly, and \
             is as safe as that filesystem's locks",
            self.location.database().display()
        ))
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Its blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Runs `work` in one transaction, again from its start where others were in the way.
    fn write<T>(&mut self, work: impl AsyncFnMut(&mut Connection) -> Tried<T>) -> Result<T> {
        let patience = self.patience;
        match self.try_write(patience, work)? {
            Some(value) => Ok(value),
            None => Err(Error::failed(format!(
                "{} is locked by another program for {} s; find it with `fuser` or `lsof`",
                self.location.database().display(),
                patience.as_secs()
            ))),
        }
    }

    /// As [`write`](Self::write); `None` where others were in the way all the time. A connection on which the disk
    /// failed is not used again: it is opened anew, once.
    fn try_write<T>(
        &mut self,
        patience: Duration,
        mut work: impl AsyncFnMut(&mut Connection) -> Tried<T>,
    ) -> Result<Option<T>> {
        let Store { connection, runtime, location, network, .. } = self;
        runtime.block_on(async {
            let begun = Instant::now();
            let mut pause = Duration::from_millis(5);
            let mut is_new = false;
            loop {
                let trouble = sqlite::trouble;
                match transaction(connection, &mut work).await {
                    Ok(value) => return Ok(Some(value)),
                    Err(Fault::Sql(error)) if trouble(&error) == Trouble::Busy => {
                        if begun.elapsed() >= patience {
                            return Ok(None);
                        }
                        // The process id spreads waiters that woke together.
                        std::thread::sleep(pause + Duration::from_millis(u64::from(std::process::id() % 7)));
                        pause = (2 * pause).min(Duration::from_millis(100));
                    }
                    Err(Fault::Sql(error)) if trouble(&error) == Trouble::Disk && !is_new => {
                        is_new = true;
                        *connection = sqlite::again(location, *network)
                            .await
                            .map_err(|_| Fault::Sql(error).explain(location.database()))?;
                    }
                    Err(fault) => return Err(fault.explain(location.database())),
                }
            }
        })
    }
}

async fn transaction<T>(
    connection: &mut Connection,
    work: &mut impl AsyncFnMut(&mut Connection) -> Tried<T>,
) -> Tried<T> {
    connection.begin().await?;
    let done = match work(connection).await {
        Ok(value) => connection.commit().await.map(|()| value).map_err(Fault::Sql),
        Err(fault) => Err(fault),
    };
    if done.is_err() {
        connection.roll_back().await;
    }
    done
}

/// What happens inside a transaction: an error of SQLite, or a rule of ours that was broken.
#[derive(Debug)]
enum Fault {
    Sql(sqlx::Error),
    Rule(Error),
}

type Tried<T> = std::result::Result<T, Fault>;

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Fault::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Rule(error)
    }
}

impl Fault {
    fn explain(self, database: &Path) -> Error {
        let error = match self {
            Fault::Rule(error) => return error,
            Fault::Sql(error) => error,
        };
        sqlite::explain(&error, database)
    }
}

fn runtime() -> Result<Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().build();
    built.map_err(|error| Error::failed(format!("cannot start the registry: {error}")))
}

/// A u64 in SQLite's signed integers, bit for bit.
fn signed(value: u64) -> i64 {
    value.cast_signed()
}

/// A step in SQLite's integers.
fn step_number(step: u64) -> Result<i64> {
    i64::try_from(step).map_err(|_| Error::failed(format!("step {step} does not fit the registry")))
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A column that a schema rule keeps at zero or more.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
