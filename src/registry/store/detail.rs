//! All that is known of some runs, in as many queries as of one.

use super::read::json;
use super::sql::{Connection, Readable, query_as};
use super::{Reader, Tried, unsigned};
use crate::error::{Error, Result};
use crate::registry::Code;
use crate::registry::run::{Attempt, BuildRecord, CheckpointRecord, Origin, RunDetail, RunListing, WarningRecord};
use sqlx::{AssertSqlSafe, FromRow};
use std::collections::BTreeMap;

#[derive(FromRow)]
struct Row {
    id: i64,
    uid: String,
    canonical: String,
    provenance: String,
    overrides: String,
    files: String,
    spec_files: String,
    spec_sha256: String,
    weights: String,
    data_sha256: String,
    classes: String,
    environment: String,
    rerun_of: Option<String>,
    code_hash: Option<Vec<u8>>,
    git_commit: Option<String>,
    branch: Option<String>,
    remote: Option<String>,
    patch: Option<Vec<u8>>,
    untracked: Option<String>,
    note: Option<String>,
    replay_mismatches: i64,
    #[sqlx(flatten)]
    build: BuildRecord,
}

/// Of those that a run has several of.
#[derive(FromRow)]
struct OfRun<T> {
    run_id: i64,
    #[sqlx(flatten)]
    row: T,
}

#[derive(FromRow)]
struct CheckpointRow {
    step: i64,
    role: String,
    weights_sha256: String,
    state_sha256: String,
    metric_digest: Vec<u8>,
}

impl Reader {
    /// Everything about one run.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn detail(&mut self, listing: RunListing) -> Result<RunDetail> {
        let missing = || Error::failed("the run is not in the registry any more");
        self.details(vec![listing])?.pop().ok_or_else(missing)
    }

    /// Everything about each of some runs, once where one is named twice.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn details(&mut self, listings: Vec<RunListing>) -> Result<Vec<RunDetail>> {
        let uids: Vec<&str> = listings.iter().map(|listing| listing.id.as_str()).collect();
        let uids = serde_json::to_string(&uids).expect("text is JSON");
        let (rows, mut attempts, mut warnings, mut checkpoints) = self.read(async |connection| -> Tried<_> {
            let rows: Vec<Row> = query_as(AssertSqlSafe(format!(
                "SELECT run.id, uid, canonical, provenance, overrides, source.files, spec.files AS spec_files, spec_sha256,
                    weights, data_sha256, classes, environment, rerun_of, code_hash, git_commit, branch, remote, patch,
                    untracked, note, version, git_sha, dirty, rustc, target, features, lock_hash,
                    (SELECT count(*) FROM replay_mismatch WHERE run_id = run.id) AS replay_mismatches
                 FROM run JOIN config ON config.hash = config_hash JOIN source ON source.hash = source_hash
                     JOIN source AS spec ON spec.hash = spec_hash JOIN build ON build.id = build_id
                     LEFT JOIN code ON code.hash = code_hash
                 WHERE uid IN (SELECT wanted.value FROM {})",
                connection.dialect().texts()
            )))
            .bind(&uids)
            .fetch_all(&mut *connection)
            .await?;
            let ids = serde_json::to_string(&rows.iter().map(|row| row.id).collect::<Vec<_>>()).expect("numbers are JSON");
            let attempts: BTreeMap<i64, Vec<Attempt>> = by_run(
                connection,
                "SELECT run_id, lease_epoch, host, boot_id, pid, cpu, isa, sources_sha256, threads, device, resumed_from,
                     seconds, samples, step_seconds, data_seconds, exit
                 FROM attempt",
                "lease_epoch",
                &ids,
            )
            .await?;
            let warnings: BTreeMap<i64, Vec<WarningRecord>> =
                by_run(connection, "SELECT run_id, step, message FROM warning", "id", &ids).await?;
            let checkpoints: BTreeMap<i64, Vec<CheckpointRow>> = by_run(
                connection,
                "SELECT run_id, step, role, weights_sha256, state_sha256, metric_digest FROM checkpoint",
                "step DESC, role DESC",
                &ids,
            )
            .await?;
            Ok((rows, attempts, warnings, checkpoints))
        })?;
        let mut rows: BTreeMap<String, Row> = rows.into_iter().map(|row| (row.uid.clone(), row)).collect();
        let details = listings.into_iter().filter_map(|listing| {
            let row = rows.remove(&listing.id)?;
            let (id, mut detail) = (row.id, row.detail(listing));
            if let Ok(detail) = &mut detail {
                detail.attempts = attempts.remove(&id).unwrap_or_default();
                detail.warnings = warnings.remove(&id).unwrap_or_default();
                detail.checkpoints =
                    checkpoints.remove(&id).unwrap_or_default().into_iter().map(CheckpointRow::record).collect();
            }
            Some(detail)
        });
        details.collect()
    }
}

/// The rows of a query of the runs with these ids, a JSON array, by run and in that order.
async fn by_run<T>(connection: &mut Connection, select: &str, order: &str, ids: &str) -> Tried<BTreeMap<i64, Vec<T>>>
where
    OfRun<T>: Readable,
{
    let numbers = connection.dialect().numbers();
    let sql = AssertSqlSafe(format!("{select} WHERE run_id IN ({numbers}) ORDER BY run_id, {order}"));
    let rows: Vec<OfRun<T>> = query_as(sql).bind(ids).fetch_all(connection).await?;
    let mut by_run: BTreeMap<i64, Vec<T>> = BTreeMap::new();
    for OfRun { run_id, row } in rows {
        by_run.entry(run_id).or_default().push(row);
    }
    Ok(by_run)
}

impl Row {
    /// What it says itself; the lists are empty.
    fn detail(self, listing: RunListing) -> Result<RunDetail> {
        let code = Code {
            commit: self.git_commit,
            branch: self.branch,
            remote: self.remote,
            patch: self.patch,
            untracked: self.untracked.as_deref().map_or(Ok(Vec::new()), json)?,
            note: self.note,
        };
        Ok(RunDetail {
            origin: Origin {
                code: self.code_hash.is_some().then_some(code),
                environment: json(&self.environment)?,
                rerun_of: self.rerun_of,
            },
            listing,
            config: json(&self.canonical)?,
            canonical: self.canonical,
            provenance: json(&self.provenance)?,
            overrides: json(&self.overrides)?,
            files: json(&self.files)?,
            spec_files: json(&self.spec_files)?,
            spec_sha256: self.spec_sha256,
            weights: json(&self.weights)?,
            data_sha256: self.data_sha256,
            classes: json(&self.classes)?,
            build: self.build,
            attempts: Vec::new(),
            checkpoints: Vec::new(),
            warnings: Vec::new(),
            replay_mismatches: unsigned(self.replay_mismatches),
        })
    }
}

impl CheckpointRow {
    fn record(self) -> CheckpointRecord {
        CheckpointRecord {
            step: unsigned(self.step),
            role: self.role,
            weights_sha256: self.weights_sha256,
            state_sha256: self.state_sha256,
            metric_digest: self.metric_digest.try_into().unwrap_or_default(),
        }
    }
}
