//! Efficient channel attention: Wang et al., "ECA-Net" (2019), as timm's `EcaModule`.

use super::conv::{Conv1d, ConvConfig};
use crate::ops::{self, Activation};
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// Scales channels by what the means of neighbouring channels say: `x * sigmoid(conv(mean of x))`, the
/// convolution over the channels. Parameter `conv.weight[1, 1, k]`.
#[derive(Debug, Clone)]
pub struct EfficientChannelAttention {
    /// Of `k` taps, over the channels.
    pub conv: Conv1d,
}

impl EfficientChannelAttention {
    /// Reads or makes the parameter; a new one is uniform in `+-1 / sqrt(k)`. `k` is the paper's equation 12
    /// with gamma 2 and b 1: the odd number at or above `(log2(channels) + 1) / 2`, at least 3.
    ///
    /// # Errors
    /// Where `vb` has another shape.
    pub fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let kernel = kernel_size(channels);
        let bound = 1. / (kernel as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.pp("conv").get_with_hints((1, 1, kernel), "weight", init)?;
        let config = ConvConfig { padding: [kernel / 2], ..ConvConfig::new([kernel]) };
        Ok(EfficientChannelAttention { conv: Conv1d::of(weight, None, config) })
    }

    /// `x[N, spatial.., C]`, scaled.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let means = ops::global_avg_pool(x)?;
        // The channels become the length, of one channel.
        let gate = self.conv.forward(&means.unsqueeze(2)?)?.squeeze(2)?;
        ops::scale(x, &Activation::Sigmoid.forward(&gate)?)
    }
}

fn kernel_size(channels: usize) -> usize {
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
