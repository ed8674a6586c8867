//! What the loop needs to know about what is learned.

use crate::error::Result;
use candle_core::Tensor;
use zoo::params::Params;

/// Something that can be learned: a model, its data, a loss and what is measured.
pub trait Task: Sync {
    /// What goes through the network together.
    type Batch;

    /// The model's parameters.
    fn params(&self) -> &Params;

    /// Training and validation samples.
    fn samples(&self) -> (usize, usize);

    /// Multiply-accumulates of one sample in the model, where they are known.
    fn macs(&self) -> Option<u64> {
        None
    }

    /// Training batches of an epoch, at least 1.
    fn batches_per_epoch(&self) -> usize;

    /// sha256 of the data, hexadecimal: a run goes on with the data that it began with.
    fn data_sha256(&self) -> &str;

    /// What a person should know before training begins.
    fn warnings(&self) -> &[String];

    /// The training batches of an epoch from number `first` on, in their order.
    ///
    /// # Errors
    /// Where data cannot be loaded.
    fn batches(&self, epoch: u64, first: usize) -> Result<impl Iterator<Item = Result<Self::Batch>>>;

    /// A training forward pass.
    ///
    /// # Errors
    /// Where the batch does not fit the model.
    fn loss(&self, batch: &Self::Batch) -> Result<Loss>;

    /// Measures the model on the validation data, without a graph; `None` where `proceed`, which is told
    /// the samples done so far, says no.
    ///
    /// # Errors
    /// Where data cannot be loaded, and those of `proceed`.
    fn evaluate(&self, proceed: &mut dyn FnMut(usize) -> Result<bool>) -> Result<Option<Metrics>>;
}

/// Means over samples, by name without a prefix: `loss`, `top1`.
pub type Metrics = Vec<(&'static str, f64)>;

/// What a training forward pass gives.
#[derive(Debug)]
pub struct Loss {
    /// The mean loss over the samples: a scalar with its graph.
    pub value: Tensor,
    /// How many samples.
    pub samples: usize,
    /// What else was measured.
    pub metrics: Metrics,
}
