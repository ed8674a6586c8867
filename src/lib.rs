//! Fine-tune the zoo's models from an experiment file, and record every run.

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "registry")]
pub mod compare;
pub mod data;
pub mod error;
pub mod experiment;
#[cfg(feature = "registry")]
pub mod registry;
pub mod sweep;
pub mod task;
pub mod train;
