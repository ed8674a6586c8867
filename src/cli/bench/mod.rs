//! `bench`: how fast this machine is at what the other commands do.

mod ceiling;
mod infer;
mod measure;
mod result;
mod train;
mod workload;

use super::Context;
use crate::error::Result;
use clap::Subcommand;

pub(super) const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench train resnet34                      training steps on synthetic batches of 16
  resnet-zoo bench infer resnet50 --batch 1 --json     one JSON line, with the keys of the scripts in benches/peers

Nothing is read from a disk and nothing is recorded. A machine that does other work meanwhile is told of.";

/// What is measured.
#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Training steps: forward, smoothed cross-entropy, backward, AdamW
    Train(train::Arguments),
    /// Forward passes without a graph
    Infer(infer::Arguments),
}

pub(super) fn run(bench: &Bench, context: &mut Context) -> Result<()> {
    match bench {
        Bench::Train(arguments) => train::run(arguments, context),
        Bench::Infer(arguments) => infer::run(arguments, context),
    }
}
