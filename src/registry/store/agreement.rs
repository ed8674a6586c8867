//! Whether two runs recorded the same: value by value, bit for bit.

use super::points::decode;
use super::sql::{query_as, query_scalar};
use super::{Reader, Tried, step_number, unsigned};
use crate::error::Result;
use crate::registry::run::{RunListing, RunState};
use serde::{Serialize, Serializer};
use sqlx::FromRow;

/// How far the metrics of two runs agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Values that at least one of them has, up to the step that both reached.
    pub values: u64,
    /// Of these, values that differ, or that only one has.
    pub different: u64,
    /// The first of them: the smallest step, then the metric that was recorded first.
    pub first: Option<Disagreement>,
}

/// One value that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disagreement {
    /// From 0.
    pub step: u64,
    /// `train.loss`.
    pub metric: String,
    /// The first run's value; none where it has none.
    pub a: Option<ExactValue>,
    /// The second run's.
    pub b: Option<ExactValue>,
}

/// A value that JSON does not change: `{value, nan, bits}`, where `value` is `null` unless it is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExactValue(pub f64);

impl Serialize for ExactValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let ExactValue(value) = *self;
        let bits = format!("{:016x}", value.to_bits());
        serde_json::json!({"value": value, "nan": value.is_nan(), "bits": bits}).serialize(serializer)
    }
}

#[derive(FromRow)]
struct Row {
    name: String,
    step: i64,
    a_value: Option<f64>,
    a_flag: Option<i64>,
    b_value: Option<f64>,
    b_flag: Option<i64>,
}

/// All (metric, step) of either run up to step `?3`; at that step itself only what both have.
const PAIRS: &str = "
WITH measured AS (
    SELECT id FROM metric_key WHERE substr(name, 1, 7) = 'system.'
), pair AS (
    SELECT key_id, step FROM metric WHERE run_id = ?1 AND step <= ?3 AND key_id NOT IN (SELECT id FROM measured)
    UNION SELECT key_id, step FROM metric WHERE run_id = ?2 AND step <= ?3 AND key_id NOT IN (SELECT id FROM measured)
), compared AS (
    SELECT metric_key.name, pair.key_id, pair.step, a.value AS a_value, a.flag AS a_flag, b.value AS b_value, b.flag AS b_flag,
        a.flag IS DISTINCT FROM b.flag OR a.value IS DISTINCT FROM b.value AS differs
    FROM pair JOIN metric_key ON metric_key.id = pair.key_id
        LEFT JOIN metric AS a ON a.run_id = ?1 AND a.key_id = pair.key_id AND a.step = pair.step
        LEFT JOIN metric AS b ON b.run_id = ?2 AND b.key_id = pair.key_id AND b.step = pair.step
    WHERE pair.step < ?3 OR (a.flag IS NOT NULL AND b.flag IS NOT NULL)
)";

impl Reader {
    /// Compares the metrics of two runs, up to the last step of the one that is shorter. Where a run is not completed
    /// its last step may lack values that the other has; they do not count.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn agreement(&mut self, a: &RunListing, b: &RunListing) -> Result<Agreement> {
        let whole = [a, b].iter().all(|run| run.state == RunState::Completed);
        let shorter = a.steps.min(b.steps).saturating_sub(1);
        let last = step_number(if whole { u64::MAX >> 1 } else { shorter })?;
        self.read(async |connection| -> Tried<Agreement> {
            let id = "SELECT id FROM run WHERE uid = ?";
            let a: i64 = query_scalar(id).bind(&a.id).fetch_one(&mut *connection).await?;
            let b: i64 = query_scalar(id).bind(&b.id).fetch_one(&mut *connection).await?;
            let counted =
                sqlx::AssertSqlSafe(format!("{PAIRS} SELECT count(*), count(*) FILTER (WHERE differs) FROM compared"));
            let (values, different): (i64, i64) =
                query_as(counted).bind(a).bind(b).bind(last).fetch_one(&mut *connection).await?;
            let first = sqlx::AssertSqlSafe(format!(
                "{PAIRS} SELECT name, step, a_value, a_flag, b_value, b_flag FROM compared WHERE differs
                 ORDER BY step, key_id LIMIT 1"
            ));
            let first: Option<Row> = query_as(first).bind(a).bind(b).bind(last).fetch_optional(connection).await?;
            let exact = |value, flag: Option<i64>| flag.map(|flag| ExactValue(decode(value, flag)));
            Ok(Agreement {
                values: unsigned(values),
                different: unsigned(different),
                first: first.map(|row| Disagreement {
                    step: unsigned(row.step),
                    metric: row.name,
                    a: exact(row.a_value, row.a_flag),
                    b: exact(row.b_value, row.b_flag),
                }),
            })
        })
    }
}
