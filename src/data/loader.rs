//! Batches, in order, the same bits for any number of workers.

use super::mix::{self, Mix};
use super::options::{Batchwise, LoaderOptions};
use super::{Dataset, Pipeline};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use zoo::random::{Key, Stream, stream_of};

/// The most bytes of values that a batch may have.
const MAX_BATCH: usize = 4 << 30;

/// Samples that go through a network together.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `f32[N, C, H, W]` or, of clips, `f32[N, C, D, H, W]` on the CPU: a view of a channels-last buffer.
    pub images: Tensor,
    /// Each sample's class.
    pub labels: Vec<u32>,
    /// `f32[N, K]`, rows of sum 1, where [`Batchwise`] is on.
    pub targets: Option<Tensor>,
    /// Each sample's index in its [`Dataset`].
    pub indices: Vec<usize>,
}

/// Makes batches of a dataset. A batch is a function of (seed, epoch, its number), whoever makes it and whatever was made
/// before.
#[derive(Clone)]
pub struct Loader {
    plan: Arc<Plan>,
    workers: usize,
    prefetch: usize,
}

/// All that a batch depends on.
struct Plan {
    dataset: Arc<dyn Dataset>,
    pipeline: Pipeline,
    batchwise: Batchwise,
    batch_size: usize,
    /// Of training: samples are shuffled, and a last batch that is not full is dropped.
    seed: Option<u64>,
}

/// The batches of one epoch, as an iterator. After an error it ends. Dropping it stops its workers.
pub struct Epoch {
    plan: Arc<Plan>,
    order: Arc<[usize]>,
    /// The number of the next batch, and of the one after the last.
    next: usize,
    end: usize,
    epoch: u64,
    /// The workers, the one that makes the next batch first; none where the calling thread does it.
    workers: VecDeque<Worker>,
}

struct Worker {
    batches: Receiver<Result<Batch>>,
    thread: JoinHandle<()>,
}

impl Loader {
    /// Shuffled, augmented batches of `options.batch_size`; in each epoch another order, and a last batch that is not full is
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Input`] where an option is out of its range, or the set is smaller than a batch.
    pub fn training(
        dataset: Arc<dyn Dataset>,
        pipeline: Pipeline,
        batchwise: Batchwise,
        options: &LoaderOptions,
        seed: u64,
    ) -> Result<Self> {
        mix::check(&batchwise)?;
        if dataset.samples() < options.batch_size {
            return Err(Error::input(format!(
                "the training set has {} samples, fewer than a batch of {}: lower batch_size",
                dataset.samples(),
                options.batch_size
            )));
        }
        let plan = Plan { dataset, pipeline, batchwise, batch_size: options.batch_size, seed: Some(seed) };
        Self::new(plan, options)
    }

    /// Batches of `options.eval_batch_size` in the dataset's order; the last one may be smaller.
    ///
    /// # Errors
    /// [`Error::Input`] where an option is out of its range, or the pipeline is random.
    pub fn evaluation(dataset: Arc<dyn Dataset>, pipeline: Pipeline, options: &LoaderOptions) -> Result<Self> {
        if pipeline.is_random() {
            return Err(Error::input("evaluation must not be random: leave the random transforms to training"));
        }
        let batchwise = Batchwise::default();
        Self::new(Plan { dataset, pipeline, batchwise, batch_size: options.eval_batch_size, seed: None }, options)
    }

    fn new(plan: Plan, options: &LoaderOptions) -> Result<Self> {
        for (name, value, least, most) in [
            ("batch_size", plan.batch_size, 1, 1 << 16),
            ("workers", options.workers, 0, 64),
            ("prefetch", options.prefetch, 1, 64),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::input(format!("loader: {name} must be {least} to {most}, not {value}")));
            }
        }
        Ok(Loader { plan: Arc::new(plan), workers: options.workers, prefetch: options.prefetch })
    }

    /// The dataset.
    pub fn dataset(&self) -> &dyn Dataset {
        self.plan.dataset.as_ref()
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        let samples = self.plan.dataset.samples();
        match self.plan.seed {
            Some(_) => samples / self.plan.batch_size,
            None => samples.div_ceil(self.plan.batch_size),
        }
    }

    /// The batches of an epoch from number `first_batch` on, which is 0 but for a resume; from [`Self::batches`] on there are
    /// none. In evaluation all epochs are alike.
    ///
    /// # Errors
    /// [`Error::Failed`] where the system has no thread left.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Result<Epoch> {
        let samples = self.plan.dataset.samples();
        let order: Arc<[usize]> = match self.plan.seed {
            Some(seed) => {
                let key = Key { seed, stream: stream_of("loader.shuffle"), step: epoch, index: 0 };
                Stream::new(key).permutation(samples).into()
            }
            None => (0..samples).collect(),
        };
        let end = self.batches();
        let mut batches = Epoch {
            plan: Arc::clone(&self.plan),
            order,
            next: first_batch.min(end),
            end,
            epoch,
            workers: VecDeque::new(),
        };
        // Worker w makes every n-th batch into its own bounded queue: order needs no bookkeeping.
        let workers = self.workers.min(end - batches.next);
        for worker in 0..workers {
            batches.workers.push_back(batches.start_worker(batches.next + worker, workers, self.prefetch)?);
        }
        Ok(batches)
    }
}

impl Epoch {
    fn start_worker(&self, first: usize, step: usize, prefetch: usize) -> Result<Worker> {
        let (plan, order) = (Arc::clone(&self.plan), Arc::clone(&self.order));
        let (epoch, end) = (self.epoch, self.end);
        let (sender, batches) = sync_channel(prefetch);
        let work = move || {
            for number in (first..end).step_by(step) {
                // Nobody listens any more: the iterator was dropped.
                if sender.send(plan.batch(&order, epoch, number)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(work)
            .map_err(|error| Error::failed(format!("cannot start a loader thread: {error}; lower workers")))?;
        Ok(Worker { batches, thread })
    }

    fn make_next(&mut self) -> Result<Batch> {
        let Some(worker) = self.workers.front() else {
            return self.plan.batch(&self.order, self.epoch, self.next);
        };
        let batch = worker.batches.recv().map_err(|_| Error::failed("a loader thread panicked"))?;
        self.workers.rotate_left(1);
        batch
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.next == self.end {
            return None;
        }
        let batch = self.make_next();
        self.next = if batch.is_ok() { self.next + 1 } else { self.end };
        Some(batch)
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        for Worker { batches, thread } in self.workers.drain(..) {
            drop(batches);
            // A panic of its was told as an error by `next`, or nobody waited for it.
            let _ = thread.join();
        }
    }
}

impl Plan {
    fn batch(&self, order: &[usize], epoch: u64, number: usize) -> Result<Batch> {
        let start = number * self.batch_size;
        let indices = order[start..(start + self.batch_size).min(order.len())].to_vec();
        let channels = self.pipeline.channels();
        let mut values: Vec<f32> = Vec::new();
        let mut labels = Vec::with_capacity(indices.len());
        let mut shape: Option<(usize, usize, usize)> = None;
        for (at, &index) in indices.iter().enumerate() {
            let key =
                Key { seed: self.seed.unwrap_or(0), stream: stream_of("augment"), step: epoch, index: index as u64 };
            let mut draws = Stream::new(key);
            let mut view = None;
            let frames = self.dataset.upper_frames(index, &mut |height, width| {
                view.insert(self.pipeline.view(height, width, &mut draws)).rows
            })?;
            let view = view.expect("the set asks which rows it needs");
            let frames =
                self.pipeline.augment_view(frames, view, &mut draws).map_err(|error| self.name(index, error))?;
            let this = (frames.len(), frames[0].height, frames[0].width);
            let expected = *shape.get_or_insert(this);
            if this != expected {
                return Err(self.unequal(indices[0], expected, index, this));
            }
            let sample = this.0 * this.1 * this.2 * channels;
            if at == 0 {
                let bytes = indices.len().saturating_mul(sample).saturating_mul(size_of::<f32>());
                if bytes > MAX_BATCH {
                    return Err(Error::input(format!(
                        "a batch of {} samples of {} x {} x {} values would take {bytes} bytes: lower batch_size",
                        indices.len(),
                        this.0,
                        this.1,
                        this.2
                    )));
                }
                values = vec![0.0; indices.len() * sample];
            }
            self.pipeline.write(&frames, &mut draws, &mut values[at * sample..]);
            labels.push(self.dataset.label(index));
        }
        let (frames, height, width) = shape.expect("a batch has a sample");
        let targets = if self.batchwise.is_on() {
            let key = Key {
                seed: self.seed.unwrap_or(0),
                stream: stream_of("augment.batch"),
                step: epoch,
                index: number as u64,
            };
            let mix = Mix::draw(&self.batchwise, height, width, &mut Stream::new(key));
            mix.apply(&mut values, frames * height * width * channels, height, (width, channels));
            let classes = self.dataset.classes().len();
            Some(Tensor::from_vec(mix.targets(&labels, classes), (labels.len(), classes), &Device::Cpu)?)
        } else {
            None
        };
        let images = match self.dataset.dims() {
            2 => Tensor::from_vec(values, (labels.len(), height, width, channels), &Device::Cpu)?
                .permute((0, 3, 1, 2))?,
            _ => Tensor::from_vec(values, (labels.len(), frames, height, width, channels), &Device::Cpu)?
                .permute((0, 4, 1, 2, 3))?,
        };
        Ok(Batch { images, labels, targets, indices })
    }

    fn name(&self, index: usize, error: Error) -> Error {
        Error::failed(format!("{}: {error}", self.dataset.id(index)))
    }

    fn unequal(
        &self,
        first: usize,
        expected: (usize, usize, usize),
        index: usize,
        this: (usize, usize, usize),
    ) -> Error {
        let size = |(frames, height, width)| match self.dataset.dims() {
            2 => format!("{height} x {width}"),
            _ => format!("{frames} x {height} x {width}"),
        };
        Error::input(format!(
            "samples of a batch must have one size, but after the transforms {} has {} and {} has {}: end them with a crop \
             or an exact resize",
            self.dataset.id(first),
            size(expected),
            self.dataset.id(index),
            size(this)
        ))
    }
}
