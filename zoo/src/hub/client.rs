//! What a download and an upload share: the agent, the token's rules, waits between attempts, errors in words of ours.

use super::Progress;
use super::config::{HubConfig, Token};
use super::error::Problem;
use std::time::Duration;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

/// Talks to the Hub, and to where it sends us.
pub(super) struct Client<'a> {
    pub agent: Agent,
    pub config: &'a HubConfig,
    endpoint: Uri,
}

impl<'a> Client<'a> {
    /// Checks the endpoint and the token; asks nobody.
    pub fn new(config: &'a HubConfig) -> Result<Self, Problem> {
        let endpoint: Option<Uri> = config.endpoint.parse().ok();
        let endpoint = endpoint
            .filter(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")))
            .filter(|uri| uri.query().is_none() && !uri.authority().is_some_and(|host| host.as_str().contains('@')))
            .ok_or_else(|| Problem::Invalid("the hub's endpoint must be https://HOST, without a password".into()))?;
        if config.token.as_ref().is_some_and(|token| !token.is_sendable()) {
            return Err(Problem::Invalid("the token must be one word of ASCII: see HF_TOKEN".into()));
        }
        let limits = &config.limits;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_send_request(Some(limits.response))
            .timeout_recv_response(Some(limits.response))
            .timeout_per_read(Some(limits.window))
            .timeout_per_write(Some(limits.window))
            .proxy(config.proxy.clone())
            .user_agent(concat!("resnet-zoo/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Ok(Client { agent: agent.into(), config, endpoint })
    }

    /// The endpoint without a slash at its end.
    pub fn base(&self) -> &str {
        self.config.endpoint.trim_end_matches('/')
    }

    /// The token is for the endpoint alone, and not in the clear through a network.
    pub fn token_for(&self, url: &str) -> Option<&Token> {
        let url = url.parse::<Uri>().ok()?;
        let is_here = matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let may = origin(&url) == origin(&self.endpoint) && (url.scheme_str() == Some("https") || is_here);
        self.config.token.as_ref().filter(|_| may)
    }

    /// Tries again what may work later.
    pub fn with_retries<T>(
        &self,
        progress: &mut dyn Progress,
        mut attempt: impl FnMut(&mut dyn Progress) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let limits = &self.config.limits;
        let mut backoff = limits.backoff;
        for _ in 0..limits.retries {
            let problem = match attempt(progress) {
                Err(problem) if problem.is_transient() => problem,
                done => return done,
            };
            let wait = match problem {
                Problem::RateLimited(Some(asked)) if asked > limits.longest_wait => return Err(problem),
                Problem::RateLimited(Some(asked)) => asked,
                _ => backoff.min(limits.longest_wait),
            };
            progress.retrying(&problem, wait);
            std::thread::sleep(wait);
            backoff = backoff.saturating_mul(2);
        }
        attempt(progress)
    }

    /// A fault of the connection, in words of ours: a server may have sent anything.
    pub fn broken(&self, error: ureq::Error) -> Problem {
        let host = self.endpoint.host().unwrap_or_default();
        match error {
            ureq::Error::Timeout(phase) => Problem::Timeout(format!("{phase}")),
            ureq::Error::HostNotFound => Problem::NoHost(host.to_owned()),
            // The standard library gives a failed look-up no kind of its own.
            ureq::Error::Io(error) if error.to_string().contains("lookup address") => Problem::NoHost(host.to_owned()),
            ureq::Error::Io(error) if matches!(error.kind(), std::io::ErrorKind::TimedOut) => {
                Problem::Timeout("the server".into())
            }
            ureq::Error::Io(error) => Problem::Connection(format!("the connection to {host} broke: {}", error.kind())),
            ureq::Error::ConnectionFailed => Problem::Connection(format!("cannot connect to {host}")),
            ureq::Error::Rustls(error) => {
                let reason = error.to_string();
                let reason = self.config.token.as_ref().map_or_else(|| reason.clone(), |token| token.scrub(&reason));
                Problem::Connection(format!("cannot connect to {host} safely: {reason}"))
            }
            ureq::Error::LargeResponseHeader(..) => Problem::Protocol("its headers are too long"),
            ureq::Error::BodyExceedsLimit(_) => Problem::Protocol("its answer is too long"),
            ureq::Error::Protocol(_) | ureq::Error::Http(_) => Problem::Protocol("it does not speak HTTP"),
            _ => Problem::Connection(format!("the connection to {host} failed")),
        }
    }
}

/// An error where a status says that reading failed.
pub(super) fn check_status(response: &Response<Body>) -> Result<(), Problem> {
    let code = header(response, "x-error-code");
    match (response.status().as_u16(), code.as_deref()) {
        (200..=299, _) => Ok(()),
        (404, Some("RevisionNotFound")) => Err(Problem::NotFound("the repository has no such revision")),
        (404, Some("EntryNotFound")) => Err(Problem::NotFound("the repository has no such file")),
        (404, Some("RepoNotFound")) | (401, Some("RepoNotFound")) => {
            Err(Problem::NotFound("there is no such repository, or it needs a token (set HF_TOKEN)"))
        }
        (404, _) => Err(Problem::NotFound("there is no such repository, revision or file")),
        (401, _) => Err(Problem::Unauthorized),
        (403, _) => Err(Problem::Forbidden),
        (429, _) => {
            // A date, the other form that is allowed, counts as none: it would need both clocks to agree.
            let seconds = header(response, "retry-after").and_then(|after| after.trim().parse().ok());
            Err(Problem::RateLimited(seconds.map(Duration::from_secs)))
        }
        (status @ (408 | 500..=599), _) => Err(Problem::Server(status)),
        (status, _) => Err(Problem::Status(status)),
    }
}

/// A header's text.
pub(super) fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(String::from)
}

fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), Some(uri.port_u16().unwrap_or(default)))
}
