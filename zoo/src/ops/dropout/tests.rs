use super::*;
use crate::ops::oracle::{agrees_in_bf16, check, flat, normal};
use candle_core::{DType, Device};

const KEY: Key = Key { seed: 1, stream: 2, step: 3, index: 0 };

#[test]
fn gradients_meet_the_same_mask() {
    let rate = DropRate::new(0.3).unwrap();
    for shape in [&[3][..], &[2, 17], &[3, 5, 4, 3], &[2, 3, 90, 64]] {
        check(&[normal(shape, 1)], |x| dropout(&x[0], rate, KEY));
        check(&[normal(shape, 1)], |x| drop_path(&x[0], rate, KEY));
        agrees_in_bf16(&[normal(shape, 1)], &[0], |x| dropout(&x[0], rate, KEY));
    }
}

#[test]
fn the_share_that_stays_keeps_the_mean() -> Result<()> {
    let x = Tensor::ones((400, 100), DType::F32, &Device::Cpu)?;
    let y = flat(&dropout(&x, DropRate::new(0.2)?, KEY)?);
    assert!(y.iter().all(|&y| y == 0. || y == 1.25));
    let dropped = y.iter().filter(|&&y| y == 0.).count() as f64 / y.len() as f64;
    assert!((dropped - 0.2).abs() < 0.01, "{dropped}");

    let y = flat(&drop_path(&x, DropRate::new(0.2)?, KEY)?);
    assert!(y.chunks(100).all(|sample| sample.iter().all(|&y| y == sample[0] && (y == 0. || y == 1.25))));
    let dropped = y.iter().filter(|&&y| y == 0.).count() as f64 / y.len() as f64;
    assert!((dropped - 0.2).abs() < 0.06, "{dropped}");
    Ok(())
}

/// A sample's mask depends on its position, not on how many others there are.
#[test]
fn a_mask_belongs_to_the_position() -> Result<()> {
    let x = Tensor::ones((8, 50), DType::F32, &Device::Cpu)?;
    let rate = DropRate::new(0.5)?;
    let (all, some) = (flat(&dropout(&x, rate, KEY)?), flat(&dropout(&x.narrow(0, 0, 3)?, rate, KEY)?));
    assert_eq!(all[..150], some);
    assert_eq!(flat(&dropout(&x, rate, Key { index: 77, ..KEY })?), all);
    Ok(())
}
