//! What can be learned.

mod classify;
mod freeze;
mod spec;

pub use classify::{Classify, Fetch, Fetched, NotFetched, Prediction, WeightsOrigin, evaluate, loss, of_file};
pub use freeze::freeze;
pub use spec::{compile_files, summary_at, summary_of};
