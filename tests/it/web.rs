//! The page: what `report` writes, and what `serve` answers to friends and to others.

use super::cli::{binary, json, stderr, stdout, zoo};
use super::registry::{Sketch, finished_run, registry_of};
use super::tiny::tiny_experiment;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The data in a page.
fn data(page: &Path) -> Value {
    let page = std::fs::read_to_string(page).expect("a page");
    let (_, rest) = page.split_once(r#"<script type="application/json" id="data">"#).expect("its data");
    let (data, _) = rest.split_once("</script>").expect("an end");
    serde_json::from_str(data).expect("JSON")
}

#[test]
fn a_report_is_one_page_with_its_tables_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    finished_run(folder.path(), 2, 0.75);
    let page = folder.path().join("pair.html").display().to_string();
    let result = json(folder.path(), &["report", "run-1", "run-2", "-o", &page, "--no-evaluation"]);
    assert_eq!((&result["runs"], &result["evaluated"]), (&json!(2), &json!(0)));
    let data = data(Path::new(&page));
    let runs = data["runs"].as_array().expect("runs");
    assert_eq!((&runs[0]["name"], &runs[1]["name"]), (&json!("run-1"), &json!("run-2")));
    assert_eq!(runs[1]["curves"]["val.top1"], json!({"count": 3, "points": [[0, 0.1], [1, 0.75], [2, 0.375]]}));
    let keys: Vec<&str> =
        data["settings"].as_array().expect("settings").iter().filter_map(|s| s["key"].as_str()).collect();
    assert_eq!(keys, ["top1"]);
    let csv = std::fs::read_to_string(folder.path().join("pair.csv")).expect("a table");
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines[0].ends_with("top1,best(train.loss),last(train.loss),best(val.top1),last(val.top1)"), "{csv}");
    assert!(lines[2].ends_with("0.75,1.0,1.0,0.75,0.375"), "{csv}");
    let latex = std::fs::read_to_string(folder.path().join("pair.tex")).expect("a table");
    assert!(latex.contains("run & model & top1 & val.top1") && latex.contains("\\textbf{75.00 \\%}"), "{latex}");

    for (arguments, expected) in [
        (["report", "run-1", "-o", "page.txt"], "page.txt must end in .html"),
        (["report", "run-3", "-o", "page.html"], "there is no run `run-3`"),
        (["report", "run-1", "-o", "/nowhere/page.html"], "cannot write /nowhere/page.html"),
    ] {
        let output = zoo(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn a_report_shows_where_the_best_checkpoint_errs() {
    let folder = tempfile::tempdir().expect("a folder");
    let experiment = tiny_experiment(folder.path(), "epochs: 1\n").display().to_string();
    stdout(&zoo(folder.path(), &["run", &experiment]));
    let page = folder.path().join("report.html").display().to_string();
    let result = json(folder.path(), &["report", "tiny", "-o", &page]);
    assert_eq!(result["evaluated"], 1);
    let run = &data(Path::new(&page))["runs"][0];
    let evaluation = &run["evaluation"];
    let best = run["metrics"]["val.top1"]["best"].as_f64().expect("a rate");
    assert_eq!(evaluation["samples"], 32);
    assert_eq!(evaluation["correct"].as_f64(), Some((32. * best).round()), "what the page says is what was recorded");
    let confusion = evaluation["confusion"].as_array().expect("pairs");
    assert_eq!(confusion.iter().filter_map(|pair| pair[2].as_u64()).sum::<u64>(), 32);
    let mistakes = evaluation["mistakes"].as_array().expect("mistakes");
    let wrong = 32 - evaluation["correct"].as_u64().expect("a number");
    assert_eq!(mistakes.len() as u64, wrong.min(24));
    for mistake in mistakes {
        assert_ne!(mistake["class"], mistake["predicted"]);
        assert!(mistake["picture"].as_str().is_some_and(|picture| picture.starts_with("data:image/png;base64,iVBOR")));
    }
    let sure: Vec<f64> = mistakes.iter().filter_map(|mistake| mistake["probability"].as_f64()).collect();
    assert!(sure.is_sorted_by(|a, b| a >= b), "the surest first: {sure:?}");
    assert_eq!(run["architecture"]["input"], json!([3, 32, 32]));
    assert!(run["architecture"]["layers"].as_array().is_some_and(|layers| layers.len() > 20));
}

/// All of a registry: its file, or every row of its database.
fn contents(folder: &Path) -> Vec<u8> {
    #[cfg(feature = "postgres")]
    if let Some(database) = crate::it::server::database(folder) {
        return crate::it::server::contents(&database);
    }
    std::fs::read(crate::it::registry::sqlite_file(folder)).expect("a registry")
}

/// `serve`, until it is dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut command = binary();
        command.args(["serve", "--port", "0", "--json"]).args(registry_of(folder));
        let mut process = command.stdout(Stdio::piped()).spawn().expect("started");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        let address = event["address"].as_str().expect("an address").trim_start_matches("http://").to_owned();
        Server { process, address }
    }

    /// Sends bytes, and returns what comes back until the server hangs up.
    fn send(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        // A server that refuses early may hang up before all is sent.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn request(&self, line: &str, headers: &str) -> String {
        self.send(format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.request(&format!("GET {path}"), &format!("Host: {}\r\n", self.address));
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        (status(head), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

#[test]
fn the_server_lists_filters_and_compares() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    finished_run(folder.path(), 2, 0.75);
    let hostile = "</script><script>alert(1)</script>";
    Sketch { name: hostile, model: "resnet34", ..Sketch::default() }.record(folder.path(), 3);
    let server = Server::start(folder.path());

    let (status, all) = server.get("/api/runs");
    assert_eq!((status, &all["total"], all["runs"].as_array().map(Vec::len)), (200, &json!(3), Some(3)));
    let (_, some) = server.get("/api/runs?filter=val.top1+%3E+0.6+or+model+%3D+%22resnet34%22&sort=val.top1+desc");
    let names: Vec<&str> =
        some["runs"].as_array().expect("runs").iter().filter_map(|run| run["name"].as_str()).collect();
    assert_eq!(names, ["run-2", hostile]);
    let (_, page) = server.get("/api/runs?limit=1&offset=2");
    assert_eq!((&page["total"], &page["offset"], &page["runs"][0]["name"]), (&json!(3), &json!(2), &json!("run-1")));
    let (_, story) = server.get("/api/story?runs=run-1,run-2");
    assert_eq!(story["settings"][0]["values"], json!(["0.5", "0.75"]));
    assert_eq!(story["runs"][0]["live"], false);

    for (path, expected) in [
        ("/api/runs?filter=val.top2+%3E+0.6", "did you mean `val.top1`?"),
        ("/api/runs?filter=(", "^"),
        ("/api/runs?limit=-1", "`limit` must be a whole number"),
        ("/api/story?runs=nobody", "there is no run `nobody`"),
        ("/api/story", "`runs` must name 1 to 50 runs"),
    ] {
        let (status, answer) = server.get(path);
        let error = answer["error"].as_str().expect("an error");
        assert!(status == 400 && error.contains(expected), "{path}: {status} {error}");
    }
}

#[test]
fn the_server_changes_nothing_and_answers_no_stranger() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let before = contents(folder.path());
    let server = Server::start(folder.path());
    let own = format!("Host: {}\r\n", server.address);
    let port = server.address.rsplit(':').next().expect("a port");

    let page = server.request("GET /", &own);
    for header in
        ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "frame-ancestors 'none'"]
    {
        assert!(page.starts_with("HTTP/1.1 200") && page.to_lowercase().contains(header), "{header}: {page}");
    }
    assert!(!page.to_lowercase().contains("access-control"), "no other site may read this");
    let head = server.request("HEAD /api/runs", &own);
    assert!(status(&head) == 200 && head.ends_with("\r\n\r\n"), "{head}");
    let localhost =
        format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(status(&server.request("GET /api/runs", &localhost)), 200);

    let mut refused: Vec<(String, String, u16)> = Vec::new();
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"] {
        refused.push((format!("{method} /api/runs"), own.clone(), 405));
    }
    for host in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost",
        "0.0.0.0",
        "[::1]",
        "localhost.evil.example",
        "",
    ] {
        refused.push(("GET /api/runs".to_owned(), format!("Host: {host}\r\n"), 421));
    }
    refused.push(("GET /api/runs".to_owned(), String::new(), 421));
    refused.push(("GET /api/runs".to_owned(), format!("{own}Host: evil.example\r\n"), 421));
    for origin in [
        "http://evil.example",
        "null",
        "https://127.0.0.1",
        "http://127.0.0.1:1",
        "file://",
        &format!("https://localhost:{port}"),
    ] {
        refused.push(("GET /api/runs".to_owned(), format!("{own}Origin: {origin}\r\n"), 403));
    }
    for site in ["cross-site", "same-site"] {
        refused.push((
            "GET /api/runs".to_owned(),
            format!("{own}Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: cors\r\n"),
            403,
        ));
    }
    for path in [
        "/registry.sqlite3",
        "/../registry.sqlite3",
        "/%2e%2e/registry.sqlite3",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/api",
        "/api/runs/",
        "/api/sql?q=select+1",
        "/page.css/../../Cargo.toml",
        "/.git/config",
        "/%00",
    ] {
        refused.push((format!("GET {path}"), own.clone(), 404));
    }
    refused.push(("GET /api/runs".to_owned(), format!("{own}Content-Length: 5\r\n\r\nhello"), 413));
    refused.push((
        "GET /api/runs".to_owned(),
        format!("{own}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
        413,
    ));
    refused.push((format!("GET /api/runs?filter={}", "a".repeat(40_000)), own.clone(), 414));
    assert!(refused.len() >= 40, "{}", refused.len());
    for (line, headers, expected) in &refused {
        let answer = server.request(line, headers);
        let line = &line[..line.len().min(80)];
        assert_eq!(status(&answer), *expected, "{line} with {headers:?}: {answer}");
        assert!(!answer.contains("run-1"), "{line} with {headers:?} leaks: {answer}");
    }
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &[b'A'; 200_000]] {
        let answer = server.send(nonsense);
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(status(&server.request("GET /api/runs", &own)), 200, "it still answers");
    drop(server);
    assert_eq!(contents(folder.path()), before, "not a byte changed");
}

#[test]
fn serving_what_is_not_there_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = zoo(folder.path(), &["serve", "--port", "0"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    finished_run(folder.path(), 1, 0.5);
    let server = Server::start(folder.path());
    let port = server.address.rsplit(':').next().expect("a port").to_owned();
    let output = zoo(folder.path(), &["serve", "--port", &port]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--port 0 takes one that is free"), "{}", stderr(&output));
}

#[test]
fn a_run_is_watched_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    finished_run(folder.path(), 1, 0.5);
    let output = stdout(&zoo(folder.path(), &["watch", "run-1"]));
    assert!(output.contains("COMPLETED  step 3") && output.contains("val.top1 25.00 %"), "{output}");
    let once = stdout(&zoo(folder.path(), &["watch", "run-1", "--once"]));
    assert!(once.contains("val.top1\n") && once.contains('└'), "{once}");
    let crashed = Sketch { name: "dead", state: None, values: &[("val.top1", &[0.5])], ..Sketch::default() };
    crashed.record(folder.path(), 2);
    let output = zoo(folder.path(), &["watch", "dead", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line");
    assert_eq!(
        (&line["event"], &line["state"], &line["seconds_left"]),
        (&json!("watch"), &json!("CRASHED"), &Value::Null)
    );
    assert!(stderr(&output).contains("CRASHED: its process died"), "{}", stderr(&output));
    let output = zoo(folder.path(), &["watch", "nobody"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
