//! MLflow's SQLite file, read and written as MLflow does.

use super::{Fault, Tried, runtime};
use crate::error::{Error, Result};
use crate::registry::formats::mlflow::{Status, Tracked};
use crate::registry::run::Point;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What a new file is made of.
const SCHEMA: &str = include_str!("mlflow.sql");

/// MLflow writes an infinity as the greatest number.
const INFINITY: f64 = f64::MAX;

/// Writes runs into MLflow's file at `path`, which is made where there is none. A run that is there already is written
/// anew; what else is there stays.
///
/// # Errors
/// Where the file is something else, or where it cannot be written.
pub fn export(path: &Path, runs: &[Tracked]) -> Result<()> {
    let artifacts = std::path::absolute(path)
        .map_err(|error| Error::input(format!("{} is no path: {error}", path.display())))?
        .with_file_name("mlruns");
    let is_new = !path.exists();
    let work = async || -> Tried<()> {
        let mut connection = options(path).create_if_missing(true).connect().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        if is_new {
            sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
        } else {
            refuse_others(&mut transaction, path).await?;
        }
        for run in runs {
            insert(&mut transaction, run, &artifacts).await?;
        }
        transaction.commit().await?;
        connection.close().await?;
        Ok(())
    };
    runtime()?.block_on(work()).map_err(|fault| {
        if is_new {
            // Nothing half-made stays; the reason is the error to report.
            let _ = std::fs::remove_file(path);
        }
        fault.explain_in(path)
    })
}

/// All runs of MLflow's file at `path` that are not deleted.
///
/// # Errors
/// Where there is no such file, or where it is something else.
pub fn read(path: &Path) -> Result<Vec<Tracked>> {
    if !path.is_file() {
        return Err(Error::input(format!("there is no file {}; MLflow's is often called mlflow.db", path.display())));
    }
    let work = async || -> Tried<Vec<Tracked>> {
        let mut connection = options(path).read_only(true).connect().await?;
        refuse_others(&mut connection, path).await?;
        let mut runs = Vec::new();
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time, run_uuid",
        )
        .fetch_all(&mut connection)
        .await?;
        for id in ids {
            runs.push(tracked(&mut connection, &id).await?);
        }
        Ok(runs)
    };
    runtime()?.block_on(work()).map_err(|fault| fault.explain_in(path))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(30))
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

async fn refuse_others(connection: &mut SqliteConnection, path: &Path) -> Tried<()> {
    let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'
                  AND name IN ('alembic_version', 'experiments', 'runs', 'metrics', 'latest_metrics', 'params', 'tags')";
    let found: i64 = sqlx::query_scalar(tables).fetch_one(connection).await?;
    if found == 7 {
        return Ok(());
    }
    Err(Fault::Rule(Error::input(format!("{} is a SQLite file, but not one of MLflow", path.display()))))
}

async fn insert(connection: &mut SqliteConnection, run: &Tracked, artifacts: &Path) -> Tried<()> {
    let experiment = experiment_id(connection, &run.experiment, artifacts).await?;
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM runs WHERE run_uuid = ?)")
        .bind(&run.id)
        .fetch_one(&mut *connection)
        .await?;
    if known {
        for table in ["DELETE FROM metrics", "DELETE FROM latest_metrics", "DELETE FROM params"] {
            let delete = sqlx::AssertSqlSafe(format!("{table} WHERE run_uuid = ?"));
            sqlx::query(delete).bind(&run.id).execute(&mut *connection).await?;
        }
    }
    let location = artifacts.join(experiment.to_string()).join(&run.id).join("artifacts");
    sqlx::query(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
                           end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
         VALUES (?, ?, 'LOCAL', 'resnet-zoo', '', '', ?, ?, ?, ?, 'active', ?, ?)
         ON CONFLICT (run_uuid) DO UPDATE SET name = excluded.name, status = excluded.status, end_time = excluded.end_time",
    )
    .bind(&run.id)
    .bind(&run.name)
    .bind(run.status.name())
    .bind(run.started_ms)
    .bind(run.ended_ms)
    .bind(&run.commit)
    .bind(location.to_string_lossy().as_ref())
    .bind(experiment)
    .execute(&mut *connection)
    .await?;
    for (table, values) in [("params", &run.params), ("tags", &run.tags)] {
        let statement = format!("INSERT OR REPLACE INTO {table} (\"key\", value, run_uuid) VALUES (?, ?, ?)");
        for (key, value) in values {
            let insert = sqlx::query(sqlx::AssertSqlSafe(statement.clone()));
            insert.bind(key).bind(value).bind(&run.id).execute(&mut *connection).await?;
        }
    }
    for point in &run.points {
        let (value, is_nan) = encode(point.value);
        sqlx::query(
            "INSERT INTO metrics (\"key\", value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&point.metric)
        .bind(value)
        .bind(run.time_of(point.step))
        .bind(&run.id)
        .bind(point.step.cast_signed())
        .bind(is_nan)
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query(
        "INSERT INTO latest_metrics (\"key\", value, timestamp, step, is_nan, run_uuid)
         SELECT \"key\", value, timestamp, max(step), is_nan, run_uuid FROM metrics WHERE run_uuid = ? GROUP BY \"key\"",
    )
    .bind(&run.id)
    .execute(connection)
    .await?;
    Ok(())
}

async fn experiment_id(connection: &mut SqliteConnection, name: &str, artifacts: &Path) -> Tried<i64> {
    let find = "SELECT experiment_id FROM experiments WHERE name = ?";
    let known: Option<i64> = sqlx::query_scalar(find).bind(name).fetch_optional(&mut *connection).await?;
    if let Some(id) = known {
        return Ok(id);
    }
    // 0 is MLflow's own "Default".
    let id: i64 = sqlx::query_scalar("SELECT max(1, coalesce(max(experiment_id) + 1, 1)) FROM experiments")
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (?, ?, ?, 'active')",
    )
    .bind(id)
    .bind(name)
    .bind(artifacts.join(id.to_string()).to_string_lossy().as_ref())
    .execute(connection)
    .await?;
    Ok(id)
}

async fn tracked(connection: &mut SqliteConnection, id: &str) -> Tried<Tracked> {
    type Row = (Option<String>, String, Option<String>, Option<i64>, Option<i64>, Option<String>);
    let (name, experiment, status, started_ms, ended_ms, commit): Row = sqlx::query_as(
        "SELECT runs.name, experiments.name, status, start_time, end_time, source_version
         FROM runs JOIN experiments ON experiments.experiment_id = runs.experiment_id WHERE run_uuid = ?",
    )
    .bind(id)
    .fetch_one(&mut *connection)
    .await?;
    let mut pairs = Vec::new();
    for table in ["params", "tags"] {
        let select =
            sqlx::AssertSqlSafe(format!("SELECT \"key\", coalesce(value, '') FROM {table} WHERE run_uuid = ?"));
        let found: Vec<(String, String)> = sqlx::query_as(select).bind(id).fetch_all(&mut *connection).await?;
        pairs.push(found.into_iter().collect::<BTreeMap<_, _>>());
    }
    let tags = pairs.pop().unwrap_or_default();
    let params = pairs.pop().unwrap_or_default();
    // Of several values at one step the newest comes last.
    let values: Vec<(String, i64, f64, bool)> = sqlx::query_as(
        "SELECT \"key\", step, value, is_nan FROM metrics WHERE run_uuid = ? ORDER BY step, \"key\", timestamp, rowid",
    )
    .bind(id)
    .fetch_all(connection)
    .await?;
    let mut run = Tracked {
        id: id.to_owned(),
        name: name.or_else(|| tags.get("mlflow.runName").cloned()).unwrap_or_else(|| id.to_owned()),
        experiment,
        status: Status::of(status.as_deref().unwrap_or_default()),
        started_ms: started_ms.unwrap_or(0),
        ended_ms,
        commit: commit.filter(|commit| !commit.is_empty()).or_else(|| tags.get("mlflow.source.git.commit").cloned()),
        params,
        tags,
        points: Vec::new(),
        left_out: 0,
    };
    for (metric, step, value, is_nan) in values {
        let Ok(step) = u64::try_from(step) else {
            run.left_out += 1;
            continue;
        };
        let point = Point { metric, step, value: decode(value, is_nan) };
        match run.points.last_mut() {
            Some(last) if (&last.metric, last.step) == (&point.metric, step) => {
                *last = point;
                run.left_out += 1;
            }
            _ => run.points.push(point),
        }
    }
    Ok(run)
}

fn encode(value: f64) -> (f64, bool) {
    if value.is_nan() { (0.0, true) } else { (value.clamp(-INFINITY, INFINITY), false) }
}

fn decode(value: f64, is_nan: bool) -> f64 {
    match value {
        _ if is_nan => f64::NAN,
        value if value.abs() >= INFINITY => value.signum() * f64::INFINITY,
        value => value,
    }
}
