//! All SQL. [`Store`] is the one connection of a process that writes, [`Reader`] a connection that cannot.
//!
//! A write is one `BEGIN IMMEDIATE` transaction: a deferred one would fail with "database is locked" where two
//! processes upgrade their read locks at once.

mod agreement;
mod annotations;
mod checkpoints;
pub mod mlflow;
mod open;
mod points;
mod query;
mod read;
mod runs;
mod samples;
mod select;
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
use sqlx::{Connection, SqliteConnection};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long a write waits for others, where nobody says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A registry, open for writing. A process has one.
#[derive(Debug)]
pub struct Store {
    connection: SqliteConnection,
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
        let connection = runtime.block_on(open::writer(&location, network))?;
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
    fn write<T>(&mut self, work: impl AsyncFnMut(&mut SqliteConnection) -> Tried<T>) -> Result<T> {
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
        mut work: impl AsyncFnMut(&mut SqliteConnection) -> Tried<T>,
    ) -> Result<Option<T>> {
        let Store { connection, runtime, location, network, .. } = self;
        runtime.block_on(async {
            let begun = Instant::now();
            let mut pause = Duration::from_millis(5);
            let mut is_new = false;
            loop {
                match transaction(connection, &mut work).await {
                    Ok(value) => return Ok(Some(value)),
                    Err(Fault::Sql(error)) if is_busy(&error) => {
                        if begun.elapsed() >= patience {
                            return Ok(None);
                        }
                        // The process id spreads waiters that woke together.
                        std::thread::sleep(pause + Duration::from_millis(u64::from(std::process::id() % 7)));
                        pause = (2 * pause).min(Duration::from_millis(100));
                    }
                    Err(Fault::Sql(error)) if is_disk(&error) && !is_new => {
                        is_new = true;
                        *connection = open::again(location, *network)
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
    connection: &mut SqliteConnection,
    work: &mut impl AsyncFnMut(&mut SqliteConnection) -> Tried<T>,
) -> Tried<T> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let value = work(&mut transaction).await?;
    transaction.commit().await?;
    Ok(value)
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
        let path = database.display();
        match primary_code(&error) {
            Some(5 | 6) => Error::failed(format!("{path} is locked by another program")),
            Some(8) => Error::disk(format!("{path} cannot be written: it is read-only; pass --registry PATH")),
            Some(10) => Error::disk(format!("the disk failed under {path}: {error}")),
            Some(11) => Error::disk(format!("{path} is damaged: {error}; restore it from a copy")),
            Some(13) => Error::disk(format!("the disk of {path} is full; free some space, then resume the run")),
            Some(14) => Error::disk(format!("cannot open {path}: {error}; pass another --registry PATH")),
            Some(26) => Error::input(format!("{path} is not a SQLite database; pass another --registry PATH")),
            _ => Error::failed(format!("{path}: {error}")),
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(5 | 6))
}

/// Full, read-only or broken, or a file that cannot be opened.
fn is_disk(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(8 | 10 | 13 | 14))
}

/// SQLite's result code without its extension bits.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse::<i32>().ok().map(|code| code & 0xff)
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

/// A column that a schema rule keeps at zero or more.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
