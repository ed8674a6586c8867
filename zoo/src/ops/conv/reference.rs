//! Convolution as a composition of candle's operations: gather every window, then one product.

use super::Problem;
use crate::ops::node::computing;
use candle_core::{Result, Tensor};

/// See [`super::conv`]. Differentiable by candle itself, on any device, in any float type.
///
/// Half precision is computed in f32. Only `cat`, `index_select`, `permute`, `reshape` and `matmul` are used: the derivatives of candle's
/// own convolutions are slow, and wrong for some strides.
pub(super) fn conv(x: &Tensor, weight: &Tensor, problem: &Problem, dims: usize) -> Result<Tensor> {
    let Problem { batch, channels, groups, input, output, kernel, .. } = *problem;
    let dtype = computing(x.dtype());
    let (mut windows, mut rows, mut taps) = (x.to_dtype(dtype)?, batch, 1);
    for axis in 0..3 {
        let (padding, stride, dilation) = (problem.padding[axis], problem.stride[axis], problem.dilation[axis]);
        let rest = input[axis + 1..].iter().product::<usize>();
        windows = windows.reshape((rows, input[axis], rest, taps * channels))?;
        if padding > 0 {
            windows = windows.pad_with_zeros(1, padding, padding)?;
        }
        if (kernel[axis], stride) != (1, 1) {
            let read: Vec<u32> = (0..output[axis])
                .flat_map(|q| (0..kernel[axis]).map(move |tap| (q * stride + tap * dilation) as u32))
                .collect();
            windows = windows.index_select(&Tensor::new(read, x.device())?, 1)?;
        }
        windows = windows
            .reshape(vec![rows, output[axis], kernel[axis], rest, taps, channels])?
            .permute(vec![0, 1, 3, 4, 2, 5])?;
        rows *= output[axis];
        taps *= kernel[axis];
    }
    let (group_channels, group_out_channels) = (problem.group_channels(), problem.group_out_channels());
    // [rows, taps, G, C / G] -> [G, rows, taps * C / G]
    let windows = windows.reshape((rows, taps, groups, group_channels))?.permute((2, 0, 1, 3))?.reshape((
        groups,
        rows,
        taps * group_channels,
    ))?;
    // [G, O / G, C / G, taps] -> [G, taps * C / G, O / G]
    let weight = weight
        .to_dtype(dtype)?
        .reshape((groups, group_out_channels, group_channels, taps))?
        .permute((0, 3, 2, 1))?
        .reshape((groups, taps * group_channels, group_out_channels))?;
    windows.matmul(&weight)?.permute((1, 0, 2))?.reshape(problem.output_shape(dims))?.to_dtype(x.dtype())
}
