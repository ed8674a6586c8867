//! A graph of our own inside one node of candle's.
//!
//! candle's backward pass adds each gradient to a fresh tensor of zeros: at every edge of the graph memory is
//! written twice and read twice, which on the large maps of a network costs a quarter of a training step.
//! [`segment`] runs a part of a network with its ops recorded on a tape instead; candle sees one node, and the
//! gradients inside are moved, not copied. [`backward`] spares the copies of the parameters' gradients too.
//! `loss.backward()` gives the same gradients, slower. [`checkpoint`] records nothing at first, and everything in the
//! backward pass.

use super::node::{Backward, TASK, enter, fill, values_of};
use super::number::{Number, Stored, by_number};
use super::profile::{self, Pass};
use crate::grad::recompute;
use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Shape, Tensor, TensorId, Var};
use std::cell::RefCell;

thread_local! {
    /// What the segment that runs on this thread has recorded.
    static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
    /// The parameters' gradients, while [`backward`] runs on this thread.
    static DELIVERED: RefCell<Option<Gradients>> = const { RefCell::new(None) };
}

/// Sums of gradients, each with the tensor that it belongs to.
#[derive(Default)]
struct Gradients(Vec<(TensorId, Tensor)>);

impl Gradients {
    fn add(&mut self, id: TensorId, gradient: Tensor) -> Result<()> {
        match self.0.iter_mut().find(|(known, _)| *known == id) {
            Some((_, before)) => *before = sum(before, &gradient)?,
            None => self.0.push((id, gradient)),
        }
        Ok(())
    }

    fn remove(&mut self, id: TensorId) -> Option<Tensor> {
        let at = self.0.iter().position(|(known, _)| *known == id)?;
        Some(self.0.swap_remove(at).1)
    }
}

fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let _timer = profile::start("sum", Pass::Backward);
    by_number!(Stored::of(&[a, b], &[]), N => sum_of::<N>(&a.contiguous()?, &b.contiguous()?), else a + b)
}

fn sum_of<N: Number>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let sum = {
        let (a, b) = (values_of(a)?, values_of(b)?);
        let (a, b): (&[N], &[N]) = (&a, &b);
        fill(a.len(), TASK, |task, sum| {
            let (a, b) = (&a[task * TASK..][..sum.len()], &b[task * TASK..][..sum.len()]);
            for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
                *sum = N::narrow(a.wide() + b.wide());
            }
        })
    };
    Tensor::from_vec(sum, a.shape(), &Device::Cpu)
}

/// The ops of a segment.
struct Tape {
    /// Whether a backward pass is going to walk it.
    keeps: bool,
    /// In the order in which they ran, where it `keeps` them.
    entries: Vec<Entry>,
    /// All outputs.
    made: Vec<TensorId>,
    /// What the segment depends on: tracked tensors that it did not make, each once, in the order of their use.
    inputs: Vec<Tensor>,
}

struct Entry {
    /// Those that are tracked.
    inputs: Vec<Option<TensorId>>,
    output: TensorId,
    /// Of the output, where `backward` needs it and the segment's node does not have it anyway.
    value: Option<Tensor>,
    backward: Backward,
}

/// Whether a segment runs on this thread.
pub(super) fn is_running() -> bool {
    TAPE.with_borrow(Option::is_some)
}

/// Records an op of the running segment.
pub(super) fn push<T: Number>(inputs: &[&Tensor], result: Vec<T>, shape: Shape, backward: Backward) -> Result<Tensor> {
    // A variable, so that candle's own operations may follow it: they build a graph that ends here.
    let output = Var::from_vec(result, shape, &Device::Cpu)?.into_inner();
    TAPE.with_borrow_mut(|tape| {
        let tape = tape.as_mut().expect("the caller asked `is_running`");
        inputs.iter().for_each(|input| tape.join(input));
        tape.add(inputs, &output, backward);
    });
    Ok(output)
}

impl Tape {
    /// Runs `f(x)` with its ops on a tape.
    fn of(keeps: bool, x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<(Tensor, Tape)> {
        /// Puts back the tape of before, also where `f` fails or panics.
        struct Restore(Option<Tape>);
        impl Drop for Restore {
            fn drop(&mut self) {
                TAPE.set(self.0.take());
            }
        }
        let tape = Tape { keeps, entries: Vec::new(), made: Vec::new(), inputs: Vec::new() };
        let restore = Restore(TAPE.replace(Some(tape)));
        let y = f(x)?;
        let mut tape = TAPE.take().expect("this function put it there");
        drop(restore);
        tape.join(&y);
        Ok((y, tape))
    }

    fn add(&mut self, inputs: &[&Tensor], output: &Tensor, backward: Backward) {
        for &input in inputs {
            let known = self.inputs.iter().any(|known| known.id() == input.id());
            if input.track_op() && !known && !self.made(input) {
                self.inputs.push(input.clone());
            }
        }
        self.made.push(output.id());
        if self.keeps {
            let inputs = inputs.iter().map(|input| input.track_op().then(|| input.id())).collect();
            let value = matches!(backward, Backward::Result(_)).then(|| output.clone());
            self.entries.push(Entry { inputs, output: output.id(), value, backward });
        }
    }

    fn made(&self, tensor: &Tensor) -> bool {
        self.made.iter().rev().any(|&made| made == tensor.id())
    }

    /// Where candle's own operations made `tensor` from what is on the tape, they become an entry.
    fn join(&mut self, tensor: &Tensor) {
        if !tensor.track_op() || tensor.is_variable() || self.made(tensor) {
            return;
        }
        let leaves: Vec<Tensor> =
            tensor.sorted_nodes().into_iter().filter(|node| node.is_variable()).cloned().collect();
        if !leaves.iter().any(|leaf| self.made(leaf)) {
            return;
        }
        let (through, ends) = (tensor.clone(), leaves.clone());
        let backward = move |gradient: &Tensor| {
            let mut gradients = (&through * gradient)?.sum_all()?.backward()?;
            Ok(ends.iter().map(|leaf| gradients.remove(leaf)).collect())
        };
        self.add(&leaves.iter().collect::<Vec<_>>(), tensor, Backward::Gradient(Box::new(backward)));
    }

    /// Makes `y` the output of a node. Until the backward pass only the node holds its value.
    fn enter(mut self, y: Tensor) -> Result<Tensor> {
        let (output, inputs) = (y.id(), std::mem::take(&mut self.inputs));
        if let Some(entry) = self.entries.iter_mut().rfind(|entry| entry.output == output) {
            entry.value = None;
        }
        let ids: Vec<TensorId> = inputs.iter().map(Tensor::id).collect();
        let backward = move |value: &Tensor, gradient: &Tensor| self.backward(output, value, gradient, &ids);
        node(&y, &inputs, Backward::Result(Box::new(backward)))
    }

    /// The gradients of `inputs`, from that of `output`, which has this `value`.
    fn backward(
        &self,
        output: TensorId,
        value: &Tensor,
        gradient: &Tensor,
        inputs: &[TensorId],
    ) -> Result<Vec<Option<Tensor>>> {
        let mut gradients = Gradients::default();
        gradients.add(output, gradient.clone())?;
        for entry in self.entries.iter().rev() {
            let Some(gradient) = gradients.remove(entry.output) else { continue };
            let gradient = gradient.contiguous()?;
            let of_inputs = match (&entry.backward, entry.inputs.first()) {
                (Backward::Onto(run), Some(Some(first))) => run(&gradient, gradients.remove(*first).as_ref())?,
                (backward, _) => backward.run(entry.value.as_ref().unwrap_or(value), &gradient)?,
            };
            drop(gradient);
            for (input, gradient) in entry.inputs.iter().zip(of_inputs) {
                if let (Some(input), Some(gradient)) = (input, gradient) {
                    gradients.add(*input, gradient)?;
                }
            }
        }
        Ok(inputs.iter().map(|&input| gradients.remove(input)).collect())
    }
}

/// Runs a part of a network: `f(x)`, as one node of candle's graph.
///
/// The result and all gradients are those of `f(x)` alone; only the cost differs. On other devices than the
/// CPU, in other types than `f32` and `bf16`, and inside another segment `f` just runs.
///
/// # Errors
/// Those of `f`.
pub fn segment(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if is_running() || Stored::of(&[x], &[]).is_none() {
        return f(x);
    }
    let (y, tape) = Tape::of(true, x, f)?;
    if tape.made(&y) { tape.enter(y) } else { Ok(y) }
}

/// As [`segment`], but nothing that `f` computes is kept: the backward pass runs it once more, under
/// [`recompute`] (Chen et al., "Training deep nets with sublinear memory cost" (2016)). It has to compute the same
/// again, from the same parameters; then result and gradients are the same, bit for bit.
///
/// # Errors
/// Those of `f`; in the backward pass also where `f` does not depend on the same tensors again.
pub fn checkpoint<F>(x: &Tensor, f: F) -> Result<Tensor>
where
    F: Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    if is_running() || Stored::of(&[x], &[]).is_none() {
        return f(x);
    }
    // The tape that is not kept lets every op see what it sees while it is recorded: it takes the same way.
    let (y, tape) = Tape::of(false, x, &f)?;
    if !tape.made(&y) {
        return Ok(y);
    }
    let (inputs, x) = (tape.inputs, x.clone());
    let len = inputs.len();
    let backward = move |gradient: &Tensor| {
        let (y, tape) = recompute(|| Tape::of(true, &x, &f))?;
        if tape.inputs.len() != len {
            candle_core::bail!("a checkpoint depended on {len} tensors, and on {} when run again", tape.inputs.len());
        }
        // Some are made anew, such as packed parameters: they come in the same order.
        let ids: Vec<TensorId> = tape.inputs.iter().map(Tensor::id).collect();
        tape.backward(y.id(), &y, gradient, &ids)
    };
    node(&y, &inputs, Backward::Gradient(Box::new(backward)))
}

/// A node of candle's graph with a copy of `y`, which belongs to another graph.
fn node(y: &Tensor, inputs: &[Tensor], backward: Backward) -> Result<Tensor> {
    let _timer = profile::forward("copy");
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    by_number!(
        Stored::of(&[y], &[]),
        N => enter("segment", &inputs, copy::<N>(&y.contiguous()?)?, y.shape().clone(), backward),
        else candle_core::bail!("a segment ends in f32 or bf16, not {:?}", y.dtype())
    )
}

fn copy<N: Number>(y: &Tensor) -> Result<Vec<N>> {
    let y = values_of(y)?;
    let y: &[N] = &y;
    Ok(fill(y.len(), TASK, |task, copy| copy.copy_from_slice(&y[task * TASK..][..copy.len()])))
}

/// As candle's `loss.backward()`, without its copies of what ops of this crate deliver.
///
/// # Errors
/// Those of the ops' derivatives.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    struct Delivering;
    impl Drop for Delivering {
        fn drop(&mut self) {
            DELIVERED.take();
        }
    }
    DELIVERED.set(Some(Gradients::default()));
    let delivering = Delivering;
    let mut gradients = loss.backward()?;
    let delivered = DELIVERED.take().expect("this function put it there");
    drop(delivering);
    for (id, gradient) in delivered.0 {
        let gradient = match gradients.get_id(id) {
            Some(before) => sum(before, &gradient)?,
            None => gradient,
        };
        gradients.insert_id(id, gradient);
    }
    Ok(gradients)
}

/// What a node gives candle of a gradient of `input`: nothing where [`backward`] takes it.
pub(super) fn deliver(input: &Tensor, gradient: Option<Tensor>) -> Result<Option<Tensor>> {
    let Some(gradient) = gradient else { return Ok(None) };
    DELIVERED.with_borrow_mut(|delivered| match delivered {
        Some(delivered) if input.is_variable() => delivered.add(input.id(), gradient).map(|()| None),
        _ => Ok(Some(gradient)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle::{flat, normal};
    use crate::ops::{Activation, Epilogue, Geometry, add_activation, batch_norm, conv};
    use candle_core::DType;

    fn var(shape: &[usize], seed: u64) -> Var {
        Var::from_tensor(&normal(shape, seed)).expect("on the CPU")
    }

    /// Parameters of a small residual block with a shortcut convolution, three kernels of which share an input.
    fn block_vars() -> Vec<Var> {
        let shapes: [&[usize]; 5] = [&[4, 4, 3, 3], &[2, 4], &[4, 4, 3, 3], &[2, 4], &[4, 4, 1, 1]];
        shapes.iter().zip(1..).map(|(shape, seed)| var(shape, seed)).collect()
    }

    fn block(x: &Tensor, vars: &[Var]) -> Result<Tensor> {
        let same = Geometry { padding: [1, 1], ..Geometry::<2>::default() };
        let relu = Epilogue { residual: None, relu: true };
        let a = conv(x, vars[0].as_tensor(), &same)?;
        let (a, _) = batch_norm(&a, vars[1].as_tensor(), 1e-5, relu)?;
        let b = conv(&a, vars[2].as_tensor(), &same)?;
        // candle's own operations between ours.
        let b = ((b * 2.)?.tanh()? + &a)?;
        let (b, _) = batch_norm(&b, vars[3].as_tensor(), 1e-5, Epilogue { residual: Some(x), relu: true })?;
        add_activation(&b, &conv(x, vars[4].as_tensor(), &Geometry::<2>::default())?, Activation::Relu)
    }

    fn gradients(vars: &[&Var], store: &GradStore) -> Vec<Vec<f64>> {
        vars.iter().map(|var| flat(store.get(var.as_tensor()).expect("every variable has a gradient"))).collect()
    }

    #[test]
    fn a_segment_changes_neither_result_nor_gradients() -> Result<()> {
        let (x, vars) = (var(&[2, 5, 5, 4], 9), block_vars());
        let of = |wrapped: bool, ours: bool| -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
            // The input of the second block depends on a variable through candle's and through our graph.
            let first = block(&(x.as_tensor() * 0.5)?, &vars)?;
            let y = if wrapped { segment(&first, |x| block(x, &vars))? } else { block(&first, &vars)? };
            let loss = (y.sqr()?.sum_all()? + vars[0].sum_all()?)?;
            let store = if ours { backward(&loss)? } else { loss.backward()? };
            let all: Vec<&Var> = std::iter::once(&x).chain(&vars).collect();
            Ok((flat(&y), gradients(&all, &store)))
        };
        let (y, expected) = of(false, false)?;
        for (wrapped, ours) in [(true, false), (false, true), (true, true)] {
            let (again, found) = of(wrapped, ours)?;
            assert_eq!(y, again);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                let error = (found - expected).abs();
                assert!(error <= 1e-5 * expected.abs().max(1.), "{found} is not {expected}: {wrapped} {ours}");
            }
        }
        Ok(())
    }

    #[test]
    fn half_precision_gradients_add_up() -> Result<()> {
        let x = Var::from_tensor(&normal(&[2, 5, 5, 4], 9).to_dtype(DType::BF16)?)?;
        let y = segment(&x, |x| {
            let y = Activation::Silu.forward(x)?;
            add_activation(&y, &Activation::Silu.forward(&y)?, Activation::Relu)
        })?;
        let plain = {
            let y = Activation::Silu.forward(x.as_tensor())?;
            add_activation(&y, &Activation::Silu.forward(&y)?, Activation::Relu)?
        };
        assert_eq!((y.dtype(), flat(&y)), (DType::BF16, flat(&plain)));
        let of =
            |y: &Tensor| -> Result<Tensor> { Ok(backward(&y.sum_all()?)?.get(&x).expect("x is a variable").clone()) };
        let (ours, theirs) = (of(&y)?, of(&plain)?);
        assert_eq!((ours.dtype(), flat(&ours)), (DType::BF16, flat(&theirs)));
        Ok(())
    }

    #[test]
    fn a_checkpoint_changes_no_bit() -> Result<()> {
        let (x, vars) = (var(&[2, 5, 5, 4], 9), block_vars());
        let all: Vec<&Var> = std::iter::once(&x).chain(&vars).collect();
        let of = |kept: bool| -> Result<_> {
            let run = |x: &Tensor| {
                let vars = vars.clone();
                // Packed anew each time, as norms do with their parameters.
                let packed = move |x: &Tensor| {
                    let affine = Tensor::stack(&[&vars[1].get(0)?, &vars[1].get(1)?], 0)?;
                    block(&batch_norm(x, &affine, 1e-5, Epilogue::default())?.0, &vars)
                };
                if kept { segment(x, packed) } else { checkpoint(x, packed) }
            };
            // The second one's input is no variable.
            let y = run(&run(&x)?)?;
            let loss = (y.sqr()?.sum_all()? + vars[0].sum_all()?)?;
            let twice = [backward(&loss)?, loss.backward()?];
            Ok((flat(&y), twice.map(|store| gradients(&all, &store))))
        };
        assert_eq!(of(true)?, of(false)?);
        Ok(())
    }

    #[test]
    fn a_checkpoint_runs_twice_and_says_when_it_differs() -> Result<()> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (x, vars) = (var(&[2, 5, 5, 4], 9), block_vars());
        let runs = std::sync::Arc::new(AtomicUsize::new(0));
        let run = std::sync::Arc::clone(&runs);
        let y = checkpoint(&x, move |x| {
            let first = run.fetch_add(1, Ordering::Relaxed) == 0;
            assert_eq!(crate::grad::is_recomputing(), !first);
            if first { block(x, &vars) } else { add_activation(x, x, Activation::Relu) }
        })?;
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        let error = y.sum_all()?.backward().expect_err("it depends on other tensors").to_string();
        assert!(error.contains("depended on 6 tensors, and on 1 when run again"), "{error}");
        assert!(runs.load(Ordering::Relaxed) == 2 && !crate::grad::is_recomputing() && !is_running());
        Ok(())
    }

    #[test]
    fn a_graph_can_be_walked_back_twice() -> Result<()> {
        let (x, vars) = (var(&[2, 5, 5, 4], 9), block_vars());
        let y = segment(&x, |x| block(x, &vars))?.sum_all()?;
        let all: Vec<&Var> = vars.iter().collect();
        assert_eq!(gradients(&all, &y.backward()?), gradients(&all, &y.backward()?));
        assert_eq!(gradients(&all, &backward(&y)?), gradients(&all, &y.backward()?));
        Ok(())
    }

    #[test]
    fn what_is_not_tracked_or_fails_leaves_no_tape() -> Result<()> {
        let x = normal(&[2, 5, 5, 4], 9);
        let plain: Vec<Var> = block_vars();
        let y = segment(&x, |x| add_activation(x, x, Activation::Relu))?;
        assert!(!y.track_op() && !is_running());
        assert!(segment(&x, |_| candle_core::bail!("no")).is_err() && !is_running());
        // The identity, and a result of candle's alone.
        let z = segment(plain[0].as_tensor(), |x| Ok(x.clone()))?;
        assert_eq!(z.id(), plain[0].id());
        let z = segment(plain[0].as_tensor(), |x| x * 2.)?;
        assert!(z.sum_all()?.backward()?.get(plain[0].as_tensor()).is_some());
        Ok(())
    }

    #[test]
    fn nested_segments_are_one() -> Result<()> {
        let (x, vars) = (var(&[2, 5, 5, 4], 9), block_vars());
        let inner = |x: &Tensor| segment(x, |x| block(x, &vars));
        let nested = segment(&x, |x| inner(&inner(x)?))?.sum_all()?.backward()?;
        let plain = block(&block(&x, &vars)?, &vars)?.sum_all()?.backward()?;
        let all: Vec<&Var> = vars.iter().collect();
        for (a, b) in gradients(&all, &nested).iter().flatten().zip(gradients(&all, &plain).iter().flatten()) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.), "{a} is not {b}");
        }
        Ok(())
    }
}
