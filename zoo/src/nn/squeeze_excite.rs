//! Squeeze and excitation: Hu et al. (2017), as timm's `SEModule`.

use crate::grad::parameter;
use crate::ops::{self, Activation};
use candle_core::{Result, Tensor};
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use candle_nn::{Init, VarBuilder};

/// Scales channels by what all cells say together: `x * sigmoid(fc2(relu(fc1(mean of x))))`. Parameters
/// `fc1.weight[reduced, C, 1, 1]`, `fc1.bias`, `fc2.weight[C, reduced, 1, 1]`, `fc2.bias`.
#[derive(Debug, Clone)]
pub struct SqueezeExcite {
    fc1: Pointwise,
    fc2: Pointwise,
}

impl SqueezeExcite {
    /// Reads or makes the parameters; new weights are Kaiming-normal by fan-out, as timm's ResNets make
    /// every convolution's.
    ///
    /// # Errors
    /// Where `vb` has other shapes.
    pub fn new(channels: usize, reduced: usize, vb: VarBuilder) -> Result<Self> {
        let fc1 = Pointwise::new(channels, reduced, vb.pp("fc1"))?;
        Ok(SqueezeExcite { fc1, fc2: Pointwise::new(reduced, channels, vb.pp("fc2"))? })
    }

    /// `x[N, spatial.., C]`, scaled.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let reduced = Activation::Relu.forward(&self.fc1.forward(&ops::global_avg_pool(x)?)?)?;
        ops::scale(x, &Activation::Sigmoid.forward(&self.fc2.forward(&reduced)?)?)
    }
}

/// A convolution with a kernel of 1 over a single cell.
#[derive(Debug, Clone)]
struct Pointwise {
    weight: Tensor,
    bias: Tensor,
}

impl Pointwise {
    fn new(c_in: usize, c_out: usize, vb: VarBuilder) -> Result<Self> {
        let (dist, fan, non_linearity) = (NormalOrUniform::Normal, FanInOut::FanOut, NonLinearity::ReLU);
        let weight = vb.get_with_hints((c_out, c_in, 1, 1), "weight", Init::Kaiming { dist, fan, non_linearity })?;
        let bound = 1. / (c_in.max(1) as f64).sqrt();
        let bias = vb.get_with_hints(c_out, "bias", Init::Uniform { lo: -bound, up: bound })?;
        Ok(Pointwise { weight, bias })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = parameter(&self.weight).flatten_from(1)?;
        ops::linear(x, &weight, Some(&parameter(&self.bias)))
    }
}
