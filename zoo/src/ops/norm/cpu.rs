//! Forward: one pass for the statistics, one for everything else. Backward: one pass for the sums, one
//! for `dx`; each is left out where nobody needs it.

use super::{Epilogue, Extent};
use crate::ops::activation::cpu::{rectified, rectify};
use crate::ops::isa::vectorised;
use crate::ops::node::{Gradients, TASK, record, values};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Rows that are summed in f32 before the sum joins an f64 one.
const BLOCK: usize = 64;

/// Normalises with `statistics`, through which the gradient flows too where they are `of_x`.
pub(super) fn normalise(
    x: &Tensor,
    affine: &Tensor,
    extent: Extent,
    statistics: Statistics,
    of_x: bool,
    eps: f64,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let (x, affine) = (x.contiguous()?, affine.contiguous()?);
    let residual = epilogue.residual.map(Tensor::contiguous).transpose()?;
    let y = {
        let residual = residual.as_ref().map(values).transpose()?;
        forward(&values(&x)?, residual.as_deref(), &statistics, &values(&affine)?, extent, eps, epilogue.relu)
    };
    let backward = Backward {
        x: x.detach(),
        affine: affine.detach(),
        statistics,
        extent,
        of_x,
        eps,
        relu: epilogue.relu,
        wants: [x.track_op(), affine.track_op(), residual.as_ref().is_some_and(Tensor::track_op)],
    };
    match &residual {
        Some(residual) => record("normalise", [&x, &affine, residual], y, x.shape(), move |y, dy| backward.run(y, dy)),
        None => record("normalise", [&x, &affine], y, x.shape(), move |y, dy| {
            let [dx, daffine, _] = backward.run(y, dy)?;
            Ok([dx, daffine])
        }),
    }
}

/// Mean and biased variance of each group of each segment.
pub(super) struct Statistics {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Statistics {
    /// Those of `x`.
    pub(super) fn of(x: &Tensor, extent: Extent) -> Result<Self> {
        let x = x.contiguous()?;
        let x = values(&x)?;
        let x = &*x;
        let tasks = Task::all(extent);
        let partial: Vec<Moments> = in_parallel(&tasks, |task| Moments::of_rows(task.of(x, extent), extent.channels));
        let mut statistics = Statistics { mean: Vec::new(), variance: Vec::new() };
        for segment in 0..extent.segments {
            let mut channels = Moments::none(extent.channels);
            for (_, partial) in tasks.iter().zip(&partial).filter(|(task, _)| task.segment == segment) {
                channels.join(partial);
            }
            for group in 0..extent.groups {
                let (mut count, mut mean, mut squares) = (0., 0., 0.);
                for c in group * extent.width()..(group + 1) * extent.width() {
                    let joined = Joined::new(count, channels.count);
                    joined.join(&mut mean, &mut squares, channels.mean[c], channels.squares[c]);
                    count += channels.count;
                }
                statistics.mean.push(mean);
                statistics.variance.push(squares / count.max(1.));
            }
        }
        Ok(statistics)
    }

    /// One of each for every channel.
    pub(super) fn given(mean: &Tensor, variance: &Tensor) -> Result<Self> {
        let wide = |tensor: &Tensor| -> Result<Vec<f64>> {
            Ok(values(&tensor.contiguous()?)?.iter().map(|&value| f64::from(value)).collect())
        };
        Ok(Statistics { mean: wide(mean)?, variance: wide(variance)? })
    }

    /// Means and variances as `f32`.
    pub(super) fn tensors(&self) -> Result<[Tensor; 2]> {
        let narrow = |values: &[f64]| {
            let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            Tensor::from_vec(narrow, values.len(), &Device::Cpu)
        };
        Ok([narrow(&self.mean)?, narrow(&self.variance)?])
    }
}

/// Count, mean and sum of squared deviations of each channel of some rows.
struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    fn none(channels: usize) -> Self {
        Moments { count: 0., mean: vec![0.; channels], squares: vec![0.; channels] }
    }

    #[inline(always)]
    fn of_rows(x: &[f32], channels: usize) -> Self {
        let mut moments = Moments::none(channels);
        let (mut sum, mut squares) = (vec![0f32; channels], vec![0f32; channels]);
        for block in x.chunks(BLOCK * channels) {
            // Deviations from the block's first row: a mean far from zero costs no digits.
            let pivot = &block[..channels];
            sum.fill(0.);
            squares.fill(0.);
            for row in block.chunks_exact(channels) {
                let (sum, squares, row) = (&mut sum[..channels], &mut squares[..channels], &row[..channels]);
                for c in 0..channels {
                    let deviation = row[c] - pivot[c];
                    sum[c] += deviation;
                    squares[c] += deviation * deviation;
                }
            }
            let count = (block.len() / channels) as f64;
            let joined = Joined::new(moments.count, count);
            for c in 0..channels {
                let (sum, squares) = (f64::from(sum[c]), f64::from(squares[c]));
                let mean = f64::from(pivot[c]) + sum / count;
                let squares = (squares - sum * sum / count).max(0.);
                joined.join(&mut moments.mean[c], &mut moments.squares[c], mean, squares);
            }
            moments.count += count;
        }
        moments
    }

    fn join(&mut self, other: &Moments) {
        let joined = Joined::new(self.count, other.count);
        for c in 0..self.mean.len() {
            joined.join(&mut self.mean[c], &mut self.squares[c], other.mean[c], other.squares[c]);
        }
        self.count += other.count;
    }
}

/// How two sets of values share their moments: Chan, Golub and LeVeque, "Updating formulae and a pairwise
/// algorithm for computing sample variances" (1979).
struct Joined {
    share: f64,
    between: f64,
}

impl Joined {
    fn new(count: f64, other: f64) -> Self {
        let share = other / (count + other).max(1.);
        Joined { share, between: count * share }
    }

    fn join(&self, mean: &mut f64, squares: &mut f64, other_mean: f64, other_squares: f64) {
        let difference = other_mean - *mean;
        *mean += difference * self.share;
        *squares += other_squares + difference * difference * self.between;
    }
}

/// Rows of one segment that one thread works on.
struct Task {
    segment: usize,
    rows: Range<usize>,
}

impl Task {
    /// All tasks, in the order of their rows.
    fn all(extent: Extent) -> Vec<Task> {
        let size = (4 * TASK / extent.channels).next_multiple_of(BLOCK).max(BLOCK);
        let of_segment = |segment| {
            (0..extent.rows).step_by(size).map(move |start| {
                let first = segment * extent.rows;
                Task { segment, rows: first + start..first + (start + size).min(extent.rows) }
            })
        };
        (0..extent.segments).flat_map(of_segment).collect()
    }

    fn of<'a>(&self, values: &'a [f32], extent: Extent) -> &'a [f32] {
        &values[self.rows.start * extent.channels..self.rows.end * extent.channels]
    }

    /// Cuts `values` into the tasks' pieces; an empty slice into empty ones.
    fn split<'a>(tasks: &[Task], mut values: &'a mut [f32], extent: Extent) -> Vec<&'a mut [f32]> {
        let mut cut = |task: &Task| {
            let len = (task.rows.len() * extent.channels).min(values.len());
            let (piece, rest) = std::mem::take(&mut values).split_at_mut(len);
            values = rest;
            piece
        };
        tasks.iter().map(&mut cut).collect()
    }
}

/// Results in the order of the tasks.
fn in_parallel<R: Send>(tasks: &[Task], run: impl Fn(&Task) -> R + Sync + Send) -> Vec<R> {
    let run = |task: &Task| vectorised(|| run(task));
    if tasks.len() < 2 { tasks.iter().map(run).collect() } else { tasks.par_iter().map(run).collect() }
}

/// [`in_parallel`], each task with its piece of what it writes.
fn in_parallel_with<R: Send>(
    tasks: &[Task],
    pieces: Vec<&mut [f32]>,
    run: impl Fn(&Task, &mut [f32]) -> R + Sync + Send,
) -> Vec<R> {
    let run = |(task, piece): (&Task, &mut [f32])| vectorised(|| run(task, piece));
    if tasks.len() < 2 {
        tasks.iter().zip(pieces).map(run).collect()
    } else {
        tasks.par_iter().zip(pieces).map(run).collect()
    }
}

/// What is done to every value of a channel, for each channel of each segment: `a * (x - mean) + b`.
struct Line {
    mean: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Line {
    /// `coefficients(segment, channel)` are the mean, `a` and `b`. The mean is rounded to f32, and `b`
    /// makes up for it.
    fn new(extent: Extent, coefficients: impl Fn(usize, usize) -> [f64; 3]) -> Self {
        let len = extent.segments * extent.channels;
        let mut line = Line { mean: Vec::with_capacity(len), a: Vec::with_capacity(len), b: Vec::with_capacity(len) };
        for segment in 0..extent.segments {
            for c in 0..extent.channels {
                let [mean, a, b] = coefficients(segment, c);
                let rounded = mean as f32;
                line.mean.push(rounded);
                line.a.push(a as f32);
                line.b.push((b + a * (f64::from(rounded) - mean)) as f32);
            }
        }
        line
    }

    fn of(&self, segment: usize, channels: usize) -> [&[f32]; 3] {
        [&self.mean, &self.a, &self.b].map(|values| &values[segment * channels..][..channels])
    }
}

fn forward(
    x: &[f32],
    residual: Option<&[f32]>,
    statistics: &Statistics,
    affine: &[f32],
    extent: Extent,
    eps: f64,
    relu: bool,
) -> Vec<f32> {
    let channels = extent.channels;
    let (weight, bias) = affine.split_at(channels);
    let line = Line::new(extent, |segment, c| {
        let group = segment * extent.groups + c / extent.width();
        let a = f64::from(weight[c]) / (statistics.variance[group] + eps).sqrt();
        [statistics.mean[group], a, f64::from(bias[c])]
    });
    let tasks = Task::all(extent);
    let mut y = vec![0.; x.len()];
    let pieces = Task::split(&tasks, &mut y, extent);
    in_parallel_with(&tasks, pieces, |task, y| {
        let line = line.of(task.segment, channels);
        let (x, residual) = (task.of(x, extent), residual.map(|residual| task.of(residual, extent)));
        for (i, (y, x)) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).enumerate() {
            let residual = residual.map(|residual| &residual[i * channels..][..channels]);
            match (residual, relu) {
                (None, false) => forward_row(x, line, |_| 0., |y| y, y),
                (None, true) => forward_row(x, line, |_| 0., rectify, y),
                (Some(residual), false) => forward_row(x, line, |c| residual[c], |y| y, y),
                (Some(residual), true) => forward_row(x, line, |c| residual[c], rectify, y),
            }
        }
    });
    y
}

#[inline(always)]
fn forward_row(
    x: &[f32],
    [mean, a, b]: [&[f32]; 3],
    residual: impl Fn(usize) -> f32,
    activation: impl Fn(f32) -> f32,
    y: &mut [f32],
) {
    let channels = y.len();
    let (x, mean, a, b) = (&x[..channels], &mean[..channels], &a[..channels], &b[..channels]);
    for c in 0..channels {
        y[c] = activation(a[c] * (x[c] - mean[c]) + b[c] + residual(c));
    }
}

/// What the backward pass needs from the forward pass.
struct Backward {
    x: Tensor,
    affine: Tensor,
    statistics: Statistics,
    extent: Extent,
    /// Whether the statistics depend on `x`.
    of_x: bool,
    eps: f64,
    relu: bool,
    /// Who needs a gradient: x, affine, residual.
    wants: [bool; 3],
}

impl Backward {
    fn run(&self, y: &Tensor, dy: &Tensor) -> Gradients<3> {
        let [wants_x, wants_affine, wants_residual] = self.wants;
        let (x, y, g) = (values(&self.x)?, values(y)?, values(dy)?);
        let mask = self.relu.then_some(&*y);

        // Where the residual needs the masked gradient it is written once and read from then on.
        let mut masked = vec![0.; if wants_residual && self.relu { g.len() } else { 0 }];
        let needs_sums = wants_affine || (wants_x && self.of_x);
        let sums = if needs_sums || !masked.is_empty() { Some(self.sums(&x, &g, mask, &mut masked)) } else { None };
        let dresidual = match (wants_residual, self.relu) {
            (false, _) => None,
            (true, false) => Some(dy.clone()),
            (true, true) => Some(Tensor::from_vec(masked, dy.shape(), &Device::Cpu)?),
        };
        let dx = if wants_x {
            let dx = match &dresidual {
                Some(masked) => self.dx(&x, &values(masked)?, None, sums.as_ref())?,
                None => self.dx(&x, &g, mask, sums.as_ref())?,
            };
            Some(Tensor::from_vec(dx, dy.shape(), &Device::Cpu)?)
        } else {
            None
        };
        let daffine = match (&sums, wants_affine) {
            (Some(sums), true) => Some(self.daffine(sums)?),
            _ => None,
        };
        Ok([dx, daffine, dresidual])
    }

    fn inverse_deviation(&self, segment: usize, c: usize) -> f64 {
        let group = segment * self.extent.groups + c / self.extent.width();
        1. / (self.statistics.variance[group] + self.eps).sqrt()
    }

    fn mean(&self, segment: usize, c: usize) -> f64 {
        self.statistics.mean[segment * self.extent.groups + c / self.extent.width()]
    }

    /// The first pass. Also writes the masked gradient to `masked`, where that is not empty.
    fn sums(&self, x: &[f32], g: &[f32], mask: Option<&[f32]>, masked: &mut [f32]) -> Sums {
        let (extent, channels) = (self.extent, self.extent.channels);
        let centre: Vec<f32> =
            (0..extent.segments).flat_map(|segment| (0..channels).map(move |c| self.mean(segment, c) as f32)).collect();
        let tasks = Task::all(extent);
        let pieces = Task::split(&tasks, masked, extent);
        let partial: Vec<Sums> = in_parallel_with(&tasks, pieces, |task, masked| {
            let centre = &centre[task.segment * channels..][..channels];
            let mask = mask.map(|mask| task.of(mask, extent));
            Sums::of_rows(task.of(x, extent), task.of(g, extent), mask, centre, masked)
        });
        let mut sums = Sums::none(extent.segments * channels);
        for (task, partial) in tasks.iter().zip(&partial) {
            let first = task.segment * channels;
            for c in 0..channels {
                sums.g[first + c] += partial.g[c];
                sums.g_deviation[first + c] += partial.g_deviation[c];
            }
        }
        for (i, &rounded) in centre.iter().enumerate() {
            let mean = self.mean(i / channels, i % channels);
            sums.g_deviation[i] += (f64::from(rounded) - mean) * sums.g[i];
        }
        sums
    }

    fn daffine(&self, sums: &Sums) -> Result<Tensor> {
        let channels = self.extent.channels;
        let mut daffine = vec![0f64; 2 * channels];
        for segment in 0..self.extent.segments {
            for c in 0..channels {
                let i = segment * channels + c;
                daffine[c] += sums.g_deviation[i] * self.inverse_deviation(segment, c);
                daffine[channels + c] += sums.g[i];
            }
        }
        let daffine: Vec<f32> = daffine.into_iter().map(|value| value as f32).collect();
        Tensor::from_vec(daffine, (2, channels), &Device::Cpu)
    }

    /// The second pass: `dx = weight * g / deviation + a * (x - mean) + b`.
    fn dx(&self, x: &[f32], g: &[f32], mask: Option<&[f32]>, sums: Option<&Sums>) -> Result<Vec<f32>> {
        let (extent, channels) = (self.extent, self.extent.channels);
        let affine = values(&self.affine)?;
        let weight = &affine[..channels];
        let factor: Vec<f32> = (0..extent.segments)
            .flat_map(|segment| {
                (0..channels).map(move |c| (f64::from(weight[c]) * self.inverse_deviation(segment, c)) as f32)
            })
            .collect();
        let line = sums.filter(|_| self.of_x).map(|sums| {
            // A group's mean of `weight * g` and of `weight * g * (x - mean)`.
            let of_groups = |sums: &[f64]| -> Vec<f64> {
                let weighted: Vec<f64> =
                    sums.iter().zip(weight.iter().cycle()).map(|(g, &w)| g * f64::from(w)).collect();
                weighted
                    .chunks(extent.width())
                    .map(|group| group.iter().sum::<f64>() / extent.values() as f64)
                    .collect()
            };
            let (g, g_deviation) = (of_groups(&sums.g), of_groups(&sums.g_deviation));
            Line::new(extent, |segment, c| {
                let inverse = self.inverse_deviation(segment, c);
                let group = segment * extent.groups + c / extent.width();
                [self.mean(segment, c), -inverse.powi(3) * g_deviation[group], -inverse * g[group]]
            })
        });
        let tasks = Task::all(extent);
        let mut dx = vec![0.; g.len()];
        let pieces = Task::split(&tasks, &mut dx, extent);
        in_parallel_with(&tasks, pieces, |task, dx| {
            let factor = &factor[task.segment * channels..][..channels];
            let line = line.as_ref().map(|line| line.of(task.segment, channels));
            let (x, g) = (task.of(x, extent), task.of(g, extent));
            let mask = mask.map(|mask| task.of(mask, extent));
            for (i, dx) in dx.chunks_exact_mut(channels).enumerate() {
                let at = i * channels;
                let (x, g) = (&x[at..][..channels], &g[at..][..channels]);
                match (mask.map(|mask| &mask[at..][..channels]), line) {
                    (None, None) => dx_row(g, factor, |g, _| g, |_| 0., dx),
                    (Some(y), None) => dx_row(g, factor, |g, c| rectified(g, y[c]), |_| 0., dx),
                    (None, Some([mean, a, b])) => {
                        dx_row(g, factor, |g, _| g, |c| a[c] * (x[c] - mean[c]) + b[c], dx);
                    }
                    (Some(y), Some([mean, a, b])) => {
                        dx_row(g, factor, |g, c| rectified(g, y[c]), |c| a[c] * (x[c] - mean[c]) + b[c], dx);
                    }
                }
            }
        });
        Ok(dx)
    }
}

#[inline(always)]
fn dx_row(g: &[f32], factor: &[f32], mask: impl Fn(f32, usize) -> f32, line: impl Fn(usize) -> f32, dx: &mut [f32]) {
    let channels = dx.len();
    let (g, factor) = (&g[..channels], &factor[..channels]);
    for c in 0..channels {
        dx[c] = factor[c] * mask(g[c], c) + line(c);
    }
}

/// For each channel the sums of `g` and of `g * (x - mean)`.
struct Sums {
    g: Vec<f64>,
    g_deviation: Vec<f64>,
}

impl Sums {
    fn none(channels: usize) -> Self {
        Sums { g: vec![0.; channels], g_deviation: vec![0.; channels] }
    }

    #[inline(always)]
    fn of_rows(x: &[f32], g: &[f32], mask: Option<&[f32]>, mean: &[f32], masked_out: &mut [f32]) -> Self {
        let channels = mean.len();
        let mut sums = Sums::none(channels);
        let (mut sum, mut deviations) = (vec![0f32; channels], vec![0f32; channels]);
        let rows = x.len() / channels;
        for block in (0..rows).step_by(BLOCK) {
            sum.fill(0.);
            deviations.fill(0.);
            for row in block..(block + BLOCK).min(rows) {
                let at = row * channels;
                let (x, g, mean) = (&x[at..][..channels], &g[at..][..channels], &mean[..channels]);
                let (sum, deviations) = (&mut sum[..channels], &mut deviations[..channels]);
                let mut add = |c: usize, g: f32| {
                    sum[c] += g;
                    deviations[c] += g * (x[c] - mean[c]);
                };
                match (mask, masked_out.is_empty()) {
                    (None, _) => (0..channels).for_each(|c| add(c, g[c])),
                    (Some(mask), true) => {
                        let y = &mask[at..][..channels];
                        (0..channels).for_each(|c| add(c, rectified(g[c], y[c])));
                    }
                    (Some(mask), false) => {
                        let (y, out) = (&mask[at..][..channels], &mut masked_out[at..][..channels]);
                        for c in 0..channels {
                            out[c] = rectified(g[c], y[c]);
                            add(c, out[c]);
                        }
                    }
                }
            }
            for c in 0..channels {
                sums.g[c] += f64::from(sum[c]);
                sums.g_deviation[c] += f64::from(deviations[c]);
            }
        }
        sums
    }
}
