//! A commit of files to a repository of the Hub, by the calls that Python's huggingface_hub makes: `repos/create`,
//! `preupload` (which files are large), git-LFS's batch API for those, `commit`.
//!
//! ```text
//! POST /api/repos/create               409: it is there
//! POST /api/models/R/preupload/main    each file: "lfs" or "regular", and what the repository has of it
//! POST /R.git/info/lfs/objects/batch   where the content of large files goes; nowhere where the Hub has it
//! PUT  ..                              to the storage, whole or in parts, without the token
//! POST /api/models/R/commit/main       small files themselves, large ones by their sha256
//! ```

use super::client::{Client, header};
use super::config::{HubConfig, Token};
use super::error::{HubError, Problem};
use super::{Progress, is_commit, is_plain};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::Duration;
use ureq::http::{Response, Uri};
use ureq::{Body, SendBody};

/// The longest answer that is read.
const LONGEST_ANSWER: u64 = 4 << 20;
/// Bytes by which the Hub guesses what a file is.
const SAMPLE: usize = 512;
const LFS: &str = "application/vnd.git-lfs+json";
const JSON: &str = "application/json";

/// A repository to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination<'a> {
    /// `OWNER/NAME`.
    pub repository: &'a str,
    /// Whether nobody else may see it. One that is public already is refused.
    pub private: bool,
    /// The commit's message.
    pub message: &'a str,
}

/// A file to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFile<'a> {
    /// Its path in the repository.
    pub path: &'a str,
    /// What is in it.
    pub content: &'a [u8],
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The repository's page.
    pub url: String,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// Whether the repository was made for it.
    pub created: bool,
    /// Bytes of large files that were sent; less than their sizes where the Hub had them.
    pub sent: u64,
}

/// Writes `files` to the branch `main` in one commit, and makes the repository where there is none. Files that are not
/// named stay. Content that the Hub has is not sent again.
///
/// # Errors
/// Where there is no token, where it may not, and where the Hub cannot be reached. What was sent by then is not sent again
/// the next time, and the branch is as it was.
pub fn publish(
    destination: &Destination<'_>,
    files: &[NewFile<'_>],
    config: &HubConfig,
    progress: &mut dyn Progress,
) -> Result<Published, HubError> {
    Upload::new(destination, config)
        .and_then(|upload| upload.publish(files, progress))
        .map_err(|problem| HubError { file: destination.repository.to_owned(), problem })
}

struct Upload<'a> {
    client: Client<'a>,
    to: &'a Destination<'a>,
}

impl<'a> Upload<'a> {
    fn new(to: &'a Destination<'a>, config: &'a HubConfig) -> Result<Self, Problem> {
        let is_name = to.repository.split('/').count() == 2 && to.repository.split('/').all(is_plain);
        if !is_name || to.repository.contains("--") || to.repository.contains("..") {
            let shown = to.repository.escape_debug();
            return Err(Problem::Invalid(format!("the repository must be OWNER/NAME, not `{shown}`")));
        }
        if config.offline {
            return Err(Problem::Invalid("publishing needs the network: unset HF_HUB_OFFLINE".into()));
        }
        let client = Client::new(config)?;
        if client.token_for(&config.endpoint).is_none() {
            return Err(Problem::Invalid(match config.token {
                None => "publishing needs a token that may write: set HF_TOKEN, or log in with `hf auth login`".into(),
                Some(_) => "the token is not sent in the clear: the hub's endpoint must begin with https://".into(),
            }));
        }
        Ok(Upload { client, to })
    }

    fn publish(&self, files: &[NewFile<'_>], progress: &mut dyn Progress) -> Result<Published, Problem> {
        let created = self.create(progress)?;
        let known = self.known(files, progress)?;
        let mut large = Vec::new();
        for (file, known) in files.iter().zip(&known) {
            // Empty content cannot be stored as large.
            if known.upload_mode == UploadMode::Lfs && !file.content.is_empty() {
                large.push(Large { file, sha256: sha256(file.content) });
            }
        }
        let missing: Vec<&Large<'_>> =
            large.iter().filter(|large| !known.iter().any(|known| known.has(large))).collect();
        let mut sent = 0;
        if !missing.is_empty() {
            for object in self.batch(&missing, progress)? {
                let file = missing.iter().find(|large| large.sha256 == object.oid);
                let file = file.ok_or(Problem::Protocol("it asks for a file that was not offered"))?;
                sent += self.store(file, object, progress)?;
            }
        }
        let commit = self.commit(files, &large, progress)?;
        progress.finished();
        Ok(Published { url: format!("{}/{}", self.client.base(), self.to.repository), commit, created, sent })
    }

    /// Makes the repository; whether there was none.
    fn create(&self, progress: &mut dyn Progress) -> Result<bool, Problem> {
        let (owner, name) = self.to.repository.split_once('/').expect("checked when this was made");
        let mut body = json!({"type": "model", "name": name, "organization": owner});
        if self.to.private {
            body["visibility"] = json!("private");
        }
        let url = format!("{}/api/repos/create", self.client.base());
        let answer = self.client.with_retries(progress, |_| {
            let response = self.post(&url, JSON, body.to_string().as_bytes())?;
            check_written(&response)
        });
        match answer {
            Ok(()) => Ok(true),
            // It is there, or the token may write to what is there, but make nothing new.
            Err(problem @ (Problem::Conflict | Problem::MayNotWrite | Problem::TokenRefused)) => {
                #[derive(Deserialize)]
                struct Info {
                    private: bool,
                }
                let url = format!("{}/api/models/{}", self.client.base(), self.to.repository);
                let info = self.client.with_retries(progress, |_| {
                    let response = self.get(&url)?;
                    check_written(&response)?;
                    self.read::<Info>(response)
                });
                match (info, problem) {
                    (Ok(info), _) if self.to.private && !info.private => Err(Problem::Invalid(
                        "the repository exists and is public: name another, or publish without --private".into(),
                    )),
                    (Ok(_), _) => Ok(false),
                    (Err(error), Problem::Conflict) => Err(error),
                    (Err(_), problem) => Err(problem),
                }
            }
            Err(problem) => Err(problem),
        }
    }

    /// How each file is to be written, and what the branch has of it, in the order of the files.
    fn known(&self, files: &[NewFile<'_>], progress: &mut dyn Progress) -> Result<Vec<Known>, Problem> {
        #[derive(Deserialize)]
        struct Answer {
            files: Vec<Known>,
        }
        let sample = |content: &[u8]| STANDARD.encode(&content[..content.len().min(SAMPLE)]);
        let described: Vec<Value> = files
            .iter()
            .map(|file| json!({"path": file.path, "size": file.content.len(), "sample": sample(file.content)}))
            .collect();
        let url = format!("{}/api/models/{}/preupload/main", self.client.base(), self.to.repository);
        let answer: Answer = self.ask(&url, JSON, json!({"files": described}).to_string().as_bytes(), progress)?;
        let mut known: BTreeMap<String, Known> =
            answer.files.into_iter().map(|known| (known.path.clone(), known)).collect();
        let of_file = |file: &NewFile<'_>| match known.remove(file.path) {
            Some(known) if known.should_ignore => {
                Err(Problem::Invalid(format!("the repository's .gitignore leaves {} out: mend it first", file.path)))
            }
            Some(known) => Ok(known),
            None => Err(Problem::Protocol("it does not say how a file is to be sent")),
        };
        files.iter().map(of_file).collect()
    }

    /// Where the content of large files goes.
    fn batch(&self, large: &[&Large<'_>], progress: &mut dyn Progress) -> Result<Vec<Object>, Problem> {
        #[derive(Deserialize)]
        struct Answer {
            objects: Vec<Object>,
        }
        let objects: Vec<Value> =
            large.iter().map(|large| json!({"oid": large.sha256, "size": large.file.content.len()})).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256", "objects": objects,
            "ref": {"name": "main"},
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.client.base(), self.to.repository);
        let answer: Answer = self.ask(&url, LFS, body.to_string().as_bytes(), progress)?;
        Ok(answer.objects)
    }

    /// Brings a large file's content to the storage; how many bytes that took.
    fn store(&self, large: &Large<'_>, object: Object, progress: &mut dyn Progress) -> Result<u64, Problem> {
        if let Some(error) = object.error {
            return Err(written_problem(error.code, None));
        }
        // No action: the Hub has it.
        let Some(Actions { upload, verify }) = object.actions else { return Ok(0) };
        let content = large.file.content;
        let header = upload.header.unwrap_or_default();
        let target = self.address(&upload.href)?;
        match header.get("chunk_size") {
            None => {
                self.client.with_retries(progress, |progress| {
                    progress.started(large.file.path, 0, Some(content.len() as u64));
                    self.put(&target, content, progress).map(drop)
                })?;
            }
            Some(size) => {
                let etags = self.put_parts(large, size, &header, progress)?;
                let parts =
                    (1..).zip(etags).map(|(number, etag): (u64, _)| json!({"partNumber": number, "etag": etag}));
                let body = json!({"oid": large.sha256, "parts": parts.collect::<Vec<_>>()}).to_string();
                self.client
                    .with_retries(progress, |_| check_written(&self.post_as(None, &target, LFS, body.as_bytes())?))?;
            }
        }
        if let Some(verify) = verify {
            let url = self.address(&verify.href)?;
            let body = json!({"oid": large.sha256, "size": content.len()}).to_string();
            self.client.with_retries(progress, |_| check_written(&self.post(&url, JSON, body.as_bytes())?))?;
        }
        Ok(content.len() as u64)
    }

    /// Sends a file in parts, each to an address of its own; their entity tags, in order.
    fn put_parts(
        &self,
        large: &Large<'_>,
        size: &Value,
        header: &BTreeMap<String, Value>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<String>, Problem> {
        let malformed = || Problem::Protocol("it does not say where the parts of a file go");
        let size = size.as_u64().or_else(|| size.as_str()?.parse().ok());
        let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0).ok_or_else(malformed)?;
        let content = large.file.content;
        let mut etags = Vec::new();
        for (number, part) in (1_usize..).zip(content.chunks(size)) {
            // Keys are numbers, at times with zeros before them.
            let href = header.iter().find(|(key, _)| key.parse() == Ok(number)).and_then(|(_, href)| href.as_str());
            let url = self.address(href.ok_or_else(malformed)?)?;
            let etag = self.client.with_retries(progress, |progress| {
                progress.started(large.file.path, ((number - 1) * size) as u64, Some(content.len() as u64));
                let response = self.put(&url, part, progress)?;
                self::header(&response, "etag").ok_or(Problem::Protocol("it gives a part no entity tag"))
            })?;
            etags.push(etag);
        }
        let addresses = header.keys().filter(|key| key.parse::<usize>().is_ok()).count();
        if addresses == etags.len() { Ok(etags) } else { Err(malformed()) }
    }

    /// Makes the commit; its id.
    fn commit(
        &self,
        files: &[NewFile<'_>],
        large: &[Large<'_>],
        progress: &mut dyn Progress,
    ) -> Result<String, Problem> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "commitOid")]
            commit: String,
        }
        let mut lines = vec![json!({"key": "header", "value": {"summary": self.to.message, "description": ""}})];
        lines.extend(files.iter().map(|file| match large.iter().find(|large| large.file.path == file.path) {
            Some(Large { sha256, .. }) => json!({"key": "lfsFile", "value": {
                "path": file.path, "algo": "sha256", "oid": sha256, "size": file.content.len(),
            }}),
            None => json!({"key": "file", "value": {
                "path": file.path, "content": STANDARD.encode(file.content), "encoding": "base64",
            }}),
        }));
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let url = format!("{}/api/models/{}/commit/main", self.client.base(), self.to.repository);
        // Should an answer get lost, the second commit writes what the first one wrote.
        let Answer { commit } = self.ask(&url, "application/x-ndjson", body.as_bytes(), progress)?;
        let commit = commit.to_ascii_lowercase();
        if is_commit(&commit) {
            Ok(commit)
        } else {
            Err(Problem::Protocol("it names no commit of 40 hexadecimal digits"))
        }
    }

    /// Posts something and reads the answer.
    fn ask<T: DeserializeOwned>(
        &self,
        url: &str,
        kind: &str,
        body: &[u8],
        progress: &mut dyn Progress,
    ) -> Result<T, Problem> {
        self.client.with_retries(progress, |_| {
            let response = self.post(url, kind, body)?;
            check_written(&response)?;
            self.read(response)
        })
    }

    fn read<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T, Problem> {
        let body = response.into_body().into_with_config().limit(LONGEST_ANSWER).read_to_vec();
        let body = body.map_err(|error| self.client.broken(error))?;
        serde_json::from_slice(&body).map_err(|_| Problem::Protocol("its answer is not what huggingface_hub expects"))
    }

    fn get(&self, url: &str) -> Result<Response<Body>, Problem> {
        let mut request = self.client.agent.get(url);
        if let Some(token) = self.client.token_for(url) {
            request = request.header("authorization", token.header());
        }
        request.call().map_err(|error| self.client.broken(error))
    }

    fn post(&self, url: &str, kind: &str, body: &[u8]) -> Result<Response<Body>, Problem> {
        self.post_as(self.client.token_for(url), url, kind, body)
    }

    fn post_as(&self, token: Option<&Token>, url: &str, kind: &str, body: &[u8]) -> Result<Response<Body>, Problem> {
        let accept = if kind == LFS { LFS } else { JSON };
        let mut request = self.client.agent.post(url).header("content-type", kind).header("accept", accept);
        if let Some(token) = token {
            request = request.header("authorization", token.header());
        }
        request.send(body).map_err(|error| self.client.broken(error))
    }

    /// Puts content at an address that was signed for it: that takes no token.
    fn put(&self, url: &str, content: &[u8], progress: &mut dyn Progress) -> Result<Response<Body>, Problem> {
        let mut body = Watched { content, progress };
        let request = self.client.agent.put(url).header("content-length", content.len().to_string());
        let response = request.send(SendBody::from_reader(&mut body)).map_err(|error| self.client.broken(error))?;
        check_written(&response)?;
        Ok(response)
    }

    /// An address that the Hub gave, which a mirror may have passed on as it was; never one in the clear where the Hub
    /// itself is not.
    fn address(&self, href: &str) -> Result<String, Problem> {
        const HUB: &str = "https://huggingface.co";
        let href = match href.strip_prefix(HUB) {
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.client.base()),
            _ => href.to_owned(),
        };
        let refused = |what: &str| Problem::Redirect(format!("a file is to be sent to {what}, where it does not go"));
        let uri: Uri = href.parse().map_err(|_| refused("no address"))?;
        let is_safe = uri.scheme_str() == Some("https");
        match uri.scheme_str() {
            Some("http") if self.client.base().starts_with("https") => Err(refused("http instead of https")),
            _ if uri.host().is_some() && (is_safe || uri.scheme_str() == Some("http")) => Ok(href),
            _ => Err(refused("something else than a web address")),
        }
    }
}

/// A file that is stored by its content.
struct Large<'a> {
    file: &'a NewFile<'a>,
    sha256: String,
}

/// How a file is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UploadMode {
    Lfs,
    Regular,
}

/// What the Hub says of a file beforehand.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    path: String,
    upload_mode: UploadMode,
    #[serde(default)]
    should_ignore: bool,
    /// What the branch has under this path: of a large file its sha256.
    oid: Option<String>,
}

impl Known {
    fn has(&self, large: &Large<'_>) -> bool {
        self.path == large.file.path && self.oid.as_deref() == Some(large.sha256.as_str())
    }
}

/// git-LFS's answer for one content.
#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct Actions {
    upload: Action,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    header: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: u16,
}

/// Content that says how far it was read.
struct Watched<'a> {
    content: &'a [u8],
    progress: &'a mut dyn Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.progress.advanced(read as u64);
        Ok(read)
    }
}

/// An error where a status says that writing failed.
fn check_written(response: &Response<Body>) -> Result<(), Problem> {
    match response.status().as_u16() {
        200..=299 => Ok(()),
        300..=399 => {
            Err(Problem::Redirect("the hub redirects: was the repository renamed? publish to its new name".into()))
        }
        status => Err(written_problem(status, header(response, "retry-after"))),
    }
}

fn written_problem(status: u16, retry_after: Option<String>) -> Problem {
    match status {
        401 => Problem::TokenRefused,
        403 => Problem::MayNotWrite,
        404 => Problem::NotFound("there is no such repository, or the token may not see it"),
        409 | 412 => Problem::Conflict,
        413 => Problem::TooLarge,
        429 => {
            let seconds = retry_after.and_then(|after| after.trim().parse().ok());
            Problem::RateLimited(seconds.map(Duration::from_secs))
        }
        408 | 500..=599 => Problem::Server(status),
        _ => Problem::Status(status),
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
