//! From sums in f32 to the numbers of a map.

use super::finish::FinishFrom;
use crate::ops::lanes::{Element, Kernel, Lanes};

/// Writes the sums of some rows and columns, and what follows them.
pub(super) struct Round<'a, N> {
    pub sums: *const f32,
    /// For each row, where its sums start.
    pub lines: &'a [usize],
    pub target: *mut N,
    /// For each row, where it starts in the target.
    pub rows: &'a [usize],
    pub columns: usize,
    pub finish: Option<FinishFrom<N>>,
}

impl<N: Element> Kernel for Round<'_, N> {
    /// # Safety
    /// `sums`, `target` and what `finish` reads are there for the rows and columns.
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            for (line, row) in self.lines.iter().zip(self.rows) {
                let (sums, target) = (self.sums.add(*line), self.target.add(*row));
                let whole = self.columns / L::WIDTH * L::WIDTH;
                for column in (0..whole).step_by(L::WIDTH) {
                    let sum = L::load(sums.add(column));
                    match &self.finish {
                        None => N::store(sum, target.add(column)),
                        Some(finish) => N::store(finish.vector(sum, column, row + column), target.add(column)),
                    }
                }
                for column in whole..self.columns {
                    let sum = *sums.add(column);
                    *target.add(column) = N::narrow(match &self.finish {
                        None => sum,
                        Some(finish) => finish.one(sum, column, row + column),
                    });
                }
            }
        }
    }
}
