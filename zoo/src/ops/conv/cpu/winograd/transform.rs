//! The transforms of F(4x4, 3x3): Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks" (2016)) in the construction of Toom and Cook, on the points 0, ±5/8, ±11/8
//! and infinity.
//!
//! Four outputs of a filter `g` of three taps over six inputs `d` are `A^T ((G g) * (B^T d))`, products taken
//! element by element; in two dimensions every transform runs along columns, then along rows. The usual points
//! 0, ±1, ±2 round two to three times worse: of all pairs of small fractions these were measured best.

use super::super::panel::Transformed;
use crate::ops::lanes::{Element, Lanes};

/// Inputs that one tile reads along an axis, and points of the transformed tile.
pub(super) const POINTS: usize = 6;
/// Outputs that one tile writes along an axis.
pub(super) const OUTPUTS: usize = 4;
/// Taps of the filter along an axis.
pub(super) const TAPS: usize = 3;

/// The points, and powers of them; all are exact in f32.
const A: f32 = 0.625;
const B: f32 = 1.375;
const A2: f32 = A * A;
const B2: f32 = B * B;
const A3: f32 = A * A2;
const B3: f32 = B * B2;

/// The rows of `G` are the powers of their point over the product of its distances to the others.
const SCALE_0: f32 = (1.0 / (0.390_625 * 1.890_625)) as f32;
const SCALE_A: f32 = (1.0 / (2.0 * 0.390_625 * (0.390_625 - 1.890_625))) as f32;
const SCALE_B: f32 = (1.0 / (2.0 * 1.890_625 * (1.890_625 - 0.390_625))) as f32;

/// A transform along one axis. Its code is inlined into a function that has the instructions of `L`; no closure
/// may stand between the two, because a closure does not inherit them.
pub(super) trait Transform<const N: usize, const M: usize> {
    /// # Safety
    /// The CPU has the instructions of `L`.
    unsafe fn apply<L: Lanes>(x: [L; N]) -> [L; M];
}

/// A square of vectors, each `step` numbers from the one before it.
///
/// # Safety
/// The CPU has the instructions of `L`, and the numbers are there.
#[inline(always)]
pub(super) unsafe fn load<L: Lanes, const N: usize>(from: *const f32, step: isize) -> [[L; N]; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut square = [[L::splat(0.0); N]; N];
        for (i, row) in square.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value = L::load(from.offset((i * N + j) as isize * step));
            }
        }
        square
    }
}

/// A square of vectors, each `channel` numbers behind its pixel.
///
/// # Safety
/// As of [`load`].
#[inline(always)]
pub(super) unsafe fn load_pixels<E: Element, L: Lanes, const N: usize>(
    pixels: &[[*const E; N]; N],
    channel: usize,
) -> [[L; N]; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut square = [[L::splat(0.0); N]; N];
        for (row, pixels) in square.iter_mut().zip(pixels) {
            for (value, pixel) in row.iter_mut().zip(pixels) {
                *value = E::load(pixel.add(channel));
            }
        }
        square
    }
}

/// The reverse of [`load`].
///
/// # Safety
/// As of [`load`].
#[inline(always)]
pub(super) unsafe fn store<E: Element, L: Lanes, const N: usize>(square: &[[L; N]; N], to: *mut E, step: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for (i, row) in square.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                E::store(*value, to.add((i * N + j) * step));
            }
        }
    }
}

/// [`store`] of one step of a reduction, beside others: see [`Transformed::put`].
///
/// # Safety
/// As of [`Transformed::put`], at each place.
#[inline(always)]
pub(super) unsafe fn put<P: Transformed, L: Lanes, const N: usize>(
    square: &[[L; N]; N],
    to: *mut P,
    step: usize,
    side: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for (i, row) in square.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                P::put(*value, to.add((i * N + j) * step), side);
            }
        }
    }
}

/// A transform of the columns, then of the rows.
///
/// # Safety
/// The CPU has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn in_both_axes<T: Transform<N, M>, L: Lanes, const N: usize, const M: usize>(
    x: [[L; N]; N],
) -> [[L; M]; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = L::splat(0.0);
        let mut columns = [[zero; N]; M];
        for j in 0..N {
            let mut column = [zero; N];
            for (value, row) in column.iter_mut().zip(&x) {
                *value = row[j];
            }
            for (value, row) in T::apply(column).iter().zip(&mut columns) {
                row[j] = *value;
            }
        }
        let mut rows = [[zero; M]; M];
        for (row, column) in rows.iter_mut().zip(&columns) {
            *row = T::apply(*column);
        }
        rows
    }
}

/// `B^T d`.
pub(super) struct Input;

impl Transform<POINTS, POINTS> for Input {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(d: [L; POINTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_a, odd_a) =
                (d[4].add_product(L::splat(-B2), d[2]), d[3].add_product(L::splat(-B2), d[1]).mul(L::splat(A)));
            let (even_b, odd_b) =
                (d[4].add_product(L::splat(-A2), d[2]), d[3].add_product(L::splat(-A2), d[1]).mul(L::splat(B)));
            [
                d[4].add_product(L::splat(-(A2 + B2)), d[2]).add_product(L::splat(A2 * B2), d[0]),
                even_a.add(odd_a),
                even_a.sub(odd_a),
                even_b.add(odd_b),
                even_b.sub(odd_b),
                d[5].add_product(L::splat(-(A2 + B2)), d[3]).add_product(L::splat(A2 * B2), d[1]),
            ]
        }
    }
}

/// `A^T m`.
pub(super) struct Output;

impl Transform<POINTS, OUTPUTS> for Output {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(m: [L; POINTS]) -> [L; OUTPUTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (sum_a, difference_a) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (sum_b, difference_b) = (m[3].add(m[4]), m[3].sub(m[4]));
            [
                m[0].add(sum_a.add(sum_b)),
                difference_a.mul(L::splat(A)).add_product(L::splat(B), difference_b),
                sum_a.mul(L::splat(A2)).add_product(L::splat(B2), sum_b),
                m[5].add_product(L::splat(A3), difference_a).add_product(L::splat(B3), difference_b),
            ]
        }
    }
}

/// `G g`.
pub(super) struct Filter;

impl Transform<TAPS, POINTS> for Filter {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(g: [L; TAPS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_a, odd_a) =
                (g[0].add_product(L::splat(A2), g[2]).mul(L::splat(SCALE_A)), g[1].mul(L::splat(A * SCALE_A)));
            let (even_b, odd_b) =
                (g[0].add_product(L::splat(B2), g[2]).mul(L::splat(SCALE_B)), g[1].mul(L::splat(B * SCALE_B)));
            [
                g[0].mul(L::splat(SCALE_0)),
                even_a.add(odd_a),
                even_a.sub(odd_a),
                even_b.add(odd_b),
                even_b.sub(odd_b),
                g[2],
            ]
        }
    }
}

/// `A y`: the transpose of [`Output`].
pub(super) struct OutputTransposed;

impl Transform<OUTPUTS, POINTS> for OutputTransposed {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(y: [L; OUTPUTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_a, odd_a) =
                (y[0].add_product(L::splat(A2), y[2]), y[1].mul(L::splat(A)).add_product(L::splat(A3), y[3]));
            let (even_b, odd_b) =
                (y[0].add_product(L::splat(B2), y[2]), y[1].mul(L::splat(B)).add_product(L::splat(B3), y[3]));
            [y[0], even_a.add(odd_a), even_a.sub(odd_a), even_b.add(odd_b), even_b.sub(odd_b), y[3]]
        }
    }
}

/// `G^T u`: the transpose of [`Filter`].
pub(super) struct FilterTransposed;

impl Transform<POINTS, TAPS> for FilterTransposed {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(u: [L; POINTS]) -> [L; TAPS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (sum_a, difference_a) = (u[1].add(u[2]).mul(L::splat(SCALE_A)), u[1].sub(u[2]).mul(L::splat(SCALE_A)));
            let (sum_b, difference_b) = (u[3].add(u[4]).mul(L::splat(SCALE_B)), u[3].sub(u[4]).mul(L::splat(SCALE_B)));
            [
                u[0].mul(L::splat(SCALE_0)).add(sum_a.add(sum_b)),
                difference_a.mul(L::splat(A)).add_product(L::splat(B), difference_b),
                u[5].add_product(L::splat(A2), sum_a).add_product(L::splat(B2), sum_b),
            ]
        }
    }
}
