//! The numbers of a tensor, lent as a slice: what the elementwise passes over all parameters
//! (optimizer, EMA, gradient norm) work on.
//!
//! On the CPU nothing is copied. Another device copies to the host and back, which is right and slow.

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, Var, bail};
use std::cell::Cell;

/// Elements of one piece of work. Fixed, so that no result depends on the number of threads.
pub const CHUNK: usize = 1 << 15;

/// Lends the values of `var`, `f32` in row-major order, to be changed in place.
///
/// # Errors
/// Where the variable is not `f32`.
pub fn change<R>(var: &Var, change: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    if !var.device().is_cpu() {
        let mut values = var.flatten_all()?.to_vec1::<f32>()?;
        let result = change(&mut values);
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        return Ok(result);
    }
    let op = InPlace { change: Cell::new(Some(change)), result: Cell::new(None) };
    var.inplace_op1(&op)?;
    Ok(op.result.into_inner().expect("an op that ran has a result"))
}

/// Lends the values of `tensor`, `f32` in row-major order.
///
/// # Errors
/// Where the tensor is not `f32`.
pub fn read<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    if tensor.dtype() != DType::F32 {
        bail!("expected f32 values, not {:?}", tensor.dtype());
    }
    let contiguous = tensor.contiguous()?;
    let (storage, layout) = contiguous.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            let start = layout.start_offset();
            Ok(read(&values[start..start + layout.shape().elem_count()]))
        }
        _ => {
            drop(storage);
            Ok(read(&contiguous.flatten_all()?.to_vec1::<f32>()?))
        }
    }
}

struct InPlace<F, R> {
    change: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<F: FnOnce(&mut [f32]) -> R, R> InplaceOp1 for InPlace<F, R> {
    fn name(&self) -> &'static str {
        "change-values"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
        let CpuStorage::F32(values) = storage else { bail!("expected f32 values") };
        let change = self.change.take().expect("an op runs once");
        self.result.set(Some(change(&mut values[start..end])));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn lends_what_is_there_and_keeps_what_was_changed() -> Result<()> {
        let var = Var::new(&[[1f32, 2., 3.], [4., 5., 6.]], &Device::Cpu)?;
        assert_eq!(change(&var, |values| std::mem::replace(&mut values[4], -5.))?, 5.);
        assert_eq!(read(&var, <[f32]>::to_vec)?, [1., 2., 3., 4., -5., 6.]);
        assert_eq!(read(&var.t()?, <[f32]>::to_vec)?, [1., 4., 2., -5., 3., 6.]);
        assert_eq!(read(&var.narrow(0, 1, 1)?, <[f32]>::to_vec)?, [4., -5., 6.]);
        assert!(read(&var.to_dtype(DType::F64)?, |_| ()).is_err());
        Ok(())
    }
}
