//! Tags, groups, notes, and what is put away. They change, so nothing of a run's own record is touched.

use super::sql::{Connection, query, query_scalar};
use super::{Page, Store, Tried};
use crate::error::Result;
use crate::registry::annotations::{Annotations, Change};
use sqlx::AssertSqlSafe;
use std::collections::BTreeSet;

impl Store {
    /// Changes what is said of the runs of a page, in one transaction. Returns how many of them changed.
    ///
    /// # Errors
    /// Where the registry cannot be written. Then nothing changed.
    pub fn annotate(&mut self, page: &Page, change: &Change) -> Result<usize> {
        let (ids, now) = (page.ids_json(), self.clock.now_ms());
        self.write(async |connection| Ok(apply(connection, &ids, change, now).await?.len()))
    }
}

/// What is said of a run that was just created.
pub(super) async fn insert(connection: &mut Connection, run: i64, said: &Annotations) -> Tried<()> {
    let change = Change {
        add_tags: said.tags.clone(),
        group: said.group.clone().map(Some),
        note: said.note.clone().map(Some),
        ..Change::default()
    };
    apply(connection, &format!("[{run}]"), &change, 0).await?;
    Ok(())
}

/// Changes what is said of the runs with these ids, a JSON array; says which of them it did change.
async fn apply(connection: &mut Connection, ids: &str, change: &Change, now: i64) -> Tried<BTreeSet<i64>> {
    let numbers = connection.dialect().numbers();
    let mut changed = BTreeSet::new();
    for tag in &change.add_tags {
        let rows: Vec<i64> = query_scalar(AssertSqlSafe(format!(
            "INSERT INTO tag (run_id, name) SELECT value, ?2 FROM ({numbers}) AS chosen WHERE TRUE
             ON CONFLICT DO NOTHING RETURNING run_id"
        )))
        .bind(ids)
        .bind(tag)
        .fetch_all(&mut *connection)
        .await?;
        changed.extend(rows);
    }
    for tag in &change.remove_tags {
        let rows: Vec<i64> = query_scalar(AssertSqlSafe(format!(
            "DELETE FROM tag WHERE name = ?2 AND run_id IN ({numbers}) RETURNING run_id"
        )))
        .bind(ids)
        .bind(tag)
        .fetch_all(&mut *connection)
        .await?;
        changed.extend(rows);
    }
    if change.group.is_some() || change.note.is_some() || change.archived.is_some() {
        query(AssertSqlSafe(format!(
            "INSERT INTO annotation (run_id) SELECT value FROM ({numbers}) AS chosen WHERE TRUE ON CONFLICT DO NOTHING"
        )))
        .bind(ids)
        .execute(&mut *connection)
        .await?;
    }
    if let Some(group) = &change.group {
        let rows: Vec<i64> = query_scalar(AssertSqlSafe(format!(
            "UPDATE annotation SET run_group = ?2
             WHERE run_id IN ({numbers}) AND run_group IS DISTINCT FROM ?2 RETURNING run_id"
        )))
        .bind(ids)
        .bind(group)
        .fetch_all(&mut *connection)
        .await?;
        changed.extend(rows);
    }
    if let Some(note) = &change.note {
        let rows: Vec<i64> = query_scalar(AssertSqlSafe(format!(
            "UPDATE annotation SET note = ?2
             WHERE run_id IN ({numbers}) AND note IS DISTINCT FROM ?2 RETURNING run_id"
        )))
        .bind(ids)
        .bind(note)
        .fetch_all(&mut *connection)
        .await?;
        changed.extend(rows);
    }
    if let Some(archived) = change.archived {
        let rows: Vec<i64> = query_scalar(AssertSqlSafe(format!(
            "UPDATE annotation SET archived_ms = CASE WHEN ?2 THEN ?3 END
             WHERE run_id IN ({numbers}) AND (archived_ms IS NOT NULL) <> ?2 RETURNING run_id"
        )))
        .bind(ids)
        .bind(archived)
        .bind(now)
        .fetch_all(connection)
        .await?;
        changed.extend(rows);
    }
    Ok(changed)
}
