//! `zoo::hub` against a server on this machine that has the Hub's routes, and its faults.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use zoo::hub::{Fetched, HubConfig, HubError, HubFile, Limits, Problem, Progress, Token, fetch};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_aVerySecretToken";
const FILE: HubFile<'static> =
    HubFile { repository: "timm/tiny.a1", revision: None, file: "model.safetensors", sha256: None, size: None };

fn content() -> Vec<u8> {
    (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone)]
pub(super) struct Request {
    pub method: String,
    pub path: String,
    /// Their names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    fn is_get(&self) -> bool {
        self.method == "GET"
    }

    fn range(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What a server writes, with pauses before the pieces.
pub(super) struct Reply(Vec<(Duration, Vec<u8>)>);

impl Reply {
    pub fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        Reply(vec![(Duration::ZERO, [head.as_bytes(), b"\r\n", body].concat())])
    }

    pub fn status(status: &str) -> Self {
        Reply::new(status, &[("Content-Length", "0")], b"")
    }

    fn raw(bytes: &[u8]) -> Self {
        Reply(vec![(Duration::ZERO, bytes.to_vec())])
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;
type Cut = Mutex<Box<dyn Fn(&Request, usize) -> bool + Send>>;

pub(super) struct Server {
    pub url: String,
    log: Arc<Mutex<Vec<Request>>>,
    cut: Arc<Cut>,
}

impl Server {
    /// Serves until the test's process ends.
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let cut: Arc<Cut> = Arc::new(Mutex::new(Box::new(|_, _| false)));
        let (script, requests, cuts): (Arc<Script>, _, _) = (Arc::new(script), Arc::clone(&log), Arc::clone(&cut));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, requests, cuts) = (Arc::clone(&script), Arc::clone(&requests), Arc::clone(&cuts));
                thread::spawn(move || serve(stream, &*script, &requests, &cuts));
            }
        });
        Server { url, log, cut }
    }

    /// Breaks the connection in the middle of the body of requests of which this is true, given how many of the same
    /// method came before.
    pub fn cut(&self, when: impl Fn(&Request, usize) -> bool + Send + 'static) {
        *self.cut.lock().unwrap() = Box::new(when);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    fn gets(&self) -> usize {
        self.requests().iter().filter(|request| request.is_get()).count()
    }
}

fn serve(mut stream: TcpStream, script: &Script, log: &Mutex<Vec<Request>>, cut: &Cut) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_string(), first.next()?.to_string());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<String, String> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_string())).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut request = Request { method, path, headers, body: vec![0; length] };
    let before = log.lock().unwrap().iter().filter(|other| other.method == request.method).count();
    if cut.lock().unwrap()(&request, before) {
        stream.read_exact(&mut request.body[..length / 2]).ok()?;
        log.lock().unwrap().push(request);
        return None;
    }
    stream.read_exact(&mut request.body).ok()?;
    log.lock().unwrap().push(request.clone());
    for (pause, bytes) in script(&request).0 {
        thread::sleep(pause);
        stream.write_all(&bytes).ok()?;
    }
    Some(())
}

/// What the Hub answers.
fn honest(request: &Request) -> Reply {
    let content = content();
    let (hash, size) = (sha256(&content), content.len().to_string());
    if request.path.starts_with("/api/models/timm/tiny.a1/revision/") {
        let body = format!(r#"{{"id": "timm/tiny.a1", "sha": "{COMMIT}", "siblings": []}}"#);
        return Reply::new("200 OK", &[("Content-Length", &body.len().to_string())], body.as_bytes());
    }
    let of_file = request.path.strip_prefix("/timm/tiny.a1/resolve/").and_then(|path| path.split_once('/'));
    let (Some((revision, "model.safetensors")), false) = (of_file, request.path.contains("..")) else {
        return Reply::status("404 Not Found");
    };
    if revision != "main" && revision != COMMIT {
        return Reply::new("404 Not Found", &[("X-Error-Code", "RevisionNotFound"), ("Content-Length", "0")], b"");
    }
    let etag = format!("\"{hash}\"");
    if !request.is_get() {
        let headers =
            [("X-Repo-Commit", COMMIT), ("X-Linked-Etag", &etag), ("X-Linked-Size", &size), ("Content-Length", &size)];
        return Reply::new("200 OK", &headers, b"");
    }
    match request.range() {
        None => Reply::new("200 OK", &[("Content-Length", &size)], &content),
        Some(start) if start >= content.len() => Reply::status("416 Range Not Satisfiable"),
        Some(start) => {
            let range = format!("bytes {start}-{}/{size}", content.len() - 1);
            let rest = &content[start..];
            let headers = [("Content-Range", range.as_str()), ("Content-Length", &rest.len().to_string())];
            Reply::new("206 Partial Content", &headers, rest)
        }
    }
}

/// An honest server but for what `fault` answers, which is told how many requests of this method came before.
fn faulty(fault: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    Server::start(move |request| {
        let before = counts[usize::from(request.is_get())].fetch_add(1, Ordering::SeqCst);
        fault(request, before).unwrap_or_else(|| honest(request))
    })
}

struct Client {
    cache: tempfile::TempDir,
    config: HubConfig,
}

impl Client {
    fn of(server: &Server) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let mut config = HubConfig::new(cache.path());
        config.endpoint = server.url.clone();
        config.limits = Limits {
            connect: Duration::from_secs(2),
            response: Duration::from_millis(500),
            window: Duration::from_millis(300),
            least_bytes: 1000,
            retries: 5,
            backoff: Duration::from_millis(1),
            longest_wait: Duration::from_secs(2),
            lock: Duration::from_secs(20),
        };
        Client { cache, config }
    }

    fn fetch(&self) -> Result<Fetched, HubError> {
        fetch(&FILE, &self.config, &mut ())
    }

    fn problem(&self) -> Problem {
        let start = Instant::now();
        let problem = self.fetch().unwrap_err().problem;
        assert!(start.elapsed() < Duration::from_secs(10), "{problem} took {:?}", start.elapsed());
        assert!(!self.has_snapshots(), "nothing may be there after: {problem}");
        problem
    }

    fn has_snapshots(&self) -> bool {
        self.folder().join("snapshots").exists()
    }

    fn folder(&self) -> std::path::PathBuf {
        self.cache.path().join("models--timm--tiny.a1")
    }

    fn blob(&self) -> std::path::PathBuf {
        self.folder().join("blobs").join(sha256(&content()))
    }

    /// As an earlier run would have left it.
    fn begin(&self, bytes: &[u8]) {
        fs::create_dir_all(self.folder().join("blobs")).unwrap();
        fs::write(self.folder().join("blobs").join(format!("{}.incomplete", sha256(&content()))), bytes).unwrap();
    }
}

fn assert_whole(fetched: &Fetched) {
    assert_eq!(fs::read(&fetched.path).unwrap(), content());
    assert_eq!((fetched.commit.as_str(), fetched.size), (COMMIT, 100_000));
    assert_eq!(fetched.sha256, sha256(&content()));
}

#[test]
fn a_file_is_fetched_once_into_pythons_layout() {
    let server = Server::start(honest);
    let mut client = Client::of(&server);
    let fetched = client.fetch().unwrap();
    assert_whole(&fetched);
    assert!(!fetched.from_cache);
    assert_eq!(fs::read_to_string(client.folder().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fetched.path, client.folder().join("snapshots").join(COMMIT).join("model.safetensors"));
    #[cfg(unix)]
    assert_eq!(fs::read_link(&fetched.path).unwrap(), Path::new("../../blobs").join(sha256(&content())));

    assert!(client.fetch().unwrap().from_cache);
    assert_eq!(server.gets(), 1, "the branch was asked for again, the file was not");
    let before = server.requests().len();
    let pinned = HubFile { revision: Some(COMMIT), ..FILE };
    assert_whole(&fetch(&pinned, &client.config, &mut ()).unwrap());
    let hash = sha256(&content()).to_ascii_uppercase();
    let hashed = HubFile { sha256: Some(&hash), size: Some(100_000), ..FILE };
    assert_whole(&fetch(&hashed, &client.config, &mut ()).unwrap());
    client.config.offline = true;
    assert_whole(&client.fetch().unwrap());
    assert_eq!(server.requests().len(), before, "none of these needs a network");
}

#[test]
fn offline_says_what_is_missing() {
    let server = Server::start(honest);
    let mut client = Client::of(&server);
    client.config.offline = true;
    let error = client.fetch().unwrap_err();
    assert!(matches!(error.problem, Problem::NotCached(_)) && error.problem.is_unavailable(), "{error}");
    assert!(error.to_string().starts_with("timm/tiny.a1/model.safetensors: not in the cache"));
    assert!(server.requests().is_empty());
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let server = faulty(|request, before| {
        (request.is_get() && before == 0)
            .then(|| Reply::new("200 OK", &[("Content-Length", "100000")], &content()[..40_000]))
    });
    let client = Client::of(&server);
    assert_whole(&client.fetch().unwrap());
    assert_eq!(server.requests().last().unwrap().range(), Some(40_000));
}

#[test]
fn an_earlier_runs_part_is_resumed_whatever_the_server_makes_of_it() {
    type Fault = fn(&Request, usize) -> Option<Reply>;
    let ignores: Fault =
        |request, _| request.range().map(|_| Reply::new("200 OK", &[("Content-Length", "100000")], &content()));
    let cannot: Fault = |request, _| request.range().map(|_| Reply::status("416 Range Not Satisfiable"));
    let another: Fault = |request, _| {
        let headers = [("Content-Range", "bytes 0-99/100000"), ("Content-Length", "100")];
        request.range().map(|_| Reply::new("206 Partial Content", &headers, &content()[..100]))
    };
    let unsaid: Fault =
        |request, _| request.range().map(|_| Reply::new("206 Partial Content", &[("Content-Length", "3")], b"abc"));
    for (fault, part) in [
        (ignores, content()[..1234].to_vec()),
        (cannot, content()[..1234].to_vec()),
        (another, content()[..1234].to_vec()),
        (unsaid, content()[..1234].to_vec()),
        ((|_, _| None) as Fault, content()[..1234].to_vec()),
        (|_, _| None, vec![7; 1234]),
        (|_, _| None, vec![7; 100_000]),
        (|_, _| None, vec![7; 100_001]),
        (|_, _| None, content()),
    ] {
        let client = Client::of(&faulty(fault));
        client.begin(&part);
        assert_whole(&client.fetch().unwrap());
    }
}

#[test]
fn wrong_bytes_are_never_used() {
    let wrong = || [&content()[..99_999], b"x"].concat();
    let flipped = faulty(move |request, _| {
        request.is_get().then(|| Reply::new("200 OK", &[("Content-Length", "100000")], &wrong()))
    });
    let client = Client::of(&flipped);
    assert!(matches!(client.problem(), Problem::WrongHash { .. }));
    assert!(fs::read_dir(client.folder().join("blobs")).unwrap().next().is_none());

    let short = faulty(|request, _| {
        request.is_get().then(|| Reply::new("200 OK", &[("Content-Length", "5")], &content()[..5]))
    });
    assert!(matches!(Client::of(&short).problem(), Problem::WrongSize { expected: 100_000, got: 5 }));

    let endless = faulty(|request, _| {
        request.is_get().then(|| Reply::new("200 OK", &[], &[content(), content(), content()].concat()))
    });
    assert!(matches!(Client::of(&endless).problem(), Problem::WrongSize { expected: 100_000, .. }));

    let always_cut = faulty(|request, _| request.is_get().then(|| Reply::new("200 OK", &[], &content()[..10])));
    assert!(matches!(Client::of(&always_cut).problem(), Problem::Truncated { got: 10, expected: 100_000 }));
    assert_eq!(always_cut.gets(), 6);
}

#[test]
fn pins_are_held_against_the_hub_before_anything_is_downloaded() {
    let server = Server::start(honest);
    let client = Client::of(&server);
    let zeros = "0".repeat(64);
    let other = HubFile { sha256: Some(&zeros), ..FILE };
    let error = fetch(&other, &client.config, &mut ()).unwrap_err();
    assert!(matches!(&error.problem, Problem::WrongHash { expected, .. } if *expected == zeros), "{error}");
    let error = fetch(&HubFile { size: Some(5), ..FILE }, &client.config, &mut ()).unwrap_err();
    assert!(matches!(error.problem, Problem::WrongSize { expected: 5, got: 100_000 }), "{error}");
    assert_eq!(server.gets(), 0);

    client.fetch().unwrap();
    let pinned = HubFile { sha256: Some(&zeros), revision: Some(COMMIT), ..FILE };
    let error = fetch(&pinned, &client.config, &mut ()).unwrap_err();
    assert!(matches!(error.problem, Problem::WrongHash { .. }) && !error.problem.is_unavailable(), "{error}");
}

#[test]
fn statuses_have_clear_errors() {
    type Expected = fn(&Problem) -> bool;
    let cases: [(&'static str, &'static str, Expected, &str); 9] = [
        ("401 Unauthorized", "", |p| matches!(p, Problem::Unauthorized), "HF_TOKEN"),
        ("401 Unauthorized", "RepoNotFound", |p| matches!(p, Problem::NotFound(_)), "no such repository"),
        ("403 Forbidden", "GatedRepo", |p| matches!(p, Problem::Forbidden), "accept its terms"),
        ("404 Not Found", "RepoNotFound", |p| matches!(p, Problem::NotFound(_)), "no such repository"),
        ("404 Not Found", "RevisionNotFound", |p| matches!(p, Problem::NotFound(_)), "no such revision"),
        ("404 Not Found", "EntryNotFound", |p| matches!(p, Problem::NotFound(_)), "no such file"),
        ("404 Not Found", "", |p| matches!(p, Problem::NotFound(_)), "404"),
        ("418 I'm a teapot", "", |p| matches!(p, Problem::Status(418)), "418"),
        ("503 Service Unavailable", "", |p| matches!(p, Problem::Server(503)), "503"),
    ];
    for (status, code, expected, text) in cases {
        for gets in [false, true] {
            let server = faulty(move |request, _| {
                (request.is_get() == gets)
                    .then(|| Reply::new(status, &[("X-Error-Code", code), ("Content-Length", "0")], b""))
            });
            let problem = Client::of(&server).problem();
            assert!(expected(&problem) && problem.to_string().contains(text), "{status} {code}: {problem}");
            let is_transient = status.starts_with('5');
            assert_eq!(problem.is_unavailable(), is_transient);
            let asked = server.requests().iter().filter(|request| request.is_get() == gets).count();
            assert_eq!(asked, if is_transient { 6 } else { 1 }, "{status}");
        }
    }
}

#[test]
fn passing_faults_pass() {
    for status in ["500 Internal Server Error", "502 Bad Gateway", "503 Unavailable", "504 Timeout", "408 Timeout"] {
        let server = faulty(move |_, before| (before < 2).then(|| Reply::status(status)));
        assert_whole(&Client::of(&server).fetch().unwrap());
    }
    let hangs_up = faulty(|_, before| (before == 0).then(|| Reply::raw(b"")));
    assert_whole(&Client::of(&hangs_up).fetch().unwrap());
}

#[test]
fn retry_after_is_honoured_within_bounds() {
    let limited = |after: &'static str| {
        faulty(move |_, before| {
            (before == 0)
                .then(|| Reply::new("429 Too Many Requests", &[("Retry-After", after), ("Content-Length", "0")], b""))
        })
    };
    struct Waits(Vec<Duration>);
    impl Progress for Waits {
        fn started(&mut self, _: &str, _: u64, _: Option<u64>) {}
        fn advanced(&mut self, _: u64) {}
        fn retrying(&mut self, problem: &Problem, wait: Duration) {
            assert!(matches!(problem, Problem::RateLimited(_)));
            self.0.push(wait);
        }
        fn finished(&mut self) {}
    }
    let mut waits = Waits(Vec::new());
    let client = Client::of(&limited("1"));
    assert_whole(&fetch(&FILE, &client.config, &mut waits).unwrap());
    assert_eq!(waits.0, [Duration::from_secs(1); 2]);

    let problem = Client::of(&limited("86400")).problem();
    assert!(matches!(problem, Problem::RateLimited(Some(wait)) if wait.as_secs() == 86400), "{problem}");
    assert_whole(&Client::of(&limited("Fri, 31 Dec 2038 23:59:59 GMT")).fetch().unwrap());
    assert_whole(&Client::of(&limited("-1")).fetch().unwrap());
}

#[test]
fn a_web_page_is_not_a_file() {
    for gets in [false, true] {
        let server = faulty(move |request, _| {
            (request.is_get() == gets).then(|| {
                let page = b"<html>please log in</html>";
                let body: &[u8] = if gets { page } else { b"" };
                Reply::new("200 OK", &[("Content-Type", "text/html; charset=utf-8")], body)
            })
        });
        assert!(matches!(Client::of(&server).problem(), Problem::WebPage));
    }
}

#[test]
fn nothing_waits_for_ever() {
    let silent = faulty(|_, _| Some(Reply(vec![(Duration::from_secs(60), Vec::new())])));
    let mut client = Client::of(&silent);
    client.config.limits.retries = 1;
    assert!(matches!(client.problem(), Problem::Timeout(_)));

    let slow_headers =
        faulty(|_, _| Some(Reply((0..200).map(|_| (Duration::from_millis(100), b"H".to_vec())).collect())));
    let mut client = Client::of(&slow_headers);
    client.config.limits.retries = 0;
    assert!(matches!(client.problem(), Problem::Timeout(_) | Problem::Protocol(_)));

    let stops = faulty(|request, _| {
        let start = Reply::new("200 OK", &[("Content-Length", "100000")], b"abc").0;
        let rest = vec![(Duration::from_secs(60), Vec::new())];
        request.is_get().then(|| Reply([start, rest].concat()))
    });
    let mut client = Client::of(&stops);
    client.config.limits.retries = 0;
    assert!(matches!(client.problem(), Problem::Timeout(_)));

    let drips = faulty(|request, _| {
        let start = Reply::new("200 OK", &[("Content-Length", "100000")], b"").0;
        let rest = (0..1000).map(|_| (Duration::from_millis(20), b"x".to_vec())).collect();
        request.is_get().then(|| Reply([start, rest].concat()))
    });
    let mut client = Client::of(&drips);
    client.config.limits.retries = 0;
    assert!(matches!(client.problem(), Problem::Stalled { .. }));
}

#[test]
fn what_is_no_hub_is_said_to_be_none() {
    let mut client = Client::of(&faulty(|_, _| None));
    client.config.endpoint = "http://127.0.0.1:1".into();
    client.config.limits.retries = 1;
    let problem = client.problem();
    assert!(matches!(problem, Problem::Connection(_)) && problem.is_unavailable(), "{problem}");

    let garbage = faulty(|_, _| Some(Reply::raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")));
    assert!(matches!(Client::of(&garbage).problem(), Problem::Protocol(_)));
    let endless_headers = faulty(|_, _| {
        Some(Reply::raw(
            &[&b"HTTP/1.1 200 OK\r\n"[..], &b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(10_000)].concat(),
        ))
    });
    assert!(matches!(Client::of(&endless_headers).problem(), Problem::Protocol(_) | Problem::Connection(_)));
    for endpoint in ["", "ftp://x", "https://", "https://user:secret@hub.example", "nonsense"] {
        client.config.endpoint = endpoint.into();
        let problem = client.problem();
        assert!(matches!(problem, Problem::Invalid(_)) && !problem.to_string().contains("secret"), "{problem}");
    }
}

#[test]
fn metadata_is_checked() {
    let with = |headers: &'static [(&'static str, &'static str)]| {
        faulty(move |request, _| (!request.is_get()).then(|| Reply::new("200 OK", headers, b"")))
    };
    const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for commit in ["main", "../../../../etc", "0123", "0123456789abcdef0123456789abcdef0123456g"] {
        let server = faulty(move |request, _| {
            (!request.is_get())
                .then(|| Reply::new("200 OK", &[("X-Repo-Commit", commit), ("X-Linked-Etag", HASH)], b""))
        });
        assert!(matches!(Client::of(&server).problem(), Problem::Protocol(_)), "{commit}");
    }
    for etag in ["../../../x", "a/b", "/etc/passwd", "..", ".hidden", "a\\b", "\"\""] {
        let server = faulty(move |request, _| {
            (!request.is_get())
                .then(|| Reply::new("200 OK", &[("X-Repo-Commit", COMMIT), ("X-Linked-Etag", etag)], b""))
        });
        let client = Client::of(&server);
        assert!(matches!(client.problem(), Problem::Protocol(_)), "{etag}");
        assert!(fs::read_dir(client.cache.path()).unwrap().next().is_none(), "{etag}");
    }
    let unhashed = with(&[("X-Repo-Commit", COMMIT), ("ETag", "\"5d41402abc4b2a76b9719d911017c592\"")]);
    assert!(matches!(Client::of(&unhashed).problem(), Problem::Unverifiable));
    let sizeless = with(&[("X-Repo-Commit", COMMIT), ("X-Linked-Etag", HASH), ("X-Linked-Size", "many")]);
    assert!(matches!(Client::of(&sizeless).problem(), Problem::Protocol(_)));
    let huge = with(&[("X-Repo-Commit", COMMIT), ("X-Linked-Etag", HASH), ("X-Linked-Size", "99999999999999")]);
    assert!(matches!(Client::of(&huge).problem(), Problem::Protocol(_)));
    let server = Server::start(honest);
    let client = Client::of(&server);
    let absent = HubFile { revision: Some("no-such-branch"), ..FILE };
    assert!(matches!(fetch(&absent, &client.config, &mut ()).unwrap_err().problem, Problem::NotFound(_)));
}

#[test]
fn a_hub_that_names_no_commit_is_asked_for_the_revision() {
    let hash = sha256(&content());
    let server = faulty(move |request, _| {
        let headers = [("ETag", hash.as_str()), ("Content-Length", "100000")];
        (!request.is_get()).then(|| Reply::new("200 OK", &headers, b""))
    });
    assert_whole(&Client::of(&server).fetch().unwrap());
    assert!(server.requests().iter().any(|request| request.path == "/api/models/timm/tiny.a1/revision/main"));
}

#[test]
fn the_token_goes_to_the_hub_alone_and_is_never_shown() {
    let storage = Server::start(|request| {
        let served = content();
        let start = request.range().unwrap_or(0);
        Reply::new("200 OK", &[("Content-Length", &(served.len() - start).to_string())], &served[start..])
    });
    let elsewhere = format!("{}/bucket/file?signature=s3cr3t", storage.url);
    let target = elsewhere.clone();
    let server = faulty(move |_, _| {
        let hash = sha256(&content());
        let headers = [
            ("Location", target.as_str()),
            ("X-Repo-Commit", COMMIT),
            ("X-Linked-Etag", &hash),
            ("X-Linked-Size", "100000"),
            ("Content-Length", "0"),
        ];
        Some(Reply::new("302 Found", &headers, b""))
    });
    let mut client = Client::of(&server);
    client.config.token = Some(Token::new(format!("{TOKEN}\n")));
    assert_whole(&client.fetch().unwrap());
    let authorised = |server: &Server| {
        server.requests().iter().filter(|request| request.headers.contains_key("authorization")).count()
    };
    assert_eq!(authorised(&server), 2, "HEAD and GET");
    assert_eq!(server.requests()[0].headers["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!((authorised(&storage), storage.requests().len()), (0, 1));

    // A server that sends the token back wherever it can.
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Error", "302 Found", "200 OK"] {
        let echo = faulty(move |_, _| {
            let location = format!("ftp://{TOKEN}.example/{TOKEN}");
            let headers =
                [("X-Error-Message", TOKEN), ("X-Error-Code", TOKEN), ("ETag", TOKEN), ("Location", &location)];
            Some(Reply::new(status, &headers, TOKEN.as_bytes()))
        });
        let mut client = Client::of(&echo);
        client.config.token = Some(Token::new(TOKEN));
        let error = client.fetch().unwrap_err();
        assert!(!format!("{error} {error:?}").contains(TOKEN), "{error:?}");
    }
    assert!(!format!("{:?}", client.config).contains(TOKEN));
    for entry in walk(client.cache.path()) {
        assert!(!fs::read(&entry).unwrap().windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()));
    }
}

#[test]
fn a_token_that_cannot_be_sent_is_refused() {
    let server = Server::start(honest);
    let mut client = Client::of(&server);
    for token in ["", "two words", "line\r\nX-Injected: 1", "t\u{f6}ken"] {
        client.config.token = Some(Token::new(token));
        assert!(matches!(client.problem(), Problem::Invalid(_)), "{token:?}");
    }
    assert!(server.requests().is_empty());
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn redirects_end() {
    let in_circles = faulty(|request, _| {
        Some(Reply::new("302 Found", &[("Location", &request.path), ("Content-Length", "0")], b""))
    });
    assert!(matches!(Client::of(&in_circles).problem(), Problem::Redirect(_)));
    assert_eq!(in_circles.requests().len(), 6);
    for location in ["ftp://x/y", "file:///etc/passwd", "http://", ""] {
        let away = faulty(move |request, _| {
            let headers = [("Location", location), ("Content-Length", "0")];
            request.is_get().then(|| Reply::new("307 Temporary Redirect", &headers, b""))
        });
        assert!(matches!(Client::of(&away).problem(), Problem::Redirect(_)), "{location}");
    }
    // A repository that was renamed.
    let renamed = faulty(|request, _| {
        let moved = format!("/moved{}", request.path);
        match request.path.strip_prefix("/moved") {
            Some(path) => Some(honest(&Request { path: path.into(), ..request.clone() })),
            None => Some(Reply::new("307 Temporary Redirect", &[("Location", &moved), ("Content-Length", "0")], b"")),
        }
    });
    assert_whole(&Client::of(&renamed).fetch().unwrap());
}

#[test]
fn names_cannot_leave_the_cache() {
    let server = Server::start(honest);
    let client = Client::of(&server);
    let long = "x".repeat(300);
    let mut wrong = Vec::new();
    for file in ["", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/", "a\\b", "a\0b", "C:x", "a\nb", ".", &long]
    {
        wrong.push(HubFile { file, ..FILE });
    }
    for repository in ["", "..", "../x", "a/b/c", "a/..", "/a", "a/", "a b/c", "a--b/c", "a/b?x", "a/b#x", "a/b%2f"] {
        wrong.push(HubFile { repository, ..FILE });
    }
    for revision in ["", "..", "../x", "a/../b", "/a", "a?b", "a b", "a\0"] {
        wrong.push(HubFile { revision: Some(revision), ..FILE });
    }
    for sha256 in ["", "abc", "../../../x"] {
        wrong.push(HubFile { sha256: Some(sha256), ..FILE });
    }
    for file in wrong {
        let error = fetch(&file, &client.config, &mut ()).unwrap_err();
        assert!(matches!(error.problem, Problem::Invalid(_)), "{file:?}: {error}");
        assert!(!error.to_string().contains(['\0', '\n']), "{error:?}");
    }
    assert!(server.requests().is_empty());
    assert!(fs::read_dir(client.cache.path()).unwrap().next().is_none());
}

#[test]
fn a_damaged_cache_is_noticed_and_mended() {
    let server = Server::start(honest);
    let mut client = Client::of(&server);
    client.fetch().unwrap();
    let mut bytes = content();
    bytes[50_000] ^= 1;
    let pinned = HubFile { revision: Some(COMMIT), ..FILE };
    for file in [FILE, pinned] {
        fs::write(client.blob(), &bytes).unwrap();
        client.config.offline = true;
        let error = fetch(&file, &client.config, &mut ()).unwrap_err();
        assert!(matches!(error.problem, Problem::DamagedCache(_)), "{error}");
        client.config.offline = false;
        assert_whole(&fetch(&file, &client.config, &mut ()).unwrap());
    }
    assert_eq!(server.gets(), 3);
    fs::write(client.folder().join("refs/main"), "../../elsewhere").unwrap();
    client.config.offline = true;
    assert!(matches!(client.fetch().unwrap_err().problem, Problem::NotCached(_)));
}

#[test]
fn two_at_once_download_once() {
    let server = faulty(|request, _| {
        request.is_get().then(|| {
            thread::sleep(Duration::from_millis(200));
            honest(request)
        })
    });
    let client = Client::of(&server);
    thread::scope(|scope| {
        let fetches: Vec<_> = (0..4).map(|_| scope.spawn(|| client.fetch().unwrap())).collect();
        let fetched: Vec<Fetched> = fetches.into_iter().map(|fetch| fetch.join().unwrap()).collect();
        fetched.iter().for_each(assert_whole);
        assert_eq!(fetched.iter().filter(|fetched| !fetched.from_cache).count(), 1);
    });
    assert_eq!(server.gets(), 1);

    let mut other = Client::of(&server);
    other.config.limits.lock = Duration::from_millis(100);
    let locks = other.cache.path().join(".locks/models--timm--tiny.a1");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", sha256(&content())))).unwrap();
    lock.lock().unwrap();
    assert!(matches!(other.problem(), Problem::Locked(_)));
}

#[test]
fn the_environment_is_huggingface_hubs() {
    let config = |vars: &[(&str, &str)], home: Option<&str>| {
        HubConfig::from_vars(
            |name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
            home.map(Into::into),
        )
    };
    let plain = config(&[], Some("/home/x")).unwrap();
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert_eq!(plain.cache, Path::new("/home/x/.cache/huggingface/hub"));
    assert!(plain.token.is_none() && !plain.offline);
    let cache = |vars: &[(&str, &str)]| config(vars, Some("/home/x")).unwrap().cache;
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
    assert_eq!(cache(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Path::new("/h/hub"));
    assert_eq!(cache(&[("HF_HUB_CACHE", "/k"), ("HF_HOME", "/h")]), Path::new("/k"));
    for on in ["1", "true", "YES", "on"] {
        assert!(config(&[("HF_HUB_OFFLINE", on)], Some("/")).unwrap().offline);
    }
    assert!(!config(&[("HF_HUB_OFFLINE", "0")], Some("/")).unwrap().offline);
    assert_eq!(config(&[("HF_ENDPOINT", "https://mirror/")], Some("/")).unwrap().endpoint, "https://mirror");
    assert!(config(&[], None).unwrap_err().to_string().contains("HF_HUB_CACHE"));

    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let at_home = ("HF_HOME", home.path().to_str().unwrap());
    assert_eq!(config(&[at_home], None).unwrap().token, Some(Token::new(TOKEN)));
    assert_eq!(config(&[at_home, ("HF_TOKEN", "other")], None).unwrap().token, Some(Token::new("other")));
    assert!(config(&[at_home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None).unwrap().token.is_none());
}
