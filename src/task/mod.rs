//! What can be learned.

mod classify;
mod freeze;

pub use classify::{Classify, Fetch, Fetched, NotFetched, Prediction, WeightsOrigin, evaluate, loss, of_file};
pub use freeze::freeze;
