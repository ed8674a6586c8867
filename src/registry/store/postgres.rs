//! A registry on a PostgreSQL server: the open protocol, the locks of runs, and what PostgreSQL's errors mean.

use super::sql::{Connection, Trouble, query, query_scalar};
use super::{Fault, Tried};
use crate::error::{Error, Result};
use crate::registry::server::Server;
use sha2::{Digest, Sha256};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions, PgConnection, SqlSafeStr};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// The first with everything that the schema uses.
const OLDEST_SERVER: u32 = 13;

/// How long a server may take to let somebody in, and to answer one statement. One that is gone does not say so.
const CONNECT: Duration = Duration::from_secs(10);
pub(super) const ANSWER: Duration = Duration::from_secs(20);

/// The lock of whoever brings the schema up to date: `RZOO`.
const MIGRATING: i64 = 0x525A_4F4F;

/// The schema's steps, as of SQLite: a version means the same in both.
const MIGRATIONS: [(&str, &str); 16] = [
    ("recipe", include_str!("../../../migrations/postgres/0001_recipe.sql")),
    ("run", include_str!("../../../migrations/postgres/0002_run.sql")),
    ("run rules", include_str!("../../../migrations/postgres/0003_run_rules.sql")),
    ("attempt", include_str!("../../../migrations/postgres/0004_attempt.sql")),
    ("metric", include_str!("../../../migrations/postgres/0005_metric.sql")),
    ("summary", include_str!("../../../migrations/postgres/0006_summary.sql")),
    ("checkpoint", include_str!("../../../migrations/postgres/0007_checkpoint.sql")),
    ("notes", include_str!("../../../migrations/postgres/0008_notes.sql")),
    ("views", include_str!("../../../migrations/postgres/0009_views.sql")),
    ("origin", include_str!("../../../migrations/postgres/0010_origin.sql")),
    ("sample list", include_str!("../../../migrations/postgres/0011_sample_list.sql")),
    ("annotation", include_str!("../../../migrations/postgres/0012_annotation.sql")),
    ("browse", include_str!("../../../migrations/postgres/0013_browse.sql")),
    ("setting", include_str!("../../../migrations/postgres/0014_setting.sql")),
    ("more views", include_str!("../../../migrations/postgres/0015_more_views.sql")),
    ("MACs", include_str!("../../../migrations/postgres/0016_macs.sql")),
];

/// The schema that this build knows.
const SCHEMA: i64 = MIGRATIONS.len() as i64;
const _: () = assert!(SCHEMA == super::sqlite::SCHEMA, "both schemas take their steps together");

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().zip(1..).map(|((name, sql), version)| {
        Migration::new(version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// A connection that writes, to a registry that is up to date; and what a person should know of the server.
pub(super) async fn writer(server: &Server) -> Result<(Connection, Option<String>)> {
    let open = async || -> Tried<_> {
        let mut connection = connect(server, false).await?;
        if schema_of(&mut connection, server).await? < SCHEMA {
            upgrade(&mut connection, server).await?;
        }
        let fsync: String = query_scalar("SELECT current_setting('fsync')").fetch_one(&mut connection).await?;
        let warning = (fsync == "off").then(|| {
            format!("the server {} runs with fsync = off: what it stored is lost when its machine fails", server.host())
        });
        Ok((connection, warning))
    };
    open().await.map_err(|fault| fault.explain_on(server))
}

/// Another connection that writes, to a registry that was open before.
pub(super) async fn again(server: &Server) -> Tried<Connection> {
    let mut connection = connect(server, false).await?;
    schema_of(&mut connection, server).await?;
    Ok(connection)
}

/// A connection that cannot write, to a registry that exists.
pub(super) async fn reader(server: &Server) -> Result<Connection> {
    let open = async || -> Tried<_> {
        let mut connection = connect(server, true).await?;
        let schema = schema_of(&mut connection, server).await?;
        Ok((connection, schema))
    };
    let explain = |fault: Fault| fault.explain_on(server);
    let (connection, schema) = open().await.map_err(explain)?;
    match schema {
        SCHEMA => Ok(connection),
        0 => Err(Error::input(format!(
            "there is no registry in {server} yet; `resnet-zoo run EXPERIMENT --registry {}` creates one",
            server.name()
        ))),
        // An older schema: bring it up to date as a writer, then look again.
        _ => {
            drop(writer(server).await?);
            Ok(open().await.map_err(explain)?.0)
        }
    }
}

async fn connect(server: &Server, read_only: bool) -> Tried<Connection> {
    let options = server.options().clone().application_name("resnet-zoo").disable_statement_logging().options([
        ("default_transaction_read_only", if read_only { "on" } else { "off" }),
        ("default_transaction_isolation", "read committed"),
        // Whoever waits longer for others tries again, or has better things to do.
        ("lock_timeout", "1s"),
        // A process that stands still does not keep others waiting.
        ("idle_in_transaction_session_timeout", "60s"),
        // A machine that is gone does not keep its runs for longer than a minute.
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ]);
    let connected = tokio::time::timeout(CONNECT, options.connect()).await;
    let connection: PgConnection = connected.map_err(|_| late("it does not answer"))??;
    let version = connection.server_version_num().unwrap_or(0) / 10_000;
    if version < OLDEST_SERVER {
        return Err(Fault::Rule(Error::input(format!(
            "the server {} is PostgreSQL {version}, and a registry needs {OLDEST_SERVER} or later; pass another --registry",
            server.host()
        ))));
    }
    let mut connection = Connection::Postgres(connection);
    // A commit that is acknowledged is on the disk, whatever the server's default is.
    query("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// An error as of a server that is gone.
pub(super) fn late(what: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what))
}

/// The schema's version, 0 of an empty database; refuses what is not ours or newer than this build.
async fn schema_of(connection: &mut Connection, server: &Server) -> Tried<i64> {
    let names: Vec<String> = query_scalar(
        "SELECT CAST(relname AS TEXT) FROM pg_class
         WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind IN ('r', 'p', 'v', 'm', 'f')",
    )
    .fetch_all(&mut *connection)
    .await?;
    if names.is_empty() {
        return Ok(0);
    }
    let foreign = || {
        Fault::Rule(Error::input(format!(
            "{server} holds the tables of another program; make a database for the registry, and pass its --registry"
        )))
    };
    if !names.iter().any(|name| name == "_sqlx_migrations") {
        return Err(foreign());
    }
    let first: Option<Vec<u8>> = query_scalar("SELECT checksum FROM _sqlx_migrations WHERE version = 1")
        .fetch_optional(&mut *connection)
        .await?;
    match first {
        Some(checksum) if migrator().iter().next().is_some_and(|first| *first.checksum == *checksum) => {}
        // Killed between creating sqlx's table and the first migration, a registry has that table alone.
        None if names.len() == 1 => return Ok(0),
        _ => return Err(foreign()),
    }
    let schema: i64 = query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(connection).await?;
    if schema > SCHEMA {
        return Err(Fault::Rule(Error::input(format!(
            "{server} was written by a newer version (schema {schema}, this build knows {SCHEMA}); \
             update resnet-zoo, or pass another --registry"
        ))));
    }
    Ok(schema)
}

/// Takes the steps that are missing, each in a transaction, while others wait.
async fn upgrade(connection: &mut Connection, server: &Server) -> Tried<()> {
    while !query_scalar("SELECT pg_try_advisory_lock(?)").bind(MIGRATING).fetch_one(&mut *connection).await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let Connection::Postgres(raw) = connection else { return Ok(()) };
    let mut migrator = migrator();
    // Ours is taken, which waits without a limit.
    migrator.set_locking(false);
    migrator.run_direct(None, raw, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Fault::Sql(error),
        other => Fault::Rule(Error::failed(format!("cannot bring {server} up to date: {other}"))),
    })?;
    query("SELECT pg_advisory_unlock(?)").bind(MIGRATING).execute(connection).await?;
    Ok(())
}

/// The lock of a run, which a process's connection holds as long as it lives.
fn lock_of(uid: &str) -> i64 {
    let digest = Sha256::digest(uid.as_bytes());
    i64::from_be_bytes(*digest.first_chunk().expect("a sha256 has 32 bytes"))
}

/// Takes the lock of a run for this connection; false where another one has it.
pub(super) async fn take_run(connection: &mut Connection, uid: &str) -> sqlx::Result<bool> {
    query_scalar("SELECT pg_try_advisory_lock(?)").bind(lock_of(uid)).fetch_one(connection).await
}

/// The runs on which somebody works, as their locks tell; `None` of a copy of the server, which knows no locks.
pub(super) async fn taken_runs(connection: &mut Connection) -> sqlx::Result<Option<Taken>> {
    if query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    let locks: Vec<i64> = query_scalar(
        "SELECT (CAST(classid AS BIGINT) << 32) | CAST(objid AS BIGINT) FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .fetch_all(connection)
    .await?;
    Ok(Some(Taken(locks.into_iter().collect())))
}

/// The locks of runs that somebody holds.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeSet<i64>);

impl Taken {
    /// Whether somebody works on a run.
    pub fn has(&self, uid: &str) -> bool {
        self.0.contains(&lock_of(uid))
    }
}

/// What an error means for a transaction.
pub(super) fn trouble(error: &sqlx::Error) -> Trouble {
    let Some(code) = code(error) else {
        let is_gone = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_));
        return if is_gone { Trouble::Lost } else { Trouble::Final };
    };
    match code.as_str() {
        // Serialization failure, deadlock, lock timeout; and a row that another process wrote in the same instant.
        "40001" | "40P01" | "55P03" | "23505" => Trouble::Busy,
        // Shut down, crashed, starting up, ended for idling, too many connections.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "53300" => Trouble::Lost,
        _ if code.starts_with("08") => Trouble::Lost,
        // Full, out of memory, read-only, I/O error, corrupted.
        "53100" | "53200" | "25006" => Trouble::Disk,
        _ if code.starts_with("58") || code.starts_with("XX") => Trouble::Disk,
        _ => Trouble::Final,
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// An error of PostgreSQL as a person should read it.
pub(super) fn explain(error: &sqlx::Error, server: &Server) -> Error {
    let said = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    let (host, database, user) = (server.host(), server.database(), server.user());
    // rustls says so as of invalid data.
    let is_refused = matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData);
    if is_refused || matches!(error, sqlx::Error::Tls(_)) {
        return Error::input(format!(
            "no encrypted connection to the server {host}: {said}; name the authority of its certificate with \
             ?sslrootcert=FILE after the database, or, on a network that you trust, say ?sslmode=disable"
        ));
    }
    match (code(error).as_deref(), trouble(error)) {
        (Some("28P01" | "28000"), _) => Error::input(format!(
            "the server {host} does not let {user} in: {said}; the password is looked for in PGPASSWORD and ~/.pgpass"
        )),
        (Some("3D000"), _) => Error::input(format!(
            "the server {host} has no database {database}; make one with `createdb {database}`, or pass another --registry"
        )),
        (Some("42501"), _) => Error::input(format!("{user} may not do that in {server}: {said}")),
        (Some("3F000"), _) => Error::input(format!("{server} has no schema to keep tables in: {said}")),
        (Some("22021" | "22P05"), _) => Error::input(format!(
            "{server} keeps no text with a NUL character in it; take it out of the experiment or the note"
        )),
        (Some("53100"), _) => {
            Error::disk(format!("the disk of {server} is full; free some space, then resume the run"))
        }
        (Some("25006"), _) => {
            Error::disk(format!("{server} cannot be written: it is read-only, as a standby is; pass --registry"))
        }
        (_, Trouble::Busy) => Error::failed(format!("{server} is locked by another program: {said}")),
        (_, Trouble::Lost) => {
            Error::disk(format!("cannot reach the server {host}: {said}; is it running, and does it listen there?"))
        }
        (_, Trouble::Disk) => Error::disk(format!("the server of {server} fails: {said}")),
        (_, Trouble::Final) => Error::failed(format!("{server}: {said}")),
    }
}
