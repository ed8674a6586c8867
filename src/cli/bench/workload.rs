//! A model and the synthetic batches that it is measured on.

use super::against::Work;
use crate::cli::{device, human, models, specs};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::experiment::Precision;
use crate::task::summary_of;
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use clap::builder::{PossibleValue, RangedU64ValueParser};
use resnet_codegen::shape::{Row, Summary};
use std::fs;
use zoo::models::Entry;
use zoo::nn::channels_first;
use zoo::ops::Isa;
use zoo::params::Params;
use zoo::random::{Key, Stream, stream_of};
use zoo::{Model, ModelCard};

/// What every benchmark of a model takes.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WorkloadArguments {
    /// A model of the zoo
    pub model: String,
    /// Images or clips in a batch
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    pub batch: usize,
    /// Height and width; the model's own where not given
    #[arg(long, value_name = "PIXELS", value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    pub size: Option<usize>,
    /// Frames of a clip, of a model for video; the model's own where not given
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    pub frames: Option<usize>,
    /// What activations and gradients are stored in
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    pub precision: Precision,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
}

impl ValueEnum for Precision {
    fn value_variants<'a>() -> &'a [Self] {
        &Precision::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// A model on batches of one shape, checked.
#[derive(Debug)]
pub(super) struct Workload {
    /// The model.
    pub entry: &'static Entry,
    /// Samples in a batch.
    pub batch: usize,
    /// Channels, then the spatial size.
    pub input: Vec<usize>,
    /// What activations and gradients are stored in.
    pub precision: Precision,
    /// How many threads compute.
    pub threads: usize,
    /// Which instructions they use.
    pub isa: Isa,
    /// The model's layers at this input size.
    pub summary: Summary,
}

impl Workload {
    /// Checks what was asked for, and starts the threads.
    ///
    /// # Errors
    /// Where there is no such model, it cannot take such an input, or the machine has not enough memory or cores.
    pub fn new(arguments: &WorkloadArguments) -> Result<Self> {
        let entry = models::find(&arguments.model)?;
        let input = input(entry.card, arguments)?;
        let compiled = specs::compile_card(entry.card)?;
        let summary = summary_of(&compiled, &input)?;
        let isa = Isa::chosen().map_err(|error| Error::input(error.to_string()))?;
        let threads = device::set_threads(arguments.threads)?;
        Ok(Workload { entry, batch: arguments.batch, input, precision: arguments.precision, threads, isa, summary })
    }

    /// What a result of it would be of.
    pub fn work(&self, of: &str, variant: &str) -> Work {
        Work {
            of: of.to_owned(),
            model: self.entry.card.name.to_owned(),
            batch: self.batch as u64,
            size: self.size() as u64,
            frames: self.frames().map(|frames| frames as u64),
            precision: self.precision.name().to_owned(),
            head: variant.starts_with("head"),
        }
    }

    /// Height and width.
    pub fn size(&self) -> usize {
        self.input[self.input.len() - 1]
    }

    /// Of a clip.
    pub fn frames(&self) -> Option<usize> {
        (self.entry.card.dims == 3).then(|| self.input[1])
    }

    /// Builds the model with parameters from a fixed seed.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Model>> {
        Ok((self.entry.build)(self.entry.card.classes, params.var_builder(DType::F32, &Device::Cpu))?)
    }

    /// Normal noise and random classes, as the loader lays a batch out.
    pub fn samples(&self) -> Result<Batch> {
        let [channels, spatial @ ..] = self.input.as_slice() else { unreachable!("an input has channels") };
        let shape = [&[self.batch], spatial, &[*channels]].concat();
        let mut draws = Stream::new(Key { seed: 0, stream: stream_of("bench"), step: 0, index: 0 });
        let noise: Vec<f32> = (0..shape.iter().product()).map(|_| draws.normal() as f32).collect();
        let images = channels_first(&Tensor::from_vec(noise, shape, &Device::Cpu)?)?;
        let classes = self.entry.card.classes.max(1) as u64;
        let labels = (0..self.batch).map(|_| draws.below(classes) as u32).collect();
        Ok(Batch { images, labels, targets: None, indices: (0..self.batch).collect() })
    }

    /// Refuses what needs more memory than the machine has, where each sample takes so many numbers at the least.
    ///
    /// # Errors
    /// Where that is so; says how much it would need.
    pub fn check_memory(&self, elements_of_a_sample: usize) -> Result<()> {
        let bytes = self.precision.dtype().size_in_bytes() as u64;
        let needed = bytes * (elements_of_a_sample as u64).saturating_mul(self.batch as u64);
        match available_bytes() {
            Some(available) if needed > available => Err(Error::input(format!(
                "{} needs more than {} for a batch of {} x {}, and {} are free: take a smaller --batch or --size",
                self.entry.card.name,
                human::bytes(needed),
                self.batch,
                models::size(&self.input),
                human::bytes(available),
            ))),
            _ => Ok(()),
        }
    }

    /// The layers that multiply: convolutions and linear layers.
    pub fn multiplying(&self) -> impl Iterator<Item = &Row> {
        self.summary.rows.iter().filter(|row| row.macs > 0)
    }
}

/// Channels and spatial size, the model's own where nothing was said.
fn input(card: &ModelCard, arguments: &WorkloadArguments) -> Result<Vec<usize>> {
    let mut input = card.input.to_vec();
    let (height, frames) = (input.len() - 2, arguments.frames);
    if let Some(frames) = frames {
        if card.dims != 3 {
            return Err(Error::input(format!("{} takes images, not clips: leave out --frames", card.name)));
        }
        input[1] = frames;
    }
    if let Some(size) = arguments.size {
        input[height..].fill(size);
    }
    Ok(input)
}

/// Linux's estimate of what a process can have without swapping.
fn available_bytes() -> Option<u64> {
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(kib.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
