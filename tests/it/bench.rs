//! `bench`: what it measures is a machine's affair, what it prints is not.

use super::cli::{self, stderr, stdout, zoo};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;

/// Enough to see the shape of a result.
const QUICK: [&str; 8] = ["--batch", "1", "--reps", "1", "--seconds", "0", "--warmup", "0"];
const KEYS: [&str; 17] = [
    "batch",
    "bench",
    "best_img_s",
    "ceiling_pct",
    "gflop_s",
    "img_s",
    "isa",
    "model",
    "ms",
    "others",
    "precision",
    "reps",
    "rss_mib",
    "size",
    "steal",
    "threads",
    "variant",
];

fn measure(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let result = cli::json(folder.path(), &[&["bench"], arguments, &QUICK].concat());
    assert!(!folder.path().join("registry.sqlite3").exists(), "nothing is recorded");
    for key in ["img_s", "best_img_s", "ms", "gflop_s", "ceiling_pct"] {
        assert!(result[key].as_f64().is_some_and(|value| value > 0.), "{key}: {result}");
    }
    result
}

fn keys(result: &Value) -> Vec<&str> {
    result.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_result_has_the_keys_of_the_peers() {
    for (command, variant) in [("train", "train"), ("infer", "infer")] {
        let result = measure(&[command, "cifar_resnet20", "--size", "32", "--threads", "1"]);
        assert_eq!(keys(&result), KEYS);
        assert_eq!((&result["bench"], &result["variant"]), (&Value::from(command), &Value::from(variant)));
        assert_eq!((&result["model"], &result["precision"]), (&Value::from("cifar_resnet20"), &Value::from("f32")));
        for (key, value) in [("batch", 1), ("size", 32), ("reps", 1), ("threads", 1)] {
            assert_eq!(result[key], value, "{key}");
        }
    }
}

#[test]
fn a_frozen_backbone_and_clips_are_measured_as_such() {
    let head = measure(&["train", "cifar_resnet20", "--freeze", "backbone"]);
    assert_eq!((&head["variant"], &head["size"]), (&Value::from("head"), &Value::from(32)));
    let clip = measure(&["infer", "r3d_18", "--frames", "2", "--size", "16"]);
    assert_eq!((&clip["frames"], &clip["size"]), (&Value::from(2), &Value::from(16)));
    let features = measure(&["infer", "resnet50_fpn", "--size", "32"]);
    assert_eq!(features["model"], "resnet50_fpn");
}

#[test]
fn ops_are_measured_layer_by_layer() {
    let folder = tempfile::tempdir().expect("a folder");
    let ops = |arguments: &[&str]| {
        let quick = ["--batch", "1", "--reps", "1", "--seconds", "0", "--json"];
        let output = stdout(&zoo(folder.path(), &[&["bench", "ops"], arguments, &quick].concat()));
        let mut lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let ceiling = lines.remove(0);
        assert_eq!(ceiling["bench"], "ceiling");
        assert!(ceiling["gflop_s"].as_f64() > Some(0.) && ceiling["copy_gb_s"].as_f64() > Some(0.), "{ceiling}");
        lines
    };
    let count = |lines: &[Value], variant: &str| -> u64 {
        let lines = lines.iter().filter(|line| line["variant"] == variant);
        lines.map(|line| line["count"].as_u64().expect("a number")).sum()
    };
    let lines = ops(&["cifar_resnet20"]);
    for (variant, layers) in [
        ("conv_forward", 19),
        ("conv_data_gradient", 18),
        ("conv_weight_gradient", 19),
        ("norm_forward", 19),
        ("norm_backward", 19),
    ] {
        assert_eq!(count(&lines, variant), layers, "{variant}");
    }
    let first = &lines[0];
    assert_eq!((&first["layer"], &first["paths"]), (&json!("conv 3x3, 3 -> 16"), &json!(["conv1"])));
    assert!(first["gflop_s"].as_f64() > Some(0.) && first.get("gb_s").is_none(), "{first}");

    let pools = ops(&["resnet50d", "--size", "32", "--only", "pool"]);
    assert_eq!((count(&pools, "pool_forward"), count(&pools, "pool_backward")), (5, 5));
    assert!(pools.iter().all(|line| line["gb_s"].as_f64() > Some(0.) && line.get("gflop_s").is_none()), "{pools:?}");
    let clips = ops(&["r3d_18", "--frames", "1", "--size", "8", "--only", "conv"]);
    assert_eq!((count(&clips, "conv_forward"), &clips[0]["input"]), (20, &json!([3, 1, 8, 8])));
}

const OURS: &str = r#"{"bench":"train","model":"resnet34","variant":"train","precision":"f32","batch":16,"size":224,"img_s":30,"rss_mib":900,"others":0.0}
{"bench":"infer","model":"cifar_resnet20","variant":"infer","precision":"f32","batch":1,"size":32,"img_s":9,"rss_mib":20,"others":0.0}
"#;
const PEERS: &str = r#"some warning
RESULT {"bench": "train", "model": "resnet34", "variant": "eager_nhwc", "batch": 16, "size": 224, "img_s": 20.0, "rss_mib": 1800, "others": 0.3}
RESULT {"bench": "train", "model": "resnet34", "variant": "eager_nchw", "batch": 16, "size": 224, "img_s": 17.3, "rss_mib": 1700}
RESULT {"bench": "train", "model": "resnet34", "variant": "bf16_nhwc", "batch": 16, "size": 224, "img_s": 34.5, "rss_mib": 1459}
"#;

#[test]
fn results_are_compared_with_the_fastest_of_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (ours, peers) = (write("ours.jsonl", OURS), write("peers.out", PEERS));
    let output = stdout(&zoo(folder.path(), &["bench", "compare", &ours, "--against", &peers, "--json"]));
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let peer = json!({"variant": "eager_nhwc", "img_s": 20.0, "rss_mib": 1800.0});
    let same = json!({
        "bench": "ratio", "of": "train", "model": "resnet34", "batch": 16, "size": 224, "precision": "f32",
        "variant": "train", "img_s": 30.0, "rss_mib": 900.0, "peer": peer, "ratio": 1.5, "rss_ratio": 0.5, "others": 0.3,
    });
    assert_eq!(lines[0], same);
    assert_eq!((&lines[1]["peer"], &lines[1]["ratio"], lines.len()), (&Value::Null, &Value::Null, 2));
    let table = stdout(&zoo(folder.path(), &["bench", "compare", &ours, "--against", &peers]));
    assert!(table.contains("train resnet34 16 x 224 x 224 f32") && table.contains("1.50x"), "{table}");

    let own = write("own.jsonl", r#"{"bench":"infer","model":"cifar_resnet20","variant":"torch","batch":1,"img_s":1}"#);
    let quick = [&["bench", "infer", "cifar_resnet20", "--json", "--against", &own], &QUICK[..]].concat();
    let output = stdout(&zoo(folder.path(), &quick));
    let ratio: Value = serde_json::from_str(output.lines().nth(1).expect("a second line")).expect("JSON");
    assert_eq!((&ratio["bench"], &ratio["peer"]["variant"]), (&json!("ratio"), &json!("torch")));
    assert!(ratio["ratio"].as_f64() > Some(0.), "{ratio}");

    let (empty, broken) = (write("empty", "nothing\n"), write("broken", "{\"bench\": 1\n"));
    let cases: [(&[&str], &str); 6] = [
        (&["compare", &ours], "pass --against FILE"),
        (&["compare", &ours, "--against", "missing.jsonl"], "cannot read missing.jsonl: "),
        (&["compare", &empty, "--against", &peers], "has no result: a line is {"),
        (&["compare", &ours, "--against", &broken], "broken:1: not a JSON line"),
        (&["compare", &own, "--against", &peers], "the files have no work in common: infer cifar_resnet20"),
        (
            &["train", "resnet18", "--against", &peers],
            "has no result of train resnet18 16 x 224 x 224 f32, but of train",
        ),
    ];
    for (arguments, expected) in cases {
        let output = zoo(folder.path(), &[&["bench"], arguments].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn people_get_a_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let table = stdout(&zoo(folder.path(), &[&["bench", "infer", "cifar_resnet20"], &QUICK[..]].concat()));
    assert!(table.starts_with("infer cifar_resnet20, 1 x 3 x 32 x 32, "), "{table}");
    assert!(table.contains("images/s") && table.contains("of the ceiling"), "{table}");
}

#[test]
fn a_start_is_a_process_that_classifies_an_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image.png");
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, 9])).save(&image).expect("saved");
    let image = image.display().to_string();
    let quick = ["--reps", "1", "--seconds", "0", "--warmup", "0"];
    let result = cli::json(folder.path(), &[&["bench", "startup", "cifar_resnet20", &image], &quick[..]].concat());
    assert_eq!(keys(&result), KEYS);
    assert_eq!((&result["bench"], &result["rss_mib"], &result["batch"]), (&json!("startup"), &Value::Null, &json!(1)));
    assert!(result["ms"].as_f64() > Some(0.), "{result}");
    let mistakes = [
        (["startup", "cifar_resnet20", "missing.jpg"], "missing.jpg"),
        (["startup", "resnet50_fpn", &image], "resnet50_fpn is a backbone without a classifier"),
        (["startup", "r3d_18", &image], "r3d_18 takes clips, and predict takes images"),
    ];
    for (arguments, expected) in mistakes {
        let output = zoo(folder.path(), &[&["bench"], &arguments[..], &quick[..]].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn wrong_input_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases: [(&[&str], &str); 10] = [
        (&["train", "resnet43"], "there is no model `resnet43`; did you mean `resnet34`?"),
        (&["train", "resnet18", "--batch", "0"], "0 is not in 1..=65536"),
        (&["train", "resnet18", "--reps", "0"], "0 is not in 1..=1000000"),
        (&["infer", "resnet18", "--seconds", "1e9"], "it must be a number from 0 to 60"),
        (
            &["infer", "resnet18", "--size", "20000"],
            "resnet18 cannot take an input of 3 x 20000 x 20000: the output of",
        ),
        (&["train", "resnet18", "--batch", "60000", "--size", "4000"], "take a smaller --batch or --size"),
        (&["infer", "resnet18", "--threads", "100000"], "--threads 100000 is too many for "),
        (&["infer", "resnet18", "--frames", "4"], "resnet18 takes images, not clips: leave out --frames"),
        (&["train", "resnet50_fpn"], "resnet50_fpn has no classifier"),
        (&["train", "resnet18", "--precision", "f16"], "[possible values: f32"),
    ];
    for (arguments, expected) in cases {
        let output = zoo(folder.path(), &[&["bench"], arguments].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(expected), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_registry_is_measured_and_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept").display().to_string();
    let quick = ["--reps", "1", "--seconds", "0", "--warmup", "0", "--json"];
    let counts = ["--runs", "20", "--points", "24", "--metrics", "12", "--settings", "3"];
    let of = |more: &[&str]| -> Vec<Value> {
        let output = stdout(&zoo(folder.path(), &[&["bench", "registry"], &counts[..], &quick, more].concat()));
        output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let lines = of(&["--keep", &kept]);
    let works: Vec<&str> = lines.iter().map(|line| line["work"].as_str().expect("text")).collect();
    assert_eq!(works, ["log", "search", "history", "compare", "curves", "cli_ls", "cli_compare"]);
    for line in &lines {
        assert_eq!((&line["bench"], &line["runs"], &line["points"]), (&json!("registry"), &json!(20), &json!(24)));
        assert!(line["ms"].as_f64() >= line["best_ms"].as_f64() && line["ms"].as_f64() > Some(0.), "{line}");
        assert!(line["p99_ms"].as_f64() >= line["ms"].as_f64(), "{line}");
    }
    assert_eq!((&lines[0]["journal_mode"], &lines[0]["synchronous"]), (&json!("wal"), &json!("2")));
    // The registry stays, with everything in it, and a second one reads the same.
    let count = "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM metrics) AS points";
    let there = cli::json(&folder.path().join("kept"), &["sql", count]);
    assert_eq!(there, json!([{"runs": 20, "points": 480}]));
    let again = of(&[]);
    for work in 0..5 {
        assert_eq!(lines[work]["sha256"], again[work]["sha256"], "{}", works[work]);
    }
    let cases: [(&[&str], &str); 3] = [
        (&["--points", "10", "--metrics", "3"], "--points 10 is no multiple of --metrics 3"),
        (&["--keep", &kept], "exists; name a new folder"),
        (&["--runs", "1000000", "--points", "1000000"], "more than 2^32 points"),
    ];
    for (arguments, expected) in cases {
        let output = zoo(folder.path(), &[&["bench", "registry"], arguments].concat());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn batches_of_a_folder_are_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["train", "val"] {
        let class = folder.path().join(part).join("a");
        std::fs::create_dir_all(&class).expect("made");
        for number in 0..5 {
            let path = class.join(format!("{number}.jpg"));
            image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, number])).save(path).expect("saved");
        }
    }
    let path = folder.path().display().to_string();
    let result = cli::json(folder.path(), &["bench", "data", &path, "--batch", "2", "--size", "16", "--workers", "2"]);
    for (key, expected) in [("batch", 2), ("size", 16), ("workers", 2), ("samples", 5)] {
        assert_eq!(result[key], expected, "{result}");
    }
    assert_eq!(result["bench"], "data");
    let number = |key: &str| result[key].as_f64().expect("a number");
    assert!(number("img_s") > 0.0 && number("best_img_s") >= number("img_s") && number("jpeg_kib") > 0.0, "{result}");

    let output = zoo(folder.path(), &["bench", "data", &path, "--batch", "6"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("fewer than a batch of 6"), "{}", stderr(&output));
}

/// The program's allocator asks for them as soon as there is something large; whether there are any is the system's affair.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn the_heap_asks_for_huge_pages() {
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    let mut command = cli::binary();
    command.args(["bench", "infer", "resnet18", "--batch", "1", "--size", "64", "--seconds", "60", "--json"]);
    let mut child = command.stdout(Stdio::null()).spawn().expect("started");
    let areas = format!("/proc/{}/smaps", child.id());
    let mut asked = false;
    while !asked && child.try_wait().expect("a child").is_none() {
        // An area of memory has a line with its name, and one with what was asked of it: `hg` for huge pages.
        let areas = std::fs::read_to_string(&areas).unwrap_or_default();
        let flags = |area: &str| area.lines().next().is_some_and(|flags| flags.split(' ').any(|flag| flag == "hg"));
        asked = areas.split("[heap]").skip(1).any(|rest| rest.split("VmFlags:").nth(1).is_some_and(flags));
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("running, or ended");
    child.wait().expect("a child");
    assert!(asked, "it ended, and no part of the heap had asked");
}
