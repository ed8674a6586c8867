//! Normalisation with what follows it.

use super::conv::Conv;
use crate::grad::{is_recomputing, parameter};
use crate::ops::conv::{Fused, can_fuse};
use crate::ops::isa::vectorised;
use crate::ops::moments::Moments;
use crate::ops::norm::batch_norm_of;
use crate::ops::{self, Activation, BatchStatistics, Epilogue};
use candle_core::{DType, Result, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};

/// What batch norm and group norm have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormConfig {
    /// Whether the weight starts at 0 instead of 1, so that a residual branch starts as nothing.
    pub zero_init: bool,
    /// Added to the variance.
    pub eps: f64,
    /// The share of a new batch in the running statistics (batch norm only).
    pub momentum: f64,
}

impl Default for NormConfig {
    /// PyTorch's: weight 1, eps 1e-5, momentum 0.1.
    fn default() -> Self {
        NormConfig { zero_init: false, eps: 1e-5, momentum: 0.1 }
    }
}

/// Batch norm of `[N, .., C]`, as `torch.nn.BatchNorm2d`: parameters `weight`, `bias`, running statistics
/// `running_mean`, `running_var`.
///
/// Where the running statistics are not `Var`s, it is frozen: it normalises with them in training too.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// `f32[C]`.
    pub weight: Tensor,
    /// `f32[C]`.
    pub bias: Tensor,
    /// `f32[C]`.
    pub running_mean: Tensor,
    /// `f32[C]`, unbiased.
    pub running_var: Tensor,
    /// What it was built with.
    pub config: NormConfig,
}

impl BatchNorm {
    /// Reads or makes `f32[channels]` parameters and statistics.
    ///
    /// # Errors
    /// Where `vb` has other shapes, or only one of the statistics is a `Var`.
    pub fn new(channels: usize, config: NormConfig, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = affine(channels, config, &vb)?;
        let dtype = parameter_dtype(&vb);
        let statistic = |name, start| vb.get_with_hints_dtype(channels, name, Init::Const(start), dtype);
        let (running_mean, running_var) = (statistic("running_mean", 0.)?, statistic("running_var", 1.)?);
        if running_mean.is_variable() != running_var.is_variable() {
            let path = vb.prefix();
            bail!("freeze both of {path}.running_mean and {path}.running_var, or none");
        }
        Ok(BatchNorm { weight, bias, running_mean, running_var, config })
    }

    /// Whether the running statistics never change.
    pub fn is_frozen(&self) -> bool {
        !self.running_mean.is_variable()
    }

    /// Norm, then activation. In training (and not frozen) with the batch's statistics, which also
    /// join the running ones.
    ///
    /// # Errors
    /// Where shapes do not fit, or a channel has fewer than two values in training.
    pub fn forward_t(&self, x: &Tensor, activation: Activation, train: bool) -> Result<Tensor> {
        finish(activation, |relu| self.normalise(x, Epilogue { residual: None, relu }, train))
    }

    /// Norm, plus `shortcut`, then activation.
    ///
    /// # Errors
    /// As [`Self::forward_t`].
    pub fn forward_add_t(&self, x: &Tensor, shortcut: &Tensor, activation: Activation, train: bool) -> Result<Tensor> {
        finish(activation, |relu| self.normalise(x, Epilogue { residual: Some(shortcut), relu }, train))
    }

    /// `self.forward_t(&conv.forward(x)?, ..)`, in evaluation in one pass over memory.
    ///
    /// # Errors
    /// As [`Self::forward_t`], and as [`Conv::forward`].
    pub fn forward_conv_t<const D: usize>(
        &self,
        conv: &Conv<D>,
        x: &Tensor,
        activation: Activation,
        train: bool,
    ) -> Result<Tensor> {
        finish(activation, |relu| self.normalise_conv(conv, x, Epilogue { residual: None, relu }, train))
    }

    /// `self.forward_add_t(&conv.forward(x)?, ..)`, in evaluation in one pass over memory.
    ///
    /// # Errors
    /// As [`Self::forward_t`], and as [`Conv::forward`].
    pub fn forward_conv_add_t<const D: usize>(
        &self,
        conv: &Conv<D>,
        x: &Tensor,
        shortcut: &Tensor,
        activation: Activation,
        train: bool,
    ) -> Result<Tensor> {
        finish(activation, |relu| self.normalise_conv(conv, x, Epilogue { residual: Some(shortcut), relu }, train))
    }

    fn normalise_conv<const D: usize>(
        &self,
        conv: &Conv<D>,
        x: &Tensor,
        epilogue: Epilogue,
        train: bool,
    ) -> Result<Tensor> {
        let [weight, bias] = [&self.weight, &self.bias].map(parameter);
        let [mean, variance] = [&self.running_mean, &self.running_var].map(Tensor::detach);
        let (kernel, conv_bias) = (parameter(&conv.weight), conv.bias.as_ref().map(parameter));
        let parameters = [&kernel, &weight, &bias, &mean, &variance];
        let parameters: Vec<&Tensor> = parameters.into_iter().chain(&conv_bias).collect();
        let maps: Vec<&Tensor> = std::iter::once(x).chain(epilogue.residual).collect();
        if train && !self.is_frozen() {
            let (y, moments) = conv.forward_with_moments(x)?;
            return self.normalise_batch(&y, moments, epilogue);
        }
        if !can_fuse(&maps, &parameters) {
            return self.normalise(&conv.forward(x)?, epilogue, train);
        }
        let (weight, bias) = (weight.to_vec1::<f32>()?, bias.to_vec1::<f32>()?);
        let (mean, variance) = (mean.to_vec1::<f32>()?, variance.to_vec1::<f32>()?);
        let conv_bias = conv_bias.map_or_else(|| Ok(vec![0.; bias.len()]), |bias| bias.to_vec1::<f32>())?;
        let channels = bias.len();
        let (mut scale, mut shift) = (vec![0.; channels], vec![0.; channels]);
        vectorised(|| {
            let all = [&weight, &bias, &mean, &variance, &conv_bias];
            let [weight, bias, mean, variance, conv_bias] = all.map(|values| &values[..channels]);
            for (c, (scale, shift)) in scale.iter_mut().zip(&mut shift).enumerate() {
                let factor = f64::from(weight[c]) * (1. / (f64::from(variance[c]) + self.config.eps).sqrt());
                *scale = factor as f32;
                *shift = (f64::from(bias[c]) + factor * (f64::from(conv_bias[c]) - f64::from(mean[c]))) as f32;
            }
        });
        let Epilogue { residual, relu } = epilogue;
        conv.fused(x, Some(Fused { scale: &scale, shift: &shift, residual, relu }))
    }

    fn normalise(&self, x: &Tensor, epilogue: Epilogue, train: bool) -> Result<Tensor> {
        if train && !self.is_frozen() {
            return self.normalise_batch(x, None, epilogue);
        }
        let affine = packed(&self.weight, &self.bias)?;
        ops::batch_norm_with(x, &affine, &self.running_mean, &self.running_var, self.config.eps, epilogue)
    }

    /// With the batch's statistics, which join the running ones.
    fn normalise_batch(&self, x: &Tensor, moments: Option<Moments>, epilogue: Epilogue) -> Result<Tensor> {
        let affine = packed(&self.weight, &self.bias)?;
        let eps = self.config.eps;
        let (y, BatchStatistics { mean, variance }) = batch_norm_of(x, moments, &affine, eps, epilogue)?;
        if !is_recomputing() {
            self.join(&self.running_mean, &mean)?;
            self.join(&self.running_var, &variance)?;
        }
        Ok(y)
    }

    fn join(&self, running: &Tensor, batch: &Tensor) -> Result<()> {
        let momentum = self.config.momentum;
        let joined = ((running.detach() * (1. - momentum))? + (batch.to_dtype(running.dtype())? * momentum)?)?;
        Var::from_tensor(running)?.set(&joined)
    }
}

/// Group norm of `[N, .., C]`, as `torch.nn.GroupNorm`: parameters `weight`, `bias`.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    /// `f32[C]`.
    pub weight: Tensor,
    /// `f32[C]`.
    pub bias: Tensor,
    /// Equal runs of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl GroupNorm {
    /// Reads or makes `f32[channels]` parameters.
    ///
    /// # Errors
    /// Where `groups` does not divide `channels`, or `vb` has other shapes.
    pub fn new(groups: usize, channels: usize, config: NormConfig, vb: VarBuilder) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("a group norm's groups divide its channels, {groups} do not divide {channels}");
        }
        let (weight, bias) = affine(channels, config, &vb)?;
        Ok(GroupNorm { weight, bias, groups, eps: config.eps })
    }

    /// Norm, then activation; the same in training and evaluation.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward_t(&self, x: &Tensor, activation: Activation, _train: bool) -> Result<Tensor> {
        finish(activation, |relu| self.normalise(x, Epilogue { residual: None, relu }))
    }

    /// Norm, plus `shortcut`, then activation.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn forward_add_t(&self, x: &Tensor, shortcut: &Tensor, activation: Activation, _train: bool) -> Result<Tensor> {
        finish(activation, |relu| self.normalise(x, Epilogue { residual: Some(shortcut), relu }))
    }

    /// `self.forward_t(&conv.forward(x)?, ..)`.
    ///
    /// # Errors
    /// As [`Self::forward_t`], and as [`Conv::forward`].
    pub fn forward_conv_t<const D: usize>(
        &self,
        conv: &Conv<D>,
        x: &Tensor,
        activation: Activation,
        train: bool,
    ) -> Result<Tensor> {
        self.forward_t(&conv.forward(x)?, activation, train)
    }

    /// `self.forward_add_t(&conv.forward(x)?, ..)`.
    ///
    /// # Errors
    /// As [`Self::forward_t`], and as [`Conv::forward`].
    pub fn forward_conv_add_t<const D: usize>(
        &self,
        conv: &Conv<D>,
        x: &Tensor,
        shortcut: &Tensor,
        activation: Activation,
        train: bool,
    ) -> Result<Tensor> {
        self.forward_add_t(&conv.forward(x)?, shortcut, activation, train)
    }

    fn normalise(&self, x: &Tensor, epilogue: Epilogue) -> Result<Tensor> {
        ops::group_norm(x, &packed(&self.weight, &self.bias)?, self.groups, self.eps, epilogue)
    }
}

/// The norm makes a ReLU itself; any other activation follows it.
fn finish(activation: Activation, norm: impl FnOnce(bool) -> Result<Tensor>) -> Result<Tensor> {
    match activation {
        Activation::Relu => norm(true),
        other => other.forward(&norm(false)?),
    }
}

fn affine(channels: usize, config: NormConfig, vb: &VarBuilder) -> Result<(Tensor, Tensor)> {
    let start = if config.zero_init { 0. } else { 1. };
    let dtype = parameter_dtype(vb);
    let weight = vb.get_with_hints_dtype(channels, "weight", Init::Const(start), dtype)?;
    let bias = vb.get_with_hints_dtype(channels, "bias", Init::Const(0.), dtype)?;
    Ok((weight, bias))
}

/// Parameters and statistics of a norm are never half precision.
fn parameter_dtype(vb: &VarBuilder) -> DType {
    if vb.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

fn packed(weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Tensor::stack(&[parameter(weight), parameter(bias)], 0)
}

#[cfg(test)]
mod tests {
    use super::super::conv::ConvConfig;
    use super::*;
    use crate::ops::Isa;
    use crate::ops::oracle;
    use candle_core::Device;
    use candle_nn::VarMap;
    use std::collections::BTreeMap;

    fn normal(shape: &[usize], seed: u64) -> Result<Tensor> {
        oracle::normal(shape, seed).to_dtype(DType::F32)
    }

    fn layer(vars: &VarMap, config: NormConfig) -> Result<BatchNorm> {
        BatchNorm::new(2, config, VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu))
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `torch.nn.BatchNorm2d(2)` on the same four pixels.
    #[test]
    fn running_statistics_as_pytorch() -> Result<()> {
        let (vars, x) = (VarMap::new(), Tensor::new(&[1f32, 5., 2., 5., 4., 7., 9., 7.], &Device::Cpu)?);
        let norm = layer(&vars, NormConfig::default())?;
        let y = norm.forward_t(&x.reshape((1, 2, 2, 2))?, Activation::Identity, true)?;
        let expected = [-0.973_328_05, -0.999_995, -0.648_885_4, -0.999_995, 0., 0.999_995, 1.622_213_4, 0.999_995];
        assert!(values(&y).iter().zip(expected).all(|(y, e)| (y - e).abs() < 1e-6), "{y}");
        assert!((values(&norm.running_mean)[0] - 0.4).abs() < 1e-6, "{}", norm.running_mean);
        assert!((values(&norm.running_mean)[1] - 0.6).abs() < 1e-6, "{}", norm.running_mean);
        // Unbiased: 38 / 3 and 4 / 3.
        assert!((values(&norm.running_var)[0] - (0.9 + 0.1 * 38. / 3.)).abs() < 1e-5, "{}", norm.running_var);
        assert!((values(&norm.running_var)[1] - (0.9 + 0.1 * 4. / 3.)).abs() < 1e-6, "{}", norm.running_var);
        let saved = vars.data().lock().unwrap()["running_mean"].to_vec1::<f32>()?;
        assert_eq!(saved, values(&norm.running_mean), "the map's variable is the layer's");
        Ok(())
    }

    #[test]
    fn evaluation_leaves_the_statistics_alone_and_uses_them() -> Result<()> {
        let norm = layer(&VarMap::new(), NormConfig { eps: 0., ..NormConfig::default() })?;
        let x = Tensor::new(&[[3f32, -4.]], &Device::Cpu)?;
        assert_eq!(values(&norm.forward_t(&x, Activation::Relu, false)?), [3., 0.]);
        assert_eq!(values(&norm.forward_add_t(&x, &x, Activation::Identity, false)?), [6., -8.]);
        assert_eq!((values(&norm.running_mean), values(&norm.running_var)), (vec![0.; 2], vec![1.; 2]));
        Ok(())
    }

    #[test]
    fn plain_tensors_are_frozen_and_record_nothing() -> Result<()> {
        let tensors =
            [("weight", [2f32, 1.]), ("bias", [0., 1.]), ("running_mean", [1., 1.]), ("running_var", [4., 1.])];
        let tensors = tensors.map(|(name, value)| (name.to_string(), Tensor::new(&value, &Device::Cpu).unwrap()));
        let vb = VarBuilder::from_tensors(tensors.into(), DType::F32, &Device::Cpu);
        let norm = BatchNorm::new(2, NormConfig { eps: 0., ..NormConfig::default() }, vb)?;
        let y = norm.forward_t(&Tensor::new(&[[3f32, 5.]], &Device::Cpu)?, Activation::Identity, true)?;
        assert!(norm.is_frozen() && !y.track_op());
        assert_eq!(values(&y), [2., 5.]);
        assert_eq!(values(&norm.running_mean), [1., 1.]);
        Ok(())
    }

    /// In one pass (without a graph) and in two, with a bias, a shortcut, any activation.
    #[test]
    fn a_norm_of_a_convolution_is_the_same_in_one_pass() -> Result<()> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let config = ConvConfig { bias: true, padding: [1; 2], ..ConvConfig::new([3; 2]) };
        let (conv, norm) = (Conv::new(3, 2, config, vb.pp("conv"))?, layer(&vars, NormConfig::default())?);
        let named: BTreeMap<String, Var> = vars.data().lock().unwrap().clone().into_iter().collect();
        for (seed, var) in (0..).zip(named.values()) {
            var.set(&(normal(var.dims(), seed)?.abs()? + 0.1)?)?;
        }
        let (x, shortcut) = (normal(&[2, 5, 4, 3], 10)?, normal(&[2, 5, 4, 2], 11)?);
        let bound = Isa::bound(1e-5, 1e-4) as f32;
        for activation in [Activation::Relu, Activation::Silu] {
            let two = norm.forward_t(&conv.forward(&x)?, activation, false)?;
            let two_added = norm.forward_add_t(&conv.forward(&x)?, &shortcut, activation, false)?;
            for (one, two) in [
                (crate::no_grad(|| norm.forward_conv_t(&conv, &x, activation, false))?, &two),
                (norm.forward_conv_t(&conv, &x, activation, false)?, &two),
                (crate::no_grad(|| norm.forward_conv_add_t(&conv, &x, &shortcut, activation, false))?, &two_added),
                (norm.forward_conv_add_t(&conv, &x, &shortcut, activation, false)?, &two_added),
            ] {
                let close = values(&one).iter().zip(values(two)).all(|(a, b)| (a - b).abs() < bound * b.abs().max(1.));
                assert!(close, "{one} is not {two}");
            }
        }
        // In training the batch's statistics count, without a graph too.
        let trained = crate::no_grad(|| norm.forward_conv_t(&conv, &x, Activation::Identity, true))?;
        let two = norm.forward_t(&conv.forward(&x)?, Activation::Identity, true)?;
        assert!(
            values(&trained).iter().zip(values(&two)).all(|(a, b)| (a - b).abs() < bound),
            "{trained} is not {two}"
        );
        assert_ne!(values(&trained), values(&norm.forward_conv_t(&conv, &x, Activation::Identity, false)?));
        Ok(())
    }

    #[test]
    fn one_value_a_channel_is_an_error_in_training() -> Result<()> {
        let norm = layer(&VarMap::new(), NormConfig::default())?;
        let x = Tensor::zeros((1, 1, 1, 2), DType::F32, &Device::Cpu)?;
        let error = norm.forward_t(&x, Activation::Relu, true).unwrap_err().to_string();
        assert!(error.contains("at least two values a channel") && error.contains("freeze the norms"), "{error}");
        norm.forward_t(&x, Activation::Relu, false)?;
        Ok(())
    }

    #[test]
    fn half_precision_keeps_f32_parameters() -> Result<()> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::BF16, &Device::Cpu);
        let norm = BatchNorm::new(2, NormConfig::default(), vb)?;
        let x = Tensor::new(&[[3f32, -4.], [1., 2.]], &Device::Cpu)?.to_dtype(DType::BF16)?;
        for train in [true, false] {
            let y = norm.forward_t(&x, Activation::Silu, train)?;
            assert_eq!(y.dtype(), DType::BF16);
            let gradients = y.to_dtype(DType::F32)?.sqr()?.sum_all()?.backward()?;
            assert_eq!(gradients.get(&norm.weight).map(Tensor::dtype), Some(DType::F32));
        }
        Ok(())
    }

    #[test]
    fn group_norm_learns_both_parameters() -> Result<()> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        assert!(GroupNorm::new(3, 4, NormConfig::default(), vb.clone()).is_err());
        let norm = GroupNorm::new(2, 4, NormConfig::default(), vb)?;
        let x = Tensor::new(&[[1f32, 2., 3., 5.]], &Device::Cpu)?;
        assert_eq!(values(&norm.forward_t(&x, Activation::Relu, true)?).iter().filter(|&&y| y > 0.).count(), 2);
        let gradients = norm.forward_add_t(&x, &x, Activation::Gelu, true)?.sum_all()?.backward()?;
        assert!(gradients.get(&norm.weight).is_some() && gradients.get(&norm.bias).is_some());
        Ok(())
    }

    #[test]
    fn zero_init_starts_as_the_shortcut() -> Result<()> {
        let norm = layer(&VarMap::new(), NormConfig { zero_init: true, ..NormConfig::default() })?;
        let (x, shortcut) =
            (Tensor::new(&[[1f32, 2.], [3., 5.]], &Device::Cpu)?, Tensor::ones((2, 2), DType::F32, &Device::Cpu)?);
        let y = norm.forward_add_t(&x, &shortcut, Activation::Relu, true)?;
        assert_eq!(values(&y), [1.; 4]);
        let gradients = y.sum_all()?.backward()?;
        assert!(gradients.get(&norm.weight).is_some() && gradients.get(&norm.bias).is_some());
        Ok(())
    }
}
