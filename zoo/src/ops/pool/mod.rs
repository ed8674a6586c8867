//! Pooling over windows or adaptive bins of `x[N, spatial.., C]`, one to three spatial axes.
//!
//! A window of `kernel` cells starts at `o * stride - padding`. Max pooling pads with negative infinity,
//! of equal elements the first one wins and gets the gradient (as in PyTorch). Average pooling pads with
//! zeros and divides by the window's size, or without `count_include_pad` by the cells that are not
//! padding; with `ceil_mode` a last window may hang over the end, and then counts at most the padding.
//! Adaptive average pooling, `torch.nn.AdaptiveAvgPool2d`: bin `o` is `floor(o * in / out) ..
//! ceil((o + 1) * in / out)`. Derivatives: see `ops::bins`.

use crate::ops::bins::{self, Axis, Bin};
use candle_core::{Result, Tensor, bail};

/// Windows of a max pool, for each spatial axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool<const D: usize> {
    /// Cells a window.
    pub kernel: [usize; D],
    /// Cells from a window to the next.
    pub stride: [usize; D],
    /// Cells of negative infinity before the first and after the last cell, at most half the kernel.
    pub padding: [usize; D],
}

/// Windows of an average pool, for each spatial axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvgPool<const D: usize> {
    /// Cells a window.
    pub kernel: [usize; D],
    /// Cells from a window to the next.
    pub stride: [usize; D],
    /// Zeros before the first and after the last cell, at most half the kernel.
    pub padding: [usize; D],
    /// Whether a last window may hang over the end.
    pub ceil_mode: bool,
    /// Whether the mean counts the padding.
    pub count_include_pad: bool,
}

/// The maximum of each window: `x[N, spatial.., C]` to `[N, windows.., C]`.
///
/// # Errors
/// Where the rank is not `D + 2`, or the windows do not fit the input.
pub fn max_pool<const D: usize>(x: &Tensor, config: &MaxPool<D>) -> Result<Tensor> {
    let spatial = bins::spatial::<D>("max_pool", x)?;
    let axes: Result<Vec<Axis>> = (0..D)
        .map(|i| {
            let (kernel, stride, padding) = (config.kernel[i], config.stride[i], config.padding[i]);
            Window { op: "max_pool", kernel, stride, padding, ceil_mode: false, count_include_pad: false }
                .axis(spatial[i])
        })
        .collect();
    bins::max(x, axes?)
}

/// The mean of each window: `x[N, spatial.., C]` to `[N, windows.., C]`.
///
/// # Errors
/// Where the rank is not `D + 2`, or the windows do not fit the input.
pub fn avg_pool<const D: usize>(x: &Tensor, config: &AvgPool<D>) -> Result<Tensor> {
    let spatial = bins::spatial::<D>("avg_pool", x)?;
    let AvgPool { ceil_mode, count_include_pad, .. } = *config;
    let axes: Result<Vec<Axis>> = (0..D)
        .map(|i| {
            let (kernel, stride, padding) = (config.kernel[i], config.stride[i], config.padding[i]);
            Window { op: "avg_pool", kernel, stride, padding, ceil_mode, count_include_pad }.axis(spatial[i])
        })
        .collect();
    bins::mean(x, axes?)
}

/// The means of a grid of `size` bins that covers the input: `x[N, spatial.., C]` to `[N, size.., C]`.
///
/// # Errors
/// Where the rank is not `D + 2`, or a size is zero.
pub fn adaptive_avg_pool<const D: usize>(x: &Tensor, size: [usize; D]) -> Result<Tensor> {
    let spatial = bins::spatial::<D>("adaptive_avg_pool", x)?;
    if size.contains(&0) || spatial.contains(&0) {
        bail!("adaptive_avg_pool takes sizes of at least 1, not {:?} to {size:?}", x.shape());
    }
    let axes = std::iter::zip(spatial, size).map(|(input, out)| {
        Axis::new(
            input,
            (0..out).map(|o| {
                let (start, end) = (o * input / out, ((o + 1) * input).div_ceil(out));
                Bin { start, end, count: end - start }
            }),
        )
    });
    bins::mean(x, axes.collect())
}

/// The mean over all spatial axes: `x[N, spatial.., C]` to `[N, C]`, in `f32` where `x` is half precision.
///
/// # Errors
/// Where `x` has not one to three spatial axes, or one of them is empty.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    let spatial = match x.rank() {
        3 => bins::spatial::<1>("global_avg_pool", x)?.to_vec(),
        4 => bins::spatial::<2>("global_avg_pool", x)?.to_vec(),
        5 => bins::spatial::<3>("global_avg_pool", x)?.to_vec(),
        _ => bail!("global_avg_pool takes [N, spatial.., C] with one to three spatial axes, not {:?}", x.shape()),
    };
    if spatial.contains(&0) {
        bail!("global_avg_pool takes sizes of at least 1, not {:?}", x.shape());
    }
    let all = |input| Axis::new(input, std::iter::once(Bin { start: 0, end: input, count: input }));
    let pooled = bins::wide_mean(x, spatial.into_iter().map(all).collect())?;
    let dims = x.dims();
    pooled.reshape((dims[0], dims[dims.len() - 1]))
}

/// The windows along one axis.
struct Window {
    op: &'static str,
    kernel: usize,
    stride: usize,
    padding: usize,
    ceil_mode: bool,
    count_include_pad: bool,
}

impl Window {
    fn axis(&self, input: usize) -> Result<Axis> {
        let Window { op, kernel, stride, padding, .. } = *self;
        if kernel == 0 || stride == 0 {
            bail!("{op} takes a kernel and a stride of at least 1, not {kernel} and {stride}");
        }
        if padding > kernel / 2 {
            bail!("{op} takes a padding of at most half the kernel, not {padding} with a kernel of {kernel}");
        }
        let padded = input.saturating_add(2 * padding);
        if input == 0 || padded < kernel {
            bail!("{op}: a window of {kernel} does not fit {input} cells with padding {padding}: use a larger input");
        }
        let steps = padded - kernel;
        let mut windows = steps / stride + 1;
        // A window that would start in the padding after the end holds no cell (PyTorch drops it too).
        if self.ceil_mode && !steps.is_multiple_of(stride) && windows * stride < input + padding {
            windows += 1;
        }
        Ok(Axis::new(
            input,
            (0..windows).map(|o| {
                let (start, end) = (o * stride, (o * stride + kernel).min(padded));
                let cells = start.saturating_sub(padding)..(end - padding).min(input);
                let count = if self.count_include_pad { end - start } else { cells.len() };
                Bin { start: cells.start, end: cells.end, count }
            }),
        ))
    }
}

#[cfg(test)]
mod tests;
