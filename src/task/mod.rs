//! What can be learned.

mod classify;
mod freeze;

pub use classify::{Classify, Fetch, Fetched, NotFetched, WeightsOrigin, evaluate, loss};
pub use freeze::freeze;
