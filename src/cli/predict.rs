//! `predict`.

use super::table::{Align, Table};
use super::{Context, device, human, models, network, tags};
use crate::data::transform::{Pipeline, evaluation};
use crate::data::{TransformSpec, image};
use crate::error::{Error, Result};
use crate::experiment::{Experiment, Precision};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use zoo::Entry;
use zoo::ops::with_direct_convolutions;
use zoo::random::{Key, Stream};
use zoo::{Model, no_grad};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo predict resnet34 --weights a1_in1k cat.jpg dog.jpg      published weights, by their tag
  resnet-zoo predict resnet34 --weights my.safetensors cat.jpg       a local file: .safetensors or .pth
  resnet-zoo predict resnet34_ls shirt.png                           a run: its best checkpoint, transforms, classes
  resnet-zoo predict resnet34 --weights my.pth cat.jpg --json --logits

JSON: an array of {image, top: [{class, label, probability}], logits}; `label` is null where no names are known,
`logits` where --logits is not given. Images are prepared as the model's card says, or as the run's experiment says.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A model of the zoo, or a run
    #[arg(value_name = "MODEL|RUN")]
    what: String,
    /// Images: JPEG, PNG, WebP or GIF
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A checkpoint file or a weight tag; of a run, its best checkpoint where not given
    #[arg(long, value_name = "FILE|TAG")]
    weights: Option<String>,
    /// How many classes to show
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Print the logits of all classes
    #[arg(long)]
    logits: bool,
    /// A text file with one class name a line
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// CPU threads; 0 means one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

/// What predicts, and how images become its input.
struct Predictor {
    model: Box<dyn Model>,
    pipeline: Pipeline,
    labels: Option<Vec<String>>,
    precision: Precision,
    /// Whether convolutions are direct sums.
    exact: bool,
    device: Device,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let device = device::choose(&arguments.device)?;
    device::set_threads(arguments.threads)?;
    let mut predictor = match zoo::models::find(&arguments.what) {
        Some(entry) => of_model(entry, arguments, device)?,
        None => of_run(arguments, device, context)?,
    };
    if let Some(path) = &arguments.classes {
        predictor.labels = Some(read_labels(path)?);
    }
    let mut results = Vec::new();
    for path in &arguments.images {
        let logits = predictor.logits(path)?;
        if let Some(labels) = &predictor.labels
            && labels.len() != logits.len()
        {
            let (named, classes) = (labels.len(), logits.len());
            return Err(Error::input(format!("there are {named} class names, and the model has {classes} classes")));
        }
        let top = predictor.top(&logits, arguments.top as usize);
        let logits = if arguments.logits { json!(logits) } else { Value::Null };
        results.push(json!({"image": path.display().to_string(), "top": top, "logits": logits}));
    }
    if context.json {
        return context.terminal.print_json(&results);
    }
    results.iter().try_for_each(|result| print(result, context))
}

fn of_model(entry: &Entry, arguments: &Arguments, device: Device) -> Result<Predictor> {
    let Some(weights) = &arguments.weights else {
        let tags: Vec<&str> = entry.card.weights.iter().map(|weights| weights.tag).collect();
        let tags = if tags.is_empty() { String::new() } else { format!(", or a tag: {}", tags.join(", ")) };
        return Err(Error::input(format!("{} needs weights: pass --weights FILE{tags}", entry.card.name)));
    };
    let (path, preprocess) = match tags::find(entry.card, weights) {
        Some(tag) => (tags::fetch(tag)?.path, tag.preprocess),
        None => (tags::file(entry.card, weights)?, None),
    };
    let specs = evaluation(&preprocess.unwrap_or(entry.card.preprocess));
    Predictor::new(entry, &path, &specs, None, Precision::default(), device)
}

fn of_run(arguments: &Arguments, device: Device, context: &mut Context) -> Result<Predictor> {
    if !context.location.may_exist() {
        return Err(models::find(&arguments.what).map(|_| ()).expect_err("it was no model a moment ago"));
    }
    let mut reader = context.reader()?;
    let listing = reader.find(&arguments.what)?;
    let detail = reader.detail(listing)?;
    let entry = models::find(&detail.listing.model)?;
    let path = match &arguments.weights {
        Some(path) => tags::file(entry.card, path)?,
        None => {
            let blobs = context.location.blobs();
            blobs.verified(&detail.best_checkpoint()?.weights_sha256)?
        }
    };
    let experiment = Experiment::from_canonical(&detail.canonical)?;
    let (specs, precision) = (experiment.data_options().val, experiment.precision);
    let predictor = Predictor::new(entry, &path, &specs, Some(detail.classes), precision, device)?;
    Ok(Predictor { exact: experiment.exact, ..predictor })
}

impl Predictor {
    fn new(
        entry: &Entry,
        weights: &Path,
        specs: &[TransformSpec],
        labels: Option<Vec<String>>,
        precision: Precision,
        device: Device,
    ) -> Result<Self> {
        if entry.card.dims != 2 {
            return Err(Error::input(format!("{} takes clips, and predict takes images", entry.card.name)));
        }
        if entry.card.classifier.is_none() {
            let name = entry.card.name;
            return Err(Error::input(format!("{name} is a backbone without a classifier; choose another model")));
        }
        let pipeline = Pipeline::new(specs, entry.card.input[0])?;
        let model = network::load(entry, weights, &device)?;
        Ok(Predictor { model, pipeline, labels, precision, exact: false, device })
    }

    /// The logits of one image.
    fn logits(&self, path: &Path) -> Result<Vec<f32>> {
        // Evaluation draws nothing.
        let mut draws = Stream::new(Key { seed: 0, stream: 0, step: 0, index: 0 });
        let frames = self.pipeline.augment(vec![image::read(path)?], &mut draws)?;
        let (height, width, channels) = (frames[0].height, frames[0].width, self.pipeline.channels());
        let mut values = vec![0f32; height * width * channels];
        self.pipeline.write(&frames, &mut draws, &mut values);
        let pixels = Tensor::from_vec(values, (1, height, width, channels), &Device::Cpu)?;
        let input = self.precision.input(&pixels.permute((0, 3, 1, 2))?, &self.device)?;
        let logits = with_direct_convolutions(self.exact, || no_grad(|| self.model.forward_t(&input, false)))?;
        Ok(logits.squeeze(0)?.to_vec1()?)
    }

    fn top(&self, logits: &[f32], k: usize) -> Vec<Value> {
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit - greatest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let entry = |class: usize| {
            let label = self.labels.as_ref().and_then(|labels| labels.get(class));
            json!({"class": class, "label": label, "probability": weights[class] / sum})
        };
        order.into_iter().take(k).map(entry).collect()
    }
}

fn read_labels(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::input(format!("cannot read the class names {}: {error}", path.display())))?;
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

fn print(result: &Value, context: &mut Context) -> Result<()> {
    context.terminal.heading(result["image"].as_str().unwrap_or_default())?;
    let mut table = Table::new(
        &[("class", Align::Right), ("label", Align::Left), ("probability", Align::Right)],
        &context.terminal,
    );
    for entry in result["top"].as_array().into_iter().flatten() {
        table.row([
            entry["class"].to_string(),
            entry["label"].as_str().unwrap_or("-").to_owned(),
            human::percent(entry["probability"].as_f64().unwrap_or(f64::NAN)),
        ]);
    }
    context.terminal.print(&table.render())?;
    match &result["logits"] {
        Value::Null => Ok(()),
        logits => context.terminal.print(&format!("logits: {logits}")),
    }
}
