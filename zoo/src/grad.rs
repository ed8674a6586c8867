//! Whether operations record a graph.
//!
//! candle records one whenever an operand descends from a `Var`, in evaluation too, which keeps every
//! activation alive. Inside [`no_grad`] the layers of this crate read their parameters detached, so
//! nothing is recorded and memory is freed as the forward pass goes.

pub use crate::ops::{backward, segment};

use candle_core::Tensor;
use std::cell::Cell;

thread_local! { static RECORDING: Cell<bool> = const { Cell::new(true) }; }

/// Runs `f` without recording a graph on this thread, as `torch.no_grad()`.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(false));
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
