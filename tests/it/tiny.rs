//! A run that takes a second, through the binary.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// A run of a few seconds; `more` are further lines of the experiment.
pub fn tiny_experiment(folder: &Path, more: &str) -> PathBuf {
    let path = folder.join("tiny.yaml");
    let text = format!(
        "name: tiny\nmodel: cifar_resnet20\ninput: 32\nweights: scratch\n\
         data: {{source: {{embedded: {{train: 64, val: 32}}}}}}\n\
         augment:\n  train: [{{random_crop: {{padding: 4}}}}, {{normalize: {{mean: 0.286, std: 0.353}}}}]\n  \
         eval: [{{pad: {{padding: 2}}}}, {{normalize: {{mean: 0.286, std: 0.353}}}}]\n\
         batch_size: 16\neval_batch_size: 16\noptimizer: {{sgd: {{lr: 0.05, momentum: 0.9}}}}\n{more}"
    );
    std::fs::write(&path, text).expect("written");
    path
}

pub fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}
