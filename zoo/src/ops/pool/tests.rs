use super::*;
use crate::ops::oracle::{agrees_in_bf16, assert_values, check, normal};
use candle_core::{Device, Var};

#[test]
fn max_pool_is_right_on_odd_windows() {
    for channels in [1, 3, 17] {
        check(&[normal(&[2, 9, channels], 1)], |x| {
            max_pool(&x[0], &MaxPool { kernel: [3], stride: [2], padding: [1] })
        });
        agrees_in_bf16(&[normal(&[2, 19, 15, channels], 2)], &[0], |x| {
            max_pool(&x[0], &MaxPool { kernel: [3; 2], stride: [2; 2], padding: [1; 2] })
        });
        check(&[normal(&[1, 7, 5, channels], 2)], |x| {
            max_pool(&x[0], &MaxPool { kernel: [3, 2], stride: [2, 3], padding: [1, 0] })
        });
        check(&[normal(&[2, 3, 4, 5, channels], 3)], |x| {
            max_pool(&x[0], &MaxPool { kernel: [1, 3, 4], stride: [1, 2, 3], padding: [0, 1, 2] })
        });
    }
    check(&[normal(&[2, 30, 31, 16], 4)], |x| {
        max_pool(&x[0], &MaxPool { kernel: [3; 2], stride: [2; 2], padding: [1; 2] })
    });
}

/// More cells than a byte can number, as many, and windows that leave cells out.
#[test]
fn max_pool_is_right_on_large_and_sparse_windows() {
    for (shape, kernel, stride) in
        [([1, 300, 1, 2], [257, 1], [20, 1]), ([1, 17, 18, 2], [16, 16], [1, 1]), ([2, 9, 7, 70], [1, 2], [3, 3])]
    {
        check(&[normal(&shape, 1)], |x| max_pool(&x[0], &MaxPool { kernel, stride, padding: [0; 2] }));
    }
}

#[test]
fn avg_pool_is_right_on_odd_windows() {
    for (ceil_mode, count_include_pad) in [(false, false), (false, true), (true, false), (true, true)] {
        check(&[normal(&[2, 9, 3], 1)], |x| {
            avg_pool(&x[0], &AvgPool { kernel: [4], stride: [3], padding: [2], ceil_mode, count_include_pad })
        });
        check(&[normal(&[2, 7, 5, 17], 2)], |x| {
            let (kernel, stride, padding) = ([3, 2], [2, 2], [1, 0]);
            avg_pool(&x[0], &AvgPool { kernel, stride, padding, ceil_mode, count_include_pad })
        });
        agrees_in_bf16(&[normal(&[2, 17, 15, 33], 2)], &[0], |x| {
            let (kernel, stride, padding) = ([3, 2], [2, 1], [1, 0]);
            avg_pool(&x[0], &AvgPool { kernel, stride, padding, ceil_mode, count_include_pad })
        });
        check(&[normal(&[1, 3, 4, 5, 2], 3)], |x| {
            let (kernel, stride, padding) = ([2, 3, 2], [2, 2, 4], [1, 1, 1]);
            avg_pool(&x[0], &AvgPool { kernel, stride, padding, ceil_mode, count_include_pad })
        });
    }
}

#[test]
fn adaptive_and_global_pools_are_right() {
    for size in [[1, 1], [2, 3], [7, 7], [9, 4], [3, 11]] {
        check(&[normal(&[2, 7, 5, 3], 1)], |x| adaptive_avg_pool(&x[0], size));
    }
    check(&[normal(&[2, 5, 4], 1)], |x| adaptive_avg_pool(&x[0], [3]));
    check(&[normal(&[2, 3, 4, 5, 2], 1)], |x| adaptive_avg_pool(&x[0], [2, 3, 4]));
    for shape in [&[3, 4, 5][..], &[2, 1, 1, 17], &[2, 9, 9, 64], &[1, 2, 3, 4, 5]] {
        check(&[normal(shape, 1)], |x| global_avg_pool(&x[0]));
        agrees_in_bf16(&[normal(shape, 1)], &[0], |x| {
            let means = global_avg_pool(&x[0])?;
            assert_ne!(means.dtype(), candle_core::DType::BF16);
            Ok(means)
        });
    }
}

#[test]
fn windows_as_pytorch() -> Result<()> {
    let x = Tensor::new(&[1f32, 2., 3., 4., 5.], &Device::Cpu)?.reshape((1, 5, 1))?;
    let pool = |padding, ceil_mode, count_include_pad| {
        avg_pool(&x, &AvgPool { kernel: [2], stride: [2], padding: [padding], ceil_mode, count_include_pad })
    };
    assert_values(&pool(0, false, true)?, &[1.5, 3.5]);
    assert_values(&pool(0, true, true)?, &[1.5, 3.5, 5.]);
    assert_values(&pool(0, true, false)?, &[1.5, 3.5, 5.]);
    assert_values(&pool(1, false, true)?, &[0.5, 2.5, 4.5]);
    assert_values(&pool(1, true, false)?, &[1., 2.5, 4.5]);
    // The last window hangs over the padding: it counts the padding, and no further.
    let hanging = AvgPool { kernel: [4], stride: [3], padding: [1], ceil_mode: true, count_include_pad: true };
    assert_values(&avg_pool(&x, &hanging)?, &[1.5, 3.]);
    // A third window would start in the padding after the end.
    let dropped = AvgPool { kernel: [3], stride: [3], padding: [1], ceil_mode: true, count_include_pad: true };
    assert_values(&avg_pool(&x, &dropped)?, &[1., 4.]);
    assert_values(&adaptive_avg_pool(&x, [3])?, &[1.5, 3., 4.5]);
    Ok(())
}

/// PyTorch gives the gradient of equal elements to the first one.
#[test]
fn the_first_of_equal_elements_wins() -> Result<()> {
    for dtype in [candle_core::DType::F32, candle_core::DType::F64] {
        let x = Var::from_tensor(&Tensor::ones((1, 3, 3, 1), dtype, &Device::Cpu)?)?;
        let y = max_pool(&x, &MaxPool { kernel: [2; 2], stride: [1; 2], padding: [0; 2] })?;
        let gradients = y.sum_all()?.backward()?;
        assert_values(gradients.get(&x).expect("x is a variable"), &[1., 1., 0., 1., 1., 0., 0., 0., 0.]);
    }
    Ok(())
}

#[test]
fn infinities_and_nan_go_through_a_max_pool() -> Result<()> {
    let x = Tensor::new(&[f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NAN, 1.], &Device::Cpu)?.reshape((1, 4, 1))?;
    let pool = MaxPool { kernel: [2], stride: [2], padding: [0] };
    for x in [x.clone(), x.to_dtype(candle_core::DType::F64)?] {
        let y = crate::ops::oracle::flat(&max_pool(&x, &pool)?);
        assert!(y[0] == f64::NEG_INFINITY && y[1].is_nan(), "{y:?}");
    }
    Ok(())
}

#[test]
fn windows_that_do_not_fit_are_named() {
    let x = normal(&[1, 4, 4, 1], 1);
    let message = |kernel, stride, padding| {
        max_pool(&x, &MaxPool { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2] })
            .unwrap_err()
            .to_string()
    };
    assert!(message(5, 1, 0).contains("does not fit 4 cells"));
    assert!(message(3, 1, 2).contains("at most half the kernel"));
    assert!(message(0, 1, 0).contains("at least 1"));
    assert!(message(3, 0, 0).contains("at least 1"));
    assert!(message(usize::MAX, 1, 0).contains("does not fit"));
    assert!(max_pool(&x, &MaxPool { kernel: [1; 3], stride: [1; 3], padding: [0; 3] }).is_err());
    assert!(adaptive_avg_pool(&x, [0, 1]).is_err());
    assert!(global_avg_pool(&normal(&[1, 2], 1)).is_err());
    let integers = x.to_dtype(candle_core::DType::U8).unwrap();
    assert!(global_avg_pool(&integers).unwrap_err().to_string().contains("takes floats"));
}

#[test]
fn an_empty_batch_stays_empty() -> Result<()> {
    let x = Tensor::zeros((0, 4, 4, 3), candle_core::DType::F32, &Device::Cpu)?;
    assert_eq!(global_avg_pool(&x)?.dims(), [0, 3]);
    assert_eq!(max_pool(&x, &MaxPool { kernel: [2; 2], stride: [2; 2], padding: [0; 2] })?.dims(), [0, 2, 2, 3]);
    Ok(())
}
