//! Runs as files of other programs. That the real programs read them says `scripts/check_exports.py`, which needs them.

use super::cli::{binary, json, stderr, stdout, zoo};
use super::registry::finished_run;
use super::tiny::{lines, tiny_experiment};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn values_leave_in_tables() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    finished_run(folder.path(), 2, 0.75);
    let csv = stdout(&zoo(folder.path(), &["export", "run-1", "run-2", "--csv", "-"]));
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["run", "run_name", "metric", "step", "value"]);
    let without_ids: Vec<&[&str]> = rows[1..].iter().map(|row| &row[1..]).collect();
    let train = |name| ["0", "1", "2"].map(|step| vec![name, "train.loss", step, "1.0"]);
    let mut expected = train("run-1").to_vec();
    expected.extend(
        [["0", "0.1"], ["1", "0.5"], ["2", "0.25"]].map(|[step, value]| vec!["run-1", "val.top1", step, value]),
    );
    expected.extend(train("run-2"));
    expected.extend(
        [["0", "0.1"], ["1", "0.75"], ["2", "0.375"]].map(|[step, value]| vec!["run-2", "val.top1", step, value]),
    );
    assert_eq!(without_ids, expected);

    let file = folder.path().join("table.jsonl");
    let said = json(folder.path(), &["export", "run-1", "--jsonl", text(&file)]);
    assert_eq!(said["bytes"], fs::metadata(&file).expect("written").len());
    let rows = lines(&fs::read_to_string(&file).expect("read"));
    assert_eq!((rows.len(), &rows[3]["value"], &rows[3]["not_finite"]), (6, &json!(0.1), &Value::Null));
    let parquet = folder.path().join("table.parquet");
    stdout(&zoo(folder.path(), &["export", "run-1", "run-2", "--parquet", text(&parquet)]));
    assert!(fs::read(&parquet).expect("read").ends_with(b"PAR1"));

    let logs = folder.path().join("logs");
    stdout(&zoo(folder.path(), &["export", "run-1", "run-2", "--tensorboard", text(&logs)]));
    let mut runs: Vec<String> = fs::read_dir(&logs)
        .expect("listed")
        .map(|run| run.expect("a run").file_name().into_string().expect("UTF-8"))
        .collect();
    runs.sort();
    assert_eq!(runs, ["run-1-00000001", "run-2-00000002"]);

    let cases: [(&[&str], &str); 5] = [
        (&["export", "run-1"], "required arguments"),
        (&["export", "run-1", "run-2", "--bundle", "x.zip"], "--bundle takes one run, not 2"),
        (&["export", "run-1", "run-1", "--csv", "-"], "again"),
        (&["export", "run-1", "--jsonl", text(&file)], "exists already"),
        (&["export", "run-1", "--csv", "-", "--jsonl", "-"], "cannot be used with"),
    ];
    for (arguments, expected) in cases {
        let output = zoo(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn weights_leave_in_the_layout_of_the_hub() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = "steps: 2\ndescription: 'a | b'\n";
    let experiment = tiny_experiment(folder.path(), more);
    stdout(&zoo(folder.path(), &["run", text(&experiment), "--set", "seed=3"]));
    let published = folder.path().join("published");
    let said = json(folder.path(), &["publish", "tiny", "--to-folder", text(&published)]);
    let weights = folder.path().join("best.safetensors");
    stdout(&zoo(folder.path(), &["export", "tiny", "--weights", text(&weights)]));
    let model = published.join("model.safetensors");
    assert_eq!(fs::read(&model).expect("read"), fs::read(&weights).expect("read"));
    let run = json(folder.path(), &["runs", "show", "tiny"]);
    let kept = run["checkpoints"].as_array().expect("some");
    let best = kept.iter().find(|one| one["role"] == "best").expect("a best one");
    assert_eq!(said["sha256"], best["weights_sha256"]);

    let config: Value = serde_json::from_slice(&fs::read(published.join("config.json")).expect("read")).expect("JSON");
    assert_eq!((&config["architecture"], &config["num_classes"]), (&json!("cifar_resnet20"), &json!(10)));
    assert_eq!((&config["num_features"], &config["label_names"]), (&json!(64), &run["classes"]));
    let cfg = &config["pretrained_cfg"];
    assert_eq!((&cfg["input_size"], &cfg["mean"]), (&json!([3, 32, 32]), &json!([0.286, 0.286, 0.286])));
    assert_eq!((&cfg["first_conv"], &cfg["classifier"]), (&json!("conv1"), &json!("fc")));

    let readme = fs::read_to_string(published.join("README.md")).expect("read");
    let (front, body) = readme.strip_prefix("---\n").and_then(|text| text.split_once("---\n")).expect("front matter");
    assert!(front.contains("model-index: [{") && !front.contains("timm"), "{front}");
    assert!(body.contains("a \\| b") && body.contains("| val.top1 |") && body.contains("seed=3"), "{body}");
    assert!(body.contains("name: tiny\nmodel: cifar_resnet20"), "{body}");

    let measured = json(folder.path(), &["eval", text(&experiment), "--weights", text(&model)]);
    assert_eq!(
        measured["metrics"]["val.top1"], run["metrics"]["val.top1"]["best"],
        "what was published is what was measured"
    );
    let again = zoo(folder.path(), &["publish", "tiny", "--to-folder", text(&published)]);
    assert_eq!((again.status.code(), stderr(&again).contains("exists already")), (Some(2), true));
}

#[test]
fn runs_go_to_mlflow_and_come_back() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    finished_run(here.path(), 1, 0.5);
    finished_run(here.path(), 2, 0.75);
    let file = here.path().join("mlflow.db");
    stdout(&zoo(here.path(), &["export", "run-1", "--mlflow", text(&file)]));
    // Once more, and another one beside it.
    stdout(&zoo(here.path(), &["export", "run-1", "run-2", "--mlflow", text(&file)]));
    let imported = json(there.path(), &["import", "--mlflow", text(&file)]);
    assert_eq!(imported.as_array().map(Vec::len), Some(2), "{imported}");
    assert!(imported.as_array().expect("a list").iter().all(|one| one["imported"] == true), "{imported}");
    let points = "SELECT run, run_name, metric, step, value FROM metrics ORDER BY run, metric, step";
    assert_eq!(json(here.path(), &["sql", points]), json(there.path(), &["sql", points]));
    let run = json(there.path(), &["runs", "show", "run-2"]);
    assert_eq!((&run["config"]["top1"], &run["state"]), (&json!(0.75), &json!("COMPLETED")));
    assert_eq!(run["metric_digest"], Value::Null, "MLflow keeps no order of values");
    let diff = json(there.path(), &["runs", "diff", "run-1", "run-2"]);
    let settings = diff["layers"][2]["differences"].as_array().expect("a list");
    assert!(
        settings.contains(&json!({"what": "top1", "a": 0.5, "b": 0.75, "set_by": ["MLflow", "MLflow"]})),
        "{settings:?}"
    );
    for folder in [there.path(), here.path()] {
        let again = json(folder, &["import", "--mlflow", text(&file)]);
        assert!(again.as_array().expect("a list").iter().all(|one| one["imported"] == false), "{again}");
    }
    let rerun = zoo(there.path(), &["rerun", "run-2"]);
    assert_eq!(rerun.status.code(), Some(2), "it has no experiment: {}", stderr(&rerun));

    let ours = here.path().join("ours.sqlite3");
    let import = binary().args(["import", "--mlflow", text(&file), "--registry"]).arg(&ours).output();
    stdout(&import.expect("started"));
    for (path, expected) in [(ours.as_path(), "not one of MLflow"), (Path::new("missing.db"), "there is no file")] {
        for command in ["import", "export"] {
            let arguments: &[&str] = match command {
                "import" => &["import", "--mlflow", text(path)],
                _ if path == ours => &["export", "run-1", "--mlflow", text(path)],
                _ => continue,
            };
            let output = zoo(here.path(), arguments);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
            assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        }
    }
}

#[test]
fn sql_answers_what_its_page_says() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sql.md")).expect("read");
    let mut statements: Vec<String> = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        statements.push(format!("SELECT {} FROM {}", cells[3], cells[1]));
    }
    assert!(statements.len() >= 10, "a view a row: {statements:?}");
    let blocks = page.split("```sql\n").skip(1).map(|block| block.split("```").next().expect("a block"));
    statements.extend(blocks.flat_map(|block| block.split(';')).map(str::to_owned));
    for statement in &statements {
        let answer = json(folder.path(), &["sql", statement]);
        assert!(answer.is_array(), "{statement}: {answer}");
    }
    let set_by = "SELECT set_by FROM provenance WHERE setting = 'seed'";
    assert_eq!(json(folder.path(), &["sql", set_by]), json!([{"set_by": "--set"}]));
}
