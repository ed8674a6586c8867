//! Filters in the order in which the engine reads them.

use super::walk::Reduction;
use crate::ops::Isa;
use crate::ops::number::Plain;
use crate::ops::parallel::{Aligned, with_scratch_of};
use candle_core::{Tensor, TensorId};
use std::any::TypeId;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A convolution's filters in the engine's order, kept from one call to the next, where the weight is constant.
/// That order depends on the shape of the input too, so at times there are two of them. A clone begins empty.
#[derive(Default)]
pub struct KeptFilters(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// What they were made of, and when.
    source: Option<(TensorId, u64)>,
    forms: Vec<(Form, Arc<Aligned>)>,
}

/// Filters that are kept, of no other weight than the one that they are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FiltersOf<'a>(&'a KeptFilters);

/// So often constant weights were overwritten.
static OVERWRITTEN: AtomicU64 = AtomicU64::new(0);

/// To be called by whoever overwrites tensors that are not `Var`s: all [`KeptFilters`] are made anew.
pub(crate) fn forget_kept_filters() {
    OVERWRITTEN.fetch_add(1, Ordering::AcqRel);
}

/// What the order of the filters depends on besides the weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// Packed for the direct sum: as which numbers of panels, and for which reduction.
    Direct(Isa, TypeId, Reduction),
    /// Transformed for Winograd's: into which numbers of panels, how many points along an axis, and the panels of a chunk.
    Winograd(Isa, TypeId, usize, usize),
}

impl KeptFilters {
    /// Those of `weight`, without what was made of another one. None of a `Var`, which may change from one call to the next.
    pub(crate) fn of(&self, weight: &Tensor) -> Option<FiltersOf<'_>> {
        if weight.track_op() {
            return None;
        }
        let source = Some((weight.id(), OVERWRITTEN.load(Ordering::Acquire)));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.source != source {
            *kept = Kept { source, forms: Vec::new() };
        }
        Some(FiltersOf(self))
    }

    fn get<P: Plain>(&self, form: Form, len: usize, make: impl FnOnce(&mut [P])) -> Arc<Aligned> {
        let find = |kept: &Kept| kept.forms.iter().find(|(known, _)| *known == form).map(|(_, f)| Arc::clone(f));
        let before = find(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(filters) = before {
            return filters;
        }
        // Not under the lock: `make` waits for tasks, and a thread that waits may begin another convolution.
        let mut filters = Aligned::zeros::<P>(len);
        make(&mut filters.numbers_mut()[..len]);
        let filters = Arc::new(filters);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Inputs of ever new shapes must not fill the memory.
        kept.forms.retain(|(known, _)| std::mem::discriminant(known) != std::mem::discriminant(&form));
        kept.forms.push((form, Arc::clone(&filters)));
        filters
    }
}

impl Clone for KeptFilters {
    fn clone(&self) -> Self {
        KeptFilters::default()
    }
}

impl fmt::Debug for KeptFilters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(kept.forms.iter().map(|(form, _)| form)).finish()
    }
}

/// A weight, and where its filters are kept.
#[derive(Clone, Copy)]
pub(in super::super) struct Weight<'a> {
    /// `[O, C / G, ..]`.
    pub values: &'a [f32],
    pub kept: Option<FiltersOf<'a>>,
}

impl<'a> Weight<'a> {
    /// A weight whose filters are put in order at each call.
    pub fn new(values: &'a [f32]) -> Self {
        Weight { values, kept: None }
    }

    /// Runs `f` with the `len` numbers that `make` writes, or wrote before.
    pub(super) fn with_filters<P: Plain, R>(
        &self,
        form: impl FnOnce() -> Form,
        len: usize,
        make: impl FnOnce(&mut [P]),
        f: impl FnOnce(&[P]) -> R,
    ) -> R {
        match self.kept {
            Some(FiltersOf(kept)) => f(&kept.get(form(), len, make).numbers()[..len]),
            None => with_scratch_of(len, |filters| {
                make(filters);
                f(filters)
            }),
        }
    }
}
