//! `bench`: how fast this machine is at what the other commands do.

mod against;
mod ceiling;
mod corpus;
mod data;
mod infer;
mod measure;
mod op_result;
mod ops;
mod registry;
mod result;
mod startup;
mod train;
mod workload;

use super::Context;
use crate::error::Result;
use clap::Subcommand;

pub(super) const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench train resnet34                      training steps on synthetic batches of 16
  resnet-zoo bench infer resnet50 --batch 1 --json     one JSON line, with the keys of the scripts in benches/peers
  resnet-zoo bench startup resnet34 cat.jpg            how long a process takes to classify an image
  resnet-zoo bench ops resnet34                        which layer, which pass falls short of the ceiling
  resnet-zoo bench data photos --workers 2             batches of the photos in class folders
  resnet-zoo bench registry --runs 1000                how fast runs are written, found and compared
  resnet-zoo bench compare ours.jsonl --against torch.jsonl

But for `data` and `startup`, batches are synthetic. Nothing is recorded in your registry. Where a machine did other
work meanwhile, a warning says so.";

/// What is measured.
#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Training steps: forward, smoothed cross-entropy, backward, AdamW
    Train(train::Arguments),
    /// Forward passes without a graph
    Infer(infer::Arguments),
    /// From the start of a process to the classes of an image
    Startup(startup::Arguments),
    /// Convolutions, norms and pools of a model one by one, beside what the machine can do at most
    Ops(ops::Arguments),
    /// Training batches of image files: decode, crop, resize, flip, jitter, normalise
    Data(data::Arguments),
    /// The registry: log, search, read and compare runs that are made up
    Registry(registry::Arguments),
    /// Results in files beside those of other frameworks
    Compare(against::Arguments),
}

pub(super) fn run(bench: &Bench, context: &mut Context) -> Result<()> {
    match bench {
        Bench::Train(arguments) => train::run(arguments, context),
        Bench::Infer(arguments) => infer::run(arguments, context),
        Bench::Startup(arguments) => startup::run(arguments, context),
        Bench::Ops(arguments) => ops::run(arguments, context),
        Bench::Data(arguments) => data::run(arguments, context),
        Bench::Registry(arguments) => registry::run(arguments, context),
        Bench::Compare(arguments) => against::run(arguments, context),
    }
}
