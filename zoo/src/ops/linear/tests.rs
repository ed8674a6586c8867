use super::*;
use crate::ops::oracle::{check, normal};

#[test]
fn any_size_is_right() {
    for (n, inputs, outputs) in [(1, 1, 1), (2, 17, 3), (5, 64, 10), (33, 130, 70)] {
        let (x, weight) = (normal(&[n, inputs], 1), normal(&[outputs, inputs], 2));
        check(&[x.clone(), weight.clone(), normal(&[outputs], 3)], |x| linear(&x[0], &x[1], Some(&x[2])));
        check(&[x, weight], |x| linear(&x[0], &x[1], None));
    }
}

#[test]
fn misfits_are_named() {
    let error = linear(&normal(&[2, 3], 1), &normal(&[5, 4], 2), None).unwrap_err().to_string();
    assert!(error.contains("weight[out, in]"), "{error}");
    assert!(linear(&normal(&[2, 3, 4], 1), &normal(&[5, 4], 2), None).is_err());
    assert!(linear(&normal(&[2, 4], 1), &normal(&[5, 4], 2), Some(&normal(&[4], 3))).is_err());
}
