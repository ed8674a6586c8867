//! A registry in a SQLite file: the open protocol, in the order in which it is safe, and what SQLite's errors mean.

use super::sql::{Connection, Trouble};
use super::{Fault, Tried};
use crate::error::{Error, Result};
use crate::registry::Location;
use crate::registry::blob::{remove_file, sync_folder};
use rustix::fs::{FlockOperation, flock};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, SqlSafeStr, SqliteConnection};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `RZOO`.
const APPLICATION_ID: i64 = 0x525A_4F4F;

/// SQLite up to 3.51.2 can lose committed rows when two connections reset the WAL at once.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// The schema's steps: name and SQL, the first being version 1. Forward only; one that was released never changes.
const MIGRATIONS: [(&str, &str); 16] = [
    ("recipe", include_str!("../../../migrations/0001_recipe.sql")),
    ("run", include_str!("../../../migrations/0002_run.sql")),
    ("run rules", include_str!("../../../migrations/0003_run_rules.sql")),
    ("attempt", include_str!("../../../migrations/0004_attempt.sql")),
    ("metric", include_str!("../../../migrations/0005_metric.sql")),
    ("summary", include_str!("../../../migrations/0006_summary.sql")),
    ("checkpoint", include_str!("../../../migrations/0007_checkpoint.sql")),
    ("notes", include_str!("../../../migrations/0008_notes.sql")),
    ("views", include_str!("../../../migrations/0009_views.sql")),
    ("origin", include_str!("../../../migrations/0010_origin.sql")),
    ("sample list", include_str!("../../../migrations/0011_sample_list.sql")),
    ("annotation", include_str!("../../../migrations/0012_annotation.sql")),
    ("browse", include_str!("../../../migrations/0013_browse.sql")),
    ("setting", include_str!("../../../migrations/0014_setting.sql")),
    ("more views", include_str!("../../../migrations/0015_more_views.sql")),
    ("MACs", include_str!("../../../migrations/0016_macs.sql")),
];

/// The schema that this build knows.
pub(super) const SCHEMA: i64 = MIGRATIONS.len() as i64;

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().zip(1..).map(|((name, sql), version)| {
        Migration::new(version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// A connection that writes, to a registry that is up to date, on a network filesystem or a local one.
pub(super) async fn writer(
    location: &Location,
    database: &Path,
    network: Option<&'static str>,
) -> Result<(Connection, Option<String>)> {
    if database.is_dir() {
        return Err(Error::input(format!(
            "{} is a folder; name a file in it: {}",
            database.display(),
            database.join("registry.sqlite3").display()
        )));
    }
    if let Some(kind) = network.filter(|_| !location.on_network) {
        return Err(Error::input(format!(
            "{} lies on a network filesystem ({kind}), where SQLite's write-ahead log loses data; pass --registry PATH \
             with a path on a local disk, or --network-filesystem to do without that log",
            location.folder().display()
        )));
    }
    // sqlx's SQLite migrator takes no lock, and changing the journal mode goes past the busy handler.
    let _migrating = migrate_lock(database)?;
    let connected = connect(options(database).create_if_missing(true), database).await;
    let mut connection = connected.map_err(|fault| fault.explain_in(database))?;
    prepare(&mut connection, database, network).await.map_err(|fault| fault.explain_in(database))?;
    let warning = network.map(|kind| {
        format!(
            "the registry {location} lies on a network filesystem ({kind}): it is written without a write-ahead log, slowly, \
             and is as safe as that filesystem's locks"
        )
    });
    Ok((Connection::Sqlite(connection), warning))
}

/// Another connection that writes, to a registry that was open before.
pub(super) async fn again(database: &Path, network: Option<&'static str>) -> Tried<Connection> {
    let mut connection = connect(options(database), database).await?;
    prepare(&mut connection, database, network).await?;
    Ok(Connection::Sqlite(connection))
}

/// A connection that cannot write, to a registry that exists.
pub(super) async fn reader(location: &Location, database: &Path) -> Result<Connection> {
    if !database.exists() {
        return Err(Error::input(format!(
            "there is no registry at {}; `resnet-zoo run EXPERIMENT` creates one, --registry PATH names another",
            database.display()
        )));
    }
    let attempt = async |immutable: bool| -> Tried<(SqliteConnection, i64)> {
        let options = options(database).read_only(true).immutable(immutable).pragma("query_only", "ON");
        let mut connection = connect(options, database).await?;
        let schema = schema_of(&mut connection, database).await?;
        Ok((connection, schema))
    };
    let (connection, schema) = match attempt(false).await {
        // Somebody who wrote without a write-ahead log died: a writer undoes what was half done.
        Err(Fault::Sql(error)) if is_disk(&error) && beside(database, "-journal").exists() => {
            drop(writer(location, database, location.network_filesystem()?).await?);
            attempt(false).await
        }
        // Not even a reader can use a write-ahead log without writing. Where there is nothing in it, all is in the one
        // file, and the folder may be an archive.
        Err(Fault::Sql(error)) if is_disk(&error) && is_empty(&beside(database, "-wal")) => attempt(true).await,
        result => result,
    }
    .map_err(|fault| fault.explain_in(database))?;
    if schema == SCHEMA {
        return Ok(Connection::Sqlite(connection));
    }
    // An older schema: bring it up to date as a writer, then look again.
    drop(connection);
    drop(writer(location, database, location.network_filesystem()?).await?);
    let (connection, _) = attempt(false).await.map_err(|fault| fault.explain_in(database))?;
    Ok(Connection::Sqlite(connection))
}

/// What an error of SQLite means for a transaction.
pub(super) fn trouble(error: &sqlx::Error) -> Trouble {
    match primary_code(error) {
        Some(5 | 6) => Trouble::Busy,
        Some(8 | 10 | 13 | 14) => Trouble::Disk,
        _ => Trouble::Final,
    }
}

/// Full, read-only or broken, or a file that cannot be opened.
fn is_disk(error: &sqlx::Error) -> bool {
    trouble(error) == Trouble::Disk
}

/// An error of SQLite as a person should read it.
pub(super) fn explain(error: &sqlx::Error, database: &Path) -> Error {
    let path = database.display();
    match primary_code(error) {
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

/// SQLite's result code without its extension bits.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}

fn is_empty(file: &Path) -> bool {
    fs::metadata(file).map_or(true, |facts| facts.len() == 0)
}

/// A file beside the registry's, `registry.sqlite3-wal`.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn options(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(database)
        .busy_timeout(Duration::from_secs(30))
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("trusted_schema", "OFF")
        .pragma("temp_store", "MEMORY")
        .pragma("mmap_size", "0")
        .pragma("journal_size_limit", "67108864")
        // Rows come from a thread through a queue; with the 50 places that it has by itself, both sides wait.
        .row_buffer_size(4096)
        .disable_statement_logging()
}

async fn connect(options: SqliteConnectOptions, database: &Path) -> Tried<SqliteConnection> {
    let mut connection = options.connect().await?;
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await?;
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < OLDEST_SQLITE {
        let (major, minor, patch) = OLDEST_SQLITE;
        return Err(Fault::Rule(Error::failed(format!(
            "SQLite {version} can lose committed rows of {}; build with {major}.{minor}.{patch} or later",
            database.display()
        ))));
    }
    Ok(connection)
}

/// The schema's version; refuses what is not ours or newer than this build.
async fn schema_of(connection: &mut SqliteConnection, database: &Path) -> Tried<i64> {
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    let schema: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    let objects: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
    let is_new = application == 0 && objects == 0;
    // Killed between creating sqlx's table and the first migration, a registry has that table alone.
    let is_begun = application == 0 && schema == 0 && {
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'").fetch_all(connection).await?;
        names.iter().all(|name| name == "_sqlx_migrations")
    };
    if application != APPLICATION_ID && !is_new && !is_begun {
        let message =
            format!("{} is a SQLite file of another program; pass another --registry PATH", database.display());
        return Err(Fault::Rule(Error::input(message)));
    }
    if schema > SCHEMA {
        return Err(Fault::Rule(Error::input(format!(
            "{} was written by a newer version (schema {schema}, this build knows {SCHEMA}); \
             update resnet-zoo, or pass another --registry PATH",
            database.display()
        ))));
    }
    Ok(schema)
}

async fn prepare(connection: &mut SqliteConnection, database: &Path, network: Option<&'static str>) -> Tried<()> {
    let schema = schema_of(connection, database).await?;
    let wanted = if network.is_some() { "delete" } else { "wal" };
    // Outside a transaction, and read back: inside one SQLite ignores it without a word.
    let mode = AssertSqlSafe(format!("PRAGMA journal_mode = {wanted}"));
    let journal: String = sqlx::query_scalar(mode).fetch_one(&mut *connection).await?;
    if journal != wanted {
        return Err(Fault::Rule(Error::failed(format!(
            "{} stays in journal mode {journal} instead of {wanted}; close every program that has it open, or put the \
             registry on a local disk",
            database.display()
        ))));
    }
    if schema < SCHEMA {
        upgrade(connection, database, schema).await?;
    }
    // From here on whoever writes waits in a loop of its own, and may have better things to do.
    sqlx::query("PRAGMA busy_timeout = 250").execute(connection).await?;
    Ok(())
}

async fn upgrade(connection: &mut SqliteConnection, database: &Path, schema: i64) -> Tried<()> {
    if schema > 0 {
        back_up(connection, database, schema).await?;
    }
    migrator().run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Fault::Sql(error),
        other => Fault::Rule(Error::failed(format!("cannot bring {} up to date: {other}", database.display()))),
    })?;
    let version = AssertSqlSafe(format!("PRAGMA user_version = {SCHEMA}"));
    sqlx::query(version).execute(connection).await?;
    Ok(())
}

/// Copies a registry before its schema changes. What an upgrade that was killed has left is no copy of the old schema
/// any more: then the one that it made before stays.
async fn back_up(connection: &mut SqliteConnection, database: &Path, schema: i64) -> Tried<()> {
    let migrated: i64 =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut *connection).await?;
    let copy = database.with_extension(format!("schema-{schema}.sqlite3"));
    if migrated > schema && copy.exists() {
        return Ok(());
    }
    // SQLite does not write over a file, and one that is half written is no copy.
    let unfinished = beside(&copy, ".tmp");
    remove_file(&unfinished)?;
    sqlx::query("VACUUM INTO ?").bind(unfinished.to_string_lossy().as_ref()).execute(&mut *connection).await?;
    let keep = || -> std::io::Result<()> {
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &copy)?;
        copy.parent().map_or(Ok(()), sync_folder)
    };
    keep().map_err(|error| Fault::Rule(Error::disk(format!("cannot write {}: {error}", copy.display()))))
}

fn migrate_lock(database: &Path) -> Result<File> {
    let name = beside(database, ".migrate.lock");
    let lock = || -> std::io::Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&name)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    lock().map_err(|error| Error::disk(format!("cannot lock {}: {error}", name.display())))
}
