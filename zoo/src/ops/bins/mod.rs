//! Reductions over bins: the one op behind pooling, upsampling and subsampling.
//!
//! Each spatial axis of the output is a list of [`Bin`]s, intervals of the input's axis; an output cell
//! reduces the box that its bins span. For the mean, `y[o] = sum of x[i], i in box(o), / count(o)`, where
//! the count is a product over the axes, so `dx[i] = sum of dy[o] / count(o) over the o whose box holds
//! i`. For the maximum the gradient goes to the box's first greatest element, in row-major order.

mod cpu;
mod max;
mod reference;

use crate::ops::node::computing;
use crate::ops::number::{Stored, by_number};
use crate::ops::profile;
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

/// The input cells `start..end` of one axis, and what the mean divides by on this axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bin {
    pub start: usize,
    pub end: usize,
    pub count: usize,
}

impl Bin {
    /// Cells in it.
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// The bins of one axis. Starts and ends never decrease, and no bin is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Axis {
    input: usize,
    bins: Vec<Bin>,
}

impl Axis {
    pub fn new(input: usize, bins: impl Iterator<Item = Bin>) -> Self {
        Axis { input, bins: bins.collect() }
    }

    /// An axis that stays as it is.
    fn identity(input: usize) -> Self {
        Axis::new(input, (0..input).map(|start| Bin { start, end: start + 1, count: 1 }))
    }

    /// For each input cell the bins that hold it.
    fn covering(&self) -> Vec<Range<usize>> {
        (0..self.input)
            .map(|i| {
                let first = self.bins.partition_point(|bin| bin.end <= i);
                first..self.bins.partition_point(|bin| bin.start <= i).max(first)
            })
            .collect()
    }
}

/// A reduction of `x[N, spatial.., C]` as one over `[N, D, H, W, C]`.
#[derive(Debug, Clone)]
struct Plan {
    samples: usize,
    axes: [Axis; 3],
    channels: usize,
    shape: Vec<usize>,
}

impl Plan {
    fn new(x: &Tensor, axes: Vec<Axis>) -> Self {
        let (samples, channels) = (x.dims()[0], x.dims()[axes.len() + 1]);
        let mut shape = vec![samples];
        shape.extend(axes.iter().map(|axis| axis.bins.len()));
        shape.push(channels);
        let mut axes: Vec<Axis> = std::iter::repeat_n(Axis::identity(1), 3 - axes.len()).chain(axes).collect();
        let [width, height, depth] = std::array::from_fn(|_| axes.pop().expect("there are three"));
        Plan { samples, axes: [depth, height, width], channels, shape }
    }
}

/// The mean over each box of `x[N, spatial.., C]`, one axis of bins for each of its 1 to 3 spatial axes.
pub(crate) fn mean(x: &Tensor, axes: Vec<Axis>) -> Result<Tensor> {
    let _timer = profile::forward("pool");
    let plan = Plan::new(x, axes);
    by_number!(Stored::of(&[x], &[]), N => cpu::mean::<N, N>(x, plan), else reference::mean(x, &plan, x.dtype()))
}

/// As [`mean`], but the means of half-precision numbers are `f32`.
pub(crate) fn wide_mean(x: &Tensor, axes: Vec<Axis>) -> Result<Tensor> {
    let _timer = profile::forward("pool");
    let plan = Plan::new(x, axes);
    let wide = computing(x.dtype());
    by_number!(Stored::of(&[x], &[]), N => cpu::mean::<N, f32>(x, plan), else reference::mean(x, &plan, wide))
}

/// The maximum over each box of `x[N, spatial.., C]`, one axis of bins for each of its 1 to 3 spatial axes.
pub(crate) fn max(x: &Tensor, axes: Vec<Axis>) -> Result<Tensor> {
    let _timer = profile::forward("pool");
    let plan = Plan::new(x, axes);
    let largest = plan.axes.iter().map(|axis| axis.bins.iter().map(Bin::len).max().unwrap_or(0));
    let stored = Stored::of(&[x], &[]).filter(|_| largest.product::<usize>() <= max::CELLS);
    by_number!(stored, N => max::max::<N>(x, plan), else reference::max(x, &plan))
}

/// Checks that `x` is `[N, spatial.., C]` with `D` spatial axes and returns their sizes.
pub(crate) fn spatial<const D: usize>(op: &str, x: &Tensor) -> Result<[usize; D]> {
    const { assert!(1 <= D && D <= 3, "one to three spatial dimensions") };
    if x.rank() != D + 2 {
        bail!("{op} in {D}d takes [N, spatial.., C] with {D} spatial axes, not {:?}", x.shape());
    }
    if x.dims()[D + 1] == 0 {
        bail!("{op} takes at least one channel, not {:?}", x.shape());
    }
    if !x.dtype().is_float() {
        bail!("{op} takes floats, not {:?}: convert the input", x.dtype());
    }
    Ok(std::array::from_fn(|axis| x.dims()[axis + 1]))
}
