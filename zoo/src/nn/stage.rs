//! A stage of a residual network.

use crate::grad::are_stages_checkpoints;
use crate::ops::conv::are_convolutions_direct;
use crate::ops::{checkpoint, segment, with_direct_convolutions};
use crate::random::{forward_key, with_forward_key};
use candle_core::{Result, Tensor};

/// Runs `blocks` one after the other, as one node of candle's graph (see [`segment`]), or as a [`checkpoint`] where
/// [`checkpoint_stages`](crate::grad::checkpoint_stages) says so.
///
/// # Errors
/// Those of `forward`.
pub fn stage<B, F>(x: &Tensor, blocks: &[B], forward: F) -> Result<Tensor>
where
    B: Clone + Send + Sync + 'static,
    F: Fn(&B, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    let run = move |blocks: &[B], x: &Tensor| blocks.iter().try_fold(x.clone(), |x, block| forward(block, &x));
    if !are_stages_checkpoints() {
        return segment(x, |x| run(blocks, x));
    }
    // A clone of a block shares its parameters. What the blocks drop, and how they round, has to be the same again.
    let (blocks, key, direct) = (blocks.to_vec(), forward_key(), are_convolutions_direct());
    checkpoint(x, move |x| with_direct_convolutions(direct, || with_forward_key(key, || run(&blocks, x))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grad::{checkpoint_stages, no_grad};
    use crate::nn::{Activation, BatchNorm, Conv2d, ConvConfig, DropPath, Dropout, NormConfig};
    use crate::ops::oracle::{flat, normal};
    use crate::params::Params;
    use crate::random::ForwardKey;
    use candle_core::{DType, Device};
    use candle_nn::VarBuilder;
    use std::collections::BTreeMap;

    #[derive(Clone)]
    struct Block {
        conv: Conv2d,
        norm: BatchNorm,
        dropout: Dropout,
        drop_path: DropPath,
    }

    impl Block {
        fn new(vb: VarBuilder) -> Result<Self> {
            let config = ConvConfig { padding: [1; 2], ..ConvConfig::new([3; 2]) };
            Ok(Block {
                conv: Conv2d::new(4, 4, config, vb.pp("conv"))?,
                norm: BatchNorm::new(4, NormConfig::default(), vb.pp("norm"))?,
                dropout: Dropout::new(0.5, &vb.pp("dropout"))?,
                drop_path: DropPath::new(0.5, &vb.pp("drop_path"))?,
            })
        }

        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            let y = self.dropout.forward_t(&self.conv.forward(x)?, true)?;
            let y = self.drop_path.forward_t(&self.norm.forward_t(&y, Activation::Relu, true)?, true)?;
            x + y
        }
    }

    /// Result, gradients, and all parameters and statistics after a training step's two passes over three stages.
    fn train(checkpoints: bool, frozen: bool) -> Result<[BTreeMap<String, Vec<f64>>; 2]> {
        let params = Params::new(3);
        if frozen {
            params.freeze(|name| name.contains("norm"), crate::params::NormPolicy::Frozen).expect("norms are there");
        }
        let vb = params.var_builder(DType::F32, &Device::Cpu);
        let stages: Vec<Vec<Block>> =
            (0..3).map(|s| (0..2).map(|b| Block::new(vb.pp(s).pp(b))).collect()).collect::<Result<_>>()?;
        let x = normal(&[3, 6, 6, 4], 5).to_dtype(DType::F32)?;
        let key = ForwardKey { seed: 1, step: 2 };
        let forward = || {
            with_forward_key(key, || stages.iter().try_fold(x.clone(), |x, blocks| stage(&x, blocks, Block::forward)))
        };
        let y = if checkpoints { checkpoint_stages(forward) } else { forward() }?;
        let mut store = crate::grad::backward(&y.sqr()?.sum_all()?)?;
        let mut found = BTreeMap::from([("y".to_owned(), flat(&y))]);
        for (name, var) in params.trainable() {
            let gradient = store.remove(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            found.insert(name, flat(&gradient));
        }
        let state = params.state_dict().into_iter().map(|(name, value)| (name, flat(&value))).collect();
        Ok([found, state])
    }

    /// Dropout draws the same again, and running statistics are updated once.
    #[test]
    fn checkpoints_change_no_bit() -> Result<()> {
        for frozen in [false, true] {
            let [plain, state] = train(false, frozen)?;
            let [found, found_state] = train(true, frozen)?;
            assert_eq!(plain, found);
            assert_eq!(state, found_state);
            assert!(plain["y"].iter().any(|&y| y != 0.) && plain.len() == if frozen { 7 } else { 19 });
        }
        Ok(())
    }

    #[test]
    fn without_a_graph_there_is_no_checkpoint() -> Result<()> {
        let params = Params::new(3);
        let blocks = [Block::new(params.var_builder(DType::F32, &Device::Cpu))?];
        let x = normal(&[3, 6, 6, 4], 5).to_dtype(DType::F32)?;
        let y = checkpoint_stages(|| no_grad(|| stage(&x, &blocks, Block::forward)))?;
        assert!(!y.track_op());
        Ok(())
    }
}
