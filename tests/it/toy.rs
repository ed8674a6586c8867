//! A task small enough to be run hundreds of times: two linear layers with noise between them, a running
//! mean, and classes that depend on the input's signs. And an observer that remembers everything.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::init::Init;
use resnet_zoo::data::options::{BadImage, Source};
use resnet_zoo::error::{Error, Result};
use resnet_zoo::experiment::*;
use resnet_zoo::train::event::{Event, Observer, Role};
use resnet_zoo::train::task::{Loss, Metrics, Task};
use resnet_zoo::train::{Checkpoint, Outcome, checkpoint::Origin, fit};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use zoo::params::Params;
use zoo::random::{Key, Stream, forward_key, stream_of};

const FEATURES: usize = 6;
const CLASSES: usize = 4;

pub struct Toy {
    params: Params,
    hidden: Tensor,
    head: Tensor,
    running_mean: Tensor,
    samples: usize,
    batch_size: usize,
    seed: u64,
    /// The first feature of this sample is not a number.
    pub poisoned: Option<usize>,
}

pub struct ToyBatch {
    x: Tensor,
    labels: Tensor,
}

impl Toy {
    pub fn new(experiment: &Experiment) -> Self {
        Self::with_params(experiment, Params::new(experiment.seed))
    }

    pub fn with_params(experiment: &Experiment, params: Params) -> Self {
        let vb = params.var_builder(DType::F32, &Device::Cpu);
        let normal = Init::Randn { mean: 0., stdev: 0.5 };
        let get = |shape: (usize, usize), name: &str| vb.get_with_hints(shape, name, normal).expect("seeded");
        let hidden = get((FEATURES, 8), "layer1.0.weight");
        let head = get((8, CLASSES), "fc.weight");
        let running_mean = vb.get_with_hints(8, "bn1.running_mean", Init::Const(0.)).expect("seeded");
        let (samples, batch_size, seed) = (24, experiment.batch_size, experiment.seed);
        Toy { params, hidden, head, running_mean, samples, batch_size, seed, poisoned: None }
    }

    fn batch(&self, indices: &[usize], stream: &str) -> ToyBatch {
        let (mut x, mut labels) = (Vec::new(), Vec::new());
        for index in indices {
            let key = Key { seed: 0, stream: stream_of(stream), step: 0, index: *index as u64 };
            let mut draws = Stream::new(key);
            let mut sample: Vec<f32> = (0..FEATURES).map(|_| draws.range(-1., 1.)).collect();
            labels.push(u32::from(sample[0] > 0.) + 2 * u32::from(sample[1] > 0.));
            if self.poisoned == Some(*index) && stream == "train" {
                sample[0] = f32::NAN;
            }
            x.extend(sample);
        }
        let x = Tensor::from_vec(x, (indices.len(), FEATURES), &Device::Cpu).expect("on the CPU");
        ToyBatch { x, labels: Tensor::new(labels, &Device::Cpu).expect("on the CPU") }
    }

    fn logits(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let (hidden, head) = (zoo::grad::parameter(&self.hidden), zoo::grad::parameter(&self.head));
        let mut activation = x.matmul(&hidden)?.tanh()?;
        if train {
            let mean = activation.detach().mean(0)?;
            if let Ok(var) = Var::from_tensor(&self.running_mean)
                && self.running_mean.is_variable()
            {
                var.set(&((self.running_mean.as_ref().detach() * 0.9)? + (mean * 0.1)?)?)?;
            }
            let key = forward_key();
            let key = Key { seed: key.seed, stream: stream_of("noise"), step: key.step, index: 0 };
            let mut draws = Stream::new(key);
            let noise: Vec<f32> = (0..activation.elem_count()).map(|_| draws.range(0.8, 1.2)).collect();
            activation = (activation.clone() * Tensor::from_vec(noise, activation.shape(), x.device())?)?;
        }
        activation.broadcast_sub(&self.running_mean.detach())?.matmul(&head)
    }
}

impl Task for Toy {
    type Batch = ToyBatch;

    fn params(&self) -> &Params {
        &self.params
    }
    fn samples(&self) -> (usize, usize) {
        (self.samples, self.samples)
    }
    fn batches_per_epoch(&self) -> usize {
        self.samples / self.batch_size
    }
    fn data_sha256(&self) -> &str {
        "toy"
    }
    fn warnings(&self) -> &[String] {
        &[]
    }
    fn batches(&self, epoch: u64, first: usize) -> Result<impl Iterator<Item = Result<ToyBatch>>> {
        let key = Key { seed: self.seed, stream: stream_of("shuffle"), step: epoch, index: 0 };
        let order = Stream::new(key).permutation(self.samples);
        let numbers = first..self.batches_per_epoch();
        Ok(numbers.map(move |number| Ok(self.batch(&order[number * self.batch_size..][..self.batch_size], "train"))))
    }
    fn loss(&self, batch: &ToyBatch) -> Result<Loss> {
        let logits = self.logits(&batch.x, true)?;
        let value = candle_nn::loss::cross_entropy(&logits, &batch.labels)?;
        Ok(Loss { value, samples: batch.labels.elem_count(), metrics: vec![("ones", 1.)] })
    }
    fn evaluate(&self, proceed: &mut dyn FnMut(usize) -> Result<bool>) -> Result<Option<Metrics>> {
        let batch = self.batch(&(0..self.samples).collect::<Vec<_>>(), "val");
        let logits = zoo::no_grad(|| self.logits(&batch.x, false))?;
        let loss = f64::from(candle_nn::loss::cross_entropy(&logits, &batch.labels)?.to_scalar::<f32>()?);
        let hits = logits.argmax(1)?.eq(&batch.labels)?.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
        Ok(proceed(self.samples)?.then(|| vec![("loss", loss), ("top1", f64::from(hits)), ("top5", 1.)]))
    }
}

/// Two epochs of three steps. The toy heeds the training part of it.
pub fn experiment() -> Experiment {
    Experiment {
        name: "toy".to_owned(),
        description: String::new(),
        seed: 0,
        model: "toy".to_owned(),
        input: 8,
        weights: WeightsOptions::Scratch,
        data: DataSection { source: Source::EMBEDDED, on_bad_image: BadImage::Fail },
        augment: AugmentOptions { train: Vec::new(), eval: Vec::new(), mixup: 0., cutmix: 0., mix_probability: 1. },
        batch_size: 8,
        eval_batch_size: 8,
        precision: Precision::F32,
        exact: false,
        accumulate: 1,
        grad_checkpointing: false,
        workers: 0,
        prefetch: 1,
        length: Length::Epochs(2),
        label_smoothing: 0.,
        optimizer: OptimizerOptions::Sgd(SgdOptions {
            lr: 0.05,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.01,
            decay_norm_and_bias: false,
        }),
        layer_decay: 1.,
        schedule: ScheduleOptions { shape: ScheduleShape::Constant {}, warmup: None },
        clip_norm: None,
        ema: None,
        freeze: None,
        early_stopping: None,
        evaluate: EvaluateOptions { every: Length::Epochs(1) },
        checkpoint: CheckpointOptions {
            every: Length::Epochs(1),
            keep_last: 2,
            best: BestOptions { metric: "val.top1".to_owned(), mode: Mode::Max },
        },
    }
}

/// Everything that happened, and a signal at a step.
#[derive(Default)]
pub struct Memory {
    pub log: Vec<String>,
    pub metrics: BTreeMap<(u64, String), u64>,
    pub checkpoints: Vec<(u64, Role, Vec<u8>, Vec<u8>)>,
    /// Send signal 2 at this step, or in the evaluation after it.
    pub stop_at: Option<(u64, bool)>,
    pub stop: AtomicI32,
}

struct Listener<'a>(&'a mut Memory);

impl Observer for Listener<'_> {
    fn observe(&mut self, event: &Event<'_>) -> Result<()> {
        let memory = &mut *self.0;
        match event {
            Event::Started { first_step, steps, steps_per_epoch, .. } => {
                memory.log.push(format!("started {first_step} {steps} {steps_per_epoch}"));
            }
            Event::Step { step, epoch, metrics, .. } => {
                memory.log.push(format!("step {step} of epoch {epoch}"));
                memory.keep(*step, metrics);
                if memory.stop_at == Some((*step, false)) {
                    memory.stop.store(2, Ordering::Relaxed);
                }
            }
            Event::Evaluating { .. } => {
                let last = memory.metrics.keys().map(|(step, _)| *step).max().unwrap_or(0);
                if memory.stop_at == Some((last, true)) {
                    memory.stop.store(2, Ordering::Relaxed);
                }
            }
            Event::Evaluated { step, metrics, .. } => {
                memory.log.push(format!("evaluated {step}"));
                memory.keep(*step, metrics);
            }
            Event::Checkpoint { step, roles, snapshot } => {
                for role in *roles {
                    memory.log.push(format!("{role:?} {step}"));
                    let (weights, state) = snapshot.files(*role)?;
                    memory.checkpoints.push((*step, *role, weights, state));
                }
            }
            Event::Warning { message, .. } => memory.log.push(format!("warning: {message}")),
        }
        Ok(())
    }
}

impl Memory {
    fn keep(&mut self, step: u64, metrics: &[(&str, f64)]) {
        self.metrics.extend(metrics.iter().map(|(name, value)| ((step, (*name).to_owned()), value.to_bits())));
    }

    /// The newest checkpoint of a role.
    pub fn newest(&self, role: Role) -> &(u64, Role, Vec<u8>, Vec<u8>) {
        self.checkpoints.iter().rev().find(|checkpoint| checkpoint.1 == role).expect("there is one")
    }

    pub fn value(&self, step: u64, name: &str) -> f64 {
        f64::from_bits(self.metrics[&(step, name.to_owned())])
    }

    /// The values of a metric, by step.
    pub fn curve(&self, metric: &str) -> Vec<f64> {
        let of = self.metrics.iter().filter(|((_, name), _)| name == metric);
        of.map(|(_, bits)| f64::from_bits(*bits)).collect()
    }
}

/// Runs any task to its end, or to the signal that `memory` sends.
pub fn run<T: Task>(
    task: &T,
    experiment: &Experiment,
    resume: Option<Checkpoint>,
    memory: &mut Memory,
) -> Result<Outcome> {
    // The flag is lent to the loop while the listener, inside the loop, sets it.
    let stop = AtomicI32::new(0);
    struct Flagged<'a>(Listener<'a>, &'a AtomicI32);
    impl Observer for Flagged<'_> {
        fn observe(&mut self, event: &Event<'_>) -> Result<()> {
            self.0.observe(event)?;
            self.1.store(self.0.0.stop.load(Ordering::Relaxed), Ordering::Relaxed);
            Ok(())
        }
    }
    fit(task, experiment, resume, &stop, &mut Flagged(Listener(memory), &stop))
}

/// The newest checkpoint, read back.
pub fn checkpoint(memory: &Memory, experiment: &Experiment, data_sha256: &str) -> Result<Checkpoint> {
    let (_, _, weights, state) = memory.newest(Role::Last);
    Checkpoint::from_bytes(weights, state, Origin { experiment_sha256: &experiment.sha256(), data_sha256 })
}

/// The error of a run that must fail.
pub fn failure(result: Result<Outcome>) -> Error {
    result.expect_err("the run should end with an error")
}
