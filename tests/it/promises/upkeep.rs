//! Runs of machines that are gone, weights that changed, and what killed processes leave lying around.

use super::disk::crashed;
use super::{Toy, assert_sound, outcome};
use crate::it::cli::{binary, json, stderr, stdout, zoo};
use crate::it::registry::{change, location};
use serde_json::{Value, json as value};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

#[test]
fn a_run_of_a_machine_that_is_gone_can_be_taken_over() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let registry = crashed(&toy);
    change(&registry, "UPDATE attempt SET host = 'elsewhere', boot_id = 'another'; UPDATE run SET hb_ms = 1")
        .expect("set");
    assert_eq!(json(&registry, &["runs", "show", "mixed"])["state"], "UNKNOWN");
    let refused = zoo(&registry, &["resume", "mixed"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("is UNKNOWN") && stderr(&refused).contains("--take-over"),
        "{}",
        stderr(&refused)
    );
    stdout(&zoo(&registry, &["resume", "mixed", "--take-over"]));
    assert_eq!(outcome(&registry, "mixed"), whole);
}

#[test]
fn sigterm_waits_for_the_checkpoint_of_the_last_step() {
    let toy = Toy::new();
    let registry = toy.registry("terminated");
    let mut run = started(&toy, &registry, "plateau", &["--set", "steps=4000"]);
    let killed = std::process::Command::new("kill").args(["-TERM", &run.id().to_string()]).status();
    assert!(killed.expect("a program").success());
    assert_eq!(run.wait().expect("ended").code(), Some(143));
    let run = json(&registry, &["runs", "show", "plateau"]);
    assert_eq!(run["state"], "INTERRUPTED");
    let steps = run["steps"].as_u64().expect("a number");
    assert!(steps < 4000);
    assert_eq!((&run["checkpoints"][0]["step"], &run["checkpoints"][0]["role"]), (&value!(steps - 1), &value!("last")));
}

#[test]
fn a_second_signal_ends_at_once_and_damages_nothing() {
    let toy = Toy::new();
    let registry = toy.registry("impatient");
    let mut run = started(&toy, &registry, "plateau", &["--set", "steps=4000"]);
    let twice = format!("kill -INT {0}; kill -INT {0}", run.id());
    std::process::Command::new("sh").args(["-c", &twice]).status().expect("a program");
    assert_eq!(run.wait().expect("ended").code(), Some(130));
    let run = json(&registry, &["runs", "show", "plateau"]);
    assert!(run["state"] == "INTERRUPTED" || run["state"] == "CRASHED", "{}", run["state"]);
    for kept in run["checkpoints"].as_array().expect("a list") {
        for key in ["weights_sha256", "state_sha256"] {
            let blobs = location(&registry).blobs();
            blobs.get(kept[key].as_str().expect("a hash")).expect("sound");
        }
    }
    assert_sound(&registry);
}

#[test]
fn a_run_without_a_checkpoint_starts_from_what_it_started_from_or_not_at_all() {
    let toy = Toy::new();
    let weights = toy.registry("weights.safetensors");
    let from = |seed: &str| {
        let registry = toy.registry(&format!("weights_{seed}"));
        stdout(&toy.run(&registry, "plateau").args(["--set", "steps=2", "--seed", seed]).output().expect("started"));
        let run = json(&registry, &["runs", "show", "plateau"]);
        let sha256 = run["checkpoints"][0]["weights_sha256"].as_str().expect("a hash").to_owned();
        fs::copy(registry.join("blobs").join(&sha256[..2]).join(&sha256), &weights).expect("copied");
    };
    from("1");
    let registry = toy.registry("killed");
    let file = format!("weights={{file: {}}}", weights.display());
    let mut run = started(&toy, &registry, "plateau", &["--set", &file, "--set", "checkpoint.every={steps: 2000}"]);
    run.kill().expect("killed");
    run.wait().expect("ended");
    from("2");
    let refused = zoo(&registry, &["resume", "plateau"]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("now there are others"), "{}", stderr(&refused));
    from("1");
    stdout(&zoo(&registry, &["resume", "plateau"]));
    assert_eq!(outcome(&registry, "plateau").replay_mismatches, 0);
}

/// A run that has begun to train.
fn started(toy: &Toy, registry: &Path, experiment: &str, arguments: &[&str]) -> Child {
    let mut command = toy.run(registry, experiment);
    command.arg("--json").args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut run = command.spawn().expect("started");
    let mut events = BufReader::new(run.stdout.take().expect("piped")).lines().map_while(Result::ok);
    events.find(|line| line.contains("\"step\"")).expect("a step");
    // Its pipe must not fill.
    std::thread::spawn(move || events.for_each(drop));
    run
}

#[test]
fn gc_takes_what_nobody_names_and_nothing_else() {
    let toy = Toy::new();
    let whole = toy.undisturbed("mixed");
    let registry = crashed(&toy);
    let first = json(&registry, &["gc"]);
    let kept = || json(&registry, &["runs", "show", "mixed"])["checkpoints"].clone();
    let before = kept();

    // What killed processes leave: a blob without a row, half a blob, a folder of a run that was never recorded.
    let blobs = registry.join("blobs");
    let orphan = "ab".repeat(32);
    fs::create_dir_all(blobs.join("ab")).expect("created");
    fs::write(blobs.join("ab").join(&orphan), "nobody's").expect("written");
    let half = blobs.join("ab").join(".half.1.tmp");
    fs::write(&half, "ha").expect("written");
    let folder = registry.join("0193a1b2-c3d4-7e5f-8a9b-000000000001");
    fs::create_dir(&folder).expect("created");
    fs::write(folder.join("lock"), "").expect("written");
    // And what is a person's.
    fs::write(blobs.join("notes.txt"), "mine").expect("written");
    fs::create_dir(registry.join("plots")).expect("created");

    let expected = value!({
        "dry_run": true, "bytes": 10, "spills": [], "blobs": [{"sha256": orphan, "bytes": 8}],
        "unfinished": [{"path": half, "bytes": 2}], "folders": [folder],
    });
    assert_eq!(json(&registry, &["gc", "--dry-run"]), expected, "after {first}");
    let listed = stdout(&zoo(&registry, &["gc", "--dry-run"]));
    assert!(listed.contains(&orphan) && listed.contains("3 things, 10 bytes would be removed"), "{listed}");
    assert!(half.exists() && folder.exists(), "a dry run changes nothing");
    let done = json(&registry, &["gc"]);
    assert_eq!((&done["blobs"], &done["dry_run"]), (&expected["blobs"], &Value::Bool(false)));
    assert!(!half.exists() && !folder.exists() && !blobs.join("ab").join(&orphan).exists());
    assert!(blobs.join("notes.txt").exists() && registry.join("plots").exists());
    assert_eq!(json(&registry, &["gc"])["bytes"], 0);
    assert_eq!(kept(), before);

    // Another registry of the folder keeps what it names.
    let other = registry.join("other.sqlite3");
    let output = binary()
        .arg("run")
        .arg(toy.experiment("plateau"))
        .args(["--set", "steps=2", "--registry"])
        .arg(&other)
        .output();
    stdout(&output.expect("started"));
    assert_eq!(json(&registry, &["gc"])["bytes"], 0, "the other one's blobs and folder stay");
    assert_eq!(toy.finish(&registry, "mixed"), whole);
}
