//! What becomes of the sums before they are written.

use crate::ops::activation::cpu::rectify;
use crate::ops::lanes::{Element, Lanes};

/// `relu(scale * sum + shift + residual)`, for each output channel: a norm with given statistics, and what follows it.
#[derive(Clone, Copy)]
pub(in super::super) struct Finish<'a, N = f32> {
    /// `[O]`.
    pub scale: &'a [f32],
    /// `[O]`.
    pub shift: &'a [f32],
    /// As the result.
    pub residual: Option<&'a [N]>,
    pub relu: bool,
}

impl<N: Element> Finish<'_, N> {
    /// From `channel` on. What comes before `channel` in the target is no part of the offsets that follow.
    pub(super) fn from(&self, channel: usize) -> FinishFrom<N> {
        FinishFrom {
            scale: self.scale[channel..].as_ptr(),
            shift: self.shift[channel..].as_ptr(),
            residual: self.residual.map(|residual| residual[channel..].as_ptr()),
            relu: self.relu,
        }
    }

    /// The sums of one position, from number `target` of the result on.
    pub(super) fn row(&self, sums: &mut [f32], channel: usize, target: usize) {
        let residual = self.residual.map(|residual| &residual[target..][..sums.len()]);
        let (scale, shift) = (&self.scale[channel..][..sums.len()], &self.shift[channel..][..sums.len()]);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = finished(*sum, scale[i], shift[i], residual.map(|residual| residual[i]), self.relu);
        }
    }
}

#[inline(always)]
fn finished<N: Element>(sum: f32, scale: f32, shift: f32, residual: Option<N>, relu: bool) -> f32 {
    let y = scale * sum + shift + residual.map_or(0.0, N::wide);
    if relu { rectify(y) } else { y }
}

/// A [`Finish`] as kernels read it.
#[derive(Clone, Copy)]
pub(in super::super) struct FinishFrom<N = f32> {
    scale: *const f32,
    shift: *const f32,
    residual: Option<*const N>,
    relu: bool,
}

impl<N: Element> FinishFrom<N> {
    /// The vector of sums at `channel`, and at `target` of the result.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and a vector lies there, counted from the first channel.
    #[inline(always)]
    unsafe fn vector<L: Lanes>(&self, sum: L, channel: usize, target: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let mut y = L::load(self.shift.add(channel)).add_product(L::load(self.scale.add(channel)), sum);
            if let Some(residual) = self.residual {
                y = y.add(N::load(residual.add(target)));
            }
            if self.relu { y.rectify() } else { y }
        }
    }

    /// What is added to the sums, from the first channel on.
    pub(super) fn residual(&self) -> Option<*const N> {
        self.residual
    }

    /// One sum.
    ///
    /// # Safety
    /// A number lies at `channel` and at `target`, counted from the first channel.
    #[inline(always)]
    unsafe fn one(&self, sum: f32, channel: usize, target: usize) -> f32 {
        // SAFETY: the caller's promise.
        let [scale, shift] = [self.scale, self.shift].map(|values| unsafe { *values.add(channel) });
        // SAFETY: the caller's promise.
        finished(sum, scale, shift, self.residual.map(|residual| unsafe { *residual.add(target) }), self.relu)
    }
}

/// Writes the vector of sums at `channel`, and at `target` of the result, counted from the first channel `to`; what has to
/// become of it before, `finish` says.
///
/// # Safety
/// The CPU has the instructions of `L`, and a vector fits there, and lies where `finish` reads.
#[inline(always)]
pub(super) unsafe fn write_vector<L: Lanes, N: Element>(
    finish: &Option<FinishFrom<N>>,
    sum: L,
    channel: usize,
    target: usize,
    to: *mut N,
) {
    // SAFETY: the caller's promise.
    unsafe { N::store(finished_vector(finish, sum, channel, target), to.add(target)) }
}

/// What [`write_vector`] writes.
///
/// # Safety
/// As of [`write_vector`].
#[inline(always)]
pub(super) unsafe fn finished_vector<L: Lanes, N: Element>(
    finish: &Option<FinishFrom<N>>,
    sum: L,
    channel: usize,
    target: usize,
) -> L {
    match finish {
        None => sum,
        // SAFETY: the caller's promise.
        Some(finish) => unsafe { finish.vector(sum, channel, target) },
    }
}

/// As [`write_vector`], of one sum.
///
/// # Safety
/// As of [`write_vector`], of one number.
#[inline(always)]
pub(super) unsafe fn write_one<N: Element>(
    finish: &Option<FinishFrom<N>>,
    sum: f32,
    channel: usize,
    target: usize,
    to: *mut N,
) {
    // SAFETY: the caller's promise.
    unsafe {
        *to.add(target) = N::narrow(match finish {
            None => sum,
            Some(finish) => finish.one(sum, channel, target),
        });
    }
}
