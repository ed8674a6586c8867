//! A run travels to another registry and runs again there; what is no bundle is refused before anything is written.

use super::cli::{json, stderr, stdout, zoo};
use super::tiny::{lines, tiny_experiment};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;

type Files = BTreeMap<String, Vec<u8>>;

/// A short run in `folder`, exported as a folder and read into memory.
fn bundle(folder: &Path) -> Files {
    let experiment = tiny_experiment(folder, "steps: 3\nevaluate: {every: {steps: 2}}\n");
    stdout(&zoo(folder, &["run", experiment.to_str().expect("UTF-8"), "--seed", "4", "--tag", "far"]));
    let path = folder.join("bundle");
    stdout(&zoo(folder, &["export", "tiny", "--bundle", path.to_str().expect("UTF-8")]));
    let mut files = Files::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(path.join(&below)).expect("listed").map(|entry| entry.expect("an entry")) {
            let name = below.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(name);
            } else {
                files.insert(name.to_str().expect("UTF-8").to_owned(), fs::read(entry.path()).expect("read"));
            }
        }
    }
    files
}

/// The files with the sums that they have now.
fn summed(mut files: Files) -> Files {
    files.remove("SHA256SUMS");
    let line = |(name, bytes): (&String, &Vec<u8>)| format!("{:x}  {name}\n", Sha256::digest(bytes));
    let sums: String = files.iter().map(line).collect();
    files.insert("SHA256SUMS".to_owned(), sums.into_bytes());
    files
}

fn zip_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        writer.start_file(name, options).expect("started");
        writer.write_all(bytes).expect("written");
    }
    writer.finish().expect("finished").into_inner()
}

fn zipped(files: &Files) -> Vec<u8> {
    zip_of(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())))
}

/// Imports into a new registry, which must fail and leave no trace. The error.
fn refused(path: &Path, what: &str) -> String {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let registry = elsewhere.path().join("runs");
    let output = zoo(&registry, &["import", path.to_str().expect("UTF-8")]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{what}: {message}");
    assert!(!registry.exists(), "{what}: something was written");
    message
}

#[test]
fn a_run_travels_and_runs_again() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let folder = bundle(here.path());
    let path = |name: &str| here.path().join(name).to_str().expect("UTF-8").to_owned();
    let zip = path("tiny.zip");
    stdout(&zoo(here.path(), &["export", "tiny", "--bundle", &zip]));
    let again = zoo(here.path(), &["export", "tiny", "--bundle", &zip]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));

    let imported = json(there.path(), &["import", &zip]);
    assert_eq!(imported["imported"], true);
    for other in [&zip, &path("bundle")] {
        assert_eq!(json(there.path(), &["import", other])["imported"], false, "{other}");
    }
    let (a, b) = (json(here.path(), &["runs", "show", "tiny"]), json(there.path(), &["runs", "show", "tiny"]));
    assert_eq!(a, b, "everything that is known of it");
    let points = "SELECT * FROM metrics ORDER BY step, metric";
    assert_eq!(json(here.path(), &["sql", points]), json(there.path(), &["sql", points]));
    let onward = there.path().join("onward.zip");
    stdout(&zoo(there.path(), &["export", "tiny", "--bundle", onward.to_str().expect("UTF-8")]));
    assert_eq!(fs::read(&onward).expect("read"), fs::read(&zip).expect("read"), "the same bytes from there");

    let rerun = zoo(there.path(), &["rerun", "tiny", "--verify", "--json"]);
    let verdict = lines(&stdout(&rerun)).pop().expect("a verdict");
    assert_eq!((&verdict["identical"], &verdict["of"]), (&json!(true), &a["id"]), "{verdict}");
    let top1 = json(there.path(), &["eval", "tiny"])["metrics"]["val.top1"].clone();
    assert_eq!(top1, a["metrics"]["val.top1"]["best"]);

    assert!(folder["metrics.csv"].starts_with(b"metric,step,value\ntrain.loss,0,"));
    assert!(folder["experiment/0-tiny.yaml"].starts_with(b"name: tiny\n"));
    assert!(String::from_utf8_lossy(&folder["README.md"]).contains("resnet-zoo rerun"));
    assert_eq!(summed(folder.clone())["SHA256SUMS"].len(), folder["SHA256SUMS"].len(), "a line for each file");
}

#[test]
fn what_is_no_bundle_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = bundle(folder.path());
    let file = folder.path().join("hostile.zip");
    let check = |bytes: &[u8], expected: &str| {
        fs::write(&file, bytes).expect("written");
        let message = refused(&file, expected);
        assert!(message.contains(expected), "{expected}: {message}");
    };
    let with = |name: &str, bytes: &[u8]| {
        let mut files = files.clone();
        files.insert(name.to_owned(), bytes.to_vec());
        summed(files)
    };
    check(b"no zip at all", "it is no sound zip");
    check(&zipped(&files)[..2000], "it is no sound zip");
    for name in ["../escape", "/etc/escape", "a/b/c", "spec/..", "a\\b", "C:x"] {
        check(&zip_of([(name, &b"x"[..])]), "is not allowed");
    }
    check(&zipped(&with("extra.sh", b"rm")), "`extra.sh` is no file of a bundle");
    let mut unnamed = files.clone();
    unnamed.insert("extra.sh".to_owned(), Vec::new());
    check(&zipped(&unnamed), "`extra.sh` is not named in it");
    let mut missing = files.clone();
    missing.remove("metrics.csv");
    check(&zipped(&missing), "`metrics.csv` is missing");
    check(&zipped(&summed(missing)), "metrics.csv is missing");

    let weights = files.keys().find(|name| name.starts_with("checkpoints/")).expect("a checkpoint").clone();
    let mut flipped = files[&weights].clone();
    flipped[1000] ^= 1;
    check(&zipped(&with(&weights, &flipped)), "is damaged: its sha256 is");
    let mut unsummed = files.clone();
    unsummed.insert(weights.clone(), flipped);
    check(&zipped(&unsummed), "is damaged: its sha256 is");

    // The names of two entries become one, and then a compressed one, a symlink, and a huge one.
    let two = zip_of([("aaaa", &b"1"[..]), ("aaab", b"2")]);
    let same: Vec<u8> = replace(&two, b"aaab", b"aaaa");
    check(&same, "twice");
    let one = zip_of([("aaaa", &b"1"[..])]);
    let central = one.windows(4).position(|window| window == b"PK\x01\x02").expect("a directory");
    let mut compressed = one.clone();
    (compressed[8], compressed[central + 10]) = (8, 8);
    check(&compressed, "is compressed");
    let mut link = one.clone();
    link[central + 5] = 3;
    link[central + 38..central + 42].copy_from_slice(&(0o120_777u32 << 16).to_le_bytes());
    check(&link, "is no plain file");
    let mut huge = one;
    huge[central + 24..central + 28].copy_from_slice(&0xFFFF_FFF0u32.to_le_bytes());
    check(&huge, "`aaaa`");
}

#[test]
fn what_no_run_can_say_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = bundle(folder.path());
    let path = folder.path().join("hostile.zip");
    let run: Value = serde_json::from_slice(&files["run.json"]).expect("JSON");
    let changes: [(&str, Value, &str); 9] = [
        ("uid", json!("../../x"), "uid is no UUID"),
        ("name", json!("a\u{1b}[2Jb"), "control characters"),
        ("state", json!("RUNNING"), "state is none of"),
        ("created_ms", json!(i64::MAX), "is no time"),
        ("weights", json!([]), "is no mapping"),
        ("cursor_step", json!(-7), "cursor_step is no step"),
        ("surplus", json!(1), "unknown field"),
        ("seed", json!(-1), "run.json"),
        (
            "checkpoints",
            json!([{"step": 0, "role": "last", "weights_sha256": "../../../../etc/passwd", "state_sha256": "x",
            "metric_digest": "x", "created_ms": 0}]),
            "is no sha256",
        ),
    ];
    let check = |name: &str, bytes: Vec<u8>, expected: &str| {
        let mut files = files.clone();
        files.insert(name.to_owned(), bytes);
        fs::write(&path, zipped(&summed(files))).expect("written");
        let message = refused(&path, expected);
        assert!(message.contains(expected), "{name}: {message}");
    };
    for (key, value, expected) in changes {
        let mut run = run.clone();
        run[key] = value;
        check("run.json", run.to_string().into_bytes(), expected);
    }
    check("metrics.csv", b"metric,step,value\na,1,2\na,1,3\n".to_vec(), "stands twice");
    check("metrics.csv", b"metric,step,value\na,-1,2\n".to_vec(), "line 2 of metrics.csv");
    check("metrics.csv", b"metric,step,value\na,1,x\n".to_vec(), "line 2 of metrics.csv");
    check("bundle.json", b"{\"format\": 2, \"experiment\": [], \"spec\": []}".to_vec(), "form 2");
    check("config.json", b"[".to_vec(), "is no JSON mapping");
    check("samples.jsonl", b"{}\n".to_vec(), "line 1 of samples.jsonl");

    #[cfg(unix)]
    {
        let link = folder.path().join("bundle/link");
        std::os::unix::fs::symlink("/etc/passwd", link).expect("linked");
        let message = refused(&folder.path().join("bundle"), "a link");
        assert!(message.contains("`link`, which is no plain file"), "{message}");
    }
}

#[test]
fn another_run_of_the_same_id_is_kept() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let files = bundle(here.path());
    let path = here.path().join("bundle");
    stdout(&zoo(there.path(), &["import", path.to_str().expect("UTF-8")]));
    let mut run: Value = serde_json::from_slice(&files["run.json"]).expect("JSON");
    run["cursor_step"] = json!(1);
    let mut files = files;
    files.insert("run.json".to_owned(), run.to_string().into_bytes());
    let zip = here.path().join("other.zip");
    fs::write(&zip, zipped(&summed(files))).expect("written");
    let output = zoo(there.path(), &["import", zip.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("already, with other content: 3 steps here, 2 in"), "{}", stderr(&output));
    assert_eq!(json(there.path(), &["runs", "ls"]).as_array().map(Vec::len), Some(1));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in 0..bytes.len() - from.len() {
        if &bytes[at..at + from.len()] == from {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}
