//! T5: the power goes off. What was not synced may be on the disk or not, whole or in part.

use super::{Toy, assert_sound, count, draws, figure, preload};
use crate::it::cli::{json, stdout};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use zoo::random::Stream;

/// Disks write sectors whole.
const SECTOR: usize = 512;

/// A call that changed something, as `faults.c` noted it.
struct Call {
    kind: u8,
    number: u64,
    path: PathBuf,
    second: PathBuf,
    data: Vec<u8>,
}

fn calls(log: &Path) -> Vec<Call> {
    let bytes = fs::read(log).expect("a log");
    let mut rest = bytes.as_slice();
    let mut take = |length: usize| {
        let (taken, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(taken.to_vec())
    };
    let text = |bytes: Vec<u8>| PathBuf::from(String::from_utf8(bytes).expect("UTF-8"));
    let mut calls = Vec::new();
    while let Some(head) = take(40) {
        let field = |at: usize| u64::from_le_bytes(head[8 * at..][..8].try_into().expect("8 bytes"));
        let [kind, number, path, second, data] = [0, 1, 2, 3, 4].map(field);
        let mut next = |length: u64| take(length as usize).expect("a whole record");
        let (path, second, data) = (text(next(path)), text(next(second)), next(data));
        calls.push(Call { kind: kind as u8, number, path, second, data });
    }
    calls
}

/// A file: what is surely on the disk, and what may be.
#[derive(Clone, Default)]
struct File {
    synced: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { at, data } => {
                content.resize(content.len().max(at + data.len()), 0);
                content[*at..at + data.len()].copy_from_slice(data);
            }
            Change::Length(length) => content.resize(*length, 0),
        }
    }

    /// Its first sectors.
    fn torn(&self, draws: &mut Stream) -> Change {
        match self {
            Change::Write { at, data } => {
                let sectors = draws.below(data.len().div_ceil(SECTOR) as u64 + 1) as usize;
                Change::Write { at: *at, data: data[..data.len().min(sectors * SECTOR)].to_vec() }
            }
            Change::Length(length) => Change::Length(*length),
        }
    }
}

/// What happened to the names of a folder.
#[derive(Clone)]
enum Naming {
    Is(PathBuf, usize),
    IsGone(PathBuf),
}

/// The disk: files by number, and names by folder. A sync of a folder makes its names durable, in their order; that
/// of a file its content.
#[derive(Default)]
struct Disk {
    files: Vec<File>,
    /// What processes see.
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    pending: BTreeMap<PathBuf, Vec<Naming>>,
}

impl Disk {
    fn after(calls: &[Call]) -> Self {
        let mut disk = Disk::default();
        for call in calls {
            disk.take(call);
        }
        disk
    }

    fn rename(&mut self, naming: Naming) {
        let path = match &naming {
            Naming::Is(path, file) => {
                self.names.insert(path.clone(), *file);
                path
            }
            Naming::IsGone(path) => {
                self.names.remove(path);
                path
            }
        };
        let folder = path.parent().expect("a folder").to_owned();
        self.pending.entry(folder).or_default().push(naming);
    }

    fn file(&mut self, path: &Path) -> usize {
        if let Some(file) = self.names.get(path) {
            return *file;
        }
        self.files.push(File::default());
        let file = self.files.len() - 1;
        self.rename(Naming::Is(path.to_owned(), file));
        file
    }

    fn take(&mut self, call: &Call) {
        match call.kind {
            b'c' => {
                let file = self.file(&call.path);
                if call.number != 0 {
                    self.files[file].pending.push(Change::Length(0));
                }
            }
            b'w' => {
                let file = self.file(&call.path);
                self.files[file].pending.push(Change::Write { at: call.number as usize, data: call.data.clone() });
            }
            b't' => {
                let file = self.file(&call.path);
                self.files[file].pending.push(Change::Length(call.number as usize));
            }
            b's' if self.names.contains_key(&call.path) => {
                let file = self.names[&call.path];
                let File { synced, pending } = &mut self.files[file];
                pending.drain(..).for_each(|change| change.apply(synced));
            }
            b's' => {
                for naming in self.pending.remove(&call.path).unwrap_or_default() {
                    settle(&mut self.durable, naming);
                }
            }
            b'u' => self.rename(Naming::IsGone(call.path.clone())),
            b'r' => {
                let file = self.file(&call.path);
                self.rename(Naming::Is(call.second.clone(), file));
                self.rename(Naming::IsGone(call.path.clone()));
            }
            _ => {}
        }
    }

    /// One of the states that the disk may be in when the power goes off now.
    fn lose_power(&self, draws: &mut Stream, from: &Path, to: &Path) {
        let mut names = self.durable.clone();
        for namings in self.pending.values() {
            let settled = draws.below(namings.len() as u64 + 1) as usize;
            namings[..settled].iter().for_each(|naming| settle(&mut names, naming.clone()));
        }
        fs::create_dir_all(to).expect("created");
        for (path, file) in names {
            // The memory that SQLite's processes share is made anew.
            if path.to_string_lossy().ends_with("-shm") {
                continue;
            }
            let File { mut synced, pending } = self.files[file].clone();
            for change in pending {
                match draws.below(3) {
                    0 => change.apply(&mut synced),
                    1 => change.torn(draws).apply(&mut synced),
                    _ => {}
                }
            }
            let target = to.join(path.strip_prefix(from).expect("below"));
            fs::create_dir_all(target.parent().expect("a folder")).expect("created");
            fs::write(target, synced).expect("written");
        }
    }
}

fn settle(names: &mut BTreeMap<PathBuf, usize>, naming: Naming) {
    match naming {
        Naming::Is(path, file) => names.insert(path, file),
        Naming::IsGone(path) => names.remove(&path),
    };
}

#[test]
fn no_acknowledged_checkpoint_is_lost_with_the_power() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let registry = toy.registry("logged");
    let log = toy.registry("log");
    let mut command = toy.run(&registry, "mixed");
    stdout(&preload(command.arg("--json"), &registry).env("FAULT_LOG", &log).output().expect("started"));
    let calls = calls(&log);
    assert!(calls.len() > 300, "only {} calls", calls.len());
    let states = count(24, 300);
    let checked = (0..states).into_par_iter().map(|state| {
        let mut draws = draws(&format!("power {state}"));
        let at = draws.below(calls.len() as u64 + 1) as usize;
        // What standard output had said by then.
        let said: Vec<u8> =
            calls[..at].iter().filter(|call| call.kind == b'a').flat_map(|call| call.data.clone()).collect();
        let said = String::from_utf8(said).expect("UTF-8");
        let said: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let acknowledged =
            said.iter().filter(|event| event["event"] == "checkpoint").filter_map(|event| event["step"].as_u64()).max();
        let after = toy.registry(&format!("after_{state}"));
        Disk::after(&calls[..at]).lose_power(&mut draws, &registry, &after);
        if let Some(step) = acknowledged {
            let run = json(&after, &["runs", "show", "mixed"]);
            let newest = run["checkpoints"][0]["step"].as_u64();
            assert!(
                newest >= Some(step),
                "state {state}, call {at}: step {step} was acknowledged, and there is {newest:?}"
            );
            if run["state"] != "COMPLETED" {
                stdout(&super::command(&after).args(["resume", "mixed"]).output().expect("started"));
                let run = json(&after, &["runs", "show", "mixed"]);
                assert_eq!(run["attempts"][1]["resumed_from"].as_u64(), newest, "state {state}: no checkpoint is torn");
            }
        }
        assert_eq!(toy.finish(&after, "mixed"), whole, "state {state}, call {at}");
        assert_sound(&after);
        fs::remove_dir_all(&after).expect("removed");
        usize::from(acknowledged.is_some())
    });
    let acknowledged: usize = checked.sum();
    let figures = format!(
        "{states} states over {} calls, {acknowledged} with acknowledged checkpoints: 0 lost, 0 torn ones used, 0 differ after a resume",
        calls.len()
    );
    figure("T5", "power lost, unsynced writes dropped or torn", &figures);
}
