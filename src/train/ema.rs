//! Exponential moving averages of parameters and running statistics (timm's `ModelEmaV3`).

use crate::error::{Error, Result};
use crate::experiment::EmaOptions;
use crate::train::values;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;
use zoo::update;

/// The averages, one for each variable.
#[derive(Debug)]
pub struct Ema {
    options: EmaOptions,
    averages: Vec<(String, Var, Vec<f32>)>,
    /// How many of them are of what an optimizer trains; those come first.
    trained: usize,
}

impl Ema {
    /// Averages that start at the present values of what an optimizer trains, in its order, and of `buffers`.
    ///
    /// # Errors
    /// Where a variable is not `f32`.
    pub fn new(options: EmaOptions, trained: &[(String, Var)], buffers: &[(String, Var)]) -> Result<Self> {
        let average = |(name, var): &(String, Var)| -> Result<_> {
            Ok((name.clone(), var.clone(), values::read(var, <[f32]>::to_vec)?))
        };
        let averages = trained.iter().chain(buffers).map(average).collect::<Result<_>>()?;
        Ok(Ema { options, averages, trained: trained.len() })
    }

    /// Moves the averages of the buffers after optimizer step `step`, from 0, and lends those of what is trained: the
    /// optimizer moves them in the same pass as the parameters, with the weight that comes with them.
    ///
    /// # Errors
    /// Where a variable cannot be read.
    pub fn follow(&mut self, step: u64) -> Result<(f32, impl Iterator<Item = &mut [f32]>)> {
        let weight = (1. - decay_at(&self.options, step)) as f32;
        let (trained, buffers) = self.averages.split_at_mut(self.trained);
        for (_, var, average) in buffers {
            values::read(var, |values| update::average(average, values, weight))?;
        }
        Ok((weight, trained.iter_mut().map(|(_, _, average)| average.as_mut_slice())))
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
        let options = EmaOptions { decay: 0.75, warmup: false };
        // As a buffer it is moved at once, as a trained parameter by whoever trains it.
        for (trained, buffers) in [(&[][..], &variables[..]), (&variables, &[])] {
            var.set(&Tensor::new(&[0f32, 8.], &Device::Cpu)?)?;
            let mut ema = Ema::new(options.clone(), trained, buffers)?;
            var.set(&Tensor::new(&[4f32, 0.], &Device::Cpu)?)?;
            let (weight, lent) = ema.follow(0)?;
            lent.for_each(|average| update::average(average, &[4., 0.], weight));
            let lent = ema.with_averages(|| Ok(var.to_vec1::<f32>()?))?;
            assert_eq!((lent, var.to_vec1::<f32>()?), (vec![1., 6.], vec![4., 0.]));
            let mut other = Ema::new(options.clone(), trained, buffers)?;
            other.restore(&ema.state()?)?;
            assert_eq!(other.averages[0].2, [1., 6.]);
        }
        Ok(())
    }

    #[test]
    fn an_error_inside_gives_the_values_back() -> Result<()> {
        let var = Var::new(&[1f32], &Device::Cpu)?;
        let mut ema = Ema::new(EmaOptions { decay: 0.5, warmup: false }, &[("w".to_owned(), var.clone())], &[])?;
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
