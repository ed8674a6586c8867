//! Each channel on its own: no product to tile, so a channel vector is multiplied tap by tap.

use super::super::Problem;
use super::walk::{Piece, Walk};
use super::{Operands, TASKS};
use crate::ops::Isa;
use crate::ops::lanes::Element;
use crate::ops::parallel::{Disjoint, part, with_scratch};
use crate::ops::tasks;

/// Positions of a task.
const ROWS: usize = 64;

/// Writes all channels of the positions that `walk` visits.
pub(super) fn pass<N: Element>(isa: Isa, problem: &Problem, walk: &Walk, operands: Operands<N>) {
    let Operands { source, weight, finish, target, observed } = operands;
    let channels = problem.channels;
    let (pieces, filters) = (pieces(walk, channels), by_tap(problem, walk, weight.values));
    tasks::for_each_init(walk.len().div_ceil(ROWS), Vec::new, |rows, task| {
        walk.rows(task * ROWS..((task + 1) * ROWS).min(walk.len()), rows);
        with_scratch(channels, |sums| {
            for row in &*rows {
                sums.fill(0.0);
                for (piece, filter) in pieces.iter().zip(filters.chunks_exact(channels)) {
                    if let Some((_, range)) = walk.read(row, piece, channels, 0) {
                        add_product(isa, sums, &source[range], filter);
                    }
                }
                if let Some(finish) = finish {
                    finish.row(sums, 0, row.target * channels);
                }
                // SAFETY: no other task has this position.
                let target = unsafe { target.slice(row.target * channels..(row.target + 1) * channels) };
                target.iter_mut().zip(&*sums).for_each(|(y, sum)| *y = N::narrow(*sum));
            }
        });
        if let Some(observed) = observed {
            let targets: Vec<usize> = rows.iter().map(|row| row.target * channels).collect();
            // SAFETY: this task has written these positions.
            unsafe { observed.add(isa, target, &targets, 0, channels) }
        }
    });
}

/// `dw[C, 1, taps]`.
pub(super) fn weight_gradient<N: Element>(isa: Isa, problem: &Problem, walk: &Walk, x: &[N], dy: &[N], dw: Disjoint) {
    let (channels, taps) = (problem.channels, walk.kernel_taps(problem.kernel));
    let pieces = pieces(walk, channels);
    let len = taps.len() * channels;
    let splits = walk.len().div_ceil(ROWS).clamp(1, TASKS);
    with_scratch(splits * len, |sums| {
        tasks::for_each_chunk_init(sums, len, Vec::new, |rows, split, sums| {
            sums.fill(0.0);
            walk.rows(part(walk.len(), splits, split), rows);
            for row in rows {
                let dy = &dy[row.target * channels..][..channels];
                for (piece, sums) in pieces.iter().zip(sums.chunks_exact_mut(channels)) {
                    if let Some((_, range)) = walk.read(row, piece, channels, 0) {
                        add_product(isa, sums, &x[range], dy);
                    }
                }
            }
        });
        // SAFETY: this is the only writer.
        let dw = unsafe { dw.slice(0..channels * problem.taps()) };
        dw.fill(0.0);
        for (i, &tap) in taps.iter().enumerate() {
            for channel in 0..channels {
                let of_split = |split: usize| sums[split * len + i * channels + channel];
                dw[channel * problem.taps() + tap] = (0..splits).map(of_split).sum();
            }
        }
    });
}

/// One piece a tap, each with all channels.
fn pieces(walk: &Walk, channels: usize) -> Vec<Piece> {
    walk.pieces(channels, false, channels, 1)
}

/// The weight `[C, 1, taps]` as `[tap of the walk, C]`.
fn by_tap(problem: &Problem, walk: &Walk, weight: &[f32]) -> Vec<f32> {
    let filters = |tap: usize| weight.chunks_exact(problem.taps()).map(move |filter| filter[tap]);
    walk.kernel_taps(problem.kernel).into_iter().flat_map(filters).collect()
}

/// `sums += x * y`, element by element.
fn add_product<X: Element, Y: Element>(isa: Isa, sums: &mut [f32], x: &[X], y: &[Y]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: callers pass an instruction set that the CPU has.
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => unsafe { add_product_avx512(sums, x, y) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { add_product_avx2(sums, x, y) },
        _ => add_product_of(|sum, x, y| sum + x * y, sums, x, y),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn add_product_avx512<X: Element, Y: Element>(sums: &mut [f32], x: &[X], y: &[Y]) {
    add_product_of(|sum, x, y| x.mul_add(y, sum), sums, x, y);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_product_avx2<X: Element, Y: Element>(sums: &mut [f32], x: &[X], y: &[Y]) {
    add_product_of(|sum, x, y| x.mul_add(y, sum), sums, x, y);
}

#[inline(always)]
fn add_product_of<X: Element, Y: Element>(of: impl Fn(f32, f32, f32) -> f32, sums: &mut [f32], x: &[X], y: &[Y]) {
    for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
        *sum = of(*sum, x.wide(), y.wide());
    }
}
