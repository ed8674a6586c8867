//! What a run says of itself: written in batches, compared on replay.

use super::checkpoints::{NewCheckpoint, insert_checkpoints};
use super::runs::{Working, fenced_unless};
use super::sql::{Connection, query, query_as, query_scalar};
use super::{Store, Tried, step_number};
use crate::error::Result;
use crate::registry::RunState;
use crate::registry::run::{Point, is_measured};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use std::collections::HashMap;
use std::time::Duration;

/// Points that one statement inserts: a statement costs more than a row.
const ROWS: usize = 50;

/// What one transaction writes. Writing it twice is as good as once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Batch {
    /// Points, in the order in which they came.
    #[serde(skip)]
    pub points: Vec<Point>,
    /// Step and message.
    pub warnings: Vec<(u64, String)>,
    /// What the run is going to do: steps, samples, parameters.
    pub plan: Option<Value>,
    /// Checkpoints whose blobs are stored.
    pub checkpoints: Vec<NewCheckpoint>,
    /// How the process's work on the run ended.
    pub end: Option<End>,
    /// The hash chain over all points of the run so far.
    pub metric_digest: Option<[u8; 32]>,
    /// Seconds of this attempt.
    pub seconds: f64,
    /// Samples that this attempt trained on.
    pub samples: u64,
    /// Seconds of this attempt in training steps.
    pub step_seconds: f64,
    /// Of these, seconds waiting for data.
    pub data_seconds: f64,
}

/// How a process's work on a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What the run is now.
    pub state: RunState,
    /// Why, where it did not complete.
    pub reason: Option<String>,
}

impl Store {
    /// Writes a batch and a heartbeat. Returns how many points were there already with other bits: a resumed run that
    /// did not reproduce its own past.
    ///
    /// # Errors
    /// Where another process took the run over, or where the registry cannot be written. Then nothing is stored.
    pub fn flush(&mut self, run: &Working, batch: &Batch) -> Result<u64> {
        let now = self.clock.now_ms();
        self.write(async |connection| flush(connection, run, batch, now).await)
    }

    /// As [`flush`](Self::flush); `None` where other programs kept the registry locked for as long as this process is
    /// willing to wait, or for an instant where it is not `patient`.
    ///
    /// # Errors
    /// As [`flush`](Self::flush), but for a lock.
    pub fn try_flush(&mut self, run: &Working, batch: &Batch, patient: bool) -> Result<Option<u64>> {
        let now = self.clock.now_ms();
        let patience = if patient { self.patience } else { Duration::ZERO };
        self.try_write(patience, async |connection| flush(connection, run, batch, now).await)
    }
}

pub(super) async fn flush(connection: &mut Connection, run: &Working, batch: &Batch, now: i64) -> Tried<u64> {
    let cursor = batch.points.iter().map(|point| point.step).max().map(step_number).transpose()?;
    let changed = query(
        "UPDATE run SET hb_seq = hb_seq + 1, hb_ms = ?3,
                        cursor_step = CASE WHEN ?4 > cursor_step THEN ?4 ELSE cursor_step END,
                        metric_digest = coalesce(?5, metric_digest), plan = coalesce(?6, plan)
         WHERE id = ?1 AND lease_epoch = ?2",
    )
    .bind(run.id)
    .bind(run.lease_epoch)
    .bind(now)
    .bind(cursor)
    .bind(batch.metric_digest.as_ref().map(<[u8; 32]>::as_slice))
    .bind(batch.plan.as_ref().map(super::runs::canonical))
    .execute(&mut *connection)
    .await?;
    fenced_unless(changed == 1, run)?;
    query(
        "UPDATE attempt SET seconds = CASE WHEN ?1 > seconds THEN ?1 ELSE seconds END,
                            samples = CASE WHEN ?2 > samples THEN ?2 ELSE samples END,
                            step_seconds = CASE WHEN ?3 > step_seconds THEN ?3 ELSE step_seconds END,
                            data_seconds = CASE WHEN ?4 > data_seconds THEN ?4 ELSE data_seconds END
         WHERE run_id = ?5 AND lease_epoch = ?6",
    )
    .bind(batch.seconds)
    .bind(step_number(batch.samples)?)
    .bind(batch.step_seconds)
    .bind(batch.data_seconds)
    .bind(run.id)
    .bind(run.lease_epoch)
    .execute(&mut *connection)
    .await?;
    for (step, message) in &batch.warnings {
        query(
            "INSERT INTO warning (run_id, step, message, created_ms) SELECT ?1, ?2, ?3, ?4
             WHERE NOT EXISTS (SELECT 1 FROM warning WHERE run_id = ?1 AND step = ?2 AND message = ?3)",
        )
        .bind(run.id)
        .bind(step_number(*step)?)
        .bind(message)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    }
    let mismatches = insert_points(connection, run, &batch.points).await?;
    insert_checkpoints(connection, run, &batch.checkpoints, now).await?;
    if let Some(end) = &batch.end {
        super::runs::end(connection, run, end, now).await?;
    }
    Ok(mismatches)
}

/// Returns how many were there with other bits.
async fn insert_points(connection: &mut Connection, run: &Working, points: &[Point]) -> Tried<u64> {
    let keys = key_ids(connection, points).await?;
    let mut mismatches = 0;
    for points in points.chunks(ROWS) {
        if insert(connection, run.id, &keys, points).await? == points.len() as u64 {
            continue;
        }
        for point in points.iter().filter(|point| !is_measured(&point.metric)) {
            mismatches += u64::from(!is_stored(connection, run, keys[point.metric.as_str()], point).await?);
        }
    }
    Ok(mismatches)
}

/// Stores the points of a run that has none.
pub(super) async fn insert_all(connection: &mut Connection, run: i64, points: &[Point]) -> Tried<()> {
    let keys = key_ids(connection, points).await?;
    for points in points.chunks(ROWS) {
        insert(connection, run, &keys, points).await?;
    }
    Ok(())
}

async fn key_ids<'p>(connection: &mut Connection, points: &'p [Point]) -> Tried<HashMap<&'p str, i64>> {
    let mut keys = HashMap::new();
    for point in points {
        if !keys.contains_key(point.metric.as_str()) {
            keys.insert(point.metric.as_str(), key_id(connection, &point.metric).await?);
        }
    }
    Ok(keys)
}

pub(super) async fn key_id(connection: &mut Connection, metric: &str) -> Tried<i64> {
    let find = "SELECT id FROM metric_key WHERE name = ?";
    if let Some(id) = query_scalar(find).bind(metric).fetch_optional(&mut *connection).await? {
        return Ok(id);
    }
    let insert = "INSERT INTO metric_key (name, goal) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING id";
    let inserted = query_scalar(insert).bind(metric).bind(goal(metric)).fetch_optional(&mut *connection).await?;
    match inserted {
        Some(id) => Ok(id),
        // Another process was first.
        None => Ok(query_scalar(find).bind(metric).fetch_one(connection).await?),
    }
}

/// Whether a larger or a smaller value is better; neither for what is set or merely watched.
fn goal(metric: &str) -> Option<&'static str> {
    let (group, name) = metric.split_once('.')?;
    match name {
        _ if group == "optim" || is_measured(metric) => None,
        "loss" => Some("min"),
        _ => Some("max"),
    }
}

/// Inserts the points that are not there yet, and returns how many those were.
async fn insert(connection: &mut Connection, run: i64, keys: &HashMap<&str, i64>, points: &[Point]) -> Tried<u64> {
    let rows = vec!["(?, ?, ?, ?, ?)"; points.len()].join(", ");
    let sql = format!("INSERT INTO metric (run_id, key_id, step, value, flag) VALUES {rows} ON CONFLICT DO NOTHING");
    let mut query = query(AssertSqlSafe(sql));
    for point in points {
        let (value, flag) = encode(point.value);
        let key = keys[point.metric.as_str()];
        query = query.bind(run).bind(key).bind(step_number(point.step)?).bind(value).bind(flag);
    }
    Ok(query.execute(connection).await?)
}

/// Whether a point's value is the one that is stored, bit for bit; where not, that is noted.
async fn is_stored(connection: &mut Connection, run: &Working, key: i64, point: &Point) -> Tried<bool> {
    let step = step_number(point.step)?;
    let (old_value, old_flag): (Option<f64>, i64) =
        query_as("SELECT value, flag FROM metric WHERE run_id = ? AND key_id = ? AND step = ?")
            .bind(run.id)
            .bind(key)
            .bind(step)
            .fetch_one(&mut *connection)
            .await?;
    let (old, new) = (bits(decode(old_value, old_flag)), bits(point.value));
    if old == new {
        return Ok(true);
    }
    query("INSERT INTO replay_mismatch VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(run.id)
        .bind(key)
        .bind(step)
        .bind(old)
        .bind(new)
        .bind(run.lease_epoch)
        .execute(connection)
        .await?;
    Ok(false)
}

/// SQLite turns NaN into NULL and -0.0 into 0.0; the flag remembers.
fn encode(value: f64) -> (Option<f64>, i64) {
    match value {
        nan if nan.is_nan() => (None, 1),
        zero if zero == 0.0 && zero.is_sign_negative() => (Some(0.0), 2),
        other => (Some(other), 0),
    }
}

/// The inverse of [`encode`], but for a NaN's payload.
pub(super) fn decode(value: Option<f64>, flag: i64) -> f64 {
    match (value, flag) {
        (None, _) => f64::NAN,
        (Some(_), 2) => -0.0,
        (Some(value), _) => value,
    }
}

/// The bits of a value, all NaNs being one.
fn bits(value: f64) -> i64 {
    if value.is_nan() { f64::NAN } else { value }.to_bits().cast_signed()
}
