//! Which samples the data sets of runs hold: each list once, compressed.

use super::sql::{query, query_scalar};
use super::{Reader, Store, Tried, step_number};
use crate::error::{Error, Result};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use std::io::{Read, Write};

/// Bytes of a list that are kept, and read: about three million samples.
pub const LONGEST_LIST: usize = 256 << 20;

impl Store {
    /// Keeps the list of the data set `data_sha256`, which `list` makes where there is none yet: a line a sample. One
    /// that is longer than [`LONGEST_LIST`] is not kept; returns whether there is one now.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    pub fn keep_samples(&mut self, data_sha256: &str, list: impl FnOnce() -> String) -> Result<bool> {
        let known = self.write(async |connection| -> Tried<bool> {
            let known = query_scalar("SELECT EXISTS (SELECT 1 FROM sample_list WHERE data_sha256 = ?)");
            Ok(known.bind(data_sha256).fetch_one(connection).await?)
        })?;
        if known {
            return Ok(true);
        }
        let list = list();
        if list.len() > LONGEST_LIST || list.is_empty() {
            return Ok(false);
        }
        let samples = step_number(list.lines().count() as u64)?;
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        let compressed = encoder.write_all(list.as_bytes()).and_then(|()| encoder.finish());
        let compressed = compressed.map_err(|error| Error::failed(format!("cannot compress a list: {error}")))?;
        self.write(async |connection| -> Tried<()> {
            query("INSERT INTO sample_list VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(data_sha256)
                .bind(samples)
                .bind(&compressed)
                .execute(connection)
                .await?;
            Ok(())
        })?;
        Ok(true)
    }
}

impl Reader {
    /// The list of a data set; none where no run kept one.
    ///
    /// # Errors
    /// Where the registry cannot be read, or where the list is damaged.
    pub fn samples(&mut self, data_sha256: &str) -> Result<Option<String>> {
        let compressed: Option<Vec<u8>> = self.read(async |connection| -> Tried<_> {
            let list = query_scalar("SELECT zlib FROM sample_list WHERE data_sha256 = ?");
            Ok(list.bind(data_sha256).fetch_optional(connection).await?)
        })?;
        let Some(compressed) = compressed else { return Ok(None) };
        let mut list = String::new();
        let read = ZlibDecoder::new(compressed.as_slice()).take(LONGEST_LIST as u64).read_to_string(&mut list);
        read.map_err(|error| Error::failed(format!("the list of samples of {data_sha256} is damaged: {error}")))?;
        Ok(Some(list))
    }
}
