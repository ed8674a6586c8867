use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a file could not be had, or not be published. No text of a server is in it, and no secret.
#[derive(Debug)]
pub struct HubError {
    /// `OWNER/NAME/FILE`, or `OWNER/NAME` of what is published.
    pub file: String,
    /// What went wrong.
    pub problem: Problem,
}

/// What can go wrong between here and the Hub.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// What was asked for, or how, cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// Offline, and not in the cache.
    #[error("not in the cache {}, and this is offline: fetch it once with a network", .0.display())]
    NotCached(PathBuf),
    /// Offline, and what is in the cache is not what it was.
    #[error("{} is damaged, and this is offline: remove it and fetch it with a network", .0.display())]
    DamagedCache(PathBuf),
    /// Status 401.
    #[error("the hub answers 401: it does not exist or needs a token (set HF_TOKEN)")]
    Unauthorized,
    /// Status 403.
    #[error("the hub answers 403: the token may not read it (accept its terms on its page, or set another HF_TOKEN)")]
    Forbidden,
    /// Status 401 to what is written.
    #[error("the hub answers 401: the token is wrong or has ended (set HF_TOKEN to one that may write)")]
    TokenRefused,
    /// Status 403 to what is written.
    #[error("the hub answers 403: the token may not write there (it needs write access; set another HF_TOKEN)")]
    MayNotWrite,
    /// Status 409 or 412.
    #[error("the hub answers 409: somebody else changes the repository; try again")]
    Conflict,
    /// Status 413.
    #[error("the hub answers 413: a file is too large for it")]
    TooLarge,
    /// Status 404, with what does not exist.
    #[error("the hub answers 404: {0}")]
    NotFound(&'static str),
    /// Status 429.
    #[error("the hub answers 429, too many requests{}", wait_hint(.0))]
    RateLimited(Option<Duration>),
    /// Status 5xx or 408.
    #[error("the hub answers {0}: it has a fault, try again later")]
    Server(u16),
    /// Another status that is no answer.
    #[error("the hub answers with the status {0}, which makes no sense here")]
    Status(u16),
    /// The hub's name leads to no address. Waiting helps nobody who is offline.
    #[error("cannot find the host {0}: is this machine offline?")]
    NoHost(String),
    /// The connection failed or broke.
    #[error("{0}")]
    Connection(String),
    /// Nothing came for too long.
    #[error("timed out: {0}")]
    Timeout(String),
    /// Too little came.
    #[error("the transfer stalled: fewer than {least} bytes in {} s", window.as_secs_f32())]
    Stalled {
        /// Bytes that should have come at least.
        least: u64,
        /// In this time.
        window: Duration,
    },
    /// The body ended early.
    #[error("the transfer ended after {got} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes of the file.
        expected: u64,
    },
    /// A web page came instead of the file.
    #[error("a web page came instead of the file: does this network ask for a login?")]
    WebPage,
    /// The size is not what it should be.
    #[error("it has {got} bytes, not the {expected} that it should have")]
    WrongSize {
        /// From the pin or the Hub.
        expected: u64,
        /// What there is.
        got: u64,
    },
    /// The content is not what it should be.
    #[error("its sha256 is {got}, not {expected} as it should be: nothing of it was used")]
    WrongHash {
        /// From the pin or the Hub.
        expected: String,
        /// What there is.
        got: String,
    },
    /// Neither the spec nor the Hub says what the content should be.
    #[error("the hub names no sha256 of it: pin one in the spec")]
    Unverifiable,
    /// A redirect that is not followed.
    #[error("{0}")]
    Redirect(String),
    /// The server does not behave as the Hub.
    #[error("the server does not answer as the hub: {0}")]
    Protocol(&'static str),
    /// Another process downloads the same file.
    #[error("another process holds {}: wait for it, or end it", .0.display())]
    Locked(PathBuf),
    /// The cache cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Problem {
    /// Whether the Hub could not be reached or could not serve: what `if_unavailable` is about. A file that
    /// is wrong, forbidden or does not exist is another matter.
    pub fn is_unavailable(&self) -> bool {
        self.is_transient() || matches!(self, Problem::NotCached(_) | Problem::WebPage | Problem::NoHost(_))
    }

    /// Whether trying again can help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self,
            Problem::RateLimited(_)
                | Problem::Server(_)
                | Problem::Connection(_)
                | Problem::Timeout(_)
                | Problem::Stalled { .. }
                | Problem::Truncated { .. }
        )
    }

    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Problem::Io { path: path.to_path_buf(), error }
    }
}

fn wait_hint(wait: &Option<Duration>) -> String {
    match wait {
        Some(wait) => format!(": wait {} s", wait.as_secs()),
        None => ": try again later".into(),
    }
}

impl std::error::Error for HubError {}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.escape_debug(), self.problem)
    }
}
