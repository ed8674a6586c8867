//! Statements for the databases that a registry may lie in. Their text is what SQLite and PostgreSQL both understand;
//! [`dialect`](super::dialect) writes what they do not share.
//!
//! Arguments are `?`, or `?1` where one stands more than once, as in SQLite.

use super::dialect::Dialect;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments, Column, Connection as _, Executor, FromRow, Row as _, SqlSafeStr, SqlStr, Sqlite, SqliteConnection,
    Statement, TypeInfo, ValueRef,
};
use std::borrow::Cow;
use std::marker::PhantomData;

/// A connection to either.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(SqliteConnection),
}

/// What an error means for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Others are in the way: the transaction may be tried again.
    Busy,
    /// The disk is full, read-only or broken: it may be tried once more, on a new connection.
    Disk,
    /// It would fail again.
    Final,
}

impl Connection {
    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            Connection::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Begins a transaction that writes.
    pub async fn begin(&mut self) -> sqlx::Result<()> {
        match self {
            // A deferred one would fail where two processes upgrade their read locks at once.
            Connection::Sqlite(_) => query("BEGIN IMMEDIATE").execute(self).await.map(|_| ()),
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
        }
    }
}

/// A row that a query returns, from either. `#[derive(FromRow)]` and tuples are some.
pub(super) trait Readable: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
impl<T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin> Readable for T {}

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
                let query = sqlx::query_with::<Sqlite, _>(self.sql, sqlite(self.arguments)?);
                Ok(query.execute(connection).await?.rows_affected())
            }
        }
    }

    /// All rows, whatever their columns are.
    pub async fn fetch_rows(self, connection: &mut Connection) -> sqlx::Result<Vec<Row>> {
        match connection {
            Connection::Sqlite(connection) => {
                let query = sqlx::query_with::<Sqlite, _>(self.sql, sqlite(self.arguments)?);
                Ok(query.fetch_all(connection).await?.into_iter().map(Row::Sqlite).collect())
            }
        }
    }
}

impl<T: Readable> Query<'_, T> {
    pub async fn fetch_optional(self, connection: &mut Connection) -> sqlx::Result<Option<T>> {
        match connection {
            Connection::Sqlite(connection) => {
                let query = sqlx::query_as_with::<Sqlite, T, _>(self.sql, sqlite(self.arguments)?);
                query.fetch_optional(connection).await
            }
        }
    }

    pub async fn fetch_one(self, connection: &mut Connection) -> sqlx::Result<T> {
        self.fetch_optional(connection).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub async fn fetch_all(self, connection: &mut Connection) -> sqlx::Result<Vec<T>> {
        match connection {
            Connection::Sqlite(connection) => {
                let query = sqlx::query_as_with::<Sqlite, T, _>(self.sql, sqlite(self.arguments)?);
                query.fetch_all(connection).await
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

fn sqlite(arguments: Vec<Argument<'_>>) -> sqlx::Result<SqliteArguments> {
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

/// A row whose columns are known only when it is there.
pub(super) enum Row {
    Sqlite(SqliteRow),
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
        }
    }
}
