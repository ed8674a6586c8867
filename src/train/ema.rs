//! Exponential moving averages of parameters and running statistics (timm's `ModelEmaV3`).

use crate::error::{Error, Result};
use crate::experiment::EmaOptions;
use crate::train::values::{self, CHUNK};
use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;
use std::collections::BTreeMap;
use zoo::update;

/// The averages, one for each variable.
#[derive(Debug)]
pub struct Ema {
    options: EmaOptions,
    averages: Vec<(String, Var, Vec<f32>)>,
}

impl Ema {
    /// Averages that start at the variables' present values.
    ///
    /// # Errors
    /// Where a variable is not `f32`.
    pub fn new(options: EmaOptions, variables: &[(String, Var)]) -> Result<Self> {
        let average = |(name, var): &(String, Var)| -> Result<_> {
            Ok((name.clone(), var.clone(), values::read(var, <[f32]>::to_vec)?))
        };
        Ok(Ema { options, averages: variables.iter().map(average).collect::<Result<_>>()? })
    }

    /// Moves the averages towards the variables after optimizer step `step`, from 0.
    ///
    /// # Errors
    /// Where a variable cannot be read.
    pub fn update(&mut self, step: u64) -> Result<()> {
        let weight = (1. - decay_at(&self.options, step)) as f32;
        self.averages.par_iter_mut().try_for_each(|(_, var, average)| {
            values::read(var, |values| {
                let chunks = average.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
                chunks.for_each(|(average, values)| update::average(average, values, weight));
            })
        })?;
        Ok(())
    }

    /// Runs `f` while the variables hold the averages.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn with_averages<R>(&mut self, f: impl FnOnce() -> Result<R>) -> Result<R> {
        self.swap()?;
        let result = f();
        self.swap()?;
        result
    }

    fn swap(&mut self) -> Result<()> {
        for (_, var, average) in &mut self.averages {
            values::change(var, |values| values.swap_with_slice(average))?;
        }
        Ok(())
    }

    /// The averages by their variables' names and in their shapes.
    ///
    /// # Errors
    /// Where a tensor cannot be made.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let tensor = |(name, var, average): &(String, Var, Vec<f32>)| -> Result<_> {
            Ok((name.clone(), Tensor::from_slice(average, var.shape(), &Device::Cpu)?))
        };
        self.averages.iter().map(tensor).collect()
    }

    /// Goes on from a [`state`](Self::state).
    ///
    /// # Errors
    /// Where an average is missing or has another shape: the state belongs to another experiment.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, var, average) in &mut self.averages {
            let saved = state.get(name).filter(|saved| saved.shape() == var.shape()).ok_or_else(|| {
                Error::input(format!("the checkpoint has no average of `{name}` with shape {:?}", var.dims()))
            })?;
            *average = values::read(saved, <[f32]>::to_vec)?;
        }
        Ok(())
    }
}

/// With warm-up the decay rises as timm's `1 - (1 + step)^(-2/3)`, so that the first, poor values
/// are forgotten.
fn decay_at(options: &EmaOptions, step: u64) -> f64 {
    if options.warmup { options.decay.min(1. - (1. + step as f64).powf(-2. / 3.)) } else { options.decay }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_are_lent_and_restored() -> Result<()> {
        let var = Var::new(&[0f32, 8.], &Device::Cpu)?;
        let variables = [("w".to_owned(), var.clone())];
        let mut ema = Ema::new(EmaOptions { decay: 0.75, warmup: false }, &variables)?;
        var.set(&Tensor::new(&[4f32, 0.], &Device::Cpu)?)?;
        ema.update(0)?;
        let lent = ema.with_averages(|| Ok(var.to_vec1::<f32>()?))?;
        assert_eq!((lent, var.to_vec1::<f32>()?), (vec![1., 6.], vec![4., 0.]));
        let mut other = Ema::new(EmaOptions { decay: 0.75, warmup: false }, &variables)?;
        other.restore(&ema.state()?)?;
        assert_eq!(other.averages[0].2, [1., 6.]);
        Ok(())
    }

    #[test]
    fn an_error_inside_gives_the_values_back() -> Result<()> {
        let var = Var::new(&[1f32], &Device::Cpu)?;
        let mut ema = Ema::new(EmaOptions { decay: 0.5, warmup: false }, &[("w".to_owned(), var.clone())])?;
        var.set(&Tensor::new(&[3f32], &Device::Cpu)?)?;
        assert!(ema.with_averages(|| Err::<(), _>(Error::failed("no"))).is_err());
        assert_eq!(var.to_vec1::<f32>()?, [3.]);
        Ok(())
    }

    #[test]
    fn warm_up_forgets_the_start() {
        let options = EmaOptions { decay: 0.99, warmup: true };
        assert_eq!(decay_at(&options, 0), 0.);
        assert!((decay_at(&options, 7) - 0.75).abs() < 1e-12);
        assert_eq!(decay_at(&options, 1_000_000), 0.99);
    }
}
