use super::*;
use crate::ops::oracle::{agrees_in_bf16, assert_values, check, normal};
use candle_core::{DType, Device, Var};

const ALL: [Activation; 5] =
    [Activation::Identity, Activation::Relu, Activation::Silu, Activation::Gelu, Activation::Sigmoid];

#[test]
fn every_activation_is_right() {
    for activation in ALL {
        check(&[normal(&[2, 3, 5], 1)], |x| activation.forward(&x[0]));
        check(&[(normal(&[7, 3001], 1) * 3.).unwrap()], |x| activation.forward(&x[0]));
        check(&[normal(&[2, 3, 17], 1), normal(&[2, 3, 17], 2)], |x| add_activation(&x[0], &x[1], activation));
    }
}

#[test]
fn every_activation_is_right_in_bf16() {
    for activation in ALL {
        agrees_in_bf16(&[(normal(&[7, 3001], 1) * 3.).unwrap()], &[0], |x| activation.forward(&x[0]));
    }
    for activation in [Activation::Identity, Activation::Relu] {
        let inputs = [normal(&[7, 3001], 1), normal(&[7, 3001], 2)];
        agrees_in_bf16(&inputs, &[0, 1], |x| add_activation(&x[0], &x[1], activation));
    }
}

/// candle's own has slope 1 at 0.
#[test]
fn relu_is_flat_at_zero() -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        let x = Var::from_tensor(&Tensor::new(&[-1f32, 0., 2.], &Device::Cpu)?.to_dtype(dtype)?)?;
        let gradients = Activation::Relu.forward(&x)?.sum_all()?.backward()?;
        assert_values(gradients.get(&x).expect("x is a variable"), &[0., 0., 1.]);
        let gradients = add_activation(&x, &(x.as_tensor() * 0.)?, Activation::Relu)?.sum_all()?.backward()?;
        assert_values(gradients.get(&x).expect("x is a variable"), &[0., 0., 1.]);
        let nan = Activation::Relu.forward(&Tensor::new(f32::NAN, &Device::Cpu)?.to_dtype(dtype)?)?;
        assert!(nan.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_nan(), "a NaN must not vanish");
    }
    Ok(())
}

/// PyTorch's values, with its exact GELU.
#[test]
fn values_as_pytorch() -> Result<()> {
    let x = Tensor::new(&[-100f32, -1., 0.5, 100.], &Device::Cpu)?;
    for x in [x.clone(), x.to_dtype(DType::F64)?] {
        assert_values(&Activation::Silu.forward(&x)?, &[0., -0.268_941_42, 0.311_229_66, 100.]);
        assert_values(&Activation::Gelu.forward(&x)?, &[0., -0.158_655_26, 0.345_731_23, 100.]);
        assert_values(&Activation::Sigmoid.forward(&x)?, &[0., 0.268_941_42, 0.622_459_35, 1.]);
    }
    Ok(())
}

#[test]
fn misfits_are_named() {
    assert!(Activation::Relu.forward(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).is_err());
    assert!(add_activation(&normal(&[2], 1), &normal(&[3], 1), Activation::Relu).is_err());
}
