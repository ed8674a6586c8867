//! What works on a registry beside `run`, killed at any call that writes, or with a disk that fails there.

use super::disk::{copy, crashed};
use super::{Faults, Outcome, Toy, assert_sound, calls, command, counted, figure, is_full};
use crate::it::cli::{json, stderr, stdout, zoo};
use rayon::prelude::*;
use resnet_zoo::registry::blob::Blobs;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// SIGKILL before, in the middle of and after a call.
const DEATHS: [&str; 3] = ["before", "half", "after"];
/// ENOSPC, EIO and EROFS of it.
const ERRORS: [&str; 3] = ["28", "5", "30"];

/// A command that ended before the call at which it was to be harmed is started again, so often at most.
const TURNS: usize = 5;

/// Harms what `command` starts at its calls that write, each time in a copy of the registry `from`, and lets `check` see
/// what is left.
fn harmed_at_its_calls(
    toy: &Toy,
    name: &str,
    from: &Path,
    command: impl Fn(&Path) -> Command + Sync,
    check: impl Fn(&Path, &str) + Sync,
) {
    let fresh = |registry: &Path| {
        if from.exists() {
            copy(from, registry)
        }
    };
    // Not every run makes as many calls: those that three runs made count.
    let count = |turn: usize| {
        let counting = toy.registry(&format!("{name}_counting{turn}"));
        fresh(&counting);
        let all = calls(&mut command(&counting), &counting);
        check(&counting, &format!("{name}, undisturbed"));
        all
    };
    let all = (0..3).map(count).min().expect("three counts");
    // At every call a death and an error, of each kind in turns; or one of them at some calls.
    let of_calls = |step: usize, harm: &[&'static str]| -> Vec<(u64, &'static str)> {
        (1..=all).step_by(step).zip(harm.iter().copied().cycle()).collect()
    };
    let points = match is_full() {
        true => [of_calls(1, &DEATHS), of_calls(1, &ERRORS)].concat(),
        false => [of_calls((all as usize / 9).max(1), &DEATHS), of_calls((all as usize / 8).max(1), &ERRORS)].concat(),
    };
    // Whether it died; nothing where it ended before that call.
    let harm = |at: u64, how: &str, turn: usize| {
        let registry = toy.registry(&format!("{name}_{at}_{how}_{turn}"));
        fresh(&registry);
        let faults = Faults { root: &registry, at, how, rest: false };
        let (output, made) = counted(faults.arm(&mut command(&registry)), &registry);
        let (code, message) = (output.status.code(), stderr(&output));
        let what = format!("{name}, {how} at call {at} of {all}: {code:?} {message}");
        assert!(matches!(code, None | Some(0 | 74)), "{what}");
        assert!(code != Some(74) || message.starts_with("error: "), "{what}");
        check(&registry, &what);
        assert_sound(&registry);
        fs::remove_dir_all(&registry).expect("removed");
        let died = made.is_none();
        let came = made.is_none_or(|made| made >= at);
        assert!(!came || died == DEATHS.contains(&how), "{what} of {made:?} calls");
        came.then_some(died)
    };
    let deaths = points.par_iter().filter(|(at, how)| (0..TURNS).find_map(|turn| harm(*at, how, turn)) == Some(true));
    let deaths = deaths.count();
    let kills = points.iter().filter(|(_, how)| DEATHS.contains(how)).count();
    assert!(deaths * 10 >= kills * 9, "{name}: {deaths} of {kills} died");
    let errors = points.len() - kills;
    let figures = format!("{deaths} deaths and {errors} errors over {all} calls, 0 differ after another {name}");
    figure("T1, T6", &format!("`{name}`, killed or refused at a call that writes"), &figures);
}

#[test]
fn a_resume() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let resume = |registry: &Path| {
        let mut command = command(registry);
        command.args(["resume", "mixed"]);
        command
    };
    let check = |registry: &Path, what: &str| assert_eq!(toy.finish(registry, "mixed"), whole, "{what}");
    harmed_at_its_calls(&toy, "resume", &crashed(&toy), resume, check);
}

#[test]
fn a_collection_of_what_nobody_needs() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let registry = crashed(&toy);
    let blobs = Blobs::of(&registry, false);
    let orphans = ["ab".repeat(32), "cd".repeat(32)];
    for orphan in &orphans {
        let path = blobs.path(orphan);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(&path, "nobody's").expect("written");
        fs::write(path.with_file_name(".half.1.tmp"), "ha").expect("written");
    }
    let folder = registry.join("0193a1b2-c3d4-7e5f-8a9b-000000000001");
    fs::create_dir(&folder).expect("created");
    fs::write(folder.join("lock"), "").expect("written");
    let kept = json(&registry, &["runs", "show", "mixed"])["checkpoints"].clone();
    let gc = |registry: &Path| {
        let mut command = command(registry);
        command.arg("gc");
        command
    };
    let check = |registry: &Path, what: &str| {
        json(registry, &["gc"]);
        let blobs = Blobs::of(registry, false);
        assert!(orphans.iter().all(|orphan| !blobs.path(orphan).exists()), "{what}");
        assert!(!registry.join(folder.file_name().expect("a name")).exists(), "{what}");
        assert_eq!(json(registry, &["gc"])["bytes"], 0, "{what}");
        assert_eq!(json(registry, &["runs", "show", "mixed"])["checkpoints"], kept, "{what}");
        assert_eq!(toy.finish(registry, "mixed"), whole, "{what}");
    };
    harmed_at_its_calls(&toy, "gc", &registry, gc, check);
}

#[test]
fn an_import() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let home = toy.registry("undisturbed_mixed");
    let bundle = toy.registry("mixed.zip");
    stdout(&command(&home).args(["export", "mixed", "--bundle"]).arg(&bundle).output().expect("started"));
    let run = json(&home, &["runs", "show", "mixed"]);
    let id = run["id"].as_str().expect("an id");
    let points = format!("SELECT metric, step, value FROM metrics WHERE run = '{id}' ORDER BY step, metric");
    let values = json(&home, &["sql", &points]);
    // A registry of its own, and one whose checkpoints are the same in part.
    let other = crashed(&toy);
    let other_id = json(&other, &["runs", "show", "mixed"])["id"].as_str().expect("an id").to_owned();
    let import = |registry: &Path| {
        let mut command = command(registry);
        command.arg("import").arg(&bundle);
        command
    };
    let is_whole = |registry: &Path, what: &str| {
        let again = zoo(registry, &["import", bundle.to_str().expect("UTF-8")]);
        assert!(again.status.success(), "{what}\n{}", stderr(&again));
        assert_eq!(json(registry, &["runs", "show", id]), run, "{what}");
        assert_eq!(json(registry, &["sql", &points]), values, "{what}");
        json(registry, &["gc"]);
        let blobs = Blobs::of(registry, false);
        for hash in checkpoint_hashes(&run) {
            blobs.get(&hash).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    };
    harmed_at_its_calls(&toy, "import", &PathBuf::from("nowhere"), import, is_whole);
    let beside = |registry: &Path, what: &str| {
        is_whole(registry, what);
        let finished: Outcome = toy.finish(registry, &other_id);
        assert_eq!(finished, whole, "{what}");
    };
    harmed_at_its_calls(&toy, "import beside another", &other, import, beside);
}

fn checkpoint_hashes(run: &Value) -> Vec<String> {
    let kept = run["checkpoints"].as_array().expect("a list").iter();
    let keys = ["weights_sha256", "state_sha256"];
    let hashes = kept.flat_map(|kept| keys.map(|key| kept[key].as_str().expect("a hash").to_owned())).collect();
    assert_ne!(hashes, Vec::<String>::new(), "{run}");
    hashes
}
