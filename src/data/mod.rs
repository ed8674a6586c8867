//! Datasets, transforms, and the loader that makes batches of them.

pub mod options;
