//! The open protocol, in the order in which it is safe.

use super::{Fault, Tried};
use crate::error::{Error, Result};
use crate::registry::Location;
use rustix::fs::{FlockOperation, flock, statfs};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, SqlSafeStr, SqliteConnection};
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::Duration;

/// `RZOO`.
const APPLICATION_ID: i64 = 0x525A_4F4F;

/// SQLite up to 3.51.2 can lose committed rows when two connections reset the WAL at once.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// The schema's steps: name and SQL, the first being version 1. Forward only; one that was released never changes.
const MIGRATIONS: [(&str, &str); 9] = [
    ("recipe", include_str!("../../../migrations/0001_recipe.sql")),
    ("run", include_str!("../../../migrations/0002_run.sql")),
    ("run rules", include_str!("../../../migrations/0003_run_rules.sql")),
    ("attempt", include_str!("../../../migrations/0004_attempt.sql")),
    ("metric", include_str!("../../../migrations/0005_metric.sql")),
    ("summary", include_str!("../../../migrations/0006_summary.sql")),
    ("checkpoint", include_str!("../../../migrations/0007_checkpoint.sql")),
    ("notes", include_str!("../../../migrations/0008_notes.sql")),
    ("views", include_str!("../../../migrations/0009_views.sql")),
];

/// The schema that this build knows.
const SCHEMA: i64 = MIGRATIONS.len() as i64;

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().zip(1..).map(|((name, sql), version)| {
        Migration::new(version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// A connection that writes, to a registry that is up to date.
pub(super) async fn writer(location: &Location) -> Result<SqliteConnection> {
    let database = location.database();
    fs::create_dir_all(location.folder())
        .map_err(|error| Error::failed(format!("cannot create {}: {error}", location.folder().display())))?;
    if database.is_dir() {
        return Err(Error::input(format!(
            "{} is a folder; name a file in it: {}",
            database.display(),
            database.join("registry.sqlite3").display()
        )));
    }
    refuse_network(location.folder())?;
    // sqlx's SQLite migrator takes no lock, and changing the journal mode goes past the busy handler.
    let _migrating = migrate_lock(database)?;
    let connected = connect(options(database).create_if_missing(true), database).await;
    let mut connection = connected.map_err(|fault| fault.explain(database))?;
    prepare(&mut connection, database).await.map_err(|fault| fault.explain(database))?;
    Ok(connection)
}

/// A connection that cannot write, to a registry that exists.
pub(super) async fn reader(location: &Location) -> Result<SqliteConnection> {
    let database = location.database();
    if !database.exists() {
        return Err(Error::input(format!(
            "there is no registry at {}; `resnet-zoo run EXPERIMENT` creates one, --registry PATH names another",
            database.display()
        )));
    }
    let attempt = async || -> Tried<(SqliteConnection, i64)> {
        let options = options(database).read_only(true).pragma("query_only", "ON");
        let mut connection = connect(options, database).await?;
        let schema = schema_of(&mut connection, database).await?;
        Ok((connection, schema))
    };
    let (connection, schema) = attempt().await.map_err(|fault| fault.explain(database))?;
    if schema == SCHEMA {
        return Ok(connection);
    }
    // An older schema: bring it up to date as a writer, then look again.
    drop(connection);
    drop(writer(location).await?);
    Ok(attempt().await.map_err(|fault| fault.explain(database))?.0)
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

async fn prepare(connection: &mut SqliteConnection, database: &Path) -> Tried<()> {
    let schema = schema_of(connection, database).await?;
    // Outside a transaction, and read back: inside one SQLite ignores it without a word.
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await?;
    if journal != "wal" {
        return Err(Fault::Rule(Error::failed(format!(
            "{} cannot use a write-ahead log (it stays in mode {journal}); put the registry on a local disk",
            database.display()
        ))));
    }
    if schema == SCHEMA {
        return Ok(());
    }
    if schema > 0 {
        let copy = database.with_extension(format!("schema-{schema}.sqlite3"));
        sqlx::query("VACUUM INTO ?").bind(copy.to_string_lossy().as_ref()).execute(&mut *connection).await?;
    }
    migrator().run_direct(None, connection, false).await.map_err(|error| {
        Fault::Rule(Error::failed(format!("cannot bring {} up to date: {error}", database.display())))
    })?;
    let version = AssertSqlSafe(format!("PRAGMA user_version = {SCHEMA}"));
    sqlx::query(version).execute(connection).await?;
    Ok(())
}

fn migrate_lock(database: &Path) -> Result<File> {
    let mut name = database.as_os_str().to_owned();
    name.push(".migrate.lock");
    let lock = || -> std::io::Result<File> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&name)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    lock().map_err(|error| Error::failed(format!("cannot lock {}: {error}", Path::new(&name).display())))
}

/// A write-ahead log needs memory that all processes share, which network filesystems do not have.
fn refuse_network(folder: &Path) -> Result<()> {
    let kind = match statfs(folder) {
        Ok(facts) => network_filesystem(facts.f_type as u32),
        Err(error) => {
            return Err(Error::failed(format!("cannot look at the filesystem of {}: {error}", folder.display())));
        }
    };
    match kind {
        None => Ok(()),
        Some(kind) => Err(Error::input(format!(
            "{} lies on a network filesystem ({kind}), where SQLite's write-ahead log loses data; \
             pass --registry PATH with a path on a local disk",
            folder.display()
        ))),
    }
}

/// The magic numbers of statfs(2).
fn network_filesystem(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B | 0xFE53_4D42 => "SMB",
        0xFF53_4D42 => "CIFS",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x00C3_6400 => "Ceph",
        0x0BD0_0BD0 => "Lustre",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_named() {
        assert_eq!(network_filesystem(0x6969), Some("NFS"));
        assert_eq!(network_filesystem(0xEF53), None);
        assert_eq!(network_filesystem(0x0102_1994), None, "tmpfs is local");
    }
}
