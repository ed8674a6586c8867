//! `runs compare`: what differs, seeds as one unit, significance, fronts, and tables for papers.

use super::cli::{json, stderr, stdout, zoo};
use super::registry::Sketch;
use serde_json::{Value, json};
use std::path::Path;

/// Two recipes with three seeds each, and one run of a larger model.
fn seven_runs(folder: &Path) {
    let slow = [[0.5, 0.80, 0.7], [0.5, 0.82, 0.7], [0.5, 0.81, 0.7]];
    let fast = [[0.6, 0.85, 0.8], [0.6, 0.86, 0.8], [0.6, 0.88, 0.8]];
    let mut number = 0;
    for (name, lr, of_seeds) in [("slow", 0.1, slow), ("fast", 0.2, fast)] {
        for (seed, top1) in (0..).zip(of_seeds) {
            number += 1;
            let sketch = Sketch {
                name,
                seed,
                model: "resnet18",
                params: Some(11_000_000),
                config: json!({"optimizer": {"sgd": {"lr": lr}}, "input": 32, "name": name}),
                provenance: json!({"optimizer.sgd.lr": if lr == 0.1 { "base/slow.yaml" } else { "--set" }}),
                values: &[("val.top1", &top1), ("train.loss", &[3., 2., 1.]), ("optim.lr", &[0.1, 0.1, 0.1])],
                ..Sketch::default()
            };
            sketch.record(folder, number);
        }
    }
    let large = Sketch {
        name: "large_%",
        model: "resnet34",
        params: Some(21_000_000),
        config: json!({"optimizer": {"sgd": {"lr": 0.1}}, "input": 32, "name": "large_%"}),
        values: &[("val.top1", &[0.7])],
        ..Sketch::default()
    };
    large.record(folder, 7);
}

fn near(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|value| (value - expected).abs() <= 1e-9 * expected.abs().max(1e-3))
}

#[test]
fn seeds_are_one_unit() {
    let folder = tempfile::tempdir().expect("a folder");
    seven_runs(folder.path());
    let arguments = ["runs", "compare", "--where", "name in ('slow', 'fast')"];
    let compared = json(folder.path(), &arguments);
    let groups = compared["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 2, "{compared}");
    // The newest run comes first, and with it its group.
    let (fast, slow) = (&groups[0], &groups[1]);
    assert_eq!((&fast["seeds"], &fast["runs"]), (&json!([0, 1, 2]), &json!([2, 1, 0])));
    // numpy and scipy of [0.85, 0.86, 0.88] and [0.80, 0.82, 0.81].
    let best = &fast["metrics"]["val.top1"]["best"];
    assert!(near(&best["mean"], 0.8633333333333333) && near(&best["sd"], 0.01527525231651948), "{best}");
    assert!(near(&best["low"], 0.8253875029973656) && near(&best["high"], 0.9012791636693009), "{best}");
    assert!(near(&slow["metrics"]["val.top1"]["best"]["mean"], 0.81));
    assert!(near(&slow["metrics"]["val.top1"]["last"]["mean"], 0.7));
    assert!(near(&slow["metrics"]["train.loss"]["at_best"]["mean"], 2.), "the loss when val.top1 was best");
    let difference = &compared["differences"][0];
    assert_eq!(
        (&difference["metric"], &difference["group"], &difference["against"]),
        (&json!("val.top1"), &json!(1), &json!(0))
    );
    let test = &difference["difference"];
    assert_eq!((&test["method"], &test["n"], &test["p_sign_flip"]), (&json!("paired"), &json!(3), &json!(0.25)));
    // scipy.stats.ttest_rel(slow, fast).
    assert!(near(&test["mean"], -0.05333333333333334) && near(&test["t"], -T_OF_SCIPY), "{test}");
    assert!(near(&test["p"], P_OF_SCIPY) && near(&difference["p_holm"], P_OF_SCIPY), "{test}");

    let page = stdout(&zoo(folder.path(), &arguments));
    for part in [
        "fast (3 seeds)",
        "86.33 % ± 1.53 %",
        "82.54 % to 90.13 %",
        "3 pairs",
        "-5.33 %",
        "at best: where val.top1",
        "few",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let apart = json(folder.path(), &[&arguments[..], &["--each"]].concat());
    assert_eq!(apart["groups"].as_array().map(Vec::len), Some(6));
}

const T_OF_SCIPY: f64 = 6.047431568147646;
const P_OF_SCIPY: f64 = 0.0262710088797046;

#[test]
fn the_same_seed_again_is_not_another_draw() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 1..=2 {
        Sketch { name: "again", values: &[("val.top1", &[0.5])], ..Sketch::default() }.record(folder.path(), number);
    }
    let compared = json(folder.path(), &["runs", "compare", "--where", "name = 'again'"]);
    assert_eq!(compared["groups"][0]["runs"], json!([0]), "the newest");
    assert_eq!(compared["groups"][0]["repeated"], json!([1]));
    assert_eq!(compared["groups"][0]["metrics"]["val.top1"]["best"]["n"], 1);
    assert_eq!(compared["identical"], true);
    let page = stdout(&zoo(folder.path(), &["runs", "compare", "--where", "name = 'again'"]));
    assert!(page.contains("1 runs repeat the recipe and seed of a newer one"), "{page}");
}

#[test]
fn named_runs_are_columns_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    seven_runs(folder.path());
    let groups =
        |arguments: &[&str]| json(folder.path(), &[&["runs", "compare"], arguments].concat())["groups"].clone();
    let (first, second) = ("00000001", "00000002");
    assert_eq!(groups(&[first, second]).as_array().map(Vec::len), Some(2), "two seeds that somebody named");
    assert_eq!(groups(&["--where", "name = 'slow'"]).as_array().map(Vec::len), Some(1));
    assert_eq!(groups(&[first, second, "fast"]).as_array().map(Vec::len), Some(2), "seeds against another recipe");
}

#[test]
fn settings_say_who_set_them() {
    let folder = tempfile::tempdir().expect("a folder");
    seven_runs(folder.path());
    let compared = json(folder.path(), &["runs", "compare", "slow", "fast"]);
    assert_eq!(compared["settings"], json!({"name": ["slow", "fast"], "optimizer.sgd.lr": ["0.1", "0.2"]}));
    assert_eq!(compared["set_by"], json!({"name": [null, null], "optimizer.sgd.lr": ["base/slow.yaml", "--set"]}));
    assert_eq!(compared["metrics"]["train.loss"][0]["at_best"], 2.0);
    assert_eq!(compared["metric"], "val.top1");
    let page = stdout(&zoo(folder.path(), &["runs", "compare", "slow", "fast"]));
    assert!(page.contains("0.1 (slow.yaml)") && page.contains("0.2 (--set)"), "{page}");
    assert!(!page.contains("pairs"), "one run a side: no test");
}

#[test]
fn tables_are_for_papers_and_spreadsheets() {
    let folder = tempfile::tempdir().expect("a folder");
    seven_runs(folder.path());
    let all = ["runs", "compare", "--where", "val.top1 is not null"];
    let latex = stdout(&zoo(folder.path(), &[&all[..], &["--latex"]].concat()));
    assert_eq!(
        latex,
        "\\begin{tabular}{lrrr}\n\\toprule\nRun & optimizer.sgd.lr & $n$ & val.top1 (\\%) \\\\\n\\midrule\n\
         large\\_\\% & 0.1 & 1 & $70.00$ \\\\\n\
         fast & 0.2 & 3 & $\\mathbf{86.33} \\pm 1.53$ \\\\\n\
         slow & 0.1 & 3 & $81.00 \\pm 1.00$ \\\\\n\\bottomrule\n\\end{tabular}\n"
    );
    let table = stdout(&zoo(folder.path(), &[&all[..], &["--csv"]].concat()));
    let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let column =
        |name: &str| header.iter().position(|column| *column == name).unwrap_or_else(|| panic!("{name}: {header:?}"));
    let (mean, sd, lr) = (column("val.top1 best mean"), column("val.top1 best sd"), column("optimizer.sgd.lr"));
    let rows: Vec<_> =
        lines.map(|row| (row[0].to_owned(), row[mean].to_owned(), row[sd].to_owned(), row[lr].to_owned())).collect();
    assert_eq!(
        (rows[0].0.as_str(), rows[0].1.as_str(), rows[0].2.as_str(), rows[0].3.as_str()),
        ("large_%", "0.7", "", "0.1")
    );
    assert_eq!(rows.len(), 3);
}

#[test]
fn the_front_is_what_nothing_beats() {
    let folder = tempfile::tempdir().expect("a folder");
    seven_runs(folder.path());
    let front = |cost: &str| {
        let all = ["runs", "compare", "--where", "val.top1 is not null", "--pareto", cost];
        let pareto = json(folder.path(), &all)["pareto"].clone();
        let spots = pareto["groups"].as_array().expect("groups").iter();
        (
            pareto["cost"].clone(),
            spots.map(|spot| (spot["group"].as_u64(), spot["on_front"] == true)).collect::<Vec<_>>(),
        )
    };
    // The large one costs more and is worse; of the two others, which cost the same, one is better.
    assert_eq!(front("params"), (json!("params"), vec![(Some(1), true), (Some(2), false), (Some(0), false)]));
    assert_eq!(front("macs"), (json!("macs"), vec![(Some(1), true), (Some(2), false), (Some(0), false)]));
    let pareto = json(folder.path(), &["runs", "compare", "slow", "large_%", "--pareto", "macs"])["pareto"].clone();
    // ResNet-18 at 32 x 32: a 49th of its 1,814,073,344 at 224 x 224, but for the classifier.
    assert_eq!(pareto["groups"][0]["cost"], 37_523_456.0);
    let page = stdout(&zoo(folder.path(), &["runs", "compare", "slow", "large_%", "--pareto", "--curve", "val.top1"]));
    assert!(page.contains("on the front") && page.contains("11.0 M") && page.contains("  a  slow"), "{page}");
}

#[test]
fn comparisons_that_cannot_be_say_why() {
    let folder = tempfile::tempdir().expect("a folder");
    seven_runs(folder.path());
    let cases: [(&[&str], &str); 7] = [
        (&[], "needs two runs or more, not 0"),
        (&["slow"], "needs two runs or more, not 1"),
        (&["slow", "slow"], "again"),
        (&["slow", "fast", "--metric", "val.top2"], "did you mean `val.top1`?"),
        (&["slow", "fast", "--metric", "optim.lr"], "nothing is better or worse"),
        (&["slow", "fast", "--pareto", "flops"], "possible values: params, macs, time"),
        (&["--where", "name = slow"], "put text in quotes"),
    ];
    for (arguments, expected) in cases {
        let output = zoo(folder.path(), &[&["runs", "compare"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}
