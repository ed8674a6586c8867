//! The feature pyramid network: Lin et al., "Feature Pyramid Networks for Object Detection" (2017), as
//! torchvision's `FeaturePyramidNetwork`.

use super::conv::{Conv2d, ConvConfig};
use crate::ops::{MaxPool, max_pool, upsample_nearest};
use candle_core::{Result, Tensor, bail};
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use candle_nn::{Init, VarBuilder};

/// Turns a backbone's maps into maps of equal channels, each with what the coarser ones know: a 1x1
/// convolution on each map, plus the coarser sum upsampled, then a 3x3 convolution. Parameters
/// `inner_blocks.{i}.0.{weight, bias}`, `layer_blocks.{i}.0.{weight, bias}`.
#[derive(Debug, Clone)]
pub struct FeaturePyramid {
    /// The lateral 1x1 convolutions, finest first.
    pub inner_blocks: Vec<Conv2d>,
    /// The 3x3 convolutions after the sums, finest first.
    pub layer_blocks: Vec<Conv2d>,
    /// Whether a coarser map is subsampled from the coarsest (torchvision's `LastLevelMaxPool`).
    pub extra: bool,
}

impl FeaturePyramid {
    /// For maps of `c_in` channels, finest first; every output has `c_out`. With `extra` there is one map
    /// more, the coarsest at half its resolution. New weights are Kaiming-uniform (a = 1), biases zero.
    ///
    /// # Errors
    /// Where there is no map, or `vb` has other shapes.
    pub fn new(c_in: &[usize], c_out: usize, extra: bool, vb: VarBuilder) -> Result<Self> {
        if c_in.is_empty() {
            bail!("a feature pyramid needs at least one map");
        }
        let conv = |c_in, side, vb| convolution(c_in, c_out, side, vb);
        let inner = c_in.iter().enumerate().map(|(i, &c_in)| conv(c_in, 1, vb.pp("inner_blocks").pp(i).pp(0)));
        let layers = (0..c_in.len()).map(|i| conv(c_out, 3, vb.pp("layer_blocks").pp(i).pp(0)));
        Ok(FeaturePyramid {
            inner_blocks: inner.collect::<Result<_>>()?,
            layer_blocks: layers.collect::<Result<_>>()?,
            extra,
        })
    }

    /// Maps `[N, H, W, C]`, finest first, to maps `[N, H, W, c_out]` of the same sizes, and the extra one.
    ///
    /// # Errors
    /// Where the number of maps or a shape does not fit.
    pub fn forward(&self, maps: &[Tensor]) -> Result<Vec<Tensor>> {
        let [finer @ .., coarsest] = maps else { bail!("a feature pyramid needs at least one map") };
        if maps.len() != self.inner_blocks.len() {
            bail!("this feature pyramid takes {} maps, not {}", self.inner_blocks.len(), maps.len());
        }
        let mut sum = self.inner_blocks[finer.len()].forward(coarsest)?;
        let mut levels = vec![self.layer_blocks[finer.len()].forward(&sum)?];
        for (i, map) in finer.iter().enumerate().rev() {
            let lateral = self.inner_blocks[i].forward(map)?;
            let (_, height, width, _) = lateral.dims4()?;
            sum = (lateral + upsample_nearest(&sum, [height, width])?)?;
            levels.push(self.layer_blocks[i].forward(&sum)?);
        }
        levels.reverse();
        if self.extra {
            let halve = MaxPool { kernel: [1; 2], stride: [2; 2], padding: [0; 2] };
            levels.push(max_pool(&levels[finer.len()], &halve)?);
        }
        Ok(levels)
    }
}

fn convolution(c_in: usize, c_out: usize, side: usize, vb: VarBuilder) -> Result<Conv2d> {
    let (dist, fan, non_linearity) = (NormalOrUniform::Uniform, FanInOut::FanIn, NonLinearity::Linear);
    let weight = vb.get_with_hints((c_out, c_in, side, side), "weight", Init::Kaiming { dist, fan, non_linearity })?;
    let bias = vb.get_with_hints(c_out, "bias", Init::Const(0.))?;
    let config = ConvConfig { padding: [side / 2; 2], bias: true, ..ConvConfig::new([side; 2]) };
    Ok(Conv2d::of(weight, Some(bias), config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::VarMap;

    #[test]
    fn every_level_has_its_size_and_every_parameter_learns() -> Result<()> {
        let vars = VarMap::new();
        let fpn = FeaturePyramid::new(&[2, 3, 5], 4, true, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
        let map = |height, width, channels| Tensor::ones((1, height, width, channels), DType::F32, &Device::Cpu);
        let levels = fpn.forward(&[map(13, 9, 2)?, map(7, 5, 3)?, map(4, 3, 5)?])?;
        let sizes: Vec<&[usize]> = levels.iter().map(Tensor::dims).collect();
        assert_eq!(sizes, [[1, 13, 9, 4], [1, 7, 5, 4], [1, 4, 3, 4], [1, 2, 2, 4]]);

        let loss =
            levels.iter().try_fold(Tensor::new(0f32, &Device::Cpu)?, |sum, level| sum + level.sqr()?.sum_all()?)?;
        let gradients = loss.backward()?;
        let named = vars.data().lock().expect("no thread panicked").clone();
        assert_eq!(named.len(), 12);
        for (name, var) in named {
            assert!(gradients.get(&var).is_some(), "{name} has no gradient");
            let moved = name.ends_with("bias") == (var.abs()?.sum_all()?.to_scalar::<f32>()? == 0.);
            assert!(moved, "biases start at 0, weights do not: {name}");
        }
        assert!(fpn.forward(&[map(13, 9, 2)?]).unwrap_err().to_string().contains("takes 3 maps, not 1"));
        Ok(())
    }
}
