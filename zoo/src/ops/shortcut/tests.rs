use super::*;
use crate::ops::oracle::{agrees_in_bf16, assert_values, check, normal};
use candle_core::Device;

#[test]
fn any_stride_is_right() {
    for (channels, stride) in [(3, 1), (8, 2), (4, 3), (6, 9)] {
        check(&[normal(&[2, 5, 4, 3], 1)], |x| pad_shortcut(&x[0], channels, stride));
    }
    check(&[normal(&[2, 5, 3], 1)], |x| pad_shortcut(&x[0], 6, 2));
    check(&[normal(&[1, 3, 4, 5, 2], 1)], |x| pad_shortcut(&x[0], 4, 2));
    agrees_in_bf16(&[normal(&[2, 5, 4, 3], 1)], &[0], |x| pad_shortcut(&x[0], 8, 2));
}

#[test]
fn zeros_go_on_both_sides() -> Result<()> {
    let x = Tensor::new(&[1f32, 2., 3., 4.], &Device::Cpu)?.reshape((1, 4, 1, 1))?;
    assert_values(&pad_shortcut(&x, 4, 2)?, &[0., 1., 0., 0., 0., 3., 0., 0.]);
    assert!(pad_shortcut(&x, 0, 1).unwrap_err().to_string().contains("only adds channels"));
    assert!(pad_shortcut(&x, 2, 0).is_err());
    Ok(())
}
