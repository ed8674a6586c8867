//! `resnet-zoo`: parse, dispatch, exit code.

use clap::Parser;
use resnet_zoo::cli::{Cli, report};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: zoo::ops::MapAllocator = zoo::ops::MapAllocator;

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
