use super::*;
use crate::ops::oracle::{agrees_in_bf16, check, normal};

#[test]
fn any_shape_is_right() {
    for shape in [&[1, 1][..], &[3, 17], &[2, 5, 3], &[1, 3, 2, 64], &[3, 2, 3, 4, 5], &[2, 60, 50, 7]] {
        let (samples, channels) = (shape[0], shape[shape.len() - 1]);
        let inputs = [normal(shape, 1), normal(&[samples, channels], 2)];
        check(&inputs, |x| scale(&x[0], &x[1]));
        agrees_in_bf16(&inputs, &[0], |x| scale(&x[0], &x[1]));
    }
}

#[test]
fn misfits_are_named() {
    let error = scale(&normal(&[2, 3, 4], 1), &normal(&[2, 3], 2)).unwrap_err().to_string();
    assert!(error.contains("[N, .., C] and [N, C]"), "{error}");
}
