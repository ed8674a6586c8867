use super::Mask;
use crate::ops::node::computing;
use candle_core::{Device, Result, Tensor};

/// The mask is drawn in main memory, so that every device drops the same values.
pub(super) fn apply(x: &Tensor, mask: Mask) -> Result<Tensor> {
    let mut factors = vec![1f32; x.elem_count()];
    let sample = (factors.len() / x.dims()[0].max(1)).max(1);
    for (i, factors) in factors.chunks_mut(sample).enumerate() {
        mask.apply(i, factors);
    }
    let factors = Tensor::from_vec(factors, x.shape(), &Device::Cpu)?;
    let wide = computing(x.dtype());
    (x.to_dtype(wide)? * factors.to_device(x.device())?.to_dtype(wide)?)?.to_dtype(x.dtype())
}
