use super::Checked;
use crate::ops::node::computing;
use candle_core::{D, Device, Result, Tensor};

pub(super) fn cross_entropy(logits: &Tensor, target: &Checked, smoothing: f64) -> Result<Tensor> {
    let (samples, classes) = logits.dims2()?;
    let logits = logits.to_dtype(computing(logits.dtype()))?;
    let target = match target {
        Checked::Classes(indices) => {
            let mut hot = vec![0f32; samples * classes];
            for (row, &class) in hot.chunks_exact_mut(classes).zip(indices) {
                row[class as usize] = 1.;
            }
            Tensor::from_vec(hot, (samples, classes), &Device::Cpu)?.to_device(logits.device())?
        }
        Checked::Probabilities(soft) => soft.clone(),
    };
    let target = target.to_dtype(logits.dtype())?.affine(1. - smoothing, smoothing / classes as f64)?;
    // The greatest logit is subtracted for the exponentials' sake; the loss does not depend on it.
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let log_probabilities = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    (target * log_probabilities)?.sum_all()? * (-1. / samples as f64)
}
