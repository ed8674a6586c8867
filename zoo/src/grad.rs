//! Whether operations record a graph.
//!
//! candle records one whenever an operand descends from a `Var`, in evaluation too, which keeps every
//! activation alive. Inside [`no_grad`] the layers of this crate read their parameters detached, so
//! nothing is recorded and memory is freed as the forward pass goes.

pub use crate::ops::{backward, checkpoint, segment};

use candle_core::{Result, Tensor};
use std::cell::Cell;
use std::thread::LocalKey;

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
    static CHECKPOINTING: Cell<bool> = const { Cell::new(false) };
    static RECOMPUTING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without recording a graph on this thread, as `torch.no_grad()`.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with(&RECORDING, false, f)
}

/// Runs the forward pass `f` with each stage of a network as a [`checkpoint`]: in between, only the stages' outputs
/// are in memory, and the backward pass computes each stage once more.
pub fn checkpoint_stages<R>(f: impl FnOnce() -> R) -> R {
    with(&CHECKPOINTING, true, f)
}

/// Runs a network: `forward(x)`, as one [`segment`], unless its stages are checkpoints. candle then adds no gradients
/// between its parts.
///
/// # Errors
/// Those of `forward`.
pub fn network(x: &Tensor, forward: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if are_stages_checkpoints() { forward(x) } else { segment(x, forward) }
}

/// Whether stages are checkpoints.
pub(crate) fn are_stages_checkpoints() -> bool {
    CHECKPOINTING.get() && RECORDING.get()
}

/// Runs `f`, which ran before: what it leaves behind beside its result, as running statistics, it left then.
pub(crate) fn recompute<R>(f: impl FnOnce() -> R) -> R {
    with(&RECOMPUTING, true, f)
}

/// Whether what runs on this thread ran before, see [`checkpoint`].
pub fn is_recomputing() -> bool {
    RECOMPUTING.get()
}

/// Runs `f` with another value of a flag.
pub(crate) fn with<R>(flag: &'static LocalKey<Cell<bool>>, value: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(flag, flag.replace(value));
    f()
}

/// A parameter as a layer should read it now: tracked, or detached inside [`no_grad`].
pub fn parameter(parameter: &Tensor) -> Tensor {
    if RECORDING.get() { parameter.clone() } else { parameter.detach() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn no_grad_detaches_and_restores() -> candle_core::Result<()> {
        let weight = Var::new(&[1f32, 2.], &Device::Cpu)?;
        assert!(!no_grad(|| parameter(&weight)).track_op());
        assert!(parameter(&weight).track_op());
        Ok(())
    }
}
