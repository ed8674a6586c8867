//! Where a process writes while somebody else keeps the registry locked: a log beside the run's lock, which whoever
//! works on the run next stores before anything else.
//!
//! Each entry is its length (4 bytes, little-endian), its sha256, and JSON. An entry that is not whole was never
//! acknowledged, and ends the log.

use super::blob::{remove_file, sync_folder};
use super::run::Point;
use super::store::{Batch, Store, Working};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const HASH: usize = 32;

/// The spill file of one run.
#[derive(Debug, Clone)]
pub struct Spill {
    path: PathBuf,
}

/// What one transaction should have written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Of which attempt.
    pub lease_epoch: i64,
    /// How many of the newest checkpoints are kept.
    pub keep_last: usize,
    /// Everything but the points.
    pub batch: Batch,
    /// Metric, step, and the bits of the value: JSON has no NaN.
    points: Vec<(String, u64, u64)>,
}

impl Entry {
    /// What `run` should have written.
    pub fn new(run: &Working, batch: &Batch) -> Self {
        let point = |point: &Point| (point.metric.clone(), point.step, point.value.to_bits());
        Entry {
            lease_epoch: run.lease_epoch,
            keep_last: run.keep_last,
            batch: Batch { points: Vec::new(), ..batch.clone() },
            points: batch.points.iter().map(point).collect(),
        }
    }

    fn into_batch(self) -> Batch {
        let point = |(metric, step, bits)| Point { metric, step, value: f64::from_bits(bits) };
        Batch { points: self.points.into_iter().map(point).collect(), ..self.batch }
    }
}

impl Spill {
    /// The spill file in a run's folder, whether there is one or not.
    pub fn of(run_folder: &Path) -> Self {
        Spill { path: run_folder.join("metrics.spill") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Adds an entry. It is on the disk when this returns.
    ///
    /// # Errors
    /// Where the disk is full or fails.
    pub fn append(&self, entry: &Entry) -> Result<()> {
        let text = serde_json::to_vec(entry).expect("text keys and numbers");
        let length = u32::try_from(text.len()).map_err(|_| Error::failed("a spill entry of more than 4 GiB"))?;
        let frame = [&length.to_le_bytes()[..], &Sha256::digest(&text), &text].concat();
        let write = || -> io::Result<()> {
            let is_new = !self.path.exists();
            let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            file.write_all(&frame)?;
            file.sync_all()?;
            if is_new { self.path.parent().map_or(Ok(()), sync_folder) } else { Ok(()) }
        };
        write().map_err(|error| Error::disk(format!("cannot write {}: {error}", self.path.display())))
    }

    /// The whole entries, oldest first; none where there is no file.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::disk(format!("cannot read {}: {error}", self.path.display()))),
        };
        let mut entries = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<4>()
            && let Some((hash, after)) = after.split_at_checked(HASH)
            && let Some((text, after)) = after.split_at_checked(u32::from_le_bytes(*length) as usize)
            && Sha256::digest(text).as_slice() == hash
        {
            entries.push(serde_json::from_slice(text).map_err(|error| {
                Error::failed(format!("{} was written by another version: {error}", self.path.display()))
            })?);
            rest = after;
        }
        Ok(entries)
    }

    /// Stores the entries and removes the file. `None` where the registry is still locked; what was stored by then is
    /// stored again the next time, which changes nothing. Otherwise how many entries there were, and how many values
    /// were in the registry already with other bits. The caller holds the run's lease.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn restore(&self, store: &mut Store, uid: &str, patient: bool) -> Result<Option<(usize, u64)>> {
        let entries = self.entries()?;
        let (count, mut mismatches) = (entries.len(), 0);
        for entry in entries {
            let Some(now) = store.last_attempt(uid, entry.keep_last, patient)? else { return Ok(None) };
            let is_current = entry.lease_epoch == now.lease_epoch;
            let batch = entry.into_batch();
            // Of an earlier attempt only what it saw counts, not where it was.
            let batch = match is_current {
                true => batch,
                false => Batch { points: batch.points, warnings: batch.warnings, ..Batch::default() },
            };
            match store.try_flush(&now, &batch, patient)? {
                Some(differing) => mismatches += differing,
                None => return Ok(None),
            }
        }
        remove_file(&self.path)?;
        Ok(Some((count, mismatches)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_entries_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().expect("a folder");
        let spill = Spill::of(folder.path());
        assert!(!spill.exists() && spill.entries().expect("none").is_empty());
        let run = Working { id: 1, uid: "u".to_owned(), lease_epoch: 3, keep_last: 2 };
        let values = [f64::NAN, -0.0, 0.1 + 0.2, f64::INFINITY];
        for (step, value) in (0..).zip(values) {
            let points = vec![Point { metric: "val.loss".to_owned(), step, value }];
            let batch = Batch { points, seconds: 0.5, metric_digest: Some([7; 32]), ..Batch::default() };
            spill.append(&Entry::new(&run, &batch)).expect("written");
        }
        let whole = fs::read(spill.path()).expect("read");
        let read = || spill.entries().expect("read").into_iter().map(Entry::into_batch).collect::<Vec<_>>();
        let bits: Vec<u64> = read().iter().map(|batch| batch.points[0].value.to_bits()).collect();
        assert_eq!(bits, values.map(f64::to_bits));
        assert_eq!(read()[0].metric_digest, Some([7; 32]));
        for length in 0..whole.len() {
            fs::write(spill.path(), &whole[..length]).expect("written");
            assert_eq!(read().len(), 4 * length / whole.len(), "entries have one length: cut after {length} bytes");
        }
        let mut damaged = whole.clone();
        damaged[whole.len() / 4 * 2 + 50] ^= 1;
        fs::write(spill.path(), damaged).expect("written");
        assert_eq!(read().len(), 2, "nothing after what is damaged");
    }
}
