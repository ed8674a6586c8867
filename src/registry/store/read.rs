//! What the registry answers.

use super::dialect::Dialect;
use super::points::decode;
#[cfg(feature = "postgres")]
use super::postgres;
use super::sql::{Connection, Holders, Trouble, query_as, query_scalar};
use super::sqlite;
use super::{Fault, Page, Tried, hex, runtime, step_number, unsigned};
use crate::error::{Error, Result};
use crate::registry::blob::Blobs;
use crate::registry::clock::rfc3339;
use crate::registry::formats::Series;
use crate::registry::lease::Lease;
use crate::registry::run::{Goal, MetricSummary, Point, RunListing, RunState};
use crate::registry::{Clock, Database, Location, Process};
use resnet_codegen::diagnostic::did_you_mean;
use sqlx::{AssertSqlSafe, FromRow};
use std::collections::BTreeMap;
use tokio::runtime::Runtime;

/// How long a run on another host may be silent before nobody knows.
const SILENCE_MS: i64 = 60_000;

/// A registry, open for reading: this connection cannot change it.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) runtime: Runtime,
    location: Location,
    process: Process,
    clock: Clock,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    uid: String,
    name: String,
    experiment: String,
    model: String,
    state: String,
    reason: Option<String>,
    created_ms: i64,
    seconds: f64,
    cursor_step: i64,
    plan: Option<String>,
    seed: i64,
    config_hash: Vec<u8>,
    metric_digest: Option<Vec<u8>>,
    hb_ms: i64,
    host: String,
    boot_id: String,
    device: String,
    run_group: Option<String>,
    note: Option<String>,
    archived: bool,
    tags: String,
}

/// The runs with the ids that a JSON array names.
fn listing(dialect: Dialect) -> AssertSqlSafe<String> {
    let (tags, numbers) = (dialect.tags(), dialect.numbers());
    AssertSqlSafe(format!(
        "SELECT run.id, uid, run.name, experiment.name AS experiment, model, state, reason, created_ms,
            (SELECT sum(seconds) FROM attempt WHERE run_id = run.id) AS seconds,
            cursor_step, plan, seed, config_hash, metric_digest,
            hb_ms, attempt.host, attempt.boot_id, attempt.device, run_group, note, archived_ms IS NOT NULL AS archived,
            {tags} AS tags
         FROM run JOIN experiment ON experiment.id = experiment_id
            JOIN attempt ON attempt.run_id = run.id AND attempt.lease_epoch = run.lease_epoch
            LEFT JOIN annotation ON annotation.run_id = run.id
         WHERE run.id IN ({numbers})"
    ))
}

impl Reader {
    /// Opens a registry that exists.
    ///
    /// # Errors
    /// Where there is none, or where the file is something else or from a newer version.
    pub fn open(location: Location, clock: Clock) -> Result<Self> {
        let runtime = runtime()?;
        let connection = match &location.database {
            Database::File(path) => runtime.block_on(sqlite::reader(&location, path))?,
            #[cfg(feature = "postgres")]
            Database::Server(server) => runtime.block_on(postgres::reader(server))?,
        };
        Ok(Reader { connection, runtime, location, process: Process::current(), clock })
    }

    /// Where it lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Its blobs.
    pub fn blobs(&self) -> Blobs {
        self.location.blobs()
    }

    /// The run that `wanted` means: a whole id, the beginning or the end of one (short ids are the last 8 digits), or
    /// a name, which means the newest run of that name, archived ones last.
    ///
    /// # Errors
    /// Where no run or more than one fits.
    pub fn find(&mut self, wanted: &str) -> Result<RunListing> {
        let exact = self.read(async |connection| -> Tried<Option<i64>> {
            Ok(query_scalar(
                "SELECT id FROM run LEFT JOIN annotation ON run_id = id WHERE uid = ?1 OR name = ?1
                 ORDER BY uid = ?1 DESC, archived_ms IS NOT NULL, id DESC LIMIT 1",
            )
            .bind(wanted)
            .fetch_optional(connection)
            .await?)
        })?;
        let ids = match exact {
            Some(id) => vec![id],
            None => self.find_by_digits(&wanted.to_lowercase())?,
        };
        let mut found = self.listings(&Page::of(ids))?;
        match (found.pop(), found.len()) {
            (Some(run), 0) => Ok(run),
            (None, _) => Err(self.not_found(wanted)?),
            (Some(last), others) => {
                let ids: Vec<&str> = found.iter().chain([&last]).map(|run| short_id(&run.id)).collect();
                Err(Error::input(format!("`{wanted}` fits {} runs: {}", others + 1, ids.join(", "))))
            }
        }
    }

    /// The runs whose ids begin or end so, a few at most.
    fn find_by_digits(&mut self, digits: &str) -> Result<Vec<i64>> {
        if digits.len() < 4 {
            return Ok(Vec::new());
        }
        self.read(async |connection| -> Tried<Vec<i64>> {
            Ok(query_scalar(
                "SELECT id FROM run WHERE substr(uid, 1, length(?1)) = ?1 OR substr(uid, 37 - length(?1)) = ?1
                 ORDER BY id DESC LIMIT 10",
            )
            .bind(digits)
            .fetch_all(connection)
            .await?)
        })
    }

    fn not_found(&mut self, wanted: &str) -> Result<Error> {
        let names = self.read(async |connection| -> Tried<Vec<String>> {
            Ok(query_scalar("SELECT DISTINCT name FROM run UNION ALL SELECT substr(uid, 29) FROM run")
                .fetch_all(connection)
                .await?)
        })?;
        let hint = match did_you_mean(wanted, names.iter().map(String::as_str)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "`resnet-zoo runs ls` lists them".to_owned(),
        };
        Ok(Error::input(format!("there is no run `{wanted}`; {hint}")))
    }

    /// The runs of a page, in its order, each with the state that is true now.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn listings(&mut self, page: &Page) -> Result<Vec<RunListing>> {
        let ids = page.ids_json();
        let (rows, mut summaries, holders) = self.read(async |connection| -> Tried<_> {
            let rows: Vec<Row> = query_as(listing(connection.dialect())).bind(&ids).fetch_all(&mut *connection).await?;
            let summaries = summaries(connection, &ids).await?;
            Ok((rows, summaries, connection.holders().await?))
        })?;
        let mut rows: BTreeMap<i64, Row> = rows.into_iter().map(|row| (row.id, row)).collect();
        let in_order = page.ids().iter().filter_map(|id| rows.remove(id));
        in_order
            .map(|row| {
                let metrics = summaries.remove(&row.id).unwrap_or_default();
                self.listing(row, metrics, &holders)
            })
            .collect()
    }

    /// All values of a run, by metric in the order of their names, then by step.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn series(&mut self, run: &RunListing) -> Result<Series> {
        type Row = (String, i64, Option<f64>, i64);
        let rows = self.read(async |connection| -> Tried<Vec<Row>> {
            Ok(query_as(
                "SELECT name, step, value, flag FROM metric JOIN metric_key ON metric_key.id = key_id
                 WHERE run_id = (SELECT id FROM run WHERE uid = ?) ORDER BY name, step",
            )
            .bind(&run.id)
            .fetch_all(connection)
            .await?)
        })?;
        let point = |(metric, step, value, flag)| Point { metric, step: unsigned(step), value: decode(value, flag) };
        let points = rows.into_iter().map(point).collect();
        Ok(Series { run: run.id.clone(), run_name: run.name.clone(), points })
    }

    /// The values of one metric, by step.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn points(&mut self, run: &RunListing, metric: &str) -> Result<Vec<Point>> {
        let rows = self.read(async |connection| -> Tried<Vec<(i64, Option<f64>, i64)>> {
            Ok(query_as(
                "SELECT step, value, flag FROM metric
                 WHERE run_id = (SELECT id FROM run WHERE uid = ?) AND key_id = (SELECT id FROM metric_key WHERE name = ?)
                 ORDER BY step",
            )
            .bind(&run.id)
            .bind(metric)
            .fetch_all(connection)
            .await?)
        })?;
        let point =
            |(step, value, flag)| Point { metric: metric.to_owned(), step: unsigned(step), value: decode(value, flag) };
        Ok(rows.into_iter().map(point).collect())
    }

    /// The values that a run's metrics had at a step: each at that step, or at the last one before it.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn values_at(&mut self, run: &RunListing, step: u64) -> Result<BTreeMap<String, f64>> {
        let step = step_number(step)?;
        let rows = self.read(async |connection| -> Tried<Vec<(String, Option<f64>, i64)>> {
            Ok(query_as(
                "SELECT metric_key.name, metric.value, flag FROM run JOIN summary ON summary.run_id = run.id
                     JOIN metric_key ON metric_key.id = summary.key_id
                     JOIN metric ON metric.run_id = run.id AND metric.key_id = summary.key_id AND metric.step =
                         (SELECT max(step) FROM metric WHERE run_id = run.id AND key_id = summary.key_id AND step <= ?2)
                 WHERE uid = ?1",
            )
            .bind(&run.id)
            .bind(step)
            .fetch_all(connection)
            .await?)
        })?;
        Ok(rows.into_iter().map(|(name, value, flag)| (name, decode(value, flag))).collect())
    }

    /// Runs `work`, once more on a new connection where the server was gone.
    pub(super) fn read<T>(&mut self, mut work: impl AsyncFnMut(&mut Connection) -> Tried<T>) -> Result<T> {
        let done = self.runtime.block_on(work(&mut self.connection));
        let fault = match done {
            Ok(value) => return Ok(value),
            Err(fault) => fault,
        };
        if fault.trouble(&self.connection) != Trouble::Lost {
            return Err(fault.explain(&self.location));
        }
        let again = Reader::open(self.location.clone(), self.clock.clone())?;
        self.connection = again.connection;
        self.runtime = again.runtime;
        self.runtime.block_on(work(&mut self.connection)).map_err(|fault| fault.explain(&self.location))
    }

    fn listing(&self, row: Row, metrics: BTreeMap<String, MetricSummary>, holders: &Holders) -> Result<RunListing> {
        let state = self.state(&row, holders)?;
        Ok(RunListing {
            id: row.uid,
            name: row.name,
            experiment: row.experiment,
            model: row.model,
            state,
            reason: row.reason,
            created: rfc3339(row.created_ms),
            created_ms: row.created_ms,
            seconds: row.seconds,
            steps: unsigned(row.cursor_step + 1),
            plan: row.plan.as_deref().map(json).transpose()?,
            seed: row.seed.cast_unsigned(),
            device: row.device,
            tags: json(&row.tags)?,
            group: row.run_group,
            note: row.note,
            archived: row.archived,
            config_sha256: hex(&row.config_hash),
            metric_digest: row.metric_digest.as_deref().map(hex),
            metrics,
        })
    }

    fn state(&self, row: &Row, holders: &Holders) -> Result<RunState> {
        let stored: RunState = row.state.parse()?;
        if stored != RunState::Running {
            return Ok(stored);
        }
        Ok(self.true_state(holders, &row.uid, &row.host, &row.boot_id, row.hb_ms))
    }

    /// What a run that says RUNNING is doing.
    pub(super) fn true_state(&self, holders: &Holders, uid: &str, host: &str, boot_id: &str, hb_ms: i64) -> RunState {
        match holders {
            Holders::Files => {}
            #[cfg(feature = "postgres")]
            Holders::Locks(taken) => return if taken.has(uid) { RunState::Running } else { RunState::Crashed },
            #[cfg(feature = "postgres")]
            Holders::Nobody => return self.state_by_silence(hb_ms),
        }
        // Containers of one machine have hosts of their own, and see each other's locks.
        let is_this_machine = boot_id == self.process.boot_id && !boot_id.is_empty();
        if is_this_machine || host == self.process.host {
            let is_held = Lease::is_held(&self.location.run_folder(uid));
            let is_this_boot = boot_id == self.process.boot_id;
            if is_this_boot && is_held { RunState::Running } else { RunState::Crashed }
        } else {
            self.state_by_silence(hb_ms)
        }
    }

    fn state_by_silence(&self, hb_ms: i64) -> RunState {
        let silent = self.clock.now_ms().saturating_sub(hb_ms) > SILENCE_MS;
        if silent { RunState::Unknown } else { RunState::Running }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }
}

/// The last 8 digits of an id. Not the first: a UUIDv7 begins with the time, so runs of one minute share them.
pub fn short_id(uid: &str) -> &str {
    uid.get(uid.len().saturating_sub(8)..).unwrap_or(uid)
}

/// The metrics of the runs with these ids, a JSON array.
async fn summaries(connection: &mut Connection, ids: &str) -> Tried<BTreeMap<i64, BTreeMap<String, MetricSummary>>> {
    type Summary = (i64, String, i64, Option<f64>, Option<f64>, Option<i64>, Option<String>);
    let rows: Vec<Summary> = query_as(AssertSqlSafe(format!(
        "SELECT run_id, name, last_step, last, CASE goal WHEN 'max' THEN max WHEN 'min' THEN min END,
                CASE goal WHEN 'max' THEN max_step WHEN 'min' THEN min_step END, goal
         FROM summary JOIN metric_key ON metric_key.id = key_id
         WHERE run_id IN ({})",
        connection.dialect().numbers()
    )))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let mut all: BTreeMap<i64, BTreeMap<String, MetricSummary>> = BTreeMap::new();
    for (run, name, last_step, last, best, best_step, goal) in rows {
        let summary = MetricSummary {
            last,
            last_is_nan: last.is_none(),
            last_step: unsigned(last_step),
            best,
            best_step: best_step.map(unsigned),
            goal: goal.map(|goal| if goal == "max" { Goal::Max } else { Goal::Min }),
        };
        all.entry(run).or_default().insert(name, summary);
    }
    Ok(all)
}

/// A JSON column that a schema rule keeps valid.
pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::failed(format!("the registry holds damaged JSON: {error}")))
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Fault::Rule(Error::failed(format!("the registry holds damaged JSON: {error}")))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn short_ids_come_from_the_end() {
        assert_eq!(super::short_id("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"), "2e3f4a5b");
        assert_eq!(super::short_id("abc"), "abc");
    }
}
