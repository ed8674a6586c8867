//! The transforms of F(4x4, 3x3): Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks" (2016)) in the construction of Toom and Cook, on the points 0, ±5/8, ±11/8
//! and infinity.
//!
//! Four outputs of a filter `g` of three taps over six inputs `d` are `A^T ((G g) * (B^T d))`, products taken
//! element by element; in two dimensions every transform runs along columns, then along rows. The usual points
//! 0, ±1, ±2 round two to three times worse: of all pairs of small fractions these were measured best.
//!
//! A tile may have fewer outputs, and needs fewer points: three outputs all but 0, two outputs 0, ±11/8 and infinity, which
//! round less than all six. A point of a filter stays what it is; what `G` divides by for the distance to a point that is left
//! out, the transform of the inputs multiplies with.

use super::super::panel::Transformed;
use crate::ops::lanes::{Element, Kernel, Lanes};
use std::ops::Range;

/// Inputs that one tile reads along an axis, and points of the transformed tile: 0, `B`, -`B`, infinity, `A`, -`A`.
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
    /// Of a tile of so many points. What is behind those that it has is not read, and becomes zero.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`.
    unsafe fn apply<L: Lanes>(points: usize, x: [L; N]) -> [L; M];
}

/// A [`Transform`] of tiles, which have six, five or four points. Filters have what the tiles have together.
trait OfTiles<const N: usize, const M: usize> {
    /// # Safety
    /// The CPU has the instructions of `L`.
    unsafe fn six<L: Lanes>(x: [L; N]) -> [L; M];

    /// # Safety
    /// The CPU has the instructions of `L`.
    unsafe fn five<L: Lanes>(x: [L; N]) -> [L; M];

    /// # Safety
    /// The CPU has the instructions of `L`.
    unsafe fn four<L: Lanes>(x: [L; N]) -> [L; M];
}

impl<T: OfTiles<N, M>, const N: usize, const M: usize> Transform<N, M> for T {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(points: usize, x: [L; N]) -> [L; M] {
        // SAFETY: the caller's promise.
        unsafe {
            match points {
                FEW_POINTS => T::four(x),
                5 => T::five(x),
                _ => T::six(x),
            }
        }
    }
}

/// Points along an axis of a tile with so many outputs, one to [`OUTPUTS`].
pub(super) fn points_of(outputs: usize) -> usize {
    (outputs + TAPS - 1).max(FEW_POINTS)
}

/// The fewest points along an axis.
pub(super) const FEW_POINTS: usize = 4;

/// The points of a tile among those of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// Points along each axis of a pass, all or the [`FEW_POINTS`] first: `[row, column]`.
    pub all: usize,
    /// Points of the tile along height and width.
    pub of_tile: [usize; 2],
}

impl Grid {
    pub(super) const WHOLE: Grid = Grid::filled(POINTS);

    /// Of a tile that has all points.
    pub(super) const fn filled(points: usize) -> Grid {
        Grid { all: points, of_tile: [points; 2] }
    }

    /// The rows and columns of points that the tile has.
    #[inline(always)]
    fn points(&self) -> [Range<usize>; 2] {
        self.of_tile.map(|points| match points {
            FEW_POINTS => 0..FEW_POINTS,
            5 => 1..POINTS,
            _ => 0..POINTS,
        })
    }

    /// Whether the tile has no such row, and no such column, of points.
    pub(super) fn lacks(&self, point: usize) -> [bool; 2] {
        let [rows, columns] = self.points();
        [!rows.contains(&(point / self.all)), !columns.contains(&(point % self.all))]
    }
}

/// A kernel that transforms one tile.
pub(super) trait TileKernel {
    fn grid(&self) -> Grid;

    /// # Safety
    /// The CPU has the instructions of `L`, and what the kernel says.
    unsafe fn run_on<L: Lanes>(&self, grid: Grid);
}

/// The kernel, compiled for whole tiles, nearly all that there are, and for any other.
pub(super) struct OnGrid<K>(pub K);

impl<K: TileKernel> Kernel for OnGrid<K> {
    /// # Safety
    /// As of [`TileKernel::run_on`].
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.0.grid() {
                Grid::WHOLE => self.0.run_on::<L>(Grid::WHOLE),
                grid => self.0.run_on::<L>(grid),
            }
        }
    }
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

/// The reverse of [`load`].
///
/// # Safety
/// As of [`load`].
#[inline(always)]
pub(super) unsafe fn store<L: Lanes, const N: usize>(square: &[[L; N]; N], to: *mut f32, step: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for (i, row) in square.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                value.store(to.add((i * N + j) * step));
            }
        }
    }
}

/// The points of a tile, those of the pass `step` numbers from one to the next. Others are zero.
///
/// # Safety
/// As of [`load`].
#[inline(always)]
pub(super) unsafe fn load_points<L: Lanes>(grid: Grid, from: *const f32, step: usize) -> [[L; POINTS]; POINTS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut square = [[L::splat(0.0); POINTS]; POINTS];
        let [rows, columns] = grid.points();
        for i in rows {
            for j in columns.clone() {
                square[i][j] = L::load(from.add((i * grid.all + j) * step));
            }
        }
        square
    }
}

/// The reverse of [`load_points`].
///
/// # Safety
/// As of [`load`].
#[inline(always)]
pub(super) unsafe fn store_points<E: Element, L: Lanes>(
    grid: Grid,
    square: &[[L; POINTS]; POINTS],
    to: *mut E,
    step: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let [rows, columns] = grid.points();
        for i in rows {
            for j in columns.clone() {
                E::store(square[i][j], to.add((i * grid.all + j) * step));
            }
        }
    }
}

/// [`store_points`] of one step of a reduction, beside others: see [`Transformed::put`].
///
/// # Safety
/// As of [`Transformed::put`], at each place.
#[inline(always)]
pub(super) unsafe fn put_points<P: Transformed, L: Lanes>(
    grid: Grid,
    square: &[[L; POINTS]; POINTS],
    to: *mut P,
    step: usize,
    side: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let [rows, columns] = grid.points();
        for i in rows {
            for j in columns.clone() {
                P::put(square[i][j], to.add((i * grid.all + j) * step), side);
            }
        }
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

/// A transform of the columns, then of the rows, of a tile that has some of the points.
///
/// # Safety
/// The CPU has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn in_both_axes<T: Transform<N, M>, L: Lanes, const N: usize, const M: usize>(
    grid: Grid,
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
            for (value, row) in T::apply(grid.of_tile[0], column).iter().zip(&mut columns) {
                row[j] = *value;
            }
        }
        let mut rows = [[zero; M]; M];
        for (row, column) in rows.iter_mut().zip(&columns) {
            *row = T::apply(grid.of_tile[1], *column);
        }
        rows
    }
}

/// `B^T d`.
pub(super) struct Input;

impl OfTiles<POINTS, POINTS> for Input {
    #[inline(always)]
    unsafe fn six<L: Lanes>(d: [L; POINTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_a, odd_a) =
                (d[4].add_product(L::splat(-B2), d[2]), d[3].add_product(L::splat(-B2), d[1]).mul(L::splat(A)));
            let (even_b, odd_b) =
                (d[4].add_product(L::splat(-A2), d[2]), d[3].add_product(L::splat(-A2), d[1]).mul(L::splat(B)));
            [
                d[4].add_product(L::splat(-(A2 + B2)), d[2]).add_product(L::splat(A2 * B2), d[0]),
                even_b.add(odd_b),
                even_b.sub(odd_b),
                d[5].add_product(L::splat(-(A2 + B2)), d[3]).add_product(L::splat(A2 * B2), d[1]),
                even_a.add(odd_a),
                even_a.sub(odd_a),
            ]
        }
    }

    #[inline(always)]
    unsafe fn five<L: Lanes>(d: [L; POINTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let even_a = d[2].add_product(L::splat(-B2), d[0]).mul(L::splat(A2));
            let odd_a = d[3].add_product(L::splat(-B2), d[1]).mul(L::splat(A));
            let even_b = d[2].add_product(L::splat(-A2), d[0]).mul(L::splat(B2));
            let odd_b = d[3].add_product(L::splat(-A2), d[1]).mul(L::splat(B));
            [
                L::splat(0.0),
                even_b.add(odd_b),
                even_b.sub(odd_b),
                d[4].add_product(L::splat(-(A2 + B2)), d[2]).add_product(L::splat(A2 * B2), d[0]),
                even_a.add(odd_a),
                even_a.sub(odd_a),
            ]
        }
    }

    #[inline(always)]
    unsafe fn four<L: Lanes>(d: [L; POINTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even, odd) = (d[2].mul(L::splat(B2 - A2)), d[1].mul(L::splat(B * (B2 - A2))));
            let zero = L::splat(0.0);
            [
                d[2].add_product(L::splat(-B2), d[0]).mul(L::splat(-A2)),
                even.add(odd),
                even.sub(odd),
                d[3].add_product(L::splat(-B2), d[1]),
                zero,
                zero,
            ]
        }
    }
}

/// `A^T m`.
pub(super) struct Output;

impl OfTiles<POINTS, OUTPUTS> for Output {
    #[inline(always)]
    unsafe fn six<L: Lanes>(m: [L; POINTS]) -> [L; OUTPUTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (sum_a, difference_a) = (m[4].add(m[5]), m[4].sub(m[5]));
            let (sum_b, difference_b) = (m[1].add(m[2]), m[1].sub(m[2]));
            [
                m[0].add(sum_a.add(sum_b)),
                difference_a.mul(L::splat(A)).add_product(L::splat(B), difference_b),
                sum_a.mul(L::splat(A2)).add_product(L::splat(B2), sum_b),
                m[3].add_product(L::splat(A3), difference_a).add_product(L::splat(B3), difference_b),
            ]
        }
    }

    #[inline(always)]
    unsafe fn five<L: Lanes>(m: [L; POINTS]) -> [L; OUTPUTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (sum_a, difference_a) = (m[4].add(m[5]), m[4].sub(m[5]));
            let (sum_b, difference_b) = (m[1].add(m[2]), m[1].sub(m[2]));
            [
                sum_a.add(sum_b),
                difference_a.mul(L::splat(A)).add_product(L::splat(B), difference_b),
                m[3].add_product(L::splat(A2), sum_a).add_product(L::splat(B2), sum_b),
                L::splat(0.0),
            ]
        }
    }

    #[inline(always)]
    unsafe fn four<L: Lanes>(m: [L; POINTS]) -> [L; OUTPUTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            let zero = L::splat(0.0);
            [m[0].add(sum), m[3].add_product(L::splat(B), difference), zero, zero]
        }
    }
}

/// `G g`.
pub(super) struct Filter;

impl Transform<TAPS, POINTS> for Filter {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(_: usize, g: [L; TAPS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_a, odd_a) =
                (g[0].add_product(L::splat(A2), g[2]).mul(L::splat(SCALE_A)), g[1].mul(L::splat(A * SCALE_A)));
            let (even_b, odd_b) =
                (g[0].add_product(L::splat(B2), g[2]).mul(L::splat(SCALE_B)), g[1].mul(L::splat(B * SCALE_B)));
            [
                g[0].mul(L::splat(SCALE_0)),
                even_b.add(odd_b),
                even_b.sub(odd_b),
                g[2],
                even_a.add(odd_a),
                even_a.sub(odd_a),
            ]
        }
    }
}

/// `A y`: the transpose of [`Output`].
pub(super) struct OutputTransposed;

impl OfTiles<OUTPUTS, POINTS> for OutputTransposed {
    #[inline(always)]
    unsafe fn six<L: Lanes>(y: [L; OUTPUTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_a, odd_a) =
                (y[0].add_product(L::splat(A2), y[2]), y[1].mul(L::splat(A)).add_product(L::splat(A3), y[3]));
            let (even_b, odd_b) =
                (y[0].add_product(L::splat(B2), y[2]), y[1].mul(L::splat(B)).add_product(L::splat(B3), y[3]));
            [y[0], even_b.add(odd_b), even_b.sub(odd_b), y[3], even_a.add(odd_a), even_a.sub(odd_a)]
        }
    }

    #[inline(always)]
    unsafe fn five<L: Lanes>(y: [L; OUTPUTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_a, odd_a) = (y[0].add_product(L::splat(A2), y[2]), y[1].mul(L::splat(A)));
            let (even_b, odd_b) = (y[0].add_product(L::splat(B2), y[2]), y[1].mul(L::splat(B)));
            [L::splat(0.0), even_b.add(odd_b), even_b.sub(odd_b), y[2], even_a.add(odd_a), even_a.sub(odd_a)]
        }
    }

    #[inline(always)]
    unsafe fn four<L: Lanes>(y: [L; OUTPUTS]) -> [L; POINTS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (odd, zero) = (y[1].mul(L::splat(B)), L::splat(0.0));
            [y[0], y[0].add(odd), y[0].sub(odd), y[1], zero, zero]
        }
    }
}

/// `G^T u`: the transpose of [`Filter`].
pub(super) struct FilterTransposed;

impl Transform<POINTS, TAPS> for FilterTransposed {
    #[inline(always)]
    unsafe fn apply<L: Lanes>(_: usize, u: [L; POINTS]) -> [L; TAPS] {
        // SAFETY: the caller's promise.
        unsafe {
            let (sum_a, difference_a) = (u[4].add(u[5]).mul(L::splat(SCALE_A)), u[4].sub(u[5]).mul(L::splat(SCALE_A)));
            let (sum_b, difference_b) = (u[1].add(u[2]).mul(L::splat(SCALE_B)), u[1].sub(u[2]).mul(L::splat(SCALE_B)));
            [
                u[0].mul(L::splat(SCALE_0)).add(sum_a.add(sum_b)),
                difference_a.mul(L::splat(A)).add_product(L::splat(B), difference_b),
                u[3].add_product(L::splat(A2), sum_a).add_product(L::splat(B2), sum_b),
            ]
        }
    }
}
