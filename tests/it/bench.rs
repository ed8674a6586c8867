//! `bench`: what it measures is a machine's affair, what it prints is not.

use super::cli::{self, stderr, stdout, zoo};
use serde_json::{Value, json};

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

#[test]
fn people_get_a_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let table = stdout(&zoo(folder.path(), &[&["bench", "infer", "cifar_resnet20"], &QUICK[..]].concat()));
    assert!(table.starts_with("infer cifar_resnet20, 1 x 3 x 32 x 32, "), "{table}");
    assert!(table.contains("images/s") && table.contains("of the ceiling"), "{table}");
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
