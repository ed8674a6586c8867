//! What a run costs: parameters, multiply-accumulates, time.

use crate::error::{Error, Result};
use crate::registry::run::RunDetail;
use crate::task;
use serde_json::Value;

/// A cost to set against a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Cost {
    /// The model's parameters
    Params,
    /// Multiply-accumulates of one sample at the experiment's input size
    Macs,
    /// Seconds that processes worked on the run
    Time,
}

impl Cost {
    /// As JSON and tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Cost::Params => "params",
            Cost::Macs => "macs",
            Cost::Time => "seconds",
        }
    }

    /// That of a run; `None` of one that has not begun.
    ///
    /// # Errors
    /// Where this version cannot read the run's spec any more.
    pub fn of(self, run: &RunDetail) -> Result<Option<f64>> {
        Ok(match self {
            Cost::Params => run.listing.plan.as_ref().and_then(|plan| plan.get("params")).and_then(Value::as_f64),
            Cost::Macs => Some(macs(run)? as f64),
            Cost::Time => Some(run.listing.seconds),
        })
    }
}

/// What was recorded, or else what the stored spec says.
fn macs(run: &RunDetail) -> Result<u64> {
    if let Some(macs) = run.listing.plan.as_ref().and_then(|plan| plan.get("macs")?.as_u64()) {
        return Ok(macs);
    }
    let compiled = task::compile_files(&run.spec_texts());
    let summary = compiled.and_then(|compiled| match run.input() {
        Some(side) => task::summary_at(&compiled, side),
        None => Ok(compiled.summary),
    });
    let summary = summary.map_err(|why| Error::input(format!("the spec of the run {}: {why}", run.listing.id)))?;
    Ok(summary.macs)
}
