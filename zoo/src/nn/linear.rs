//! The fully connected layer.

use crate::grad::parameter;
use crate::ops::conv::KeptFilters;
use crate::ops::linear::linear_with;
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// `y = x weight^T + bias`, as `torch.nn.Linear`: parameters `weight[out, in]`, `bias[out]`.
///
/// Where the weight is no `Var` it is taken for constant, and kept in the order in which the kernels read it.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `f32[out, in]`.
    pub weight: Tensor,
    /// `f32[out]`.
    pub bias: Tensor,
    kept: KeptFilters,
}

impl Linear {
    /// Reads or makes the parameters; new ones are uniform in `+-1 / sqrt(in)`, as PyTorch's.
    ///
    /// # Errors
    /// Where `vb` has other shapes.
    pub fn new(c_in: usize, c_out: usize, vb: VarBuilder) -> Result<Self> {
        let bound = 1. / (c_in.max(1) as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((c_out, c_in), "weight", init)?;
        let bias = vb.get_with_hints(c_out, "bias", init)?;
        Ok(Linear { weight, bias, kept: KeptFilters::default() })
    }

    /// `x[N, in]` to `[N, out]`.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear_with(x, &parameter(&self.weight), Some(&parameter(&self.bias)), self.kept.of(&self.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::VarMap;

    #[test]
    fn starts_uniform_and_both_parameters_learn() -> Result<()> {
        let vars = VarMap::new();
        let linear = Linear::new(16, 3, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
        let weight = linear.weight.flatten_all()?.to_vec1::<f32>()?;
        assert!(weight.iter().all(|w| w.abs() <= 0.25) && weight.iter().any(|w| w.abs() > 0.125), "{weight:?}");
        let y = linear.forward(&Tensor::ones((2, 16), DType::F32, &Device::Cpu)?)?;
        assert_eq!(y.dims(), [2, 3]);
        let gradients = y.sum_all()?.backward()?;
        assert!(vars.all_vars().iter().all(|var| gradients.get(var).is_some()));
        assert!(!crate::no_grad(|| linear.forward(&Tensor::ones((2, 16), DType::F32, &Device::Cpu)?))?.track_op());
        Ok(())
    }

    #[test]
    fn a_constant_weight_is_kept_in_order_and_another_one_replaces_it() -> Result<()> {
        let [weight, other] = [1, 2].map(|seed| crate::ops::oracle::normal(&[5, 40], seed));
        let (bias, x) = (crate::ops::oracle::normal(&[5], 3), crate::ops::oracle::normal(&[3, 40], 4));
        let mut linear = Linear { weight, bias, kept: KeptFilters::default() };
        let expected = |linear: &Linear| x.matmul(&linear.weight.t()?)?.broadcast_add(&linear.bias)?.to_vec2::<f32>();
        for weight in [linear.weight.clone(), other] {
            linear.weight = weight;
            for _ in 0..2 {
                let (y, expected) = (linear.forward(&x)?.to_vec2::<f32>()?, expected(&linear)?);
                let near = y.iter().flatten().zip(expected.iter().flatten()).all(|(y, e)| (y - e).abs() < 1e-4);
                assert!(near, "{y:?} instead of {expected:?}");
                assert!(format!("{:?}", linear.kept).contains("Direct"), "{:?}", linear.kept);
            }
        }
        Ok(())
    }
}
