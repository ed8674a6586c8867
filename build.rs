//! What this build was made from, for the registry: commit, dirty or not, compiler, features, Cargo.lock.

use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;

/// What makes a build another build: nothing outside these paths is compiled into it.
const INPUTS: [&str; 7] = ["src", "zoo", "resnet-macros", "migrations", "Cargo.toml", "Cargo.lock", "build.rs"];

fn main() {
    // A change of the inputs compiles this package again anyway, so looking again costs nothing; a commit changes
    // `logs/HEAD`. A path that is missing would make cargo run this every time.
    let git_paths = ["HEAD", "logs/HEAD"].map(|name| git(&["rev-parse", "--git-path", name]).unwrap_or_default());
    for path in INPUTS.iter().copied().chain(git_paths.iter().map(String::as_str)) {
        if !path.is_empty() && Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }

    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let mut status = vec!["--no-optional-locks", "status", "--porcelain", "--"];
    status.extend(INPUTS);
    let dirty = git(&status).is_some_and(|changes| !changes.is_empty());
    let lock = std::fs::read("Cargo.lock").map(|bytes| format!("{:x}", Sha256::digest(bytes)));
    let mut features: Vec<String> = std::env::vars()
        .filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase()))
        .filter(|name| name != "default")
        .collect();
    features.sort();

    println!("cargo::rustc-env=BUILD_GIT_SHA={commit}");
    println!("cargo::rustc-env=BUILD_DIRTY={dirty}");
    println!("cargo::rustc-env=BUILD_RUSTC={}", rustc_version().unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=BUILD_TARGET={}", std::env::var("TARGET").expect("cargo sets TARGET"));
    println!("cargo::rustc-env=BUILD_FEATURES={}", features.join(" "));
    println!("cargo::rustc-env=BUILD_LOCK_SHA256={}", lock.unwrap_or_else(|_| "unknown".to_owned()));
}

fn git(arguments: &[&str]) -> Option<String> {
    stdout(Command::new("git").args(arguments))
}

fn rustc_version() -> Option<String> {
    stdout(Command::new(std::env::var_os("RUSTC")?).arg("--version"))
}

fn stdout(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
