//! What the micro-kernel multiplies, and how maps are laid out for it.

use super::round::Round;
use super::tile::{self, Tile};
#[cfg(target_arch = "x86_64")]
use super::{amx, pairs};
use crate::ops::Isa;
use crate::ops::lanes::{self, Element, Lanes};
use crate::ops::number::{Number, Plain};
use half::bf16;

/// A number that panels hold.
pub(in super::super) trait Panel: Plain {
    const ZERO: Self;

    /// Steps of the reduction that lie side by side, for each row or column: what one instruction multiplies.
    const SIDE: usize;

    /// Steps of the reduction that one instruction takes of a row-major `a`: each piece of a reduction is filled up to a
    /// multiple of it.
    const STEPS: usize = Self::SIDE;

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

    /// Writes sums that were kept, and what follows them.
    ///
    /// # Safety
    /// As of [`Round`], and the CPU has `isa`.
    unsafe fn round<C: Element>(isa: Isa, round: Round<C>) {
        // SAFETY: the caller's promise.
        unsafe { lanes::run(isa, round) }
    }

    /// Writes one number of a line of `b`: that of `column`, number `side` of those that lie side by side.
    fn set(line: &mut [Self], column: usize, side: usize, value: f32);

    /// What takes so many steps of the reduction, with those that fill it up to a multiple of [`Self::SIDE`].
    fn room(steps: usize) -> usize {
        steps.next_multiple_of(Self::SIDE)
    }
}

/// A number of panels that Winograd's transforms write.
pub(in super::super) trait Transformed: Panel + Element {
    /// Writes one step of the reduction for a vector of rows or columns, as number `side` of those that lie side by side
    /// from `to` on. They come in their order; what is behind the last one becomes zero.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and [`Panel::SIDE`] vectors fit at `to`.
    unsafe fn put<L: Lanes>(vector: L, to: *mut Self, side: usize);
}

impl Panel for f32 {
    const ZERO: Self = 0.0;
    const SIDE: usize = 1;

    unsafe fn multiply<C: Element, const TRANSPOSED: bool>(isa: Isa, m: usize, tile: &Tile<f32, C>) {
        // SAFETY: the caller's promise.
        unsafe { tile::multiply::<C, TRANSPOSED>(isa, m, tile) }
    }

    #[inline(always)]
    fn set(line: &mut [f32], column: usize, _: usize, value: f32) {
        line[column] = value;
    }
}

impl Transformed for f32 {
    #[inline(always)]
    unsafe fn put<L: Lanes>(vector: L, to: *mut f32, _: usize) {
        // SAFETY: the caller's promise.
        unsafe { vector.store(to) }
    }
}

/// With [`Isa::Avx512Bf16`] alone.
impl Panel for bf16 {
    const ZERO: Self = bf16::ZERO;
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
    fn set(line: &mut [bf16], column: usize, side: usize, value: f32) {
        line[column * Self::SIDE + side] = bf16::narrow(value);
    }
}

impl Transformed for bf16 {
    #[inline(always)]
    unsafe fn put<L: Lanes>(vector: L, to: *mut bf16, side: usize) {
        // SAFETY: the caller's promise.
        unsafe { vector.narrow_beside(to, side) }
    }
}

/// A number that maps hold: what goes into a convolution, and what comes out.
pub(in super::super) trait Map: Element {
    /// What it is multiplied as with [`Isa::Amx`].
    #[cfg(target_arch = "x86_64")]
    type Tiled: amx::TiledOf<Self> + Of<f32>;
    /// What it is multiplied as with [`Isa::Avx512Bf16`].
    type Pairs: Transformed + Of<Self> + Of<f32>;
    /// What it is multiplied as with other instructions.
    type Single: Transformed + Of<Self> + Of<f32>;
}

impl Map for f32 {
    #[cfg(target_arch = "x86_64")]
    type Tiled = amx::Parts<2>;
    type Pairs = f32;
    type Single = f32;
}

impl Map for bf16 {
    #[cfg(target_arch = "x86_64")]
    type Tiled = amx::Parts<1>;
    type Pairs = bf16;
    type Single = f32;
}

/// A number of panels that are made of maps, or weights, of `N`.
pub(in super::super) trait Of<N: Element>: Panel {
    /// The numbers of a map, where it holds what panels do.
    fn in_place(_: &[N]) -> Option<&[Self]> {
        None
    }

    /// Writes a piece of a row of `a`: `from` from number `start` on, and zeros before and behind it.
    fn copy_part(from: &[N], start: usize, to: &mut [Self]);

    /// Writes a line of `b`: [`Panel::SIDE`] rows side by side, and zeros in place of rows and columns that are not there.
    fn lay(rows: &[&[N]], to: &mut [Self]);
}

impl Of<f32> for f32 {
    fn in_place(map: &[f32]) -> Option<&[f32]> {
        Some(map)
    }

    #[inline(always)]
    fn copy_part(from: &[f32], start: usize, to: &mut [f32]) {
        let end = start + from.len();
        to[..start].fill(0.0);
        to[end..].fill(0.0);
        let to = &mut to[start..end];
        // Few channels under a row of taps are two moves, which overlap: a call would take longer than both.
        if let 16..=32 = to.len()
            && let (Some(first), Some(last)) = (from.first_chunk::<16>(), from.last_chunk::<16>())
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
            Self::copy_part(row, 0, to);
        }
    }
}

impl Of<bf16> for f32 {
    #[inline(always)]
    fn copy_part(from: &[bf16], start: usize, to: &mut [f32]) {
        let end = start + from.len();
        to[..start].fill(0.0);
        to[start..end].iter_mut().zip(from).for_each(|(to, from)| *to = from.wide());
        to[end..].fill(0.0);
    }

    #[inline(always)]
    fn lay(rows: &[&[bf16]], to: &mut [f32]) {
        Self::copy_part(rows[0], 0, to);
    }
}

impl Of<f32> for bf16 {
    #[inline(always)]
    fn copy_part(from: &[f32], start: usize, to: &mut [bf16]) {
        let end = start + from.len();
        to[..start].fill(bf16::ZERO);
        to[start..end].iter_mut().zip(from).for_each(|(to, from)| *to = bf16::narrow(*from));
        to[end..].fill(bf16::ZERO);
    }

    #[inline(always)]
    fn lay(rows: &[&[f32]], to: &mut [bf16]) {
        lay_pairs(rows, to, bf16::narrow, bf16::ZERO);
    }
}

impl Of<bf16> for bf16 {
    #[inline(always)]
    fn copy_part(from: &[bf16], start: usize, to: &mut [bf16]) {
        let end = start + from.len();
        to[..start].fill(bf16::ZERO);
        to[start..end].copy_from_slice(from);
        to[end..].fill(bf16::ZERO);
    }

    #[inline(always)]
    fn lay(rows: &[&[bf16]], to: &mut [bf16]) {
        lay_pairs(rows, to, |number| number, bf16::ZERO);
    }
}

/// [`Of::lay`] of pairs.
#[inline(always)]
pub(super) fn lay_pairs<N: Element, P: Copy>(rows: &[&[N]], to: &mut [P], of: impl Fn(N) -> P, zero: P) {
    let (to, _) = to.as_chunks_mut::<2>();
    let (to, rest) = to.split_at_mut(rows.first().map_or(0, |row| row.len()));
    rest.fill([zero; 2]);
    match rows {
        [even] => {
            for (to, even) in to.iter_mut().zip(*even) {
                *to = [of(*even), zero];
            }
        }
        [even, odd, ..] => {
            for ((to, even), odd) in to.iter_mut().zip(*even).zip(*odd) {
                *to = [of(*even), of(*odd)];
            }
        }
        [] => {}
    }
}
