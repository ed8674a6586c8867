//! Which runs a command is about: named one by one, or by a filter.

use crate::error::{Error, Result};
use crate::registry::store::{Page, Selection};
use crate::registry::{Filter, Reader};

#[derive(Debug, clap::Args)]
pub(super) struct Chosen {
    /// Ids, short ids or names
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// Runs that a filter is true of, as of `runs ls`
    #[arg(long = "where", value_name = "FILTER")]
    pub filter: Option<String>,
}

impl Chosen {
    /// The runs, each once: first those that are named, then those of the filter, newest first.
    ///
    /// # Errors
    /// Where nothing is said, a name fits no run, or the filter is wrong or true of none.
    pub fn page(&self, reader: &mut Reader) -> Result<Page> {
        if self.runs.is_empty() && self.filter.is_none() {
            return Err(Error::input("name one or more runs, or pass --where FILTER; `resnet-zoo runs ls` lists them"));
        }
        let mut pages = Vec::new();
        for wanted in &self.runs {
            let run = reader.find(wanted)?;
            pages.push(reader.page_of(&run)?);
        }
        if let Some(text) = &self.filter {
            let filter = Some(Filter::parse(text, reader)?);
            let found = reader.select(&Selection { filter, ..Selection::default() })?;
            if found.is_empty() && self.runs.is_empty() {
                return Err(Error::input(format!("there is no run with {text}; `resnet-zoo runs ls` shows all")));
            }
            pages.push(found);
        }
        Ok(Page::join(pages))
    }
}
