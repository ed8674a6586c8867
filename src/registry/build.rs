//! What this program was built from.

/// Facts that `build.rs` found. Two runs of the same recipe are comparable bit for bit where these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// The package's version.
    pub version: &'static str,
    /// The git commit, or `unknown`.
    pub git_sha: &'static str,
    /// Whether sources differed from that commit.
    pub dirty: bool,
    /// sha256 of the sources: equal ones compile to the same program, whatever git says.
    pub sources_sha256: &'static str,
    /// `rustc 1.95.0 (59807616e 2026-04-14)`.
    pub rustc: &'static str,
    /// `x86_64-unknown-linux-gnu`.
    pub target: &'static str,
    /// Cargo features, sorted, without `default`.
    pub features: &'static str,
    /// sha256 of Cargo.lock, or `unknown`.
    pub lock_sha256: &'static str,
}

impl Build {
    /// This very build.
    pub const CURRENT: Build = Build {
        version: env!("CARGO_PKG_VERSION"),
        git_sha: env!("BUILD_GIT_SHA"),
        dirty: matches!(env!("BUILD_DIRTY").as_bytes(), b"true"),
        sources_sha256: env!("BUILD_SOURCES_SHA256"),
        rustc: env!("BUILD_RUSTC"),
        target: env!("BUILD_TARGET"),
        features: env!("BUILD_FEATURES"),
        lock_sha256: env!("BUILD_LOCK_SHA256"),
    };
}
