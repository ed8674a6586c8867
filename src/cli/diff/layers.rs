//! What each layer compares.

use super::{Difference, Layer};
use crate::cli::run_detail::short;
use crate::experiment::Experiment;
use crate::registry::run::{Attempt, RunDetail};
use crate::registry::store::{Agreement, ExactValue};
use crate::task::{compile_files, summary_at};
use resnet_codegen::Compiled;
use resnet_codegen::shape::Summary;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn code(a: &RunDetail, b: &RunDetail) -> Layer {
    let mut layer = Layer::new("code");
    let (Some(in_a), Some(in_b)) = (&a.origin.code, &b.origin.code) else {
        layer.same = a.origin.code == b.origin.code;
        layer.notes.push("an older version recorded one of the runs, or both, without their code".to_owned());
        return layer;
    };
    layer.compare("commit", json!(in_a.commit), json!(in_b.commit));
    layer.compare("branch", json!(in_a.branch), json!(in_b.branch));
    layer.compare("remote", json!(in_a.remote), json!(in_b.remote));
    layer.compare("untracked", json!(in_a.untracked), json!(in_b.untracked));
    if in_a.patch != in_b.patch {
        let patches = [&in_a.patch, &in_b.patch].map(|patch| patch.as_deref().unwrap_or_default());
        let [a, b] = patches.map(changed_files);
        let paths: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for path in paths.into_iter().filter(|path| a.get(*path) != b.get(*path)) {
            let change = |files: &BTreeMap<String, String>| files.get(path).map(|change| lines_changed(change));
            layer.compare(&format!("patch of {path}"), change(&a), change(&b));
        }
        if layer.same {
            layer.same = false;
            layer.notes.push("the patches differ in the order of their lines alone".to_owned());
        }
    }
    for (name, code) in [("a", in_a), ("b", in_b)] {
        layer.notes.extend(code.note.iter().map(|note| format!("{name}: {note}")));
    }
    layer
}

/// The part of a git patch that is about each file.
fn changed_files(patch: &[u8]) -> BTreeMap<String, String> {
    let patch = String::from_utf8_lossy(patch);
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut path = String::new();
    for line in patch.lines() {
        if let Some(names) = line.strip_prefix("diff --git ") {
            // `a/x b/x`: without renames both halves are the same name.
            let half = names.len().saturating_sub(1) / 2;
            path = names.get(half + 1..).unwrap_or(names).trim_start_matches("b/").to_owned();
        }
        let part = files.entry(path.clone()).or_default();
        part.push_str(line);
        part.push('\n');
    }
    files
}

/// `+3 -1 (9f86d081)`: lines, and a mark of their content.
fn lines_changed(change: &str) -> String {
    use sha2::{Digest, Sha256};
    let count = |sign: char, header: &str| {
        change.lines().filter(|line| line.starts_with(sign) && !line.starts_with(header)).count()
    };
    let mark = format!("{:x}", Sha256::digest(change));
    format!("+{} -{} ({})", count('+', "+++ "), count('-', "--- "), &mark[..8])
}

pub(super) fn build(a: &RunDetail, b: &RunDetail) -> Layer {
    let mut layer = Layer::new("build");
    let (in_a, in_b) = (&a.build, &b.build);
    layer.compare("version", in_a.version.clone(), in_b.version.clone());
    layer.compare("commit", in_a.git_sha.clone(), in_b.git_sha.clone());
    layer.compare("changed since the commit", in_a.dirty, in_b.dirty);
    let sources = |run: &RunDetail| json!(run.attempts.first().and_then(|attempt| attempt.sources_sha256.clone()));
    layer.compare("sources", sources(a), sources(b));
    layer.compare("dependencies", in_a.lock_sha256.clone(), in_b.lock_sha256.clone());
    layer.compare("compiler", in_a.rustc.clone(), in_b.rustc.clone());
    layer.compare("target", in_a.target.clone(), in_b.target.clone());
    layer.compare("features", in_a.features.clone(), in_b.features.clone());
    if layer.same && in_a.dirty && sources(a).is_null() {
        layer.notes.push("both were built from changed sources, which older versions did not tell apart".to_owned());
    }
    layer
}

pub(super) fn experiment(a: &RunDetail, b: &RunDetail) -> Layer {
    let mut layer = Layer::new("experiment");
    let configs = [a, b].map(|run| leaves(&exact_config(run)));
    let keys: BTreeSet<&String> = configs.iter().flat_map(BTreeMap::keys).collect();
    for key in keys {
        let [in_a, in_b] = [0, 1].map(|side: usize| configs[side].get(key).cloned());
        if in_a != in_b {
            let set_by = [(a, &in_a), (b, &in_b)].map(|(run, value)| value.as_ref().and_then(|_| who_set(run, key)));
            let (a, b) = (in_a.unwrap_or(Value::Null), in_b.unwrap_or(Value::Null));
            layer.differ(Difference { what: key.clone(), a, b, set_by: Some(set_by) });
        }
    }
    if layer.same && a.files != b.files {
        layer.notes.push("the files differ, and say the same".to_owned());
    }
    layer
}

/// The resolved experiment without the bit that JSON numbers of many digits may lose.
fn exact_config(run: &RunDetail) -> Value {
    Experiment::from_canonical(&run.canonical).map_or_else(|_| run.config.clone(), |experiment| experiment.to_json())
}

/// `optimizer.sgd.lr` -> its value. A key may have dots of its own.
fn leaves(config: &Value) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, leaves);
                }
            }
            leaf => {
                leaves.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", config, &mut found);
    found
}

/// The file, `extends FILE`, `--set` or `default`.
fn who_set(run: &RunDetail, key: &str) -> Option<String> {
    let who = run.provenance.get(key)?.as_str()?;
    let base = run.files.iter().skip(1).any(|file| file.name == who);
    Some(if base { format!("extends {who}") } else { who.to_owned() })
}

pub(super) fn architecture(a: &RunDetail, b: &RunDetail) -> Layer {
    let mut layer = Layer::new("architecture");
    layer.compare("model", a.listing.model.clone(), b.listing.model.clone());
    layer.compare("spec", a.spec_sha256.clone(), b.spec_sha256.clone());
    let planned = |run: &RunDetail, key: &str| run.listing.plan.as_ref().and_then(|plan| plan.get(key)).cloned();
    for (what, key) in [("parameters", "params"), ("trained parameters", "trained_params")] {
        // Before its first step a run knows no such number.
        if let (Some(a), Some(b)) = (planned(a, key), planned(b, key)) {
            layer.compare(what, a, b);
        }
    }
    let summaries =
        [a, b].map(|run| compile_files(&run.spec_texts()).map(|compiled| (at_input(&compiled, run), compiled)));
    let [Ok((summary_a, in_a)), Ok((summary_b, in_b))] = &summaries else {
        if a.spec_sha256 != b.spec_sha256 {
            layer
                .notes
                .push("this version does not compile one of the specs: `runs show RUN --files` prints it".to_owned());
        }
        return layer;
    };
    layer.compare("MACs of a sample", summary_a.macs, summary_b.macs);
    layer.compare("stochastic depth", in_a.spec.drop_path, in_b.spec.drop_path);
    let (fields_a, fields_b) = (fields(summary_a), fields(summary_b));
    let paths: Vec<&String> = fields_a.iter().chain(&fields_b).map(|(path, _)| path).collect();
    let mut seen = BTreeSet::new();
    for path in paths.into_iter().filter(|path| seen.insert(*path)) {
        let of =
            |fields: &[(String, String)]| fields.iter().find(|(known, _)| known == path).map(|(_, text)| text.clone());
        layer.compare(path, of(&fields_a), of(&fields_b));
    }
    layer
}

/// At the input size of the run, or else at the spec's own.
fn at_input(compiled: &Compiled, run: &RunDetail) -> Summary {
    let resized = run.input().and_then(|side| summary_at(compiled, side).ok());
    resized.unwrap_or_else(|| compiled.summary.clone())
}

/// Stem, stages and head, each in a few words: `3 blocks, 221,952 parameters, ..`.
fn fields(summary: &Summary) -> Vec<(String, String)> {
    let text = |row: &resnet_codegen::shape::Row| {
        let prefix = format!("{}.", row.path);
        let block = |path: &str| path.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
        let blocks: BTreeSet<usize> = summary.rows.iter().filter_map(|row| block(&row.path)).collect();
        let what = match (blocks.len(), row.layer.as_str()) {
            (0, "") => String::new(),
            (0, layer) => format!("{layer}, "),
            (1, _) => "1 block, ".to_owned(),
            (many, _) => format!("{many} blocks, "),
        };
        format!("{what}{} parameters, {} MACs, to {:?}", row.params, row.macs, row.output)
    };
    summary.by_field().iter().map(|row| (row.path.clone(), text(row))).collect()
}

/// What a report of loaded weights lists.
const REPORT: [&str; 4] = ["loaded", "initialised", "unused", "reshaped"];

pub(super) fn weights(a: &RunDetail, b: &RunDetail) -> Layer {
    let mut layer = Layer::new("weights");
    for key in ["from", "commit", "sha256", "licence", "unavailable"] {
        let of = |run: &RunDetail| run.weights.get(key).cloned().unwrap_or(Value::Null);
        layer.compare(key, of(a), of(b));
    }
    // From scratch, a report lists the architecture's tensors and nothing else.
    let taken: &[&str] = if layer.same && a.weights["sha256"].is_null() { &[] } else { &REPORT };
    for key in taken {
        let of = |run: &RunDetail| run.weights.get("report").and_then(|report| report.get(key)).cloned();
        let (in_a, in_b) = (of(a).unwrap_or(json!([])), of(b).unwrap_or(json!([])));
        if in_a != in_b {
            let count = |list: &Value| list.as_array().map_or(0, Vec::len);
            let text = |list: &Value| json!(format!("{} tensors", count(list)));
            layer.differ(Difference { what: (*key).to_owned(), a: text(&in_a), b: text(&in_b), set_by: None });
        }
    }
    // The path of a file says little where its content is the same.
    let same_file = a.weights.get("sha256").is_some_and(Value::is_string) && a.weights["sha256"] == b.weights["sha256"];
    layer.same |= same_file && layer.differences.iter().all(|difference| difference.what == "from");
    layer
}

pub(super) fn seed(a: &RunDetail, b: &RunDetail) -> Layer {
    let mut layer = Layer::new("seed");
    layer.compare("seed", a.listing.seed, b.listing.seed);
    layer
}

pub(super) fn device(a: &RunDetail, b: &RunDetail) -> Layer {
    let mut layer = Layer::new("device");
    let last = |run: &RunDetail, of: &dyn Fn(&Attempt) -> Value| run.attempts.last().map_or(Value::Null, of);
    type Fact<'a> = (&'a str, &'a dyn Fn(&Attempt) -> Value);
    let facts: [Fact<'_>; 4] = [
        ("device", &|attempt| json!(attempt.device)),
        ("processor", &|attempt| json!(attempt.cpu)),
        ("vector instructions", &|attempt| json!(attempt.isa)),
        ("threads", &|attempt| json!(attempt.threads)),
    ];
    for (what, of) in facts {
        layer.compare(what, last(a, of), last(b, of));
    }
    if layer.differences.iter().any(|difference| difference.what == "threads") {
        layer.notes.push("any number of threads gives the same bits".to_owned());
        layer.same = layer.differences.len() == 1;
    }
    let names: BTreeSet<&String> = a.origin.environment.keys().chain(b.origin.environment.keys()).collect();
    for name in names {
        layer.compare(name, json!(a.origin.environment.get(name)), json!(b.origin.environment.get(name)));
    }
    let resumed = |run: &RunDetail| run.attempts.len() - 1;
    if resumed(a) != resumed(b) {
        layer.notes.push(format!("a was resumed {} times, b {} times; that changes no bit", resumed(a), resumed(b)));
    }
    layer
}

pub(super) fn metrics(a: &RunDetail, b: &RunDetail, agreement: &Agreement) -> Layer {
    let mut layer = Layer::new("metrics");
    layer.compare("state", json!(a.listing.state), json!(b.listing.state));
    layer.compare("reason", json!(a.listing.reason), json!(b.listing.reason));
    layer.compare("steps", a.listing.steps, b.listing.steps);
    if let Some(first) = &agreement.first {
        let value = |value: &Option<ExactValue>| match value {
            Some(value) => json!(crate::cli::human::exact(value.0)),
            None => Value::Null,
        };
        let what = format!("{} at step {}", first.metric, first.step + 1);
        layer.compare(&what, value(&first.a), value(&first.b));
        layer.notes.push(format!("{} of {} values differ", agreement.different, agreement.values));
    } else {
        layer.notes.push(format!("{} values are equal, bit for bit", agreement.values));
    }
    for record in &a.checkpoints {
        let of_b = b.checkpoints.iter().find(|other| other.step == record.step && other.role == record.role);
        if let Some(other) = of_b {
            let what = format!("weights of step {} ({})", record.step + 1, record.role);
            layer.compare(&what, short(&record.weights_sha256), short(&other.weights_sha256));
        }
    }
    layer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_cut_by_file() {
        let patch = b"diff --git a/x y.rs b/x y.rs\n--- a/x y.rs\n+++ b/x y.rs\n-a\n+b\n+c\ndiff --git a/z b/z\n-d\n";
        let files = changed_files(patch);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["x y.rs", "z"]);
        assert!(lines_changed(&files["x y.rs"]).starts_with("+2 -1 ("), "{}", lines_changed(&files["x y.rs"]));
        assert!(changed_files(b"").is_empty());
    }

    #[test]
    fn leaves_keep_their_types_and_dots() {
        let config = json!({"a": {"b": 1.5, "c": null}, "d": [1, 2], "e.f": true});
        let expected = [("a.b", json!(1.5)), ("a.c", json!(null)), ("d", json!([1, 2])), ("e.f", json!(true))];
        assert_eq!(leaves(&config), expected.map(|(key, value)| (key.to_owned(), value)).into());
    }
}
