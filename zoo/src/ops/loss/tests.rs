use super::*;
use crate::ops::oracle::{assert_values, check, flat, normal};
use candle_core::{D, Device, Var};
use candle_nn::ops::softmax;

#[test]
fn hard_and_soft_targets_are_right() {
    for (samples, classes) in [(1, 1), (1, 3), (4, 10), (300, 101)] {
        let hard: Vec<u32> = (0..samples as u32).map(|i| i * 7 % classes as u32).collect();
        let hard = Tensor::new(hard, &Device::Cpu).unwrap();
        // Probabilities that do not sum to 1 are taken as they are.
        let soft = (softmax(&normal(&[samples, classes], 2), D::Minus1).unwrap() * 0.9).unwrap();
        let logits = (normal(&[samples, classes], 1) * 3.).unwrap();
        for smoothing in [0., 0.1] {
            check(std::slice::from_ref(&logits), |x| cross_entropy(&x[0], Target::Classes(&hard), smoothing));
            check(std::slice::from_ref(&logits), |x| cross_entropy(&x[0], Target::Probabilities(&soft), smoothing));
        }
    }
}

/// `torch.nn.functional.cross_entropy(label_smoothing=0.1)`.
#[test]
fn values_as_pytorch() -> Result<()> {
    let logits = Tensor::new(&[[1f32, 2., 3.], [0., -1., 4.]], &Device::Cpu)?;
    let hard = Tensor::new(&[2u32, 2], &Device::Cpu)?;
    let soft = Tensor::new(&[[0.2f32, 0.3, 0.5], [1., 0., 0.]], &Device::Cpu)?;
    for logits in [logits.clone(), logits.to_dtype(DType::F64)?] {
        assert_values(&cross_entropy(&logits, Target::Classes(&hard), 0.)?, &[0.216_175_44]);
        assert_values(&cross_entropy(&logits, Target::Classes(&hard), 0.1)?, &[0.416_175_43]);
        assert_values(&cross_entropy(&logits, Target::Probabilities(&soft), 0.1)?, &[2.531_175_6]);
    }
    Ok(())
}

#[test]
fn huge_logits_stay_finite() -> Result<()> {
    let logits = Var::new(&[[1e30f32, -1e30, 0.], [1000., 999., -1e4]], &Device::Cpu)?;
    let hard = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    let loss = cross_entropy(&logits, Target::Classes(&hard), 0.)?;
    assert_values(&loss, &[1.313_261_7 / 2.]);
    let gradients = loss.backward()?;
    assert!(flat(gradients.get(&logits).expect("a variable")).iter().all(|value| value.is_finite()));
    Ok(())
}

#[test]
fn half_precision_logits_give_an_f32_loss() -> Result<()> {
    let logits = Var::from_tensor(&normal(&[2, 3], 1).to_dtype(DType::BF16)?)?;
    let hard = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    let loss = cross_entropy(&logits, Target::Classes(&hard), 0.1)?;
    assert_eq!(loss.dtype(), DType::F32);
    assert!(loss.backward()?.get(&logits).is_some());
    Ok(())
}

#[test]
fn misfits_are_named() -> Result<()> {
    let logits = normal(&[2, 3], 1);
    let hard = |classes: &[u32]| Tensor::new(classes, &Device::Cpu);
    let message =
        |logits: &Tensor, target: Target, smoothing| cross_entropy(logits, target, smoothing).unwrap_err().to_string();
    let error = message(&logits, Target::Classes(&hard(&[0, 3])?), 0.);
    assert!(error.contains("sample 1 has class 3, but the logits have 3 classes: 0 to 2"), "{error}");
    assert!(message(&logits, Target::Classes(&hard(&[0])?), 0.).contains("u32[2]"));
    assert!(message(&logits, Target::Classes(&normal(&[2], 1)), 0.).contains("u32[2]"));
    assert!(message(&logits, Target::Probabilities(&normal(&[2, 4], 1)), 0.).contains("logits' shape"));
    assert!(message(&logits, Target::Classes(&hard(&[0, 1])?), 1.).contains("below 1"));
    assert!(message(&normal(&[0, 3], 1), Target::Classes(&hard(&[])?), 0.).contains("at least one sample"));
    Ok(())
}
