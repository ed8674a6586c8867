//! Layers that are random in training and nothing in evaluation.

use crate::ops::{self, DropRate};
use crate::random::{Key, forward_key, stream_of};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Drops values, as `torch.nn.Dropout`.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    rate: DropRate,
    stream: u64,
}

impl Dropout {
    /// Drops with probability `p`; the layer's path, `vb.prefix()`, names its draws.
    ///
    /// # Errors
    /// Where `p` is not in `[0, 1)`.
    pub fn new(p: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(Dropout { rate: DropRate::new(p)?, stream: stream_of(&vb.prefix()) })
    }

    /// In training drops values of `x[N, ..]` under [`forward_key`], else returns `x`.
    ///
    /// # Errors
    /// Where `x` is no batch of floats.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train { ops::dropout(x, self.rate, layer_key(self.stream)) } else { Ok(x.clone()) }
    }
}

/// Drops whole samples of a residual branch (stochastic depth), as timm's `DropPath`.
#[derive(Debug, Clone, Copy)]
pub struct DropPath {
    rate: DropRate,
    stream: u64,
}

impl DropPath {
    /// Drops with probability `p`; the layer's path, `vb.prefix()`, names its draws.
    ///
    /// # Errors
    /// Where `p` is not in `[0, 1)`.
    pub fn new(p: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(DropPath { rate: DropRate::new(p)?, stream: stream_of(&vb.prefix()) })
    }

    /// In training drops samples of `x[N, ..]` under [`forward_key`], else returns `x`.
    ///
    /// # Errors
    /// Where `x` is no batch of floats.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train { ops::drop_path(x, self.rate, layer_key(self.stream)) } else { Ok(x.clone()) }
    }
}

fn layer_key(stream: u64) -> Key {
    let pass = forward_key();
    Key { seed: pass.seed, stream, step: pass.step, index: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{ForwardKey, with_forward_key};
    use candle_core::{DType, Device};

    #[test]
    fn draws_follow_path_seed_and_step() -> Result<()> {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let x = Tensor::ones((4, 64), DType::F32, &Device::Cpu)?;
        let draw = |path: &str, seed, step| -> Result<Vec<f32>> {
            let layer = Dropout::new(0.5, &vb.pp(path))?;
            with_forward_key(ForwardKey { seed, step }, || layer.forward_t(&x, true))?.flatten_all()?.to_vec1()
        };
        let first = draw("layer1.drop", 1, 7)?;
        assert_eq!(first, draw("layer1.drop", 1, 7)?);
        for other in [draw("layer2.drop", 1, 7)?, draw("layer1.drop", 2, 7)?, draw("layer1.drop", 1, 8)?] {
            assert_ne!(first, other);
        }
        assert!(first.chunks(64).all(|sample| sample != &first[..64] || std::ptr::eq(sample, &first[..64])));
        Ok(())
    }

    #[test]
    fn evaluation_changes_nothing_and_rates_are_checked() -> Result<()> {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
        assert_eq!(Dropout::new(0.9, &vb)?.forward_t(&x, false)?.id(), x.id());
        assert_eq!(DropPath::new(0.9, &vb)?.forward_t(&x, false)?.id(), x.id());
        for p in [-0.1, 1., f64::NAN] {
            assert!(DropPath::new(p, &vb).unwrap_err().to_string().contains("at least 0 and below 1"));
        }
        Ok(())
    }
}
