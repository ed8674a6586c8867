use super::{Axis, Bin, Plan};
use crate::ops::node::{TASK, fill_rows, record, values, values_of};
use crate::ops::number::Number;
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// The means of `N` as `M`.
pub(super) fn mean<N: Number, M: Number>(x: &Tensor, plan: Plan) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = mean_forward::<N, M>(&values_of(&x)?, &plan);
    let (shape, input) = (plan.shape.clone(), x.shape().clone());
    record("mean over bins", [&x], y, shape, move |_, dy| {
        let dx = mean_backward::<M, N>(&values_of(dy)?, &plan);
        Ok([Some(Tensor::from_vec(dx, input.clone(), &Device::Cpu)?)])
    })
}

pub(super) fn max(x: &Tensor, plan: Plan) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (y, winners) = max_forward(&values(&x)?, &plan);
    let (shape, input) = (plan.shape.clone(), x.shape().clone());
    record("maximum over bins", [&x], y, shape, move |_, dy| {
        let dx = max_backward(&values(dy)?, &winners, &plan);
        Ok([Some(Tensor::from_vec(dx, input.clone(), &Device::Cpu)?)])
    })
}

/// Cells of one tensor `[N, D, H, W, C]`, each a vector of `C` values.
struct Cells {
    depth: usize,
    height: usize,
    width: usize,
}

impl Cells {
    fn input(plan: &Plan) -> Self {
        let [depth, height, width] = plan.axes.each_ref().map(|axis: &Axis| axis.input);
        Cells { depth, height, width }
    }

    fn output(plan: &Plan) -> Self {
        let [depth, height, width] = plan.axes.each_ref().map(|axis| axis.bins.len());
        Cells { depth, height, width }
    }

    /// Sample, depth and height of a row of `width` cells.
    fn row(&self, row: usize) -> [usize; 3] {
        [row / (self.depth * self.height), row / self.height % self.depth, row % self.height]
    }

    /// The number of the first cell of a row.
    fn start(&self, sample: usize, d: usize, h: usize) -> usize {
        ((sample * self.depth + d) * self.height + h) * self.width
    }

    fn rows(&self, plan: &Plan) -> usize {
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

/// The maxima, and for each the number of its input cell within the sample.
fn max_forward(x: &[f32], plan: &Plan) -> (Vec<f32>, Vec<u32>) {
    let (from, to, channels) = (Cells::input(plan), Cells::output(plan), plan.channels);
    let [depths, heights, widths] = plan.axes.each_ref().map(|axis| &axis.bins);
    let row_len = to.width * channels;
    let (mut y, mut winners) = (vec![0.; to.rows(plan) * row_len], vec![0u32; to.rows(plan) * row_len]);
    let per_task = (TASK / row_len).max(1);
    y.par_chunks_mut(row_len * per_task).zip(winners.par_chunks_mut(row_len * per_task)).enumerate().for_each(
        |(task, (y, winners))| {
            for (i, (y, winners)) in y.chunks_mut(row_len).zip(winners.chunks_mut(row_len)).enumerate() {
                let [sample, d, h] = to.row(task * per_task + i);
                let sample = from.start(sample, 0, 0);
                let cells = y.chunks_exact_mut(channels).zip(winners.chunks_exact_mut(channels));
                for ((y, winners), width) in cells.zip(widths) {
                    max_of_box(&x[sample * channels..], &from, [depths[d], heights[h], *width], y, winners);
                }
            }
        },
    );
    (y, winners)
}

fn max_of_box(x: &[f32], from: &Cells, [depth, height, width]: [Bin; 3], y: &mut [f32], winners: &mut [u32]) {
    y.fill(f32::NEG_INFINITY);
    winners.fill(from.start(0, depth.start, height.start) as u32 + width.start as u32);
    for d in depth.start..depth.end {
        for h in height.start..height.end {
            for w in width.start..width.end {
                let number = from.start(0, d, h) + w;
                let x = cell(x, number, y.len());
                for ((y, winner), &x) in y.iter_mut().zip(winners.iter_mut()).zip(x) {
                    // A NaN wins over everything, as in PyTorch: it must not vanish here.
                    let wins = (x > *y) | x.is_nan();
                    (*y, *winner) = if wins { (x, number as u32) } else { (*y, *winner) };
                }
            }
        }
    }
}

fn max_backward(dy: &[f32], winners: &[u32], plan: &Plan) -> Vec<f32> {
    let (from, to, channels) = (Cells::input(plan), Cells::output(plan), plan.channels);
    let [over_depth, over_height, over_width]: [Vec<Range<usize>>; 3] = plan.axes.each_ref().map(Axis::covering);
    fill_rows(from.rows(plan), from.width * channels, dy.len(), |row, dx: &mut [f32]| {
        let [sample, d, h] = from.row(row);
        let first = from.start(0, d, h);
        for (w, (dx, over_width)) in dx.chunks_exact_mut(channels).zip(&over_width).enumerate() {
            let number = (first + w) as u32;
            for d in over_depth[d].clone() {
                for h in over_height[h].clone() {
                    for w in over_width.clone() {
                        let at = (to.start(sample, d, h) + w) * channels;
                        let (dy, winners) = (&dy[at..][..channels], &winners[at..][..channels]);
                        for ((dx, dy), &winner) in dx.iter_mut().zip(dy).zip(winners) {
                            // A bit mask: with an `if` the compiler makes a jump of it.
                            let won = u32::from(winner == number).wrapping_neg();
                            *dx += f32::from_bits(dy.to_bits() & won);
                        }
                    }
                }
            }
        }
    })
}
