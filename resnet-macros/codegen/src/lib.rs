//! The spec compiler: YAML text -> checked [`Spec`](spec) -> Rust text. No I/O, no candle, so that
//! `zoo!` (inside rustc) and the `resnet-zoo` binary (`check`, `show --expand`, experiments) share it.

pub mod diagnostic;
pub mod fields;
pub mod yaml;
