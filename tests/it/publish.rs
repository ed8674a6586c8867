//! `publish --to-hub` against a server on this machine that has the Hub's routes for writing and reading, and its faults.

use super::cli::{binary, json, stderr, stdout, zoo};
use super::hub::{Reply, Request, Server, sha256};
use super::registry::registry_of;
use super::tiny::tiny_experiment;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zoo::hub::{
    Destination, HubConfig, HubError, HubFile, NewFile, Problem, Progress, Published, Token, fetch, publish,
};

const TOKEN: &str = "hf_aVerySecretToken";

/// What the Hub keeps.
#[derive(Default)]
struct State {
    url: String,
    /// Whether each is private, and its files: path, content.
    repositories: BTreeMap<String, (bool, BTreeMap<String, Vec<u8>>)>,
    commits: Vec<String>,
    /// Large contents by their sha256, and parts of them by `sha256/number`.
    storage: BTreeMap<String, Vec<u8>>,
    /// Bytes of a part; whole files where it is none.
    part: Option<usize>,
}

type Fault = dyn Fn(&Request, usize) -> Option<Reply> + Send + Sync;

struct Hub {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Hub {
    fn start() -> Self {
        Self::faulty(|_, _| None)
    }

    /// An honest one but for what `fault` answers, which is told how many requests of this method and path came before.
    fn faulty(fault: impl Fn(&Request, usize) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (fault, kept): (Box<Fault>, _) = (Box::new(fault), Arc::clone(&state));
        let counts = Mutex::new(BTreeMap::new());
        let server = Server::start(move |request| {
            let before = {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry((request.method.clone(), request.path.clone())).or_insert(0);
                *count += 1;
                *count - 1
            };
            fault(request, before).unwrap_or_else(|| kept.lock().unwrap().answer(request))
        });
        state.lock().unwrap().url.clone_from(&server.url);
        Hub { server, state }
    }

    fn config(&self, cache: &Path) -> HubConfig {
        let mut config = HubConfig::new(cache);
        config.endpoint.clone_from(&self.server.url);
        config.token = Some(Token::new(TOKEN));
        config.limits.response = Duration::from_secs(5);
        config.limits.backoff = Duration::from_millis(1);
        config.limits.longest_wait = Duration::from_millis(50);
        config
    }

    fn publish(&self, files: &[NewFile<'_>], private: bool) -> Result<Published, HubError> {
        let to = Destination { repository: "me/net", private, message: "Add a run" };
        publish(&to, files, &self.config(Path::new("unused")), &mut ())
    }

    fn problem(&self) -> Problem {
        self.publish(&FILES, false).expect_err("refused").problem
    }

    /// How many requests have this method and a path that contains `part`.
    fn count(&self, method: &str, part: &str) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|request| request.method == method && request.path.contains(part)).count()
    }

    fn file(&self, path: &str) -> Vec<u8> {
        self.state.lock().unwrap().repositories["me/net"].1[path].clone()
    }
}

/// Larger than what the server takes as a small file.
const LARGE: [u8; 5000] = [7; 5000];
const FILES: [NewFile<'static>; 2] =
    [NewFile { path: "model.safetensors", content: &LARGE }, NewFile { path: "README.md", content: b"# net\n" }];

fn answer(status: &str, body: &Value) -> Reply {
    let body = body.to_string();
    Reply::new(status, &[("Content-Length", &body.len().to_string())], body.as_bytes())
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        if path.starts_with("/storage/") {
            // A signed address; a token has no business there.
            assert!(!request.headers.contains_key("authorization"), "{}", request.path);
            return self.store(request, path);
        }
        if request.headers.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return Reply::status("401 Unauthorized");
        }
        let body = || -> Value { serde_json::from_slice(&request.body).expect("JSON") };
        match (request.method.as_str(), path) {
            ("POST", "/api/repos/create") => {
                let body = body();
                assert_eq!(body["type"], "model");
                let name = format!("{}/{}", body["organization"].as_str().unwrap(), body["name"].as_str().unwrap());
                if self.repositories.contains_key(&name) {
                    return answer("409 Conflict", &json!({"error": "You already created this model repo"}));
                }
                let url = format!("{}/{name}", self.url);
                self.repositories.insert(name, (body["visibility"] == "private", BTreeMap::new()));
                answer("200 OK", &json!({"url": url}))
            }
            ("GET", "/api/models/me/net") => match self.repositories.get("me/net") {
                Some((private, _)) => answer("200 OK", &json!({"id": "me/net", "private": private})),
                None => Reply::status("404 Not Found"),
            },
            ("POST", "/api/models/me/net/preupload/main") => self.preupload(&body()),
            ("POST", "/me/net.git/info/lfs/objects/batch") => self.batch(request, &body()),
            ("POST", "/api/models/me/net/commit/main") => self.commit(request),
            ("POST", "/verify") => {
                let (oid, size) = (body()["oid"].as_str().unwrap().to_owned(), body()["size"].as_u64().unwrap());
                let is_there = self.storage.get(&oid).is_some_and(|content| content.len() as u64 == size);
                Reply::status(if is_there { "200 OK" } else { "422 Unprocessable" })
            }
            ("GET" | "HEAD", path) => self.resolve(request, path),
            _ => Reply::status("404 Not Found"),
        }
    }

    fn preupload(&self, body: &Value) -> Reply {
        let there = &self.repositories["me/net"].1;
        let files = body["files"].as_array().expect("files").iter().map(|file| {
            let (path, size) = (file["path"].as_str().unwrap(), file["size"].as_u64().unwrap());
            let sample = STANDARD.decode(file["sample"].as_str().unwrap()).expect("base64");
            assert_eq!(sample.len() as u64, size.min(512), "{path}");
            let mode = if size > 3000 || path.ends_with(".safetensors") { "lfs" } else { "regular" };
            let oid = there.get(path).map(|content| sha256(content));
            json!({"path": path, "uploadMode": mode, "shouldIgnore": false, "oid": oid})
        });
        answer("200 OK", &json!({"files": files.collect::<Vec<_>>(), "commitOid": "0".repeat(40)}))
    }

    fn batch(&self, request: &Request, body: &Value) -> Reply {
        assert_eq!(request.headers["accept"], "application/vnd.git-lfs+json");
        assert_eq!(request.headers["content-type"], "application/vnd.git-lfs+json");
        assert_eq!((&body["operation"], &body["hash_algo"]), (&json!("upload"), &json!("sha256")));
        let object = |object: &Value| {
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
            let mut answer = json!({"oid": oid, "size": size});
            if !self.storage.contains_key(oid) {
                let url = format!("{}/storage/{oid}", self.url);
                let mut header = serde_json::Map::new();
                if let Some(part) = self.part {
                    header.insert("chunk_size".to_owned(), json!(part.to_string()));
                    let numbers = 1..=size.div_ceil(part);
                    header
                        .extend(numbers.map(|number| (format!("{number:05}"), json!(format!("{url}/{number}?sig=x")))));
                }
                let href = if self.part.is_some() { format!("{url}/complete") } else { format!("{url}?sig=x") };
                let verify = json!({"href": format!("{}/verify", self.url)});
                answer["actions"] = json!({"upload": {"href": href, "header": header}, "verify": verify});
            }
            answer
        };
        answer(
            "200 OK",
            &json!({"transfer": "basic", "objects": body["objects"].as_array().unwrap().iter().map(object).collect::<Vec<_>>()}),
        )
    }

    fn store(&mut self, request: &Request, path: &str) -> Reply {
        let (key, length) = (path.trim_start_matches("/storage/"), request.body.len());
        if let Some(oid) = key.strip_suffix("/complete") {
            let body: Value = serde_json::from_slice(&request.body).expect("JSON");
            let mut whole = Vec::new();
            for (number, part) in (1..).zip(body["parts"].as_array().expect("parts")) {
                let content = self.storage.remove(&format!("{oid}/{number}")).expect("a part");
                assert_eq!(
                    (&part["partNumber"], &part["etag"]),
                    (&json!(number), &json!(format!("\"{}\"", sha256(&content))))
                );
                whole.extend(content);
            }
            assert_eq!((sha256(&whole).as_str(), &body["oid"]), (oid, &json!(oid)));
            self.storage.insert(oid.to_owned(), whole);
            return Reply::status("200 OK");
        }
        assert_eq!(request.headers["content-length"], length.to_string());
        let hash = sha256(&request.body);
        assert!(key.contains('/') || key == hash, "another content than was said");
        self.storage.insert(key.to_owned(), request.body.clone());
        Reply::new("200 OK", &[("ETag", &format!("\"{hash}\"")), ("Content-Length", "0")], b"")
    }

    fn commit(&mut self, request: &Request) -> Reply {
        assert_eq!(request.headers["content-type"], "application/x-ndjson");
        let text = String::from_utf8(request.body.clone()).expect("UTF-8");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0]["key"], "header");
        assert!(lines[0]["value"]["summary"].as_str().is_some_and(|summary| !summary.is_empty()));
        for line in &lines[1..] {
            let (value, path) = (&line["value"], line["value"]["path"].as_str().expect("a path").to_owned());
            let content = if line["key"] == "lfsFile" {
                let content = self.storage[value["oid"].as_str().expect("a hash")].clone();
                assert_eq!((&value["algo"], &value["size"]), (&json!("sha256"), &json!(content.len())));
                content
            } else {
                assert_eq!((&line["key"], &value["encoding"]), (&json!("file"), &json!("base64")));
                STANDARD.decode(value["content"].as_str().expect("text")).expect("base64")
            };
            self.repositories.get_mut("me/net").expect("made before").1.insert(path, content);
        }
        let commit = sha256(&request.body)[..40].to_owned();
        self.commits.push(commit.clone());
        answer(
            "200 OK",
            &json!({"success": true, "commitOid": commit, "commitUrl": format!("{}/me/net/commit/{commit}", self.url)}),
        )
    }

    /// What was published, as the Hub gives it away.
    fn resolve(&self, request: &Request, path: &str) -> Reply {
        let file = path.strip_prefix("/me/net/resolve/main/");
        let content = file.and_then(|file| self.repositories.get("me/net")?.1.get(file));
        let (Some(content), Some(commit)) = (content, self.commits.last()) else {
            return Reply::status("404 Not Found");
        };
        let (size, etag) = (content.len().to_string(), format!("\"{}\"", sha256(content)));
        let headers = [
            ("X-Repo-Commit", commit.as_str()),
            ("X-Linked-Etag", &etag),
            ("X-Linked-Size", &size),
            ("Content-Length", &size),
        ];
        Reply::new("200 OK", &headers, if request.method == "GET" { content } else { b"" })
    }
}

#[test]
fn files_arrive_whole_and_only_once() {
    let hub = Hub::start();
    let first = hub.publish(&FILES, false).expect("published");
    assert_eq!((first.created, first.sent), (true, 5000));
    assert_eq!(first.url, format!("{}/me/net", hub.server.url));
    assert_eq!((hub.file("model.safetensors"), hub.file("README.md")), (LARGE.to_vec(), b"# net\n".to_vec()));
    assert_eq!((hub.count("PUT", "/storage/"), hub.count("POST", "/verify")), (1, 1));

    // The repository is there, and so is the large file.
    let again = [FILES[0], NewFile { path: "README.md", content: b"# better\n" }];
    let second = hub.publish(&again, false).expect("published");
    assert_eq!((second.created, second.sent, hub.count("PUT", "/storage/")), (false, 0, 1));
    assert_eq!(hub.file("README.md"), b"# better\n");
    assert_ne!(first.commit, second.commit);
    // The storage has it, but the repository does not under this path: git-LFS's answer names no action.
    let elsewhere = [NewFile { path: "copy.safetensors", content: &LARGE }];
    assert_eq!(hub.publish(&elsewhere, false).expect("published").sent, 0);
    assert_eq!((hub.file("copy.safetensors"), hub.count("PUT", "/storage/")), (LARGE.to_vec(), 1));
}

#[test]
fn large_files_go_in_parts_where_the_server_says_so() {
    let hub = Hub::start();
    hub.state.lock().unwrap().part = Some(2048);
    let content: Vec<u8> = (0..5000_u32).map(|number| (number % 251) as u8).collect();
    let files = [NewFile { path: "model.safetensors", content: &content }];
    assert_eq!(hub.publish(&files, false).expect("published").sent, 5000);
    assert_eq!((hub.count("PUT", "/storage/"), hub.file("model.safetensors") == content), (3, true));
}

/// What an upload said.
#[derive(Default)]
struct Said {
    retries: usize,
    bytes: u64,
}

impl Progress for Said {
    fn started(&mut self, _: &str, done: u64, _: Option<u64>) {
        self.bytes = done;
    }
    fn advanced(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
    fn retrying(&mut self, _: &Problem, _: Duration) {
        self.retries += 1;
    }
    fn finished(&mut self) {}
}

#[test]
fn what_breaks_is_tried_again() {
    type Broken = fn(&Request, usize) -> Option<Reply>;
    /// The first two requests of that method and path.
    fn twice(request: &Request, method: &str, part: &str, before: usize) -> Option<()> {
        (request.method == method && request.path.contains(part) && before < 2).then_some(())
    }
    let cases: [(&str, usize, Broken); 5] = [
        ("500 for the batch, twice", 2, |request, before| {
            twice(request, "POST", "/batch", before).map(|()| Reply::status("500 Error"))
        }),
        ("503 for the commit, twice", 2, |request, before| {
            twice(request, "POST", "/commit/", before).map(|()| Reply::status("503 Unavailable"))
        }),
        ("500 from the storage, twice", 2, |request, before| {
            twice(request, "PUT", "/storage/", before).map(|()| Reply::status("500 Error"))
        }),
        ("429 for the first question, twice", 2, |request, before| {
            let headers = [("Retry-After", "0"), ("Content-Length", "0")];
            twice(request, "POST", "/create", before).map(|()| Reply::new("429 Too Many Requests", &headers, b""))
        }),
        ("an answer that ends in its middle", 1, |request, before| {
            let cut = Reply::new("200 OK", &[("Content-Length", "900")], b"{\"files\": [");
            (request.path.contains("/preupload/") && before == 0).then_some(cut)
        }),
    ];
    for (what, retries, fault) in cases {
        let hub = Hub::faulty(fault);
        let mut said = Said::default();
        let to = Destination { repository: "me/net", private: false, message: "Add a run" };
        publish(&to, &FILES, &hub.config(Path::new("unused")), &mut said)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((said.retries, said.bytes), (retries, 5000), "{what}");
        assert_eq!(hub.file("model.safetensors"), LARGE, "{what}");
    }
}

#[test]
fn a_connection_that_breaks_in_the_middle_of_a_file_costs_nothing() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let hub = Hub::start();
    hub.server.cut(|request, before| request.method == "PUT" && before == 0);
    let mut said = Said::default();
    let to = Destination { repository: "me/net", private: false, message: "Add a run" };
    let files = [NewFile { path: "model.safetensors", content: &content }];
    let published = publish(&to, &files, &hub.config(Path::new("unused")), &mut said).expect("published");
    assert_eq!((said.retries, said.bytes, published.sent), (1, 3_000_000, 3_000_000));
    assert!(hub.file("model.safetensors") == content);
}

#[test]
fn refusals_are_said_once_and_clearly() {
    for (status, expected) in [
        ("401 Unauthorized", "401: the token is wrong or has ended"),
        ("403 Forbidden", "403: the token may not write there"),
        ("404 Not Found", "404: there is no such repository"),
        ("409 Conflict", "409: somebody else changes the repository"),
        ("413 Payload Too Large", "413: a file is too large"),
        ("429 Too Many Requests", "429, too many requests: wait 3600 s"),
        ("400 Bad Request", "400"),
    ] {
        let hub = Hub::faulty(move |request, _| {
            let headers = [("Retry-After", "3600"), ("Content-Length", "0"), ("X-Error-Message", TOKEN)];
            request.path.contains("/preupload/").then(|| Reply::new(status, &headers, b""))
        });
        let problem = hub.problem().to_string();
        assert!(problem.contains(expected) && !problem.contains(TOKEN), "{status}: {problem}");
        assert_eq!((hub.count("POST", "/preupload/"), hub.count("POST", "/commit/")), (1, 0), "{status}");
    }
    // Nobody may make repositories with it, but this one is there and takes it.
    let hub = Hub::faulty(|request, _| request.path.contains("/create").then(|| Reply::status("403 Forbidden")));
    assert!(matches!(hub.problem(), Problem::MayNotWrite));
    hub.state.lock().unwrap().repositories.insert("me/net".to_owned(), Default::default());
    assert!(!hub.publish(&FILES, false).expect("published").created);
    // It is public, which is not what was asked for.
    let problem = hub.publish(&FILES, true).expect_err("public").problem.to_string();
    assert!(problem.contains("exists and is public"), "{problem}");
    let private = Hub::start();
    private.publish(&FILES, true).expect("published");
    private.publish(&FILES, true).expect("private before");
    assert!(private.state.lock().unwrap().repositories["me/net"].0);
    // git-LFS refuses one object.
    let hub = Hub::faulty(|request, _| {
        let refused =
            json!({"objects": [{"oid": sha256(&LARGE), "size": 5000, "error": {"code": 413, "message": TOKEN}}]});
        request.path.contains("/batch").then(|| answer("200 OK", &refused))
    });
    assert!(matches!(hub.problem(), Problem::TooLarge));
    for href in ["ftp://x/y", "file:///etc/passwd", "", "http://"] {
        let actions = json!({"upload": {"href": href}});
        let objects = json!({"objects": [{"oid": sha256(&LARGE), "size": 5000, "actions": actions}]});
        let hub = Hub::faulty(move |request, _| request.path.contains("/batch").then(|| answer("200 OK", &objects)));
        assert!(matches!(hub.problem(), Problem::Redirect(_)), "{href}");
    }
}

#[test]
fn nothing_is_sent_without_a_token_or_to_nowhere() {
    let hub = Hub::start();
    let publish_with = |change: &dyn Fn(&mut HubConfig), repository: &str| {
        let mut config = hub.config(Path::new("unused"));
        change(&mut config);
        let to = Destination { repository, private: false, message: "Add a run" };
        publish(&to, &FILES, &config, &mut ()).expect_err("refused").problem.to_string()
    };
    assert!(publish_with(&|config| config.token = None, "me/net").contains("set HF_TOKEN"));
    assert!(publish_with(&|config| config.offline = true, "me/net").contains("unset HF_HUB_OFFLINE"));
    let in_the_clear = |config: &mut HubConfig| config.endpoint = "http://hub.example".to_owned();
    assert!(publish_with(&in_the_clear, "me/net").contains("https://"));
    for repository in ["", "net", "a/b/c", "../net", "me/..", "me/a--b", "me/a b", "/net", "me/", "me/n?x"] {
        assert!(publish_with(&|_| {}, repository).contains("must be OWNER/NAME"), "{repository}");
    }
    assert!(hub.server.requests().is_empty());
}

fn publish_to(hub: &Hub, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = binary();
    command.env("HF_ENDPOINT", &hub.server.url).env("HF_TOKEN", TOKEN).env("HF_HOME", folder.join("hf"));
    command.env_remove("HF_HUB_OFFLINE").env_remove("TRANSFORMERS_OFFLINE").env_remove("http_proxy");
    command.arg("publish").args(arguments).args(registry_of(folder));
    command.output().expect("started")
}

#[test]
fn a_published_run_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let experiment = tiny_experiment(folder.path(), "epochs: 1\n");
    stdout(&zoo(folder.path(), &["run", experiment.to_str().expect("UTF-8")]));
    let hub = Hub::start();
    let output = publish_to(&hub, folder.path(), &["tiny", "--to-hub", "me/net", "--private", "--json"]);
    let said: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert!(!stdout(&output).contains(TOKEN) && !stderr(&output).contains(TOKEN));
    assert_eq!((&said["created"], &said["private"]), (&json!(true), &json!(true)));
    assert_eq!(said["url"], json!(format!("{}/me/net", hub.server.url)));

    // The same three files as in a folder, which our own download fetches.
    let published = folder.path().join("published");
    json(folder.path(), &["publish", "tiny", "--to-folder", published.to_str().expect("UTF-8")]);
    for file in ["model.safetensors", "config.json", "README.md"] {
        assert_eq!(hub.file(file), fs::read(published.join(file)).expect("read"), "{file}");
    }
    let cache = folder.path().join("cache");
    let wanted = HubFile { repository: "me/net", revision: None, file: "model.safetensors", sha256: None, size: None };
    let fetched = fetch(&wanted, &hub.config(&cache), &mut ()).expect("fetched");
    assert_eq!((json!(fetched.commit), json!(fetched.sha256)), (said["commit"].clone(), said["sha256"].clone()));

    let image = folder.path().join("image.png");
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 6, y as u8 * 8, 9])).save(&image).expect("saved");
    let logits = |weights: &Path| {
        let (weights, image) = (weights.to_str().expect("UTF-8"), image.to_str().expect("UTF-8"));
        let said = json(folder.path(), &["predict", "cifar_resnet20", "--weights", weights, "--logits", image]);
        said[0]["logits"].clone()
    };
    let expected = logits(&published.join("model.safetensors"));
    assert_eq!((expected.as_array().map(Vec::len), &logits(&fetched.path)), (Some(10), &expected));

    // Once more: nothing large is sent, and a person is told.
    let text = stdout(&publish_to(&hub, folder.path(), &["tiny", "--to-hub", "me/net"]));
    assert!(text.contains("/me/net") && text.contains("were there"), "{text}");
    assert_eq!(hub.count("PUT", "/storage/"), 1);

    let cases: [(&[&str], i32, &str); 5] = [
        (&["tiny"], 2, "required arguments"),
        (&["tiny", "--to-hub", "net"], 2, "must be OWNER/NAME"),
        (&["tiny", "--to-hub", "me/net", "--to-folder", "x"], 2, "cannot be used with"),
        (&["tiny", "--to-folder", "x", "--private"], 2, "cannot be used with"),
        (&["tiny", "--private"], 2, "required arguments"),
    ];
    for (arguments, code, expected) in cases {
        let output = publish_to(&hub, folder.path(), arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    let refusing = Hub::faulty(|_, _| Some(Reply::status("401 Unauthorized")));
    let output = publish_to(&refusing, folder.path(), &["tiny", "--to-hub", "me/net"]);
    assert_eq!((output.status.code(), stderr(&output).contains("401: the token is wrong")), (Some(1), true));
}
