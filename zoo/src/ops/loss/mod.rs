//! Cross-entropy with smoothed or soft targets.
//!
//! For logits `x[k]` and target probabilities `t[k]` of a sample, `loss = sum of t[k] (lse - x[k])` with
//! `lse = log sum exp x`, so `dx[k] = (sum t) softmax(x)[k] - t[k]`; the result is the mean over samples.
//! Smoothing by `s` replaces `t[k]` by `(1 - s) t[k] + s / K`: Szegedy et al., "Rethinking the Inception
//! Architecture for Computer Vision" (2015), section 7. As `torch.nn.functional.cross_entropy`.

mod cpu;
mod reference;

use crate::ops::node::in_main_memory;
use crate::ops::profile;
use candle_core::{DType, Result, Tensor, bail};

/// What the samples are.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// A class index each: `u32[N]`.
    Classes(&'a Tensor),
    /// A probability of each class, as mixup makes them: `f32[N, K]`.
    Probabilities(&'a Tensor),
}

/// The mean cross-entropy of `logits[N, K]`, a scalar, with label smoothing in `[0, 1)`. Half-precision
/// logits are computed in `f32`, which the loss then is. No gradient reaches the targets.
///
/// # Errors
/// Where shapes do not fit, there is no sample, or a class index is not below K.
pub fn cross_entropy(logits: &Tensor, target: Target, smoothing: f64) -> Result<Tensor> {
    let _timer = profile::forward("loss");
    let &[samples, classes] = logits.dims() else {
        bail!("cross_entropy takes logits [N, K], not {:?}", logits.shape());
    };
    if samples == 0 || classes == 0 {
        bail!("cross_entropy takes at least one sample and one class, not logits {:?}", logits.shape());
    }
    if !(0. ..1.).contains(&smoothing) {
        bail!("label smoothing is at least 0 and below 1, not {smoothing}");
    }
    let target = match target {
        Target::Classes(indices) => Checked::Classes(class_indices(indices, samples, classes)?),
        Target::Probabilities(soft) if soft.dims() == logits.dims() => Checked::Probabilities(soft.detach()),
        Target::Probabilities(soft) => {
            bail!("soft targets have the logits' shape {:?}, not {:?}", logits.shape(), soft.shape())
        }
    };
    let on_cpu = match &target {
        Checked::Classes(_) => in_main_memory(&[logits]),
        Checked::Probabilities(soft) => in_main_memory(&[logits, soft]),
    };
    if on_cpu {
        cpu::cross_entropy(logits, target, smoothing)
    } else {
        reference::cross_entropy(logits, &target, smoothing)
    }
}

/// Targets that fit the logits.
enum Checked {
    Classes(Vec<u32>),
    Probabilities(Tensor),
}

fn class_indices(indices: &Tensor, samples: usize, classes: usize) -> Result<Vec<u32>> {
    if indices.dims() != [samples] || indices.dtype() != DType::U32 {
        bail!("class targets are u32[{samples}], one index a sample, not {:?}{:?}", indices.dtype(), indices.shape());
    }
    let indices = indices.to_vec1::<u32>()?;
    if let Some((sample, class)) = indices.iter().enumerate().find(|&(_, &class)| class as usize >= classes) {
        bail!("sample {sample} has class {class}, but the logits have {classes} classes: 0 to {}", classes - 1);
    }
    Ok(indices)
}

#[cfg(test)]
mod tests;
