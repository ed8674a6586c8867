//! What this machine can do at most.

use std::time::Instant;
use zoo::ops::{Isa, ceiling};

/// Some 10 ms of a core.
const ROUNDS: usize = 1 << 22;
const REPS: usize = 10;

/// GFLOP/s of all threads that multiply and add in registers alone: the best of a few short runs.
pub(super) fn gflop_s(isa: Isa) -> f64 {
    let once = || {
        let begun = Instant::now();
        let operations: u64 = rayon::broadcast(|_| ceiling::multiply_add(isa, ROUNDS)).into_iter().sum();
        operations as f64 / begun.elapsed().as_secs_f64() / 1e9
    };
    (0..REPS).map(|_| once()).fold(0., f64::max)
}
