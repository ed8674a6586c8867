//! The micro-kernel: a tile of the product stays in registers while the reduction runs.

use crate::ops::Isa;

/// One call: `c[rows, columns] (+)= a[rows, depth] * b[depth, columns]`.
pub(super) struct Tile {
    pub depth: usize,
    pub a: *const f32,
    /// `depth` lines of [`Isa::columns`] numbers.
    pub b: *const f32,
    pub c: *mut f32,
    /// For each row, where it starts, counted from `c`.
    pub rows: *const usize,
    /// At most [`Isa::columns`].
    pub columns: usize,
    /// Add to `c` rather than overwrite it.
    pub accumulate: bool,
}

/// Numbers from one row of a row-major `a` to the next: the longest reduction of one call, and a cache
/// line so that rows do not fall into the same cache set.
pub(super) const PITCH: usize = DEPTH + 16;

/// The longest reduction of one call with a row-major `a`: a panel of `b` stays in the first-level cache.
pub(super) const DEPTH: usize = 256;

impl Isa {
    /// Rows of the largest tile.
    pub(super) const fn rows(self) -> usize {
        match self {
            Isa::Avx512 => 14,
            Isa::Avx2 => 6,
            Isa::Portable => PORTABLE_ROWS,
        }
    }

    /// Columns of the largest tile: the width of a panel of `b`.
    pub(super) const fn columns(self) -> usize {
        match self {
            Isa::Avx512 => 32,
            Isa::Avx2 => 16,
            Isa::Portable => 8,
        }
    }

    /// Numbers from one step of a transposed `a` to the next.
    pub(super) const fn line(self) -> usize {
        self.rows().next_multiple_of(8)
    }
}

/// aarch64 has 32 vector registers, SSE2 has 16.
const PORTABLE_ROWS: usize = if cfg!(target_arch = "aarch64") { 12 } else { 6 };
const PORTABLE_LINE: usize = PORTABLE_ROWS.next_multiple_of(8);

/// `tile` with `m` rows of `a` at distance [`PITCH`].
///
/// # Safety
/// The pointers of `tile` are good for `m` rows, and the CPU has `isa`.
pub(super) unsafe fn multiply(isa: Isa, m: usize, tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { dispatch!(isa, m, tile, PITCH 1, PITCH 1, PITCH 1) }
}

/// `tile` with a transposed `a`: each step of the reduction holds the `m` rows side by side, at distance
/// [`Isa::line`].
///
/// # Safety
/// As of [`multiply`].
pub(super) unsafe fn multiply_transposed(isa: Isa, m: usize, tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { dispatch!(isa, m, tile, 1 16, 1 8, 1 PORTABLE_LINE) }
}

/// Picks the instance for the instruction set, the number of rows, and one or two vectors of columns.
macro_rules! dispatch {
    ($isa:expr, $m:expr, $tile:expr, $row512:tt $step512:tt, $row2:tt $step2:tt, $row:tt $step:tt) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => rows!(avx512, 16, $m, $tile, $row512, $step512; 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => rows!(avx2, 8, $m, $tile, $row2, $step2; 1 2 3 4 5 6),
            #[cfg(target_arch = "aarch64")]
            Isa::Portable => rows!(portable, 4, $m, $tile, $row, $step; 1 2 3 4 5 6 7 8 9 10 11 12),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Portable => rows!(portable, 4, $m, $tile, $row, $step; 1 2 3 4 5 6),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => unreachable!("an instruction set of x86-64"),
        }
    };
}
use dispatch;

macro_rules! rows {
    ($kernel:ident, $width:literal, $m:expr, $tile:expr, $row:tt, $step:tt; $($rows:literal)*) => {
        match ($m, $tile.columns <= $width) {
            $(($rows, true) => $kernel::<$rows, 1, $row, $step>($tile),
              ($rows, false) => $kernel::<$rows, 2, $row, $step>($tile),)*
            (m, _) => unreachable!("no tile has {m} rows"),
        }
    };
}
use rows;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const M: usize, const V: usize, const ROW: usize, const STEP: usize>(tile: &Tile) {
    // SAFETY: the caller's promise, and this function has the instructions.
    unsafe { run::<std::arch::x86_64::__m512, M, V, ROW, STEP>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const M: usize, const V: usize, const ROW: usize, const STEP: usize>(tile: &Tile) {
    // SAFETY: the caller's promise, and this function has the instructions.
    unsafe { run::<std::arch::x86_64::__m256, M, V, ROW, STEP>(tile) }
}

unsafe fn portable<const M: usize, const V: usize, const ROW: usize, const STEP: usize>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { run::<[f32; 4], M, V, ROW, STEP>(tile) }
}

/// A vector register.
trait Lanes: Copy {
    const WIDTH: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// `self + x * y`.
    unsafe fn add_product(self, x: Self, y: Self) -> Self;
}

/// `M` rows and `V` vectors of columns; element (i, k) of `a` lies at `i * ROW + k * STEP`.
#[inline(always)]
unsafe fn run<L: Lanes, const M: usize, const V: usize, const ROW: usize, const STEP: usize>(tile: &Tile) {
    // SAFETY: the caller has the instructions of `L`, and `tile` describes memory that is there: `a` and `b`
    // for `depth` steps, `c` for the rows and columns.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; M];
        let (mut a, mut b) = (tile.a, tile.b);
        for _ in 0..tile.depth {
            let line: [L; V] = std::array::from_fn(|v| L::load(b.add(v * L::WIDTH)));
            for (i, row) in sums.iter_mut().enumerate() {
                let x = L::splat(*a.add(i * ROW));
                for (sum, y) in row.iter_mut().zip(line) {
                    *sum = sum.add_product(x, y);
                }
            }
            a = a.add(STEP);
            b = b.add(2 * L::WIDTH);
        }
        if tile.columns == V * L::WIDTH {
            for (i, row) in sums.into_iter().enumerate() {
                let c = tile.c.add(*tile.rows.add(i));
                for (v, sum) in row.into_iter().enumerate() {
                    let c = c.add(v * L::WIDTH);
                    if tile.accumulate { L::load(c).add(sum).store(c) } else { sum.store(c) }
                }
            }
        } else {
            for (i, row) in sums.into_iter().enumerate() {
                let mut line = [0f32; 32];
                for (v, sum) in row.into_iter().enumerate() {
                    sum.store(line.as_mut_ptr().add(v * L::WIDTH));
                }
                let c = tile.c.add(*tile.rows.add(i));
                for (j, sum) in line.into_iter().enumerate().take(tile.columns) {
                    *c.add(j) = if tile.accumulate { *c.add(j) + sum } else { sum };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    // SAFETY of both: only called inlined into a function with the instructions, on memory that is there.
    impl Lanes for __m512 {
        const WIDTH: usize = 16;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and 16 numbers lie at `from`.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and 16 numbers fit at `to`.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_add_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn add_product(self, x: Self, y: Self) -> Self {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_fmadd_ps(x, y, self) }
        }
    }

    impl Lanes for __m256 {
        const WIDTH: usize = 8;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and 8 numbers lie at `from`.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and 8 numbers fit at `to`.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_add_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn add_product(self, x: Self, y: Self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { _mm256_fmadd_ps(x, y, self) }
        }
    }
}

/// Four numbers: one register of SSE2 and of NEON.
impl Lanes for [f32; 4] {
    const WIDTH: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four numbers lie at `from`; an array of f32 needs no more alignment than they have.
        unsafe { *from.cast::<[f32; 4]>() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four numbers fit at `to`.
        unsafe { *to.cast::<[f32; 4]>() = self }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }
    #[inline(always)]
    unsafe fn add_product(self, x: Self, y: Self) -> Self {
        // Where the target has no fused multiply-add, `mul_add` would be a call into the maths library.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|i| x[i].mul_add(y[i], self[i]))
        } else {
            std::array::from_fn(|i| self[i] + x[i] * y[i])
        }
    }
}
