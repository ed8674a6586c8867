//! The micro-kernel: a tile of the product stays in registers while the reduction runs.

use super::finish::{FinishFrom, write_one, write_vector};
use super::panel::Panel;
use crate::ops::Isa;
use crate::ops::amx::Tiles;
use crate::ops::lanes::{Element, Lanes};
use crate::ops::parallel::{LINE, part};
use candle_core::DType;
use std::ops::Range;

/// One call: `c[rows, columns] (+)= a[rows, depth] * b[depth, columns]`, of panels of `P`, summed in f32.
pub(in super::super) struct Tile<P, C = f32> {
    /// A multiple of [`Panel::SIDE`].
    pub depth: usize,
    pub a: *const P,
    /// Of a transposed `a`, the numbers from one step of the reduction to the next, or from one group of steps that lie
    /// side by side.
    pub step: usize,
    /// `depth` lines of [`Isa::columns`] numbers.
    pub b: *const P,
    pub c: *mut C,
    /// For each row, where it starts, counted from `c`.
    pub rows: *const usize,
    /// What lies between them where that is always the same, and there are whole tiles of rows and columns.
    pub pitch: Option<usize>,
    /// At most [`Isa::columns`].
    pub columns: usize,
    /// Add to `c` rather than overwrite it: a sum of which each part is rounded to `C`.
    pub accumulate: bool,
    /// What becomes of the sums, counted from `c`.
    pub finish: Option<FinishFrom<C>>,
    /// What the next calls will read.
    pub ahead: Ahead,
}

impl<P, C: Element> Tile<P, C> {
    /// The first row of the sums, and the distance between rows, where they are kept as they are.
    ///
    /// # Safety
    /// There is a row.
    pub(super) unsafe fn sums(&self) -> Option<(*mut f32, usize)> {
        let pitch = self.pitch.filter(|_| C::DTYPE == DType::F32 && self.finish.is_none())?;
        // SAFETY: the caller's promise.
        let first = unsafe { *self.rows };
        Some((self.c.wrapping_add(first).cast(), pitch))
    }
}

/// Memory that is fetched while a product is summed: some bytes at each step of the reduction.
#[derive(Clone, Copy)]
pub(in super::super) struct Ahead {
    pub start: *const u8,
    pub step: usize,
}

impl Ahead {
    pub(super) const NOTHING: Self = Ahead { start: std::ptr::null(), step: 0 };

    /// The share of call `i` of `calls`, each of `depth` steps, which fetch `numbers` together.
    pub(super) fn share<N>(numbers: *const [N], calls: usize, i: usize, depth: usize) -> Self {
        let part = part(numbers.len(), calls, i);
        let start = numbers.cast::<N>().wrapping_add(part.start).cast();
        Ahead { start, step: (part.len() * size_of::<N>()).div_ceil(depth.max(1)) }
    }

    /// As [`Self::share`], of several places by turns.
    pub(super) fn by_turns<N>(places: &[&[N]], calls: usize, i: usize, depth: usize) -> Self {
        match places.get(i % places.len().max(1)) {
            Some(numbers) => Self::share(*numbers, calls.div_ceil(places.len()), i / places.len(), depth),
            None => Self::NOTHING,
        }
    }
}

impl Isa {
    /// Rows of the largest tile.
    pub(super) const fn rows(self) -> usize {
        match self {
            Isa::Amx => 32,
            Isa::Avx512Bf16 | Isa::Avx512 => 14,
            Isa::Avx2 => 6,
            Isa::Portable => PORTABLE_ROWS,
        }
    }

    /// Columns of the largest tile: the width of a panel of `b`.
    pub(super) const fn columns(self) -> usize {
        match self {
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => 32,
            Isa::Avx2 => 16,
            Isa::Portable => 8,
        }
    }

    /// Tile `i` of so many `rows`: of equal height, or where an instruction takes all rows of a tile, of full height but
    /// for the last one.
    pub(super) fn tile(self, rows: usize, i: usize) -> Range<usize> {
        match self {
            Isa::Amx => i * self.rows()..((i + 1) * self.rows()).min(rows),
            _ => part(rows, rows.div_ceil(self.rows()), i),
        }
    }

    /// Rows that are read of a tile of `rows`.
    pub(super) fn rows_read(self, rows: usize) -> usize {
        match self {
            Isa::Amx => rows.next_multiple_of(16),
            _ => rows,
        }
    }

    /// `rows`, filled up to whole tiles where an instruction takes all rows of one: sums are kept of so many.
    pub(super) fn whole_tiles(self, rows: usize) -> usize {
        match self {
            Isa::Amx => rows.next_multiple_of(self.rows()),
            _ => rows,
        }
    }

    /// What a thread has to hold while it multiplies.
    pub(super) fn registers(self) -> Option<Tiles> {
        (self == Isa::Amx).then(Tiles::hold)
    }

    /// Numbers from one step of a transposed `a` to the next.
    pub(super) const fn line(self) -> usize {
        self.rows().next_multiple_of(8)
    }
}

/// aarch64 has 32 vector registers, SSE2 has 16.
const PORTABLE_ROWS: usize = if cfg!(target_arch = "aarch64") { 12 } else { 6 };

/// `tile` with `m` rows of `a` at distance [`Panel::PITCH`], or with a transposed `a`: each step of the reduction holds
/// the `m` rows side by side, at distance `tile.step`.
///
/// # Safety
/// The pointers of `tile` are good for `m` rows, and the CPU has `isa`.
pub(super) unsafe fn multiply<C: Element, const TRANSPOSED: bool>(isa: Isa, m: usize, tile: &Tile<f32, C>) {
    // SAFETY: the caller's promise.
    unsafe { dispatch!(isa, m, tile) }
}

/// Picks the instance for the instruction set, the number of rows, and one or two vectors of columns.
macro_rules! dispatch {
    ($isa:expr, $m:expr, $tile:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => rows!(avx512, 16, $m, $tile; 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => rows!(avx2, 8, $m, $tile; 1 2 3 4 5 6),
            #[cfg(target_arch = "aarch64")]
            Isa::Portable => rows!(portable, 4, $m, $tile; 1 2 3 4 5 6 7 8 9 10 11 12),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Portable => rows!(portable, 4, $m, $tile; 1 2 3 4 5 6),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unreachable!("an instruction set of x86-64"),
            Isa::Amx => unreachable!("AMX multiplies panels of its own"),
        }
    };
}
use dispatch;

macro_rules! rows {
    ($kernel:ident, $width:literal, $m:expr, $tile:expr; $($rows:literal)*) => {
        match ($m, $tile.columns <= $width) {
            $(($rows, true) => $kernel::<C, $rows, 1, TRANSPOSED>($tile),
              ($rows, false) => $kernel::<C, $rows, 2, TRANSPOSED>($tile),)*
            (m, _) => unreachable!("no tile has {m} rows"),
        }
    };
}
pub(super) use rows;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<C: Element, const M: usize, const V: usize, const TRANSPOSED: bool>(tile: &Tile<f32, C>) {
    // SAFETY: the caller's promise, and this function has the instructions.
    unsafe { run::<std::arch::x86_64::__m512, C, M, V, TRANSPOSED>(tile) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<C: Element, const M: usize, const V: usize, const TRANSPOSED: bool>(tile: &Tile<f32, C>) {
    // SAFETY: the caller's promise, and this function has the instructions.
    unsafe { run::<std::arch::x86_64::__m256, C, M, V, TRANSPOSED>(tile) }
}

unsafe fn portable<C: Element, const M: usize, const V: usize, const TRANSPOSED: bool>(tile: &Tile<f32, C>) {
    // SAFETY: the caller's promise.
    unsafe { run::<[f32; 4], C, M, V, TRANSPOSED>(tile) }
}

/// `M` rows and `V` vectors of columns.
#[inline(always)]
unsafe fn run<L: Lanes, C: Element, const M: usize, const V: usize, const TRANSPOSED: bool>(tile: &Tile<f32, C>) {
    // SAFETY: the caller has the instructions of `L`, and `tile` describes memory that is there: `a` and `b`
    // for `depth` steps, `c` for the rows and columns.
    unsafe {
        // Constants where they can be, so that the loads of one step have immediate offsets.
        let (pitch, step) = if TRANSPOSED { (1, tile.step) } else { (f32::PITCH, 1) };
        let mut sums = [[L::splat(0.0); V]; M];
        let (mut a, mut b, mut ahead) = (tile.a, tile.b, tile.ahead.start);
        let targets = Targets::of(tile);
        for turn in 0..tile.depth / L::STEPS {
            for k in 0..L::STEPS {
                add_step(&mut sums, a.add(k * step), pitch, b.add(k * 2 * L::WIDTH));
                if k % L::STEPS_A_FETCH == 0 {
                    L::prefetch_far(ahead.cast());
                    ahead = ahead.wrapping_add(L::STEPS_A_FETCH * tile.ahead.step);
                }
            }
            a = a.add(L::STEPS * step);
            b = b.add(L::STEPS * 2 * L::WIDTH);
            targets.prefetch::<L, M, V>(turn * L::STEPS);
        }
        for k in 0..tile.depth % L::STEPS {
            add_step(&mut sums, a.add(k * step), pitch, b.add(k * 2 * L::WIDTH));
        }
        write::<L, C, M, V, f32>(sums, tile);
    }
}

/// Adds the products of one step of the reduction.
///
/// # Safety
/// As of [`run`]: the numbers of `M` rows lie at `a`, `pitch` apart, those of the columns at `b`.
#[inline(always)]
unsafe fn add_step<L: Lanes, const M: usize, const V: usize>(
    sums: &mut [[L; V]; M],
    a: *const f32,
    pitch: usize,
    b: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let line: [L; V] = std::array::from_fn(|v| L::load(b.add(v * L::WIDTH)));
        for (i, row) in sums.iter_mut().enumerate() {
            let x = L::splat(*a.add(i * pitch));
            for (sum, y) in row.iter_mut().zip(line) {
                *sum = sum.add_product(x, y);
            }
        }
    }
}

/// Where the sums of a call will go, and what will be added to them: on its way while they are summed.
pub(super) struct Targets<C> {
    rows: *const usize,
    c: *const C,
    /// Again `c` where nothing is added: a branch in the loop would drive sums out of their registers.
    residual: *const C,
}

impl<C: Element> Targets<C> {
    pub(super) fn of<P>(tile: &Tile<P, C>) -> Self {
        let c = tile.c.cast_const();
        let residual = tile.finish.as_ref().and_then(FinishFrom::residual).unwrap_or(c);
        Targets { rows: tile.rows, c, residual }
    }

    /// Fetches lines at step `k`, a row's in four steps, or in a turn of [`Lanes::STEPS`] where that has more.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and there are `M` rows.
    #[inline(always)]
    pub(super) unsafe fn prefetch<L: Lanes, const M: usize, const V: usize>(&self, k: usize) {
        // SAFETY: the caller's promise; any address can be fetched.
        unsafe {
            let row = *self.rows.add((k / L::STEPS.max(4)).min(M - 1));
            for line in 0..(V * L::WIDTH * size_of::<C>()).div_ceil(LINE) {
                let at = row + line * LINE / size_of::<C>();
                L::prefetch(self.c.wrapping_add(at).cast());
                L::prefetch(self.residual.wrapping_add(at).cast());
            }
        }
    }
}

/// The end of a call. By value: a reference to the sums would keep them in memory, not in registers.
///
/// # Safety
/// As of [`multiply`].
#[inline(always)]
pub(super) unsafe fn write<L: Lanes, C: Element, const M: usize, const V: usize, P>(
    sums: [[L; V]; M],
    tile: &Tile<P, C>,
) {
    // SAFETY: the caller has the instructions of `L`, and `c` is there for the rows and columns.
    unsafe {
        if tile.columns == V * L::WIDTH {
            for (i, row) in sums.into_iter().enumerate() {
                let start = *tile.rows.add(i);
                for (v, sum) in row.into_iter().enumerate() {
                    let column = v * L::WIDTH;
                    let at = start + column;
                    let sum = if tile.accumulate { C::load::<L>(tile.c.add(at)).add(sum) } else { sum };
                    write_vector(&tile.finish, sum, column, at, tile.c);
                }
            }
        } else {
            for (i, row) in sums.into_iter().enumerate() {
                let mut line = [0f32; 32];
                for (v, sum) in row.into_iter().enumerate() {
                    sum.store(line.as_mut_ptr().add(v * L::WIDTH));
                }
                let start = *tile.rows.add(i);
                for (column, sum) in line.into_iter().enumerate().take(tile.columns) {
                    let at = start + column;
                    let sum = if tile.accumulate { (*tile.c.add(at)).wide() + sum } else { sum };
                    write_one(&tile.finish, sum, column, at, tile.c);
                }
            }
        }
    }
}
