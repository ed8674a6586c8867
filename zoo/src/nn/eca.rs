//! Efficient channel attention: Wang et al., "ECA-Net" (2019), as timm's `EcaModule`.

use crate::grad::parameter;
use crate::ops::{self, Activation};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Scales channels by what the means of neighbouring channels say: `x * sigmoid(conv(mean of x))`, the
/// convolution over the channels. Parameter `conv.weight[1, 1, k]`.
#[derive(Debug, Clone)]
pub struct EfficientChannelAttention {
    weight: Tensor,
}

impl EfficientChannelAttention {
    /// Reads or makes the parameter; the kernel is [`kernel_size`], a new one is uniform in `+-1 / sqrt(k)`.
    ///
    /// # Errors
    /// Where `vb` has another shape.
    pub fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let kernel = kernel_size(channels);
        let bound = 1. / (kernel as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        Ok(EfficientChannelAttention { weight: vb.pp("conv").get_with_hints((1, 1, kernel), "weight", init)? })
    }

    /// `x[N, spatial.., C]`, scaled.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let means = ops::global_avg_pool(x)?;
        let (weight, channels) = (parameter(&self.weight).flatten_all()?, means.dims()[1]);
        let side = weight.elem_count() / 2;
        let padded = means.pad_with_zeros(1, side, side)?;
        let tap = |i| padded.narrow(1, i, channels)?.broadcast_mul(&weight.narrow(0, i, 1)?);
        let gate = (1..weight.elem_count()).try_fold(tap(0)?, |sum, i| sum + tap(i)?)?;
        ops::scale(x, &Activation::Sigmoid.forward(&gate)?)
    }
}

/// The paper's equation 12 with gamma 2 and b 1: the odd number at or above `(log2(C) + 1) / 2`, at least 3.
pub fn kernel_size(channels: usize) -> usize {
    let t = ((channels.max(1) as f64).log2() + 1.) as usize / 2;
    (t | 1).max(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `timm.layers.EcaModule(channels).conv.kernel_size`.
    #[test]
    fn kernel_sizes_as_timm() {
        for (channels, kernel) in
            [(1, 3), (16, 3), (64, 3), (127, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)]
        {
            assert_eq!(kernel_size(channels), kernel, "{channels} channels");
        }
    }
}
