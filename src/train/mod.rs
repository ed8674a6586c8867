//! The training loop and its parts.

pub mod ema;
pub mod event;
pub mod optimizer;
pub mod schedule;
pub mod values;
