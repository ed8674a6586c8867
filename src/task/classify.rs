//! Classification of images or clips.

use super::{compile_files, freeze, summary_at};
use crate::data::{self, Batch, Loader, Pipeline};
use crate::error::{Error, Result};
use crate::experiment::{Experiment, IfUnavailable, Precision, WeightsOptions};
use crate::train::task::{Loss, Metrics, Task};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::softmax;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use zoo::grad::{checkpoint_stages, network};
use zoo::models::Entry;
use zoo::ops::{Target as Classes, cross_entropy, with_direct_convolutions};
use zoo::params::{LoadReport, Loaded, NormPolicy, Params};
use zoo::weights::{self, Adapt, Target};
use zoo::{Model, WeightCard};

/// A model that learns the classes of a dataset.
pub struct Classify {
    /// What learns.
    pub model: Box<dyn Model>,
    /// Its parameters.
    pub params: Params,
    /// What it learns from.
    pub train: Loader,
    /// What it is measured on.
    pub val: Loader,
    /// The part of the target that is spread over all classes, in training alone.
    pub label_smoothing: f64,
    /// What activations and their gradients are stored in.
    pub precision: Precision,
    /// Whether convolutions are direct sums.
    pub exact: bool,
    /// Whether the backward pass computes the network's stages once more instead of keeping what is in them.
    pub grad_checkpointing: bool,
    /// Where it computes.
    pub device: Device,
    /// Where its first parameters come from.
    pub weights: WeightsOrigin,
    /// sha256 of both datasets, hexadecimal.
    pub data_sha256: String,
    /// Multiply-accumulates of one sample.
    pub macs: u64,
    /// What a person should know before training begins.
    pub warnings: Vec<String>,
}

/// Where a model's first parameters come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightsOrigin {
    /// `scratch`, a repository (`timm/resnet34.a1_in1k`), or a file's path.
    pub from: String,
    /// The commit of the repository, 40 hexadecimal digits.
    pub commit: Option<String>,
    /// sha256 of the file, hexadecimal.
    pub sha256: Option<String>,
    /// SPDX identifier of the published weights' licence.
    pub licence: Option<String>,
    /// Why the published weights that were asked for could not be had.
    pub unavailable: Option<String>,
    /// What was taken from the file.
    pub report: LoadReport,
}

/// Makes a local, verified file of published weights.
pub type Fetch<'a> = &'a mut dyn FnMut(&WeightCard) -> Result<Fetched, NotFetched>;

/// Published weights as a local, verified file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// The commit of the repository that it is of, 40 hexadecimal digits.
    pub commit: String,
    /// sha256 of its content, hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// Why published weights could not be had.
#[derive(Debug)]
pub enum NotFetched {
    /// The Hub could not be reached or could not serve: what `if_unavailable` is about.
    Unavailable(Error),
    /// The file is not what it should be, forbidden, or does not exist.
    Refused(Error),
}

impl From<NotFetched> for Error {
    fn from(problem: NotFetched) -> Error {
        match problem {
            NotFetched::Unavailable(error) | NotFetched::Refused(error) => error,
        }
    }
}

impl Classify {
    /// Opens an experiment's data and builds its model. `fetch` gets published weights; without it the model starts
    /// from the seed whatever the experiment says, for a checkpoint to be laid over it.
    ///
    /// # Errors
    /// Where data, weights or what to freeze do not fit the model.
    pub fn new(experiment: &Experiment, device: &Device, fetch: Option<Fetch<'_>>) -> Result<Self> {
        let task = Self::build(experiment, device, fetch, &|params, classifier| match &experiment.freeze {
            Some(options) => freeze::freeze(params, options, classifier),
            None => Ok(()),
        })?;
        experiment.freeze.iter().try_for_each(|options| freeze::check(&task.params, options))?;
        Ok(task)
    }

    /// `freeze` makes constants of parameters, before the model is built; it is told the classifier's path.
    fn build(
        experiment: &Experiment,
        device: &Device,
        fetch: Option<Fetch<'_>>,
        freeze: &dyn Fn(&Params, Option<&'static str>) -> Result<()>,
    ) -> Result<Self> {
        let entry = entry(&experiment.model)?;
        let options = experiment.data_options();
        let data = data::open(&options.source, options.on_bad_image)?;
        let channels = entry.card.input[0];
        let train = Pipeline::new(&options.train, channels)?;
        let train = Loader::training(data.train.clone(), train, options.batchwise, &options.loader, experiment.seed)?;
        let val = Loader::evaluation(data.val.clone(), Pipeline::new(&options.val, channels)?, &options.loader)?;

        let macs = summary_at(&compile_files(entry.card.sources)?, experiment.input)?.macs;
        let classes = data.train.classes().len();
        let params = Params::new(experiment.seed);
        let mut weights = WeightsOrigin::scratch();
        if let Some(fetch) = fetch {
            let loaded = first_values(experiment, entry, classes, fetch, &mut weights)?;
            loaded.map_or(Ok(()), |loaded| params.load(loaded))?;
        }
        freeze(&params, entry.card.classifier)?;
        let model = (entry.build)(classes, params.var_builder(DType::F32, device))?;
        weights.report = params.report();

        let mut warnings = Vec::new();
        if let Some(why) = &weights.unavailable {
            warnings.push(format!("TRAINING FROM SCRATCH, because the pretrained weights are unavailable: {why}"));
        }
        warnings.extend(data.quarantined.iter().map(|bad| format!("left out {}: it {}", bad.id, bad.reason)));
        Ok(Classify {
            model,
            params,
            train,
            val,
            label_smoothing: experiment.label_smoothing,
            precision: experiment.precision,
            exact: experiment.exact,
            grad_checkpointing: experiment.grad_checkpointing,
            device: device.clone(),
            weights,
            data_sha256: data.sha256,
            macs,
            warnings,
        })
    }

    /// The classes' names.
    pub fn classes(&self) -> &[String] {
        self.train.dataset().classes()
    }
}

/// What a model says of one validation sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The sample's index in its dataset.
    pub index: usize,
    /// Its class.
    pub label: u32,
    /// The class that it is taken for.
    pub class: u32,
    /// How sure that is, from 0 to 1.
    pub probability: f32,
    /// The same of its own class.
    pub label_probability: f32,
}

impl Classify {
    /// What the model says of each validation sample, in their order; `None` where `proceed`, which is told the samples done
    /// so far, says to stop.
    ///
    /// # Errors
    /// Where the data cannot be read, and those of `proceed`.
    pub fn predictions(&self, proceed: &mut dyn FnMut(usize) -> Result<bool>) -> Result<Option<Vec<Prediction>>> {
        let mut predictions = Vec::new();
        let finished = self.visit(&mut |batch, logits| {
            let probabilities = softmax(&logits.to_dtype(DType::F32)?, D::Minus1)?.to_vec2::<f32>()?;
            for ((row, &label), &index) in probabilities.iter().zip(&batch.labels).zip(&batch.indices) {
                // Of equal ones the lower class comes first, as for argmax.
                let first = row.iter().enumerate().reduce(|first, next| if *next.1 > *first.1 { next } else { first });
                let (class, &probability) = first.expect("a model has classes");
                let label_probability = row[label as usize];
                predictions.push(Prediction { index, label, class: class as u32, probability, label_probability });
            }
            proceed(predictions.len())
        })?;
        Ok(finished.then_some(predictions))
    }

    /// Calls `visit` with each validation batch and its logits, `f32[N, K]` on the device, until it says false. Returns
    /// whether all of them were visited.
    fn visit(&self, visit: &mut dyn FnMut(&Batch, &Tensor) -> Result<bool>) -> Result<bool> {
        for batch in self.val.epoch(0, 0)? {
            let batch = batch?;
            let images = self.precision.input(&batch.images, &self.device)?;
            let logits =
                with_direct_convolutions(self.exact, || zoo::no_grad(|| self.model.forward_t(&images, false)))?;
            if !visit(&batch, &logits)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl WeightsOrigin {
    fn scratch() -> Self {
        let from = "scratch".to_owned();
        WeightsOrigin {
            from,
            commit: None,
            sha256: None,
            licence: None,
            unavailable: None,
            report: LoadReport::default(),
        }
    }
}

fn entry(model: &str) -> Result<&'static Entry> {
    zoo::models::find(model).ok_or_else(|| Error::input(format!("this version's zoo has no model `{model}`")))
}

/// The values that the experiment's weights have for the model; none from scratch.
fn first_values(
    experiment: &Experiment,
    entry: &Entry,
    classes: usize,
    fetch: Fetch<'_>,
    origin: &mut WeightsOrigin,
) -> Result<Option<Loaded>> {
    let (path, allow) = match &experiment.weights {
        WeightsOptions::Scratch => return Ok(None),
        WeightsOptions::File { file, allow } => {
            origin.from = file.display().to_string();
            (file.clone(), allow)
        }
        WeightsOptions::Tag { tag, if_unavailable, allow } => {
            let card =
                entry.card.weights.iter().find(|card| card.tag == tag).ok_or_else(|| {
                    Error::input(format!("this version's `{}` has no weights `{tag}`", experiment.model))
                })?;
            match (fetch(card), if_unavailable) {
                (Ok(fetched), _) => {
                    origin.from = card.repository.to_owned();
                    origin.commit = Some(fetched.commit);
                    origin.licence = Some(card.licence.to_owned());
                    (fetched.path, allow)
                }
                (Err(NotFetched::Refused(error)), _) => return Err(error),
                (Err(NotFetched::Unavailable(error)), IfUnavailable::Scratch) => {
                    origin.unavailable = Some(error.to_string());
                    return Ok(None);
                }
                (Err(NotFetched::Unavailable(error)), IfUnavailable::Fail) => {
                    return Err(Error::failed(format!(
                        "{error}\nto train from scratch where the weights cannot be had, write `weights: {{tag: {tag}, \
                         if_unavailable: scratch}}`"
                    )));
                }
            }
        }
    };
    origin.sha256 = Some(sha256_of(&path)?);
    load(entry, classes, &path, allow).map(Some)
}

fn load(entry: &Entry, classes: usize, path: &Path, allow: &Adapt) -> Result<Loaded> {
    let target = Target::of(entry.card, |vb| (entry.build)(classes, vb))?;
    weights::load(path, &target, allow).map_err(|error| Error::input(error.to_string()))
}

fn sha256_of(path: &Path) -> Result<String> {
    let unreadable = |error: std::io::Error| Error::input(format!("cannot read {}: {error}", path.display()));
    let mut hash = Sha256::new();
    std::io::copy(&mut std::fs::File::open(path).map_err(unreadable)?, &mut hash).map_err(unreadable)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The training loss of a batch: cross-entropy against its classes, or its soft targets where it was mixed.
///
/// # Errors
/// Where the batch does not fit the model.
pub fn loss(
    model: &dyn Model,
    batch: &Batch,
    label_smoothing: f64,
    precision: Precision,
    device: &Device,
) -> Result<Loss> {
    let logits = network(&precision.input(&batch.images, device)?, |images| model.forward_t(images, true))?;
    let samples = batch.labels.len();
    let (value, labels) = match &batch.targets {
        Some(targets) => {
            let targets = targets.to_device(device)?;
            let value = cross_entropy(&logits, Classes::Probabilities(&targets), label_smoothing)?;
            (value, targets.argmax(D::Minus1)?.to_vec1()?)
        }
        None => {
            let labels = Tensor::from_slice(&batch.labels, samples, device)?;
            (cross_entropy(&logits, Classes::Classes(&labels), label_smoothing)?, batch.labels.clone())
        }
    };
    let [top1, _] = hits(&logits, &labels)?;
    Ok(Loss { value, samples, metrics: vec![("top1", top1 as f64 / samples as f64)] })
}

impl Task for Classify {
    type Batch = Batch;

    fn params(&self) -> &Params {
        &self.params
    }

    fn samples(&self) -> (usize, usize) {
        (self.train.dataset().samples(), self.val.dataset().samples())
    }

    fn macs(&self) -> Option<u64> {
        Some(self.macs)
    }

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn data_sha256(&self) -> &str {
        &self.data_sha256
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn batches(&self, epoch: u64, first: usize) -> Result<impl Iterator<Item = Result<Batch>>> {
        self.train.epoch(epoch, first)
    }

    fn loss(&self, batch: &Batch) -> Result<Loss> {
        let loss = || loss(self.model.as_ref(), batch, self.label_smoothing, self.precision, &self.device);
        with_direct_convolutions(self.exact, || if self.grad_checkpointing { checkpoint_stages(loss) } else { loss() })
    }

    /// `loss` (without smoothing, so that runs with and without it can be compared), `top1` and `top5`.
    fn evaluate(&self, proceed: &mut dyn FnMut(usize) -> Result<bool>) -> Result<Option<Metrics>> {
        let (mut loss, mut top1, mut top5, mut samples) = (0., 0, 0, 0);
        let finished = self.visit(&mut |batch, logits| {
            let labels = Tensor::from_slice(&batch.labels, batch.labels.len(), &self.device)?;
            let mean = cross_entropy(logits, Classes::Classes(&labels), 0.)?.to_scalar::<f32>()?;
            let hits = hits(logits, &batch.labels)?;
            loss += f64::from(mean) * batch.labels.len() as f64;
            top1 += hits[0];
            top5 += hits[1];
            samples += batch.labels.len();
            proceed(samples)
        })?;
        let mean = |sum: f64| sum / samples as f64;
        Ok(finished.then(|| vec![("loss", mean(loss)), ("top1", mean(top1 as f64)), ("top5", mean(top5 as f64))]))
    }
}

/// How many samples have their class first, and how many among the first five. NaN is never right.
fn hits(logits: &Tensor, labels: &[u32]) -> Result<[usize; 2]> {
    let rows = logits.detach().to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let mut hits = [0, 0];
    for (row, label) in rows.iter().zip(labels) {
        let label = *label as usize;
        // Of equal logits the lower class comes first, as for argmax.
        let before = row
            .iter()
            .enumerate()
            .filter(|(class, logit)| !(**logit < row[label] || (**logit == row[label] && *class >= label)));
        let rank = before.count();
        hits[0] += usize::from(rank == 0);
        hits[1] += usize::from(rank < 5 && !row[label].is_nan());
    }
    Ok(hits)
}

/// Measures the weights in a file on an experiment's validation data; they must fit the model exactly.
///
/// # Errors
/// Where data or weights do not fit, and those of `proceed`, which is told the samples done so far.
pub fn evaluate(
    experiment: &Experiment,
    weights: &Path,
    device: &Device,
    proceed: &mut dyn FnMut(usize) -> Result<bool>,
) -> Result<Option<Metrics>> {
    of_file(experiment, weights, device)?.evaluate(proceed)
}

/// An experiment's task with the weights in a file, which must fit the model exactly, to be measured: all parameters are
/// constants, so that filters are kept as the kernels read them.
///
/// # Errors
/// Where data or weights do not fit.
pub fn of_file(experiment: &Experiment, weights: &Path, device: &Device) -> Result<Classify> {
    let file = weights.to_path_buf();
    let weights = WeightsOptions::File { file, allow: Adapt::default() };
    let experiment = Experiment { weights, ..experiment.clone() };
    let mut no_hub = |_: &WeightCard| Err(NotFetched::Refused(Error::failed("a file is not fetched")));
    let freeze = |params: &Params, _| Ok(params.freeze(|_| true, NormPolicy::Frozen)?);
    Classify::build(&experiment, device, Some(&mut no_hub), &freeze)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_rank_the_label() -> Result<()> {
        let nan = f32::NAN;
        let rows = [
            [9f32, 1., 2., 3., 4., 5., 6.],
            [1., 9., 2., 3., 4., 5., 6.],
            [0., 1., 2., 3., 4., 5., 6.],
            [2., 2., 0., 0., 0., 0., 0.],
            [0., 2., 2., 0., 0., 0., 0.],
            [nan, 0., 0., 0., 0., 0., 0.],
            [nan; 7],
        ];
        let logits = Tensor::new(&rows, &Device::Cpu)?;
        assert_eq!(hits(&logits, &[0, 0, 0, 0, 2, 1, 0])?, [2, 4]);
        Ok(())
    }
}
