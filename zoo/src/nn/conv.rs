//! Convolution with its parameters.

use crate::grad::parameter;
use crate::ops::Geometry;
use crate::ops::conv::{Fused, KeptFilters, conv_fused, conv_with_bias, conv_with_moments};
use crate::ops::moments::Moments;
use candle_core::{Error, Result, Tensor};
use candle_nn::init::{FanInOut, Init, NonLinearity, NormalOrUniform, ZERO};
use candle_nn::{Module, VarBuilder};

/// A convolution over `D` spatial dimensions (1 to 3): `f32[N, .., C]` to `f32[N, .., O]`.
///
/// Where the weight is no `Var` it is taken for constant: its filters are kept in the order in which the kernels
/// read them, which makes inference faster and takes up to four times the weight's memory.
#[derive(Debug, Clone)]
pub struct Conv<const D: usize> {
    /// `f32[O, C / groups, ..kernel]`.
    pub weight: Tensor,
    /// `f32[O]`.
    pub bias: Option<Tensor>,
    /// What it was built with.
    pub config: ConvConfig<D>,
    kept: KeptFilters,
}

/// `f32[N, L, C]` to `f32[N, L', O]`.
pub type Conv1d = Conv<1>;
/// `f32[N, H, W, C]` to `f32[N, H', W', O]`.
pub type Conv2d = Conv<2>;
/// `f32[N, D, H, W, C]` to `f32[N, D', H', W', O]`.
pub type Conv3d = Conv<3>;

/// Options of a [`Conv`], axis by axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvConfig<const D: usize> {
    /// Taps.
    pub kernel: [usize; D],
    /// Input positions from one window to the next.
    pub stride: [usize; D],
    /// Zeros before and after the axis.
    pub padding: [usize; D],
    /// Input positions from one tap to the next.
    pub dilation: [usize; D],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether a learnt constant is added to each output channel.
    pub bias: bool,
}

impl<const D: usize> ConvConfig<D> {
    /// Stride 1, no padding, no dilation, one group, no bias.
    pub fn new(kernel: [usize; D]) -> Self {
        ConvConfig { kernel, stride: [1; D], padding: [0; D], dilation: [1; D], groups: 1, bias: false }
    }
}

impl<const D: usize> Conv<D> {
    /// Takes `weight` (and `bias`) from `vb`; where they are new, the weight is drawn as torchvision's ResNets
    /// draw theirs (He et al. 2015: normal, fan out, gain of ReLU), and the bias is zero.
    ///
    /// # Errors
    /// Where the groups do not divide the channels, or `vb` holds another shape.
    pub fn new(c_in: usize, c_out: usize, config: ConvConfig<D>, vb: VarBuilder) -> Result<Self> {
        let groups = config.groups;
        if groups == 0 || !c_in.is_multiple_of(groups) || !c_out.is_multiple_of(groups) {
            let rule = format!("{groups} groups must divide the {c_in} input and the {c_out} output channels");
            return Err(Error::Msg(format!("{}: {rule}", vb.prefix())));
        }
        let init =
            Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };
        let shape = [&[c_out, c_in / groups], &config.kernel[..]].concat();
        let weight = vb.get_with_hints(shape, "weight", init)?;
        let bias = config.bias.then(|| vb.get_with_hints(c_out, "bias", ZERO)).transpose()?;
        Ok(Conv::of(weight, bias, config))
    }

    /// With these parameters, in the shapes of the fields.
    pub fn of(weight: Tensor, bias: Option<Tensor>, config: ConvConfig<D>) -> Self {
        Conv { weight, bias, config, kept: KeptFilters::default() }
    }

    /// Convolves `x`, channels last.
    ///
    /// # Errors
    /// Where `x` has other channels, or is smaller than the kernel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (parameter(&self.weight), self.bias.as_ref().map(parameter));
        conv_with_bias(x, &weight, bias.as_ref(), &self.geometry(), self.kept.of(&self.weight))
    }

    /// As [`forward`](Self::forward), with the moments of the result's channels where the kernels take them.
    pub(super) fn forward_with_moments(&self, x: &Tensor) -> Result<(Tensor, Option<Moments>)> {
        match self.bias {
            None => conv_with_moments(x, &parameter(&self.weight), &self.geometry(), self.kept.of(&self.weight)),
            Some(_) => Ok((self.forward(x)?, None)),
        }
    }

    /// Convolves `x` without the bias, and without a graph.
    pub(super) fn fused(&self, x: &Tensor, fused: Option<Fused>) -> Result<Tensor> {
        conv_fused(x, &parameter(&self.weight), &self.geometry(), fused, self.kept.of(&self.weight))
    }

    fn geometry(&self) -> Geometry<D> {
        let ConvConfig { stride, padding, dilation, groups, .. } = self.config;
        Geometry { stride, padding, dilation, groups }
    }
}

impl<const D: usize> Module for Conv<D> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Conv::forward(self, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::VarMap;

    #[test]
    fn parameters_have_checkpoint_names_and_shapes_and_a_gradient() -> Result<()> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let config = ConvConfig { stride: [2, 1], padding: [1, 0], groups: 2, bias: true, ..ConvConfig::new([3, 1]) };
        let layer = Conv2d::new(4, 6, config, vb.pp("conv1"))?;
        let y = layer.forward(&Tensor::ones((2, 5, 7, 4), DType::F32, &Device::Cpu)?)?;
        assert_eq!(y.dims(), [2, 3, 7, 6]);
        let gradients = y.sqr()?.sum_all()?.backward()?;
        let named = vars.data().lock().expect("no thread panicked").clone();
        for (name, shape) in [("conv1.weight", vec![6, 2, 3, 1]), ("conv1.bias", vec![6])] {
            assert_eq!(named[name].dims(), shape, "{name}");
            assert_eq!(gradients.get(&named[name]).expect("parameters are tracked").dims(), shape, "{name}");
        }
        assert!(crate::no_grad(|| layer.forward(&y.zeros_like()?.narrow(3, 0, 4)?)).is_ok_and(|y| !y.track_op()));
        Ok(())
    }

    #[test]
    fn the_weight_is_drawn_with_the_standard_deviation_of_fan_out() -> Result<()> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let layer = Conv2d::new(64, 32, ConvConfig::new([3, 3]), vb)?;
        let deviation = layer.weight.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
        let expected = (2.0f32 / (32.0 * 9.0)).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.05, "{deviation} instead of {expected}");
        Ok(())
    }

    #[test]
    fn groups_that_do_not_divide_name_the_layer() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu).pp("layer1.0.conv2");
        let error = Conv2d::new(6, 4, ConvConfig { groups: 4, ..ConvConfig::new([3, 3]) }, vb);
        assert_eq!(
            error.expect_err("4 does not divide 6").to_string(),
            "layer1.0.conv2: 4 groups must divide the 6 input and the 4 output channels"
        );
    }
}
