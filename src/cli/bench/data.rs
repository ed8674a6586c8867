//! `bench data`.

use crate::cli::Context;
use crate::data::options::{BadImage, Batchwise, LoaderOptions, Source, Split, TransformSpec};
use crate::data::{self, Data, Loader, Pipeline};
use crate::error::{Error, Result};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;
use zoo::Interpolation;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench data photos                    class folders of photos, on two loader threads
  resnet-zoo bench data photos --workers 4 --json

Each photo is decoded, a part of random size resized to SIZE x SIZE, flipped, its brightness, contrast and
saturation changed by up to 0.2, and normalised, as an experiment's training batches are. Nothing trains
meanwhile, and a first epoch is not counted.

JSON, one line: {bench, what, workers, img_s, best_img_s, jpeg_kib, batch, size, samples, reps}; img_s is the
median of `reps` epochs, jpeg_kib the mean size of a file.";

/// Epochs that are measured at least, and for how long.
const LEAST_REPS: usize = 5;
const LEAST_SECONDS: f64 = 1.0;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// Class folders of images, or folders `train` and `val` of them
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Samples in a batch
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch: usize,
    /// Height and width that images get
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    size: usize,
    /// Threads that decode and augment; 0 means the one that measures
    #[arg(long, default_value_t = 2, value_name = "N")]
    workers: usize,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let data = open(&arguments.folder)?;
    let options = LoaderOptions { batch_size: arguments.batch, workers: arguments.workers, ..LoaderOptions::default() };
    let pipeline = Pipeline::new(&transforms(arguments.size), 3)?;
    let loader = Loader::training(data.train.clone(), pipeline, Batchwise::default(), &options, 0)?;
    let mut rates = Vec::new();
    let begun = Instant::now();
    for epoch in 0.. {
        let start = Instant::now();
        let mut images = 0;
        for batch in loader.epoch(epoch, 0)? {
            images += batch?.labels.len();
        }
        // The first epoch fills the system's cache of files.
        if epoch > 0 {
            rates.push(images as f64 / start.elapsed().as_secs_f64());
        }
        if rates.len() >= LEAST_REPS && begun.elapsed().as_secs_f64() >= LEAST_SECONDS {
            break;
        }
    }
    rates.sort_by(f64::total_cmp);
    let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
    let kib = mean_kib(&arguments.folder, &data)?;
    if context.json {
        let tenths = |value: f64| (value * 10.0).round() / 10.0;
        return context.terminal.print_json_line(&json!({
            "bench": "data",
            "what": "resnet-zoo: RRC+flip+jitter+norm",
            "workers": arguments.workers,
            "img_s": tenths(median),
            "best_img_s": tenths(best),
            "jpeg_kib": tenths(kib),
            "batch": arguments.batch,
            "size": arguments.size,
            "samples": data.train.samples(),
            "reps": rates.len(),
        }));
    }
    context.terminal.print(&format!(
        "{median:.0} images/s, at best {best:.0}, with {} workers: {} files of {kib:.1} KiB on average to {size} x {size} pixels",
        arguments.workers,
        data.train.samples(),
        size = arguments.size,
    ))
}

/// The images that train, which are all but those that must validate.
fn open(folder: &Path) -> Result<Data> {
    let is_split = ["train", "val"].iter().all(|part| folder.join(part).is_dir());
    let split = if is_split { Split::Given } else { Split::Seeded { val_fraction: f64::EPSILON, seed: 0 } };
    data::open(&Source::Folder { path: folder.to_owned(), split }, BadImage::Fail)
}

fn transforms(size: usize) -> Vec<TransformSpec> {
    vec![
        TransformSpec::RandomResizedCrop {
            size,
            scale: (0.08, 1.0),
            ratio: (0.75, 4.0 / 3.0),
            interpolation: Interpolation::Bilinear,
        },
        TransformSpec::RandomHorizontalFlip { p: 0.5 },
        TransformSpec::ColorJitter { brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 0.0 },
        TransformSpec::Normalize { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] },
    ]
}

/// The mean size of the training files.
fn mean_kib(folder: &Path, data: &Data) -> Result<f64> {
    let mut bytes = 0;
    for index in 0..data.train.samples() {
        let path = folder.join(data.train.id(index));
        let metadata = path.metadata().map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
        bytes += metadata.len();
    }
    Ok(bytes as f64 / 1024.0 / data.train.samples() as f64)
}
