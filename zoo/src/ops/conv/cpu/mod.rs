//! The engine for f32 and bf16 on the CPU: gather the windows of a block of positions into a small panel, multiply
//! it with packed weights in a register tile. Three passes, one to three spatial dimensions; two are three
//! with a depth of 1. Kernels of 3x3 with stride 1 go through `winograd` where that pays.
//!
//! Positions are split over tasks, a reduction never is, except over fixed ranges of pixels in the weight
//! gradient, whose sums are added in a fixed order: any number of threads gives the same bits.

#[cfg(target_arch = "x86_64")]
mod amx;
mod depthwise;
mod filters;
mod finish;
mod observed;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod panel;
mod pass;
mod round;
mod tile;
mod walk;
mod weight_gradient;
mod winograd;

use super::Problem;
use crate::ops::Isa;
use crate::ops::parallel::{Disjoint, output};
use candle_core::{DType, Result};
pub use filters::KeptFilters;
pub(super) use filters::Weight;
pub(crate) use filters::{FiltersOf, forget_kept_filters};
pub(super) use finish::Finish;
pub(super) use observed::Observed;
use pack::Pass;
pub(super) use panel::Map;
use std::ops::Range;
use walk::Walk;
use winograd::Winograd;

/// `y[N, .., O]` from `x[N, .., C]` and the weight `[O, C / G, ..]`. It is `precise` where gradients depend on it: the ReLU behind it
/// lets a small error change a gradient as a whole.
pub(super) fn forward<N: Map>(
    isa: Isa,
    problem: &Problem,
    x: &[N],
    weight: Weight,
    finish: Option<Finish<N>>,
    observed: Option<&Observed>,
    precise: bool,
) -> Result<Vec<N>> {
    let isa = problem.isa::<N>(isa, precise);
    let len = problem.batch * problem.output.iter().product::<usize>() * problem.out_channels;
    // SAFETY: the walk visits every output position, and so do Winograd's tiles; both passes write all channels of
    // those that they visit.
    unsafe {
        output(len, |target| {
            let operands = Operands { source: x, weight, finish, target, observed };
            match Winograd::forward(isa, problem, weight.kept.is_some()) {
                Some(winograd) => winograd_pass(isa, problem, Pass::Forward, &winograd, operands),
                None => pass(isa, problem, Pass::Forward, &Walk::forward(problem), operands),
            }
        })
    }
}

/// Whether a pass of it takes Winograd's algorithm.
#[cfg(test)]
pub(super) fn by_winograd(isa: Isa, problem: &Problem) -> bool {
    Winograd::forward(isa, problem, false).is_some() || Winograd::data_gradient(isa, problem).is_some()
}

/// Whether a weight gradient with AMX gathers whole lines.
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) fn by_lines<N: Map>(problem: &Problem) -> bool {
    amx::weight_gradient::by_lines::<N, N::Tiled>(&Walk::forward(problem))
}

/// `dx[N, .., C]` from `dy[N, .., O]` and the weight, plus what `others` gave for it.
pub(super) fn data_gradient<N: Map>(
    isa: Isa,
    problem: &Problem,
    dy: &[N],
    weight: &[f32],
    others: Option<&[N]>,
) -> Result<Vec<N>> {
    let isa = problem.isa::<N>(isa, false);
    let len = problem.batch * problem.input.iter().product::<usize>() * problem.channels;
    if let Some(others) = others {
        assert!(others.len() == len, "a gradient has as many numbers as what it is of");
    }
    let (ones, zeros) = (vec![1.; problem.channels], vec![0.; problem.channels]);
    let finish = others.map(|others| Finish { scale: &ones, shift: &zeros, residual: Some(others), relu: false });
    let write = |target: Disjoint<N>| {
        let operands = Operands { source: dy, weight: Weight::new(weight), finish, target, observed: None };
        if let Some(winograd) = Winograd::data_gradient(isa, problem) {
            return winograd_pass(isa, problem, Pass::DataGradient, &winograd, operands);
        }
        for walk in Walk::data_gradient(problem) {
            pass(isa, problem, Pass::DataGradient, &walk, operands);
        }
    };
    // SAFETY: the classes of input positions modulo the stride, one a walk, are all input positions, and so are
    // those under Winograd's tiles.
    unsafe { output(len, write) }
}

/// `dw[O, C / G, ..]` from `x` and `dy`.
pub(super) fn weight_gradient<N: Map>(isa: Isa, problem: &Problem, x: &[N], dy: &[N]) -> Result<Vec<f32>> {
    let isa = problem.isa::<N>(isa, false);
    let walk = Walk::forward(problem);
    let len = problem.out_channels * problem.group_channels() * problem.taps();
    // SAFETY: each of them writes every filter.
    unsafe {
        output(len, |dw| match (problem.is_depthwise(), Winograd::forward(isa, problem, false)) {
            (true, _) => depthwise::weight_gradient(isa, problem, &walk, x, dy, dw),
            (false, Some(winograd)) => match isa {
                Isa::Avx512Bf16 => winograd::weight_gradient::dense::<N, N::Pairs>(isa, &winograd, x, dy, dw),
                _ => winograd::weight_gradient::dense::<N, N::Single>(isa, &winograd, x, dy, dw),
            },
            (false, None) => match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Amx => amx::weight_gradient::dense::<N, N::Tiled>(isa, problem, &walk, x, dy, dw),
                Isa::Avx512Bf16 => weight_gradient::dense::<N, N::Pairs>(isa, problem, &walk, x, dy, dw),
                _ => weight_gradient::dense::<N, N::Single>(isa, problem, &walk, x, dy, dw),
            },
        })
    }
}

/// What a pass reads, and where it writes.
#[derive(Clone, Copy)]
struct Operands<'a, N> {
    source: &'a [N],
    weight: Weight<'a>,
    finish: Option<Finish<'a, N>>,
    target: Disjoint<'a, N>,
    /// Who wants the moments of what is written.
    observed: Option<&'a Observed>,
}

/// Writes all channels of all targets.
fn winograd_pass<N: Map>(isa: Isa, problem: &Problem, pass: Pass, winograd: &Winograd, operands: Operands<N>) {
    match isa {
        Isa::Avx512Bf16 => winograd::pass::<N, N::Pairs>(isa, problem, pass, winograd, operands),
        _ => winograd::pass::<N, N::Single>(isa, problem, pass, winograd, operands),
    }
}

/// Writes all channels of the positions that `walk` visits.
fn pass<N: Map>(isa: Isa, problem: &Problem, pass: Pass, walk: &Walk, operands: Operands<N>) {
    match (problem.is_depthwise(), isa) {
        (true, _) => depthwise::pass(isa, problem, walk, operands),
        #[cfg(target_arch = "x86_64")]
        (false, Isa::Amx) => amx::pass::<N, N::Tiled>(isa, problem, pass, walk, operands),
        (false, Isa::Avx512Bf16) => pass::dense::<N, N::Pairs>(isa, problem, pass, walk, operands),
        (false, _) => pass::dense::<N, N::Single>(isa, problem, pass, walk, operands),
    }
}

impl Problem {
    /// What it is computed with where there is `isa`: AMX makes two parts of a number of f32, which is neither
    /// [`direct`](Self::direct) nor `precise`.
    fn isa<N: Map>(&self, isa: Isa, precise: bool) -> Isa {
        match isa {
            Isa::Amx if N::DTYPE == DType::F32 && (precise || self.direct) => Isa::Avx512Bf16,
            _ => isa,
        }
    }

    /// Whether each channel is on its own.
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.channels == self.groups && self.out_channels == self.groups
    }
}

/// The groups, cut into slabs of groups that are treated as one with a block-diagonal weight: small groups
/// would leave most of a register tile empty. (Hence an infinite input of one group, times the zero beside
/// the diagonal, shows as NaN in its slab's other groups too.)
struct Slabs {
    count: usize,
    /// Groups in a slab.
    merged: usize,
    /// Channels of a slab that are read.
    source: usize,
    /// Channels of a slab that are written.
    target: usize,
}

impl Slabs {
    fn new(isa: Isa, problem: &Problem, pass: Pass) -> Slabs {
        let (channels, out) = (problem.group_channels(), problem.group_out_channels());
        let fits =
            |merged: &usize| problem.groups.is_multiple_of(*merged) && merged * channels.max(out) <= isa.columns();
        let merged = (1..=problem.groups.min(isa.columns())).rev().find(fits).unwrap_or(1);
        let (source, target) = match pass {
            Pass::Forward => (channels, out),
            Pass::DataGradient => (out, channels),
        };
        Slabs { count: problem.groups / merged, merged, source: merged * source, target: merged * target }
    }

    /// Of the slab's `channels`, those of `group`.
    fn of_group(&self, group: usize, channels: usize) -> Range<usize> {
        let size = channels / self.merged;
        group * size..(group + 1) * size
    }
}

/// Sums of a weight gradient, in numbers, that may be kept beside each other for ranges of pixels.
const SPLIT_SUMS: usize = 1 << 20;

/// There should be that many tasks, for an even load on a few threads.
const TASKS: usize = 16;
