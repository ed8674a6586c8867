//! How a result that one of our kernels computed enters candle's graph.
//!
//! candle's custom ops compute inside a trait method that sees raw storages. Here an op computes with
//! plain slices first, and then [`record1`], [`record2`] or [`record3`] hand the finished result and the
//! way back to candle, or to nobody where no input is tracked.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage, StorageRef, Tensor,
};
use rayon::prelude::*;
use std::ops::{Deref, Range};
use std::sync::Mutex;

/// Values that one task works on: large enough to pay for the task, small enough to share out. A
/// constant, so that neither results nor sums depend on the number of threads.
pub(crate) const TASK: usize = 1 << 14;

/// Whether the `cpu` kernels take these operands: all `f32` in main memory. Otherwise `reference` does.
pub(crate) fn in_main_memory(operands: &[&Tensor]) -> bool {
    operands.iter().all(|operand| operand.dtype() == DType::F32 && operand.device().is_cpu())
}

/// The dtype in which `reference` computes what `dtype` stores: half precision is widened.
pub(crate) fn computing(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// Read access to the values of an `f32` tensor in main memory.
pub(crate) struct Values<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

/// The values of a contiguous `f32` tensor in main memory.
pub(crate) fn values(tensor: &Tensor) -> Result<Values<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("the tensor must be contiguous") };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values { storage, range: start..end }),
        _ => candle_core::bail!("the tensor must be f32 in main memory"),
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("`values` checked it"),
        }
    }
}

/// `len` values, written in parallel: `write` gets each piece of `piece` values with its number.
pub(crate) fn fill(len: usize, piece: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.; len];
    if len <= piece {
        write(0, &mut out);
    } else {
        out.par_chunks_mut(piece).enumerate().for_each(|(i, piece)| write(i, piece));
    }
    out
}

/// [`fill`] by rows of `row` values, at least one: `write` gets the row's number. A task takes as many
/// rows as read [`TASK`] values, of `reads` altogether.
pub(crate) fn fill_rows(rows: usize, row: usize, reads: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let per_task = (TASK / row.max(reads / rows.max(1))).max(1);
    fill(rows * row, per_task * row, |task, piece| {
        for (i, out) in piece.chunks_exact_mut(row).enumerate() {
            write(task * per_task + i, out);
        }
    })
}

/// The gradients of an op's inputs; `None` where nobody asks.
pub(crate) type Gradients<const N: usize> = Result<[Option<Tensor>; N]>;

/// Makes `result` a tensor that depends on `x`. `backward` maps the result and its gradient, both
/// contiguous, to the gradient of `x`.
pub(crate) fn record1<B>(
    name: &'static str,
    x: &Tensor,
    result: Vec<f32>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    B: Fn(&Tensor, &Tensor) -> Gradients<1> + Send + Sync + 'static,
{
    match Node::new(name, &[x], result, shape.into(), backward) {
        Ok(node) => x.apply_op1(node),
        Err(untracked) => untracked,
    }
}

/// [`record1`] with two inputs.
pub(crate) fn record2<B>(
    name: &'static str,
    inputs: [&Tensor; 2],
    result: Vec<f32>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    B: Fn(&Tensor, &Tensor) -> Gradients<2> + Send + Sync + 'static,
{
    match Node::new(name, &inputs, result, shape.into(), backward) {
        Ok(node) => inputs[0].apply_op2(inputs[1], node),
        Err(untracked) => untracked,
    }
}

/// [`record1`] with three inputs.
pub(crate) fn record3<B>(
    name: &'static str,
    inputs: [&Tensor; 3],
    result: Vec<f32>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    B: Fn(&Tensor, &Tensor) -> Gradients<3> + Send + Sync + 'static,
{
    match Node::new(name, &inputs, result, shape.into(), backward) {
        Ok(node) => inputs[0].apply_op3(inputs[1], inputs[2], node),
        Err(untracked) => untracked,
    }
}

struct Node<B> {
    name: &'static str,
    // candle asks for it once, at once; then the node only waits for its backward pass.
    result: Mutex<Option<(CpuStorage, Shape)>>,
    backward: B,
}

impl<B> Node<B> {
    /// The node, or without anything to track the finished tensor.
    fn new(
        name: &'static str,
        inputs: &[&Tensor],
        result: Vec<f32>,
        shape: Shape,
        backward: B,
    ) -> std::result::Result<Self, Result<Tensor>> {
        if !inputs.iter().any(|input| input.track_op()) {
            return Err(Tensor::from_vec(result, shape, &Device::Cpu));
        }
        Ok(Node { name, result: Mutex::new(Some((CpuStorage::F32(result), shape))), backward })
    }

    fn take(&self) -> Result<(CpuStorage, Shape)> {
        let mut result = self.result.lock().expect("nothing panics while it is held");
        result.take().ok_or_else(|| candle_core::Error::Msg(format!("{} was applied twice", self.name)))
    }
}

impl<B: Fn(&Tensor, &Tensor) -> Gradients<1>> CustomOp1 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, _: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [x] = (self.backward)(&result.detach(), &gradient.contiguous()?)?;
        Ok(x)
    }
}

impl<B: Fn(&Tensor, &Tensor) -> Gradients<2>> CustomOp2 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        (self.backward)(&result.detach(), &gradient.contiguous()?).map(Into::into)
    }
}

impl<B: Fn(&Tensor, &Tensor) -> Gradients<3>> CustomOp3 for Node<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        (self.backward)(&result.detach(), &gradient.contiguous()?).map(Into::into)
    }
}
