//! `resnet-zoo sql`: one statement that reads.

use super::sql::{Connection, Row, Scalar};
use super::{Reader, hex};
use crate::error::{Error, Result};
use serde_json::Value;

/// What a statement returned.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The columns' names, also where there are no rows.
    pub columns: Vec<String>,
    /// The rows. A blob is hexadecimal text, a NaN cannot be stored.
    pub rows: Vec<Vec<Value>>,
}

impl Reader {
    /// Answers one statement that [`checked_query`] accepts.
    ///
    /// # Errors
    /// Where SQLite does not understand it, or where it is not one statement that reads.
    pub fn query(&mut self, sql: &str) -> Result<Answer> {
        let sql = checked_query(sql)?.to_owned();
        self.runtime
            .block_on(answer(&mut self.connection, sql))
            .map_err(|error| Error::input(format!("the statement failed: {}", text_of(&error))))
    }
}

async fn answer(connection: &mut Connection, sql: String) -> sqlx::Result<Answer> {
    let (columns, rows) = connection.answer(sql).await?;
    let cells = |row: &Row| (0..row.len()).map(|index| Ok(json(row.value(index)?))).collect();
    Ok(Answer { columns, rows: rows.iter().map(cells).collect::<sqlx::Result<_>>()? })
}

fn json(value: Scalar) -> Value {
    match value {
        Scalar::Null => Value::Null,
        Scalar::Integer(value) => value.into(),
        // JSON has no infinity.
        Scalar::Real(value) => value.into(),
        Scalar::Text(text) => text.into(),
        Scalar::Blob(bytes) => hex(&bytes).into(),
    }
}

fn text_of(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// The statement, where it is a single one that begins as reading ones do. The connection is read-only in any case;
/// this keeps `VACUUM INTO` and `ATTACH` out, which write elsewhere.
///
/// # Errors
/// Says what is wrong.
pub(super) fn checked_query(sql: &str) -> Result<&str> {
    let end = first_semicolon(sql).unwrap_or(sql.len());
    if !blank(sql[end..].trim_start_matches(';')) {
        return Err(Error::input("write one statement at a time: something follows the first `;`"));
    }
    let statement = sql[..end].trim();
    let word: String = without_comments(statement).trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    match word.to_ascii_uppercase().as_str() {
        "SELECT" | "WITH" | "VALUES" | "EXPLAIN" => Ok(statement),
        "" => Err(Error::input("the statement is empty; try \"SELECT * FROM runs\"")),
        other => Err(Error::input(format!(
            "`{other}` is not a statement that reads: begin with SELECT, WITH, VALUES or EXPLAIN"
        ))),
    }
}

fn blank(sql: &str) -> bool {
    without_comments(sql).chars().all(|c| c.is_whitespace() || c == ';')
}

/// The position of the first `;` outside quotes and comments.
fn first_semicolon(sql: &str) -> Option<usize> {
    pieces(sql).into_iter().find_map(|(range, kind)| match kind {
        Piece::Code => sql[range.clone()].find(';').map(|at| range.start + at),
        Piece::Quoted | Piece::Comment => None,
    })
}

fn without_comments(sql: &str) -> String {
    let kept = pieces(sql).into_iter().map(|(range, kind)| if kind == Piece::Comment { " " } else { &sql[range] });
    kept.collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Code,
    Quoted,
    Comment,
}

/// Cuts SQL into code, quoted text and comments, as SQLite's tokenizer does.
fn pieces(sql: &str) -> Vec<(std::ops::Range<usize>, Piece)> {
    const OPENERS: [(&str, &str, Piece); 6] = [
        ("'", "'", Piece::Quoted),
        ("\"", "\"", Piece::Quoted),
        ("`", "`", Piece::Quoted),
        ("[", "]", Piece::Quoted),
        ("--", "\n", Piece::Comment),
        ("/*", "*/", Piece::Comment),
    ];
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < sql.len() {
        let rest = &sql[at..];
        let opener = OPENERS.iter().filter_map(|opener| Some((rest.find(opener.0)?, opener))).min_by_key(|(at, _)| *at);
        let Some((start, (open, close, kind))) = opener else {
            pieces.push((at..sql.len(), Piece::Code));
            break;
        };
        pieces.push((at..at + start, Piece::Code));
        let inside = at + start + open.len();
        let end = sql[inside..].find(close).map_or(sql.len(), |length| inside + length + close.len());
        pieces.push((at + start..end, *kind));
        at = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_that_reads() {
        for sql in [
            "SELECT 1",
            "  select 1 ;  ",
            "WITH x AS (SELECT ';') SELECT * FROM x; -- done",
            "/* why; */ SELECT 1 /* ; */",
            "-- a; b\nVALUES (1)",
            "SELECT 'it''s; fine', \"a;b\", [c;d]",
        ] {
            checked_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        for (sql, expected) in [
            ("", "is empty"),
            (" -- nothing\n", "is empty"),
            ("DELETE FROM run", "`DELETE` is not a statement that reads"),
            ("vacuum into '/tmp/x'", "`VACUUM` is not a statement that reads"),
            ("SELECT 1; DROP TABLE run", "one statement at a time"),
            ("SELECT ';' ;/* x */ ATTACH 'y' AS z", "one statement at a time"),
        ] {
            let message = checked_query(sql).expect_err(sql).to_string();
            assert!(message.contains(expected), "{sql}: {message}");
        }
    }
}
