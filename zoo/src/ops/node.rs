//! How a result that one of our kernels computed enters candle's graph.
//!
//! candle's custom ops compute inside a trait method that sees raw storages. Here an op computes with
//! plain slices first, and then [`record`] hands the finished result and the way back to candle, to the tape
//! of a segment, or to nobody where no input is tracked.

use super::isa::vectorised;
use super::number::Number;
use super::parallel::{Disjoint, output};
use super::profile::{self, Pass};
use super::tape;
use super::tasks;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage, StorageRef, Tensor,
};
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex};

/// Values that one task works on: large enough to pay for the task, small enough to share out. A
/// constant, so that neither results nor sums depend on the number of threads.
pub(crate) const TASK: usize = 1 << 14;

/// Whether the `cpu` kernels take these operands: all `f32` in main memory. Otherwise `reference` does.
pub(crate) fn in_main_memory(operands: &[&Tensor]) -> bool {
    operands.iter().all(|operand| operand.dtype() == DType::F32 && operand.device().is_cpu())
}

/// The dtype in which `reference` computes what `dtype` stores, and parameters of such maps are: half precision is
/// widened.
pub(crate) fn computing(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// Read access to the values of a tensor in main memory.
pub(crate) struct Values<'a, N = f32> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    number: PhantomData<N>,
}

/// The values of a contiguous `f32` tensor in main memory.
pub(crate) fn values(tensor: &Tensor) -> Result<Values<'_>> {
    values_of(tensor)
}

/// The values of a contiguous tensor of `N` in main memory.
pub(crate) fn values_of<N: Number>(tensor: &Tensor) -> Result<Values<'_, N>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("the tensor must be contiguous") };
    match &*storage {
        Storage::Cpu(_) if tensor.dtype() == N::DTYPE => Ok(Values { storage, range: start..end, number: PhantomData }),
        _ => candle_core::bail!("the tensor must be {} in main memory", N::DTYPE.as_str()),
    }
}

impl<N: Number> Deref for Values<'_, N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        match &*self.storage {
            Storage::Cpu(cpu) => {
                &N::cpu_storage_as_slice(cpu).expect("`values_of` checked the type")[self.range.clone()]
            }
            _ => unreachable!("`values_of` checked it"),
        }
    }
}

/// `len` values, written in parallel: `write` gets each piece of `piece` values with its number, zeros at first. Its
/// loops are vectorised.
pub(crate) fn fill<N: Number>(len: usize, piece: usize, write: impl Fn(usize, &mut [N]) + Sync) -> Vec<N> {
    let pieces = len.div_ceil(piece.max(1));
    let write = |out: Disjoint<N>, i: usize| {
        // SAFETY: the pieces are disjoint.
        let piece = unsafe { out.slice(i * piece..((i + 1) * piece).min(len)) };
        vectorised(|| {
            // Here it costs nothing: a piece stays in the cache, where the whole does not.
            piece.fill(N::narrow(0.));
            write(i, piece);
        });
    };
    // SAFETY: each value lies in a piece, and is written before `write` sees it.
    let filled = unsafe { output(len, |out| tasks::for_each(pieces, |i| write(out, i))) };
    filled.expect("memory for what is as large as an operand")
}

/// [`fill`] by rows of `row` values, at least one: `write` gets the row's number. A task takes as many
/// rows as read [`TASK`] values, of `reads` altogether.
pub(crate) fn fill_rows<N: Number>(
    rows: usize,
    row: usize,
    reads: usize,
    write: impl Fn(usize, &mut [N]) + Sync,
) -> Vec<N> {
    let per_task = (TASK / row.max(reads / rows.max(1))).max(1);
    fill(rows * row, per_task * row, |task, piece| {
        for (i, out) in piece.chunks_exact_mut(row).enumerate() {
            write(task * per_task + i, out);
        }
    })
}

/// The gradients of an op's inputs; `None` where nobody asks.
pub(crate) type Gradients<const N: usize> = Result<[Option<Tensor>; N]>;

/// [`Gradients`] of any number of inputs.
type AllGradients = Result<Vec<Option<Tensor>>>;
type OfGradient = dyn Fn(&Tensor) -> AllGradients + Send + Sync;
type OfResult = dyn Fn(&Tensor, &Tensor) -> AllGradients + Send + Sync;
type Onto = dyn Fn(&Tensor, Option<&Tensor>) -> AllGradients + Send + Sync;

/// The way back through an op, whatever its number of inputs.
pub(super) enum Backward {
    /// From the gradient of the result.
    Gradient(Box<OfGradient>),
    /// From the result, which has to be kept for it, and its gradient.
    Result(Box<OfResult>),
    /// From the gradient of the result, and what others gave for that of the first input, to which it adds its own.
    Onto(Box<Onto>),
}

impl Backward {
    /// The gradients of the inputs. `gradient` is contiguous.
    pub(super) fn run(&self, result: &Tensor, gradient: &Tensor) -> AllGradients {
        match self {
            Backward::Gradient(run) => run(gradient),
            Backward::Result(run) => run(&result.detach(), gradient),
            Backward::Onto(run) => run(gradient, None),
        }
    }
}

/// Makes `result` a tensor that depends on `inputs`. `backward` maps its gradient, contiguous, to the gradients of the
/// inputs. `name` is the op's kind in a profile.
pub(crate) fn record<const N: usize, T, B>(
    name: &'static str,
    inputs: [&Tensor; N],
    result: Vec<T>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    T: Number,
    B: Fn(&Tensor) -> Gradients<N> + Send + Sync + 'static,
{
    let backward = move |gradient: &Tensor| {
        let _timer = profile::start(name, Pass::Backward);
        backward(gradient).map(Vec::from)
    };
    keep(name, &inputs, result, shape.into(), Backward::Gradient(Box::new(backward)))
}

/// As [`record`], but `backward` needs the result too, which therefore stays in memory.
pub(crate) fn record_with_result<const N: usize, T, B>(
    name: &'static str,
    inputs: [&Tensor; N],
    result: Vec<T>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    T: Number,
    B: Fn(&Tensor, &Tensor) -> Gradients<N> + Send + Sync + 'static,
{
    let backward = move |result: &Tensor, gradient: &Tensor| {
        let _timer = profile::start(name, Pass::Backward);
        backward(result, gradient).map(Vec::from)
    };
    keep(name, &inputs, result, shape.into(), Backward::Result(Box::new(backward)))
}

/// As [`record`], but `backward` also gets what others gave for the gradient of the first input, where that is known, and
/// adds its own to it in the pass that computes it.
pub(crate) fn record_onto<const N: usize, T, B>(
    name: &'static str,
    inputs: [&Tensor; N],
    result: Vec<T>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    T: Number,
    B: Fn(&Tensor, Option<&Tensor>) -> Gradients<N> + Send + Sync + 'static,
{
    let backward = move |gradient: &Tensor, others: Option<&Tensor>| {
        let _timer = profile::start(name, Pass::Backward);
        backward(gradient, others).map(Vec::from)
    };
    keep(name, &inputs, result, shape.into(), Backward::Onto(Box::new(backward)))
}

fn keep<T: Number>(
    name: &'static str,
    inputs: &[&Tensor],
    result: Vec<T>,
    shape: Shape,
    backward: Backward,
) -> Result<Tensor> {
    if !inputs.iter().any(|input| input.track_op()) {
        return Tensor::from_vec(result, shape, &Device::Cpu);
    }
    if tape::is_running() {
        return tape::push(inputs, result, shape, backward);
    }
    enter(name, inputs, result, shape, backward)
}

/// Makes `result` a node of candle's graph, with any number of inputs.
pub(super) fn enter<T: Number>(
    name: &'static str,
    inputs: &[&Tensor],
    result: Vec<T>,
    shape: Shape,
    backward: Backward,
) -> Result<Tensor> {
    let node = Node { name, result: Mutex::new(Some((T::to_cpu_storage_owned(result), shape))), backward, rest: None };
    match inputs {
        [x] => x.apply_op1(node),
        [x, y] => x.apply_op2(y, node),
        [x, y, z] => x.apply_op3(y, z, node),
        [x, y, others @ ..] => {
            let rest = Arc::new(Mutex::new(Vec::new()));
            let token = tokens(others, &rest)?;
            x.apply_op3(y, &token, Node { rest: Some(rest), ..node })
        }
        [] => candle_core::bail!("{name} has no inputs"),
    }
}

/// What a node leaves for its tokens: the gradients of its further inputs.
type Rest = Arc<Mutex<Vec<Option<Tensor>>>>;

/// candle's ops have three inputs at most. Further ones reach a node through a chain of tokens, one number each,
/// that depend on them; in the backward pass the node comes first and leaves their gradients for the tokens.
fn tokens(inputs: &[&Tensor], rest: &Rest) -> Result<Tensor> {
    let mut token = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    for (i, pair) in inputs.chunks(2).enumerate() {
        let rest = Arc::clone(rest);
        let take = move |at: usize| rest.lock().expect("nothing panics while it is held").get_mut(at)?.take();
        let (len, tracked) = (pair.len(), token.track_op());
        let backward = move |gradient: &Tensor| {
            let mut gradients: Vec<Option<Tensor>> = (0..len).map(|k| take(2 * i + k)).collect();
            gradients.push(tracked.then(|| gradient.clone()));
            Ok(gradients)
        };
        let result = Mutex::new(Some((CpuStorage::F32(vec![0.]), Shape::from(()))));
        let node = Node { name: "token", result, backward: Backward::Gradient(Box::new(backward)), rest: None };
        token = match pair {
            [x] => x.apply_op2(&token, node)?,
            [x, y] => x.apply_op3(y, &token, node)?,
            _ => unreachable!("pairs"),
        };
    }
    Ok(token)
}

struct Node {
    name: &'static str,
    // candle asks for it once, at once; then the node only waits for its backward pass.
    result: Mutex<Option<(CpuStorage, Shape)>>,
    backward: Backward,
    /// Where the gradients of all inputs but the first two go, if there are more than three.
    rest: Option<Rest>,
}

impl Node {
    fn take(&self) -> Result<(CpuStorage, Shape)> {
        let mut result = self.result.lock().expect("nothing panics while it is held");
        result.take().ok_or_else(|| candle_core::Error::Msg(format!("{} was applied twice", self.name)))
    }

    fn gradients<const N: usize>(&self, inputs: [&Tensor; N], result: &Tensor, gradient: &Tensor) -> Gradients<N> {
        let mut gradients = self.backward.run(result, &gradient.contiguous()?)?;
        if let Some(rest) = &self.rest {
            *rest.lock().expect("nothing panics while it is held") = gradients.split_off(N - 1);
            gradients.push(Some(Tensor::zeros((), DType::F32, &Device::Cpu)?));
        }
        let mut gradients = gradients.into_iter();
        let mut taken = [const { None }; N];
        for (taken, input) in taken.iter_mut().zip(inputs) {
            *taken = tape::deliver(input, gradients.next().flatten())?;
        }
        Ok(taken)
    }
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [dx] = self.gradients([x], result, gradient)?;
        Ok(dx)
    }
}

impl CustomOp2 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients([x, y], result, gradient).map(Into::into)
    }
}

impl CustomOp3 for Node {
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
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.gradients([x, y, z], result, gradient).map(Into::into)
    }
}
