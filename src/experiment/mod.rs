//! An experiment: a YAML file that says what to train, on what and how. It is read with positions,
//! every default is filled in, and what comes out is hashed: two runs with the same [`Experiment::sha256`]
//! and the same build are the same run.
//!
//! A file may `extends: another.yaml`, relative to itself: mappings are merged key by key, anything else
//! is replaced, and `key: ~` goes back to the default. `--set optimizer.adamw.lr=3e-4` is laid over both
//! and checked by the same code. Paths of data and weights are relative to the current directory, as
//! in torchvision and Lightning.

mod augment;
mod check;
mod options;
mod written;

pub use check::is_name;
pub(crate) use check::{METRICS, name};
pub use options::*;

use crate::data::options::{Batchwise, DataOptions, LoaderOptions};
use crate::error::{Error, Result};
use resnet_codegen::diagnostic::Sources;
use resnet_codegen::yaml::{self, Node, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// An experiment as resolved: every default is filled in and every value is in its range.
/// Its fields mirror the file's keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// What people call it: `resnet34_ls`.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Every random draw of the run follows from it.
    pub seed: u64,
    /// A model of the zoo.
    pub model: String,
    /// Height and width that the model sees, in pixels: what a transform's `size` is by default.
    pub input: usize,
    /// What the parameters are at first.
    pub weights: WeightsOptions,
    /// What is learned from.
    pub data: DataSection,
    /// What happens to samples and batches.
    pub augment: AugmentOptions,
    /// Samples of a forward pass in training.
    pub batch_size: usize,
    /// Samples of a forward pass in evaluation.
    pub eval_batch_size: usize,
    /// What activations and their gradients are stored in.
    pub precision: Precision,
    /// Whether convolutions are direct sums: slower, and with less rounding than Winograd's method.
    pub exact: bool,
    /// Batches whose gradients make one optimizer step. The last step of an epoch takes what is left.
    pub accumulate: usize,
    /// Whether the backward pass computes what is inside of the network's stages once more instead of keeping it:
    /// less memory, a longer step, the same numbers.
    pub grad_checkpointing: bool,
    /// Threads that load data.
    pub workers: usize,
    /// Finished batches that each of them may hold.
    pub prefetch: usize,
    /// How long the run is: `epochs` or `steps`.
    #[serde(flatten)]
    pub length: Length,
    /// The part of the target that is spread over all classes (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// What takes the steps.
    pub optimizer: OptimizerOptions,
    /// Layer-wise decay of the learning rate: each block before the head multiplies with it once more. 1: none.
    pub layer_decay: f64,
    /// What the learning rate does.
    pub schedule: ScheduleOptions,
    /// Longest gradient (global 2-norm); longer ones are scaled down to it.
    pub clip_norm: Option<f64>,
    /// Averages of the weights, evaluated and saved beside them.
    pub ema: Option<EmaOptions>,
    /// What is not trained.
    pub freeze: Option<FreezeOptions>,
    /// When to give up.
    pub early_stopping: Option<EarlyStoppingOptions>,
    /// When to evaluate.
    pub evaluate: EvaluateOptions,
    /// When to save, and what to keep.
    pub checkpoint: CheckpointOptions,
}

/// What reading an experiment gives.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// As resolved.
    pub experiment: Experiment,
    /// As written: the file, what it extends, and the overrides.
    pub sources: Sources,
    /// Who set each value of the resolved experiment, by its path (`optimizer.adamw.lr`): a file's name,
    /// `--set`, or `default`.
    pub provenance: BTreeMap<String, String>,
}

/// Reads an experiment file with what it extends, lays `overrides` (`optimizer.adamw.lr=3e-4`) over it,
/// and checks it.
///
/// # Errors
/// [`Error::Input`] with every mistake, its place and a way out.
pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded> {
    read(path, written::Files::Disk, overrides)
}

/// As [`load`], of files that a run stored, by name and text: the first one is the experiment, the others are what it
/// extends. Nothing is read from the disk.
///
/// # Errors
/// As [`load`]'s, where this version reads them differently.
pub fn load_stored(files: &[(String, String)], overrides: &[String]) -> Result<Loaded> {
    let Some((name, _)) = files.first() else {
        return Err(Error::input("the run has no stored experiment file"));
    };
    read(Path::new(name), written::Files::Stored(files), overrides)
}

fn read(path: &Path, files: written::Files<'_>, overrides: &[String]) -> Result<Loaded> {
    let mut sources = Sources::default();
    let root = written::read(path, files, overrides, &mut sources)?;
    let experiment = check::check(&root).map_err(|diagnostics| Error::diagnostics(&diagnostics, &sources))?;
    let provenance = written::provenance(&root, &experiment.to_json(), &sources);
    Ok(Loaded { experiment, sources, provenance })
}

/// Reads a YAML file with what it extends, as an experiment is read.
///
/// # Errors
/// [`Error::Input`] for a file that cannot be read or is not YAML.
pub(crate) fn read_tree(path: &Path, sources: &mut Sources) -> Result<Node> {
    written::read(path, written::Files::Disk, &[], sources)
}

impl Experiment {
    /// The one text of this experiment: JSON with sorted keys and shortest floats.
    pub fn canonical(&self) -> String {
        self.to_json().to_string()
    }

    /// sha256 of [`canonical`](Self::canonical), hexadecimal.
    pub fn sha256(&self) -> String {
        Sha256::digest(self.canonical()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads what [`canonical`](Self::canonical) wrote: a resumed run trains what it trained, whatever became
    /// of its file.
    ///
    /// # Errors
    /// Where another version wrote it and it says something else today.
    pub fn from_canonical(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::input(format!("the stored experiment cannot be read by this version: {why}"));
        let mut sources = Sources::default();
        let file = sources.add("the stored experiment", text);
        // JSON is YAML, and `serde_json` reads some long decimals one bit off.
        let node = yaml::parse(&sources, file).map_err(|diagnostics| wrong(&diagnostics.render(&sources)))?;
        let experiment: Experiment =
            serde_json::from_value(json(node.value)).map_err(|error| wrong(&error.to_string()))?;
        if experiment.canonical() != text {
            return Err(wrong("it has other keys; run it again from its file"));
        }
        Ok(experiment)
    }

    /// What the datasets, transforms and loaders need to know.
    pub fn data_options(&self) -> DataOptions {
        DataOptions {
            source: self.data.source.clone(),
            on_bad_image: self.data.on_bad_image,
            train: self.augment.train.clone(),
            val: self.augment.eval.clone(),
            batchwise: Batchwise {
                mixup_alpha: self.augment.mixup,
                cutmix_alpha: self.augment.cutmix,
                probability: self.augment.mix_probability,
            },
            loader: LoaderOptions {
                batch_size: self.batch_size,
                eval_batch_size: self.eval_batch_size,
                workers: self.workers,
                prefetch: self.prefetch,
            },
        }
    }

    /// As [`canonical`](Self::canonical), before it becomes text; `serde_json`'s maps are sorted.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("an experiment has text keys and finite numbers")
    }
}

/// A value of a file as JSON, which is YAML too.
pub(crate) fn json(value: Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => value.into(),
        Value::Int(value) => match (u64::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => value.into(),
            (_, Ok(value)) => value.into(),
            _ => (value as f64).into(),
        },
        Value::Float(value) => value.into(),
        Value::Str(value) => value.into(),
        Value::Seq(items) => items.into_iter().map(|item| json(item.value)).collect(),
        Value::Map(entries) => entries.into_iter().map(|(key, node)| (key.name, json(node.value))).collect(),
    }
}
