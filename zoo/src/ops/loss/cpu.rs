use super::Checked;
use crate::ops::node::{fill_rows, record1, values};
use candle_core::{Device, Result, Tensor};

pub(super) fn cross_entropy(logits: &Tensor, target: Checked, smoothing: f64) -> Result<Tensor> {
    let logits = logits.contiguous()?;
    let (samples, classes) = logits.dims2()?;
    let target = match target {
        Checked::Probabilities(soft) => Checked::Probabilities(soft.contiguous()?),
        classes @ Checked::Classes(_) => classes,
    };

    let (loss, normalisers) = forward(&values(&logits)?, &target, classes, smoothing)?;
    let saved = logits.detach();
    record1("cross_entropy", &logits, vec![loss], (), move |_, gradient| {
        let x = values(&saved)?;
        let x = &*x;
        let soft = match &target {
            Checked::Classes(_) => None,
            Checked::Probabilities(soft) => Some(values(soft)?),
        };
        let soft = soft.as_deref();
        let share = f64::from(gradient.to_scalar::<f32>()?) / samples as f64;
        let uniform = smoothing / classes as f64;
        let dx = fill_rows(samples, classes, |i, dx| {
            let x = &x[i * classes..][..classes];
            let of_class = |k: usize| match (&target, soft) {
                (Checked::Classes(indices), _) => f64::from(u8::from(indices[i] as usize == k)),
                (_, Some(soft)) => f64::from(soft[i * classes + k]),
                (Checked::Probabilities(_), None) => unreachable!("soft targets were read above"),
            };
            let total = (1. - smoothing) * (0..classes).map(of_class).sum::<f64>() + smoothing;
            for (k, dx) in dx.iter_mut().enumerate() {
                let probability = (f64::from(x[k]) - normalisers[i]).exp();
                *dx = (share * (total * probability - (1. - smoothing) * of_class(k) - uniform)) as f32;
            }
        });
        Ok([Some(Tensor::from_vec(dx, (samples, classes), &Device::Cpu)?)])
    })
}

/// The loss, and each sample's `lse`.
fn forward(x: &[f32], target: &Checked, classes: usize, smoothing: f64) -> Result<(f32, Vec<f64>)> {
    let soft = match target {
        Checked::Classes(_) => None,
        Checked::Probabilities(soft) => Some(values(soft)?),
    };
    let mut loss = 0f64;
    let mut normalisers = Vec::with_capacity(x.len() / classes);
    for (i, x) in x.chunks_exact(classes).enumerate() {
        let lse = log_sum_exp(x);
        let hard = match (target, &soft) {
            (Checked::Classes(indices), _) => lse - f64::from(x[indices[i] as usize]),
            (_, soft) => {
                let soft = &soft.as_ref().expect("read above")[i * classes..][..classes];
                x.iter().zip(soft).map(|(&x, &t)| f64::from(t) * (lse - f64::from(x))).sum()
            }
        };
        // Without smoothing no factor of zero must meet an infinite logit.
        loss += if smoothing > 0. {
            let uniform = x.iter().map(|&x| lse - f64::from(x)).sum::<f64>() / classes as f64;
            (1. - smoothing) * hard + smoothing * uniform
        } else {
            hard
        };
        normalisers.push(lse);
    }
    Ok(((loss / normalisers.len() as f64) as f32, normalisers))
}

fn log_sum_exp(x: &[f32]) -> f64 {
    let greatest = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    greatest + x.iter().map(|&x| (f64::from(x) - greatest).exp()).sum::<f64>().ln()
}
