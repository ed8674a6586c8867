//! Both reductions are separable: one axis after the other.

use super::{Axis, Bin, Plan};
use crate::ops::node::computing;
use candle_core::{DType, Device, Result, Tensor};

/// Along each axis a product with the matrix that holds `1 / count` where a bin holds a cell.
pub(super) fn mean(x: &Tensor, plan: &Plan, dtype: DType) -> Result<Tensor> {
    let x = x.to_dtype(computing(x.dtype()))?;
    let mut y = x.clone();
    let mut dims = lifted(plan);
    for (axis, bins) in plan.axes.iter().enumerate() {
        let (before, after) = around(&dims, axis + 1);
        let matrix = averaging(bins, x.device())?.to_dtype(x.dtype())?;
        y = matrix.broadcast_matmul(&y.reshape((before, bins.input, after))?)?;
        dims[axis + 1] = bins.bins.len();
    }
    y.reshape(plan.shape.as_slice())?.to_dtype(dtype)
}

/// Along each axis the running maximum over the bins' first cells, their second cells, and so on. The
/// last axis goes first, so that of equal elements the first one in row-major order wins.
pub(super) fn max(x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let mut y = x.clone();
    let mut dims = lifted(plan);
    for (axis, bins) in plan.axes.iter().enumerate().rev() {
        let (before, after) = around(&dims, axis + 1);
        let x = y.reshape((before, bins.input, after))?;
        let longest = bins.bins.iter().map(Bin::len).max().unwrap_or(1);
        let tap = |tap: usize| {
            let cells: Vec<u32> = bins.bins.iter().map(|bin| (bin.start + tap).min(bin.end - 1) as u32).collect();
            x.index_select(&Tensor::new(cells, x.device())?, 1)
        };
        y = (1..longest).try_fold(tap(0)?, |best, i| {
            let candidate = tap(i)?;
            let wins = (candidate.gt(&best)? + candidate.ne(&candidate)?)?;
            wins.where_cond(&candidate, &best)
        })?;
        dims[axis + 1] = bins.bins.len();
    }
    y.reshape(plan.shape.as_slice())
}

fn lifted(plan: &Plan) -> [usize; 5] {
    let [depth, height, width] = plan.axes.each_ref().map(|axis| axis.input);
    [plan.samples, depth, height, width, plan.channels]
}

/// The products of the sizes before and after an axis.
fn around(dims: &[usize; 5], axis: usize) -> (usize, usize) {
    (dims[..axis].iter().product(), dims[axis + 1..].iter().product())
}

/// `f64[bins, input]`.
fn averaging(axis: &Axis, device: &Device) -> Result<Tensor> {
    let mut matrix = vec![0f64; axis.bins.len() * axis.input];
    for (row, bin) in matrix.chunks_exact_mut(axis.input).zip(&axis.bins) {
        row[bin.start..bin.end].fill(1. / bin.count as f64);
    }
    Tensor::from_vec(matrix, (axis.bins.len(), axis.input), &Device::Cpu)?.to_device(device)
}
