//! Count, mean and variance of the channels of a map, a few rows at a time.

use super::lanes::{Element, Kernel, Lanes};

/// Rows whose sums are made in f32 before they join f64 ones.
pub(super) const BLOCK: usize = 64;
/// Rows that are added up in registers before they join the sums of their block.
pub(super) const ROWS: usize = 4;

/// Count, mean and sum of squared deviations of each channel of some rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(super) count: f64,
    pub(super) mean: Vec<f64>,
    pub(super) squares: Vec<f64>,
}

impl Moments {
    pub(super) fn none(channels: usize) -> Self {
        Moments { count: 0., mean: vec![0.; channels], squares: vec![0.; channels] }
    }

    pub(super) fn join(&mut self, other: &Moments) {
        let joined = Joined::new(self.count, other.count);
        for c in 0..self.mean.len() {
            joined.join(&mut self.mean[c], &mut self.squares[c], other.mean[c], other.squares[c]);
        }
        self.count += other.count;
    }

    /// Those of a block of rows, of whose deviations from its first row there are the sums and those of the squares.
    #[inline(always)]
    fn join_block<N: Element>(&mut self, rows: usize, pivot: &[N], sums: &[f32], squares: &[f32]) {
        let (count, channels) = (rows as f64, pivot.len());
        let joined = Joined::new(self.count, count);
        let (means, spreads) = (&mut self.mean[..channels], &mut self.squares[..channels]);
        let (sums, squares) = (&sums[..channels], &squares[..channels]);
        for c in 0..channels {
            let (sum, squares) = (f64::from(sums[c]), f64::from(squares[c]));
            let share = sum / count;
            let squares = (squares - sum * share).max(0.);
            joined.join(&mut means[c], &mut spreads[c], f64::from(pivot[c].wide()) + share, squares);
        }
        self.count += count;
    }
}

/// How two sets of values share their moments: Chan, Golub and LeVeque, "Updating formulae and a pairwise
/// algorithm for computing sample variances" (1979).
pub(super) struct Joined {
    share: f64,
    between: f64,
}

impl Joined {
    #[inline(always)]
    pub fn new(count: f64, other: f64) -> Self {
        let share = other / (count + other).max(1.);
        Joined { share, between: count * share }
    }

    #[inline(always)]
    pub fn join(&self, mean: &mut f64, squares: &mut f64, other_mean: f64, other_squares: f64) {
        let difference = other_mean - *mean;
        *mean += difference * self.share;
        *squares += other_squares + difference * difference * self.between;
    }
}

/// Where rows lie.
pub(super) trait Rows {
    /// How many there are.
    fn count(&self) -> usize;

    /// Where row `i` begins.
    fn start(&self, i: usize) -> usize;
}

/// Row after row.
#[derive(Debug, Clone, Copy)]
pub(super) struct InOrder {
    pub rows: usize,
    pub channels: usize,
}

impl Rows for InOrder {
    fn count(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    fn start(&self, i: usize) -> usize {
        i * self.channels
    }
}

/// Each anywhere.
impl Rows for &[usize] {
    fn count(&self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn start(&self, i: usize) -> usize {
        self[i]
    }
}

/// Adds the rows of `x` to `moments`.
pub(super) struct AddMoments<'a, N, R> {
    pub x: *const N,
    pub rows: R,
    pub moments: &'a mut Moments,
}

impl<N: Element, R: Rows> Kernel for AddMoments<'_, N, R> {
    /// # Safety
    /// A number for each channel lies at the start of each row, counted from `x`, and nobody writes it.
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let AddMoments { x, rows, moments } = self;
        let channels = moments.mean.len();
        let (mut sums, mut squares) = (vec![0f32; channels], vec![0f32; channels]);
        for first in (0..rows.count()).step_by(BLOCK) {
            let end = (first + BLOCK).min(rows.count());
            // Deviations from the block's first row: a mean far from zero costs no digits.
            // SAFETY: the caller's promise.
            let pivot = unsafe { std::slice::from_raw_parts(x.add(rows.start(first)), channels) };
            sums.fill(0.);
            squares.fill(0.);
            let mut row = first;
            while row < end {
                // SAFETY: the caller's promise.
                unsafe {
                    if row + ROWS <= end {
                        let starts: [usize; ROWS] = std::array::from_fn(|i| rows.start(row + i));
                        add_deviations::<N, L, ROWS>(x, starts, pivot, &mut sums, &mut squares);
                        row += ROWS;
                    } else {
                        add_deviations::<N, L, 1>(x, [rows.start(row)], pivot, &mut sums, &mut squares);
                        row += 1;
                    }
                }
            }
            moments.join_block(end - first, pivot, &sums, &squares);
        }
    }
}

/// Adds the deviations of `R` rows from `pivot`, and their squares.
///
/// # Safety
/// The CPU has the instructions of `L`, and there are these rows.
#[inline(always)]
unsafe fn add_deviations<N: Element, L: Lanes, const R: usize>(
    x: *const N,
    rows: [usize; R],
    pivot: &[N],
    sums: &mut [f32],
    squares: &mut [f32],
) {
    let channels = pivot.len();
    assert!(sums.len() == channels && squares.len() == channels);
    let (pivot, sums, squares) = (pivot.as_ptr(), sums.as_mut_ptr(), squares.as_mut_ptr());
    for c in (0..channels).step_by(L::WIDTH) {
        let n = channels - c;
        // SAFETY: the caller's promise; all are as long as asserted, and no more than the `n` channels behind `c`
        // are touched.
        unsafe {
            let (mut sum, mut square) = (L::load_first(sums.add(c), n), L::load_first(squares.add(c), n));
            let pivot = N::load_first(pivot.add(c), n);
            for row in rows {
                let deviation = N::load_first::<L>(x.add(row + c), n).sub(pivot);
                sum = sum.add(deviation);
                square = square.add_product(deviation, deviation);
            }
            sum.store_first(sums.add(c), n);
            square.store_first(squares.add(c), n);
        }
    }
}
