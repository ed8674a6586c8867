//! HTTP for one person on one machine: answers from the registry, changes nothing, and nobody else gets to ask.

use super::page;
use super::story::Story;
use crate::error::{Error, Result};
use crate::registry::filter::{self, Catalogue};
use crate::registry::store::Selection;
use crate::registry::{Filter, Reader};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// A client that says nothing for so long is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look for a signal.
const LOOK: Duration = Duration::from_millis(100);
/// Connections at once; a browser opens six.
const CONNECTIONS: usize = 64;
/// Bytes of an address.
const LONGEST_ADDRESS: usize = 32 * 1024;
/// Runs of a page, unless asked otherwise, and at most.
const PAGE: (usize, usize) = (50, 500);
/// Runs that are compared at once.
const COMPARED: usize = 50;

/// Nothing may be loaded but what this server sends, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers until `stop` holds a signal.
///
/// # Errors
/// Where the socket fails.
pub(super) fn serve(listener: TcpListener, reader: Reader, stop: &AtomicUsize) -> Result<()> {
    let failed = |error: std::io::Error| Error::failed(format!("cannot serve: {error}"));
    let site = Arc::new(Site { hosts: hosts(listener.local_addr().map_err(failed)?), reader: Mutex::new(reader) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        while stop.load(Ordering::Relaxed) == 0 {
            let Ok(accepted) = timeout(LOOK, listener.accept()).await else { continue };
            // A client that is gone already, or no file descriptor left: the others go on.
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let Ok(place) = Arc::clone(&free).try_acquire_owned() else { continue };
            let site = Arc::clone(&site);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let site = Arc::clone(&site);
                    async move { Ok::<_, Infallible>(site.answer(request).await) }
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(2 * LONGEST_ADDRESS);
                // Whatever a client does wrong is its own affair.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
            });
        }
        Ok(())
    })
}

/// What a browser on this machine writes into `Host` when it means this server, and not a name that somebody else's DNS
/// lets point here.
fn hosts(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    vec![format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")]
}

struct Site {
    hosts: Vec<String>,
    reader: Mutex<Reader>,
}

/// What is answered: a status, a type and a body.
struct Answer(StatusCode, &'static str, Vec<u8>);

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

impl Answer {
    fn json(status: StatusCode, value: &impl Serialize) -> Self {
        Answer(status, JSON, serde_json::to_vec(value).expect("its maps have keys of text"))
    }

    fn refusal(status: StatusCode, why: &str) -> Self {
        Answer(status, TEXT, format!("{why}\n").into_bytes())
    }
}

impl Site {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let head = request.method() == Method::HEAD;
        let Answer(status, kind, body) = match self.refuse(&request) {
            Some(refusal) => refusal,
            None => {
                let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or("").to_owned());
                // SQLite blocks, and the registry has a runtime of its own.
                let answer = spawn_blocking(move || self.route(&path, &query)).await;
                answer.unwrap_or_else(|_| Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "the server has a fault"))
            }
        };
        let length = body.len();
        let body = if head { Full::default() } else { Full::from(body) };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        for (name, value) in [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    /// Refuses what no page of this server asks.
    fn refuse(&self, request: &Request<Incoming>) -> Option<Answer> {
        let refuse = |status, why| Some(Answer::refusal(status, why));
        let headers = request.headers();
        let only = |name| {
            let mut values = headers.get_all(name).iter();
            let first = values.next()?.to_str().ok()?;
            values.next().is_none().then_some(first)
        };
        let known = |host: &str| self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
        if !only(header::HOST).is_some_and(known) {
            return refuse(StatusCode::MISDIRECTED_REQUEST, "this server answers to 127.0.0.1 and localhost alone");
        }
        if headers.contains_key(header::ORIGIN) {
            let own = only(header::ORIGIN).and_then(|origin| origin.strip_prefix("http://")).is_some_and(known);
            if !own {
                return refuse(StatusCode::FORBIDDEN, "other sites may not read the registry");
            }
        }
        if foreign(headers) {
            return refuse(StatusCode::FORBIDDEN, "other sites may not read the registry");
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "this server only shows; it takes GET and HEAD");
        }
        if !request.body().is_end_stream() {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "this server takes no content");
        }
        if request.uri().to_string().len() > LONGEST_ADDRESS {
            return refuse(StatusCode::URI_TOO_LONG, "the address is too long");
        }
        None
    }

    fn route(&self, path: &str, query: &str) -> Answer {
        let parameters: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        match path {
            "/" => Answer(StatusCode::OK, HTML, page::served().into_bytes()),
            "/page.css" => Answer(StatusCode::OK, "text/css; charset=utf-8", page::CSS.into()),
            "/page.js" => Answer(StatusCode::OK, "text/javascript; charset=utf-8", page::JS.into()),
            "/api/runs" => self.read(|reader| list(reader, &parameters)),
            "/api/story" => self.read(|reader| story(reader, &parameters)),
            _ => Answer::refusal(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }

    fn read(&self, read: impl FnOnce(&mut Reader) -> Result<Value>) -> Answer {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match read(&mut reader) {
            Ok(value) => Answer::json(StatusCode::OK, &value),
            Err(error) => {
                let status = match error {
                    Error::Input(_) => StatusCode::BAD_REQUEST,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                Answer::json(status, &json!({"error": error.to_string()}))
            }
        }
    }
}

/// Whether a browser says that another site asks. Following a link to the page itself is fine.
fn foreign(headers: &HeaderMap) -> bool {
    let is = |name: &str, values: &[&str]| headers.get(name).is_some_and(|value| values.iter().any(|one| value == one));
    is("sec-fetch-site", &["cross-site", "same-site"]) && !is("sec-fetch-mode", &["navigate"])
}

fn parameter<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn number(parameters: &[(String, String)], name: &str, otherwise: usize) -> Result<usize> {
    let Some(text) = parameter(parameters, name) else { return Ok(otherwise) };
    text.parse().map_err(|_| Error::input(format!("`{name}` must be a whole number")))
}

/// `/api/runs?filter=..&sort=..&offset=..&limit=..&archived=1`.
fn list(reader: &mut Reader, parameters: &[(String, String)]) -> Result<Value> {
    let text = |name| parameter(parameters, name).map(str::trim).filter(|text| !text.is_empty());
    let filter = text("filter").map(|text| Filter::parse(text, reader)).transpose()?;
    let sort = text("sort").map(|text| filter::sort_order(text, reader)).transpose()?.unwrap_or_default();
    let archived = parameter(parameters, "archived") == Some("1");
    let all = reader.select(&Selection { filter, sort, archived })?;
    let limit = number(parameters, "limit", PAGE.0)?.min(PAGE.1);
    let page = all.cut(number(parameters, "offset", 0)?, Some(limit));
    Ok(
        json!({"runs": reader.listings(&page)?, "total": all.total, "offset": page.before, "metrics": reader.metrics()?}),
    )
}

/// `/api/story?runs=ID,ID`.
fn story(reader: &mut Reader, parameters: &[(String, String)]) -> Result<Value> {
    let ids = parameter(parameters, "runs").unwrap_or("").split(',').map(str::trim).filter(|id| !id.is_empty());
    let wanted: Vec<String> = ids.map(str::to_owned).collect();
    if wanted.is_empty() || wanted.len() > COMPARED {
        return Err(Error::input(format!("`runs` must name 1 to {COMPARED} runs, with commas between")));
    }
    let details = reader.details_of(&wanted)?;
    let story = Story::read(reader, &details)?;
    Ok(serde_json::to_value(story).expect("its maps have keys of text"))
}
