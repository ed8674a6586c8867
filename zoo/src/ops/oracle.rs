//! What the tests of every op ask. An op is given as its door: with `f64` operands it is `reference`,
//! with `f32` and `bf16` it is `cpu`.

use crate::random::{Key, Stream};
use candle_core::{DType, Device, Result, Tensor, Var};

/// Standard normal `f32` values.
pub fn normal(shape: &[usize], seed: u64) -> Tensor {
    let mut stream = Stream::new(Key { seed, stream: 0, step: 0, index: 0 });
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape says")
}

/// Asserts that `reference` differentiates itself, that `cpu` agrees with it, forward and backward, and
/// that 1, 2 and 3 threads give the same bits.
pub fn check(inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    differentiates(inputs, &op);
    agrees(inputs, &op);
}

/// Asserts that the gradients of `reference` are the finite differences, in `f64`, at up to 24 values
/// of each input.
pub fn differentiates(inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const STEP: f64 = 1e-5;
    let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(DType::F64).unwrap()).collect();
    let (_, gradients) = run(&inputs, &op);
    let loss = |inputs: &[Tensor]| {
        let y = op(inputs).unwrap();
        (&y * weights(&y)).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    for (i, gradient) in gradients.iter().enumerate() {
        let values = flat(&inputs[i]);
        let gradient = flat(gradient);
        for at in (0..values.len()).step_by(values.len().div_ceil(24).max(1)) {
            let moved = |step| {
                let mut values = values.clone();
                values[at] += step;
                let mut inputs = inputs.clone();
                inputs[i] = Tensor::from_vec(values, inputs[i].shape(), &Device::Cpu).unwrap();
                loss(&inputs)
            };
            let difference = (moved(STEP) - moved(-STEP)) / (2. * STEP);
            let error = (gradient[at] - difference).abs();
            assert!(
                error <= 1e-6 * difference.abs().max(1.),
                "input {i}, value {at}: {} is not {difference}",
                gradient[at]
            );
        }
    }
}

/// Asserts that `cpu` agrees with `reference` and does not depend on the number of threads.
pub fn agrees(inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    let wide: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(DType::F64).unwrap()).collect();
    let (expected, expected_gradients) = run(&wide, &op);
    let in_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(inputs, &op))
    };
    let (y, gradients) = in_threads(1);
    assert_close("the result", &y, &expected);
    for (i, (gradient, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        assert_eq!(gradient.dtype(), inputs[i].dtype(), "the gradient of input {i}");
        assert_close(&format!("the gradient of input {i}"), gradient, expected);
    }
    for threads in [2, 3] {
        let (y_again, gradients_again) = in_threads(threads);
        assert_eq!(bits(&y), bits(&y_again), "the result with {threads} threads");
        for (gradient, again) in gradients.iter().zip(&gradients_again) {
            assert_eq!(bits(gradient), bits(again), "a gradient with {threads} threads");
        }
    }
}

/// [`agrees`], with the inputs number `maps` stored in `bf16`. What comes out in `bf16` may differ by its rounding too.
pub fn agrees_in_bf16(inputs: &[Tensor], maps: &[usize], op: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    let mut inputs = inputs.to_vec();
    for &map in maps {
        inputs[map] = inputs[map].to_dtype(DType::BF16).unwrap();
    }
    agrees(&inputs, op);
}

/// The values of a tensor as a list.
pub fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that `values` are those of the tensor.
pub fn assert_values(tensor: &Tensor, values: &[f64]) {
    assert_close("the result", tensor, &Tensor::from_slice(values, tensor.shape(), &Device::Cpu).unwrap());
}

/// The result, and the gradient of its weighted sum with respect to each input.
pub fn run(inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let y = op(&tensors).unwrap();
    let gradients = (&y * weights(&y)).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = |tensor| gradients.get(tensor).expect("every input has a gradient").clone();
    (y.detach(), tensors.iter().map(gradient).collect())
}

/// They are exact in every type.
fn weights(y: &Tensor) -> Tensor {
    normal(y.dims(), 99).to_dtype(DType::BF16).unwrap().to_dtype(y.dtype()).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn assert_close(what: &str, tensor: &Tensor, expected: &Tensor) {
    assert_eq!(tensor.dims(), expected.dims(), "{what}");
    // Half a unit in the last of 8 bits: 2^-8 of the value at most.
    let rounding = if tensor.dtype() == DType::BF16 { 1. / 256. } else { 0. };
    let (values, expected) = (flat(tensor), flat(expected));
    let scale = expected.iter().fold(1f64, |scale, value| scale.max(value.abs()));
    for (at, (value, expected)) in values.iter().zip(&expected).enumerate() {
        let bound = rounding * expected.abs() + 1e-5 * scale;
        assert!((value - expected).abs() <= bound, "{what}, value {at}: {value} is not {expected}");
    }
}
