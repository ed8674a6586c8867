//! Why two runs differ.

use super::cli::{json, stderr, stdout, zoo};
use super::tiny::tiny_experiment;
use serde_json::{Value, json};
use std::fs;

fn layer<'a>(diff: &'a Value, name: &str) -> &'a Value {
    let layers = diff["layers"].as_array().expect("layers");
    layers.iter().find(|layer| layer["layer"] == name).unwrap_or_else(|| panic!("no layer {name}"))
}

/// What differs in a layer: `{what: [a, b]}`.
fn differences(layer: &Value) -> Value {
    let all = layer["differences"].as_array().expect("differences").iter();
    Value::Object(
        all.map(|one| (one["what"].as_str().expect("text").to_owned(), json!([one["a"], one["b"]]))).collect(),
    )
}

#[test]
fn each_layer_says_what_differs_and_who_set_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = tiny_experiment(folder.path(), "steps: 2\nevaluate: {every: {steps: 1}}\n");
    let base_name = base.to_str().expect("UTF-8").to_owned();
    let child = folder.path().join("child.yaml");
    let text = "extends: tiny.yaml\nname: child\nmodel: cifar_resnet32\ndata: {source: {embedded: {train: 48}}}\n";
    fs::write(&child, text).expect("written");
    let child = child.to_str().expect("UTF-8");
    stdout(&zoo(folder.path(), &["run", &base_name, "--threads", "1"]));
    stdout(&zoo(folder.path(), &["run", child, "--set", "optimizer.sgd.lr=0.1", "--seed", "9", "--threads", "2"]));
    stdout(&zoo(folder.path(), &["run", &base_name, "--threads", "2", "--name", "again"]));

    let diff = json(folder.path(), &["runs", "diff", "tiny", "child"]);
    assert_eq!(
        (&diff["identical"], &diff["a"]["name"], &diff["b"]["name"]),
        (&json!(false), &json!("tiny"), &json!("child"))
    );
    for (name, same) in [("code", true), ("build", true), ("weights", true), ("device", true), ("seed", false)] {
        assert_eq!(layer(&diff, name)["same"], same, "{}", layer(&diff, name));
    }
    let experiment = layer(&diff, "experiment");
    let lr = experiment["differences"].as_array().expect("a list").iter().find(|one| one["what"] == "optimizer.sgd.lr");
    let expected = json!({"what": "optimizer.sgd.lr", "a": 0.05, "b": 0.1, "set_by": [base_name, "--set"]});
    assert_eq!(lr, Some(&expected));
    let keys = differences(experiment);
    let mut names: Vec<&String> = keys.as_object().expect("an object").keys().collect();
    names.sort();
    assert_eq!(names, ["data.source.embedded.train", "model", "name", "optimizer.sgd.lr", "seed"]);

    let architecture = differences(layer(&diff, "architecture"));
    assert_eq!(architecture["model"], json!(["cifar_resnet20", "cifar_resnet32"]));
    assert_eq!(architecture["parameters"].as_array().map(Vec::len), Some(2), "{architecture}");
    let stage = architecture["layer2"].as_array().expect("a stage");
    assert!(stage[0].as_str().expect("text").starts_with("3 blocks, "), "{stage:?}");
    assert!(stage[1].as_str().expect("text").starts_with("5 blocks, "), "{stage:?}");
    assert!(architecture.get("conv1").is_none(), "the stem is the same: {architecture}");

    let data = layer(&diff, "data");
    assert_eq!(differences(data)["train samples"], json!([64, 48]));
    assert!(data["notes"][0].as_str().expect("a note").starts_with("16 only in a: train/"), "{data}");
    assert_eq!(diff["agreement"]["first"]["step"], 0);

    let page = stdout(&zoo(folder.path(), &["runs", "diff", "tiny", "child", "--color", "always"]));
    assert!(page.contains("\u{1b}[31m") && page.contains("\u{1b}[32m"), "coloured: {page}");
    let page = stdout(&zoo(folder.path(), &["runs", "diff", "tiny", "child"]));
    assert!(page.contains("what differs before: experiment, architecture, data, seed"), "{page}");
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "no colours in a pipe");

    let diff = json(folder.path(), &["runs", "diff", "tiny", "again"]);
    assert_eq!((&diff["identical"], &diff["agreement"]["first"]), (&json!(true), &Value::Null), "{diff}");
    assert_eq!(differences(layer(&diff, "device")), json!({"threads": [1, 2]}), "said, and no cause");
    let page = stdout(&zoo(folder.path(), &["runs", "diff", "tiny", "again"]));
    assert!(page.contains("identical, bit for bit\nwhat differs before: nothing that is recorded"), "{page}");

    let itself = zoo(folder.path(), &["runs", "diff", "tiny", "tiny"]);
    assert_eq!(itself.status.code(), Some(2));
    assert!(stderr(&itself).contains("both are the run"), "{}", stderr(&itself));
    let size = json(folder.path(), &["sql", "SELECT samples, length(zlib) AS bytes FROM sample_list ORDER BY samples"]);
    assert_eq!((&size[0]["samples"], &size[1]["samples"]), (&json!(80), &json!(96)));
}
