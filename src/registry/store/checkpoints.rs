//! Checkpoints: their rows, and which blobs are still needed.

use super::runs::Working;
use super::sql::{Connection, query, query_scalar};
use super::{Reader, Store, Tried, step_number};
use crate::error::Result;
use crate::registry::blob::Stored;
use crate::train::event::Role;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// A checkpoint whose blobs are stored; whoever stored them holds [`Blobs::guard`](super::Blobs::guard).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCheckpoint {
    /// The last step that is in it.
    pub step: u64,
    /// What it is kept for.
    pub role: Role,
    /// The model alone.
    pub weights: Stored,
    /// What an exact resume needs beside it.
    pub state: Stored,
    /// The hash chain over the points up to it.
    pub metric_digest: [u8; 32],
}

/// Writes the rows of checkpoints, and drops those of checkpoints that are no longer kept.
pub(super) async fn insert_checkpoints(
    connection: &mut Connection,
    run: &Working,
    checkpoints: &[NewCheckpoint],
    now: i64,
) -> Tried<()> {
    for checkpoint in checkpoints {
        for blob in [&checkpoint.weights, &checkpoint.state] {
            query("INSERT INTO artifact (sha256, bytes) VALUES (?, ?) ON CONFLICT DO NOTHING")
                .bind(&blob.sha256)
                .bind(step_number(blob.bytes)?)
                .execute(&mut *connection)
                .await?;
        }
        query(
            "INSERT INTO checkpoint (run_id, step, role, weights_sha256, state_sha256, metric_digest, created_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (run_id, step, role) DO UPDATE SET weights_sha256 = excluded.weights_sha256,
                 state_sha256 = excluded.state_sha256, metric_digest = excluded.metric_digest,
                 created_ms = excluded.created_ms",
        )
        .bind(run.id)
        .bind(step_number(checkpoint.step)?)
        .bind(checkpoint.role.name())
        .bind(&checkpoint.weights.sha256)
        .bind(&checkpoint.state.sha256)
        .bind(checkpoint.metric_digest.as_slice())
        .bind(now)
        .execute(&mut *connection)
        .await?;
    }
    if checkpoints.is_empty() {
        return Ok(());
    }
    let keep_last = i64::try_from(run.keep_last).unwrap_or(i64::MAX);
    for (role, kept) in [(Role::Last, keep_last), (Role::Best, 1)] {
        query(
            "DELETE FROM checkpoint WHERE run_id = ?1 AND role = ?2 AND step NOT IN
             (SELECT step FROM checkpoint WHERE run_id = ?1 AND role = ?2 ORDER BY step DESC LIMIT ?3)",
        )
        .bind(run.id)
        .bind(role.name())
        .bind(kept)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

impl Store {
    /// Forgets the blobs that no checkpoint names, and returns them. Whoever removes their files afterwards holds
    /// [`Blobs::alone`](super::Blobs::alone) from before: a crash in between leaves a file that nobody needs, never a
    /// checkpoint without its file. Forgets nothing where others keep the registry locked.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    pub fn forget_unreferenced(&mut self) -> Result<Vec<String>> {
        let forgotten = self.try_write(Duration::ZERO, async |connection| -> Tried<_> {
            connection.alone_with_checkpoints().await?;
            let forgotten = query_scalar(
                "DELETE FROM artifact
                 WHERE sha256 NOT IN (SELECT weights_sha256 FROM checkpoint)
                   AND sha256 NOT IN (SELECT state_sha256 FROM checkpoint)
                 RETURNING sha256",
            );
            Ok(forgotten.fetch_all(connection).await?)
        })?;
        Ok(forgotten.unwrap_or_default())
    }
}

impl Reader {
    /// Every blob that a checkpoint names.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn referenced(&mut self) -> Result<BTreeSet<String>> {
        let names: Vec<String> = self.read(async |connection| -> Tried<_> {
            let both = "SELECT weights_sha256 FROM checkpoint UNION SELECT state_sha256 FROM checkpoint";
            Ok(query_scalar(both).fetch_all(connection).await?)
        })?;
        Ok(names.into_iter().collect())
    }

    /// The ids of all runs.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn run_ids(&mut self) -> Result<BTreeSet<String>> {
        let ids: Vec<String> = self.read(async |connection| -> Tried<_> {
            Ok(query_scalar("SELECT uid FROM run").fetch_all(connection).await?)
        })?;
        Ok(ids.into_iter().collect())
    }
}
