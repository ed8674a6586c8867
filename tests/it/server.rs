//! A database of its own for each test, on the server that `RESNET_ZOO_TEST_POSTGRES` names: postgres://user@host:port.
//! A database is what a folder is for SQLite; once its folder is gone, it is dropped by whoever makes the next.

use resnet_zoo::registry::Location;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// The server, where there is one.
pub fn address() -> Option<String> {
    std::env::var("RESNET_ZOO_TEST_POSTGRES").ok()
}

/// The address of the database of a folder, which is made where there is none.
pub fn database(folder: &Path) -> Option<String> {
    static MADE: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);
    let address = address()?;
    let folder = std::path::absolute(folder).expect("a path");
    let name = format!("test_{:x}", Sha256::digest(folder.as_os_str().as_encoded_bytes()));
    let name = &name[..40];
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if made.insert(name.to_owned()) {
        drop_abandoned(&address, &mut made);
        let create = format!("CREATE DATABASE {name}");
        // A process that a test started may be the second to ask.
        if let Err(message) = run(&format!("{address}/postgres"), &create) {
            assert!(message.contains("already exists") || message.contains("unique constraint"), "{message}");
        }
        let remember = format!("COMMENT ON DATABASE {name} IS '{}'", folder.display());
        run(&format!("{address}/postgres"), &remember).expect("said");
    }
    Some(format!("{address}/{name}"))
}

/// The registry of a folder.
pub fn location(folder: &Path) -> Option<Location> {
    let database = database(folder)?;
    Some(Location::parse(Path::new(&database), Some(folder)).expect("an address"))
}

/// Drops the databases whose folders were there once, and are no more.
fn drop_abandoned(address: &str, made: &mut BTreeSet<String>) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let databases: Vec<(String, String)> = rows(
        &format!("{address}/postgres"),
        "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
         WHERE datname LIKE 'test\\_%' AND shobj_description(oid, 'pg_database') IS NOT NULL",
    );
    for (name, folder) in databases {
        if PathBuf::from(folder).exists() {
            seen.insert(name);
        } else if seen.remove(&name) {
            // Somebody else may have the same thought.
            let _ = run(&format!("{address}/postgres"), &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            made.remove(&name);
        }
    }
}

/// Runs SQL on a connection of its own, as another program would.
pub fn run(address: &str, statements: &str) -> Result<(), String> {
    on(address, async |connection| {
        let statements = AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements).execute(connection).await.map(|_| ()).map_err(|error| error.to_string())
    })
}

/// The rows of a query.
pub fn rows<T>(address: &str, query: &str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    on(address, async |connection| {
        sqlx::query_as(AssertSqlSafe(query.to_owned())).fetch_all(connection).await.expect("answered")
    })
}

/// Every row of every table.
pub fn contents(address: &str) -> Vec<u8> {
    let tables =
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1";
    let tables: Vec<(String,)> = rows(address, tables);
    assert!(tables.len() > 10, "{tables:?}");
    let all = tables.iter().map(|(table,)| {
        let all = format!("SELECT coalesce(string_agg(t::text, ' ' ORDER BY t::text), '') FROM {table} AS t");
        let all: Vec<(String,)> = rows(address, &all);
        format!("{table}: {all:?}\n")
    });
    all.collect::<String>().into_bytes()
}

fn on<T>(address: &str, work: impl AsyncFnOnce(&mut PgConnection) -> T) -> T {
    runtime().block_on(async {
        let options: PgConnectOptions = address.parse().expect("an address");
        let mut connection = options.connect().await.expect("connected");
        let value = work(&mut connection).await;
        connection.close().await.expect("closed");
        value
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A lock that keeps everybody from writing, held by a program that is not ours.
pub struct Lock {
    _connection: PgConnection,
    _runtime: tokio::runtime::Runtime,
}

impl Lock {
    /// `None` where somebody is writing.
    pub fn take(address: &str) -> Option<Self> {
        let runtime = runtime();
        let connection = runtime.block_on(async {
            let options: PgConnectOptions = address.parse().expect("an address");
            let mut connection = options.connect().await.expect("connected");
            let lock = "BEGIN; LOCK TABLE run IN EXCLUSIVE MODE NOWAIT";
            sqlx::raw_sql(lock).execute(&mut connection).await.ok().map(|_| connection)
        });
        Some(Lock { _connection: connection?, _runtime: runtime })
    }
}
