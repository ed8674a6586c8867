//! What nobody needs any more: blobs that no checkpoint names, files and folders that a killed process left. And what
//! somebody does need: values that a process could not write while the registry was locked.

use super::blob::{Stored, remove_file};
use super::lease::Lease;
use super::spill::Spill;
use super::store::{PATIENCE, Reader, Store};
use super::{Clock, Location};
use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What there is to collect.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Garbage {
    /// Spill files of runs that nobody works on: not garbage, they are stored.
    pub spills: Vec<Spilled>,
    /// Blobs that no checkpoint names, by name.
    pub blobs: Vec<Stored>,
    /// Files that were being written when their process died.
    pub unfinished: Vec<Unfinished>,
    /// Folders of runs that the registry does not know, because their process died before it said so.
    pub folders: Vec<PathBuf>,
}

/// A spill file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spilled {
    /// The run's id.
    pub run: String,
    /// How many transactions it holds.
    pub entries: usize,
}

/// A file that was never finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unfinished {
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes.
    pub bytes: u64,
}

impl Garbage {
    /// Bytes that blobs and unfinished files take.
    pub fn bytes(&self) -> u64 {
        let blobs = self.blobs.iter().map(|blob| blob.bytes);
        blobs.chain(self.unfinished.iter().map(|file| file.bytes)).sum()
    }
}

/// Collects the garbage of a registry, or only says what it would collect. Other registries of the folder keep what
/// they name.
///
/// # Errors
/// Where a run is storing a checkpoint all the time, where a registry that shares the folder cannot be read, or where
/// the disk fails.
pub fn collect(location: &Location, clock: &Clock, dry_run: bool) -> Result<Garbage> {
    // It is there, and of this build's schema.
    let reader = Reader::open(location.clone(), clock.clone())?;
    let blobs = reader.blobs();
    drop(reader);
    if location.file().is_none() && !location.folder().join("blobs").exists() {
        // Nothing was ever stored on this machine.
        return Ok(Garbage::default());
    }
    let mut garbage = Garbage { spills: restore_spills(location, clock, dry_run)?, ..Garbage::default() };
    // From before it is seen what is named until the rest is gone nobody adds anything.
    let Some(_alone) = blobs.alone(PATIENCE)? else {
        return Err(Error::failed("a run is storing a checkpoint; try again"));
    };
    let mut known = Known::default();
    for name in blobs.users()? {
        let user = match name {
            name if name == location.name() => location.clone(),
            name if name.contains("://") => {
                return Err(Error::input(format!(
                    "the folder {} also serves {name}, which alone knows what it needs there: give each registry a folder \
                     of its own",
                    location.folder().display()
                )));
            }
            name => Location::new(location.folder().join(name)).on_network(location.on_network),
        };
        if user.may_exist() {
            let mut reader = Reader::open(user, clock.clone())?;
            known.blobs.extend(reader.referenced()?);
            known.runs.extend(reader.run_ids()?);
        }
    }
    for run in run_folders(location)? {
        for entry in Spill::of(&run).entries()? {
            let named = entry.batch.checkpoints.into_iter();
            known.blobs.extend(named.flat_map(|kept| [kept.weights.sha256, kept.state.sha256]));
        }
        if !known.runs.contains(&name_of(&run)) && is_abandoned(&run) {
            garbage.folders.push(run);
        }
    }
    let contents = blobs.contents()?;
    garbage.blobs = contents.blobs.into_iter().filter(|blob| !known.blobs.contains(&blob.sha256)).collect();
    garbage.unfinished = contents.unfinished.into_iter().map(|(path, bytes)| Unfinished { path, bytes }).collect();
    if dry_run {
        return Ok(garbage);
    }
    let mut store = Store::open(location.clone(), clock.clone())?;
    store.forget_unreferenced()?;
    garbage.blobs.iter().try_for_each(|blob| blobs.remove(&blob.sha256))?;
    garbage.unfinished.iter().try_for_each(|file| remove_file(&file.path))?;
    garbage.folders.retain(|folder| remove_folder(folder));
    store.close()?;
    Ok(garbage)
}

/// What the registries of a folder know.
#[derive(Debug, Default)]
struct Known {
    blobs: BTreeSet<String>,
    runs: BTreeSet<String>,
}

fn restore_spills(location: &Location, clock: &Clock, dry_run: bool) -> Result<Vec<Spilled>> {
    let mut ids = Reader::open(location.clone(), clock.clone())?.run_ids()?;
    let mut spills = Vec::new();
    for folder in run_folders(location)? {
        let (spill, run) = (Spill::of(&folder), name_of(&folder));
        if !spill.exists() || !ids.remove(&run) {
            continue;
        }
        // Its own process stores it once the registry is free.
        let Ok(_lease) = Lease::take(&folder) else { continue };
        let entries = spill.entries()?.len();
        if !dry_run {
            let mut store = Store::open(location.clone(), clock.clone())?;
            if !store.claim(&run)? {
                continue;
            }
            if spill.restore(&mut store, &run, true)?.is_none() {
                return Err(store.in_the_way(PATIENCE));
            }
        }
        spills.push(Spilled { run, entries });
    }
    Ok(spills)
}

/// The folders beside a registry that are named like a run, sorted.
fn run_folders(location: &Location) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(location.folder())? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() && uuid::Uuid::try_parse(&name.to_string_lossy()).is_ok() {
                folders.push(entry.path());
            }
        }
        folders.sort();
        Ok(folders)
    };
    list().map_err(|error| Error::disk(format!("cannot read {}: {error}", location.folder().display())))
}

fn name_of(run_folder: &Path) -> String {
    run_folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a folder holds a lock that nobody has, and nothing else.
fn is_abandoned(run_folder: &Path) -> bool {
    let is_lock = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == "lock");
    fs::read_dir(run_folder).is_ok_and(|mut entries| entries.all(is_lock)) && !Lease::is_held(run_folder)
}

/// False where somebody works in it after all. Whoever waits for the lease meanwhile finds that its file is gone.
fn remove_folder(run_folder: &Path) -> bool {
    let remove = |_lease| {
        fs::remove_file(run_folder.join("lock"))?;
        fs::remove_dir(run_folder)
    };
    Lease::take(run_folder).is_ok_and(|lease| remove(lease).is_ok())
}
