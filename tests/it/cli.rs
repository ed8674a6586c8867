//! The real binary: help, exit codes, JSON shapes, signals.

use super::registry::{finished_run, registry_of};
use super::tiny::{lines, tiny_experiment};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(super) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resnet-zoo"));
    command.env_remove("NO_COLOR").current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Runs `resnet-zoo ARGUMENTS --registry FOLDER/registry.sqlite3`.
pub(super) fn zoo(folder: &Path, arguments: &[&str]) -> Output {
    binary().args(arguments).args(registry_of(folder)).output().expect("started")
}

pub(super) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), stderr(output));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(super) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

pub(super) fn json(folder: &Path, arguments: &[&str]) -> Value {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    serde_json::from_str(&stdout(&zoo(folder, &arguments))).expect("one JSON value")
}

#[test]
fn every_command_teaches_by_example() {
    let commands: &[&[&str]] = &[
        &[],
        &["run"],
        &["resume"],
        &["sweep"],
        &["rerun"],
        &["models"],
        &["show"],
        &["check"],
        &["pull"],
        &["predict"],
        &["eval"],
        &["runs", "ls"],
        &["runs", "show"],
        &["runs", "compare"],
        &["runs", "diff"],
        &["runs", "tag"],
        &["runs", "untag"],
        &["runs", "group"],
        &["runs", "note"],
        &["runs", "archive"],
        &["runs", "unarchive"],
        &["export"],
        &["import"],
        &["publish"],
        &["watch"],
        &["report"],
        &["serve"],
        &["sql"],
        &["gc"],
        &["bench"],
        &["bench", "train"],
        &["bench", "infer"],
        &["bench", "startup"],
        &["bench", "ops"],
        &["bench", "data"],
        &["bench", "registry"],
        &["bench", "compare"],
    ];
    for command in commands {
        let output = binary().args(*command).arg("--help").output().expect("started");
        let help = stdout(&output);
        assert!(help.contains("Examples:\n  resnet-zoo"), "{command:?}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command:?}: a line is too long\n{help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let cases: [(&[&str], &str); 12] = [
        (&["run", "missing.yaml"], "cannot read the experiment missing.yaml"),
        (&["run", "missing.yaml", "--device", "gpu"], "`gpu` is no device"),
        (&["resume", "nothing"], "there is no run `nothing`"),
        (&["predict", "resnet18", "x.png"], "resnet18 needs weights"),
        (&["pull", "resnet34:a1_in1"], "did you mean `a1_in1k`?"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["runs", "compare", "run-1"], "a comparison needs two runs or more, not 1"),
        (&["runs", "show", "nothing"], "there is no run `nothing`"),
        (&["runs", "compare", "run-1", "run-1"], "again"),
        (&["sql", "DELETE FROM run"], "`DELETE` is not a statement that reads"),
        (&["sql", "SELECT 1; SELECT 2"], "one statement at a time"),
        (&["sql", "SELECT nonsense FROM run"], "no such column: nonsense"),
    ];
    for (arguments, expected) in cases {
        let output = zoo(folder.path(), arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(expected), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let output = zoo(&folder.path().join("missing"), &["runs", "ls"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there is no registry at"), "{}", stderr(&output));
}

#[test]
fn runs_are_listed_shown_and_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    finished_run(folder.path(), 2, 0.75);

    let list = json(folder.path(), &["runs", "ls"]);
    let newest = &list[0];
    assert_eq!((newest["name"].as_str(), newest["state"].as_str()), (Some("run-2"), Some("COMPLETED")));
    assert_eq!(newest["model"], "resnet18");
    assert_eq!(newest["metrics"]["val.top1"]["best"], 0.75);
    assert_eq!(newest["metrics"]["val.top1"]["best_step"], 1);
    assert_eq!(newest["metrics"]["val.top1"]["last"], 0.375);
    assert_eq!(newest["id"].as_str().map(str::len), Some(36));

    let table = stdout(&zoo(folder.path(), &["runs", "ls"]));
    assert!(table.contains("75.00 %") && table.contains("COMPLETED"), "{table}");
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "no control characters in a pipe: {table:?}");

    let shown = json(folder.path(), &["runs", "show", "run-1"]);
    assert_eq!(shown["config"]["optimizer"]["sgd"]["lr"], 0.1);
    assert_eq!(shown["files"][0]["text"], "name: test\n");
    let page = stdout(&zoo(folder.path(), &["runs", "show", "run-1", "--files"]));
    assert!(page.contains("optimizer.sgd.lr: 0.1") && page.contains("name: test"), "{page}");

    let comparison = json(folder.path(), &["runs", "compare", "run-1", "run-2"]);
    assert_eq!(comparison["settings"], serde_json::json!({"top1": ["0.5", "0.75"]}), "only what differs");
    assert_eq!(comparison["metrics"]["val.top1"][1]["best"], 0.75);
    assert_eq!(comparison["identical"], false);
    let table = stdout(&zoo(folder.path(), &["runs", "compare", "run-1", "run-2"]));
    assert!(table.contains("50.00 %") && table.contains("75.00 %") && !table.contains("optimizer"), "{table}");
}

#[test]
fn sql_answers_in_a_table_and_in_json() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let statement = "SELECT run_name, best, NULL AS missing, x'00ff' AS bytes FROM results WHERE metric = 'val.top1'";
    let expected = serde_json::json!([{"run_name": "run-1", "best": 0.5, "missing": null, "bytes": "00ff"}]);
    assert_eq!(json(folder.path(), &["sql", statement]), expected);
    let table = stdout(&zoo(folder.path(), &["sql", statement]));
    assert!(table.contains("run_name") && table.contains("run-1"), "{table}");
    assert_eq!(json(folder.path(), &["sql", "SELECT * FROM runs WHERE 0"]), serde_json::json!([]));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let registry = registry_of(folder.path()).join(std::ffi::OsStr::new(" ")).into_string().expect("UTF-8");
    let script = format!(
        "'{}' {registry} sql \"WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT 100000) SELECT x FROM n\" | head -n 1",
        env!("CARGO_BIN_EXE_resnet-zoo")
    );
    let output = Command::new("sh").arg("-c").arg(script).output().expect("started");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_run_is_trained_recorded_measured_and_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let experiment = tiny_experiment(folder.path(), "epochs: 2\ncheckpoint: {every: {steps: 3}}\n");
    let experiment = experiment.to_str().expect("UTF-8");
    let output = stdout(&zoo(folder.path(), &["run", experiment, "--seed", "3", "--name", "first", "--json"]));
    let events = lines(&output);
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!((named("started").len(), named("step").len(), named("evaluated").len()), (1, 8, 2), "{output}");
    let ended = *named("ended").first().expect("an end");
    assert_eq!((ended["state"].as_str(), ended["steps"].as_u64()), (Some("COMPLETED"), Some(8)));

    let run = &json(folder.path(), &["runs", "ls"])[0];
    assert_eq!((run["name"].as_str(), run["model"].as_str()), (Some("first"), Some("cifar_resnet20")));
    let system = |name: &str| run["metrics"][name]["last"].as_f64();
    assert!(system("system.samples_per_s").is_some_and(|speed| speed > 0.), "{run}");
    assert!(system("system.data_wait").is_some_and(|part| (0.0..=1.0).contains(&part)), "{run}");
    #[cfg(target_os = "linux")]
    assert!(system("system.rss_bytes") > Some(1e6) && system("system.cpu_percent") >= Some(0.), "{run}");
    assert_eq!((run["seed"].as_u64(), run["state"].as_str()), (Some(3), Some("COMPLETED")));
    let top1 = &run["metrics"]["val.top1"];
    assert!((0.0..=1.0).contains(&top1["best"].as_f64().expect("a rate")), "{top1}");
    assert_eq!(run["metrics"], ended["metrics"]);

    let shown = json(folder.path(), &["runs", "show", "first"]);
    assert_eq!((shown["config"]["seed"].as_u64(), shown["overrides"][0].as_str()), (Some(3), Some("seed=3")));
    assert_eq!(shown["provenance"]["seed"], "--set");
    assert!(shown["files"][0]["text"].as_str().expect("text").starts_with("name: tiny\n"));
    assert!(shown["spec_files"][0]["text"].as_str().expect("text").contains("cifar_resnet20"));
    assert_eq!(shown["classes"].as_array().map(Vec::len), Some(10));

    let measured = json(folder.path(), &["eval", "first"]);
    assert_eq!(measured["metrics"]["val.top1"], top1["best"], "the best checkpoint, measured again");

    let sha256 = shown["checkpoints"].as_array().expect("checkpoints").iter().find(|kept| kept["role"] == "best");
    let sha256 = sha256.expect("a best one")["weights_sha256"].as_str().expect("a hash");
    let weights = folder.path().join("blobs").join(&sha256[..2]).join(sha256);
    let image = folder.path().join("grey.png");
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(8 * x + y) as u8])).save(&image).expect("written");
    let image = image.to_str().expect("UTF-8");
    let predicted = json(folder.path(), &["predict", "first", image, "--top", "3", "--logits"]);
    let top = predicted[0]["top"].as_array().expect("a list");
    assert_eq!((top.len(), predicted[0]["logits"].as_array().map(Vec::len)), (3, Some(10)));
    assert!(top[0]["label"].is_string() && top[0]["probability"].as_f64() >= top[1]["probability"].as_f64());
    let weights = weights.to_str().expect("UTF-8");
    let by_card = json(folder.path(), &["predict", "cifar_resnet20", "--weights", weights, image]);
    assert_eq!((&by_card[0]["image"], &by_card[0]["logits"]), (&Value::from(image), &Value::Null));
    assert_eq!(by_card[0]["top"].as_array().map(Vec::len), Some(5));
    assert!(by_card[0]["top"][0]["label"].is_null());

    // The same seed gives the same bits; another one does not.
    stdout(&zoo(folder.path(), &["run", experiment, "--seed", "3", "--name", "again", "--threads", "1"]));
    let comparison = json(folder.path(), &["runs", "compare", "first", "again"]);
    assert_eq!((&comparison["identical"], &comparison["settings"]), (&Value::Bool(true), &serde_json::json!({})));
}

#[test]
fn a_profile_says_where_all_of_the_time_went() {
    let folder = tempfile::tempdir().expect("a folder");
    let experiment = tiny_experiment(folder.path(), "steps: 3\n");
    let run = ["run", experiment.to_str().expect("UTF-8"), "--profile"];
    let events = lines(&stdout(&zoo(folder.path(), &[&run[..], &["--json"]].concat())));
    let profile = events.iter().find(|event| event["event"] == "profile").expect("a profile");
    assert_eq!(profile["steps"], 3);
    let parts = profile["parts"].as_object().expect("an object");
    let seconds: Vec<f64> = parts.values().map(|part| part.as_f64().expect("a number")).collect();
    for part in [
        "data_wait",
        "convolution_forward",
        "convolution_data_gradient",
        "convolution_weight_gradient",
        "norm_forward",
        "norm_backward",
        "loss_forward",
        "loss_backward",
        "other_forward",
        "other_backward",
        "optimizer",
        "evaluation",
        "checkpoint",
    ] {
        assert!(parts.get(part).and_then(Value::as_f64) > Some(0.), "{part} in {profile}");
    }
    assert!(seconds.iter().all(|part| *part >= 0.), "{profile}");
    let whole = profile["seconds"].as_f64().expect("a number");
    assert!((seconds.iter().sum::<f64>() - whole).abs() < 1e-6, "{profile}");

    let table = stdout(&zoo(folder.path(), &run));
    assert!(table.contains("convolution data gradient") && table.contains("ms a step"), "{table}");
}

#[test]
fn an_interrupted_run_goes_on_and_reproduces_its_past() {
    let folder = tempfile::tempdir().expect("a folder");
    // `serde_json` reads this smoothing one bit off: what is stored must be read exactly.
    let more = "steps: 40\nevaluate: {every: {steps: 20}}\ncheckpoint: {every: {steps: 4}}\nlabel_smoothing: 0.09200849718747371\n";
    let experiment = tiny_experiment(folder.path(), more);
    let experiment = experiment.to_str().expect("UTF-8");
    let whole = zoo(folder.path(), &["run", experiment, "--name", "whole"]);
    let table = stdout(&whole);
    assert!(table.contains("tiny") || table.contains("whole"), "{table}");
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "no control characters in a pipe: {table:?}");
    assert_eq!(table.matches("  val loss").count(), 2, "one line an evaluation: {table}");

    for (name, signal, code) in
        [("stopped", "INT", Some(130)), ("terminated", "TERM", Some(143)), ("killed", "KILL", None)]
    {
        let mut command = binary();
        command.args(["run", experiment, "--json", "--name", name]).args(registry_of(folder.path()));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
        let mut events = BufReader::new(child.stdout.take().expect("piped")).lines();
        let checkpoint = events.by_ref().map(|line| line.expect("UTF-8")).find(|line| line.contains("\"checkpoint\""));
        let acknowledged: Value = serde_json::from_str(&checkpoint.expect("a checkpoint")).expect("JSON");
        let acknowledged = acknowledged["step"].as_u64().expect("a step");
        let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(kill.expect("started").success());
        events.for_each(drop);
        assert_eq!(child.wait().expect("ended").code(), code, "{name}");

        let run = json(folder.path(), &["runs", "show", name]);
        let state = if code.is_some() { "INTERRUPTED" } else { "CRASHED" };
        assert_eq!(run["state"], state, "{name}");
        let newest = run["checkpoints"][0]["step"].as_u64().expect("a checkpoint");
        assert!(newest >= acknowledged, "{name}: acknowledged {acknowledged}, stored {newest}");
        let stored = format!(
            "SELECT count(*) AS n FROM metrics WHERE run_name = '{name}' AND metric = 'train.loss' AND step <= {newest}"
        );
        assert_eq!(json(folder.path(), &["sql", &stored])[0]["n"], newest + 1, "{name}");

        stdout(&zoo(folder.path(), &["resume", name]));
        let comparison = json(folder.path(), &["runs", "compare", "whole", name]);
        assert_eq!(comparison["identical"], true, "{name}: {}", comparison["metrics"]);
        let again = zoo(folder.path(), &["resume", name]);
        assert_eq!(again.status.code(), Some(2));
        assert!(stderr(&again).contains("is completed; there is nothing to resume"), "{}", stderr(&again));
    }
}

#[test]
fn a_damaged_checkpoint_leaves_an_older_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = "steps: 30\nevaluate: {every: {steps: 30}}\ncheckpoint: {every: {steps: 2}}\n";
    let experiment = tiny_experiment(folder.path(), more);
    let mut command = binary();
    command.args(["run", experiment.to_str().expect("UTF-8"), "--json"]);
    let mut child = command.args(registry_of(folder.path())).stdout(Stdio::piped()).spawn().expect("started");
    let events = BufReader::new(child.stdout.take().expect("piped")).lines();
    let third = events.map(|line| line.expect("UTF-8")).filter(|line| line.contains("\"checkpoint\"")).nth(2);
    third.expect("three checkpoints");
    child.kill().expect("killed");
    child.wait().expect("ended");

    let run = json(folder.path(), &["runs", "show", "tiny"]);
    let newest = run["checkpoints"][0].clone();
    let older = run["checkpoints"][1]["step"].as_u64().expect("two are kept");
    let sha256 = newest["weights_sha256"].as_str().expect("a hash");
    let blob = folder.path().join("blobs").join(&sha256[..2]).join(sha256);
    let mut bytes = std::fs::read(&blob).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).expect("written");

    let resumed = stdout(&zoo(folder.path(), &["resume", "tiny", "--profile"]));
    assert!(resumed.contains("is damaged") && resumed.contains("norm backward"), "{resumed}");
    let run = json(folder.path(), &["runs", "show", "tiny"]);
    assert_eq!(run["attempts"][1]["resumed_from"], older);
    assert_eq!((run["state"].as_str(), run["replay_mismatches"].as_u64()), (Some("COMPLETED"), Some(0)));
}

#[test]
fn a_diverging_run_fails_with_its_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let experiment = tiny_experiment(folder.path(), "steps: 20\ncheckpoint: {every: {steps: 1}}\n");
    let arguments = [
        "run",
        experiment.to_str().expect("UTF-8"),
        "--set",
        "optimizer.sgd.weight_decay=1",
        "--set",
        "optimizer.sgd.lr=1000",
    ];
    let output = zoo(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("at step"), "{}", stderr(&output));
    let run = &json(folder.path(), &["runs", "ls"])[0];
    assert_eq!(run["state"], "FAILED");
    assert!(run["reason"].as_str().expect("a reason").contains("at step"));
}

#[test]
fn models_are_listed_and_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = json(folder.path(), &["models"]);
    let resnet34 = models.as_array().expect("an array").iter().find(|model| model["name"] == "resnet34");
    let resnet34 = resnet34.expect("in the zoo");
    assert_eq!(resnet34["params"], 21_797_672);
    assert_eq!(resnet34["input"], serde_json::json!([3, 224, 224]));
    assert!(resnet34["macs"].as_u64().is_some_and(|macs| macs > 3_000_000_000));
    assert!(resnet34["weights"].as_array().is_some_and(|weights| !weights.is_empty()));

    let shown = json(folder.path(), &["show", "resnet34"]);
    let layers = shown["layers"].as_array().expect("layers");
    let sum: u64 = layers.iter().map(|layer| layer["params"].as_u64().expect("a number")).sum();
    assert_eq!(sum, 21_797_672);
    let table = stdout(&zoo(folder.path(), &["show", "resnet34"]));
    assert!(table.contains("layer4") && table.contains("21797672"), "{table}");
    let rust = stdout(&zoo(folder.path(), &["show", "resnet34", "--expand"]));
    assert!(rust.contains("pub struct ResNet34"), "{rust}");

    let output = zoo(folder.path(), &["show", "resnet43"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there is no model `resnet43`; did you mean `resnet"), "{}", stderr(&output));
}

#[test]
fn check_says_everything_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
        folder.path().join(name).display().to_string()
    };
    let spec = write("good.yaml", "name: good\nblock: basic\ndepths: [1, 1]\n");
    let experiment = tiny_experiment(folder.path(), "epochs: 1\n").display().to_string();
    let good = stdout(&zoo(folder.path(), &["check", &spec, &experiment]));
    assert!(good.contains("a sound spec: good") && good.contains("a sound experiment: tiny"), "{good}");

    let wrong = write("wrong.yaml", "name: wrong\nblock: basik\ndepts: [1, 1]\n");
    let output = zoo(folder.path(), &["check", &spec, &wrong]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("wrong.yaml:2:8") && message.contains("wrong.yaml:3:1"), "{message}");
    assert!(message.contains("did you mean `basic`?") && message.contains("^^^^^"), "{message}");
    let wrong = write("experiment.yaml", "model: resnet34\ndata: {source: embedded}\noptimzer: sgd\nepochs: 1\n");
    let output = zoo(folder.path(), &["check", &wrong, "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let verdicts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&verdicts[0]["kind"], &verdicts[0]["ok"]), (&Value::from("experiment"), &Value::Bool(false)));
    assert!(verdicts[0]["message"].as_str().expect("text").contains("did you mean `optimizer`?"), "{verdicts}");
}
