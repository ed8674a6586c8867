//! One optimizer step.

use crate::error::{Error, Result};
use crate::train::ema::Ema;
use crate::train::optimizer::{Optimizer, Parameter, clip_scale, global_norm};
use crate::train::task::{Loss, Metrics};
use crate::train::values::{self, CHUNK};
use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;
use zoo::ops::profile::{self, Pass};
use zoo::random::{ForwardKey, with_forward_key};
use zoo::update;

/// What a step depends on beside its batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOptions {
    /// Learning rate.
    pub lr: f64,
    /// Longest gradient.
    pub clip_norm: Option<f64>,
    /// Under which the first forward pass drops out; each further one takes the next step's.
    pub forward_key: ForwardKey,
}

/// What a step learned.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The mean loss over all samples.
    pub loss: f64,
    /// Other means over all samples.
    pub metrics: Metrics,
    /// The gradient's global 2-norm before clipping; NaN where the loss was not finite.
    pub grad_norm: f64,
    /// How many samples.
    pub samples: usize,
}

impl StepReport {
    /// Whether loss and gradient were finite, and so the step was taken.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// Takes one optimizer step on the mean loss over the samples of `batches`, at least one, and has `averages` follow.
/// Where loss or gradient are not finite, both stay as they are.
///
/// # Errors
/// Those of `loss`, and where a parameter gets no gradient: its graph was cut.
pub fn train_step<B>(
    optimizer: &mut Optimizer,
    batches: &[B],
    loss: impl Fn(&B) -> Result<Loss>,
    options: &StepOptions,
    averages: Option<&mut Ema>,
) -> Result<StepReport> {
    let mut sum = Sum::default();
    for (pass, batch) in batches.iter().enumerate() {
        let key = ForwardKey { step: options.forward_key.step + pass as u64, ..options.forward_key };
        let loss = {
            let _timer = profile::start("other", Pass::Forward);
            with_forward_key(key, || loss(batch))?
        };
        let value = f64::from(loss.value.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        sum.add(value, &loss);
        if !value.is_finite() {
            return Ok(sum.report(f64::NAN));
        }
        sum.add_gradients(optimizer, &loss)?;
    }
    // Gradients are sums in units of the first batch's size: a single batch is not scaled at all.
    let mean = sum.first_samples as f64 / sum.samples as f64;
    let _timer = profile::start("optimizer", Pass::Update);
    let grad_norm = global_norm(&sum.gradients)? * mean;
    if grad_norm.is_finite() {
        optimizer.step(&sum.gradients, options.lr, mean * clip_scale(grad_norm, options.clip_norm), averages)?;
    }
    Ok(sum.report(grad_norm))
}

#[derive(Default)]
struct Sum {
    gradients: Vec<Tensor>,
    batches: usize,
    first_samples: usize,
    samples: usize,
    loss: f64,
    metrics: Metrics,
}

impl Sum {
    fn add(&mut self, value: f64, loss: &Loss) {
        if self.samples == 0 {
            self.first_samples = loss.samples;
            self.metrics = loss.metrics.iter().map(|(name, _)| (*name, 0.)).collect();
        }
        let weight = loss.samples as f64;
        self.samples += loss.samples;
        self.loss += value * weight;
        for ((_, sum), (_, value)) in self.metrics.iter_mut().zip(&loss.metrics) {
            *sum += value * weight;
        }
    }

    fn add_gradients(&mut self, optimizer: &Optimizer, loss: &Loss) -> Result<()> {
        let _timer = profile::start("other", Pass::Backward);
        let mut store = zoo::grad::backward(&loss.value)?;
        let gradient = |parameter: &Parameter| {
            store.remove(&parameter.var).ok_or_else(|| {
                Error::failed(format!(
                    "`{}` gets no gradient: the loss does not depend on it, so freeze it or mend the model",
                    parameter.name
                ))
            })
        };
        let gradients = optimizer.parameters().iter().map(gradient).collect::<Result<Vec<_>>>()?;
        let (batches, weight) = (self.batches, (loss.samples as f64 / self.first_samples as f64) as f32);
        self.batches += 1;
        if batches == 0 {
            self.gradients = gradients;
            return Ok(());
        }
        self.gradients.par_iter_mut().zip(&gradients).try_for_each(|(sum, gradient)| {
            // Two parameters may have got the same tensor of the first batch: what is added to is a copy.
            let own = Var::from_tensor(&if batches == 1 { sum.detach() } else { sum.clone() })?;
            values::change(&own, |sum| {
                values::read(gradient, |gradient| {
                    let chunks = sum.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
                    chunks.for_each(|(sum, gradient)| update::add(sum, gradient, weight));
                })
            })??;
            *sum = own.into_inner();
            Ok(())
        })
    }

    fn report(self, grad_norm: f64) -> StepReport {
        let samples = self.samples as f64;
        StepReport {
            loss: self.loss / samples,
            metrics: self.metrics.into_iter().map(|(name, sum)| (name, sum / samples)).collect(),
            grad_norm,
            samples: self.samples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{OptimizerOptions, SgdOptions};
    use candle_core::Device;

    /// Fits `w` to the mean of the samples: loss = mean (w - x)^2.
    fn squared_distance(w: &Var, batch: &[f32]) -> Result<Loss> {
        let x = Tensor::new(batch, &Device::Cpu)?;
        let value = w.as_tensor().broadcast_sub(&x)?.sqr()?.mean_all()?;
        Ok(Loss { value, samples: batch.len(), metrics: vec![("first", f64::from(batch[0]))] })
    }

    fn step(batches: &[Vec<f32>], clip_norm: Option<f64>) -> (f32, StepReport) {
        let w = Var::new(&[1f32], &Device::Cpu).expect("on the CPU");
        let options =
            SgdOptions { lr: 0.1, momentum: 0., nesterov: false, weight_decay: 0., decay_norm_and_bias: false };
        let parameter = Parameter { name: "w".to_owned(), var: w.clone(), lr_scale: 1., decays: true };
        let mut optimizer = Optimizer::new(OptimizerOptions::Sgd(options), vec![parameter]);
        let options = StepOptions { lr: 0.1, clip_norm, forward_key: ForwardKey::default() };
        let report = train_step(&mut optimizer, batches, |batch| squared_distance(&w, batch), &options, None);
        (w.to_vec1::<f32>().expect("one number")[0], report.expect("a step"))
    }

    #[test]
    fn accumulation_equals_one_big_batch() {
        let (big, whole) = step(&[vec![3., 5., 7., 9., 11., 13.]], None);
        for batches in [
            vec![vec![3., 5., 7.], vec![9., 11., 13.]],
            vec![vec![3., 5.], vec![7., 9.], vec![11., 13.]],
            vec![vec![3., 5., 7., 9.], vec![11., 13.]],
        ] {
            let (small, parts) = step(&batches, None);
            assert!((big - small).abs() < 1e-6, "{big} {small}");
            assert!((whole.loss - parts.loss).abs() < 1e-5 && (whole.grad_norm - parts.grad_norm).abs() < 1e-5);
            assert_eq!(parts.samples, 6);
        }
        let (_, parts) = step(&[vec![2.], vec![5., 5., 5.]], None);
        assert_eq!(parts.metrics, [("first", 4.25)]);
    }

    /// The ReLU of a sum has one gradient for both operands: sums of it must not be added up twice.
    #[test]
    fn gradients_that_share_memory_accumulate_apart() {
        let options =
            SgdOptions { lr: 1., momentum: 0., nesterov: false, weight_decay: 0., decay_norm_and_bias: false };
        let vars = [1f32, 2.].map(|value| Var::new(&[value], &Device::Cpu).expect("on the CPU"));
        let parameter = |(name, var): (&str, &Var)| Parameter {
            name: name.to_owned(),
            var: var.clone(),
            lr_scale: 1.,
            decays: true,
        };
        let parameters = ["a", "b"].into_iter().zip(&vars).map(parameter).collect();
        let mut optimizer = Optimizer::new(OptimizerOptions::Sgd(options), parameters);
        let loss = |factor: &f64| {
            let [a, b] = &vars;
            let value = (zoo::ops::add_activation(a, b, zoo::ops::Activation::Relu)?.sum_all()? * *factor)?;
            Ok(Loss { value, samples: 1, metrics: Vec::new() })
        };
        let options = StepOptions { lr: 0.5, clip_norm: None, forward_key: ForwardKey::default() };
        train_step(&mut optimizer, &[1., 2., 3., 6.], loss, &options, None).expect("a step");
        let found = vars.map(|var| var.to_vec1::<f32>().expect("one number")[0]);
        assert_eq!(found, [1. - 0.5 * 3., 2. - 0.5 * 3.]);
    }

    #[test]
    fn clipping_shortens_the_step() {
        let (free, report) = step(&[vec![5., 5.]], None);
        assert_eq!((free, report.grad_norm), (1.8, 8.));
        let (clipped, report) = step(&[vec![5., 5.]], Some(2.));
        assert!((clipped - 1.2).abs() < 1e-6 && report.grad_norm == 8.);
    }

    #[test]
    fn a_loss_that_is_not_finite_takes_no_step() {
        for bad in [f32::NAN, f32::INFINITY] {
            let (w, report) = step(&[vec![3.], vec![bad]], None);
            assert_eq!(w, 1.);
            assert!(!report.is_finite());
        }
    }

    #[test]
    fn a_parameter_without_a_gradient_is_an_error() {
        let w = Var::new(&[1f32], &Device::Cpu).expect("on the CPU");
        let options =
            SgdOptions { lr: 0.1, momentum: 0., nesterov: false, weight_decay: 0., decay_norm_and_bias: false };
        let lost = Parameter { name: "lost".to_owned(), var: w.clone(), lr_scale: 1., decays: true };
        let mut optimizer = Optimizer::new(OptimizerOptions::Sgd(options), vec![lost]);
        let options = StepOptions { lr: 0.1, clip_norm: None, forward_key: ForwardKey::default() };
        let other = Var::new(&[1f32], &Device::Cpu).expect("on the CPU");
        let error = train_step(&mut optimizer, &[vec![1f32]], |batch| squared_distance(&other, batch), &options, None);
        assert!(error.expect_err("no gradient").to_string().starts_with("`lost` gets no gradient"));
    }
}
