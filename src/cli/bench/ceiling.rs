//! What this machine can do at most.

use crate::experiment::Precision;
use rayon::prelude::*;
use std::time::Instant;
use zoo::ops::{Isa, ceiling};

/// Some 30 ms of a core; of one with AMX, whose rounds are longer, about as many.
fn rounds(isa: Isa) -> usize {
    if isa == Isa::Amx { 1 << 19 } else { 1 << 24 }
}

/// Numbers of a buffer that no cache holds: 256 MiB.
const LARGE: usize = 1 << 26;
const REPS: usize = 7;

/// GFLOP/s of all threads that multiply and add in registers alone: the best of a few short runs.
pub(super) fn gflop_s(isa: Isa, precision: Precision) -> f64 {
    let dtype = precision.dtype();
    let multiply_add = || rayon::broadcast(|_| ceiling::multiply_add(isa, dtype, rounds(isa))).into_iter().sum();
    best_per_nanosecond(multiply_add)
}

/// GB/s of all threads that copy main memory, read and written bytes both counted: the best of a few runs.
pub(super) fn copy_gb_s() -> f64 {
    let (from, mut to) = (vec![1f32; LARGE], vec![0f32; LARGE]);
    let part = LARGE.div_ceil(rayon::current_num_threads());
    best_per_nanosecond(|| {
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        2 * size_of_val(from.as_slice()) as u64
    })
}

/// How many of what `work` counts it does in a nanosecond.
fn best_per_nanosecond(mut work: impl FnMut() -> u64) -> f64 {
    let once = |_| {
        let begun = Instant::now();
        work() as f64 / begun.elapsed().as_secs_f64() / 1e9
    };
    (0..REPS).map(once).fold(0., f64::max)
}
