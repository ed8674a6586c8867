//! Where a model errs: which classes it takes for which, and its worst mistakes.

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::task::Prediction;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use resnet_pixels::Resampling;
use resnet_pixels::encode::png;
use resnet_pixels::resize::resize;
use serde::Serialize;
use std::collections::BTreeMap;

/// Mistakes that are shown.
const MISTAKES: usize = 24;
/// The longer side of a picture, in pixels.
const PICTURE: usize = 128;

/// What a model does on samples of known classes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Evaluation {
    pub samples: usize,
    pub correct: usize,
    /// `[class, predicted class, samples]`, where there are any.
    pub confusion: Vec<(u32, u32, usize)>,
    /// By class.
    pub classes: Vec<ClassFigures>,
    /// The surest of them first.
    pub mistakes: Vec<Mistake>,
}

/// How well one class is told from the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct ClassFigures {
    /// Samples of this class.
    pub samples: usize,
    /// Of what was taken for this class, the part that is; `None` where nothing was.
    pub precision: Option<f64>,
    /// Of this class, the part that was found; `None` where there are no samples.
    pub recall: Option<f64>,
    /// Their harmonic mean.
    pub f1: Option<f64>,
}

/// A sample that was taken for another class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Mistake {
    /// Its path, or `val/17`.
    pub id: String,
    pub class: u32,
    pub predicted: u32,
    /// Of the predicted class.
    pub probability: f32,
    /// Of its own.
    pub class_probability: f32,
    /// A PNG as a `data:` address.
    pub picture: String,
}

impl Evaluation {
    /// What predictions say of the samples of `dataset`.
    ///
    /// # Errors
    /// Where a picture can no longer be read.
    pub fn new(predictions: &[Prediction], dataset: &dyn Dataset) -> Result<Self> {
        let mut confusion: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        for prediction in predictions {
            *confusion.entry((prediction.label, prediction.class)).or_default() += 1;
        }
        let mut wrong: Vec<&Prediction> = predictions.iter().filter(|p| p.label != p.class).collect();
        // The surer it was, the worse; of equals the first one, so that a report comes out the same again.
        wrong.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.index.cmp(&b.index)));
        let mistakes = wrong.into_iter().take(MISTAKES).map(|prediction| mistake(prediction, dataset));
        Ok(Evaluation {
            samples: predictions.len(),
            correct: predictions.iter().filter(|p| p.label == p.class).count(),
            classes: figures(&confusion, dataset.classes().len()),
            mistakes: mistakes.collect::<Result<_>>()?,
            confusion: confusion.into_iter().map(|((class, predicted), count)| (class, predicted, count)).collect(),
        })
    }
}

fn figures(confusion: &BTreeMap<(u32, u32), usize>, classes: usize) -> Vec<ClassFigures> {
    let sum = |of: &dyn Fn(&(u32, u32)) -> bool| -> usize {
        confusion.iter().filter(|(pair, _)| of(pair)).map(|(_, count)| count).sum()
    };
    let class = |class: usize| {
        let class = class as u32;
        let samples = sum(&|(label, _)| *label == class);
        let taken = sum(&|(_, predicted)| *predicted == class);
        let right = confusion.get(&(class, class)).copied().unwrap_or(0);
        let part = |whole: usize| (whole > 0).then(|| right as f64 / whole as f64);
        // 2PR / (P + R), written so that it is there where either is.
        let f1 = (samples + taken > 0).then(|| 2. * right as f64 / (samples + taken) as f64);
        ClassFigures { samples, precision: part(taken), recall: part(samples), f1 }
    };
    (0..classes).map(class).collect()
}

fn mistake(prediction: &Prediction, dataset: &dyn Dataset) -> Result<Mistake> {
    let frames = dataset.frames(prediction.index)?;
    // Of a clip the frame in the middle.
    let image = &frames[frames.len() / 2];
    let longer = image.height.max(image.width);
    let side = |length: usize| (length * PICTURE / longer).max(1);
    let small = if longer > PICTURE {
        &resize(image, (side(image.height), side(image.width)), Resampling::Bilinear)
    } else {
        image
    };
    let bytes = png(small).map_err(|why| Error::failed(format!("{}: {why}", dataset.id(prediction.index))))?;
    Ok(Mistake {
        id: dataset.id(prediction.index),
        class: prediction.label,
        predicted: prediction.class,
        probability: prediction.probability,
        class_probability: prediction.label_probability,
        picture: format!("data:image/png;base64,{}", STANDARD.encode(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_confusion_matrix() {
        // Rows are classes, columns predictions: [[3, 1, 0], [2, 4, 0], [0, 0, 0]].
        let confusion = BTreeMap::from([((0, 0), 3), ((0, 1), 1), ((1, 0), 2), ((1, 1), 4)]);
        let figures = figures(&confusion, 3);
        assert_eq!(
            figures[0],
            ClassFigures { samples: 4, precision: Some(0.6), recall: Some(0.75), f1: Some(6. / 9.) }
        );
        assert_eq!(
            figures[1],
            ClassFigures { samples: 6, precision: Some(0.8), recall: Some(4. / 6.), f1: Some(8. / 11.) }
        );
        assert_eq!(figures[2], ClassFigures { samples: 0, precision: None, recall: None, f1: None });
    }
}
