//! What this build was made from, for the registry: commit, dirty or not, sources, compiler, features, Cargo.lock.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
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
    println!("cargo::rustc-env=BUILD_SOURCES_SHA256={}", sources_sha256());
    println!("cargo::rustc-env=BUILD_RUSTC={}", rustc_version().unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=BUILD_TARGET={}", std::env::var("TARGET").expect("cargo sets TARGET"));
    println!("cargo::rustc-env=BUILD_FEATURES={}", features.join(" "));
    println!("cargo::rustc-env=BUILD_LOCK_SHA256={}", lock.unwrap_or_else(|_| "unknown".to_owned()));
}

/// sha256 over every file of the inputs: path, length and content, in the order of the paths. It tells two builds apart
/// where a commit cannot: both with changes, or without git.
fn sources_sha256() -> String {
    fn collect(path: &Path, files: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(path) else {
            return files.extend(path.is_file().then(|| path.to_path_buf()));
        };
        entries.filter_map(Result::ok).for_each(|entry| collect(&entry.path(), files));
    }
    let mut files = Vec::new();
    INPUTS.iter().for_each(|path| collect(Path::new(path), &mut files));
    files.sort();
    let mut hash = Sha256::new();
    for path in files {
        let bytes = std::fs::read(&path).unwrap_or_default();
        hash.update(path.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    format!("{:x}", hash.finalize())
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
