//! The life of a run: created, heart beating, ended, resumed.

use super::sql::{Connection, query, query_as, query_scalar};
use super::{End, Fault, Store, Tried, annotations, signed};
use crate::error::{Error, Result};
use crate::registry::lease;
use crate::registry::run::BuildRecord;
use crate::registry::{Build, Code, NewRun, Process, RunState};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How a process begins to work on a run.
#[derive(Debug, Clone)]
pub struct Start {
    /// The process.
    pub process: Process,
    /// What it was built from.
    pub build: Build,
    /// cpu, cuda:0, ..
    pub device: String,
    /// Worker threads.
    pub threads: usize,
    /// How many of the newest checkpoints are kept; 2 or more, so that a damaged one leaves another.
    pub keep_last: usize,
}

/// A run that this process works on; a write under an older epoch than the stored one is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Working {
    /// The row.
    pub id: i64,
    /// UUIDv7.
    pub uid: String,
    /// Which of the run's attempts this is, from 1.
    pub lease_epoch: i64,
    /// How many of the newest checkpoints are kept.
    pub keep_last: usize,
}

impl Store {
    /// Creates a run in state RUNNING, with `uid` as its id. The caller holds the run's lease.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    pub fn create_run(&mut self, uid: &str, run: &NewRun, start: &Start) -> Result<Working> {
        let now = self.clock.now_ms();
        let config = canonical(&run.config);
        let (source, spec) = (files(pairs(&run.files)), files(pairs(&run.spec_files)));
        self.claim(uid)?;
        let id = self.write(async |connection| -> Tried<i64> {
            // The registry has it already, where the answer to the first try was lost.
            let created = query_scalar("SELECT id FROM run WHERE uid = ? AND lease_epoch = 1 AND created_ms = ?");
            if let Some(id) = created.bind(uid).bind(now).fetch_optional(&mut *connection).await? {
                return Ok(id);
            }
            keep_recipe(connection, &run.experiment, &config, [&source, &spec]).await?;
            let build = build_id(connection, &start.build.into()).await?;
            let code = match &run.origin.code {
                Some(code) => Some(code_hash(connection, code).await?),
                None => None,
            };
            let id: i64 = query_scalar(
                "INSERT INTO run (uid, name, experiment_id, config_hash, source_hash, overrides, provenance, model,
                                  spec_hash, spec_sha256, weights, data_sha256, classes, seed, build_id, state,
                                  created_ms, lease_epoch, hb_ms, code_hash, environment, rerun_of)
                 VALUES (?1, ?2, (SELECT id FROM experiment WHERE name = ?3), ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,
                         ?13, ?14, ?15, 'RUNNING', ?16, 1, ?16, ?17, ?18, ?19)
                 RETURNING id",
            )
            .bind(uid)
            .bind(&run.name)
            .bind(&run.experiment)
            .bind(hash(&config))
            .bind(hash(&source))
            .bind(json!(run.overrides).to_string())
            .bind(canonical(&run.provenance))
            .bind(&run.model)
            .bind(hash(&spec))
            .bind(&run.spec_sha256)
            .bind(canonical(&run.weights))
            .bind(&run.data_sha256)
            .bind(json!(run.classes).to_string())
            .bind(signed(run.seed))
            .bind(build)
            .bind(now)
            .bind(code)
            .bind(json!(run.origin.environment).to_string())
            .bind(&run.origin.rerun_of)
            .fetch_one(&mut *connection)
            .await?;
            insert_attempt(connection, id, 1, start, build, None, now).await?;
            annotations::insert(connection, id, &run.annotations).await?;
            Ok(id)
        })?;
        Ok(Working { id, uid: uid.to_owned(), lease_epoch: 1, keep_last: start.keep_last })
    }

    /// The attempt that a run is in, to go on writing what its process could not; `None` where other programs keep the
    /// registry locked.
    ///
    /// # Errors
    /// Where there is no such run, or where the registry cannot be read.
    pub fn last_attempt(&mut self, uid: &str, keep_last: usize, patient: bool) -> Result<Option<Working>> {
        let patience = if patient { self.patience } else { Duration::ZERO };
        let found: Option<Option<(i64, i64)>> = self.try_write(patience, async |connection| -> Tried<_> {
            let row = query_as("SELECT id, lease_epoch FROM run WHERE uid = ?").bind(uid);
            Ok(row.fetch_optional(connection).await?)
        })?;
        match found {
            None => Ok(None),
            Some(None) => Err(Error::input(format!("there is no run {uid}"))),
            Some(Some((id, lease_epoch))) => Ok(Some(Working { id, uid: uid.to_owned(), lease_epoch, keep_last })),
        }
    }

    /// Takes a stopped or crashed run over, to go on after the checkpoint of step `from`. The caller holds its lease.
    ///
    /// # Errors
    /// Where the run is completed, or where another process took it over first.
    pub fn resume_run(&mut self, uid: &str, start: &Start, from: Option<u64>) -> Result<Working> {
        let now = self.clock.now_ms();
        let from = from.map(super::step_number).transpose()?;
        if !self.claim(uid)? {
            return Err(Error::input(lease::TAKEN));
        }
        let (id, lease_epoch) = self.write(async |connection| -> Tried<(i64, i64)> {
            let (id, epoch, state): (i64, i64, String) =
                query_as("SELECT id, lease_epoch, state FROM run WHERE uid = ?")
                    .bind(uid)
                    .fetch_one(&mut *connection)
                    .await?;
            if state == RunState::Completed.name() {
                return Err(Fault::Rule(Error::input(format!(
                    "the run {uid} is completed; there is nothing to resume"
                ))));
            }
            let taken = query(
                "UPDATE run SET lease_epoch = ?2 + 1, state = 'RUNNING', reason = NULL, ended_ms = NULL, hb_ms = ?3
                 WHERE id = ?1 AND lease_epoch = ?2",
            )
            .bind(id)
            .bind(epoch)
            .bind(now)
            .execute(&mut *connection)
            .await?;
            if taken == 0 {
                return Err(Fault::Rule(Error::input(lease::TAKEN)));
            }
            query("UPDATE attempt SET exit = 'crashed' WHERE run_id = ? AND exit IS NULL")
                .bind(id)
                .execute(&mut *connection)
                .await?;
            let build = build_id(connection, &start.build.into()).await?;
            insert_attempt(connection, id, epoch + 1, start, build, from, now).await?;
            Ok((id, epoch + 1))
        })?;
        Ok(Working { id, uid: uid.to_owned(), lease_epoch, keep_last: start.keep_last })
    }
}

/// Ends a process's work on a run.
pub(super) async fn end(connection: &mut Connection, run: &Working, end: &End, now: i64) -> Tried<()> {
    query(
        "UPDATE run SET state = ?3, reason = ?4, ended_ms = CASE WHEN ?5 > created_ms THEN ?5 ELSE created_ms END
         WHERE id = ?1 AND lease_epoch = ?2",
    )
    .bind(run.id)
    .bind(run.lease_epoch)
    .bind(end.state.name())
    .bind(&end.reason)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    query("UPDATE attempt SET exit = ? WHERE run_id = ? AND lease_epoch = ?")
        .bind(end.state.name().to_lowercase())
        .bind(run.id)
        .bind(run.lease_epoch)
        .execute(connection)
        .await?;
    Ok(())
}

/// The error of a process that lost its run to another.
pub(super) fn fenced_unless(ours: bool, run: &Working) -> Tried<()> {
    if ours {
        return Ok(());
    }
    let message = format!("another process took over the run {}; this one stops without writing", run.uid);
    Err(Fault::Rule(Error::failed(message)))
}

/// Keeps what a run is made from, each text once: its experiment's name and resolved text; the sources.
pub(super) async fn keep_recipe(
    connection: &mut Connection,
    experiment: &str,
    config: &str,
    sources: [&str; 2],
) -> Tried<()> {
    query("INSERT INTO experiment (name) VALUES (?) ON CONFLICT DO NOTHING")
        .bind(experiment)
        .execute(&mut *connection)
        .await?;
    query("INSERT INTO config (hash, canonical) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(hash(config))
        .bind(config)
        .execute(&mut *connection)
        .await?;
    for text in sources {
        query("INSERT INTO source VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(hash(text))
            .bind(text)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn build_id(connection: &mut Connection, build: &BuildRecord) -> Tried<i64> {
    // The update that changes nothing makes RETURNING answer for a row that was there.
    let id = query_scalar(
        "INSERT INTO build (version, git_sha, dirty, rustc, target, features, lock_hash) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (version, git_sha, dirty, rustc, target, features, lock_hash) DO UPDATE SET version = excluded.version
         RETURNING id",
    )
    .bind(&build.version)
    .bind(&build.git_sha)
    .bind(build.dirty)
    .bind(&build.rustc)
    .bind(&build.target)
    .bind(&build.features)
    .bind(&build.lock_sha256)
    .fetch_one(connection)
    .await?;
    Ok(id)
}

/// Stores what git said, once, and returns its hash.
pub(super) async fn code_hash(connection: &mut Connection, code: &Code) -> Tried<Vec<u8>> {
    let hash = hash(&json!([code, code.patch]).to_string());
    query("INSERT INTO code VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(&hash)
        .bind(&code.commit)
        .bind(&code.branch)
        .bind(&code.remote)
        .bind(&code.patch)
        .bind(json!(code.untracked).to_string())
        .bind(&code.note)
        .execute(connection)
        .await?;
    Ok(hash)
}

async fn insert_attempt(
    connection: &mut Connection,
    run: i64,
    lease_epoch: i64,
    start: &Start,
    build: i64,
    resumed_from: Option<i64>,
    now: i64,
) -> Tried<()> {
    query(
        "INSERT INTO attempt (run_id, lease_epoch, host, boot_id, pid, pid_start, cpu, threads, device, build_id,
                              resumed_from, started_ms, isa, sources_sha256)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(run)
    .bind(lease_epoch)
    .bind(&start.process.host)
    .bind(&start.process.boot_id)
    .bind(i64::from(start.process.pid))
    .bind(start.process.pid_start)
    .bind(&start.process.cpu)
    .bind(i64::try_from(start.threads).unwrap_or(i64::MAX))
    .bind(&start.device)
    .bind(build)
    .bind(resumed_from)
    .bind(now)
    .bind(start.process.isa)
    .bind(start.build.sources_sha256)
    .execute(connection)
    .await?;
    Ok(())
}

/// JSON with sorted keys and shortest floats: equal values have equal texts.
pub(super) fn canonical(value: &Value) -> String {
    // serde_json's map is sorted as long as its feature `preserve_order` is off; sorting here holds either way.
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let mut pairs: Vec<_> = fields.iter().collect();
                pairs.sort_by_key(|(key, _)| *key);
                Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

fn pairs(files: &[(String, String)]) -> impl Iterator<Item = (&String, &String)> {
    files.iter().map(|(name, text)| (name, text))
}

/// Source files as they are stored.
pub(super) fn files<'a>(files: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let files: Vec<Value> = files.map(|(name, text)| json!({"name": name, "text": text})).collect();
    Value::Array(files).to_string()
}

pub(super) fn hash(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}
