//! Disks that are full, read-only or broken, and bits that flip.

use super::{DATA, Faults, Toy, assert_sound, calls, command, count, draws, figure, is_full};
use crate::it::cli::{json, stderr, stdout, zoo};
use rayon::prelude::*;
use resnet_zoo::registry::blob::Blobs;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const ERRORS: [(&str, &str); 3] = [("ENOSPC", "28"), ("EIO", "5"), ("EROFS", "30")];

/// T6: a call that writes fails, or all from then on.
#[test]
fn a_failing_disk_costs_no_checkpoint() {
    let toy = Toy::new();
    let whole = toy.undisturbed("stopped_early");
    let counting = toy.registry("counting");
    let all = calls(&mut toy.run(&counting, "stopped_early"), &counting);
    // For good, or once, in turns.
    let points = (1..=all).flat_map(|at| (at..).zip(ERRORS).map(move |(turn, error)| (at, error, turn % 2 == 0)));
    let points: Vec<_> = points.step_by(if is_full() { 1 } else { 47 }).collect();
    let codes = Mutex::new(BTreeMap::<i32, u64>::new());
    points.par_iter().for_each(|(at, (name, errno), rest)| {
        let registry = toy.registry(&format!("{name}_{at}_{rest}"));
        let faults = Faults { root: &registry, at: *at, how: errno, rest: *rest };
        let output = faults.arm(&mut toy.run(&registry, "stopped_early")).output().expect("started");
        let (message, code) = (stderr(&output), output.status.code().expect("no signal"));
        let what = format!("{name} at call {at}, and after it: {rest}: exit code {code}\n{message}");
        // A single failure may be survived, or may hit what nobody needs.
        assert!(code == 0 || code == 74, "{what}");
        assert!(!message.contains("panicked") && (code == 0 || message.starts_with("error: ")), "{what}");
        // The last calls of a process tidy up.
        assert!(code == 74 || !rest || at * 10 > all * 9, "{what}");
        assert_eq!(toy.finish(&registry, "stopped_early"), whole, "{what}");
        assert_sound(&registry);
        fs::remove_dir_all(&registry).expect("removed");
        *codes.lock().expect("no panic").entry(code).or_default() += 1;
    });
    let codes = codes.into_inner().expect("no panic");
    assert!(codes[&74] > 0, "{codes:?}");
    let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{count} with {code}")).collect();
    let figures = format!(
        "{} faults over {all} calls, exit codes: {}; 0 panics, 0 differ after a resume",
        points.len(),
        codes.join(", ")
    );
    figure("T6", "ENOSPC, EIO, EROFS, once and for good", &figures);
}

#[test]
fn a_disk_that_cannot_be_written_is_found_before_a_run() {
    let toy = Toy::new();
    let registry = toy.registry("full");
    zoo(&registry, &["runs", "ls"]);
    stdout(&toy.run(&registry, "plateau").args(["--set", "steps=1"]).output().expect("started"));
    // The first thing that a run does in a registry that is there.
    for (name, errno) in ERRORS {
        let faults = Faults { root: &registry.join("blobs"), at: 1, how: errno, rest: true };
        let output = faults.arm(&mut toy.run(&registry, "plateau")).output().expect("started");
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(74), "{name}: {message}");
        assert!(message.starts_with("error: cannot write ") && message.contains("blobs"), "{name}: {message}");
    }
    assert_eq!(json(&registry, &["runs", "ls"]).as_array().map(Vec::len), Some(1), "no run was begun");
}

/// T12: one flipped bit of a checkpoint.
#[test]
fn a_flipped_bit_is_found_and_an_older_checkpoint_serves() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let killed = crashed(&toy);
    let run = json(&killed, &["runs", "show", "mixed"]);
    let blobs = Blobs::of(&killed, false);
    let newest: Vec<PathBuf> = ["weights_sha256", "state_sha256"]
        .map(|key| blobs.path(run["checkpoints"][0][key].as_str().expect("a hash")))
        .to_vec();
    let mut draws = draws("bits");
    let flips: Vec<(&PathBuf, u64)> = (0..count(40, 500))
        .map(|number| {
            let blob = &newest[number % newest.len()];
            let bits = 8 * fs::metadata(blob).expect("there").len();
            (blob, draws.below(bits))
        })
        .collect();
    for (blob, bit) in &flips {
        let sha256 = blob.file_name().expect("a name").to_string_lossy().into_owned();
        flip(blob, *bit);
        let error = blobs.get(&sha256).expect_err("damaged").to_string();
        assert!(error.contains("is damaged"), "bit {bit}: {error}");
        flip(blob, *bit);
        blobs.get(&sha256).expect("sound again");
    }
    let resumes = count(2, 30);
    for (number, (blob, bit)) in flips.iter().take(resumes).enumerate() {
        let registry = toy.registry(&format!("flipped_{number}"));
        copy(&killed, &registry);
        flip(&registry.join(blob.strip_prefix(&killed).expect("below")), *bit);
        let resumed = stdout(&zoo(&registry, &["resume", "mixed"]));
        assert!(resumed.contains("is not used") && resumed.contains("is damaged"), "{resumed}");
        assert_eq!(toy.finish(&registry, "mixed"), whole, "bit {bit}");
        let run = json(&registry, &["runs", "show", "mixed"]);
        let warned =
            run["warnings"].as_array().expect("a list").iter().any(|w| w["message"].to_string().contains("is damaged"));
        assert!(warned, "recorded: {run}");
    }
    let figures =
        format!("{} flips, {} found; {resumes} resumes from the one before, 0 differ", flips.len(), flips.len());
    figure("T12", "one bit of a checkpoint", &figures);

    // With every checkpoint damaged there is nothing to go on from.
    let registry = toy.registry("hopeless");
    copy(&killed, &registry);
    for kept in run["checkpoints"].as_array().expect("a list") {
        let blob = Blobs::of(&registry, false).path(kept["state_sha256"].as_str().expect("a hash"));
        flip(&blob, 77);
    }
    let output = zoo(&registry, &["resume", "mixed"]);
    assert_eq!(output.status.code(), Some(74), "{}", stderr(&output));
    assert!(stderr(&output).contains("no checkpoint of the run is sound"), "{}", stderr(&output));
}

/// A registry with a run that was killed late, and has two checkpoints and a best one.
pub(super) fn crashed(toy: &Toy) -> PathBuf {
    let registry = toy.registry("crashed");
    let counting = toy.registry("counting");
    let all = calls(&mut toy.run(&counting, "mixed"), &counting);
    let faults = Faults { root: &registry, at: all * 8 / 10, how: "before", rest: false };
    let output = faults.arm(&mut toy.run(&registry, "mixed")).output().expect("started");
    assert_eq!(output.status.code(), None, "killed: {}", stderr(&output));
    registry
}

fn flip(file: &Path, bit: u64) {
    let mut bytes = fs::read(file).expect("read");
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    fs::write(file, bytes).expect("written");
}

/// Copies a registry that nobody has open.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// What a loss that is not a number leaves behind.
#[test]
fn a_loss_that_is_no_number_ends_the_run_and_no_checkpoint() {
    let toy = Toy::new();
    let experiment = toy.experiment("diverging");
    let text = format!("name: diverging\n{DATA}optimizer: {{sgd: {{lr: 1000, weight_decay: 1}}}}\n");
    fs::write(&experiment, text.replace("{every: {steps: 2}}", "{every: {steps: 1}}")).expect("written");
    let registry = toy.registry("diverging");
    let output = toy.run(&registry, "diverging").output().expect("started");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("earlier checkpoints are intact"), "{}", stderr(&output));
    let run = json(&registry, &["runs", "show", "diverging"]);
    assert_eq!(run["state"], "FAILED");
    let not_finite = "SELECT count(*) AS n FROM metrics WHERE is_nan OR abs(value) > 1e300";
    assert_ne!(json(&registry, &["sql", not_finite])[0]["n"], 0, "the value that ended it is kept");
    for kept in run["checkpoints"].as_array().expect("a list") {
        let blobs = Blobs::of(&registry, false);
        blobs.get(kept["weights_sha256"].as_str().expect("a hash")).expect("sound");
    }
    // It is deterministic: resumed, it ends at the same step with the same bits.
    let again = command(&registry).args(["resume", "diverging"]).output().expect("started");
    assert_eq!(again.status.code(), Some(1), "{}", stderr(&again));
    let after = json(&registry, &["runs", "show", "diverging"]);
    assert_eq!((&after["reason"], &after["metric_digest"]), (&run["reason"], &run["metric_digest"]));
    assert_eq!(after["replay_mismatches"], 0);
}
