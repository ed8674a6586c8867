//! Matrices with rows and columns exchanged.

use super::Isa;
use super::lanes::{self, Kernel, Lanes, WIDEST};

/// Writes `to[column * to_pitch + row] = from[row * from_pitch + column]` for each of the rows and columns.
///
/// # Panics
/// Where `from` ends before the last row does.
///
/// # Safety
/// `to` has space for the columns, and nobody else touches them.
pub(in crate::ops) unsafe fn transpose(
    isa: Isa,
    [rows, columns]: [usize; 2],
    from: &[f32],
    from_pitch: usize,
    to: *mut f32,
    to_pitch: usize,
) {
    let len = (rows.max(1) - 1) * from_pitch + columns;
    let kernel = Transpose { rows, columns, from: from[..len].as_ptr(), from_pitch, to, to_pitch };
    // SAFETY: `from` holds the rows, and the caller promises the rest.
    unsafe { lanes::run(isa, kernel) }
}

struct Transpose {
    rows: usize,
    columns: usize,
    from: *const f32,
    from_pitch: usize,
    to: *mut f32,
    to_pitch: usize,
}

impl Kernel for Transpose {
    /// # Safety
    /// `from` holds the rows, and `to` has space for the columns.
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            for row in (0..self.rows).step_by(L::WIDTH) {
                for column in (0..self.columns).step_by(L::WIDTH) {
                    let (rows, columns) = (self.rows - row, self.columns - column);
                    let from = self.from.add(row * self.from_pitch + column);
                    let to = self.to.add(column * self.to_pitch + row);
                    let mut block = [L::splat(0.0); WIDEST];
                    if rows >= L::WIDTH && columns >= L::WIDTH {
                        for (i, line) in block.iter_mut().enumerate().take(L::WIDTH) {
                            *line = L::load(from.add(i * self.from_pitch));
                        }
                        for (i, line) in L::transpose(block).into_iter().enumerate().take(L::WIDTH) {
                            line.store(to.add(i * self.to_pitch));
                        }
                        continue;
                    }
                    for (i, line) in block.iter_mut().enumerate().take(rows.min(L::WIDTH)) {
                        *line = L::load_first(from.add(i * self.from_pitch), columns);
                    }
                    for (i, line) in L::transpose(block).into_iter().enumerate().take(columns.min(L::WIDTH)) {
                        line.store_first(to.add(i * self.to_pitch), rows);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_finds_its_place_and_no_other_is_touched() {
        for isa in Isa::available() {
            for rows in [1, 3, 4, 9, 16, 32, 37] {
                for columns in [1, 5, 8, 9, 16, 27, 144] {
                    let (from_pitch, to_pitch) = (columns + 3, rows + 2);
                    let from: Vec<f32> = (0..rows * from_pitch).map(|i| i as f32).collect();
                    let mut to = vec![-1f32; columns * to_pitch];
                    // SAFETY: there is space for the columns.
                    unsafe { transpose(isa, [rows, columns], &from, from_pitch, to.as_mut_ptr(), to_pitch) };
                    for (i, value) in to.into_iter().enumerate() {
                        let (column, row) = (i / to_pitch, i % to_pitch);
                        let expected = if row < rows { from[row * from_pitch + column] } else { -1.0 };
                        assert_eq!(value, expected, "{isa:?} {rows}x{columns} at {row}, {column}");
                    }
                }
            }
        }
    }
}
