//! SGD and AdamW as PyTorch defines them, with weight decay and learning rate per parameter.
//!
//! candle-nn's SGD has no momentum and its AdamW can neither be saved nor knows parameter groups.

use crate::error::{Error, Result};
use crate::experiment::OptimizerOptions;
use crate::train::ema::Ema;
use crate::train::values::{self, CHUNK};
use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;
use std::collections::BTreeMap;
use zoo::update::{self, AdamW, Sgd};

/// Chunks whose squares one thread adds up.
const CHUNKS: usize = 4;

/// A parameter that is trained, and how.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name in the model: `layer1.0.conv1.weight`.
    pub name: String,
    /// Its values.
    pub var: Var,
    /// What the schedule's learning rate is multiplied with.
    pub lr_scale: f64,
    /// Whether weight decay pulls at it.
    pub decays: bool,
}

/// The state of an optimizer over the parameters that it trains.
#[derive(Debug)]
pub struct Optimizer {
    options: OptimizerOptions,
    parameters: Vec<Parameter>,
    /// For each parameter, one value an element for each of `slot_names`.
    slots: Vec<Vec<Vec<f32>>>,
    steps: u64,
}

impl Optimizer {
    /// An optimizer that has not taken a step. Each parameter has a variable of its own.
    pub fn new(options: OptimizerOptions, parameters: Vec<Parameter>) -> Self {
        let slot_count = slot_names(&options).len();
        let slots = parameters.iter().map(|parameter| vec![vec![0.; parameter.var.elem_count()]; slot_count]).collect();
        Optimizer { options, parameters, slots, steps: 0 }
    }

    /// What it trains, in the order in which [`step`](Self::step) takes the gradients.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Takes a step: each of `gradients` belongs to the parameter at its place, is multiplied with
    /// `gradient_scale` (clipping), and moves the parameter with learning rate `lr`. The averages, of the same
    /// parameters, follow.
    ///
    /// # Errors
    /// Where a gradient does not have its parameter's shape.
    pub fn step(
        &mut self,
        gradients: &[Tensor],
        lr: f64,
        gradient_scale: f64,
        averages: Option<&mut Ema>,
    ) -> Result<()> {
        assert_eq!(gradients.len(), self.parameters.len(), "each parameter has one gradient");
        for (parameter, gradient) in self.parameters.iter().zip(gradients) {
            if gradient.shape() != parameter.var.shape() {
                return Err(Error::failed(format!(
                    "the gradient of `{}` has shape {:?}, not {:?}",
                    parameter.name,
                    gradient.dims(),
                    parameter.var.dims()
                )));
            }
        }
        self.steps += 1;
        let (options, steps) = (&self.options, self.steps);
        let mut averages: Vec<Option<Average>> = match averages {
            Some(ema) => {
                let (weight, averages) = ema.follow(steps - 1)?;
                averages.map(|values| Some(Average { values, weight })).collect()
            }
            None => self.parameters.iter().map(|_| None).collect(),
        };
        assert_eq!(averages.len(), self.parameters.len(), "averages are of the parameters");
        // All parameters at once, because most are too small to keep every thread busy. A thread that waits for the rest of
        // one takes up another, whose variable has its own lock.
        self.parameters.par_iter().zip(&mut self.slots).zip(gradients).zip(&mut averages).try_for_each(
            |(((parameter, slots), gradient), average)| {
                let update = Update::new(options, parameter, lr, gradient_scale, steps);
                values::read(gradient, |gradient| {
                    values::change(&parameter.var, |values| update.step(values, gradient, slots, average))
                })?
            },
        )?;
        Ok(())
    }

    /// The slots by name (`exp_avg.layer1.0.conv1.weight`), in their parameters' shapes.
    ///
    /// # Errors
    /// Where a tensor cannot be made.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (parameter, slots) in self.parameters.iter().zip(&self.slots) {
            for (slot, values) in slot_names(&self.options).iter().zip(slots) {
                let tensor = Tensor::from_slice(values, parameter.var.shape(), &Device::Cpu)?;
                state.insert(format!("{slot}.{}", parameter.name), tensor);
            }
        }
        Ok(state)
    }

    /// Goes on from a [`state`](Self::state) after `steps` steps.
    ///
    /// # Errors
    /// Where a slot is missing or has another shape: the state belongs to another experiment.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>, steps: u64) -> Result<()> {
        for (parameter, slots) in self.parameters.iter().zip(&mut self.slots) {
            for (slot, values) in slot_names(&self.options).iter().zip(slots) {
                let name = format!("{slot}.{}", parameter.name);
                let tensor = state
                    .get(&name)
                    .ok_or_else(|| Error::input(format!("the checkpoint has no optimizer slot `{name}`")))?;
                if tensor.shape() != parameter.var.shape() {
                    return Err(Error::input(format!(
                        "the checkpoint's optimizer slot `{name}` has shape {:?}, not {:?}",
                        tensor.dims(),
                        parameter.var.dims()
                    )));
                }
                *values = values::read(tensor, <[f32]>::to_vec)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// PyTorch's names of what an optimizer remembers of each element.
pub(super) fn slot_names(options: &OptimizerOptions) -> &'static [&'static str] {
    match options {
        OptimizerOptions::Sgd(options) if options.momentum == 0. => &[],
        OptimizerOptions::Sgd(_) => &["momentum_buffer"],
        OptimizerOptions::AdamW(_) => &["exp_avg", "exp_avg_sq"],
    }
}

/// The average of a parameter, and by which part of the difference it moves towards its values.
struct Average<'a> {
    values: &'a mut [f32],
    weight: f32,
}

/// One step of one parameter.
enum Update {
    Sgd(Sgd),
    AdamW(AdamW),
}

impl Update {
    fn new(options: &OptimizerOptions, parameter: &Parameter, lr: f64, scale: f64, step: u64) -> Self {
        let lr = lr * parameter.lr_scale;
        let decay = |decay: f64| if parameter.decays { decay } else { 0. };
        match options {
            OptimizerOptions::Sgd(options) => Update::Sgd(Sgd {
                lr: lr as f32,
                momentum: options.momentum as f32,
                nesterov: options.nesterov,
                decay: decay(options.weight_decay) as f32,
                scale: scale as f32,
            }),
            OptimizerOptions::AdamW(options) => {
                let [beta1, beta2] = options.betas;
                let correction = |beta: f64| 1. - beta.powf(step as f64);
                Update::AdamW(AdamW {
                    step_size: (lr / correction(beta1)) as f32,
                    keep: (1. - lr * decay(options.weight_decay)) as f32,
                    weight1: (1. - beta1) as f32,
                    beta2: beta2 as f32,
                    weight2: (1. - beta2) as f32,
                    root_correction: correction(beta2).sqrt() as f32,
                    eps: options.eps as f32,
                    scale: scale as f32,
                })
            }
        }
    }

    /// Moves the values of a parameter, what the optimizer remembers of them, and then their average.
    fn step(&self, values: &mut [f32], gradient: &[f32], slots: &mut [Vec<f32>], average: &mut Option<Average>) {
        let count = values.len().div_ceil(CHUNK);
        let (weight, averages): (f32, Vec<Option<&mut [f32]>>) = match average {
            Some(Average { values, weight }) => (*weight, values.chunks_mut(CHUNK).map(Some).collect()),
            None => (0., (0..count).map(|_| None).collect()),
        };
        // While the chunk is in the cache.
        let follow = |average: Option<&mut [f32]>, values: &[f32]| {
            if let Some(average) = average {
                update::average(average, values, weight);
            }
        };
        let chunks = values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(averages);
        match (self, slots) {
            (Update::Sgd(sgd), []) => chunks.for_each(|((values, gradient), average)| {
                sgd.step(values, gradient);
                follow(average, values);
            }),
            (Update::Sgd(sgd), [buffer]) => {
                chunks.zip(buffer.par_chunks_mut(CHUNK)).for_each(|(((values, gradient), average), buffer)| {
                    sgd.step_with_momentum(values, gradient, buffer);
                    follow(average, values);
                })
            }
            (Update::AdamW(adamw), [exp_avg, exp_avg_sq]) => chunks
                .zip(exp_avg.par_chunks_mut(CHUNK).zip(exp_avg_sq.par_chunks_mut(CHUNK)))
                .for_each(|(((values, gradient), average), (exp_avg, exp_avg_sq))| {
                    adamw.step(values, gradient, exp_avg, exp_avg_sq);
                    follow(average, values);
                }),
            _ => unreachable!("an optimizer has the slots that `slot_names` names"),
        }
    }
}

/// The global 2-norm of all gradients. Fixed chunks are added up in a fixed order in f64, so the
/// result does not depend on threads.
///
/// # Errors
/// Where a gradient is not `f32`.
pub fn global_norm(gradients: &[Tensor]) -> Result<f64> {
    let square_sum = |gradient: &Tensor| {
        values::read(gradient, |values| {
            let sums: Vec<Vec<f64>> =
                values.par_chunks(CHUNKS * CHUNK).map(|chunks| update::square_sums(chunks, CHUNK)).collect();
            sums.iter().flatten().sum::<f64>()
        })
    };
    let sums = gradients.par_iter().map(square_sum).collect::<candle_core::Result<Vec<f64>>>()?;
    Ok(sums.into_iter().fold(0., |total, sum| total + sum).sqrt())
}

/// `torch.nn.utils.clip_grad_norm_`: what gradients of norm `norm` are multiplied with.
pub fn clip_scale(norm: f64, clip_norm: Option<f64>) -> f64 {
    clip_norm.map_or(1., |limit| (limit / (norm + 1e-6)).min(1.))
}

/// timm's rule of what decays: neither biases nor the scales of norms, which have one dimension.
pub fn decays(name: &str, var: &Var) -> bool {
    var.rank() > 1 && !name.ends_with(".bias")
}

/// Learning-rate multipliers of layer-wise decay (BEiT; timm's `param_groups_layer_decay`): the head
/// keeps 1, each residual block before it is multiplied once more with `decay`, the stem comes last.
pub fn layer_scales<'a>(names: impl IntoIterator<Item = &'a str>, decay: f64) -> BTreeMap<&'a str, f64> {
    let places: BTreeMap<&str, Place> = names.into_iter().map(|name| (name, place(name))).collect();
    let blocks: std::collections::BTreeSet<Place> =
        places.values().copied().filter(|place| matches!(place, Place::Block(..))).collect();
    places
        .iter()
        .map(|(name, place)| {
            let behind = match place {
                Place::Stem => blocks.len() + 1,
                Place::Block(..) => blocks.range(place..).count(),
                Place::Head => 0,
            };
            (*name, decay.powi(i32::try_from(behind).expect("a network has fewer than 2^31 blocks")))
        })
        .collect()
}

/// Where a parameter sits in a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Before the first stage.
    Stem,
    /// Stage (from 1) and block (from 0): `layer1.0`.
    Block(usize, usize),
    /// Behind the last stage: neck and classifier.
    Head,
}

/// Reads the place off a name. The zoo names as torchvision: `layer{stage}.{block}.`, before it
/// `conv1`, `bn1` or `stem`.
pub fn place(name: &str) -> Place {
    let mut parts = name.split('.');
    let first = parts.next().unwrap_or_default();
    if let Some(stage) = first.strip_prefix("layer").and_then(|stage| stage.parse().ok()) {
        return Place::Block(stage, parts.next().and_then(|block| block.parse().ok()).unwrap_or(0));
    }
    if ["conv1", "bn1", "stem", "norm1"].contains(&first) { Place::Stem } else { Place::Head }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{AdamWOptions, EmaOptions, SgdOptions};

    /// A weight that decays and a bias that does not, after four steps with made-up gradients.
    fn run(options: OptimizerOptions, split: Option<u64>) -> Vec<f32> {
        let parameters = || {
            let parameter = |name: &str, values: &[f32], decays| Parameter {
                name: name.to_owned(),
                var: Var::new(values, &Device::Cpu).expect("on the CPU"),
                lr_scale: 1.,
                decays,
            };
            vec![parameter("w", &[0.5, -1.25, 2.0], true), parameter("b", &[0.1], false)]
        };
        let parameters = parameters();
        let mut optimizer = Optimizer::new(options.clone(), parameters.clone());
        let lr = options.lr();
        for t in 1..=4u64 {
            if split == Some(t) {
                let state = optimizer.state().expect("state");
                optimizer = Optimizer::new(options.clone(), parameters.clone());
                optimizer.restore(&state, t - 1).expect("the same parameters");
            }
            let t = t as f32;
            let w = Tensor::new(&[0.3 * t, -0.2, 0.05 * t * t], &Device::Cpu).expect("on the CPU");
            let b = Tensor::new(&[0.7 / t], &Device::Cpu).expect("on the CPU");
            optimizer.step(&[w, b], lr, 1., None).expect("shapes fit");
        }
        parameters.iter().flat_map(|p| p.var.to_vec1::<f32>().expect("one dimension")).collect()
    }

    fn sgd(momentum: f64, nesterov: bool) -> OptimizerOptions {
        OptimizerOptions::Sgd(SgdOptions {
            lr: 0.1,
            momentum,
            nesterov,
            weight_decay: 0.01,
            decay_norm_and_bias: false,
        })
    }

    fn adamw() -> OptimizerOptions {
        OptimizerOptions::AdamW(AdamWOptions {
            lr: 0.01,
            betas: [0.9, 0.99],
            eps: 1e-6,
            weight_decay: 0.05,
            decay_norm_and_bias: false,
        })
    }

    /// What torch 2.15's optimizers make of the same gradients.
    #[test]
    fn steps_equal_torch() {
        let cases = [
            (sgd(0.9, false), [-0.060_698_915, -1.058_002_5, 1.745_200_8, -0.297_413_3]),
            (sgd(0.9, true), [-0.305_594, -0.992_666_4, 1.613_045_2, -0.403_505_3]),
            (sgd(0., false), [0.198_302_82, -1.165_127_3, 1.842_112, -0.045_833_33]),
            (adamw(), [0.460_268_02, -1.207_531_8, 1.959_957_4, 0.063_656_99]),
        ];
        for (options, expected) in cases {
            let found = run(options.clone(), None);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 3e-7, "{options:?}: {found} instead of {expected}");
            }
        }
    }

    /// Averages that follow in the same pass have the bits of those that are moved afterwards.
    #[test]
    fn averages_follow() -> Result<()> {
        let ema = EmaOptions { decay: 0.9, warmup: true };
        for options in [sgd(0.9, true), sgd(0., false), adamw()] {
            let start: Vec<f32> = (0..2 * CHUNK + 5).map(|at| (at as f32 * 0.37).sin()).collect();
            let var = Var::new(&start[..], &Device::Cpu)?;
            let parameter = Parameter { name: "w".to_owned(), var: var.clone(), lr_scale: 1., decays: true };
            let mut optimizer = Optimizer::new(options, vec![parameter]);
            let mut averages = Ema::new(ema.clone(), &[("w".to_owned(), var.clone())], &[])?;
            let mut expected = start;
            for step in 0..4u64 {
                let gradient = (&var.detach() * 0.5)?;
                optimizer.step(&[gradient], 0.1, 1., Some(&mut averages))?;
                let (weight, _) = Ema::new(ema.clone(), &[], &[])?.follow(step)?;
                update::average(&mut expected, &var.to_vec1::<f32>()?, weight);
            }
            assert_eq!(averages.state()?["w"].to_vec1::<f32>()?, expected);
        }
        Ok(())
    }

    #[test]
    fn a_restored_state_goes_on_bit_for_bit() {
        for options in [sgd(0.9, true), sgd(0., false), adamw()] {
            for split in 1..=4 {
                assert_eq!(run(options.clone(), None), run(options.clone(), Some(split)));
            }
        }
    }

    #[test]
    fn a_state_of_other_parameters_is_refused() {
        let parameter = |name: &str, len: usize| Parameter {
            name: name.to_owned(),
            var: Var::zeros(len, candle_core::DType::F32, &Device::Cpu).expect("on the CPU"),
            lr_scale: 1.,
            decays: true,
        };
        let state = Optimizer::new(adamw(), vec![parameter("w", 3)]).state().expect("state");
        let mut optimizer = Optimizer::new(adamw(), vec![parameter("v", 3)]);
        let error = optimizer.restore(&state, 1).expect_err("another name").to_string();
        assert_eq!(error, "the checkpoint has no optimizer slot `exp_avg.v`");
        let mut optimizer = Optimizer::new(adamw(), vec![parameter("w", 4)]);
        let error = optimizer.restore(&state, 1).expect_err("another shape").to_string();
        assert_eq!(error, "the checkpoint's optimizer slot `exp_avg.w` has shape [3], not [4]");
    }

    #[test]
    fn clipping_limits_the_norm() -> Result<()> {
        let gradients =
            [Tensor::new(&[3f32, 0.], &Device::Cpu)?, Tensor::new(&[[0f32], [4.]], &Device::Cpu)?.t()?.contiguous()?];
        let norm = global_norm(&gradients)?;
        assert_eq!(norm, 5.);
        assert!((clip_scale(norm, Some(1.)) - 0.2).abs() < 1e-7);
        assert_eq!(clip_scale(norm, Some(10.)), 1.);
        assert_eq!(clip_scale(norm, None), 1.);
        Ok(())
    }

    #[test]
    fn layer_decay_counts_blocks_from_the_head() {
        let names =
            ["conv1.weight", "layer1.0.conv1.weight", "layer1.1.bn1.bias", "layer2.0.conv2.weight", "fc.weight"];
        let scales = layer_scales(names, 0.5);
        assert_eq!(names.map(|name| scales[name]), [0.0625, 0.125, 0.25, 0.5, 1.]);
    }
}
