//! What an exact resume needs, as two safetensors files: `weights` under the model's own names, which any
//! tool loads, and `state` with the rest.
//!
//! `state` has tensors `optimizer.{slot}.{name}` and `ema.{name}`, and [`Progress`] as JSON in its metadata.
//! A best checkpoint by a metric of the averages has these as its weights, and `model.{name}` in its state.

use crate::error::{Error, Result};
use crate::experiment::Experiment;
use crate::train::event::Role;
use crate::train::exact::Exact;
use crate::train::optimizer::slot_names;
use crate::train::schedule::Plateau;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use zoo::params::Params;

/// The form of `state`. Goes up whenever an older program would misread a newer file.
const FORMAT: u32 = 1;
/// What the draws of a seed are: a change of any stream's meaning makes a new name.
const RANDOMNESS: &str = "philox4x32-10/1";
const STATE: &str = "resnet_zoo.state";

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The state of a run between two steps.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// The model's parameters and running statistics.
    pub weights: Tensors,
    /// The optimizer's slots.
    pub optimizer: Tensors,
    /// The averages, where there are any.
    pub ema: Tensors,
    /// Where the run is.
    pub progress: Progress,
}

/// A state to be kept, and whose it is. It owns what it holds.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The state. None of its tensors changes any more.
    pub checkpoint: Checkpoint,
    /// [`Origin::experiment_sha256`].
    pub experiment_sha256: String,
    /// [`Origin::data_sha256`].
    pub data_sha256: String,
    /// Whether a best checkpoint has the averages as its weights, because it is the best by a metric of theirs.
    pub best_of_averages: bool,
}

impl Snapshot {
    /// The two files of a checkpoint, `weights` and `state`.
    ///
    /// # Errors
    /// Where a tensor cannot be written.
    pub fn files(&self, role: Role) -> Result<(Vec<u8>, Vec<u8>)> {
        let origin = Origin { experiment_sha256: &self.experiment_sha256, data_sha256: &self.data_sha256 };
        self.checkpoint.to_bytes(origin, self.best_of_averages && role == Role::Best)
    }
}

/// Where a run is: everything that is not a tensor. There is no state of randomness: draws are functions
/// of the seed and the step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Optimizer steps taken.
    pub steps: u64,
    /// Whether the evaluation that is due after them has not been done yet.
    pub evaluation_due: bool,
    /// The metrics of the last evaluation.
    pub metrics: BTreeMap<String, Exact>,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// What early stopping remembers.
    pub patience: Patience,
    /// What the plateau schedule remembers.
    pub plateau: Plateau,
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its value.
    pub value: Exact,
    /// The last step before it.
    pub step: u64,
}

/// What early stopping remembers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Patience {
    /// The best value so far.
    pub best: Option<Exact>,
    /// Evaluations since.
    pub spent: u64,
    /// Whether the run has given up.
    pub exhausted: bool,
}

/// Who made a state.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    randomness: String,
    experiment_sha256: String,
    data_sha256: String,
    progress: Progress,
}

/// About how many bytes the two files of a checkpoint take together.
pub fn size(experiment: &Experiment, params: &Params) -> u64 {
    let (all, trained) = params.counts();
    let slots = slot_names(&experiment.optimizer).len();
    let averages = if experiment.ema.is_some() { all } else { 0 };
    (size_of::<f32>() * (all + averages + slots * trained)) as u64
}

/// What a run is about: a state of one is of no use to another.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// [`Experiment::sha256`](crate::experiment::Experiment::sha256).
    pub experiment_sha256: &'a str,
    /// [`Task::data_sha256`](crate::train::task::Task::data_sha256).
    pub data_sha256: &'a str,
}

impl Checkpoint {
    /// The two files, `weights` and `state`. With `averages_as_weights` the former holds the EMA.
    ///
    /// # Errors
    /// Where a tensor cannot be written.
    pub fn to_bytes(&self, origin: Origin<'_>, averages_as_weights: bool) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut weights: BTreeMap<String, &Tensor> = by_name(&self.weights, "");
        let mut state = by_name(&self.optimizer, "optimizer.");
        if averages_as_weights {
            let live = self.weights.iter().filter(|(name, _)| self.ema.contains_key(*name));
            state.extend(live.map(|(name, tensor)| (format!("model.{name}"), tensor)));
            weights.extend(by_name(&self.ema, ""));
        } else {
            state.extend(by_name(&self.ema, "ema."));
        }
        let header = Header {
            format: FORMAT,
            randomness: RANDOMNESS.to_owned(),
            experiment_sha256: origin.experiment_sha256.to_owned(),
            data_sha256: origin.data_sha256.to_owned(),
            progress: self.progress.clone(),
        };
        let header = serde_json::to_string(&header).expect("text keys and numbers");
        Ok((serialize(weights, "format", "pt")?, serialize(state, STATE, &header)?))
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote for the same experiment and data.
    ///
    /// # Errors
    /// [`Error::Input`] where a file is damaged, or of another version, experiment or data.
    pub fn from_bytes(weights: &[u8], state: &[u8], origin: Origin<'_>) -> Result<Self> {
        let header = header(state)?;
        let of_another = |what: &str| Err(Error::input(format!("the checkpoint is of {what}")));
        if header.randomness != RANDOMNESS {
            return of_another("a version with other random draws: run the experiment again");
        }
        if header.experiment_sha256 != origin.experiment_sha256 {
            return of_another("another experiment: resume the run that it belongs to");
        }
        if header.data_sha256 != origin.data_sha256 {
            return of_another("a run on other data: the data have changed since, so run the experiment again");
        }
        let mut weights = tensors(weights, "weights")?;
        let (mut optimizer, mut ema) = (Tensors::new(), Tensors::new());
        for (name, tensor) in tensors(state, "state")? {
            if let Some(slot) = name.strip_prefix("optimizer.") {
                optimizer.insert(slot.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix("ema.") {
                ema.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix("model.")
                && let Some(weight) = weights.get_mut(name)
            {
                ema.insert(name.to_owned(), std::mem::replace(weight, tensor));
            } else {
                return Err(Error::input(format!("the checkpoint's state has an unknown tensor `{name}`")));
            }
        }
        Ok(Checkpoint { weights, optimizer, ema, progress: header.progress })
    }
}

fn by_name<'a>(tensors: &'a Tensors, prefix: &str) -> BTreeMap<String, &'a Tensor> {
    tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

/// One entry of metadata, because several would be written in a random order.
fn serialize(tensors: BTreeMap<String, &Tensor>, key: &str, value: &str) -> Result<Vec<u8>> {
    let metadata = HashMap::from([(key.to_owned(), value.to_owned())]);
    safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| Error::failed(format!("cannot write a checkpoint: {error}")))
}

fn damaged(which: &str, why: impl std::fmt::Display) -> Error {
    Error::input(format!("the checkpoint's {which} file is damaged: {why}"))
}

fn header(state: &[u8]) -> Result<Header> {
    let (_, metadata) = SafeTensors::read_metadata(state).map_err(|error| damaged("state", error))?;
    let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(STATE));
    let text = text.ok_or_else(|| damaged("state", "it is a safetensors file of something else"))?;
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_str(text).map_err(|error| damaged("state", error))?;
    if format != FORMAT {
        return Err(Error::input(format!("the checkpoint has format {format}, and this version reads {FORMAT}")));
    }
    serde_json::from_str(text).map_err(|error| damaged("state", error))
}

fn tensors(bytes: &[u8], which: &str) -> Result<Tensors> {
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(|error| damaged(which, error))?;
    Ok(tensors.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> = Origin { experiment_sha256: "e", data_sha256: "d" };

    fn tensors_of(values: &[(&str, f32)]) -> Tensors {
        let tensor = |value: f32| Tensor::new(&[value], &Device::Cpu).expect("on the CPU");
        values.iter().map(|(name, value)| ((*name).to_owned(), tensor(*value))).collect()
    }

    fn numbers(tensors: &Tensors) -> Vec<(String, f32)> {
        let number = |tensor: &Tensor| tensor.to_vec1::<f32>().expect("one dimension")[0];
        tensors.iter().map(|(name, tensor)| (name.clone(), number(tensor))).collect()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            weights: tensors_of(&[("fc.weight", 1.), ("frozen", 2.)]),
            optimizer: tensors_of(&[("exp_avg.fc.weight", 3.)]),
            ema: tensors_of(&[("fc.weight", 4.)]),
            progress: Progress {
                steps: 7,
                evaluation_due: true,
                metrics: BTreeMap::from([
                    ("val.loss".to_owned(), Exact(f64::NAN)),
                    ("val.top1".to_owned(), Exact(0.1 + 0.2)),
                ]),
                best: Some(Best { value: Exact(1. / 3.), step: 3 }),
                patience: Patience { best: Some(Exact(-0.)), spent: 2, exhausted: false },
                plateau: Plateau::default(),
            },
        }
    }

    #[test]
    fn both_forms_come_back() {
        for averages_as_weights in [false, true] {
            let saved = checkpoint();
            let (weights, state) = saved.to_bytes(ORIGIN, averages_as_weights).expect("written");
            assert_eq!(saved.to_bytes(ORIGIN, averages_as_weights).expect("written"), (weights.clone(), state.clone()));
            let first = numbers(&tensors(&weights, "weights").expect("plain safetensors"))[0].clone();
            assert_eq!(first, ("fc.weight".to_owned(), if averages_as_weights { 4. } else { 1. }));
            let read = Checkpoint::from_bytes(&weights, &state, ORIGIN).expect("the same experiment");
            assert_eq!(numbers(&read.weights), numbers(&saved.weights));
            assert_eq!(numbers(&read.optimizer), numbers(&saved.optimizer));
            assert_eq!(numbers(&read.ema), numbers(&saved.ema));
            assert_eq!(format!("{:?}", read.progress), format!("{:?}", saved.progress));
        }
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        let (weights, state) = checkpoint().to_bytes(ORIGIN, false).expect("written");
        let refused = |weights: &[u8], state: &[u8], origin| {
            Checkpoint::from_bytes(weights, state, origin).expect_err("refused").to_string()
        };
        let cases = [
            (refused(&weights, &state, Origin { experiment_sha256: "x", ..ORIGIN }), "of another experiment"),
            (refused(&weights, &state, Origin { data_sha256: "x", ..ORIGIN }), "of a run on other data"),
            (refused(&weights, &weights, ORIGIN), "state file is damaged: it is a safetensors file of something else"),
            (refused(&weights, &state[..state.len() / 2], ORIGIN), "state file is damaged"),
            (refused(&weights[..40], &state, ORIGIN), "weights file is damaged"),
            (refused(b"", b"", ORIGIN), "state file is damaged"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
        }
        let format = br#"{\"format\":1,"#;
        let at = state.windows(format.len()).position(|bytes| bytes == format).expect("the state says its format");
        let mut newer = state.clone();
        newer[at + format.len() - 2] = b'2';
        let message = refused(&weights, &newer, ORIGIN);
        assert_eq!(message, "the checkpoint has format 2, and this version reads 1");
    }
}
