use super::error::Problem;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where the Hub is and how to talk to it. The environment is read by [`HubConfig::from_env`] alone, which
/// a program calls at its edge.
#[derive(Clone)]
pub struct HubConfig {
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// The folder of the cache, in huggingface_hub's layout.
    pub cache: PathBuf,
    /// Sent to the endpoint alone, over https or to this machine; never shown.
    pub token: Option<Token>,
    /// Use the cache alone.
    pub offline: bool,
    /// A proxy for everything that is sent.
    pub proxy: Option<ureq::Proxy>,
    /// How long to wait for what.
    pub limits: Limits,
}

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To resolve a name and connect.
    pub connect: Duration,
    /// From a request to the end of the response's headers.
    pub response: Duration,
    /// Over this time a transfer must bring `least_bytes`.
    pub window: Duration,
    /// Bytes in each `window`, below which a transfer counts as stalled.
    pub least_bytes: u64,
    /// Attempts after the first one.
    pub retries: u32,
    /// Before the first retry; doubled before each further one.
    pub backoff: Duration,
    /// The longest wait before a retry. A server that asks for more has failed.
    pub longest_wait: Duration,
    /// For another process that downloads the same file.
    pub lock: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(30),
            window: Duration::from_secs(30),
            least_bytes: 30 << 10,
            retries: 5,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            lock: Duration::from_secs(600),
        }
    }
}

impl HubConfig {
    /// The public Hub, anonymously.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        HubConfig {
            endpoint: "https://huggingface.co".into(),
            cache: cache.into(),
            token: None,
            offline: false,
            proxy: None,
            limits: Limits::default(),
        }
    }

    /// As huggingface_hub: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`, and the proxy variables.
    ///
    /// # Errors
    /// Where there is no home for the cache.
    pub fn from_env() -> Result<Self, Problem> {
        let mut config = Self::from_vars(|name| std::env::var_os(name), std::env::home_dir())?;
        config.proxy = ureq::Proxy::try_from_env();
        Ok(config)
    }

    /// [`HubConfig::from_env`], of variables that are given instead of read.
    ///
    /// # Errors
    /// Where there is no home for the cache.
    pub fn from_vars(var: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<Self, Problem> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
        let is_on = |name: &str| {
            text(name).is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str()))
        };
        let hub_home = var("HF_HOME").map(PathBuf::from).or_else(|| {
            let caches = var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let cache = cache.or_else(|| Some(hub_home.as_ref()?.join("hub")));
        let mut config = HubConfig::new(cache.ok_or_else(|| {
            Problem::Invalid("there is no home directory for the cache: set HF_HUB_CACHE to a folder".into())
        })?);
        if let Some(endpoint) = text("HF_ENDPOINT") {
            config.endpoint = endpoint.trim_end_matches('/').to_string();
        }
        config.offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
        config.token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).map(Token::new);
        if config.token.is_none() && !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            let file = var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(hub_home?.join("token")));
            let stored = file.and_then(|file| std::fs::read_to_string(file).ok());
            config.token = stored.filter(|token| !token.trim().is_empty()).map(Token::new);
        }
        Ok(config)
    }
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Endpoints and proxies can carry a password.
        f.debug_struct("HubConfig")
            .field("cache", &self.cache)
            .field("token", &self.token)
            .field("offline", &self.offline)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A secret that is sent and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token, without the line break that a file ends with.
    pub fn new(token: impl AsRef<str>) -> Self {
        Token(token.as_ref().trim().to_string())
    }

    /// Whether it can be sent as a header.
    pub(super) fn is_sendable(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }

    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The text without the token, should a server have sent it back.
    pub(super) fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "<token>")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<token>")
    }
}
