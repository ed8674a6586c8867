//! The binary versions of CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

use super::options::CifarLabels;
use super::packed::Packed;
use crate::error::{Error, Result};
use std::path::Path;
use std::sync::Arc;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
/// The official files have at most 50,000 records of 3,074 bytes.
const MAX_FILE: u64 = 1 << 28;

/// What one of the two sets looks like on disk.
struct Layout {
    train: &'static [&'static str],
    val: &'static str,
    names: &'static str,
    classes: usize,
    /// Label bytes before the pixels, and which of them counts.
    labels: usize,
    label: usize,
}

impl Layout {
    fn of(labels: CifarLabels) -> Self {
        let cifar100 = Layout {
            train: &["train.bin"],
            val: "test.bin",
            names: "fine_label_names.txt",
            classes: 100,
            labels: 2,
            label: 1,
        };
        match labels {
            CifarLabels::Cifar10 => Layout {
                train: &[
                    "data_batch_1.bin",
                    "data_batch_2.bin",
                    "data_batch_3.bin",
                    "data_batch_4.bin",
                    "data_batch_5.bin",
                ],
                val: "test_batch.bin",
                names: "batches.meta.txt",
                classes: 10,
                labels: 1,
                label: 0,
            },
            CifarLabels::Cifar100 => cifar100,
            CifarLabels::Cifar100Coarse => {
                Layout { names: "coarse_label_names.txt", classes: 20, label: 0, ..cifar100 }
            }
        }
    }
}

pub(super) fn open(folder: &Path, labels: CifarLabels) -> Result<(Packed, Packed)> {
    let layout = Layout::of(labels);
    let classes = class_names(folder, &layout)?;
    let set = |part, files: &[&str]| -> Result<Packed> {
        let mut set = Packed {
            classes: Arc::clone(&classes),
            part,
            height: SIDE,
            width: SIDE,
            channels: 3,
            pixels: Vec::new(),
            labels: Vec::new(),
        };
        for file in files {
            let path = folder.join(file);
            read(&path, &layout, &mut set).map_err(|reason| Error::input(format!("{}: {reason}", path.display())))?;
        }
        Ok(set)
    };
    Ok((set("train", layout.train)?, set("val", &[layout.val])?))
}

/// Appends the records of a file: label bytes, then a red, a green and a blue plane.
fn read(path: &Path, layout: &Layout, set: &mut Packed) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    let record = layout.labels + 3 * PLANE;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(format!("must be a regular file of at most {MAX_FILE} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(format!("has {} bytes, which is not a whole number of {record}-byte records", bytes.len()));
    }
    for (index, record) in bytes.chunks_exact(record).enumerate() {
        let (labels, planes) = record.split_at(layout.labels);
        let label = labels[layout.label];
        if usize::from(label) >= layout.classes {
            return Err(format!(
                "label {label} of record {index} is out of range: labels are below {}",
                layout.classes
            ));
        }
        set.labels.push(label);
        set.pixels.extend((0..PLANE).flat_map(|at| [planes[at], planes[PLANE + at], planes[2 * PLANE + at]]));
    }
    Ok(())
}

/// The names beside the data; where there is no such file, the numbers.
fn class_names(folder: &Path, layout: &Layout) -> Result<Arc<[String]>> {
    let path = folder.join(layout.names);
    if !path.is_file() {
        return Ok((0..layout.classes).map(|class| class.to_string()).collect());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
    let names: Arc<[String]> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.len() != layout.classes {
        return Err(Error::input(format!("{}: names {} classes, not {}", path.display(), names.len(), layout.classes)));
    }
    Ok(names)
}
