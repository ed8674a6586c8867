//! `resnet-zoo`: parse, dispatch, exit code.

use clap::Parser;
use resnet_zoo::cli::{Cli, report};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: zoo::ops::LineAllocator = zoo::ops::LineAllocator;

fn main() -> ExitCode {
    zoo::ops::keep_freed_memory();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
