//! The passes over memory, two forward and two backward, on some rows of one segment each.

use crate::ops::lanes::{Element, Kernel, Lanes};

/// Rows whose sums are made in f32 before they join f64 ones.
pub(super) const BLOCK: usize = 64;
/// Rows that are added up in registers before they join the sums of their block.
const ROWS: usize = 4;

/// Count, mean and sum of squared deviations of each channel of some rows.
pub(super) struct Moments {
    pub count: f64,
    pub mean: Vec<f64>,
    pub squares: Vec<f64>,
}

impl Moments {
    pub fn none(channels: usize) -> Self {
        Moments { count: 0., mean: vec![0.; channels], squares: vec![0.; channels] }
    }

    pub fn join(&mut self, other: &Moments) {
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

/// Adds the rows of `x` to `moments`.
pub(super) struct AddMoments<'a, N> {
    pub x: &'a [N],
    pub moments: &'a mut Moments,
}

impl<N: Element> Kernel for AddMoments<'_, N> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let AddMoments { x, moments } = self;
        let channels = moments.mean.len();
        let (mut sums, mut squares) = (vec![0f32; channels], vec![0f32; channels]);
        for block in x.chunks(BLOCK * channels) {
            // Deviations from the block's first row: a mean far from zero costs no digits.
            let pivot = &block[..channels];
            sums.fill(0.);
            squares.fill(0.);
            let mut rows = block.chunks_exact(ROWS * channels);
            for rows in rows.by_ref() {
                // SAFETY: the caller's promise.
                unsafe { add_deviations::<N, L, ROWS>(rows, pivot, &mut sums, &mut squares) };
            }
            for row in rows.remainder().chunks_exact(channels) {
                // SAFETY: the caller's promise.
                unsafe { add_deviations::<N, L, 1>(row, pivot, &mut sums, &mut squares) };
            }
            moments.join_block(block.len() / channels, pivot, &sums, &squares);
        }
    }
}

/// Adds the deviations of `R` rows from `pivot`, and their squares.
///
/// # Safety
/// The CPU has the instructions of `L`.
#[inline(always)]
unsafe fn add_deviations<N: Element, L: Lanes, const R: usize>(
    x: &[N],
    pivot: &[N],
    sums: &mut [f32],
    squares: &mut [f32],
) {
    let channels = pivot.len();
    assert!(x.len() == R * channels && sums.len() == channels && squares.len() == channels);
    let (x, pivot, sums, squares) = (x.as_ptr(), pivot.as_ptr(), sums.as_mut_ptr(), squares.as_mut_ptr());
    for c in (0..channels).step_by(L::WIDTH) {
        let n = channels - c;
        // SAFETY: the caller's promise; all are as long as asserted, and no more than the `n` channels behind `c`
        // are touched.
        unsafe {
            let (mut sum, mut square) = (L::load_first(sums.add(c), n), L::load_first(squares.add(c), n));
            let pivot = N::load_first(pivot.add(c), n);
            for row in 0..R {
                let deviation = N::load_first::<L>(x.add(row * channels + c), n).sub(pivot);
                sum = sum.add(deviation);
                square = square.add_product(deviation, deviation);
            }
            sum.store_first(sums.add(c), n);
            square.store_first(squares.add(c), n);
        }
    }
}

/// What is done to every value of a channel: `a * (x - mean) + b`.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub mean: &'a [f32],
    pub a: &'a [f32],
    pub b: &'a [f32],
}

impl Line<'_> {
    /// Of `n` channels from `c` on.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and the line has these channels.
    #[inline(always)]
    unsafe fn of<L: Lanes>(&self, x: L, c: usize, n: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let (mean, a) = (L::load_first(self.mean.as_ptr().add(c), n), L::load_first(self.a.as_ptr().add(c), n));
            L::load_first(self.b.as_ptr().add(c), n).add_product(a, x.sub(mean))
        }
    }

    fn has(&self, channels: usize) -> bool {
        [self.mean, self.a, self.b].iter().all(|values| values.len() == channels)
    }
}

/// Writes `y = line(x) + residual`, the residual where there is one, and then a ReLU where `RELU` says so.
pub(super) struct Normalise<'a, N, const RELU: bool> {
    pub x: &'a [N],
    pub line: Line<'a>,
    pub residual: Option<&'a [N]>,
    pub y: &'a mut [N],
    /// Whether `y` is written past the caches.
    pub stream: bool,
}

impl<N: Element, const RELU: bool> Kernel for Normalise<'_, N, RELU> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let channels = self.line.mean.len();
        assert!(self.line.has(channels) && self.x.len() == self.y.len());
        assert!(self.residual.is_none_or(|residual| residual.len() == self.y.len()));
        let rows = self.y.len() / channels;
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        for row in 0..rows {
            for c in (0..channels).step_by(L::WIDTH) {
                let (at, n) = (row * channels + c, channels - c);
                // SAFETY: the caller's promise; all are as long as asserted, and no more than the `n` channels behind
                // `c` are touched.
                unsafe {
                    let mut value = self.line.of(N::load_first::<L>(x.add(at), n), c, n);
                    if let Some(residual) = self.residual {
                        value = value.add(N::load_first(residual.as_ptr().add(at), n));
                    }
                    if RELU {
                        value = value.where_positive(value);
                    }
                    match self.stream {
                        true => N::stream_first(value, y.add(at), n),
                        false => N::store_first(value, y.add(at), n),
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { L::fence() };
    }
}

/// From what follows which gradients a ReLU lets through: those of results above 0 (or not a number).
#[derive(Clone, Copy)]
pub(super) enum Mask<'a, N> {
    /// There is no ReLU.
    None,
    /// The result is this line of the input: it is computed again, which is faster than reading it.
    Input(Line<'a>),
    /// The result.
    Output(&'a [N]),
    /// The result, and where the masked gradient, of as many values, goes for those who need it again.
    Kept(&'a [N], *mut N),
}

/// [`Mask`] as types, so that the loops of the passes do not ask.
trait Rectify: Copy {
    /// The gradients before the ReLU of `n` channels from `c` on, from those after it; they are value `at` of the
    /// rows.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`, and the operands have these values.
    unsafe fn rectify<L: Lanes>(self, g: L, x: L, at: usize, c: usize, n: usize) -> L;
}

impl Rectify for () {
    #[inline(always)]
    unsafe fn rectify<L: Lanes>(self, g: L, _: L, _: usize, _: usize, _: usize) -> L {
        g
    }
}

impl Rectify for Line<'_> {
    #[inline(always)]
    unsafe fn rectify<L: Lanes>(self, g: L, x: L, _: usize, c: usize, n: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { g.where_positive(self.of(x, c, n)) }
    }
}

impl<N: Element> Rectify for &[N] {
    #[inline(always)]
    unsafe fn rectify<L: Lanes>(self, g: L, _: L, at: usize, _: usize, n: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe { g.where_positive(N::load_first(self.as_ptr().add(at), n)) }
    }
}

impl<N: Element> Rectify for (&[N], *mut N) {
    #[inline(always)]
    unsafe fn rectify<L: Lanes>(self, g: L, x: L, at: usize, c: usize, n: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let g = self.0.rectify(g, x, at, c, n);
            N::store_first(g, self.1.add(at), n);
            g
        }
    }
}

/// For each channel the sums of `g` and of `g * (x - mean)`.
pub(super) struct Sums {
    pub g: Vec<f64>,
    pub g_deviation: Vec<f64>,
}

impl Sums {
    pub fn none(channels: usize) -> Self {
        Sums { g: vec![0.; channels], g_deviation: vec![0.; channels] }
    }
}

/// Adds the rows of `x` and of the masked `g` to `sums`.
pub(super) struct AddSums<'a, N> {
    pub x: &'a [N],
    pub g: &'a [N],
    pub mask: Mask<'a, N>,
    pub mean: &'a [f32],
    pub sums: &'a mut Sums,
}

impl<N: Element> Kernel for AddSums<'_, N> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.mask {
                Mask::None => self.run_with::<L, _>(()),
                Mask::Input(line) => self.run_with::<L, _>(line),
                Mask::Output(y) => self.run_with::<L, _>(y),
                Mask::Kept(y, masked) => self.run_with::<L, _>((y, masked)),
            }
        }
    }
}

impl<N: Element> AddSums<'_, N> {
    /// # Safety
    /// The CPU has the instructions of `L`.
    #[inline(always)]
    unsafe fn run_with<L: Lanes, R: Rectify>(self, relu: R) {
        let channels = self.mean.len();
        assert!(self.x.len() == self.g.len());
        let rows = self.x.len() / channels;
        let (mut sums, mut deviations) = (vec![0f32; channels], vec![0f32; channels]);
        for start in (0..rows).step_by(BLOCK) {
            let end = (start + BLOCK).min(rows);
            sums.fill(0.);
            deviations.fill(0.);
            let mut row = start;
            while row < end {
                // SAFETY: the caller's promise; there are as many rows, and as many sums as channels.
                unsafe {
                    if row + ROWS <= end {
                        self.add_rows::<L, R, ROWS>(relu, row, sums.as_mut_ptr(), deviations.as_mut_ptr());
                        row += ROWS;
                    } else {
                        self.add_rows::<L, R, 1>(relu, row, sums.as_mut_ptr(), deviations.as_mut_ptr());
                        row += 1;
                    }
                }
            }
            let (g, g_deviation) = (&mut self.sums.g[..channels], &mut self.sums.g_deviation[..channels]);
            for c in 0..channels {
                g[c] += f64::from(sums[c]);
                g_deviation[c] += f64::from(deviations[c]);
            }
        }
    }

    /// Adds `COUNT` rows from `row` on.
    ///
    /// # Safety
    /// The CPU has the instructions of `L`; there are these rows, and as many sums as channels.
    #[inline(always)]
    unsafe fn add_rows<L: Lanes, R: Rectify, const COUNT: usize>(
        &self,
        relu: R,
        row: usize,
        sums: *mut f32,
        deviations: *mut f32,
    ) {
        let channels = self.mean.len();
        for c in (0..channels).step_by(L::WIDTH) {
            let n = channels - c;
            // SAFETY: the caller's promise, and no more than the `n` channels behind `c` are touched.
            unsafe {
                let (mut sum, mut deviation) = (L::load_first(sums.add(c), n), L::load_first(deviations.add(c), n));
                let mean = L::load_first(self.mean.as_ptr().add(c), n);
                for row in row..row + COUNT {
                    let at = row * channels + c;
                    let x: L = N::load_first(self.x.as_ptr().add(at), n);
                    let g: L = N::load_first(self.g.as_ptr().add(at), n);
                    let g = relu.rectify(g, x, at, c, n);
                    sum = sum.add(g);
                    deviation = deviation.add_product(g, x.sub(mean));
                }
                sum.store_first(sums.add(c), n);
                deviation.store_first(deviations.add(c), n);
            }
        }
    }
}

/// Writes `dx = factor * g + line(x)`, of the masked `g` and the line where there is one.
pub(super) struct Gradient<'a, N> {
    pub x: &'a [N],
    pub g: &'a [N],
    pub mask: Mask<'a, N>,
    pub factor: &'a [f32],
    pub line: Option<Line<'a>>,
    pub dx: &'a mut [N],
    /// Whether `dx` is written past the caches.
    pub stream: bool,
}

impl<N: Element> Kernel for Gradient<'_, N> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.mask {
                Mask::None => self.run_with::<L, _>(()),
                Mask::Input(line) => self.run_with::<L, _>(line),
                Mask::Output(y) => self.run_with::<L, _>(y),
                Mask::Kept(y, masked) => self.run_with::<L, _>((y, masked)),
            }
        }
    }
}

impl<N: Element> Gradient<'_, N> {
    /// # Safety
    /// The CPU has the instructions of `L`.
    #[inline(always)]
    unsafe fn run_with<L: Lanes, R: Rectify>(self, relu: R) {
        let channels = self.factor.len();
        assert!(self.x.len() == self.dx.len() && self.g.len() == self.dx.len());
        assert!(self.line.is_none_or(|line| line.has(channels)));
        let rows = self.dx.len() / channels;
        let (x, g, dx) = (self.x.as_ptr(), self.g.as_ptr(), self.dx.as_mut_ptr());
        for row in 0..rows {
            for c in (0..channels).step_by(L::WIDTH) {
                let (at, n) = (row * channels + c, channels - c);
                // SAFETY: the caller's promise; all are as long as asserted, and no more than the `n` channels behind
                // `c` are touched.
                unsafe {
                    let x: L = N::load_first(x.add(at), n);
                    let g = relu.rectify(N::load_first(g.add(at), n), x, at, c, n);
                    let factor = L::load_first(self.factor.as_ptr().add(c), n);
                    let value = match self.line {
                        Some(line) => line.of(x, c, n).add_product(factor, g),
                        None => factor.mul(g),
                    };
                    match self.stream {
                        true => N::stream_first(value, dx.add(at), n),
                        false => N::store_first(value, dx.add(at), n),
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { L::fence() };
    }
}
