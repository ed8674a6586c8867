//! What the CPU kernels share: splitting work, writing one buffer from many tasks, scratch memory.

use super::number::Plain;
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

/// Whether an output of `len` numbers `N` is better written past the caches: when somebody reads it, its beginning has
/// left them anyway, and a cache reads the lines from memory that it is going to write.
pub(crate) fn bypasses_caches<N>(len: usize) -> bool {
    len * size_of::<N>() >= 1 << 25
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

/// Bytes of a cache line, so that no vector access of a scratch buffer crosses one.
pub(crate) const LINE: usize = 64;

/// Numbers of any type that begin at a cache line.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    /// The first line begins somewhere in the first [`LINE`] bytes. Zeros of a plain type come from `calloc`, so that
    /// whoever writes a page first, in whichever thread, is who waits for it.
    memory: Vec<f32>,
}

impl Aligned {
    /// `len` zeros.
    pub(crate) fn zeros<N: Plain>(len: usize) -> Self {
        let bytes = (len * size_of::<N>()).next_multiple_of(LINE) + LINE;
        Aligned { memory: vec![0.; bytes / size_of::<f32>()] }
    }

    /// Where the first line begins.
    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(LINE).min(self.memory.len())
    }

    fn bytes(&self) -> usize {
        size_of_val(self.memory.as_slice()).saturating_sub(LINE)
    }

    /// How many there are.
    fn len<N: Plain>(&self) -> usize {
        self.bytes() / size_of::<N>()
    }

    /// All of them, and what fills the last cache line.
    pub(crate) fn numbers<N: Plain>(&self) -> &[N] {
        let memory = &self.memory[self.start()..];
        // SAFETY: at least `bytes` follow the first line's beginning, which is aligned for any number, and any bits are
        // a number (see `Plain`).
        unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<N>(), self.len::<N>()) }
    }

    /// As [`Self::numbers`].
    pub(crate) fn numbers_mut<N: Plain>(&mut self) -> &mut [N] {
        let (start, len) = (self.start(), self.len::<N>());
        let memory = &mut self.memory[start..];
        // SAFETY: as above, and they are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<N>(), len) }
    }
}

/// A thread keeps no scratch buffer of more bytes.
const KEPT_BYTES: usize = 64 << 20;

thread_local! { static SCRATCH: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) }; }

/// A buffer of numbers, with arbitrary finite or non-finite content at first. Each thread keeps its buffers, because the page
/// faults of a fresh one cost as much as the arithmetic on it. While one is in use it is not in the thread's store: the
/// thread may take another one, also in a task that it runs meanwhile.
pub(crate) struct Scratch<N: Plain> {
    buffer: Aligned,
    len: usize,
    numbers: PhantomData<N>,
}

impl<N: Plain> Scratch<N> {
    /// Of `len` numbers.
    pub(crate) fn of(len: usize) -> Self {
        let mut buffer = SCRATCH.with_borrow_mut(|store| store.pop()).unwrap_or_default();
        if buffer.len::<N>() < len {
            buffer = Aligned::zeros::<N>(len);
        }
        Scratch { buffer, len, numbers: PhantomData }
    }
}

impl<N: Plain> Deref for Scratch<N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        &self.buffer.numbers()[..self.len]
    }
}

impl<N: Plain> DerefMut for Scratch<N> {
    fn deref_mut(&mut self) -> &mut [N] {
        &mut self.buffer.numbers_mut()[..self.len]
    }
}

impl<N: Plain> Drop for Scratch<N> {
    fn drop(&mut self) {
        if self.buffer.bytes() <= KEPT_BYTES {
            let buffer = std::mem::take(&mut self.buffer);
            SCRATCH.with_borrow_mut(|store| store.push(buffer));
        }
    }
}

/// Lends `f` a [`Scratch`].
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    with_scratch_of(len, f)
}

/// [`with_scratch`] of other numbers.
pub(crate) fn with_scratch_of<N: Plain, R>(len: usize, f: impl FnOnce(&mut [N]) -> R) -> R {
    f(&mut Scratch::of(len))
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
