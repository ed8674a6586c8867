//! A model with weights, ready to predict.

use crate::error::{Error, Result};
use candle_core::{DType, Device};
use std::path::Path;
use zoo::Entry;
use zoo::params::{NormPolicy, Params};
use zoo::weights::{self, Adapt, Target, WeightsError};
use zoo::{Model, ModelCard};

/// Reads a checkpoint file into a model. The number of classes is the file's.
pub(super) fn load(entry: &Entry, path: &Path, device: &Device) -> Result<Box<dyn Model>> {
    let file = weights::read(path).map_err(|error| Error::input(error.to_string()))?;
    let mut classes = entry.card.classes;
    let mut adapted = weights::adapt(file.clone(), &target(entry, classes)?, &Adapt::default());
    if let Err(mismatch) = &adapted
        && let Some(in_file) = head_size(entry.card, &mismatch.reshaped)
    {
        classes = in_file;
        adapted = weights::adapt(file, &target(entry, classes)?, &Adapt::default());
    }
    let loaded = adapted.map_err(|mismatch| {
        let error = WeightsError::Mismatch { path: path.to_path_buf(), mismatch: Box::new(mismatch) };
        Error::input(error.to_string())
    })?;
    let params = Params::new(0);
    // Constants, so that filters are kept as the kernels read them.
    params.freeze(|_| true, NormPolicy::Frozen)?;
    params.load(loaded)?;
    Ok((entry.build)(classes, params.var_builder(DType::F32, device))?)
}

fn target(entry: &Entry, classes: usize) -> Result<Target> {
    Ok(Target::of(entry.card, |vb| (entry.build)(classes, vb))?)
}

/// The file's number of classes, where its head has another shape than the model's.
fn head_size(card: &ModelCard, reshaped: &[(String, Vec<usize>, Vec<usize>, &'static str)]) -> Option<usize> {
    let weight = format!("{}.weight", card.classifier?);
    let (_, in_file, _, _) = reshaped.iter().find(|(name, ..)| *name == weight)?;
    in_file.first().copied().filter(|classes| (1..=1_000_000).contains(classes))
}
