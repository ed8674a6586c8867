use super::*;
use crate::ops::oracle::{agrees_in_bf16, assert_values, check, normal};
use candle_core::{Device, Var};

#[test]
fn any_size_is_right() {
    for size in [[4, 10], [7, 13], [1, 1], [3, 5], [2, 3], [5, 4]] {
        check(&[normal(&[2, 3, 5, 4], 1)], |x| upsample_nearest(&x[0], size));
        agrees_in_bf16(&[normal(&[2, 3, 5, 4], 1)], &[0], |x| upsample_nearest(&x[0], size));
    }
    check(&[normal(&[1, 4, 3], 1)], |x| upsample_nearest(&x[0], [9]));
    check(&[normal(&[1, 2, 3, 4, 2], 1)], |x| upsample_nearest(&x[0], [3, 5, 8]));
    check(&[normal(&[1, 16, 16, 32], 1)], |x| upsample_nearest(&x[0], [31, 33]));
}

/// `torch.nn.functional.interpolate` of 0 to 2 to five cells; and a size where exact arithmetic differs.
#[test]
fn cells_as_pytorch() -> Result<()> {
    let x = Tensor::new(&[0f32, 1., 2.], &Device::Cpu)?.reshape((1, 3, 1))?;
    assert_values(&upsample_nearest(&x, [5])?, &[0., 0., 1., 1., 2.]);
    let x = Tensor::new(&[0f32, 1.], &Device::Cpu)?.reshape((1, 2, 1))?;
    let y = upsample_nearest(&x, [82])?.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(y.iter().position(|&y| y == 1.), Some(42), "f32 arithmetic, as PyTorch's, picks cell 0 for 41");
    Ok(())
}

/// candle's own overwrites what other paths to `x` added.
#[test]
fn gradients_of_several_paths_add_up() -> Result<()> {
    let x = Var::from_tensor(&normal(&[1, 2, 2, 1], 1))?;
    let y = (upsample_nearest(&x, [4, 4])?.sum_all()? + (x.as_tensor() * 3.)?.sum_all()?)?;
    assert_values(y.backward()?.get(&x).expect("x is a variable"), &[7.; 4]);
    Ok(())
}

#[test]
fn empty_sizes_are_refused() {
    assert!(upsample_nearest(&normal(&[1, 2, 2, 1], 1), [0, 2]).is_err());
    assert!(upsample_nearest(&normal(&[1, 2, 2, 1], 1), [2]).is_err());
}
