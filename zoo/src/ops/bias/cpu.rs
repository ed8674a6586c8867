//! The bias in one pass, and its gradient in one pass of fixed chunks.

use rayon::prelude::*;

/// Numbers of a task.
const CHUNK: usize = 1 << 15;

/// `x[.., C] + bias[C]`.
pub(super) fn add_bias(x: &[f32], bias: &[f32]) -> Vec<f32> {
    let mut y = x.to_vec();
    y.par_chunks_mut(rows_of_chunk(bias.len()) * bias.len().max(1)).for_each(|rows| {
        for row in rows.chunks_exact_mut(bias.len()) {
            add(row, bias);
        }
    });
    y
}

/// The sum of the rows of `x[.., channels]`; chunks are summed in their order, whatever the threads.
pub(super) fn sum_of_rows(x: &[f32], channels: usize) -> Vec<f32> {
    let sum = |rows: &[f32]| {
        let mut sums = vec![0f32; channels];
        rows.chunks_exact(channels).for_each(|row| add(&mut sums, row));
        sums
    };
    let partial: Vec<Vec<f32>> = x.par_chunks(rows_of_chunk(channels) * channels.max(1)).map(sum).collect();
    let mut sums = vec![0f32; channels];
    partial.iter().for_each(|part| add(&mut sums, part));
    sums
}

fn rows_of_chunk(channels: usize) -> usize {
    (CHUNK / channels.max(1)).max(1)
}

fn add(sums: &mut [f32], row: &[f32]) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += x;
    }
}
