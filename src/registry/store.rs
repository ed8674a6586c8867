//! All SQL. [`Store`] is the one connection of a process that writes, [`Reader`] a connection that cannot.
//!
//! A write is one transaction; on SQLite a `BEGIN IMMEDIATE` one, as a deferred one would fail with "database is locked"
//! where two processes upgrade their read locks at once. SQLite lets one transaction write at a time. PostgreSQL lets many:
//! those on one run wait for each other at its row, which each of them updates first.

mod agreement;
mod annotations;
mod checkpoints;
mod detail;
mod dialect;
mod find;
pub mod mlflow;
mod points;
#[cfg(feature = "postgres")]
mod postgres;
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
#[cfg(feature = "postgres")]
use super::server::Server;
use super::{Clock, Database, Location};
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
    warning: Option<String>,
    /// The runs that this process works on.
    claimed: Vec<String>,
    /// Whether the connection has their locks.
    has_locks: bool,
    /// Whether the server is gone, so that nothing is to be said on this connection any more.
    is_lost: bool,
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
        let (connection, warning) = match &location.database {
            Database::File(path) => runtime.block_on(sqlite::writer(&location, path, network))?,
            #[cfg(feature = "postgres")]
            Database::Server(server) => runtime.block_on(postgres::writer(server))?,
        };
        let blobs = location.blobs();
        blobs.create(&location.name())?;
        let (claimed, has_locks, is_lost) = (Vec::new(), true, false);
        Ok(Store {
            connection,
            runtime,
            location,
            blobs,
            clock,
            patience: PATIENCE,
            network,
            warning,
            claimed,
            has_locks,
            is_lost,
        })
    }

    /// Closes the registry: whoever is the last one leaves it in its one file, without a log beside it.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn close(self) -> Result<()> {
        let Store { connection, runtime, location, .. } = self;
        runtime.block_on(connection.close()).map_err(|error| Fault::Sql(error).explain(&location))
    }

    /// Waits for others at most so long.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What a person should know of where the registry lies.
    pub fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Its blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Whether this process may work on a run. Beside a SQLite file the run's [`Lease`](super::lease::Lease) says so
    /// alone; on a server this connection takes the run's lock, too, and keeps it.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn claim(&mut self, uid: &str) -> Result<bool> {
        if self.location.file().is_some() || self.claimed.iter().any(|claimed| claimed == uid) {
            return Ok(true);
        }
        let free = self.write(async |connection| Ok(connection.take_run(uid).await?))?;
        if free {
            self.claimed.push(uid.to_owned());
        }
        Ok(free)
    }

    /// The error of somebody for whom others were in the way all the time.
    pub(super) fn in_the_way(&self, patience: Duration) -> Error {
        let (location, seconds) = (&self.location, patience.as_secs());
        Error::failed(match location.file() {
            Some(_) => {
                format!("{location} is locked by another program for {seconds} s; find it with `fuser` or `lsof`")
            }
            None => format!(
                "{location} cannot be reached, or is locked by another program, for {seconds} s; pg_stat_activity and \
                 pg_locks tell by which"
            ),
        })
    }

    /// Runs `work` in one transaction, again from its start where others were in the way.
    fn write<T>(&mut self, work: impl AsyncFnMut(&mut Connection) -> Tried<T>) -> Result<T> {
        let patience = self.patience;
        match self.try_write(patience, work)? {
            Some(value) => Ok(value),
            None => Err(self.in_the_way(patience)),
        }
    }

    /// As [`write`](Self::write); `None` where others were in the way all the time, or the server was out of reach. A
    /// connection on which the disk failed is not used again: it is opened anew, once; one that was lost as often as it
    /// takes. Whoever loses it while committing cannot know whether that was done: what `work` does twice must be as good
    /// as once.
    fn try_write<T>(
        &mut self,
        patience: Duration,
        mut work: impl AsyncFnMut(&mut Connection) -> Tried<T>,
    ) -> Result<Option<T>> {
        let Store { connection, runtime, location, network, claimed, has_locks, is_lost, .. } = self;
        runtime.block_on(async {
            let begun = Instant::now();
            let mut pause = Duration::from_millis(5);
            let (mut is_reopened, mut is_new) = (false, false);
            loop {
                if !*is_lost && !*has_locks {
                    // A server that has not noticed yet that the session before is gone keeps them for that one.
                    *has_locks = take_all(connection, claimed).await.unwrap_or(false);
                }
                if !*is_lost {
                    let fault = match transaction(connection, &mut work).await {
                        Ok(value) => return Ok(Some(value)),
                        Err(fault) => fault,
                    };
                    match fault.trouble(connection) {
                        Trouble::Busy => {}
                        Trouble::Disk if !is_reopened => {
                            is_reopened = true;
                            let again = again(location, *network).await;
                            *connection = again.map_err(|_| fault.explain(location))?;
                            *has_locks = claimed.is_empty();
                            continue;
                        }
                        Trouble::Lost => *is_lost = true,
                        Trouble::Disk | Trouble::Final => return Err(fault.explain(location)),
                    }
                }
                if *is_lost && !is_new {
                    match again(location, *network).await {
                        Ok(new) => {
                            (*connection, *is_lost, is_new) = (new, false, true);
                            *has_locks = claimed.is_empty();
                            continue;
                        }
                        Err(fault) if matches!(fault.trouble(connection), Trouble::Lost | Trouble::Busy) => {}
                        Err(fault) => return Err(fault.explain(location)),
                    }
                }
                if begun.elapsed() >= patience {
                    return Ok(None);
                }
                // The process id spreads waiters that woke together.
                std::thread::sleep(pause + Duration::from_millis(u64::from(std::process::id() % 7)));
                pause = (2 * pause).min(Duration::from_millis(100));
                is_new = false;
            }
        })
    }
}

/// A new connection that writes, in place of one that is of no use any more.
async fn again(location: &Location, network: Option<&'static str>) -> Tried<Connection> {
    match &location.database {
        Database::File(path) => sqlite::again(path, network).await,
        #[cfg(feature = "postgres")]
        Database::Server(server) => postgres::again(server).await,
    }
}

/// Takes the locks of runs; false where another session has one. Where that is a process that took a run over, the next
/// write is refused.
async fn take_all(connection: &mut Connection, claimed: &[String]) -> sqlx::Result<bool> {
    let mut all = true;
    for uid in claimed {
        all &= connection.take_run(uid).await?;
    }
    Ok(all)
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
    if let Err(fault) = &done
        && fault.trouble(connection) != Trouble::Lost
    {
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
    /// What it means for the transaction.
    fn trouble(&self, connection: &Connection) -> Trouble {
        match self {
            Fault::Sql(error) => connection.trouble(error),
            Fault::Rule(_) => Trouble::Final,
        }
    }

    /// As a person should read it.
    fn explain(self, location: &Location) -> Error {
        match &location.database {
            Database::File(path) => self.explain_in(path),
            #[cfg(feature = "postgres")]
            Database::Server(server) => self.explain_on(server),
        }
    }

    fn explain_in(self, file: &Path) -> Error {
        match self {
            Fault::Rule(error) => error,
            Fault::Sql(error) => sqlite::explain(&error, file),
        }
    }

    #[cfg(feature = "postgres")]
    fn explain_on(self, server: &Server) -> Error {
        match self {
            Fault::Rule(error) => error,
            Fault::Sql(error) => postgres::explain(&error, server),
        }
    }
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // SQLite has a thread of its own; a server is at the end of a socket.
    #[cfg(feature = "postgres")]
    builder.enable_all();
    builder.build().map_err(|error| Error::failed(format!("cannot start the registry: {error}")))
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
