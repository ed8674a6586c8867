//! The training loop and its parts.

pub mod event;
