//! What AMX multiplies: numbers in parts of bf16.
//!
//! A number of bf16 is one part. One of f32 is two, `x = x1 + x2`: each is what is left, rounded to bf16. Then `x * y` is
//! `x2 * y1 + x1 * y1 + x1 * y2`, summed in f32: what is left out is at most 2^-18 of a product, and what the parts leave of a
//! number 2^-18 of it. An infinite number becomes NaN. (Three parts and six products are as exact as f32, and not faster than
//! AVX-512 and Winograd's algorithm.)

use super::super::panel::{Map, Of, Panel};
use super::super::round::Round;
use super::super::tile::Tile;
use super::{EDGE, STEPS, Tiled, TiledOf};
use crate::ops::Isa;
use crate::ops::lanes::{Element, Lanes};
use crate::ops::number::{Number, Plain};
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Room for a number in `N` parts; those of many numbers lie together. Of a row of `a`, the first parts of [`STEPS`] numbers, and
/// then as many second ones; of a line of `b`, the first parts of two numbers of each column side by side, and then the second
/// ones.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(in super::super::super) struct Parts<const N: usize>([bf16; N]);

// SAFETY: any bits are bf16, which need no alignment that an f32 does not have.
unsafe impl<const N: usize> Plain for Parts<N> {}

/// Bytes of a row of `a` that one call reads, at most: of as many a panel of `b` stays in the first-level cache.
pub(super) const ROW_BYTES: usize = 1280;

impl<const N: usize> Panel for Parts<N>
where
    Self: Tiled,
{
    const ZERO: Self = Parts([bf16::ZERO; N]);
    const SIDE: usize = 2;
    const STEPS: usize = STEPS;
    const DEPTH: usize = ROW_BYTES / size_of::<Self>();

    unsafe fn multiply<C: Element, const TRANSPOSED: bool>(_: Isa, m: usize, tile: &Tile<Self, C>) {
        const { assert!(!TRANSPOSED, "AMX takes rows of `a`") };
        // SAFETY: the caller's promise.
        unsafe { super::multiply(m, tile) }
    }

    unsafe fn round<C: Element>(_: Isa, round: Round<C>) {
        // SAFETY: the caller's promise.
        unsafe { super::write(round) }
    }

    fn set(line: &mut [Self], column: usize, side: usize, value: f32) {
        let mut rest = value;
        for parts in Self::parts(line) {
            let part = bf16::narrow(rest);
            rest -= part.wide();
            parts[column * Self::SIDE + side] = part;
        }
    }
}

impl<const N: usize> Parts<N> {
    /// All first parts, all second parts, and so on.
    fn parts(numbers: &mut [Self]) -> impl Iterator<Item = &mut [bf16]> {
        let len = numbers.len();
        // SAFETY: each is `N` parts.
        let parts = unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast::<bf16>(), N * len) };
        parts.chunks_exact_mut(len.max(1))
    }
}

/// Numbers of maps, 32 at a time.
trait Splits<const N: usize>: Map {
    /// The parts of those of the 32 numbers from `from` on that are `here`, and zeros.
    ///
    /// # Safety
    /// The CPU has the instructions, and these numbers lie there.
    unsafe fn split(from: *const Self, here: u32) -> [__m512i; N];

    /// The parts of 16 numbers of two rows, side by side.
    ///
    /// # Safety
    /// The CPU has the instructions, and these numbers lie there.
    unsafe fn beside(rows: [*const Self; 2]) -> [__m512i; N];
}

impl Splits<1> for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn split(from: *const bf16, here: u32) -> [__m512i; 1] {
        // SAFETY: the caller's promise.
        unsafe { [_mm512_maskz_loadu_epi16(here, from.cast())] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn beside(rows: [*const bf16; 2]) -> [__m512i; 1] {
        // SAFETY: the caller's promise.
        unsafe { [by_turns(_mm256_loadu_si256(rows[0].cast()), _mm256_loadu_si256(rows[1].cast()))] }
    }
}

impl<const N: usize> Splits<N> for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn split(from: *const f32, here: u32) -> [__m512i; N] {
        // SAFETY: the caller's promise.
        unsafe {
            split([
                _mm512_maskz_loadu_ps(here as __mmask16, from),
                _mm512_maskz_loadu_ps((here >> 16) as __mmask16, from.wrapping_add(16)),
            ])
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn beside(rows: [*const f32; 2]) -> [__m512i; N] {
        // 16 numbers of the first row and 16 of the second, by turns.
        const BESIDE: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            order
        };
        // SAFETY: the caller's promise.
        unsafe {
            let order = _mm512_loadu_si512(BESIDE.as_ptr().cast());
            let mut parts = split([_mm512_loadu_ps(rows[0]), _mm512_loadu_ps(rows[1])]);
            for part in &mut parts {
                *part = _mm512_permutexvar_epi16(order, *part);
            }
            parts
        }
    }
}

/// The parts of 32 numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn split<const N: usize>(mut rest: [__m512; 2]) -> [__m512i; N] {
    let mut parts = [_mm512_setzero_si512(); N];
    for to in &mut parts {
        // SAFETY: both are 512 bits, and any bits are numbers.
        let part = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(rest[1], rest[0])) };
        rest[0] = _mm512_sub_ps(rest[0], widen(_mm512_castsi512_si256(part)));
        rest[1] = _mm512_sub_ps(rest[1], widen(_mm512_extracti64x4_epi64::<1>(part)));
        *to = part;
    }
    parts
}

/// 16 numbers of bf16.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(numbers: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(numbers)))
}

/// 16 numbers of bf16 and 16 others, by turns.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_turns(even: __m256i, odd: __m256i) -> __m512i {
    _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd)))
}

/// Which of the [`STEPS`] numbers of `group` lie in `start..end`.
#[inline(always)]
fn inside(group: usize, start: usize, end: usize) -> u32 {
    let below = |number: usize| {
        let count = number.saturating_sub(group * STEPS).min(STEPS);
        ((1u64 << count) - 1) as u32
    };
    below(end) & !below(start)
}

/// [`Of::copy_part`] of whole groups of [`STEPS`].
///
/// # Safety
/// The CPU has the instructions, and `to` is whole groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn place_groups<M: Splits<N>, const N: usize>(from: &[M], start: usize, to: &mut [Parts<N>]) {
    let first = from.as_ptr().wrapping_sub(start);
    for (group, to) in to.chunks_exact_mut(STEPS).enumerate() {
        let here = inside(group, start, start + from.len());
        // SAFETY: only numbers of `from` are read, and a group is as many first parts, and then second ones.
        unsafe {
            let parts = M::split(first.wrapping_add(group * STEPS), here);
            for (i, part) in parts.iter().enumerate() {
                _mm512_storeu_si512(to.as_mut_ptr().cast::<bf16>().add(i * STEPS).cast(), *part);
            }
        }
    }
}

/// [`TiledOf::place`].
///
/// # Safety
/// The CPU has the instructions, and there is room for `numbers` from `at` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn place_planes<M: Splits<N>, const N: usize>(numbers: &[M], at: usize, to: &mut [Parts<N>]) {
    let (plane, first) = (to.len(), to.as_mut_ptr().cast::<bf16>());
    for start in (0..numbers.len()).step_by(STEPS) {
        let here = inside(0, 0, numbers.len() - start);
        // SAFETY: only numbers of `numbers` are read, and as many of each part are written.
        unsafe {
            let parts = M::split(numbers.as_ptr().wrapping_add(start), here);
            for (i, part) in parts.iter().enumerate() {
                _mm512_mask_storeu_epi16(first.wrapping_add(i * plane + at + start).cast(), here, *part);
            }
        }
    }
}

/// [`TiledOf::line`].
///
/// # Safety
/// As of [`TiledOf::line`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn lay_line<M: Splits<N>, const N: usize>(pixels: [*const M; 2], to: *mut Parts<N>) {
    // SAFETY: the caller's promise.
    unsafe {
        let (even, odd) = (M::split(pixels[0], u32::MAX), M::split(pixels[1], u32::MAX));
        for (i, (even, odd)) in even.iter().zip(&odd).enumerate() {
            let to = to.cast::<bf16>().add(i * 2 * EDGE);
            _mm512_storeu_si512(to.cast(), _mm512_unpacklo_epi16(*even, *odd));
            _mm512_storeu_si512(to.add(EDGE).cast(), _mm512_unpackhi_epi16(*even, *odd));
        }
    }
}

/// A line of `b`, of [`EDGE`] columns.
///
/// # Safety
/// The CPU has the instructions, as many numbers lie at each row, and a line fits at `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn lay_line_in_order<M: Splits<N>, const N: usize>(rows: [*const M; 2], to: *mut Parts<N>) {
    // SAFETY: the caller's promise.
    unsafe {
        for half in 0..2 {
            let parts = M::beside([rows[0].add(16 * half), rows[1].add(16 * half)]);
            for (i, part) in parts.iter().enumerate() {
                _mm512_storeu_si512(to.cast::<bf16>().add((2 * i + half) * EDGE).cast(), *part);
            }
        }
    }
}

impl<M: Splits<N>, const N: usize> Of<M> for Parts<N>
where
    Self: Tiled,
{
    #[inline(always)]
    fn copy_part(from: &[M], start: usize, to: &mut [Self]) {
        assert!(start + from.len() <= to.len() && to.len().is_multiple_of(STEPS), "whole instructions' steps");
        // SAFETY: such panels are made where there is AMX-BF16, and with it the rest; `to` is whole groups.
        unsafe { place_groups(from, start, to) }
    }

    fn lay(rows: &[&[M]], to: &mut [Self]) {
        assert!(to.len() == Self::SIDE * EDGE, "a whole line");
        let mut lines = [[M::narrow(0.0); EDGE]; 2];
        let rows: [*const M; 2] = std::array::from_fn(|side| match rows.get(side) {
            Some(row) if row.len() == EDGE => row.as_ptr(),
            row => {
                let row = row.copied().unwrap_or(&[]);
                lines[side][..row.len()].copy_from_slice(row);
                lines[side].as_ptr()
            }
        });
        // SAFETY: as above; each row has as many numbers as there are columns.
        unsafe { lay_line_in_order(rows, to.as_mut_ptr()) }
    }
}

impl<M: Splits<N> + Turn<N>, const N: usize> TiledOf<M> for Parts<N>
where
    Self: Tiled,
{
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn line(pixels: [*const M; 2], to: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { lay_line(pixels, to) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn turn(pixels: &[*const M; STEPS], channels: usize, to: *mut Self) {
        let here = ((1u32 << channels) - 1) as __mmask16;
        // SAFETY: the caller's promise.
        unsafe {
            M::turn(pixels, here, to);
        }
    }

    fn place(numbers: &[M], at: usize, to: &mut [Self]) {
        assert!(at + numbers.len() <= to.len(), "there is room for them");
        // SAFETY: such panels are made where there is AMX-BF16, and with it the rest; there is room (asserted).
        unsafe { place_planes(numbers, at, to) }
    }

    fn clear(range: Range<usize>, to: &mut [Self]) {
        Self::parts(to).for_each(|part| part[range.clone()].fill(bf16::ZERO));
    }

    fn first_part(numbers: &[Self], at: usize) -> *const Self {
        assert!(at <= numbers.len(), "{at} is behind the last number");
        numbers.as_ptr().cast::<bf16>().wrapping_add(at).cast()
    }
}

/// Numbers whose rows and columns are exchanged.
trait Turn<const N: usize>: Map {
    /// [`TiledOf::turn`] of the numbers that are `here`.
    ///
    /// # Safety
    /// As of [`TiledOf::turn`].
    unsafe fn turn(pixels: &[*const Self; STEPS], here: __mmask16, to: *mut Parts<N>);
}

impl Turn<1> for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn turn(pixels: &[*const bf16; STEPS], here: __mmask16, to: *mut Parts<1>) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (row, [even, odd]) in rows.iter_mut().zip(pixels.as_chunks::<2>().0) {
                let even = _mm256_maskz_loadu_epi16(here, even.cast());
                let odd = _mm256_maskz_loadu_epi16(here, odd.cast());
                *row = _mm512_castsi512_ps(by_turns(even, odd));
            }
            for (i, row) in <__m512 as Lanes>::transpose(rows).iter().enumerate() {
                _mm512_storeu_ps(to.add(i * Parts::<1>::PITCH).cast(), *row);
            }
        }
    }
}

impl<const N: usize> Turn<N> for f32
where
    Parts<N>: Tiled,
{
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn turn(pixels: &[*const f32; STEPS], here: __mmask16, to: *mut Parts<N>) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut turned = [[_mm512_setzero_ps(); 16]; 2];
            for (rows, pixels) in turned.iter_mut().zip(pixels.as_chunks::<16>().0) {
                for (row, pixel) in rows.iter_mut().zip(pixels) {
                    *row = _mm512_maskz_loadu_ps(here, *pixel);
                }
                *rows = <__m512 as Lanes>::transpose(*rows);
            }
            for (i, (first, second)) in turned[0].iter().zip(&turned[1]).enumerate() {
                let to = to.add(i * Parts::<N>::PITCH).cast::<bf16>();
                for (i, part) in split::<N>([*first, *second]).iter().enumerate() {
                    _mm512_storeu_si512(to.add(i * STEPS).cast(), *part);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_a_number_but_for_its_last_bits() {
        if Isa::available().contains(&Isa::Amx) {
            check::<1>(2f32.powi(-8));
            check::<2>(2f32.powi(-17));
        }
    }

    fn check<const N: usize>(bound: f32)
    where
        Parts<N>: TiledOf<f32>,
    {
        let numbers: Vec<f32> = (0..61).map(|i| (i as f32 - 30.3).powi(5) * 1.234_567e-3).collect();
        let mut row = [Parts::<N>::ZERO; 3 * STEPS];
        Parts::copy_part(&numbers, 7, &mut row);
        for (i, group) in row.chunks_exact_mut(STEPS).enumerate() {
            let parts: Vec<Vec<f32>> =
                Parts::parts(group).map(|parts| parts.iter().map(|part| part.wide()).collect()).collect();
            for j in 0..STEPS {
                let at = i * STEPS + j;
                let number = at.checked_sub(7).and_then(|at| numbers.get(at)).copied().unwrap_or(0.0);
                assert_eq!(parts[0][j], bf16::narrow(number).wide(), "{at}");
                let left = parts.iter().fold(number, |left, parts| left - parts[j]);
                assert!(left.abs() <= number.abs() * bound, "{at}: {left} is left of {number}");
            }
        }
        let mut line = [Parts::<N>::ZERO; 2 * EDGE];
        Parts::lay(&[&numbers[..EDGE], &numbers[EDGE..EDGE + 5]], &mut line);
        let mut one_by_one = [Parts::<N>::ZERO; 2 * EDGE];
        for (side, numbers) in [&numbers[..EDGE], &numbers[EDGE..EDGE + 5]].into_iter().enumerate() {
            for (column, number) in numbers.iter().enumerate() {
                Parts::set(&mut one_by_one, column, side, *number);
            }
        }
        for (at, (together, one)) in line.iter().zip(&one_by_one).enumerate() {
            assert_eq!(together.0, one.0, "{at}");
        }
    }
}
