//! Many runs in one question: by what people call them, and their settings.

use super::read::json;
use super::sql::{query_as, query_scalar};
use super::{Page, Reader, Tried};
use crate::error::Result;
use crate::registry::run::RunDetail;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use std::collections::BTreeMap;

impl Reader {
    /// What [`find`](Self::find) finds of each, in their order, as a page each.
    ///
    /// # Errors
    /// As [`find`](Self::find), of the first one that is not found.
    pub fn find_all(&mut self, wanted: &[String]) -> Result<Vec<Page>> {
        let names = serde_json::to_string(wanted).expect("text is JSON");
        let exact = self.read(async |connection| -> Tried<Vec<Option<i64>>> {
            let sql = format!(
                "SELECT coalesce((SELECT id FROM run WHERE uid = wanted.value),
                                 (SELECT id FROM run LEFT JOIN annotation ON run_id = id WHERE name = wanted.value
                                  ORDER BY archived_ms IS NOT NULL, id DESC LIMIT 1))
                 FROM {} ORDER BY wanted.key",
                connection.dialect().texts()
            );
            Ok(query_scalar(AssertSqlSafe(sql)).bind(&names).fetch_all(connection).await?)
        })?;
        let page = |(wanted, id): (&String, Option<i64>)| match id {
            Some(id) => Ok(Page::of(vec![id])),
            None => {
                let run = self.find(wanted)?;
                self.page_of(&run)
            }
        };
        wanted.iter().zip(exact).map(page).collect()
    }

    /// Everything about what [`find`](Self::find) finds of each, in their order, once where one is named twice.
    ///
    /// # Errors
    /// As [`find`](Self::find), of the first one that is not found.
    pub fn details_of(&mut self, wanted: &[String]) -> Result<Vec<RunDetail>> {
        let page = Page::join(self.find_all(wanted)?);
        let listings = self.listings(&page)?;
        self.details(listings)
    }

    /// The experiments of the runs of a page, as resolved, in its order.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub fn configs(&mut self, page: &Page) -> Result<Vec<Value>> {
        let ids = page.ids_json();
        let texts = self.read(async |connection| -> Tried<Vec<(i64, String)>> {
            let sql = format!(
                "SELECT run.id, canonical FROM run JOIN config ON config.hash = config_hash WHERE run.id IN ({})",
                connection.dialect().numbers()
            );
            Ok(query_as(AssertSqlSafe(sql)).bind(&ids).fetch_all(connection).await?)
        })?;
        let texts: BTreeMap<i64, String> = texts.into_iter().collect();
        page.ids().iter().filter_map(|id| texts.get(id)).map(|text| json(text)).collect()
    }
}
