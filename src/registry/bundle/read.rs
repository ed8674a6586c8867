//! Reads a bundle. Whatever it says is checked before anything is written anywhere.

use super::container::Container;
use super::{
    BUILD, BUNDLE, CODE, CONFIG, CodeFacts, FORMAT, Form, METRICS, Named, PATCH, README, RUN, SAMPLES, SUMS, blob_place,
};
use crate::error::{Error, Result};
use crate::registry::code::Code;
use crate::registry::record::{RunFacts, RunRecord, Work, is_sha256};
use crate::registry::run::{Point, SourceFile};
use crate::registry::store::{LONGEST_LIST, Store};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// Bytes of a text of a bundle, and of its larger parts.
const LONGEST_TEXT: u64 = 16 << 20;
const LONGEST_METRICS: u64 = 512 << 20;
const LONGEST_CHECKPOINT: u64 = 16 << 30;

/// A bundle whose every byte and word was checked.
pub struct Bundle {
    container: Container,
    /// The run.
    pub record: RunRecord,
}

impl Bundle {
    /// Opens a bundle and checks all of it: names, sizes, hashes, and that it says what a run of this program can say.
    ///
    /// # Errors
    /// [`Error::Input`], with what is wrong and where.
    pub fn open(path: &Path) -> Result<Self> {
        let (container, files) = Container::open(path)?;
        let sizes: BTreeMap<String, u64> = files.into_iter().collect();
        let mut unpacked = Unpacked { container, sizes, sums: BTreeMap::new() };
        let record = unpacked.record().map_err(|error| match error {
            Error::Input(why) => Error::input(format!("{} cannot be imported: {why}", path.display())),
            other => other,
        })?;
        Ok(Bundle { container: unpacked.container, record })
    }

    /// Writes the run and its checkpoints into a registry: all of it, or nothing that anybody sees. False where it is
    /// there already.
    ///
    /// # Errors
    /// Where the registry has another run of that id, where the bundle changed meanwhile, or where the disk fails.
    pub fn import(mut self, store: &mut Store) -> Result<bool> {
        if store.has(&self.record)? {
            return Ok(false);
        }
        let blobs = store.blobs().clone();
        // Nobody removes what no checkpoint names yet.
        let _adding = blobs.guard()?;
        let mut stored = Vec::new();
        for sha256 in self.record.blobs() {
            let mut bytes = Vec::new();
            let mut file = self.container.file(&blob_place(sha256))?.take(LONGEST_CHECKPOINT);
            file.read_to_end(&mut bytes).map_err(|error| Error::failed(format!("cannot read the bundle: {error}")))?;
            if format!("{:x}", Sha256::digest(&bytes)) != sha256 {
                return Err(Error::failed("the bundle changed while it was read; import it again"));
            }
            stored.push(blobs.put(&bytes)?);
        }
        store.import(&self.record, &stored)
    }
}

struct Unpacked {
    container: Container,
    sizes: BTreeMap<String, u64>,
    sums: BTreeMap<String, String>,
}

impl Unpacked {
    fn record(&mut self) -> Result<RunRecord> {
        self.read_sums()?;
        let form: Form = self.json(BUNDLE)?;
        if form.format != FORMAT {
            let format = form.format;
            return Err(Error::input(format!(
                "it has form {format}, and this version reads {FORMAT}; update resnet-zoo"
            )));
        }
        let (facts, work): (RunFacts, Work) = (self.json(RUN)?, self.json(BUILD)?);
        let (files, spec_files) = (self.sources(&form.experiment)?, self.sources(&form.spec)?);
        let code = if self.sizes.contains_key(CODE) { Some(self.code()?) } else { None };
        let points = self.points()?;
        let samples = match self.sizes.contains_key(SAMPLES) {
            true => Some(self.samples()?),
            false => None,
        };
        let config = self.text(CONFIG, LONGEST_TEXT)?;
        let record = RunRecord { facts, work, config, files, spec_files, code, points, samples };
        record.check()?;
        self.check_names(&form, &record)?;
        self.check_hashes()?;
        Ok(record)
    }

    /// `SHA256SUMS` names every other file once, and no other.
    fn read_sums(&mut self) -> Result<()> {
        let text = self.unchecked(SUMS, LONGEST_TEXT)?;
        let text = String::from_utf8(text).map_err(|_| Error::input(format!("{SUMS} is not UTF-8")))?;
        for (line, number) in text.lines().zip(1..) {
            let entry = line.split_once("  ").filter(|(sum, _)| is_sha256(sum));
            let Some((sum, name)) = entry else {
                return Err(Error::input(format!("line {number} of {SUMS} is no `sha256  name`")));
            };
            if self.sums.insert(name.to_owned(), sum.to_owned()).is_some() {
                return Err(Error::input(format!("{SUMS} names `{name}` twice")));
            }
        }
        let named: BTreeSet<&str> = self.sums.keys().map(String::as_str).collect();
        let there: BTreeSet<&str> = self.sizes.keys().map(String::as_str).filter(|name| *name != SUMS).collect();
        if let Some(name) = named.symmetric_difference(&there).next() {
            let how = if named.contains(name) { "is missing" } else { "is not named in it" };
            return Err(Error::input(format!("{SUMS} does not fit the files: `{name}` {how}")));
        }
        Ok(())
    }

    /// Every file is one that a bundle has.
    fn check_names(&self, form: &Form, record: &RunRecord) -> Result<()> {
        let mut known: BTreeSet<String> =
            [BUNDLE, RUN, BUILD, CODE, PATCH, CONFIG, METRICS, SAMPLES, README, SUMS].map(str::to_owned).into();
        known.extend(form.experiment.iter().chain(&form.spec).map(|named| named.file.clone()));
        let blobs: Vec<String> = record.blobs().into_iter().map(blob_place).collect();
        if let Some(missing) = blobs.iter().find(|name| !self.sizes.contains_key(*name)) {
            return Err(Error::input(format!("{missing} is missing")));
        }
        known.extend(blobs);
        match self.sizes.keys().find(|name| !known.contains(*name)) {
            Some(name) => Err(Error::input(format!("`{name}` is no file of a bundle"))),
            None => Ok(()),
        }
    }

    /// Files that were not read yet, the large ones: their bytes go by once.
    fn check_hashes(&mut self) -> Result<()> {
        let names: Vec<String> = self.sizes.keys().filter(|name| *name != SUMS).cloned().collect();
        for name in names {
            if self.sizes[&name] > LONGEST_CHECKPOINT {
                return Err(Error::input(format!("{name} is longer than {LONGEST_CHECKPOINT} bytes")));
            }
            let mut hash = Sha256::new();
            let mut file = self.container.file(&name)?.take(LONGEST_CHECKPOINT + 1);
            std::io::copy(&mut file, &mut hash)
                .map_err(|error| Error::input(format!("cannot read {name}: {error}")))?;
            drop(file);
            self.compare(&name, &format!("{:x}", hash.finalize()))?;
            if let Some(sha256) = name.strip_prefix("checkpoints/").and_then(|name| name.strip_suffix(".safetensors")) {
                self.compare(&name, sha256)?;
            }
        }
        Ok(())
    }

    fn compare(&self, name: &str, actual: &str) -> Result<()> {
        match self.sums.get(name) {
            Some(sum) if sum == actual => Ok(()),
            Some(sum) => Err(Error::input(format!("{name} is damaged: its sha256 is {actual}, and should be {sum}"))),
            None => Err(Error::input(format!("{name} is not named in {SUMS}"))),
        }
    }

    fn sources(&mut self, files: &[Named]) -> Result<Vec<SourceFile>> {
        let read = |Named { file, name }: &Named| {
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(Error::input(format!("the name of {file} is empty, or has control characters")));
            }
            Ok(SourceFile { name: name.clone(), text: self.text(file, LONGEST_TEXT)? })
        };
        files.iter().map(read).collect()
    }

    fn code(&mut self) -> Result<Code> {
        let CodeFacts { commit, branch, remote, untracked, note } = self.json(CODE)?;
        let patch = match self.sizes.contains_key(PATCH) {
            true => Some(self.bytes(PATCH, LONGEST_TEXT)?),
            false => None,
        };
        let texts = [&commit, &branch, &remote, &note].into_iter().flatten().chain(&untracked);
        if texts.into_iter().any(|text| text.chars().any(char::is_control)) {
            return Err(Error::input(format!("{CODE} has control characters")));
        }
        Ok(Code { commit, branch, remote, patch, untracked, note })
    }

    fn points(&mut self) -> Result<Vec<Point>> {
        let text = self.text(METRICS, LONGEST_METRICS)?;
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let wrong = |line: usize| Error::input(format!("line {line} of {METRICS} is no `metric,step,value`"));
        if reader.headers().map_err(|_| wrong(1))? != ["metric", "step", "value"].as_slice() {
            return Err(wrong(1));
        }
        let mut points = Vec::new();
        for (row, line) in reader.deserialize::<(String, u64, String)>().zip(2..) {
            let (metric, step, value) = row.map_err(|_| wrong(line))?;
            points.push(Point { metric, step, value: value.parse().map_err(|_| wrong(line))? });
        }
        Ok(points)
    }

    fn samples(&mut self) -> Result<String> {
        let list = self.text(SAMPLES, LONGEST_LIST as u64)?;
        match list.lines().position(|line| serde_json::from_str::<(String, u32, String, String)>(line).is_err()) {
            Some(at) => Err(Error::input(format!("line {} of {SAMPLES} is no sample", at + 1))),
            None => Ok(list),
        }
    }

    fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        let bytes = self.bytes(name, LONGEST_TEXT)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::input(format!("{name}: {error}")))
    }

    fn text(&mut self, name: &str, longest: u64) -> Result<String> {
        String::from_utf8(self.bytes(name, longest)?).map_err(|_| Error::input(format!("{name} is not UTF-8")))
    }

    /// A file whose hash is the one in `SHA256SUMS`.
    fn bytes(&mut self, name: &str, longest: u64) -> Result<Vec<u8>> {
        let bytes = self.unchecked(name, longest)?;
        self.compare(name, &format!("{:x}", Sha256::digest(&bytes)))?;
        Ok(bytes)
    }

    fn unchecked(&mut self, name: &str, longest: u64) -> Result<Vec<u8>> {
        let Some(size) = self.sizes.get(name) else { return Err(Error::input(format!("{name} is missing"))) };
        if *size > longest {
            return Err(Error::input(format!("{name} is longer than {longest} bytes")));
        }
        let mut bytes = Vec::new();
        let read = self.container.file(name)?.take(longest + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::input(format!("cannot read {name}: {error}")))?;
        Ok(bytes)
    }
}
