use crate::model::ModelCard;
use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::init::Init;
use candle_nn::var_builder::{SimpleBackend, VarBuilder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a model asks for: the names of its parameters and buffers, and their shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The shape of each tensor.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// The path of the classifier, where there is one: `fc`.
    pub classifier: Option<String>,
    /// The path of the first convolution: `conv1`.
    pub first_conv: String,
}

impl Target {
    /// Runs a model's constructor without giving it any memory for parameters, and notes what it asks for.
    ///
    /// # Errors
    /// What `build` returns.
    pub fn of<M>(card: &ModelCard, build: impl FnOnce(VarBuilder<'static>) -> Result<M>) -> Result<Self> {
        let shapes = Recorder::default();
        build(VarBuilder::from_backend(Box::new(shapes.clone()), DType::F32, Device::Cpu))?;
        let shapes = std::mem::take(&mut *shapes.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Target { shapes, classifier: card.classifier.map(String::from), first_conv: card.first_conv.to_string() })
    }

    /// Whether the name is of the classifier.
    pub(super) fn is_head(&self, name: &str) -> bool {
        self.classifier.as_deref().is_some_and(|path| is_under(name, path))
    }
}

/// Whether `name` is `path` or lies under it.
pub(super) fn is_under(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Gives every name a zero without memory of its own, and remembers what was asked for.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeMap<String, Vec<usize>>>>);

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let zero = Tensor::zeros((), dtype, device)?.broadcast_as(&shape)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), shape.into_dims());
        Ok(zero)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("a model must ask for `{name}` with its shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }
}
