//! From sums in f32 to the numbers of a map.

use super::finish::{FinishFrom, write_one, write_vector};
use crate::ops::lanes::{Element, Kernel, Lanes};

/// Writes the sums of some rows and columns, and what follows them.
pub(in super::super) struct Round<'a, N> {
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
                let sums = self.sums.add(*line);
                let whole = self.columns / L::WIDTH * L::WIDTH;
                for column in (0..whole).step_by(L::WIDTH) {
                    write_vector(&self.finish, L::load(sums.add(column)), column, row + column, self.target);
                }
                for column in whole..self.columns {
                    write_one(&self.finish, *sums.add(column), column, row + column, self.target);
                }
            }
        }
    }
}
