use super::*;
use crate::ops::oracle::{agrees_in_bf16, normal};
use candle_core::{DType, Var};

#[test]
fn the_kernel_equals_the_reference_forward_and_backward() -> Result<()> {
    for (rows, channels) in [(1, 1), (3, 5), (700, 64), (5000, 17)] {
        let x = Var::from_tensor(&normal(&[rows, channels], 0))?;
        let bias = Var::from_tensor(&normal(&[channels], 1))?;
        let weights = normal(&[rows, channels], 2);
        let (ours, oracle) = (add_bias(&x, &bias)?, reference::add_bias(&x, &bias)?);
        assert_eq!((&ours - &oracle)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
        let gradients = (&ours * &weights)?.sum_all()?.backward()?;
        let expected = weights.to_dtype(DType::F64)?.sum(0)?;
        let got = gradients.get(&bias).expect("the bias is tracked").to_dtype(DType::F64)?;
        assert!((got - expected)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-3);
        let dx = gradients.get(&x).expect("x is tracked");
        assert_eq!((dx - &weights)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
    }
    Ok(())
}

#[test]
fn half_precision_takes_an_f32_bias() {
    for (rows, channels) in [(1, 1), (3, 5), (700, 64), (5000, 17)] {
        let inputs = [normal(&[rows, channels], 0), normal(&[channels], 1)];
        agrees_in_bf16(&inputs, &[0], |x| add_bias(&x[0], &x[1]));
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let x: Vec<f32> = (0..300_000u64).map(|i| ((i * 7919) % 1000) as f32 / 7.0).collect();
    let under = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be had");
        pool.install(|| cpu::sum_of_rows(&x, 30))
    };
    assert_eq!(under(1), under(2));
    assert_eq!(under(1), under(3));
}

#[test]
fn a_wrong_bias_says_what_it_must_be() -> Result<()> {
    let (x, bias) = (Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?, Tensor::zeros(2, DType::F32, &Device::Cpu)?);
    let error = add_bias(&x, &bias).expect_err("3 channels, 2 biases").to_string();
    assert_eq!(
        error,
        "bias: x must be [.., C] and the bias [C] of the same type (or f32, of a half-precision x); x is [2, 3] f32, the bias [2] f32"
    );
    Ok(())
}
