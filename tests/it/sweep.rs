//! `sweep`: trials in processes of their own, halving, restarts after kill -9.

use super::cli::{binary, json, stderr, stdout, zoo};
use super::registry::registry_of;
use super::tiny::{lines, tiny_experiment};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A sweep over the tiny experiment.
fn sweep(folder: &Path, experiment: &str, more: &str) -> PathBuf {
    tiny_experiment(folder, experiment);
    let path = folder.join("sweep.yaml");
    std::fs::write(&path, format!("name: s\nexperiment: tiny.yaml\n{more}")).expect("written");
    path
}

fn ended(output: &str) -> Value {
    lines(output).pop().expect("a last line")
}

/// Name, state and digest of the sweep's runs.
fn runs(folder: &Path) -> Vec<(String, String, String)> {
    let list = json(folder, &["runs", "ls", "group = 's'", "--sort", "name"]);
    let text = |run: &Value, key: &str| run[key].as_str().unwrap_or_default().to_owned();
    let runs = list.as_array().expect("an array").iter();
    runs.map(|run| (text(run, "name"), text(run, "state"), text(run, "metric_digest"))).collect()
}

#[test]
fn a_grid_is_run_and_not_run_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = sweep(folder.path(), "steps: 2\n", "parameters: {optimizer.sgd.lr: [0.1, 0.01]}\nseeds: [0, 1]\n");
    let file = file.to_str().expect("UTF-8");
    let planned = stdout(&zoo(folder.path(), &["sweep", file, "--dry-run"]));
    assert!(planned.contains("s.3  optimizer.sgd.lr=0.01 seed=1"), "{planned}");
    assert!(!folder.path().join("registry.sqlite3").exists(), "a dry run leaves nothing");

    let output = stdout(&zoo(folder.path(), &["sweep", file, "--processes", "2", "--json"]));
    let first = ended(&output);
    assert_eq!(first["event"], "ended");
    assert_eq!(lines(&output).iter().filter(|line| line["event"] == "trial").count(), 4);
    let trials = first["trials"].as_array().expect("trials");
    let score = |trial: &Value| trial["metric"].as_f64().expect("a value");
    assert!(trials.windows(2).all(|pair| score(&pair[0]) >= score(&pair[1])), "the best first: {first}");
    let before = runs(folder.path());
    let names: Vec<&str> = before.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["s.0", "s.1", "s.2", "s.3"]);
    assert!(before.iter().all(|(_, state, _)| state == "COMPLETED"), "{before:?}");

    let again = stdout(&zoo(folder.path(), &["sweep", file, "--json"]));
    assert_eq!(lines(&again).iter().filter(|line| line["event"] == "trial").count(), 0, "nothing is left to do");
    assert_eq!(ended(&again), first);
    assert_eq!(runs(folder.path()), before);
    let compared = json(folder.path(), &["runs", "compare", "--where", "group = 's'"]);
    assert_eq!(compared["groups"].as_array().map(Vec::len), Some(2), "seeds are one");

    let changed = std::fs::read_to_string(file).expect("read").replace("0.01", "0.02");
    std::fs::write(file, changed).expect("written");
    let output = zoo(folder.path(), &["sweep", file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("give it another --name"), "{}", stderr(&output));
}

#[test]
fn halving_resumes_the_better_part() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = "parameters: {optimizer.sgd.lr: {log_uniform: [1e-3, 0.1]}}\n\
                strategy: {halving: {trials: 4, factor: 2, least: {epochs: 1}}}\nmetric: val.loss\n";
    let file = sweep(folder.path(), "epochs: 4\n", more);
    let output = stdout(&zoo(folder.path(), &["sweep", file.to_str().expect("UTF-8"), "--json"]));
    let rungs: Vec<Value> = lines(&output).into_iter().filter(|line| line["event"] == "rung").collect();
    assert_eq!(rungs.len(), 3, "{output}");
    assert_eq!(
        (rungs[0]["ranked"].as_array().map(Vec::len), rungs[0]["going_on"].as_array().map(Vec::len)),
        (Some(4), Some(2))
    );
    assert_eq!(
        (rungs[1]["ranked"].as_array().map(Vec::len), rungs[1]["going_on"].as_array().map(Vec::len)),
        (Some(2), Some(1))
    );
    let list = json(folder.path(), &["runs", "ls", "group = 's'", "--sort", "steps desc"]);
    let facts: Vec<_> =
        list.as_array().expect("runs").iter().map(|run| (run["steps"].as_u64(), run["state"].clone())).collect();
    let (done, paused) = (json!("COMPLETED"), json!("INTERRUPTED"));
    assert_eq!(
        facts,
        [(Some(16), done), (Some(8), paused.clone()), (Some(4), paused.clone()), (Some(4), paused)],
        "a fourth of the trials went the whole way"
    );
    assert_eq!(list[0]["name"], rungs[1]["going_on"][0]);

    // What went the whole way in three pieces is what it would have been in one.
    let winner = json(folder.path(), &["runs", "show", list[0]["name"].as_str().expect("a name")]);
    let experiment = folder.path().join("tiny.yaml");
    let lr = winner["overrides"][0].as_str().expect("an override");
    stdout(&zoo(folder.path(), &["run", experiment.to_str().expect("UTF-8"), "--set", lr, "--name", "whole"]));
    let whole = json(folder.path(), &["runs", "show", "whole"]);
    assert_eq!(whole["metric_digest"], winner["metric_digest"]);
}

#[test]
fn a_sweep_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = sweep(folder.path(), "steps: 12\n", "parameters: {optimizer.sgd.lr: [0.1, 0.05, 0.01]}\n");
    let file = file.to_str().expect("UTF-8");
    let mut killed = binary()
        .args(["sweep", file, "--json"])
        .args(registry_of(folder.path()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    // Within the second trial: the first one is done.
    let stdout_of = killed.stdout.take().expect("piped");
    let done = BufReader::new(stdout_of).lines().map_while(Result::ok).find(|line| line.contains("\"trial\""));
    assert!(done.is_some(), "a trial ends");
    killed.kill().expect("killed");
    killed.wait().expect("waited");

    let output = stdout(&zoo(folder.path(), &["sweep", file, "--json"]));
    let after = runs(folder.path());
    assert_eq!(after.len(), 3, "no trial was begun twice: {after:?}");
    assert!(after.iter().all(|(_, state, _)| state == "COMPLETED"), "{after:?}\n{output}");
    assert!(lines(&output).iter().all(|line| line["name"] != "s.0" || line["event"] != "trial"), "what was done stays");

    // The same without a death, elsewhere.
    let other = tempfile::tempdir().expect("a folder");
    stdout(&zoo(other.path(), &["sweep", file, "--json"]));
    assert_eq!(runs(other.path()), after);
}

#[test]
fn a_trial_that_dies_is_resumed_by_the_next_sweep() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = sweep(folder.path(), "steps: 200\n", "parameters: {optimizer.sgd.lr: [0.01]}\n");
    let file = file.to_str().expect("UTF-8");
    let mut command = binary();
    command.args(["sweep", file, "--json"]).args(registry_of(folder.path()));
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let pid = loop {
        let list = zoo(folder.path(), &["runs", "show", "s.0", "--json"]);
        let shown: Value = serde_json::from_slice(&list.stdout).unwrap_or_default();
        if shown["steps"].as_u64() > Some(0) {
            break shown["attempts"][0]["pid"].to_string();
        }
        assert!(running.try_wait().expect("asked").is_none(), "200 steps take longer than this");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().expect("started").success());
    let ended = running.wait_with_output().expect("waited");
    assert_eq!(ended.status.code(), Some(1), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("1 of 1 trials ended before their time: s.0"), "{}", stderr(&ended));
    assert_eq!(runs(folder.path())[0].1, "CRASHED");
    stdout(&zoo(folder.path(), &["sweep", file]));
    let shown = json(folder.path(), &["runs", "show", "s.0"]);
    assert_eq!((&shown["state"], shown["attempts"].as_array().map(Vec::len)), (&json!("COMPLETED"), Some(2)));
}

#[test]
fn what_cannot_be_swept_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = sweep(folder.path(), "steps: 2\n", "parameters: {optimizer.sgd.lr: [0.1]}\n");
    let file = file.to_str().expect("UTF-8");
    let cases: [(&[&str], &str); 4] = [
        (&["sweep", "missing.yaml"], "missing.yaml"),
        (&["sweep", file, "--processes", "0"], "0 is not in 1..=256"),
        (&["sweep", file, "--name", "../x"], "is no name"),
        (&["run", file, "--pause-after", "3"], "write epochs=N or steps=N"),
    ];
    for (arguments, expected) in cases {
        let output = zoo(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    let output = zoo(folder.path(), &["sweep", file, "--device", "gpu"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("`gpu` is no device"), "{}", stderr(&output));
    let checked = json(folder.path(), &["check", file]);
    assert_eq!((&checked[0]["kind"], &checked[0]["ok"]), (&json!("sweep"), &json!(true)));
}
