//! Checkpoints: their rows, and which blobs are still needed.

use super::points::{Batch, flush};
use super::runs::Working;
use super::{Store, Tried, step_number};
use crate::error::Result;
use crate::registry::blob::Stored;
use crate::train::event::Role;

impl Store {
    /// Writes, in one transaction, a batch and the checkpoint that comes after it, and drops the rows of checkpoints
    /// that are no longer kept. The caller stored the blobs and holds [`Blobs::guard`](super::Blobs::guard). Returns
    /// the number of replay mismatches, as [`flush`](Self::flush).
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn commit_checkpoint(
        &mut self,
        run: &Working,
        batch: &Batch,
        step: u64,
        role: Role,
        weights: &Stored,
        state: &Stored,
    ) -> Result<u64> {
        let now = self.clock.now_ms();
        let digest = batch.metric_digest.unwrap_or_default();
        self.write(async |connection| -> Tried<u64> {
            let mismatches = flush(connection, run, batch, now).await?;
            for blob in [weights, state] {
                sqlx::query("INSERT INTO artifact (sha256, bytes) VALUES (?, ?) ON CONFLICT DO NOTHING")
                    .bind(&blob.sha256)
                    .bind(step_number(blob.bytes)?)
                    .execute(&mut *connection)
                    .await?;
            }
            sqlx::query("INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(run.id)
                .bind(step_number(step)?)
                .bind(role_name(role))
                .bind(&weights.sha256)
                .bind(&state.sha256)
                .bind(digest.as_slice())
                .bind(now)
                .execute(&mut *connection)
                .await?;
            let keep_last = i64::try_from(run.keep_last).unwrap_or(i64::MAX);
            for (role, kept) in [(Role::Last, keep_last), (Role::Best, 1)] {
                sqlx::query(
                    "DELETE FROM checkpoint WHERE run_id = ?1 AND role = ?2 AND step NOT IN
                     (SELECT step FROM checkpoint WHERE run_id = ?1 AND role = ?2 ORDER BY step DESC LIMIT ?3)",
                )
                .bind(run.id)
                .bind(role_name(role))
                .bind(kept)
                .execute(&mut *connection)
                .await?;
            }
            Ok(mismatches)
        })
    }

    /// Removes blobs that no checkpoint names: first their rows, then the files, so that a crash between leaves an
    /// orphan and never a checkpoint without its file. Does nothing where another process is adding blobs.
    ///
    /// # Errors
    /// Where the registry or the folder cannot be written.
    pub fn prune(&mut self) -> Result<()> {
        let Some(_alone) = self.blobs.alone()? else { return Ok(()) };
        let removed = self.write(async |connection| -> Tried<Vec<String>> {
            Ok(sqlx::query_scalar(
                "DELETE FROM artifact
                 WHERE sha256 NOT IN (SELECT weights_sha256 FROM checkpoint)
                   AND sha256 NOT IN (SELECT state_sha256 FROM checkpoint)
                 RETURNING sha256",
            )
            .fetch_all(connection)
            .await?)
        })?;
        removed.iter().try_for_each(|sha256| self.blobs.remove(sha256))
    }
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Last => "last",
        Role::Best => "best",
    }
}
