//! Where the time of training goes: which kind of op took how long, in which pass.
//!
//! Where nobody collects, a timer costs a look at a flag of its thread.

use crate::grad::is_recomputing;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// A pass of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// From the samples to the loss.
    Forward,
    /// The forward pass once more, see [`checkpoint`](super::checkpoint()).
    Recomputation,
    /// From the loss to the gradients, where it is not one of the next two.
    Backward,
    /// The gradient of a convolution's input.
    DataGradient,
    /// The gradient of a convolution's weight.
    WeightGradient,
    /// From the gradients to new parameters.
    Update,
}

/// How long one kind of work took, without the kinds inside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// `convolution`, `norm`, ..
    pub kind: &'static str,
    /// The pass that it was done in.
    pub pass: Pass,
    /// All of it.
    pub time: Duration,
}

thread_local! {
    static COLLECTING: Cell<bool> = const { Cell::new(false) };
    static PARTS: RefCell<Vec<Part>> = const { RefCell::new(Vec::new()) };
    /// What the timers took that ran since the innermost running one started.
    static INSIDE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs `f`, and says where its time went on this thread.
pub fn collect<R>(f: impl FnOnce() -> R) -> (R, Vec<Part>) {
    let _switch = Switch(COLLECTING.replace(true));
    let outer = PARTS.take();
    let result = f();
    (result, PARTS.replace(outer))
}

/// Runs `f` without collecting what it takes.
pub fn pause<R>(f: impl FnOnce() -> R) -> R {
    let _switch = Switch(COLLECTING.replace(false));
    f()
}

/// Puts the flag back as it was.
struct Switch(bool);

impl Drop for Switch {
    fn drop(&mut self) {
        COLLECTING.set(self.0);
    }
}

/// Measures until it is dropped.
#[must_use = "it measures until it is dropped"]
pub struct Timer(Option<Running>);

struct Running {
    kind: &'static str,
    pass: Pass,
    begun: Instant,
    /// What the timers took that ran before this one, inside of the same outer one.
    before: Duration,
}

/// Starts to measure a kind of work.
pub fn start(kind: &'static str, pass: Pass) -> Timer {
    Timer(COLLECTING.get().then(|| Running {
        kind,
        pass,
        begun: Instant::now(),
        before: INSIDE.replace(Duration::ZERO),
    }))
}

/// Starts to measure an op's way forward.
pub(crate) fn forward(kind: &'static str) -> Timer {
    start(kind, if is_recomputing() { Pass::Recomputation } else { Pass::Forward })
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(Running { kind, pass, begun, before }) = self.0.take() else { return };
        let whole = begun.elapsed();
        let time = whole.saturating_sub(INSIDE.replace(before + whole));
        PARTS.with_borrow_mut(|parts| match parts.iter_mut().find(|part| part.kind == kind && part.pass == pass) {
            Some(part) => part.time += time,
            None => parts.push(Part { kind, pass, time }),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    fn work(kind: &'static str, inside: impl FnOnce()) {
        let _timer = start(kind, Pass::Forward);
        sleep(Duration::from_millis(2));
        inside();
    }

    #[test]
    fn the_parts_do_not_overlap() {
        let begun = Instant::now();
        let ((), parts) = collect(|| {
            work("outer", || {
                work("inner", || {});
                work("inner", || work("innermost", || {}));
                pause(|| work("unseen", || {}));
            });
            work("inner", || {});
        });
        let whole = begun.elapsed();
        let kinds: Vec<_> = parts.iter().map(|part| part.kind).collect();
        assert_eq!(kinds, ["inner", "innermost", "outer"]);
        let least =
            |kind| Duration::from_millis(2 * if kind == "outer" { 2 } else { 1 + 2 * u64::from(kind == "inner") });
        assert!(parts.iter().all(|part| part.time >= least(part.kind)), "{parts:?}");
        assert!(parts.iter().map(|part| part.time).sum::<Duration>() <= whole, "{parts:?} of {whole:?}");
        work("unseen", || {});
        assert!(collect(|| ()).1.is_empty());
    }

    #[test]
    fn ops_say_what_they_are() -> candle_core::Result<()> {
        use crate::ops::oracle::normal;
        use crate::ops::{Activation, Epilogue, Geometry, MaxPool, batch_norm, checkpoint, conv, max_pool};
        let x = candle_core::Var::from_tensor(&normal(&[1, 6, 6, 4], 1))?;
        let weight = candle_core::Var::from_tensor(&normal(&[4, 4, 1, 1], 2))?;
        let run = move |x: &candle_core::Tensor| {
            let y = conv(x, weight.as_tensor(), &Geometry::<2>::default())?;
            let affine = normal(&[2, 4], 3);
            let y = Activation::Silu.forward(&batch_norm(&y, &affine, 1e-5, Epilogue::default())?.0)?;
            max_pool(&y, &MaxPool { kernel: [2; 2], stride: [2; 2], padding: [0; 2] })
        };
        let (result, parts) = collect(|| checkpoint(&x, run)?.sum_all()?.backward());
        result?;
        for kind in ["convolution", "norm", "activation", "pool"] {
            let passes: Vec<Pass> = parts.iter().filter(|part| part.kind == kind).map(|part| part.pass).collect();
            assert!(passes.starts_with(&[Pass::Forward, Pass::Recomputation]), "{kind}: {passes:?}");
            assert_eq!(passes[2..].contains(&Pass::WeightGradient), kind == "convolution", "{kind}: {passes:?}");
            assert!(passes.contains(&Pass::Backward), "{kind}: {passes:?}");
        }
        Ok(())
    }
}
