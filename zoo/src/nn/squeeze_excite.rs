//! Squeeze and excitation: Hu et al., "Squeeze-and-Excitation Networks" (2017), as timm's `SEModule`.

use super::conv::{Conv2d, ConvConfig};
use crate::ops::{self, Activation};
use candle_core::{Result, Tensor};
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use candle_nn::{Init, VarBuilder};

/// Scales channels by what all cells say together: `x * sigmoid(fc2(relu(fc1(mean of x))))`. Parameters
/// `fc1.weight[reduced, C, 1, 1]`, `fc1.bias`, `fc2.weight[C, reduced, 1, 1]`, `fc2.bias`.
#[derive(Debug, Clone)]
pub struct SqueezeExcite {
    /// To the reduced channels.
    pub fc1: Conv2d,
    /// Back to all channels.
    pub fc2: Conv2d,
}

impl SqueezeExcite {
    /// Reads or makes the parameters; new weights are Kaiming-normal by fan-out, as timm's ResNets make
    /// every convolution's, biases uniform in `+-1 / sqrt(in)`.
    ///
    /// # Errors
    /// Where `vb` has other shapes.
    pub fn new(channels: usize, reduced: usize, vb: VarBuilder) -> Result<Self> {
        let fc1 = pointwise(channels, reduced, vb.pp("fc1"))?;
        Ok(SqueezeExcite { fc1, fc2: pointwise(reduced, channels, vb.pp("fc2"))? })
    }

    /// `x[N, spatial.., C]`, scaled.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let means = ops::global_avg_pool(x)?;
        let (samples, channels) = means.dims2()?;
        let squeezed = Activation::Relu.forward(&self.fc1.forward(&means.reshape((samples, 1, 1, channels))?)?)?;
        let gate = self.fc2.forward(&squeezed)?.reshape((samples, channels))?;
        ops::scale(x, &Activation::Sigmoid.forward(&gate)?)
    }
}

fn pointwise(c_in: usize, c_out: usize, vb: VarBuilder) -> Result<Conv2d> {
    let (dist, fan, non_linearity) = (NormalOrUniform::Normal, FanInOut::FanOut, NonLinearity::ReLU);
    let weight = vb.get_with_hints((c_out, c_in, 1, 1), "weight", Init::Kaiming { dist, fan, non_linearity })?;
    let bound = 1. / (c_in.max(1) as f64).sqrt();
    let bias = vb.get_with_hints(c_out, "bias", Init::Uniform { lo: -bound, up: bound })?;
    Ok(Conv2d::of(weight, Some(bias), ConvConfig { bias: true, ..ConvConfig::new([1; 2]) }))
}
