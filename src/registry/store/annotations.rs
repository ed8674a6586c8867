//! Tags, groups, notes, and what is put away. They change, so nothing of a run's own record is touched.

use super::{Page, Store, Tried};
use crate::error::Result;
use crate::registry::annotations::{Annotations, Change};
use sqlx::SqliteConnection;

impl Store {
    /// Changes what is said of the runs of a page, in one transaction. Returns how many of them changed.
    ///
    /// # Errors
    /// Where the registry cannot be written. Then nothing changed.
    pub fn annotate(&mut self, page: &Page, change: &Change) -> Result<usize> {
        let now = self.clock.now_ms();
        self.write(async |connection| -> Tried<usize> {
            let mut changed = 0;
            for id in page.ids() {
                changed += usize::from(apply(connection, *id, change, now).await?);
            }
            Ok(changed)
        })
    }
}

/// What is said of a run that was just created.
pub(super) async fn insert(connection: &mut SqliteConnection, run: i64, said: &Annotations) -> Tried<()> {
    let change = Change {
        add_tags: said.tags.clone(),
        group: said.group.clone().map(Some),
        note: said.note.clone().map(Some),
        ..Change::default()
    };
    apply(connection, run, &change, 0).await?;
    Ok(())
}

/// Changes what is said of one run; says whether anything did change.
async fn apply(connection: &mut SqliteConnection, run: i64, change: &Change, now: i64) -> Tried<bool> {
    let mut rows = 0;
    for tag in &change.add_tags {
        let added = sqlx::query("INSERT INTO tag (run_id, name) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(run)
            .bind(tag)
            .execute(&mut *connection)
            .await?;
        rows += added.rows_affected();
    }
    for tag in &change.remove_tags {
        let removed = sqlx::query("DELETE FROM tag WHERE run_id = ? AND name = ?")
            .bind(run)
            .bind(tag)
            .execute(&mut *connection)
            .await?;
        rows += removed.rows_affected();
    }
    if change.group.is_some() || change.note.is_some() || change.archived.is_some() {
        sqlx::query("INSERT INTO annotation (run_id) VALUES (?) ON CONFLICT DO NOTHING")
            .bind(run)
            .execute(&mut *connection)
            .await?;
    }
    if let Some(group) = &change.group {
        let set = sqlx::query("UPDATE annotation SET run_group = ?2 WHERE run_id = ?1 AND run_group IS NOT ?2")
            .bind(run)
            .bind(group)
            .execute(&mut *connection)
            .await?;
        rows += set.rows_affected();
    }
    if let Some(note) = &change.note {
        let set = sqlx::query("UPDATE annotation SET note = ?2 WHERE run_id = ?1 AND note IS NOT ?2")
            .bind(run)
            .bind(note)
            .execute(&mut *connection)
            .await?;
        rows += set.rows_affected();
    }
    if let Some(archived) = change.archived {
        let set = sqlx::query(
            "UPDATE annotation SET archived_ms = iif(?2, ?3, NULL) WHERE run_id = ?1 AND (archived_ms IS NOT NULL) <> ?2",
        )
        .bind(run)
        .bind(archived)
        .bind(now)
        .execute(connection)
        .await?;
        rows += set.rows_affected();
    }
    Ok(rows > 0)
}
