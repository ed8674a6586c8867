//! Forward: one pass for the statistics where nobody has them yet, one for everything else. Backward: one pass for the sums, one
//! for `dx`; each is left out where nobody needs it. The first pass runs from the end to the beginning: what was
//! written last, and what the second pass reads first, may still be in the caches.

use super::passes::{AddSums, Gradient, Line, Mask, Normalise, Sums};
use super::{Epilogue, Extent};
use crate::ops::Isa;
use crate::ops::lanes::{self, Element};
use crate::ops::moments::{AddMoments, BLOCK, InOrder, Joined, Moments};
use crate::ops::node::{Gradients, TASK, record, record_with_result, values, values_of};
use crate::ops::parallel::{Disjoint, bypasses_caches, output};
use crate::ops::tasks;
use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// Normalises with `statistics`, through which the gradient flows too where they are `of_x`.
pub(super) fn normalise<N: Element>(
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
    let norm = Norm { isa: Isa::chosen()?, statistics, extent, eps, relu: epilogue.relu };
    let y = {
        let residual = residual.as_ref().map(values_of::<N>).transpose()?;
        norm.forward(&values_of(&x)?, residual.as_deref(), &values(&affine)?)?
    };
    let backward = Backward {
        norm,
        x: x.detach(),
        affine: affine.detach(),
        of_x,
        wants: [x.track_op(), affine.track_op(), residual.as_ref().is_some_and(Tensor::track_op)],
    };
    match &residual {
        Some(residual) => record_with_result("norm", [&x, &affine, residual], y, x.shape(), move |y, dy| {
            backward.run::<N>(Some(y), dy)
        }),
        None => record("norm", [&x, &affine], y, x.shape(), move |dy| {
            let [dx, daffine, _] = backward.run::<N>(None, dy)?;
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
    pub(super) fn of<N: Element>(x: &Tensor, extent: Extent) -> Result<Self> {
        let isa = Isa::chosen()?;
        let x = x.contiguous()?;
        let x = values_of(&x)?;
        let x: &[N] = &x;
        let tasks = Task::all(extent);
        let partial = backwards(&tasks, |task| {
            let mut moments = Moments::none(extent.channels);
            let (x, rows) = (x[task.values(extent)].as_ptr(), task.rows.len());
            let rows = InOrder { rows, channels: extent.channels };
            // SAFETY: the CPU has the chosen instructions, and the slice the rows.
            unsafe { lanes::run(isa, AddMoments { x, rows, moments: &mut moments }) };
            moments
        });
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

    /// Those of each channel.
    pub(super) fn of_channels(moments: Moments) -> Self {
        let Moments { count, mean, squares } = moments;
        Statistics { mean, variance: squares.into_iter().map(|squares| squares / count.max(1.)).collect() }
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

/// Rows of one segment that one thread works on: what it reads stays in its second-level cache.
struct Task {
    segment: usize,
    rows: Range<usize>,
}

impl Task {
    /// All tasks, in the order of their rows.
    fn all(extent: Extent) -> Vec<Task> {
        let size = (2 * TASK / extent.channels).next_multiple_of(BLOCK).max(BLOCK);
        let of_segment = |segment| {
            (0..extent.rows).step_by(size).map(move |start| {
                let first = segment * extent.rows;
                Task { segment, rows: first + start..first + (start + size).min(extent.rows) }
            })
        };
        (0..extent.segments).flat_map(of_segment).collect()
    }

    /// Where its values lie in a tensor.
    fn values(&self, extent: Extent) -> Range<usize> {
        self.rows.start * extent.channels..self.rows.end * extent.channels
    }
}

/// Runs the last task first. Results in the order of the tasks.
fn backwards<R: Send>(tasks: &[Task], run: impl Fn(&Task) -> R + Sync) -> Vec<R> {
    let mut results = tasks::map(tasks.len(), |i| run(&tasks[tasks.len() - 1 - i]));
    results.reverse();
    results
}

/// A [`Line`] for each channel of each segment.
struct Lines {
    mean: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Lines {
    /// `coefficients(segment, channel)` are the mean, `a` and `b`. The mean is rounded to f32, and `b`
    /// makes up for it.
    fn new(extent: Extent, coefficients: impl Fn(usize, usize) -> [f64; 3]) -> Self {
        let len = extent.segments * extent.channels;
        let mut lines = Lines { mean: Vec::with_capacity(len), a: Vec::with_capacity(len), b: Vec::with_capacity(len) };
        for segment in 0..extent.segments {
            for c in 0..extent.channels {
                let [mean, a, b] = coefficients(segment, c);
                let rounded = mean as f32;
                lines.mean.push(rounded);
                lines.a.push(a as f32);
                lines.b.push((b + a * (f64::from(rounded) - mean)) as f32);
            }
        }
        lines
    }

    fn of(&self, segment: usize, channels: usize) -> Line<'_> {
        let [mean, a, b] = [&self.mean, &self.a, &self.b].map(|values| &values[segment * channels..][..channels]);
        Line { mean, a, b }
    }
}

/// What both directions know.
struct Norm {
    isa: Isa,
    statistics: Statistics,
    extent: Extent,
    eps: f64,
    relu: bool,
}

impl Norm {
    fn inverse_deviation(&self, segment: usize, c: usize) -> f64 {
        let group = segment * self.extent.groups + c / self.extent.width();
        1. / (self.statistics.variance[group] + self.eps).sqrt()
    }

    fn mean(&self, segment: usize, c: usize) -> f64 {
        self.statistics.mean[segment * self.extent.groups + c / self.extent.width()]
    }

    /// What the forward pass does to its input, up to the residual.
    fn lines(&self, affine: &[f32]) -> Lines {
        let (weight, bias) = affine.split_at(self.extent.channels);
        Lines::new(self.extent, |segment, c| {
            let a = f64::from(weight[c]) * self.inverse_deviation(segment, c);
            [self.mean(segment, c), a, f64::from(bias[c])]
        })
    }

    fn forward<N: Element>(&self, x: &[N], residual: Option<&[N]>, affine: &[f32]) -> Result<Vec<N>> {
        let lines = self.lines(affine);
        let stream = bypasses_caches::<N>(x.len());
        self.write(x.len(), |task, y| {
            let at = task.values(self.extent);
            let (x, residual) = (&x[at.clone()], residual.map(|residual| &residual[at]));
            let line = lines.of(task.segment, self.extent.channels);
            // SAFETY: the CPU has the chosen instructions.
            unsafe {
                match self.relu {
                    true => lanes::run(self.isa, Normalise::<N, true> { x, line, residual, y, stream }),
                    false => lanes::run(self.isa, Normalise::<N, false> { x, line, residual, y, stream }),
                }
            }
        })
    }

    /// A new buffer of `len` values, of which `run` writes those of each task, and reads none before.
    fn write<N: Element>(&self, len: usize, run: impl Fn(&Task, &mut [N]) + Sync) -> Result<Vec<N>> {
        let tasks = Task::all(self.extent);
        let write = |buffer: Disjoint<N>| {
            // SAFETY: no two tasks share a row.
            tasks::for_each(tasks.len(), |i| run(&tasks[i], unsafe { buffer.slice(tasks[i].values(self.extent)) }));
        };
        // SAFETY: the tasks have all rows between them, and `run` writes all that it gets.
        unsafe { output(len, write) }
    }
}

/// What the backward pass needs from the forward pass.
struct Backward {
    norm: Norm,
    x: Tensor,
    affine: Tensor,
    /// Whether the statistics depend on `x`.
    of_x: bool,
    /// Who needs a gradient: x, affine, residual.
    wants: [bool; 3],
}

/// From what the gradient before the ReLU follows.
#[derive(Clone, Copy)]
enum Relu<'a, N> {
    None,
    /// The input, of which the result is these lines.
    Input(&'a Lines),
    /// The result.
    Output(&'a [N]),
    /// The result, and a pass writes the gradient here.
    Kept(&'a [N], Disjoint<'a, N>),
}

impl<'a, N: Element> Relu<'a, N> {
    /// For the rows of `task`, of which one pass at a time makes use.
    fn mask(self, task: &Task, extent: Extent) -> Mask<'a, N> {
        let at = task.values(extent);
        match self {
            Relu::None => Mask::None,
            Relu::Input(lines) => Mask::Input(lines.of(task.segment, extent.channels)),
            Relu::Output(y) => Mask::Output(&y[at]),
            // SAFETY: no two tasks share a row.
            Relu::Kept(y, masked) => Mask::Kept(&y[at.clone()], unsafe { masked.slice(at) }.as_mut_ptr()),
        }
    }
}

impl Backward {
    /// From the gradient of the result, and with a residual the result `y`.
    fn run<N: Element>(&self, y: Option<&Tensor>, dy: &Tensor) -> Gradients<3> {
        let [wants_x, wants_affine, wants_residual] = self.wants;
        let (x, g, affine) = (values_of::<N>(&self.x)?, values_of::<N>(dy)?, values(&self.affine)?);
        let y = y.map(values_of::<N>).transpose()?;
        let needs_sums = wants_affine || (wants_x && self.of_x);
        let tensor = |values: Vec<N>| Tensor::from_vec(values, dy.shape(), &Device::Cpu);
        let daffine = |sums: &Option<Sums>| match (sums, wants_affine) {
            (Some(sums), true) => self.daffine(sums).map(Some),
            _ => Ok(None),
        };
        let lines = self.norm.lines(&affine);
        let relu = match (self.norm.relu, &y) {
            (false, _) => Relu::None,
            (true, None) => Relu::Input(&lines),
            (true, Some(y)) => Relu::Output(y),
        };
        let (Relu::Output(y), true) = (relu, wants_residual) else {
            let sums = needs_sums.then(|| self.sums(&x, &g, relu));
            let dx = if wants_x { Some(tensor(self.dx(&x, &g, relu, sums.as_ref())?)?) } else { None };
            return Ok([dx, daffine(&sums)?, wants_residual.then(|| dy.clone())]);
        };
        // The residual's gradient is the masked one: the pass that runs first writes it, and a second one reads it.
        let (mut sums, mut dx) = (None, None);
        // SAFETY: either pass writes the masked gradient of all its rows; where one fails, nobody gets it.
        let masked = unsafe {
            output(g.len(), |masked| {
                let relu = Relu::Kept(y, masked);
                match needs_sums {
                    true => sums = Some(self.sums(&x, &g, relu)),
                    false => dx = Some(self.dx(&x, &g, relu, None)),
                }
            })
        }?;
        if needs_sums && wants_x {
            dx = Some(self.dx(&x, &masked, Relu::None, sums.as_ref()));
        }
        let dx = dx.transpose()?.filter(|_| wants_x).map(tensor).transpose()?;
        Ok([dx, daffine(&sums)?, Some(tensor(masked)?)])
    }

    /// The first pass.
    fn sums<N: Element>(&self, x: &[N], g: &[N], relu: Relu<N>) -> Sums {
        let (norm, extent) = (&self.norm, self.norm.extent);
        let channels = extent.channels;
        let centre: Vec<f32> =
            (0..extent.segments).flat_map(|segment| (0..channels).map(move |c| norm.mean(segment, c) as f32)).collect();
        let tasks = Task::all(extent);
        let partial = backwards(&tasks, |task| {
            let mut sums = Sums::none(channels);
            let at = task.values(extent);
            let mean = &centre[task.segment * channels..][..channels];
            let mask = relu.mask(task, extent);
            // SAFETY: the CPU has the chosen instructions.
            unsafe { lanes::run(norm.isa, AddSums { x: &x[at.clone()], g: &g[at], mask, mean, sums: &mut sums }) };
            sums
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
            let mean = norm.mean(i / channels, i % channels);
            sums.g_deviation[i] += (f64::from(rounded) - mean) * sums.g[i];
        }
        sums
    }

    fn daffine(&self, sums: &Sums) -> Result<Tensor> {
        let (channels, segments) = (self.norm.extent.channels, self.norm.extent.segments);
        let mut daffine = vec![0f64; 2 * channels];
        for segment in 0..segments {
            for c in 0..channels {
                let i = segment * channels + c;
                daffine[c] += sums.g_deviation[i] * self.norm.inverse_deviation(segment, c);
                daffine[channels + c] += sums.g[i];
            }
        }
        let daffine: Vec<f32> = daffine.into_iter().map(|value| value as f32).collect();
        Tensor::from_vec(daffine, (2, channels), &Device::Cpu)
    }

    /// The second pass: `dx = weight * g / deviation + a * (x - mean) + b`.
    fn dx<N: Element>(&self, x: &[N], g: &[N], relu: Relu<N>, sums: Option<&Sums>) -> Result<Vec<N>> {
        let (norm, extent) = (&self.norm, self.norm.extent);
        let channels = extent.channels;
        let affine = values(&self.affine)?;
        let weight = &affine[..channels];
        let factor: Vec<f32> = (0..extent.segments)
            .flat_map(|segment| {
                (0..channels).map(move |c| (f64::from(weight[c]) * norm.inverse_deviation(segment, c)) as f32)
            })
            .collect();
        let lines = sums.filter(|_| self.of_x).map(|sums| {
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
            Lines::new(extent, |segment, c| {
                let inverse = norm.inverse_deviation(segment, c);
                let group = segment * extent.groups + c / extent.width();
                [norm.mean(segment, c), -inverse.powi(3) * g_deviation[group], -inverse * g[group]]
            })
        });
        let stream = bypasses_caches::<N>(g.len());
        norm.write(g.len(), |task, dx| {
            let at = task.values(extent);
            let factor = &factor[task.segment * channels..][..channels];
            let line = lines.as_ref().map(|lines| lines.of(task.segment, channels));
            let mask = relu.mask(task, extent);
            // SAFETY: the CPU has the chosen instructions.
            unsafe { lanes::run(norm.isa, Gradient { x: &x[at.clone()], g: &g[at], mask, factor, line, dx, stream }) };
        })
    }
}
