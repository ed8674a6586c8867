//! What the micro-kernel multiplies, and how maps are laid out for it.

#[cfg(target_arch = "x86_64")]
use super::pairs;
use super::tile::{self, Tile};
use crate::ops::Isa;
use crate::ops::lanes::{Element, Lanes};
use crate::ops::number::Number;
use half::bf16;

/// A number that panels hold.
pub(in super::super) trait Panel: Element {
    /// Steps of the reduction that lie side by side, for each row or column: what one instruction multiplies.
    const SIDE: usize;

    /// The longest reduction of one call with a row-major `a`: a panel of `b` stays in the first-level cache.
    const DEPTH: usize = 1024 / size_of::<Self>();

    /// Numbers from one row of a row-major `a` to the next: the longest reduction of one call, and a cache line so that
    /// rows do not fall into the same cache set.
    const PITCH: usize = Self::DEPTH + 64 / size_of::<Self>();

    /// See [`tile::multiply`].
    ///
    /// # Safety
    /// As of [`tile::multiply`].
    unsafe fn multiply<C: Element, const TRANSPOSED: bool>(isa: Isa, m: usize, tile: &Tile<Self, C>);

    /// Writes one step of the reduction for a vector of rows or columns, as number `side` of those that lie side by side
    /// from `to` on. They come in their order; what is behind the last one becomes zero.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and [`Self::SIDE`] vectors fit at `to`.
    unsafe fn put<L: Lanes>(vector: L, to: *mut Self, side: usize);

    /// What takes so many steps of the reduction, with those that fill it up to a multiple of [`Self::SIDE`].
    fn room(steps: usize) -> usize {
        steps.next_multiple_of(Self::SIDE)
    }
}

impl Panel for f32 {
    const SIDE: usize = 1;

    unsafe fn multiply<C: Element, const TRANSPOSED: bool>(isa: Isa, m: usize, tile: &Tile<f32, C>) {
        // SAFETY: the caller's promise.
        unsafe { tile::multiply::<C, TRANSPOSED>(isa, m, tile) }
    }

    #[inline(always)]
    unsafe fn put<L: Lanes>(vector: L, to: *mut f32, _: usize) {
        // SAFETY: the caller's promise.
        unsafe { vector.store(to) }
    }
}

/// With [`Isa::Avx512Bf16`] alone.
impl Panel for bf16 {
    const SIDE: usize = 2;

    unsafe fn multiply<C: Element, const TRANSPOSED: bool>(isa: Isa, m: usize, tile: &Tile<bf16, C>) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise.
            Isa::Avx512Bf16 => unsafe { pairs::multiply::<C, TRANSPOSED>(m, tile) },
            _ => unreachable!("panels of bf16 are made for the instructions that multiply them"),
        }
    }

    #[inline(always)]
    unsafe fn put<L: Lanes>(vector: L, to: *mut bf16, side: usize) {
        // SAFETY: the caller's promise.
        unsafe { vector.narrow_beside(to, side) }
    }
}

/// A number that maps hold: what goes into a convolution, and what comes out.
pub(in super::super) trait Map: Element {
    /// What it is multiplied as with [`Isa::Avx512Bf16`].
    type Pairs: Of<Self> + Of<f32>;
    /// What it is multiplied as with other instructions.
    type Single: Of<Self> + Of<f32>;
}

impl Map for f32 {
    type Pairs = f32;
    type Single = f32;
}

impl Map for bf16 {
    type Pairs = bf16;
    type Single = f32;
}

/// A number of panels that are made of maps, or weights, of `N`.
pub(in super::super) trait Of<N: Element>: Panel {
    /// `number`, rounded where it has to be.
    fn of(number: N) -> Self;

    /// The numbers of a map, where it holds what panels do.
    fn in_place(_: &[N]) -> Option<&[Self]> {
        None
    }

    /// Writes the numbers of `from`.
    #[inline(always)]
    fn copy(from: &[N], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::of(*from);
        }
    }

    /// Writes [`Panel::SIDE`] rows side by side, those behind the last one as zeros. Each has the same length.
    fn lay(rows: &[&[N]], to: &mut [Self]);
}

impl Of<f32> for f32 {
    #[inline(always)]
    fn of(number: f32) -> f32 {
        number
    }

    fn in_place(map: &[f32]) -> Option<&[f32]> {
        Some(map)
    }

    #[inline(always)]
    fn copy(from: &[f32], to: &mut [f32]) {
        // Few channels under a row of taps are two moves, which overlap: a call would take longer than both.
        if let 16..=32 = to.len()
            && let (Some(first), Some(last)) = (from.first_chunk::<16>(), from.last_chunk::<16>())
            && from.len() == to.len()
        {
            to[..16].copy_from_slice(first);
            let tail = to.len() - 16;
            to[tail..].copy_from_slice(last);
            return;
        }
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn lay(rows: &[&[f32]], to: &mut [f32]) {
        // Lines of a tile or of a panel: of a known length they are some moves, where a call would take as long as
        // the products with them.
        #[inline(always)]
        fn lay_line<const LEN: usize>(row: &[f32], to: &mut [f32]) -> bool {
            match (<&[f32; LEN]>::try_from(row), <&mut [f32; LEN]>::try_from(to)) {
                (Ok(row), Ok(to)) => {
                    *to = *row;
                    true
                }
                _ => false,
            }
        }
        let row = rows[0];
        if !(lay_line::<16>(row, to) || lay_line::<32>(row, to) || lay_line::<8>(row, to)) {
            to.copy_from_slice(row);
        }
    }
}

impl Of<bf16> for f32 {
    #[inline(always)]
    fn of(number: bf16) -> f32 {
        number.wide()
    }

    #[inline(always)]
    fn lay(rows: &[&[bf16]], to: &mut [f32]) {
        Self::copy(rows[0], to);
    }
}

impl Of<f32> for bf16 {
    #[inline(always)]
    fn of(number: f32) -> bf16 {
        bf16::narrow(number)
    }

    #[inline(always)]
    fn lay(rows: &[&[f32]], to: &mut [bf16]) {
        lay_pairs(rows, to);
    }
}

impl Of<bf16> for bf16 {
    #[inline(always)]
    fn of(number: bf16) -> bf16 {
        number
    }

    #[inline(always)]
    fn lay(rows: &[&[bf16]], to: &mut [bf16]) {
        lay_pairs(rows, to);
    }
}

/// [`Of::lay`] of pairs.
#[inline(always)]
fn lay_pairs<N: Element>(rows: &[&[N]], to: &mut [bf16])
where
    bf16: Of<N>,
{
    let (to, _) = to.as_chunks_mut::<2>();
    match rows {
        [even] => {
            for (to, even) in to.iter_mut().zip(*even) {
                *to = [bf16::of(*even), bf16::ZERO];
            }
        }
        [even, odd, ..] => {
            for ((to, even), odd) in to.iter_mut().zip(*even).zip(*odd) {
                *to = [bf16::of(*even), bf16::of(*odd)];
            }
        }
        [] => {}
    }
}
