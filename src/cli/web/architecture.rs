//! A model's layers, as the page draws them.

use crate::error::Result;
use crate::task::compile_files;
use serde::Serialize;

/// A network at its own input size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Architecture {
    /// Channels, then the spatial size.
    pub input: Vec<usize>,
    pub params: u64,
    pub macs: u64,
    /// In the order of computation.
    pub layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Layer {
    /// `layer2.0.conv1`.
    pub path: String,
    /// `conv 3x3, 64 -> 128, stride 2`.
    pub what: String,
    /// Channels, then the spatial size.
    pub output: Vec<usize>,
    pub params: u64,
    pub macs: u64,
}

/// The network of a run's spec, as the run stored it.
///
/// # Errors
/// Where this version cannot compile it.
pub(super) fn of_files(files: &[(&str, &str)]) -> Result<Architecture> {
    let compiled = compile_files(files)?;
    let layers = compiled.summary.rows.iter().map(|row| Layer {
        path: row.path.clone(),
        what: row.layer.clone(),
        output: row.output.clone(),
        params: row.params,
        macs: row.macs,
    });
    Ok(Architecture {
        input: compiled.spec.input.clone(),
        params: compiled.summary.params,
        macs: compiled.summary.macs,
        layers: layers.collect(),
    })
}
