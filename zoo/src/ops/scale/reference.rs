use crate::ops::node::computing;
use candle_core::{Result, Tensor};

pub(super) fn scale(x: &Tensor, s: &Tensor) -> Result<Tensor> {
    let (samples, channels) = s.dims2()?;
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (samples, channels);
    let wide = computing(x.dtype());
    x.to_dtype(wide)?.broadcast_mul(&s.reshape(shape)?.to_dtype(wide)?)?.to_dtype(x.dtype())
}
