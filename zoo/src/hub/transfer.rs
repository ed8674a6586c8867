use super::cache::digest;
use super::client::{Client, check_status, header};
use super::config::HubConfig;
use super::error::Problem;
use super::{CheckedFile, Progress, Remote, is_commit, is_sha256};
use hf_hub::{Repo, RepoType};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;
use ureq::Body;
use ureq::http::{Response, Uri};

/// The largest file that is downloaded. The largest ResNet has 0.4 GB.
const LARGEST_FILE: u64 = 8 << 30;
const MOST_REDIRECTS: usize = 5;

/// What to ask of which server.
pub(super) struct Transfer<'a> {
    client: Client<'a>,
    file: &'a CheckedFile,
    repository: Repo,
}

#[derive(Clone, Copy)]
enum Method {
    Head,
    Get,
}

impl<'a> Transfer<'a> {
    pub fn new(file: &'a CheckedFile, config: &'a HubConfig) -> Result<Self, Problem> {
        let client = Client::new(config)?;
        let repository = Repo::with_revision(file.repository.clone(), RepoType::Model, file.revision.clone());
        Ok(Transfer { client, file, repository })
    }

    /// Asks the Hub which commit, size and sha256 the file has, and holds them against the pins.
    pub fn describe(&self, progress: &mut dyn Progress) -> Result<Remote, Problem> {
        let response = self.client.with_retries(progress, |_| self.head())?;
        let commit = match header(&response, "x-repo-commit") {
            Some(commit) => commit.to_ascii_lowercase(),
            None => self.client.with_retries(progress, |_| self.commit_of_revision())?,
        };
        if !is_commit(&commit) {
            return Err(Problem::Protocol("it names no commit of 40 hexadecimal digits"));
        }
        if is_commit(&self.file.revision) && commit != self.file.revision {
            return Err(Problem::Protocol("it answers with another commit than the one that was asked for"));
        }
        let etag = header(&response, "x-linked-etag").or_else(|| header(&response, "etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
        // It becomes the name of a file.
        if etag.as_deref().is_some_and(|etag| !super::is_plain(etag) || etag.starts_with('.') || etag.len() > 128) {
            return Err(Problem::Protocol("its entity tag is no name for a file"));
        }
        let linked = etag.as_ref().map(|etag| etag.to_ascii_lowercase()).filter(|etag| is_sha256(etag));
        let sha256 = match (&self.file.sha256, linked) {
            (Some(pinned), Some(linked)) if *pinned != linked => {
                return Err(Problem::WrongHash { expected: pinned.clone(), got: linked });
            }
            (Some(pinned), _) => pinned.clone(),
            (None, Some(linked)) => linked,
            (None, None) => return Err(Problem::Unverifiable),
        };
        let size = match header(&response, "x-linked-size") {
            Some(size) => Some(size),
            None if response.status() == 200 => header(&response, "content-length"),
            None => None,
        };
        let size = size.map(|size| size.parse().map_err(|_| Problem::Protocol("its size is no number"))).transpose()?;
        let size = match (self.file.size, size) {
            (Some(expected), Some(got)) if expected != got => return Err(Problem::WrongSize { expected, got }),
            (pinned, told) => pinned.or(told),
        };
        if size.is_some_and(|size| size > LARGEST_FILE) {
            return Err(Problem::Protocol("the file has more than 8 GiB"));
        }
        Ok(Remote { commit, blob: etag.unwrap_or_else(|| sha256.clone()), sha256, size })
    }

    /// Brings the file to `path`, going on where an earlier attempt ended, and verifies it.
    pub fn download(&self, remote: &Remote, path: &Path, progress: &mut dyn Progress) -> Result<(), Problem> {
        self.client.with_retries(progress, |progress| self.attempt(remote, path, progress))
    }

    fn attempt(&self, remote: &Remote, path: &Path, progress: &mut dyn Progress) -> Result<(), Problem> {
        let io = |error| Problem::io(path, error);
        let resumed = self.transfer(remote, path, progress)?;
        let (size, sha256) = digest(path)?;
        let problem = if remote.size.is_some_and(|expected| expected != size) {
            Problem::WrongSize { expected: remote.size.unwrap_or(size), got: size }
        } else if sha256 != remote.sha256 {
            Problem::WrongHash { expected: remote.sha256.clone(), got: sha256 }
        } else {
            return Ok(());
        };
        fs::remove_file(path).map_err(io)?;
        // What was there before may have been of another file; a whole transfer was of this one.
        if resumed > 0 { self.attempt(remote, path, progress) } else { Err(problem) }
    }

    /// Fills `path` up; how many of its bytes were there before.
    fn transfer(&self, remote: &Remote, path: &Path, progress: &mut dyn Progress) -> Result<u64, Problem> {
        let io = |error| Problem::io(path, error);
        let mut file = File::options().create(true).append(true).open(path).map_err(io)?;
        let mut done = file.metadata().map_err(io)?.len();
        if remote.size.is_some_and(|size| done > size) || done > LARGEST_FILE {
            file.set_len(0).map_err(io)?;
            done = 0;
        }
        if done > 0 && remote.size == Some(done) {
            return Ok(done);
        }
        let mut response = self.follow(Method::Get, self.url(), Some(done).filter(|done| *done > 0))?;
        let resumes = done > 0 && response.status() == 206 && continues(&response, done, remote.size);
        if done > 0 && !resumes {
            // The server sends all of it, another part, or has no such part: from the start then.
            file.set_len(0).map_err(io)?;
            done = 0;
            if matches!(response.status().as_u16(), 206 | 416) {
                response = self.follow(Method::Get, self.url(), None)?;
            }
        }
        if !resumes && response.status() != 200 {
            check_status(&response)?;
            return Err(Problem::Status(response.status().as_u16()));
        }
        if is_web_page(&response) && !self.file.file.ends_with(".html") {
            return Err(Problem::WebPage);
        }
        let promised = header(&response, "content-length").and_then(|length| length.parse::<u64>().ok());
        if let (Some(promised), Some(expected)) = (promised.map(|length| length.saturating_add(done)), remote.size)
            && promised != expected
        {
            return Err(Problem::WrongSize { expected, got: promised });
        }
        progress.started(&self.file.file, done, remote.size);
        self.receive(response, &mut file, done, remote.size, path, progress)?;
        Ok(done)
    }

    fn receive(
        &self,
        response: Response<Body>,
        file: &mut File,
        mut done: u64,
        size: Option<u64>,
        path: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), Problem> {
        let limits = &self.client.config.limits;
        let most = size.unwrap_or(LARGEST_FILE);
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        let (mut window, mut in_window) = (Instant::now(), 0);
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read as u64,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(self.client.broken(ureq::Error::from(error))),
            };
            done += read;
            if done > most {
                return Err(Problem::WrongSize { expected: most, got: done });
            }
            file.write_all(&buffer[..read as usize]).map_err(|error| Problem::io(path, error))?;
            progress.advanced(read);
            in_window += read;
            if window.elapsed() >= limits.window {
                if in_window < limits.least_bytes {
                    return Err(Problem::Stalled { least: limits.least_bytes, window: limits.window });
                }
                (window, in_window) = (Instant::now(), 0);
            }
        }
        match size {
            Some(expected) if done < expected => Err(Problem::Truncated { got: done, expected }),
            _ => Ok(()),
        }
    }

    /// The first answer that says something of the file: the Hub's own, or its redirect to the storage.
    fn head(&self) -> Result<Response<Body>, Problem> {
        let mut url = self.url();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(Method::Head, &url, None)?;
            if !response.status().is_redirection() {
                check_status(&response)?;
                if is_web_page(&response) && header(&response, "x-repo-commit").is_none() {
                    return Err(Problem::WebPage);
                }
                return Ok(response);
            }
            if header(&response, "x-repo-commit").is_some() || header(&response, "x-linked-etag").is_some() {
                return Ok(response);
            }
            url = self.next(&url, &response)?;
        }
        Err(Problem::Redirect(format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn commit_of_revision(&self) -> Result<String, Problem> {
        const LONGEST: u64 = 4 << 20;
        #[derive(serde::Deserialize)]
        struct Info {
            sha: String,
        }
        let url = format!("{}/api/{}", self.client.base(), self.repository.api_url());
        let response = self.follow(Method::Get, url, None)?;
        check_status(&response)?;
        let info =
            response.into_body().into_with_config().limit(LONGEST).read_to_vec().map_err(|e| self.client.broken(e))?;
        let info: Info =
            serde_json::from_slice(&info).map_err(|_| Problem::Protocol("it does not say what the revision is"))?;
        Ok(info.sha.to_ascii_lowercase())
    }

    /// Sends a request and follows where it leads.
    fn follow(&self, method: Method, mut url: String, from: Option<u64>) -> Result<Response<Body>, Problem> {
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(method, &url, from)?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = self.next(&url, &response)?;
        }
        Err(Problem::Redirect(format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn send(&self, method: Method, url: &str, from: Option<u64>) -> Result<Response<Body>, Problem> {
        let mut request = match method {
            Method::Head => self.client.agent.head(url),
            Method::Get => self.client.agent.get(url),
        };
        if let Some(token) = self.client.token_for(url) {
            request = request.header("authorization", token.header());
        }
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| self.client.broken(error))
    }

    /// Where a redirect leads.
    fn next(&self, from: &str, response: &Response<Body>) -> Result<String, Problem> {
        let refused = |what: &str| Problem::Redirect(format!("a redirect {what}, which is not followed"));
        let location = header(response, "location").ok_or_else(|| refused("leads nowhere"))?;
        let from: Uri = from.parse().map_err(|_| refused("starts at no address"))?;
        let (scheme, authority) = (from.scheme_str().unwrap_or_default(), from.authority().map_or("", |a| a.as_str()));
        let next = if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else if location.contains("://") {
            location
        } else {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        let uri: Uri = next.parse().map_err(|_| refused("leads to no address"))?;
        match (from.scheme_str(), uri.scheme_str()) {
            (Some("https"), Some("http")) => Err(refused("leads from https to http")),
            (_, Some("http" | "https")) if uri.host().is_some() => Ok(next),
            _ => Err(refused("leads to something else than a web address")),
        }
    }

    /// The file at the revision.
    fn url(&self) -> String {
        let file = self.file.file.split('/').map(percent_encoded).collect::<Vec<_>>().join("/");
        format!("{}/{}/resolve/{}/{file}", self.client.base(), self.repository.url(), self.repository.url_revision())
    }
}

fn is_web_page(response: &Response<Body>) -> bool {
    header(response, "content-type").is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
}

/// Whether the part that came is the rest of the file: `bytes 5-9/10`.
fn continues(response: &Response<Body>, done: u64, size: Option<u64>) -> bool {
    let range = header(response, "content-range");
    let range = range.as_deref().and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
    range.is_some_and(|(part, total)| {
        let total: Option<u64> = total.parse().ok();
        part.split_once('-').is_some_and(|(start, _)| start.parse() == Ok(done))
            && (total.is_none() || size.is_none() || total == size)
    })
}

fn percent_encoded(segment: &str) -> String {
    let mut encoded = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::{HubFile, Token};
    use super::*;

    fn with_transfer<T>(endpoint: &str, test: impl FnOnce(&Transfer<'_>) -> T) -> T {
        let file = HubFile { repository: "o/n", revision: None, file: "a b/m.bin", sha256: None, size: None };
        let file = CheckedFile::new(&file).unwrap();
        let mut config = HubConfig::new("unused");
        config.endpoint = endpoint.into();
        config.token = Some(Token::new("hf_x"));
        test(&Transfer::new(&file, &config).unwrap())
    }

    #[test]
    fn redirects_are_resolved_and_never_leave_https() {
        let from = "https://hub.example:8443/o/n/resolve/main/m.bin";
        for (location, expected) in [
            ("/x/y?q=1", Some("https://hub.example:8443/x/y?q=1")),
            ("z.bin", Some("https://hub.example:8443/o/n/resolve/main/z.bin")),
            ("//cdn.example/z", Some("https://cdn.example/z")),
            ("https://cdn.example/z?sig=a", Some("https://cdn.example/z?sig=a")),
            ("http://cdn.example/z", None),
            ("ftp://cdn.example/z", None),
            ("file:///etc/passwd", None),
            ("https://", None),
        ] {
            let response = Response::builder().status(302).header("location", location);
            let response = response.body(Body::builder().data(Vec::new())).unwrap();
            let next = with_transfer("https://hub.example:8443", |transfer| transfer.next(from, &response));
            match expected {
                Some(expected) => assert_eq!(next.unwrap(), expected),
                None => assert!(matches!(next, Err(Problem::Redirect(_))), "{location}"),
            }
        }
    }

    #[test]
    fn the_token_goes_to_the_endpoint_over_https_or_to_this_machine() {
        for (endpoint, url, may) in [
            ("https://hub.example", "https://hub.example/o", true),
            ("https://hub.example", "https://HUB.example:443/o", true),
            ("https://hub.example", "https://hub.example:444/o", false),
            ("https://hub.example", "http://hub.example/o", false),
            ("https://hub.example", "https://hub.example.evil/o", false),
            ("https://hub.example", "https://cdn.hub.example/o", false),
            ("http://hub.example", "http://hub.example/o", false),
            ("http://127.0.0.1:99", "http://127.0.0.1:99/o", true),
            ("http://127.0.0.1:99", "http://127.0.0.1:98/o", false),
        ] {
            assert_eq!(
                with_transfer(endpoint, |transfer| transfer.client.token_for(url).is_some()),
                may,
                "{endpoint} {url}"
            );
        }
    }

    #[test]
    fn addresses_are_encoded() {
        let url = with_transfer("https://hub.example/", |transfer| transfer.url());
        assert_eq!(url, "https://hub.example/o/n/resolve/main/a%20b/m.bin");
    }
}
