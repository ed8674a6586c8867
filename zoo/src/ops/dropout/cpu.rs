use super::Mask;
use crate::ops::node::{fill, record, values_of};
use crate::ops::number::Number;
use candle_core::{Device, Result, Tensor};

pub(super) fn apply<N: Number>(x: &Tensor, mask: Mask) -> Result<Tensor> {
    let x = x.contiguous()?;
    let samples = x.dims()[0];
    let y = masked::<N>(&values_of(&x)?, samples, mask);
    record("dropout", [&x], y, x.shape(), move |dy| {
        let dx = masked::<N>(&values_of(dy)?, samples, mask);
        Ok([Some(Tensor::from_vec(dx, dy.shape(), &Device::Cpu)?)])
    })
}

fn masked<N: Number>(x: &[N], samples: usize, mask: Mask) -> Vec<N> {
    let sample = (x.len() / samples.max(1)).max(1);
    fill(x.len(), sample, |i, y| {
        y.copy_from_slice(&x[i * sample..][..y.len()]);
        mask.apply(i, y);
    })
}
