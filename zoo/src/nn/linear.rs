//! The fully connected layer.

use crate::grad::parameter;
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// `y = x weight^T + bias`, as `torch.nn.Linear`: parameters `weight[out, in]`, `bias[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `f32[out, in]`.
    pub weight: Tensor,
    /// `f32[out]`.
    pub bias: Tensor,
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
        Ok(Linear { weight, bias })
    }

    /// `x[N, in]` to `[N, out]`.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &parameter(&self.weight), Some(&parameter(&self.bias)))
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
}
