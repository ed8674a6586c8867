//! The training loop and its parts.

pub mod checkpoint;
pub mod ema;
pub mod event;
pub mod exact;
mod fit;
pub mod optimizer;
pub mod schedule;
pub mod step;
pub mod task;
pub mod values;

pub use checkpoint::Checkpoint;
pub use fit::{Outcome, fit};
pub use step::train_step;
