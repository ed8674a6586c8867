//! The ways in which a command can go wrong, and their exit codes.

use resnet_codegen::diagnostic::{Diagnostics, Sources};

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given is wrong: a file, an option, a name. Says what, where and how to fix it. Exit code 2.
    #[error("{0}")]
    Input(String),
    /// The work itself failed: a non-finite loss, a corrupt image. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The registry's disk is full, read-only or broken, or its server out of reach: what was acknowledged is intact, and the run can be resumed
    /// once the disk is well. Exit code 74, `EX_IOERR` of sysexits(3).
    #[error("{0}")]
    Disk(String),
    /// A signal asked the run to stop; it stopped after a step and a checkpoint. Exit code 128 + signal.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// 2 (Ctrl-C) or 15.
        signal: i32,
    },
}

/// The result of most functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Input`].
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input(message.into())
    }

    /// An [`Error::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Error::Failed(message.into())
    }

    /// An [`Error::Disk`].
    pub fn disk(message: impl Into<String>) -> Self {
        Error::Disk(message.into())
    }

    /// Diagnostics with carets, as an [`Error::Input`].
    pub fn diagnostics(diagnostics: &Diagnostics, sources: &Sources) -> Self {
        Error::Input(diagnostics.render(sources))
    }

    /// The exit code that `main` should return.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 2,
            Error::Failed(_) => 1,
            Error::Disk(_) => 74,
            Error::Interrupted { signal } => u8::try_from(128 + signal).unwrap_or(1),
        }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Failed(error.to_string())
    }
}
