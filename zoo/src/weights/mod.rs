//! Checkpoint files become a model's first values.
//!
//! [`adapt`] finds the names that a model asks for ([`Target`]) among a file's tensors, adapts what [`Adapt`]
//! allows, and refuses everything else that does not fit.

mod adapt;
mod names;
mod target;

pub use adapt::{Adapt, Inflate, Mismatch, adapt};
pub use target::Target;
