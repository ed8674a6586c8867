//! What a run stored is enough to run it again, and to say whether it came out the same.

use super::cli::{binary, json, stderr, stdout, zoo};
use super::registry::registry_of;
use super::tiny::{lines, tiny_experiment};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn last(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    lines(&text).pop().unwrap_or_else(|| panic!("nothing was printed: {}", stderr(output)))
}

fn git(folder: &Path, arguments: &[&str]) {
    let names = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"];
    let mut command = Command::new("git");
    names.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.current_dir(folder).args(["-c", "user.name=T", "-c", "user.email=t@example.org"]).args(arguments);
    assert!(command.status().expect("git is needed for this test").success(), "{arguments:?}");
}

#[test]
fn a_rerun_needs_no_file_and_comes_out_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = tiny_experiment(folder.path(), "steps: 4\nevaluate: {every: {steps: 2}}\n");
    let file = folder.path().join("child.yaml");
    fs::write(&file, "extends: tiny.yaml\nname: child\naugment: {mixup: 0.2}\n").expect("written");
    let experiment = file.to_str().expect("UTF-8");
    stdout(&zoo(folder.path(), &["run", experiment, "--set", "label_smoothing=0.1", "--seed", "5", "--threads", "1"]));
    fs::remove_file(&base).expect("removed");
    fs::write(&file, "nonsense").expect("written");

    let output = zoo(folder.path(), &["rerun", "child", "--verify", "--json", "--threads", "2"]);
    let events = lines(&stdout(&output));
    assert_eq!((&events[0]["event"], &events[0]["changes"]), (&json!("rerun"), &json!([])));
    let verdict = last(&output);
    assert_eq!((&verdict["event"], &verdict["identical"]), (&json!("verified"), &json!(true)), "{verdict}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("differs\""));
    assert_eq!(verdict["metrics"]["different"], 0);
    assert!(verdict["metrics"]["values"].as_u64() > Some(12), "{verdict}");
    assert!(verdict["weights"].as_array().is_some_and(|pairs| !pairs.is_empty()), "{verdict}");

    let (run, again) =
        (json(folder.path(), &["runs", "show", "child"]), json(folder.path(), &["runs", "show", "child-rerun"]));
    assert_eq!((&again["rerun_of"], &run["rerun_of"]), (&run["id"], &Value::Null));
    for key in ["config_sha256", "files", "overrides", "provenance", "metric_digest", "seed"] {
        assert_eq!(again[key], run[key], "{key}");
    }
    let page = stdout(&zoo(folder.path(), &["rerun", "child-rerun", "--verify"]));
    assert!(page.contains("\nidentical\n") && page.contains("bit for bit"), "{page}");
    assert_eq!(json(folder.path(), &["runs", "ls"])[0]["name"], "child-rerun", "not child-rerun-rerun");
}

#[test]
fn other_weights_are_said_before_and_found_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = folder.path().join("first.safetensors");
    let take = |name: &str| {
        let run = json(folder.path(), &["runs", "show", name]);
        let sha256 = run["checkpoints"][0]["weights_sha256"].as_str().expect("a hash").to_owned();
        fs::copy(folder.path().join("blobs").join(&sha256[..2]).join(sha256), &weights).expect("copied");
    };
    let experiment = tiny_experiment(folder.path(), "steps: 2\n");
    let experiment = experiment.to_str().expect("UTF-8");
    for seed in ["1", "2"] {
        stdout(&zoo(folder.path(), &["run", experiment, "--name", seed, "--seed", seed]));
    }
    take("1");
    let file = format!("weights.file={}", weights.display());
    stdout(&zoo(folder.path(), &["run", experiment, "--set", &file, "--name", "tuned"]));
    take("2");
    let output = zoo(folder.path(), &["rerun", "tuned", "--verify", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let changes = &lines(&text)[0]["changes"];
    assert_eq!(
        (changes[0]["what"].as_str(), changes.as_array().map(Vec::len)),
        (Some("(weights)"), Some(1)),
        "{changes}"
    );
    let verdict = last(&output);
    assert_eq!(verdict["identical"], false);
    let first = &verdict["metrics"]["first"];
    assert_eq!((first["step"].as_u64(), first["metric"].as_str()), (Some(0), Some("train.loss")), "{first}");
    assert_ne!(first["a"]["bits"], first["b"]["bits"]);
    let told: Vec<Value> = lines(&text).into_iter().filter(|line| line["event"] == "differs").collect();
    assert_eq!(told.len(), 1, "{text}");
    assert_eq!(
        ["step", "metric", "a", "b"].map(|key| &told[0][key]),
        ["step", "metric", "a", "b"].map(|key| &first[key])
    );
    assert!(stderr(&output).contains("differs from"), "{}", stderr(&output));

    let page = zoo(folder.path(), &["rerun", "tuned", "--verify"]);
    let page = String::from_utf8(page.stdout).expect("UTF-8");
    assert!(
        page.contains("not as it was then:\n  (weights)")
            && page.contains("first at step 1: train.loss is")
            && page.contains("differs at step 1: train.loss is"),
        "{page}"
    );
}

#[test]
fn a_failure_is_reproduced_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let experiment = tiny_experiment(folder.path(), "steps: 20\n");
    let diverging = ["--set", "optimizer.sgd.weight_decay=1", "--set", "optimizer.sgd.lr=1000"];
    let run = [&["run", experiment.to_str().expect("UTF-8")][..], &diverging].concat();
    assert_eq!(zoo(folder.path(), &run).status.code(), Some(1));
    let output = zoo(folder.path(), &["rerun", "tiny", "--verify", "--json"]);
    let verdict = last(&output);
    assert_eq!((output.status.code(), &verdict["identical"]), (Some(0), &json!(true)), "{verdict}");
    assert!(verdict["ended"][0].as_str().expect("text").starts_with("FAILED after"), "{verdict}");
}

#[test]
fn what_was_interrupted_is_compared_as_far_as_it_came() {
    let folder = tempfile::tempdir().expect("a folder");
    let experiment = tiny_experiment(folder.path(), "steps: 30\ncheckpoint: {every: {steps: 3}}\n");
    let mut command = binary();
    command.args(["run", experiment.to_str().expect("UTF-8"), "--json"]);
    let mut child = command.args(registry_of(folder.path())).stdout(Stdio::piped()).spawn().expect("started");
    let mut events = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(events.any(|line| line.expect("UTF-8").contains("\"checkpoint\"")), "a checkpoint");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("started").success());
    events.for_each(drop);
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let steps = json(folder.path(), &["runs", "show", "tiny"])["steps"].as_u64().expect("steps");

    let output = zoo(folder.path(), &["rerun", "tiny", "--verify", "--json"]);
    let verdict = lines(&stdout(&output)).pop().expect("a verdict");
    assert_eq!((&verdict["identical"], &verdict["metrics"]["different"]), (&json!(true), &json!(0)), "{verdict}");
    let values = verdict["metrics"]["values"].as_u64().expect("a number");
    assert!((4 * steps - 1..=4 * steps + 3).contains(&values), "four a step: {values} of {steps} steps");
    assert!(verdict["ended"][1].as_str().expect("text").starts_with("COMPLETED after 30"), "{verdict}");
}

#[test]
fn code_is_recorded_and_no_secret_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).expect("created");
    git(&tree, &["init", "-q", "-b", "main"]);
    fs::write(tree.join("notes.txt"), "one\n").expect("written");
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-q", "-m", "one"]);
    git(&tree, &["remote", "add", "origin", "https://me:pa55w0rd@example.org/zoo.git"]);
    let token = format!("hf_{}", "Zz9".repeat(12));
    fs::write(tree.join("notes.txt"), format!("two {token}\n")).expect("written");
    let experiment = tiny_experiment(&tree, "steps: 1\n");
    let output = binary()
        .args(["run", experiment.to_str().expect("UTF-8"), "--json"])
        .args(registry_of(folder.path()))
        .envs([("HF_TOKEN", "hf_environment"), ("AWS_SECRET_ACCESS_KEY", "topsecret"), ("HF_HUB_OFFLINE", "1")])
        .env("HF_ENDPOINT", "https://user:mirr0r@hub.example.org")
        .output()
        .expect("started");
    stdout(&output);

    let run = json(folder.path(), &["runs", "show", "tiny"]);
    let code = &run["code"];
    assert_eq!((code["branch"].as_str(), code["commit"].as_str().map(str::len)), (Some("main"), Some(40)), "{code}");
    assert_eq!(code["remote"], "https://example.org/zoo.git");
    assert_eq!(code["untracked"], json!(["tiny.yaml"]));
    assert!(code["patch"].as_str().expect("a patch").contains("-one\n+two ***"), "{code}");
    assert_eq!(run["environment"], json!({"HF_ENDPOINT": "https://hub.example.org", "HF_HUB_OFFLINE": "1"}));
    for entry in fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("an entry").path()) {
        let bytes = if entry.is_file() { fs::read(&entry).expect("read") } else { continue };
        for secret in [&token, "hf_environment", "topsecret", "pa55w0rd", "mirr0r"] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", entry.display());
        }
    }

    let page = stdout(&zoo(folder.path(), &["runs", "show", "tiny"]));
    assert!(page.contains("1 untracked experiment file") && page.contains("environment HF_HUB_OFFLINE=1"), "{page}");
}
