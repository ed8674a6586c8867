use super::{Axis, Bin, Plan};
use crate::ops::node::{fill_rows, record, values_of};
use crate::ops::number::Number;
use candle_core::{Device, Result, Tensor};

/// The means of `N` as `M`.
pub(super) fn mean<N: Number, M: Number>(x: &Tensor, plan: Plan) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = mean_forward::<N, M>(&values_of(&x)?, &plan);
    let (shape, input) = (plan.shape.clone(), x.shape().clone());
    record("pool", [&x], y, shape, move |dy| {
        let dx = mean_backward::<M, N>(&values_of(dy)?, &plan);
        Ok([Some(Tensor::from_vec(dx, input.clone(), &Device::Cpu)?)])
    })
}

/// Cells of one tensor `[N, D, H, W, C]`, each a vector of `C` values.
pub(super) struct Cells {
    pub depth: usize,
    pub height: usize,
    pub width: usize,
}

impl Cells {
    pub fn input(plan: &Plan) -> Self {
        let [depth, height, width] = plan.axes.each_ref().map(|axis: &Axis| axis.input);
        Cells { depth, height, width }
    }

    pub fn output(plan: &Plan) -> Self {
        let [depth, height, width] = plan.axes.each_ref().map(|axis| axis.bins.len());
        Cells { depth, height, width }
    }

    /// Sample, depth and height of a row of `width` cells.
    pub fn row(&self, row: usize) -> [usize; 3] {
        [row / (self.depth * self.height), row / self.height % self.depth, row % self.height]
    }

    /// The number of the first cell of a row.
    pub fn start(&self, sample: usize, d: usize, h: usize) -> usize {
        ((sample * self.depth + d) * self.height + h) * self.width
    }

    pub fn rows(&self, plan: &Plan) -> usize {
        plan.samples * self.depth * self.height
    }
}

fn cell<N>(values: &[N], cell: usize, channels: usize) -> &[N] {
    &values[cell * channels..][..channels]
}

fn add<N: Number>(sum: &mut [f32], x: &[N], factor: f32) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x.wide();
    }
}

fn narrow<N: Number>(sum: &[f32], factor: f32, out: &mut [N]) {
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = N::narrow(factor * sum);
    }
}

fn mean_forward<N: Number, M: Number>(x: &[N], plan: &Plan) -> Vec<M> {
    let (from, to, channels) = (Cells::input(plan), Cells::output(plan), plan.channels);
    let [depths, heights, widths] = plan.axes.each_ref().map(|axis| &axis.bins);
    fill_rows(to.rows(plan), to.width * channels, x.len(), |row, out: &mut [M]| {
        let [sample, d, h] = to.row(row);
        let (depth, height) = (depths[d], heights[h]);
        // Sums of sums: rows first, so that a large box loses no more digits than its side.
        let (mut line, mut sum) = (vec![0.; channels], vec![0.; channels]);
        for (out, width) in out.chunks_exact_mut(channels).zip(widths) {
            sum.fill(0.);
            for d in depth.start..depth.end {
                for h in height.start..height.end {
                    let start = from.start(sample, d, h);
                    line.fill(0.);
                    for w in width.start..width.end {
                        add(&mut line, cell(x, start + w, channels), 1.);
                    }
                    add(&mut sum, &line, 1.);
                }
            }
            narrow(&sum, share([&depth, &height, width]), out);
        }
    })
}

fn share(bins: [&Bin; 3]) -> f32 {
    1. / bins.map(|bin| bin.count as f32).iter().product::<f32>()
}

fn mean_backward<M: Number, N: Number>(dy: &[M], plan: &Plan) -> Vec<N> {
    let (from, to, channels) = (Cells::input(plan), Cells::output(plan), plan.channels);
    let [depths, heights, widths] = plan.axes.each_ref().map(|axis| &axis.bins);
    let [over_depth, over_height, over_width] = plan.axes.each_ref().map(Axis::covering);
    fill_rows(from.rows(plan), from.width * channels, dy.len(), |row, dx: &mut [N]| {
        let [sample, d, h] = from.row(row);
        let mut sum = vec![0.; channels];
        for (dx, over_width) in dx.chunks_exact_mut(channels).zip(&over_width) {
            sum.fill(0.);
            for d in over_depth[d].clone() {
                for h in over_height[h].clone() {
                    for w in over_width.clone() {
                        let share = share([&depths[d], &heights[h], &widths[w]]);
                        add(&mut sum, cell(dy, to.start(sample, d, h) + w, channels), share);
                    }
                }
            }
            narrow(&sum, 1., dx);
        }
    })
}
