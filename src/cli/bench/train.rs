//! `bench train`.

use super::against::Against;
use super::measure::Effort;
use super::result::BenchResult;
use super::workload::{Workload, WorkloadArguments};
use crate::cli::Context;
use crate::error::{Error, Result};
use crate::experiment::{AdamWOptions, FreezeOptions, OptimizerOptions};
use crate::task::{freeze, loss};
use crate::train::optimizer::{Optimizer, Parameter};
use crate::train::step::StepOptions;
use crate::train::train_step;
use candle_core::Device;
use clap::ValueEnum;
use zoo::grad::checkpoint_stages;
use zoo::params::{NormPolicy, Params};
use zoo::random::ForwardKey;

const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench train resnet34                               16 x 3 x 224 x 224
  resnet-zoo bench train resnet34 --precision bf16              activations and gradients in bf16
  resnet-zoo bench train resnet18 --batch 64 --size 64 --json
  resnet-zoo bench train r3d_18 --batch 2 --frames 16 --size 112
  resnet-zoo bench train resnet34 --batch 32 --freeze backbone  only the classifier learns
  resnet-zoo bench train resnet50 --grad-checkpointing          less memory, and the same numbers
  resnet-zoo bench train resnet34 --against torch.jsonl         beside what others reach, as `bench compare`

A step is what `run` does with a batch that is at hand: forward, cross-entropy with label smoothing 0.1, backward, AdamW
with a learning rate of 0.001 and a weight decay of 0.01.
JSON: one line, {bench: \"train\", model, variant, precision, batch, size, frames (of clips), img_s, best_img_s, ms, reps,
rss_mib, others, steal, threads, isa, gflop_s, ceiling_pct}; `variant` is \"train\", \"grad_checkpointing\", or \"head\"
with a frozen backbone.";

const LR: f64 = 1e-3;
const LABEL_SMOOTHING: f64 = 0.1;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    workload: WorkloadArguments,
    /// What is not trained
    #[arg(long, value_enum, value_name = "WHAT")]
    freeze: Option<Freeze>,
    /// Compute what is in a stage again in the backward pass instead of keeping it
    #[arg(long, conflicts_with = "freeze")]
    grad_checkpointing: bool,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    against: Against,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Freeze {
    /// Everything but the classifier; its norms use their running statistics
    Backbone,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let workload = Workload::new(&arguments.workload)?;
    let card = workload.entry.card;
    let Some(classifier) = card.classifier else {
        return Err(Error::input(format!(
            "{} has no classifier, so its training has no loss: measure `bench infer {}`, or train another model",
            card.name, card.name
        )));
    };
    let variant = match (arguments.freeze, arguments.grad_checkpointing) {
        (Some(Freeze::Backbone), _) => "head",
        (None, true) => "grad_checkpointing",
        (None, false) => "train",
    };
    let peers = arguments.against.read()?;
    peers.check(&workload.work("train", variant))?;
    let params = Params::new(0);
    if arguments.freeze == Some(Freeze::Backbone) {
        let options = FreezeOptions { backbone: true, stages: None, names: Vec::new(), batch_norm: NormPolicy::Frozen };
        freeze(&params, &options, Some(classifier))?;
    } else {
        // The backward pass needs the output of every convolution again: with checkpoints those of a stage at a time.
        let outputs = workload.multiplying().map(|row| row.output.iter().product::<usize>());
        workload.check_memory(if arguments.grad_checkpointing { outputs.max().unwrap_or(0) } else { outputs.sum() })?;
    }
    let model = workload.build(&params)?;
    let batches = [workload.samples()?];
    let mut optimizer = optimizer(&params);
    let options = StepOptions { lr: LR, clip_norm: None, forward_key: ForwardKey::default() };
    let timing = arguments.effort.measure(|| {
        let loss = |batch: &_| {
            let loss = || loss(model.as_ref(), batch, LABEL_SMOOTHING, workload.precision, &Device::Cpu);
            if arguments.grad_checkpointing { checkpoint_stages(loss) } else { loss() }
        };
        let report = train_step(&mut optimizer, &batches, loss, &options, None)?;
        // A step that was not taken takes less time.
        if report.is_finite() { Ok(()) } else { Err(Error::failed(format!("{}: the loss is not finite", card.name))) }
    })?;
    let operations = match arguments.freeze {
        None => operations(&workload),
        Some(Freeze::Backbone) => head_operations(&workload, classifier),
    };
    let result = BenchResult::new("train", variant, &workload, &timing, operations);
    result.print(&workload, &timing, context)?;
    peers.compare(&result, context)
}

fn optimizer(params: &Params) -> Optimizer {
    let options =
        AdamWOptions { lr: LR, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, decay_norm_and_bias: true };
    let parameters = params.trainable().into_iter();
    let parameters = parameters.map(|(name, var)| Parameter { name, var, lr_scale: 1., decays: true });
    Optimizer::new(OptimizerOptions::AdamW(options), parameters.collect())
}

/// Of a step: a multiplication and an addition each forward, for the gradient of the weights, and for that of the input,
/// which the first convolution does not compute.
fn operations(workload: &Workload) -> u64 {
    let first: u64 = workload.multiplying().take(1).map(|row| row.macs).sum();
    2 * (3 * workload.summary.macs - first) * workload.batch as u64
}

/// Of a step that stops at the classifier.
fn head_operations(workload: &Workload, classifier: &str) -> u64 {
    let head: u64 = workload.multiplying().filter(|row| row.path == classifier).map(|row| row.macs).sum();
    2 * (workload.summary.macs + head) * workload.batch as u64
}
