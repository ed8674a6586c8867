use super::*;
use crate::ops::oracle::{agrees, agrees_in_bf16, assert_values, check, flat, normal};
use candle_core::{DType, Device, Var};

/// x, affine, and perhaps a residual.
fn inputs(shape: &[usize], with_residual: bool) -> Vec<Tensor> {
    let channels = shape[shape.len() - 1];
    let mut inputs = vec![normal(shape, 1), normal(&[2, channels], 2)];
    inputs.extend(with_residual.then(|| normal(shape, 3)));
    inputs
}

fn epilogue(inputs: &[Tensor], relu: bool) -> Epilogue<'_> {
    Epilogue { residual: inputs.get(2), relu }
}

#[test]
fn batch_norm_is_right_in_every_form() {
    for shape in [&[2, 1][..], &[5, 3], &[1, 3, 1, 17], &[3, 2, 5, 3], &[2, 3, 2, 2, 17]] {
        for (with_residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            check(&inputs(shape, with_residual), |inputs| {
                Ok(batch_norm(&inputs[0], &inputs[1], 1e-3, epilogue(inputs, relu))?.0)
            });
        }
    }
}

#[test]
fn batch_norm_agrees_where_there_are_many_tasks() {
    for shape in [&[4, 40, 30, 64][..], &[3, 50, 50, 3], &[20_000, 1]] {
        agrees(&inputs(shape, true), |inputs| Ok(batch_norm(&inputs[0], &inputs[1], 1e-5, epilogue(inputs, true))?.0));
    }
}

/// The inputs of [`inputs`] that are maps.
fn maps(with_residual: bool) -> &'static [usize] {
    if with_residual { &[0, 2] } else { &[0] }
}

#[test]
fn norms_of_bf16_are_right_in_every_form() {
    for shape in [&[5, 3][..], &[3, 2, 5, 17], &[4, 40, 30, 64]] {
        let channels = shape[shape.len() - 1];
        let (mean, variance) = (normal(&[channels], 4), normal(&[channels], 5).sqr().unwrap());
        for (with_residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            let (inputs, maps) = (inputs(shape, with_residual), maps(with_residual));
            agrees_in_bf16(&inputs, maps, |inputs| {
                let (y, statistics) = batch_norm(&inputs[0], &inputs[1], 1e-3, epilogue(inputs, relu))?;
                assert_ne!(statistics.mean.dtype(), DType::BF16);
                Ok(y)
            });
            agrees_in_bf16(&inputs, maps, |inputs| {
                let statistic = |t: &Tensor| t.to_dtype(inputs[1].dtype());
                let (mean, variance) = (statistic(&mean)?, statistic(&variance)?);
                batch_norm_with(&inputs[0], &inputs[1], &mean, &variance, 1e-2, epilogue(inputs, relu))
            });
            agrees_in_bf16(&inputs, maps, |inputs| group_norm(&inputs[0], &inputs[1], 1, 1e-3, epilogue(inputs, relu)));
        }
    }
}

#[test]
fn given_statistics_are_right_in_every_form() {
    for shape in [&[1, 1][..], &[3, 2, 5, 3], &[1, 17], &[2, 30, 30, 17]] {
        let channels = shape[shape.len() - 1];
        let (mean, variance) = (normal(&[channels], 4), normal(&[channels], 5).sqr().unwrap());
        for (with_residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            check(&inputs(shape, with_residual), |inputs| {
                let statistic = |t: &Tensor| t.to_dtype(inputs[0].dtype());
                let (mean, variance) = (statistic(&mean)?, statistic(&variance)?);
                batch_norm_with(&inputs[0], &inputs[1], &mean, &variance, 1e-2, epilogue(inputs, relu))
            });
        }
    }
}

#[test]
fn group_norm_is_right_in_every_form() {
    for (shape, groups) in [(&[2, 3, 4][..], 1), (&[3, 2, 5, 6], 3), (&[1, 2, 3, 2, 8], 4), (&[2, 3, 5], 5)] {
        for (with_residual, relu) in [(false, false), (true, false), (true, true)] {
            check(&inputs(shape, with_residual), |inputs| {
                group_norm(&inputs[0], &inputs[1], groups, 1e-3, epilogue(inputs, relu))
            });
        }
    }
    agrees(&inputs(&[3, 40, 40, 32], false), |inputs| {
        group_norm(&inputs[0], &inputs[1], 8, 1e-5, epilogue(inputs, true))
    });
}

/// The statistics keep their digits where the mean is a million deviations away.
#[test]
fn a_large_mean_does_not_cancel() -> Result<()> {
    let x = ((normal(&[64, 5, 5, 2], 1) * 0.5)? + 30_000.)?;
    let affine = Tensor::new(&[[1f32, 1.], [0., 0.]], &Device::Cpu)?;
    let (y, statistics) = batch_norm(&x, &affine, 0., Epilogue::default())?;
    let (expected, exact) =
        batch_norm(&x.to_dtype(DType::F64)?, &affine.to_dtype(DType::F64)?, 0., Epilogue::default())?;
    for (y, expected) in flat(&y).into_iter().zip(flat(&expected)) {
        assert!((y - expected).abs() < 1e-4, "{y} is not {expected}");
    }
    for (variance, exact) in flat(&statistics.variance).into_iter().zip(flat(&exact.variance)) {
        assert!((variance / exact - 1.).abs() < 1e-5, "{variance} is not {exact}");
    }
    Ok(())
}

/// `torch.nn.functional.batch_norm` and `group_norm` of 1 to 8.
#[test]
fn values_as_pytorch() -> Result<()> {
    let x = Tensor::new(&[[1f32, 2., 3., 4.], [5., 6., 7., 9.]], &Device::Cpu)?.reshape((2, 1, 1, 4))?;
    let affine = Tensor::new(&[[1f32, 2., 1., 1.], [0., 0., 1., 0.]], &Device::Cpu)?;
    let (y, statistics) = batch_norm(&x, &affine, 1e-5, Epilogue::default())?;
    let one = 0.999_998_75;
    assert_values(&y, &[-one, -2. * one, 1. - one, -0.999_999_2, one, 2. * one, 1. + one, 0.999_999_2]);
    assert_values(&statistics.variance, &[8., 8., 8., 12.5]);
    let y = group_norm(&x, &affine, 2, 1e-5, Epilogue::default())?;
    let half = 0.999_98;
    assert_values(&y, &[-half, 2. * half, 1. - half, half, -half, 2. * half, 1. - 0.999_995, 0.999_995]);
    Ok(())
}

/// Nobody computes a gradient for an operand that is no variable.
#[test]
fn only_variables_get_gradients() -> Result<()> {
    let (x, affine, residual) = (normal(&[4, 3], 1), normal(&[2, 3], 2), normal(&[4, 3], 3));
    let var = Var::from_tensor(&residual)?;
    let epilogue = Epilogue { residual: Some(&var), relu: true };
    let (y, _) = batch_norm(&x, &affine, 1e-5, epilogue)?;
    let gradients = y.sum_all()?.backward()?;
    assert!(gradients.get(&var).is_some() && gradients.get(&x).is_none() && gradients.get(&affine).is_none());
    let (y, _) = batch_norm(&x, &affine, 1e-5, Epilogue::default())?;
    assert!(!y.track_op());
    Ok(())
}

#[test]
fn half_precision_widens() -> Result<()> {
    let x = normal(&[2, 3, 3, 4], 1);
    let affine = normal(&[2, 4], 2);
    let (expected, _) =
        batch_norm(&x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?, &affine, 1e-5, Epilogue::default())?;
    let (y, statistics) = batch_norm(&x.to_dtype(DType::BF16)?, &affine, 1e-5, Epilogue::default())?;
    assert_eq!((y.dtype(), statistics.mean.dtype()), (DType::BF16, DType::F32));
    for (y, expected) in flat(&y).into_iter().zip(flat(&expected)) {
        assert!((y - expected).abs() <= 0.01 * expected.abs().max(1.), "{y} is not {expected}");
    }
    Ok(())
}

#[test]
fn misfits_are_named() {
    let (x, affine) = (normal(&[2, 3], 1), normal(&[2, 3], 2));
    let message = |result: Result<Tensor>| result.unwrap_err().to_string();
    let wrong = normal(&[2, 4], 2);
    assert!(message(batch_norm(&x, &wrong, 1e-5, Epilogue::default()).map(|y| y.0)).contains("as [2, 3]"));
    let residual = Epilogue { residual: Some(&wrong), relu: false };
    assert!(message(batch_norm(&x, &affine, 1e-5, residual).map(|y| y.0)).contains("residual of the same shape"));
    assert!(message(group_norm(&x, &affine, 2, 1e-5, Epilogue::default())).contains("divides the channels"));
    let integers = x.to_dtype(DType::U32).unwrap();
    assert!(message(group_norm(&integers, &affine, 1, 1e-5, Epilogue::default())).contains("takes floats"));
    let one = normal(&[1, 3], 1);
    assert!(message(batch_norm(&one, &affine, 1e-5, Epilogue::default()).map(|y| y.0)).contains("at least two values"));
}
