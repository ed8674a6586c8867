//! The passes over memory, one forward and two backward, on some rows of one segment each.

use crate::ops::lanes::{Element, Kernel, Lanes};
use crate::ops::moments::{BLOCK, ROWS};

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
