//! `resnet-zoo`: parse, dispatch, exit code.

fn main() {}
