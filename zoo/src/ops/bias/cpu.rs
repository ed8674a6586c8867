//! The bias in one pass, and its gradient in one pass of fixed chunks.

use crate::ops::node::fill;
use crate::ops::number::Number;
use crate::ops::tasks;

/// Numbers of a task.
const CHUNK: usize = 1 << 15;

/// `x[.., C] + bias[C]`.
pub(super) fn add_bias<N: Number>(x: &[N], bias: &[f32]) -> Vec<N> {
    let chunk = rows_of_chunk(bias.len()) * bias.len().max(1);
    fill(x.len(), chunk, |i, y: &mut [N]| {
        let x = &x[i * chunk..][..y.len()];
        for (y, x) in y.chunks_exact_mut(bias.len().max(1)).zip(x.chunks_exact(bias.len().max(1))) {
            for ((y, x), bias) in y.iter_mut().zip(x).zip(bias) {
                *y = N::narrow(x.wide() + bias);
            }
        }
    })
}

/// The sum of the rows of `x[.., channels]`; chunks are summed in their order, whatever the threads.
pub(super) fn sum_of_rows<N: Number>(x: &[N], channels: usize) -> Vec<f32> {
    let rows = rows_of_chunk(channels) * channels.max(1);
    let sum = |chunk: usize| {
        let rows = &x[chunk * rows..x.len().min((chunk + 1) * rows)];
        let mut sums = vec![0f32; channels];
        rows.chunks_exact(channels).for_each(|row| add(&mut sums, row));
        sums
    };
    let partial = tasks::map(x.len().div_ceil(rows), sum);
    let mut sums = vec![0f32; channels];
    partial.iter().for_each(|part| add(&mut sums, part));
    sums
}

fn rows_of_chunk(channels: usize) -> usize {
    (CHUNK / channels.max(1)).max(1)
}

fn add<N: Number>(sums: &mut [f32], row: &[N]) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += x.wide();
    }
}
