//! Statements for the databases that a registry may lie in. Their text is what SQLite and PostgreSQL both understand;
//! [`dialect`](super::dialect) writes what they do not share.
//!
//! Arguments are `?`, or `?1` where one stands more than once, as in SQLite.

use super::dialect::Dialect;
#[cfg(feature = "postgres")]
use super::postgres::{self, Taken};
use super::sqlite;
#[cfg(feature = "postgres")]
use sqlx::postgres::{PgArguments, PgRow, PgValueFormat};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments, Column, Connection as _, Executor, FromRow, Row as _, SqlSafeStr, SqlStr, Sqlite, SqliteConnection,
    Statement, TypeInfo, ValueRef,
};
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres};
use std::borrow::Cow;
use std::marker::PhantomData;

/// A connection to either.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    #[cfg(feature = "postgres")]
    Postgres(PgConnection),
}

/// What an error means for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Others are in the way: the transaction may be tried again.
    Busy,
    /// The disk is full, read-only or broken: it may be tried once more, on a new connection.
    Disk,
    /// The server is gone: it may be tried again once there is a new connection.
    Lost,
    /// It would fail again.
    Final,
}

/// Who knows whether somebody works on a run.
#[derive(Debug)]
pub(super) enum Holders {
    /// The lock files in the runs' folders.
    Files,
    /// The locks that the server keeps.
    #[cfg(feature = "postgres")]
    Locks(Taken),
    /// Nobody here: this is a copy of the server.
    #[cfg(feature = "postgres")]
    Nobody,
}

impl Connection {
    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            Connection::Sqlite(_) => Dialect::Sqlite,
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Begins a transaction that writes.
    pub async fn begin(&mut self) -> sqlx::Result<()> {
        match self {
            // A deferred one would fail where two processes upgrade their read locks at once.
            Connection::Sqlite(_) => query("BEGIN IMMEDIATE").execute(self).await.map(|_| ()),
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => query("BEGIN").execute(self).await.map(|_| ()),
        }
    }

    /// What an error on it means.
    pub fn trouble(&self, error: &sqlx::Error) -> Trouble {
        match self {
            Connection::Sqlite(_) => sqlite::trouble(error),
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => postgres::trouble(error),
        }
    }

    /// Keeps other transactions from naming blobs, to the end of this one. SQLite has no others.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async, reason = "a server is asked"))]
    pub async fn alone_with_checkpoints(&mut self) -> sqlx::Result<()> {
        match self {
            Connection::Sqlite(_) => Ok(()),
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => {
                // In the order in which others write to them.
                query("LOCK TABLE artifact, checkpoint IN SHARE ROW EXCLUSIVE MODE").execute(self).await.map(|_| ())
            }
        }
    }

    /// Ends it well.
    pub async fn commit(&mut self) -> sqlx::Result<()> {
        query("COMMIT").execute(self).await.map(|_| ())
    }

    /// Ends it as if it had not begun.
    pub async fn roll_back(&mut self) {
        // What ended the transaction is the error to report; some errors end it by themselves.
        let _ = query("ROLLBACK").execute(self).await;
    }

    /// Closes it.
    pub async fn close(self) -> sqlx::Result<()> {
        match self {
            Connection::Sqlite(connection) => connection.close().await,
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => in_time(connection.close()).await,
        }
    }

    /// Takes the lock of a run for this connection, which keeps it to its end; false where another one has it. Beside a
    /// SQLite file there is none to take.
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables, clippy::unused_async, reason = "a server's alone"))]
    pub async fn take_run(&mut self, uid: &str) -> sqlx::Result<bool> {
        match self {
            Connection::Sqlite(_) => Ok(true),
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => postgres::take_run(self, uid).await,
        }
    }

    /// Who works on runs, as far as the database knows.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async, reason = "a server is asked"))]
    pub async fn holders(&mut self) -> sqlx::Result<Holders> {
        match self {
            Connection::Sqlite(_) => Ok(Holders::Files),
            #[cfg(feature = "postgres")]
            Connection::Postgres(_) => Ok(postgres::taken_runs(self).await?.map_or(Holders::Nobody, Holders::Locks)),
        }
    }

    /// The columns of a statement that a person wrote, and its rows.
    pub async fn answer(&mut self, sql: String) -> sqlx::Result<(Vec<String>, Vec<Row>)> {
        match self {
            Connection::Sqlite(connection) => {
                let described = (&mut *connection).prepare(sqlx::AssertSqlSafe(sql.clone()).into_sql_str()).await?;
                let columns = described.columns().iter().map(|column| column.name().to_owned()).collect();
                let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await?;
                Ok((columns, rows.into_iter().map(Row::Sqlite).collect()))
            }
            // Prepared, it is one statement. Run as it is, its values come as text, whatever types they have.
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => {
                let described = (&mut *connection).prepare(sqlx::AssertSqlSafe(sql.clone()).into_sql_str()).await?;
                let columns = described.columns().iter().map(|column| column.name().to_owned()).collect();
                let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await?;
                Ok((columns, rows.into_iter().map(Row::Postgres).collect()))
            }
        }
    }
}

/// A row that a query returns, from either. `#[derive(FromRow)]` and tuples are some.
#[cfg(not(feature = "postgres"))]
pub(super) trait Readable: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
#[cfg(not(feature = "postgres"))]
impl<T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin> Readable for T {}
#[cfg(feature = "postgres")]
pub(super) trait Readable: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}
#[cfg(feature = "postgres")]
impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> Readable for T {}

/// What is bound to an argument. A NULL has a type, too.
#[derive(Debug, Clone)]
pub(super) enum Argument<'q> {
    Integer(Option<i64>),
    Real(Option<f64>),
    Bool(bool),
    Text(Option<Cow<'q, str>>),
    Blob(Option<Cow<'q, [u8]>>),
}

/// `impl From<T> for Argument`, for each T as the expression says.
macro_rules! arguments {
    ($($type:ty: $value:ident => $argument:expr;)*) => {
        $(impl<'q> From<$type> for Argument<'q> {
            fn from($value: $type) -> Self {
                $argument
            }
        })*
    };
}

arguments! {
    i64: value => Argument::Integer(Some(value));
    Option<i64>: value => Argument::Integer(value);
    f64: value => Argument::Real(Some(value));
    Option<f64>: value => Argument::Real(value);
    bool: value => Argument::Bool(value);
    &'q str: value => Argument::Text(Some(Cow::Borrowed(value)));
    &'q String: value => Argument::Text(Some(Cow::Borrowed(value)));
    String: value => Argument::Text(Some(Cow::Owned(value)));
    Option<&'q str>: value => Argument::Text(value.map(Cow::Borrowed));
    Option<String>: value => Argument::Text(value.map(Cow::Owned));
    &'q Option<String>: value => Argument::Text(value.as_deref().map(Cow::Borrowed));
    &'q [u8]: value => Argument::Blob(Some(Cow::Borrowed(value)));
    Vec<u8>: value => Argument::Blob(Some(Cow::Owned(value)));
    &'q Vec<u8>: value => Argument::Blob(Some(Cow::Borrowed(value)));
    Option<&'q [u8]>: value => Argument::Blob(value.map(Cow::Borrowed));
    Option<Vec<u8>>: value => Argument::Blob(value.map(Cow::Owned));
    &'q Option<Vec<u8>>: value => Argument::Blob(value.as_deref().map(Cow::Borrowed));
}

/// A statement and its arguments; its rows are `T`s.
#[derive(Debug, Clone)]
pub(super) struct Query<'q, T = ()> {
    sql: SqlStr,
    arguments: Vec<Argument<'q>>,
    rows: PhantomData<T>,
}

/// As [`Query`], of rows that have one column.
#[derive(Debug)]
pub(super) struct ScalarQuery<'q, T>(Query<'q, (T,)>);

/// A statement whose rows nobody reads, or reads as [`Row`]s.
pub(super) fn query<'q>(sql: impl SqlSafeStr) -> Query<'q> {
    query_as(sql)
}

/// A statement whose rows are `T`s.
pub(super) fn query_as<'q, T>(sql: impl SqlSafeStr) -> Query<'q, T> {
    Query { sql: sql.into_sql_str(), arguments: Vec::new(), rows: PhantomData }
}

/// A statement whose rows are one value each.
pub(super) fn query_scalar<'q, T>(sql: impl SqlSafeStr) -> ScalarQuery<'q, T> {
    ScalarQuery(query_as(sql))
}

impl<'q, T> Query<'q, T> {
    /// Binds the next argument.
    pub fn bind(mut self, argument: impl Into<Argument<'q>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Returns how many rows it changed.
    pub async fn execute(self, connection: &mut Connection) -> sqlx::Result<u64> {
        match connection {
            Connection::Sqlite(connection) => {
                let query = sqlx::query_with::<Sqlite, _>(self.sql, to_sqlite(self.arguments)?);
                Ok(query.execute(connection).await?.rows_affected())
            }
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => {
                let query = sqlx::query_with::<Postgres, _>(numbered(self.sql), to_postgres(self.arguments)?);
                Ok(in_time(query.execute(connection)).await?.rows_affected())
            }
        }
    }

    /// All rows, whatever their columns are.
    pub async fn fetch_rows(self, connection: &mut Connection) -> sqlx::Result<Vec<Row>> {
        match connection {
            Connection::Sqlite(connection) => {
                let query = sqlx::query_with::<Sqlite, _>(self.sql, to_sqlite(self.arguments)?);
                Ok(query.fetch_all(connection).await?.into_iter().map(Row::Sqlite).collect())
            }
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => {
                let query = sqlx::query_with::<Postgres, _>(numbered(self.sql), to_postgres(self.arguments)?);
                Ok(in_time(query.fetch_all(connection)).await?.into_iter().map(Row::Postgres).collect())
            }
        }
    }
}

impl<T: Readable> Query<'_, T> {
    pub async fn fetch_optional(self, connection: &mut Connection) -> sqlx::Result<Option<T>> {
        match connection {
            Connection::Sqlite(connection) => {
                let query = sqlx::query_as_with::<Sqlite, T, _>(self.sql, to_sqlite(self.arguments)?);
                query.fetch_optional(connection).await
            }
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => {
                let query = sqlx::query_as_with::<Postgres, T, _>(numbered(self.sql), to_postgres(self.arguments)?);
                in_time(query.fetch_optional(connection)).await
            }
        }
    }

    pub async fn fetch_one(self, connection: &mut Connection) -> sqlx::Result<T> {
        self.fetch_optional(connection).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub async fn fetch_all(self, connection: &mut Connection) -> sqlx::Result<Vec<T>> {
        match connection {
            Connection::Sqlite(connection) => {
                let query = sqlx::query_as_with::<Sqlite, T, _>(self.sql, to_sqlite(self.arguments)?);
                query.fetch_all(connection).await
            }
            #[cfg(feature = "postgres")]
            Connection::Postgres(connection) => {
                let query = sqlx::query_as_with::<Postgres, T, _>(numbered(self.sql), to_postgres(self.arguments)?);
                in_time(query.fetch_all(connection)).await
            }
        }
    }
}

impl<'q, T> ScalarQuery<'q, T>
where
    (T,): Readable,
{
    /// Binds the next argument.
    pub fn bind(self, argument: impl Into<Argument<'q>>) -> Self {
        ScalarQuery(self.0.bind(argument))
    }

    pub async fn fetch_optional(self, connection: &mut Connection) -> sqlx::Result<Option<T>> {
        Ok(self.0.fetch_optional(connection).await?.map(|(value,)| value))
    }

    pub async fn fetch_one(self, connection: &mut Connection) -> sqlx::Result<T> {
        let (value,) = self.0.fetch_one(connection).await?;
        Ok(value)
    }

    pub async fn fetch_all(self, connection: &mut Connection) -> sqlx::Result<Vec<T>> {
        Ok(self.0.fetch_all(connection).await?.into_iter().map(|(value,)| value).collect())
    }
}

/// A statement that is put together piece by piece.
#[derive(Debug, Default)]
pub(super) struct Builder {
    sql: String,
    arguments: Vec<Argument<'static>>,
}

impl Builder {
    /// Adds text.
    pub fn push(&mut self, sql: &'static str) {
        self.sql.push_str(sql);
    }

    /// Adds an argument.
    pub fn bind(&mut self, argument: impl Into<Argument<'static>>) {
        self.sql.push('?');
        self.arguments.push(argument.into());
    }

    /// The statement.
    pub fn build<T>(self) -> Query<'static, T> {
        // Only constants were pushed.
        Query { sql: sqlx::AssertSqlSafe(self.sql).into_sql_str(), arguments: self.arguments, rows: PhantomData }
    }
}

fn to_sqlite(arguments: Vec<Argument<'_>>) -> sqlx::Result<SqliteArguments> {
    let mut bound = SqliteArguments::default();
    bound.reserve(arguments.len(), 0);
    for argument in arguments {
        let added = match argument {
            Argument::Integer(value) => bound.add(value),
            Argument::Real(value) => bound.add(value),
            Argument::Bool(value) => bound.add(value),
            Argument::Text(value) => bound.add(value),
            Argument::Blob(value) => bound.add(value),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(bound)
}

#[cfg(feature = "postgres")]
fn to_postgres(arguments: Vec<Argument<'_>>) -> sqlx::Result<PgArguments> {
    let mut bound = PgArguments::default();
    bound.reserve(arguments.len(), 0);
    for argument in arguments {
        let added = match argument {
            Argument::Integer(value) => bound.add(value),
            Argument::Real(value) => bound.add(value),
            Argument::Bool(value) => bound.add(value),
            Argument::Text(value) => bound.add(value.as_deref()),
            Argument::Blob(value) => bound.add(value.as_deref()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(bound)
}

/// The statement with its arguments as PostgreSQL numbers them, `$1`.
#[cfg(feature = "postgres")]
fn numbered(sql: SqlStr) -> SqlStr {
    let mut text = String::with_capacity(sql.as_str().len() + 16);
    let (mut next, mut quoted) = (1, false);
    let mut chars = sql.as_str().chars().peekable();
    while let Some(c) = chars.next() {
        quoted ^= c == '\'';
        if c != '?' || quoted {
            text.push(c);
            continue;
        }
        text.push('$');
        if !chars.peek().is_some_and(char::is_ascii_digit) {
            text.push_str(&next.to_string());
            next += 1;
        }
    }
    // As safe as it was.
    sqlx::AssertSqlSafe(text).into_sql_str()
}

/// What a server answers, unless it is gone without a word.
#[cfg(feature = "postgres")]
async fn in_time<T>(answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    match tokio::time::timeout(postgres::ANSWER, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(postgres::late("it does not answer")),
    }
}

/// A row whose columns are known only when it is there.
pub(super) enum Row {
    Sqlite(SqliteRow),
    #[cfg(feature = "postgres")]
    Postgres(PgRow),
}

/// One value of such a row; true is 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Row {
    pub fn len(&self) -> usize {
        match self {
            Row::Sqlite(row) => row.len(),
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => row.len(),
        }
    }

    /// The value of a column, from 0.
    pub fn value(&self, index: usize) -> sqlx::Result<Scalar> {
        match self {
            Row::Sqlite(row) => {
                let raw = row.try_get_raw(index)?;
                if raw.is_null() {
                    return Ok(Scalar::Null);
                }
                Ok(match raw.type_info().name() {
                    "INTEGER" | "BOOLEAN" => Scalar::Integer(row.try_get_unchecked(index)?),
                    "REAL" | "NUMERIC" => Scalar::Real(row.try_get_unchecked(index)?),
                    "BLOB" => Scalar::Blob(row.try_get_unchecked(index)?),
                    _ => Scalar::Text(row.try_get_unchecked(index)?),
                })
            }
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => {
                let raw = row.try_get_raw(index)?;
                if raw.is_null() {
                    return Ok(Scalar::Null);
                }
                let kind = raw.type_info().name().to_owned();
                match raw.format() {
                    PgValueFormat::Text => from_text(&kind, raw.as_str().map_err(sqlx::Error::Decode)?),
                    PgValueFormat::Binary => Ok(match kind.as_str() {
                        "INT8" => Scalar::Integer(row.try_get(index)?),
                        "FLOAT8" => Scalar::Real(row.try_get(index)?),
                        "BOOL" => Scalar::Integer(i64::from(row.try_get::<bool, _>(index)?)),
                        "BYTEA" => Scalar::Blob(row.try_get(index)?),
                        _ => Scalar::Text(row.try_get(index)?),
                    }),
                }
            }
        }
    }
}

/// A value as PostgreSQL prints it.
#[cfg(feature = "postgres")]
fn from_text(kind: &str, text: &str) -> sqlx::Result<Scalar> {
    let wrong = || sqlx::Error::Decode(format!("`{text}` is no {kind}").into());
    Ok(match kind {
        "INT2" | "INT4" | "INT8" | "OID" => Scalar::Integer(text.parse().map_err(|_| wrong())?),
        // The sum of whole numbers is whole.
        "NUMERIC" if let Ok(whole) = text.parse() => Scalar::Integer(whole),
        "FLOAT4" | "FLOAT8" | "NUMERIC" => Scalar::Real(text.parse().map_err(|_| wrong())?),
        "BOOL" => Scalar::Integer(i64::from(text == "t")),
        "BYTEA" => {
            let digits = text.strip_prefix("\\x").unwrap_or_default();
            let byte = |at: usize| digits.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
            Scalar::Blob(bytes.ok_or_else(wrong)?)
        }
        _ => Scalar::Text(text.to_owned()),
    })
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbered() {
        for (sql, expected) in [
            ("SELECT ? WHERE a = ? AND b LIKE '?' || ?", "SELECT $1 WHERE a = $2 AND b LIKE '?' || $3"),
            ("SELECT ?2, ?1, ?12", "SELECT $2, $1, $12"),
            ("SELECT 'it''s ?', ?", "SELECT 'it''s ?', $1"),
        ] {
            assert_eq!(numbered(sql.into_sql_str()).as_str(), expected);
        }
    }

    #[test]
    fn printed_values_are_read() {
        let read = |kind, text| from_text(kind, text).expect("a value");
        assert_eq!(read("INT8", "-7"), Scalar::Integer(-7));
        assert_eq!((read("NUMERIC", "0.25"), read("NUMERIC", "4700")), (Scalar::Real(0.25), Scalar::Integer(4700)));
        assert_eq!(read("FLOAT8", "-Infinity"), Scalar::Real(f64::NEG_INFINITY));
        assert_eq!(read("BOOL", "t"), Scalar::Integer(1));
        assert_eq!(read("BYTEA", "\\x00ff"), Scalar::Blob(vec![0, 255]));
        assert_eq!(read("TIMESTAMPTZ", "2026-11-28 13:00:00+00"), Scalar::Text("2026-11-28 13:00:00+00".to_owned()));
        from_text("INT8", "many").expect_err("no number");
    }
}
