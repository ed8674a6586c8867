//! What a run costs: parameters, multiply-accumulates, time.

use crate::error::{Error, Result};
use crate::registry::run::RunDetail;
use resnet_codegen::diagnostic::Sources;
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

/// What the stored spec says of one sample, with the spec's own number of classes.
fn macs(run: &RunDetail) -> Result<u64> {
    let wrong = |why: String| Error::input(format!("the spec of the run {} cannot be read: {why}", run.listing.id));
    let mut sources = Sources::default();
    let Some(root) = run.spec_files.first() else { return Err(wrong("it is not stored".to_owned())) };
    let file = sources.add(root.name.clone(), root.text.clone());
    let load = |path: &str| {
        let found = run.spec_files.iter().find(|file| file.name == path);
        found.map(|file| file.text.clone()).ok_or_else(|| format!("{path} is not stored with the run"))
    };
    let compiled = resnet_codegen::compile(&mut sources, file, &load);
    let compiled = compiled.map_err(|mistakes| wrong(mistakes.render(&sources)))?;
    let mut input = compiled.spec.input.clone();
    if let Some(size) = run.config.get("input").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok()) {
        // Channels, then for clips frames; height and width are the last two.
        input.iter_mut().rev().take(2).for_each(|side| *side = size);
    }
    let summary = resnet_codegen::shape::summarize(&compiled.spec, &input, compiled.spec.input_span);
    Ok(summary.map_err(|mistakes| wrong(mistakes.render(&sources)))?.macs)
}
