use super::Checked;
use crate::ops::node::{fill_rows, record, values};
use crate::ops::tasks;
use candle_core::{Device, Result, Tensor};

pub(super) fn cross_entropy(logits: &Tensor, target: Checked, smoothing: f64) -> Result<Tensor> {
    let logits = logits.contiguous()?;
    let (samples, classes) = logits.dims2()?;
    let target = match target {
        Checked::Probabilities(soft) => Checked::Probabilities(soft.contiguous()?),
        classes @ Checked::Classes(_) => classes,
    };
    let (loss, normalisers) =
        with_slices(&target, |target| Ok(forward(&values(&logits)?, &target, classes, smoothing)))?;
    let saved = logits.detach();
    record("loss", [&logits], vec![loss], (), move |gradient| {
        let share = f64::from(gradient.to_scalar::<f32>()?) / samples as f64;
        let dx = with_slices(&target, |target| {
            Ok(backward(&values(&saved)?, &target, classes, smoothing, &normalisers, share))
        })?;
        Ok([Some(Tensor::from_vec(dx, (samples, classes), &Device::Cpu)?)])
    })
}

/// [`Checked`] targets as the loops read them.
enum Target<'a> {
    Classes(&'a [u32]),
    Probabilities(&'a [f32]),
}

fn with_slices<R>(target: &Checked, run: impl FnOnce(Target) -> Result<R>) -> Result<R> {
    match target {
        Checked::Classes(indices) => run(Target::Classes(indices)),
        Checked::Probabilities(soft) => run(Target::Probabilities(&values(soft)?)),
    }
}

/// The loss, and each sample's `lse`.
fn forward(x: &[f32], target: &Target<'_>, classes: usize, smoothing: f64) -> (f32, Vec<f64>) {
    let of_sample = |i: usize| {
        let x = &x[i * classes..][..classes];
        let lse = log_sum_exp(x);
        let given = match *target {
            Target::Classes(indices) => lse - f64::from(x[indices[i] as usize]),
            Target::Probabilities(soft) => {
                let soft = &soft[i * classes..][..classes];
                x.iter().zip(soft).map(|(&x, &t)| f64::from(t) * (lse - f64::from(x))).sum()
            }
        };
        // Without smoothing no factor of zero must meet an infinite logit.
        if smoothing == 0. {
            return (given, lse);
        }
        let uniform = x.iter().map(|&x| lse - f64::from(x)).sum::<f64>() / classes as f64;
        ((1. - smoothing) * given + smoothing * uniform, lse)
    };
    let (losses, normalisers): (Vec<f64>, Vec<f64>) = tasks::map(x.len() / classes, of_sample).into_iter().unzip();
    ((losses.iter().sum::<f64>() / losses.len() as f64) as f32, normalisers)
}

/// The gradient of the logits, that of the loss being `share` times the number of samples.
fn backward(
    x: &[f32],
    target: &Target<'_>,
    classes: usize,
    smoothing: f64,
    normalisers: &[f64],
    share: f64,
) -> Vec<f32> {
    let uniform = smoothing / classes as f64;
    fill_rows(normalisers.len(), classes, x.len(), |i, dx| {
        let row = i * classes;
        let of_class = |k: usize| match *target {
            Target::Classes(indices) => f64::from(u8::from(indices[i] as usize == k)),
            Target::Probabilities(soft) => f64::from(soft[row + k]),
        };
        let total = (1. - smoothing) * (0..classes).map(of_class).sum::<f64>() + smoothing;
        for (k, dx) in dx.iter_mut().enumerate() {
            let probability = (f64::from(x[row + k]) - normalisers[i]).exp();
            *dx = (share * (total * probability - (1. - smoothing) * of_class(k) - uniform)) as f32;
        }
    })
}

fn log_sum_exp(x: &[f32]) -> f64 {
    let greatest = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    greatest + x.iter().map(|&x| (f64::from(x) - greatest).exp()).sum::<f64>().ln()
}
