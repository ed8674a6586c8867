//! The maximum on the CPU. Beside each maximum the forward pass keeps, in a byte, which cell of its box it is.

use super::cpu::Cells;
use super::{Axis, Bin, Plan};
use crate::ops::Isa;
use crate::ops::lanes::{self, Element, Kernel, Lanes};
use crate::ops::node::{TASK, record, values_of};
use crate::ops::parallel::{Disjoint, bypasses_caches, output};
use crate::ops::tasks;
use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// Cells of the largest box that there may be.
pub(super) const CELLS: usize = 1 << u8::BITS;

pub(super) fn max<N: Element>(x: &Tensor, plan: Plan) -> Result<Tensor> {
    let isa = Isa::chosen()?;
    let x = x.contiguous()?;
    let (y, winners) = forward::<N>(isa, &values_of(&x)?, &plan)?;
    let (shape, input) = (plan.shape.clone(), x.shape().clone());
    record("pool", [&x], y, shape, move |dy| {
        let dx = backward::<N>(isa, &values_of(dy)?, &winners, &plan)?;
        Ok([Some(Tensor::from_vec(dx, input.clone(), &Device::Cpu)?)])
    })
}

/// The maxima, and for each the number of its cell within its box.
fn forward<N: Element>(isa: Isa, x: &[N], plan: &Plan) -> Result<(Vec<N>, Vec<u8>)> {
    let to = Cells::output(plan);
    let (rows, row) = (to.rows(plan), to.width * plan.channels);
    let mut winners = vec![0; rows * row];
    // SAFETY: the tasks have all rows between them, and a row writes all its values.
    let y = unsafe {
        output(winners.len(), |y| {
            let per_task = rows_a_task(row);
            tasks::for_each_chunk(&mut winners, per_task * row, |task, winners| {
                for (i, winners) in winners.chunks_exact_mut(row).enumerate() {
                    let number = task * per_task + i;
                    // SAFETY: no two tasks share a row.
                    let y = y.slice(number * row..(number + 1) * row);
                    // SAFETY: the CPU has the chosen instructions.
                    lanes::run(isa, Maxima { x, plan, row: number, y, winners });
                }
            });
        })
    }?;
    Ok((y, winners))
}

fn backward<N: Element>(isa: Isa, dy: &[N], winners: &[u8], plan: &Plan) -> Result<Vec<N>> {
    let from = Cells::input(plan);
    let (rows, row) = (from.rows(plan), from.width * plan.channels);
    let [depths, heights, widths] = plan.axes.each_ref().map(Axis::covering);
    let over = Covering { depths, heights, widths };
    let per_task = rows_a_task(row);
    let write = |dx: Disjoint<N>| {
        tasks::for_each(rows.div_ceil(per_task), |task| {
            let rows = task * per_task..((task + 1) * per_task).min(rows);
            // SAFETY: no two tasks share a row.
            let dx = unsafe { dx.slice(rows.start * row..rows.end * row) };
            let stream = bypasses_caches::<N>(from.rows(plan) * row);
            // SAFETY: the CPU has the chosen instructions.
            unsafe { lanes::run(isa, Spread { dy, winners, plan, over: &over, rows, dx, stream }) };
        });
    };
    // SAFETY: the tasks have all rows between them, and write all their values.
    unsafe { output(rows * row, write) }
}

fn rows_a_task(row: usize) -> usize {
    (TASK / row.max(1)).max(1)
}

/// A row of maxima.
struct Maxima<'a, N> {
    x: &'a [N],
    plan: &'a Plan,
    row: usize,
    y: &'a mut [N],
    winners: &'a mut [u8],
}

impl<N: Element> Kernel for Maxima<'_, N> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Maxima { x, plan, row, y, winners } = self;
        let (from, channels) = (Cells::input(plan), plan.channels);
        let [depths, heights, widths] = plan.axes.each_ref().map(|axis| axis.bins.as_slice());
        let [sample, d, h] = Cells::output(plan).row(row);
        let x = &x[from.start(sample, 0, 0) * channels..from.start(sample + 1, 0, 0) * channels];
        assert!(y.len() == widths.len() * channels && winners.len() == y.len());
        for (cell, &width) in widths.iter().enumerate() {
            let bins = [depths[d], heights[h], width];
            assert!(bins[0].end <= from.depth && bins[1].end <= from.height && bins[2].end <= from.width);
            let mut c = 0;
            while c < channels {
                let (at, n) = (cell * channels + c, channels - c);
                // SAFETY: the caller's promise; the box lies in the sample (asserted), and no more than the `n` channels
                // behind `c` are touched.
                unsafe {
                    let (x, y, winners) = (x.as_ptr().add(c), y.as_mut_ptr().add(at), winners.as_mut_ptr().add(at));
                    if n >= VECTORS * L::WIDTH {
                        maximum::<N, L, VECTORS>(x, &from, bins, channels, n, y, winners);
                        c += VECTORS * L::WIDTH;
                    } else {
                        maximum::<N, L, 1>(x, &from, bins, channels, n, y, winners);
                        c += L::WIDTH;
                    }
                }
            }
        }
    }
}

/// Vectors of channels at a time: so many comparisons need not wait for one another.
const VECTORS: usize = 4;

/// The maxima over a box for `V` vectors of channels, the last of which has `n` channels left, or more.
///
/// # Safety
/// The CPU has the instructions of `L`; the box lies in the sample at `x`, whose cells have so many `channels`.
#[inline(always)]
unsafe fn maximum<N: Element, L: Lanes, const V: usize>(
    x: *const N,
    from: &Cells,
    [depth, height, width]: [Bin; 3],
    channels: usize,
    n: usize,
    y: *mut N,
    winners: *mut u8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut best = [(L::splat(f32::NEG_INFINITY), L::splat(0.)); V];
        let mut number = 0.;
        for d in depth.start..depth.end {
            for h in height.start..height.end {
                let first = from.start(0, d, h);
                for w in width.start..width.end {
                    let (x, tap) = (x.add((first + w) * channels), L::splat(number));
                    for (v, best) in best.iter_mut().enumerate() {
                        *best = L::greater(*best, N::load_first(x.add(v * L::WIDTH), n), tap);
                    }
                    number += 1.;
                }
            }
        }
        for (v, best) in best.into_iter().enumerate() {
            N::store_first(best.0, y.add(v * L::WIDTH), n);
            best.1.store_taps(winners.add(v * L::WIDTH), n);
        }
    }
}

/// For each input cell of an axis, the boxes that hold it.
struct Covering {
    depths: Vec<Range<usize>>,
    heights: Vec<Range<usize>>,
    widths: Vec<Range<usize>>,
}

/// Rows of input cells, each of which gets the gradients of the boxes that it won.
struct Spread<'a, N> {
    dy: &'a [N],
    winners: &'a [u8],
    plan: &'a Plan,
    over: &'a Covering,
    rows: Range<usize>,
    dx: &'a mut [N],
    stream: bool,
}

impl<N: Element> Kernel for Spread<'_, N> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Spread { dy, winners, plan, over, rows, dx, stream } = self;
        let (from, to, channels) = (Cells::input(plan), Cells::output(plan), plan.channels);
        let [depths, heights, widths] = plan.axes.each_ref().map(|axis| axis.bins.as_slice());
        assert!(dx.len() == rows.len() * from.width * channels && winners.len() == dy.len());
        assert!(dy.len() == to.rows(plan) * to.width * channels);
        // Where the gradients of the boxes that hold a cell lie, and its number in each.
        let mut boxes: Vec<(usize, u8)> = Vec::new();
        for (i, row) in rows.enumerate() {
            let [sample, d, h] = from.row(row);
            for w in 0..from.width {
                boxes.clear();
                for od in over.depths[d].clone() {
                    for oh in over.heights[h].clone() {
                        let first = to.start(sample, od, oh);
                        let tap = ((d - depths[od].start) * heights[oh].len() + h - heights[oh].start) as u8;
                        for ow in over.widths[w].clone() {
                            let width = widths[ow];
                            // In a byte: a box has `CELLS` cells at the most.
                            let tap = tap.wrapping_mul(width.len() as u8).wrapping_add((w - width.start) as u8);
                            boxes.push(((first + ow) * channels, tap));
                        }
                    }
                }
                for c in (0..channels).step_by(L::WIDTH) {
                    let (at, n) = ((i * from.width + w) * channels + c, channels - c);
                    // SAFETY: the caller's promise; the boxes are output cells, and no more than the `n` channels
                    // behind `c` are touched.
                    unsafe {
                        let mut sum: L = L::splat(0.);
                        for &(first, tap) in &boxes {
                            let dy: L = N::load_first(dy.as_ptr().add(first + c), n);
                            sum = sum.add(dy.where_tap(winners.as_ptr().add(first + c), n, tap));
                        }
                        match stream {
                            true => N::stream_first(sum, dx.as_mut_ptr().add(at), n),
                            false => N::store_first(sum, dx.as_mut_ptr().add(at), n),
                        }
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { L::fence() };
    }
}
