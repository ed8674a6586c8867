//! Whole runs, read out of one registry and written into another.

use super::annotations;
use super::points::{decode, insert_all, key_id};
use super::read::json;
use super::runs::{build_id, code_hash, files, hash, keep_recipe};
use super::sql::{Connection, query, query_as, query_scalar};
use super::{Reader, Store, Tried, hex, signed, step_number, unsigned};
use crate::error::{Error, Result};
use crate::registry::Annotations;
use crate::registry::blob::Stored;
use crate::registry::record::{AttemptRecord, CheckpointFacts, Mismatch, RunFacts, RunRecord, WarningFacts, Work};
use crate::registry::run::{BuildRecord, Point, RunListing, RunState, SourceFile};
use crate::train::exact::Exact;
use serde_json::json;
use sqlx::FromRow;

/// Why a crashed run says INTERRUPTED elsewhere: there, nobody could look whether its process lives.
const DIED: &str = "its process died";

#[derive(FromRow)]
struct Row {
    id: i64,
    state: String,
    reason: Option<String>,
    created_ms: i64,
    ended_ms: Option<i64>,
    hb_ms: i64,
    cursor_step: i64,
    metric_digest: Option<Vec<u8>>,
    plan: Option<String>,
    build_id: i64,
}

#[derive(FromRow)]
struct CheckpointRow {
    step: i64,
    role: String,
    weights_sha256: String,
    state_sha256: String,
    metric_digest: Vec<u8>,
    created_ms: i64,
}

impl From<CheckpointRow> for CheckpointFacts {
    fn from(row: CheckpointRow) -> Self {
        CheckpointFacts {
            step: row.step,
            role: row.role,
            weights_sha256: row.weights_sha256,
            state_sha256: row.state_sha256,
            metric_digest: hex(&row.metric_digest),
            created_ms: row.created_ms,
        }
    }
}

#[derive(FromRow)]
struct AttemptRow {
    lease_epoch: i64,
    host: String,
    boot_id: String,
    pid: i64,
    pid_start: i64,
    cpu: String,
    isa: Option<String>,
    sources_sha256: Option<String>,
    threads: i64,
    device: String,
    resumed_from: Option<i64>,
    started_ms: i64,
    seconds: f64,
    samples: i64,
    step_seconds: f64,
    data_seconds: f64,
    exit: Option<String>,
    build_id: i64,
}

impl Reader {
    /// Everything about a run that has ended.
    ///
    /// # Errors
    /// Where it still runs, or where the registry cannot be read.
    pub fn record(&mut self, listing: RunListing) -> Result<RunRecord> {
        if matches!(listing.state, RunState::Queued | RunState::Running | RunState::Unknown) {
            let (id, state) = (&listing.id, listing.state);
            return Err(Error::input(format!("the run {id} is {state}: it can travel once it has ended")));
        }
        let detail = self.detail(listing)?;
        let samples = self.samples(&detail.data_sha256)?;
        let uid = detail.listing.id.clone();
        let (row, build, attempts, checkpoints, warnings, replay_mismatches, points) =
            self.read(async |connection| rows(connection, &uid).await)?;
        let crashed = detail.listing.state == RunState::Crashed;
        let facts = RunFacts {
            uid,
            name: detail.listing.name,
            experiment: detail.listing.experiment,
            model: detail.listing.model,
            state: if crashed { RunState::Interrupted.name().to_owned() } else { row.state },
            reason: if crashed { Some(DIED.to_owned()) } else { row.reason },
            created_ms: row.created_ms,
            ended_ms: row.ended_ms.unwrap_or(row.hb_ms),
            cursor_step: row.cursor_step,
            metric_digest: row.metric_digest.as_deref().map(hex),
            seed: detail.listing.seed,
            overrides: detail.overrides,
            provenance: serde_json::from_value(detail.provenance)
                .map_err(|_| Error::failed("the registry holds a damaged provenance"))?,
            spec_sha256: detail.spec_sha256,
            weights: detail.weights,
            data_sha256: detail.data_sha256,
            classes: detail.classes,
            plan: row.plan.as_deref().map(json).transpose()?,
            environment: detail.origin.environment,
            rerun_of: detail.origin.rerun_of,
            annotations: Annotations {
                tags: detail.listing.tags,
                group: detail.listing.group,
                note: detail.listing.note,
            },
            checkpoints,
            warnings,
            replay_mismatches,
        };
        let (config, code) = (detail.canonical, detail.origin.code);
        let work = Work { build, attempts };
        Ok(RunRecord { facts, work, config, files: detail.files, spec_files: detail.spec_files, code, points, samples })
    }
}

type Rows = (Row, BuildRecord, Vec<AttemptRecord>, Vec<CheckpointFacts>, Vec<WarningFacts>, Vec<Mismatch>, Vec<Point>);

async fn rows(connection: &mut Connection, uid: &str) -> Tried<Rows> {
    let row: Row = query_as(
        "SELECT id, state, reason, created_ms, ended_ms, hb_ms, cursor_step,
                metric_digest, plan, build_id
         FROM run WHERE uid = ?",
    )
    .bind(uid)
    .fetch_one(&mut *connection)
    .await?;
    let build = build_of(connection, row.build_id).await?;
    let found: Vec<AttemptRow> = query_as(
        "SELECT lease_epoch, host, boot_id, pid, pid_start, cpu, isa, sources_sha256, threads, device, resumed_from,
                started_ms, seconds, samples, step_seconds, data_seconds, exit, build_id
         FROM attempt WHERE run_id = ? ORDER BY lease_epoch",
    )
    .bind(row.id)
    .fetch_all(&mut *connection)
    .await?;
    let mut attempts = Vec::new();
    for attempt in found {
        let build = build_of(connection, attempt.build_id).await?;
        attempts.push(attempt.with(build));
    }
    let checkpoints: Vec<CheckpointRow> = query_as(
        "SELECT step, role, weights_sha256, state_sha256, metric_digest, created_ms
         FROM checkpoint WHERE run_id = ? ORDER BY step, role",
    )
    .bind(row.id)
    .fetch_all(&mut *connection)
    .await?;
    let warnings = query_as("SELECT step, message, created_ms FROM warning WHERE run_id = ? ORDER BY id")
        .bind(row.id)
        .fetch_all(&mut *connection)
        .await?;
    let mismatches = query_as(
        "SELECT name AS metric, step, old_bits, new_bits, lease_epoch FROM replay_mismatch
             JOIN metric_key ON metric_key.id = key_id
         WHERE run_id = ? ORDER BY step, key_id, lease_epoch",
    )
    .bind(row.id)
    .fetch_all(&mut *connection)
    .await?;
    let points: Vec<(String, i64, Option<f64>, i64)> = query_as(
        "SELECT name, step, value, flag FROM metric JOIN metric_key ON metric_key.id = key_id
         WHERE run_id = ? ORDER BY step, key_id",
    )
    .bind(row.id)
    .fetch_all(&mut *connection)
    .await?;
    let point = |(metric, step, value, flag)| Point { metric, step: unsigned(step), value: decode(value, flag) };
    let checkpoints = checkpoints.into_iter().map(CheckpointFacts::from).collect();
    Ok((row, build, attempts, checkpoints, warnings, mismatches, points.into_iter().map(point).collect()))
}

async fn build_of(connection: &mut Connection, id: i64) -> Tried<BuildRecord> {
    Ok(query_as("SELECT version, git_sha, dirty, rustc, target, features, lock_hash FROM build WHERE id = ?")
        .bind(id)
        .fetch_one(connection)
        .await?)
}

impl AttemptRow {
    fn with(self, build: BuildRecord) -> AttemptRecord {
        AttemptRecord {
            lease_epoch: self.lease_epoch,
            host: self.host,
            boot_id: self.boot_id,
            pid: self.pid,
            pid_start: self.pid_start,
            cpu: self.cpu,
            isa: self.isa,
            sources_sha256: self.sources_sha256,
            threads: self.threads,
            device: self.device,
            resumed_from: self.resumed_from,
            started_ms: self.started_ms,
            seconds: Exact(self.seconds),
            samples: self.samples,
            step_seconds: Exact(self.step_seconds),
            data_seconds: Exact(self.data_seconds),
            // Nobody works on a run that travels.
            exit: self.exit.unwrap_or_else(|| "crashed".to_owned()),
            build,
        }
    }
}

impl Store {
    /// Writes a whole run that [`RunRecord::check`] accepted, in one transaction; whoever stored `blobs` holds
    /// [`Blobs::guard`](super::Blobs::guard). False where the registry has the same run already.
    ///
    /// # Errors
    /// Where it has another run of that id, or where it cannot be written.
    pub fn import(&mut self, record: &RunRecord, blobs: &[Stored]) -> Result<bool> {
        if let Some(list) = &record.samples {
            self.keep_samples(&record.facts.data_sha256, || list.clone())?;
        }
        self.write(async |connection| import(connection, record, blobs).await)
    }

    /// Whether the registry has the same run already.
    ///
    /// # Errors
    /// Where it has another run of that id, or where it cannot be read.
    pub fn has(&mut self, record: &RunRecord) -> Result<bool> {
        self.write(async |connection| is_known(connection, record).await)
    }
}

async fn is_known(connection: &mut Connection, record: &RunRecord) -> Tried<bool> {
    let facts = &record.facts;
    type Known = (Vec<u8>, Option<Vec<u8>>, i64, String, i64);
    let known: Option<Known> =
        query_as("SELECT config_hash, metric_digest, cursor_step, data_sha256, created_ms FROM run WHERE uid = ?")
            .bind(&facts.uid)
            .fetch_optional(connection)
            .await?;
    let Some((config, digest, cursor, data, created)) = known else { return Ok(false) };
    let same = config == hash(&record.config)
        && (digest.as_deref().map(hex), cursor) == (facts.metric_digest.clone(), facts.cursor_step)
        && (data, created) == (facts.data_sha256.clone(), facts.created_ms);
    if same {
        return Ok(true);
    }
    let (id, steps, here) = (&facts.uid, facts.cursor_step + 1, cursor + 1);
    Err(Error::input(format!(
        "the registry has the run {id} already, with other content: {here} steps here, {steps} in what comes; \
         import into another --registry PATH"
    ))
    .into())
}

async fn import(connection: &mut Connection, record: &RunRecord, blobs: &[Stored]) -> Tried<bool> {
    if is_known(connection, record).await? {
        return Ok(false);
    }
    let facts = &record.facts;
    let (source, spec) = (files(record.files.iter().map(pair)), files(record.spec_files.iter().map(pair)));
    keep_recipe(connection, &facts.experiment, &record.config, [&source, &spec]).await?;
    let build = build_id(connection, &record.work.build).await?;
    let code = match &record.code {
        Some(code) => Some(code_hash(connection, code).await?),
        None => None,
    };
    let run: i64 = query_scalar(
        "INSERT INTO run (uid, name, experiment_id, config_hash, source_hash, overrides, provenance, model, spec_hash,
                          spec_sha256, weights, data_sha256, classes, seed, build_id, state, reason, created_ms, ended_ms,
                          plan, cursor_step, metric_digest, lease_epoch, hb_ms, code_hash, environment, rerun_of)
         VALUES (?1, ?2, (SELECT id FROM experiment WHERE name = ?3), ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
                 ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?19, ?24, ?25, ?26)
         RETURNING id",
    )
    .bind(&facts.uid)
    .bind(&facts.name)
    .bind(&facts.experiment)
    .bind(hash(&record.config))
    .bind(hash(&source))
    .bind(json!(facts.overrides).to_string())
    .bind(json!(facts.provenance).to_string())
    .bind(&facts.model)
    .bind(hash(&spec))
    .bind(&facts.spec_sha256)
    .bind(facts.weights.to_string())
    .bind(&facts.data_sha256)
    .bind(json!(facts.classes).to_string())
    .bind(signed(facts.seed))
    .bind(build)
    .bind(&facts.state)
    .bind(&facts.reason)
    .bind(facts.created_ms)
    .bind(facts.ended_ms)
    .bind(facts.plan.as_ref().map(ToString::to_string))
    .bind(facts.cursor_step)
    .bind(facts.metric_digest.as_deref().map(unhex).transpose()?)
    .bind(record.work.attempts.last().map_or(1, |attempt| attempt.lease_epoch))
    .bind(code)
    .bind(json!(facts.environment).to_string())
    .bind(&facts.rerun_of)
    .fetch_one(&mut *connection)
    .await?;
    for attempt in &record.work.attempts {
        import_attempt(connection, run, attempt).await?;
    }
    insert_all(connection, run, &record.points).await?;
    import_checkpoints(connection, run, &facts.checkpoints, blobs).await?;
    import_notes(connection, run, facts).await?;
    annotations::insert(connection, run, &facts.annotations).await?;
    Ok(true)
}

/// The bytes of a sha256 in hexadecimal, which [`RunRecord::check`] looked at.
fn unhex(text: &str) -> Result<Vec<u8>> {
    let byte = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    bytes.ok_or_else(|| Error::input(format!("`{text}` is no sha256")))
}

fn pair(file: &SourceFile) -> (&String, &String) {
    (&file.name, &file.text)
}

async fn import_attempt(connection: &mut Connection, run: i64, attempt: &AttemptRecord) -> Tried<()> {
    let build = build_id(connection, &attempt.build).await?;
    query(
        "INSERT INTO attempt (run_id, lease_epoch, host, boot_id, pid, pid_start, cpu, isa, sources_sha256, threads, device,
                              build_id, resumed_from, started_ms, seconds, samples, step_seconds, data_seconds, exit)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(run)
    .bind(attempt.lease_epoch)
    .bind(&attempt.host)
    .bind(&attempt.boot_id)
    .bind(attempt.pid)
    .bind(attempt.pid_start)
    .bind(&attempt.cpu)
    .bind(&attempt.isa)
    .bind(&attempt.sources_sha256)
    .bind(attempt.threads)
    .bind(&attempt.device)
    .bind(build)
    .bind(attempt.resumed_from)
    .bind(attempt.started_ms)
    .bind(attempt.seconds.0)
    .bind(attempt.samples)
    .bind(attempt.step_seconds.0)
    .bind(attempt.data_seconds.0)
    .bind(&attempt.exit)
    .execute(connection)
    .await?;
    Ok(())
}

async fn import_checkpoints(
    connection: &mut Connection,
    run: i64,
    checkpoints: &[CheckpointFacts],
    blobs: &[Stored],
) -> Tried<()> {
    for blob in blobs {
        query("INSERT INTO artifact (sha256, bytes) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(&blob.sha256)
            .bind(step_number(blob.bytes)?)
            .execute(&mut *connection)
            .await?;
    }
    for checkpoint in checkpoints {
        query(
            "INSERT INTO checkpoint (run_id, step, role, weights_sha256, state_sha256, metric_digest, created_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(run)
        .bind(checkpoint.step)
        .bind(&checkpoint.role)
        .bind(&checkpoint.weights_sha256)
        .bind(&checkpoint.state_sha256)
        .bind(unhex(&checkpoint.metric_digest)?)
        .bind(checkpoint.created_ms)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn import_notes(connection: &mut Connection, run: i64, facts: &RunFacts) -> Tried<()> {
    for warning in &facts.warnings {
        query("INSERT INTO warning (run_id, step, message, created_ms) VALUES (?, ?, ?, ?)")
            .bind(run)
            .bind(warning.step)
            .bind(&warning.message)
            .bind(warning.created_ms)
            .execute(&mut *connection)
            .await?;
    }
    for mismatch in &facts.replay_mismatches {
        let key = key_id(connection, &mismatch.metric).await?;
        query("INSERT INTO replay_mismatch VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(run)
            .bind(key)
            .bind(mismatch.step)
            .bind(mismatch.old_bits)
            .bind(mismatch.new_bits)
            .bind(mismatch.lease_epoch)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
