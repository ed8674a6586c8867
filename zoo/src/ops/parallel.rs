//! What the CPU kernels share: splitting work, writing one buffer from many tasks, scratch memory.

use candle_core::{Error, Result};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// Part `i` of `parts` of `0..len`, as even as possible.
pub(crate) fn part(len: usize, parts: usize, i: usize) -> Range<usize> {
    len * i / parts..len * (i + 1) / parts
}

/// A buffer that tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, N = f32> {
    start: *mut N,
    len: usize,
    borrow: PhantomData<&'a mut [N]>,
}

// SAFETY: the only ways to the memory are `slice` and `at`, whose callers promise that no two tasks touch
// the same element.
unsafe impl<N: Send> Send for Disjoint<'_, N> {}
// SAFETY: as above.
unsafe impl<N: Send> Sync for Disjoint<'_, N> {}

impl<'a, N> Disjoint<'a, N> {
    /// Lends `buffer` to tasks.
    pub(crate) fn new(buffer: &'a mut [N]) -> Self {
        Disjoint { start: buffer.as_mut_ptr(), len: buffer.len(), borrow: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the slice lives, nothing else touches these elements, and where the buffer came from
    /// [`output`] they are only written.
    #[expect(clippy::mut_from_ref, reason = "the caller promises what the borrow checker cannot see")]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [N] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} outside of {}", self.len);
        // SAFETY: inside the buffer (asserted), and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The address of element `index`, for a kernel that writes `span` elements from there on.
    pub(crate) fn at(&self, index: usize, span: usize) -> *mut N {
        assert!(index + span <= self.len, "{index} + {span} outside of {}", self.len);
        // SAFETY: inside the buffer (asserted).
        unsafe { self.start.add(index) }
    }
}

/// Whether an output of `len` numbers is better written past the caches: when somebody reads it, its beginning has left
/// them anyway, and a cache reads the lines from memory that it is going to write.
pub(crate) fn bypasses_caches(len: usize) -> bool {
    len >= 1 << 23
}

/// A new buffer that `write` fills: large outputs are not zeroed only to be overwritten.
///
/// # Errors
/// Where the memory cannot be had.
///
/// # Safety
/// `write` writes each of the `len` elements, and reads none before it wrote it.
pub(crate) unsafe fn output<N>(len: usize, write: impl FnOnce(Disjoint<N>)) -> Result<Vec<N>> {
    let mut buffer: Vec<N> = Vec::new();
    if buffer.try_reserve_exact(len).is_err() {
        let size = 8 * size_of::<N>();
        return Err(Error::Msg(format!(
            "no memory for {len} numbers of {size} bits: use a smaller batch or a smaller input"
        )));
    }
    write(Disjoint { start: buffer.as_mut_ptr(), len, borrow: PhantomData });
    // SAFETY: the capacity was reserved above, and `write` wrote every element.
    unsafe { buffer.set_len(len) };
    Ok(buffer)
}

/// One cache line, so that no vector access of a scratch buffer crosses one.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
struct Line([f32; LINE]);
const LINE: usize = 16;

/// Numbers that begin at a cache line, to be kept.
#[derive(Debug)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// Zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        Aligned { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is exactly `LINE` f32 without padding, and `lines` holds at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast::<f32>(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and they are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<f32>(), self.len) }
    }
}

/// A thread keeps no scratch buffer larger than this (in lines: 64 MiB).
const KEPT_LINES: usize = 1 << 20;

thread_local! { static SCRATCH: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) }; }

/// Lends `f` a buffer of `len` numbers with arbitrary finite or non-finite content. Each thread keeps
/// its buffers, because the page faults of a fresh one cost as much as the arithmetic on it.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // The buffer leaves the thread's store while in use, so `f` may call `with_scratch` too, also through
    // a task that the thread pool runs on this thread meanwhile.
    let mut lines = SCRATCH.with_borrow_mut(|store| store.pop()).unwrap_or_default();
    if lines.len() < len.div_ceil(LINE) {
        lines = vec![Line([0.0; LINE]); len.div_ceil(LINE)];
    }
    // SAFETY: a `Line` is exactly `LINE` f32 without padding, and `lines` holds at least `len` of them.
    let result = f(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), len) });
    if lines.len() <= KEPT_LINES {
        SCRATCH.with_borrow_mut(|store| store.push(lines));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole_without_overlap() {
        for (len, parts) in [(10, 3), (3, 7), (0, 2), (14, 1)] {
            let joined: Vec<usize> = (0..parts).flat_map(|i| part(len, parts, i)).collect();
            assert_eq!(joined, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nested_scratch_buffers_are_distinct_and_reused() {
        let address = |buffer: &mut [f32]| buffer.as_ptr() as usize;
        let (outer, inner) = with_scratch(100, |a| (address(a), with_scratch(100, |b| address(b))));
        assert_ne!(outer, inner);
        assert_eq!(outer % 64, 0);
        let again = with_scratch(100, |a| (address(a), with_scratch(100, |b| address(b))));
        assert_eq!((outer, inner), again);
    }
}
