//! `bench infer`.

use super::against::Against;
use super::measure::Effort;
use super::result::BenchResult;
use super::workload::{Workload, WorkloadArguments};
use crate::cli::Context;
use crate::error::Result;
use candle_core::Device;
use zoo::no_grad;
use zoo::params::{NormPolicy, Params};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench infer resnet34                       16 x 3 x 224 x 224
  resnet-zoo bench infer resnet50 --batch 1 --json      the latency of one image
  resnet-zoo bench infer r3d_18 --batch 1 --frames 16 --size 112
  resnet-zoo bench infer resnet50_fpn --batch 1 --size 640

JSON: one line, {bench: \"infer\", model, variant: \"infer\", precision, batch, size, frames (of clips), img_s, best_img_s,
ms, reps, rss_mib, others, steal, threads, isa, gflop_s, ceiling_pct}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    workload: WorkloadArguments,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    against: Against,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let workload = Workload::new(&arguments.workload)?;
    let peers = arguments.against.read()?;
    peers.check(&workload.work("infer", "infer"))?;
    let largest = workload.multiplying().map(|row| row.output.iter().product::<usize>()).max();
    workload.check_memory(largest.unwrap_or(0))?;
    let params = Params::new(0);
    params.freeze(|_| true, NormPolicy::Frozen)?;
    let model = workload.build(&params)?;
    let images = workload.samples()?.images;
    let headless = workload.entry.card.classifier.is_none();
    let timing = arguments.effort.measure(|| {
        no_grad(|| {
            let images = workload.precision.input(&images, &Device::Cpu)?;
            if headless {
                model.forward_features(&images, false).map(drop)
            } else {
                model.forward_t(&images, false).map(drop)
            }
        })?;
        Ok(())
    })?;
    let operations = 2 * workload.summary.macs * workload.batch as u64;
    let result = BenchResult::new("infer", "infer", &workload, &timing, operations);
    result.print(&workload, &timing, context)?;
    peers.compare(&result, context)
}
