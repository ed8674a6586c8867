//! `bench ops`: a model's layers one by one.

use super::ceiling;
use super::measure::{Effort, Timing, seconds};
use super::op_result::{COLUMNS, OpResult, words};
use super::result::round;
use super::workload::{Workload, WorkloadArguments};
use crate::cli::Context;
use crate::cli::table::Table;
use crate::error::Result;
use candle_core::{DType, Device, Tensor, Var};
use resnet_codegen::shape::{Computation, Row, Windows};
use serde_json::json;
use std::cell::RefCell;
use std::time::Instant;
use zoo::ops::profile::{self, Pass};
use zoo::ops::{self, AvgPool, Epilogue, Geometry, MaxPool};
use zoo::random::{Key, Stream, stream_of};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo bench ops resnet34                                  convolutions, norms and pools at 16 x 3 x 224 x 224
  resnet-zoo bench ops resnet50 --only conv --json | jq -c '[.layer, .variant, .gflop_s]'
  resnet-zoo bench ops resnet18 --cold                           as a training step finds its maps: not in the caches
  RESNET_ZOO_ISA=avx2 resnet-zoo bench ops resnet34 --only conv

Layers that compute the same are measured once. Convolutions are measured in GFLOP/s (two operations a
multiply-accumulate of the direct algorithm), norms and pools in GB/s (the bytes that they read and write at the
least: a training norm reads x twice forward, and x and the gradient twice backward). The part of the ceiling is that
of multiplying in registers, or of copying main memory: what the caches hold can pass it. A training step finds little
in the caches: `--cold` measures that.
JSON: first {bench: \"ceiling\", isa, threads, gflop_s, copy_gb_s}; then one line a measurement, {bench: \"ops\",
model, variant, precision, batch, size, layer, input, paths, count, cold, ms, best_ms, reps, gflop_s or gb_s,
ceiling_pct, others, steal, threads, isa}; `variant` is one of conv_forward, conv_data_gradient, conv_weight_gradient,
norm_forward, norm_backward, pool_forward, pool_backward.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    workload: WorkloadArguments,
    /// Only these
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Option<Kind>,
    /// Repetitions of each measurement at the least
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    reps: u32,
    /// Seconds of repetitions of each measurement at the least
    #[arg(long, default_value_t = 0.2, value_name = "S", value_parser = seconds)]
    seconds: f64,
    /// Before each repetition, fill the caches with something else, as the rest of a training step does
    #[arg(long)]
    cold: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Convolutions
    Conv,
    /// Norms
    Norm,
    /// Pools
    Pool,
}

pub(super) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let workload = Workload::new(&arguments.workload)?;
    let layers = distinct(&workload, arguments.only);
    let largest = layers.iter().map(|layer| layer.elements()).max();
    workload.check_memory(largest.unwrap_or(0))?;
    let bench = Bench {
        effort: Effort { reps: arguments.reps, seconds: arguments.seconds, warmup: 1 },
        gflop_s: ceiling::gflop_s(workload.isa, workload.precision),
        copy_gb_s: ceiling::copy_gb_s(),
        workload: &workload,
        others: RefCell::new(vec![0; if arguments.cold { OTHERS } else { 0 }]),
    };
    let mut table = Table::new(&COLUMNS, &context.terminal);
    if context.json {
        context.terminal.print_json_line(&bench.ceiling())?;
    }
    let mut totals: Vec<(&str, f64)> = Vec::new();
    for layer in &layers {
        for result in bench.layer(layer)? {
            match totals.iter_mut().find(|(variant, _)| *variant == result.variant) {
                Some((_, total)) => *total += result.all_ms(),
                None => totals.push((result.variant, result.all_ms())),
            }
            match context.json {
                true => context.terminal.print_json_line(&result)?,
                false => table.row(result.cells()),
            }
        }
    }
    if context.json {
        return Ok(());
    }
    context.terminal.print(&table.render())?;
    let totals: Vec<String> = totals.iter().map(|(variant, ms)| format!("{} {ms:.1} ms", words(variant))).collect();
    context.terminal.print(&format!("\nall layers: {}", totals.join(", ")))?;
    context.terminal.print(&format!(
        "ceiling: {:.0} GFLOP/s with {} and {:.1} GB/s on {} threads",
        bench.gflop_s,
        workload.isa.name(),
        bench.copy_gb_s,
        workload.threads
    ))
}

/// Layers that compute the same.
struct Layer<'a> {
    row: &'a Row,
    paths: Vec<&'a str>,
}

impl Layer<'_> {
    /// Numbers that a sample's input and output have together.
    fn elements(&self) -> usize {
        let input = match &self.row.computation {
            Computation::Conv { windows, .. } | Computation::MaxPool(windows) | Computation::AvgPool(windows) => {
                &windows.input
            }
            Computation::Norm(_) | Computation::Other => &self.row.output,
        };
        input.iter().product::<usize>() + self.row.output.iter().product::<usize>()
    }
}

fn distinct(workload: &Workload, only: Option<Kind>) -> Vec<Layer<'_>> {
    let mut layers: Vec<Layer> = Vec::new();
    for row in &workload.summary.rows {
        let kind = match row.computation {
            Computation::Conv { .. } => Kind::Conv,
            Computation::Norm(_) => Kind::Norm,
            Computation::MaxPool(_) | Computation::AvgPool(_) => Kind::Pool,
            Computation::Other => continue,
        };
        if only.is_some_and(|only| only != kind) {
            continue;
        }
        let same = |layer: &&mut Layer| layer.row.computation == row.computation && layer.row.output == row.output;
        match layers.iter_mut().find(same) {
            Some(layer) => layer.paths.push(&row.path),
            None => layers.push(Layer { row, paths: vec![&row.path] }),
        }
    }
    layers
}

/// What all measurements share.
struct Bench<'a> {
    workload: &'a Workload,
    effort: Effort,
    gflop_s: f64,
    copy_gb_s: f64,
    /// What is in the caches when a repetition begins, where it is not what the one before left there.
    others: RefCell<Vec<u8>>,
}

/// Bytes that no cache holds besides what is measured.
const OTHERS: usize = 256 << 20;

/// What a layer does, and how much.
enum Work {
    Operations(u64),
    Bytes(u64),
}

impl Bench<'_> {
    fn ceiling(&self) -> serde_json::Value {
        json!({
            "bench": "ceiling", "isa": self.workload.isa.name(), "threads": self.workload.threads,
            "gflop_s": round(self.gflop_s), "copy_gb_s": round(self.copy_gb_s),
        })
    }

    fn layer<'a>(&self, layer: &'a Layer<'a>) -> Result<Vec<OpResult<'a>>> {
        match &layer.row.computation {
            Computation::Conv { windows, groups } => match windows.kernel.len() {
                3 => self.conv::<3>(layer, windows, *groups),
                _ => self.conv::<2>(layer, windows, *groups),
            },
            Computation::Norm(groups) => self.norm(layer, *groups),
            Computation::MaxPool(windows) => match windows.kernel.len() {
                3 => self.pool(layer, windows, |x| ops::max_pool(x, &max_pool::<3>(windows))),
                _ => self.pool(layer, windows, |x| ops::max_pool(x, &max_pool::<2>(windows))),
            },
            Computation::AvgPool(windows) => match windows.kernel.len() {
                3 => self.pool(layer, windows, |x| ops::avg_pool(x, &avg_pool::<3>(windows))),
                _ => self.pool(layer, windows, |x| ops::avg_pool(x, &avg_pool::<2>(windows))),
            },
            Computation::Other => Ok(Vec::new()),
        }
    }

    fn conv<'a, const D: usize>(
        &self,
        layer: &'a Layer<'a>,
        windows: &'a Windows,
        groups: usize,
    ) -> Result<Vec<OpResult<'a>>> {
        let geometry = Geometry {
            stride: axes::<D>(&windows.stride),
            padding: axes::<D>(&windows.padding),
            dilation: axes::<D>(&windows.dilation),
            groups,
        };
        let x = self.noise(&windows.input)?;
        let (c_in, c_out) = (windows.input[0], layer.row.output[0]);
        let weight = noise(&[&[c_out, c_in / groups], windows.kernel.as_slice()].concat(), DType::F32)?;
        let work = || Work::Operations(2 * layer.row.macs * self.workload.batch as u64);
        let forward = self.time(|| ops::conv(&x, &weight, &geometry).map(drop))?;
        let mut results = vec![self.result("conv_forward", layer, &windows.input, &forward, work())];
        // The images want no gradient.
        if layer.paths[0] != self.workload.entry.card.first_conv {
            let y = ops::conv(Var::from_tensor(&x)?.as_tensor(), &weight, &geometry)?;
            let timing = self.time_backward(&y, Pass::DataGradient)?;
            results.push(self.result("conv_data_gradient", layer, &windows.input, &timing, work()));
        }
        let y = ops::conv(&x, Var::from_tensor(&weight)?.as_tensor(), &geometry)?;
        let timing = self.time_backward(&y, Pass::WeightGradient)?;
        results.push(self.result("conv_weight_gradient", layer, &windows.input, &timing, work()));
        Ok(results)
    }

    fn norm<'a>(&self, layer: &'a Layer<'a>, groups: Option<usize>) -> Result<Vec<OpResult<'a>>> {
        let shape = &layer.row.output;
        let x = Var::from_tensor(&self.noise(shape)?)?;
        let affine = Tensor::ones((2, shape[0]), DType::F32, &Device::Cpu)?;
        let epilogue = Epilogue { residual: None, relu: true };
        let norm = |x: &Tensor| match groups {
            Some(groups) => ops::group_norm(x, &affine, groups, 1e-5, epilogue),
            None => ops::batch_norm(x, &affine, 1e-5, epilogue).map(|(y, _)| y),
        };
        let forward = self.time(|| norm(&x.as_detached_tensor()).map(drop))?;
        let y = norm(x.as_tensor())?;
        let backward = self.time_backward(&y, Pass::Backward)?;
        let bytes = |passes| Work::Bytes(passes * self.bytes(shape));
        Ok(vec![
            self.result("norm_forward", layer, shape, &forward, bytes(3)),
            self.result("norm_backward", layer, shape, &backward, bytes(5)),
        ])
    }

    fn pool<'a>(
        &self,
        layer: &'a Layer<'a>,
        windows: &'a Windows,
        pool: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Vec<OpResult<'a>>> {
        let x = Var::from_tensor(&self.noise(&windows.input)?)?;
        let forward = self.time(|| pool(&x.as_detached_tensor()).map(drop))?;
        let y = pool(x.as_tensor())?;
        let backward = self.time_backward(&y, Pass::Backward)?;
        let bytes = || Work::Bytes(self.bytes(&windows.input) + self.bytes(&layer.row.output));
        Ok(vec![
            self.result("pool_forward", layer, &windows.input, &forward, bytes()),
            self.result("pool_backward", layer, &windows.input, &backward, bytes()),
        ])
    }

    fn time(&self, op: impl Fn() -> candle_core::Result<()>) -> Result<Timing> {
        self.effort.measure_part(|| {
            self.touch_others();
            let start = Instant::now();
            op()?;
            Ok(start.elapsed())
        })
    }

    fn touch_others(&self) {
        self.others.borrow_mut().iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    }

    /// The derivative of the op that made `y`, without what candle's graph does around it.
    fn time_backward(&self, y: &Tensor, pass: Pass) -> Result<Timing> {
        self.effort.measure_part(|| {
            self.touch_others();
            let (gradients, parts) = profile::collect(|| zoo::grad::backward(y));
            drop(gradients?);
            Ok(parts.iter().filter(|part| part.pass == pass).map(|part| part.time).sum())
        })
    }

    /// A batch of noise for a layer whose input is `[channels, spatial..]`, channels last.
    fn noise(&self, input: &[usize]) -> Result<Tensor> {
        noise(&[&[self.workload.batch], &input[1..], &input[..1]].concat(), self.workload.precision.dtype())
    }

    /// Of a batch.
    fn bytes(&self, shape: &[usize]) -> u64 {
        (self.workload.batch * shape.iter().product::<usize>() * self.workload.precision.dtype().size_in_bytes()) as u64
    }

    fn result<'a>(
        &self,
        variant: &'static str,
        layer: &'a Layer<'a>,
        input: &'a [usize],
        timing: &Timing,
        work: Work,
    ) -> OpResult<'a> {
        let (gflop_s, gb_s, part) = match work {
            Work::Operations(operations) => {
                let rate = operations as f64 / timing.median / 1e9;
                (Some(round(rate)), None, rate / self.gflop_s)
            }
            Work::Bytes(bytes) => {
                let rate = bytes as f64 / timing.median / 1e9;
                (None, Some(round(rate)), rate / self.copy_gb_s)
            }
        };
        OpResult {
            bench: "ops",
            model: self.workload.entry.card.name,
            variant,
            precision: self.workload.precision,
            batch: self.workload.batch,
            size: self.workload.size(),
            layer: &layer.row.layer,
            input,
            paths: &layer.paths,
            count: layer.paths.len(),
            cold: !self.others.borrow().is_empty(),
            ms: timing.median * 1e3,
            best_ms: timing.best * 1e3,
            reps: timing.reps,
            gflop_s,
            gb_s,
            ceiling_pct: 100. * part,
            others: timing.noise.map(|noise| noise.others),
            steal: timing.noise.map(|noise| noise.steal),
            threads: self.workload.threads,
            isa: self.workload.isa.name(),
        }
    }
}

fn axes<const D: usize>(values: &[usize]) -> [usize; D] {
    values.try_into().expect("a spec's windows have one number an axis")
}

fn max_pool<const D: usize>(windows: &Windows) -> MaxPool<D> {
    MaxPool { kernel: axes(&windows.kernel), stride: axes(&windows.stride), padding: axes(&windows.padding) }
}

fn avg_pool<const D: usize>(windows: &Windows) -> AvgPool<D> {
    let MaxPool { kernel, stride, padding } = max_pool(windows);
    AvgPool { kernel, stride, padding, ceil_mode: true, count_include_pad: false }
}

/// Normal draws.
fn noise(shape: &[usize], dtype: DType) -> Result<Tensor> {
    let mut draws = Stream::new(Key { seed: 0, stream: stream_of("bench ops"), step: 0, index: 0 });
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draws.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}
