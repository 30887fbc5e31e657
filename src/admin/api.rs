//! From a request to its answer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use serde_json::{Map, Value, json};

use super::answer::{Content, Refusal, json, refuse, text};
use super::auth::{self, Options};
use super::{dashboard, events};
use crate::config::model::Backend;
use crate::config::unit::parse_duration;
use crate::control::handle::{Explain, Filter, Handle, Operation};
use crate::metrics;

/// Bytes of a request's body.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take.
const BODY: Duration = Duration::from_secs(5);

const OPENAPI: &str = include_str!("openapi.json");

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Dashboard,
    Metrics,
    Live,
    Ready,
    OpenApi,
    Status,
    Events,
    Connections,
    Explain,
    Reload,
    Pool(String),
    Failover(String),
    Operate(String, String, Verb),
}

/// What an operator does to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Drain,
    Enable,
    Disable,
    Kill,
    Weight,
}

/// Answers a request. Cancel safe as far as the controller is: a change that it was asked for may
/// be done all the same.
pub(super) async fn answer(
    request: Request<Incoming>,
    handle: &Handle,
    options: &Options,
) -> Response<Content> {
    let (head, body) = request.into_parts();
    let answered = respond(&head, body, handle, options).await;
    answered.unwrap_or_else(|refusal| {
        // A browser cannot be told a token but by a page that asks for it. The page holds nothing.
        if refusal.status == 401 && head.uri.path() == "/" && accepts(&head.headers, "text/html") {
            let mut page = dashboard::page();
            *page.status_mut() = hyper::StatusCode::UNAUTHORIZED;
            return page;
        }
        refusal.into_response()
    })
}

async fn respond(
    head: &Parts,
    body: Incoming,
    handle: &Handle,
    options: &Options,
) -> Result<Response<Content>, Refusal> {
    options.check_host(&head.headers)?;
    options.check_token(&head.headers, head.uri.path())?;
    let target = target(head.uri.path())?;
    let method = target.method();
    let is_right = head.method == method || (method == Method::GET && head.method == Method::HEAD);
    if !is_right {
        let mut refusal = refuse(405, format!("this takes {method}, not {}", head.method));
        refusal.allow = Some(target.allow());
        return Err(refusal);
    }
    if method == Method::GET {
        return read(&target, head, handle).await;
    }
    auth::check_origin(&head.headers)?;
    let body = read_body(body).await?;
    auth::check_content(&head.headers, body.is_empty())?;
    change(target, &body, handle).await
}

async fn read(
    target: &Target,
    head: &Parts,
    handle: &Handle,
) -> Result<Response<Content>, Refusal> {
    let allowed: &[&str] = match target {
        Target::Connections => &["pool", "backend", "source"],
        Target::Explain => &["listener", "source", "sni"],
        // A monitoring system or a browser may add what it likes.
        Target::Dashboard | Target::Metrics | Target::Live | Target::Ready => {
            return plain(target, handle).await;
        }
        _ => &[],
    };
    let mut query = query(head.uri.query().unwrap_or_default(), allowed)?;
    match target {
        Target::Status => Ok(json(&handle.status().await?)),
        Target::Pool(pool) => Ok(json(&handle.pool(pool.clone()).await?)),
        Target::Events if accepts(&head.headers, "text/event-stream") => {
            Ok(events::follow(handle.events(), &head.headers))
        }
        Target::Events => Ok(json(&handle.events().since(0))),
        Target::Connections => {
            let source = query.remove("source").map(|text| address(&text)).transpose()?;
            let (pool, backend) = (query.remove("pool"), query.remove("backend"));
            Ok(json(&handle.connections(Filter { pool, backend, source }).await?))
        }
        Target::Explain => {
            let mut need = |key: &str, example: &str| {
                let missing = || refuse(400, format!("{key} is missing: add {key}={example}"));
                query.remove(key).ok_or_else(missing)
            };
            let listener = need("listener", "NAME")?;
            let source = address(&need("source", "192.0.2.7")?)?;
            let sni = query.remove("sni");
            Ok(json(&handle.explain(Explain { listener, source, sni }).await?))
        }
        _ => Ok(text("application/json", OPENAPI)),
    }
}

async fn plain(target: &Target, handle: &Handle) -> Result<Response<Content>, Refusal> {
    match target {
        Target::Live => Ok(json(&json!({ "alive": true }))),
        Target::Ready => {
            let pools = handle.unready().await?;
            if pools.is_empty() {
                return Ok(json(&json!({ "ready": true, "pools": [] })));
            }
            let message = format!("no backend in rotation: {}", pools.join(", "));
            let body = json!({ "ready": false, "error": message, "pools": pools });
            Err(Refusal { status: 503, body, allow: None })
        }
        Target::Metrics => {
            let page = metrics::render(&handle.measures().await?);
            let page =
                page.map_err(|e| refuse(500, format!("the metrics cannot be written: {e}")))?;
            Ok(text(metrics::CONTENT_TYPE, page))
        }
        _ => Ok(dashboard::page()),
    }
}

async fn change(
    target: Target,
    body: &Bytes,
    handle: &Handle,
) -> Result<Response<Content>, Refusal> {
    match target {
        Target::Failover(pool) => {
            let mut body = Body::read(body, &["backend"])?;
            let backend = body.text("backend", "the name of a backend")?;
            Ok(json(&handle.failover(pool, backend).await?))
        }
        Target::Operate(pool, backend, verb) => {
            let operation = verb.operation(body)?;
            Ok(json(&handle.operate(pool, backend, operation).await?))
        }
        _ => {
            Body::read(body, &[])?;
            Ok(json(&json!({ "changed": handle.reload().await? })))
        }
    }
}

impl Verb {
    /// The verb of this name.
    fn find(word: &str) -> Option<Self> {
        Some(match word {
            "drain" => Self::Drain,
            "enable" => Self::Enable,
            "disable" => Self::Disable,
            "kill" => Self::Kill,
            "weight" => Self::Weight,
            _ => return None,
        })
    }

    fn operation(self, body: &Bytes) -> Result<Operation, Refusal> {
        match self {
            Self::Kill => {
                let expected = "a duration such as \"10m\"";
                let idle = Body::read(body, &["idle"])?.text("idle", expected)?;
                let read = |text: String| {
                    parse_duration(&text).map_err(|hint| {
                        let gap = if hint.is_empty() { "" } else { "; " };
                        refuse(400, format!("idle: expected {expected}, found {text:?}{gap}{hint}"))
                    })
                };
                Ok(Operation::Kill { idle: idle.map(read).transpose()? })
            }
            Self::Weight => {
                let weight = Body::read(body, &["weight"])?.weight()?;
                Ok(Operation::Weight(weight))
            }
            _ => {
                Body::read(body, &[])?;
                Ok(match self {
                    Self::Drain => Operation::Drain,
                    Self::Disable => Operation::Disable,
                    _ => Operation::Enable,
                })
            }
        }
    }
}

impl Target {
    fn method(&self) -> Method {
        match self {
            Self::Operate(_, _, Verb::Weight) => Method::PUT,
            Self::Operate(..) | Self::Failover(_) | Self::Reload => Method::POST,
            _ => Method::GET,
        }
    }

    fn allow(&self) -> &'static str {
        match self.method() {
            Method::PUT => "PUT",
            Method::POST => "POST",
            _ => "GET, HEAD",
        }
    }
}

/// What a path names. It is split before it is decoded, so a name may hold a slash.
fn target(path: &str) -> Result<Target, Refusal> {
    let unknown = || refuse(404, format!("there is nothing at {path}"));
    let parts: Vec<&str> = path.strip_prefix('/').ok_or_else(unknown)?.split('/').collect();
    Ok(match parts[..] {
        [""] => Target::Dashboard,
        ["metrics"] => Target::Metrics,
        ["livez"] => Target::Live,
        ["readyz"] => Target::Ready,
        ["api", "v1", "openapi.json"] => Target::OpenApi,
        ["api", "v1", "status"] => Target::Status,
        ["api", "v1", "events"] => Target::Events,
        ["api", "v1", "connections"] => Target::Connections,
        ["api", "v1", "explain"] => Target::Explain,
        ["api", "v1", "reload"] => Target::Reload,
        ["api", "v1", "pools", pool] => Target::Pool(decoded(pool)?),
        ["api", "v1", "pools", pool, "failover"] => Target::Failover(decoded(pool)?),
        ["api", "v1", "pools", pool, "backends", backend, verb] => {
            let verb = Verb::find(verb).ok_or_else(unknown)?;
            Target::Operate(decoded(pool)?, decoded(backend)?, verb)
        }
        _ => return Err(unknown()),
    })
}

fn decoded(part: &str) -> Result<String, Refusal> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8();
    let text = text.map_err(|_| refuse(400, format!("{part} is no UTF-8 once it is decoded")))?;
    Ok(text.into_owned())
}

/// The parameters of a query, each of those allowed at most once.
fn query(text: &str, allowed: &[&'static str]) -> Result<HashMap<&'static str, String>, Refusal> {
    let mut found = HashMap::new();
    for (key, value) in form_urlencoded::parse(text.as_bytes()) {
        let Some(key) = allowed.iter().find(|allowed| **allowed == key) else {
            let known: Cow<'_, str> =
                if allowed.is_empty() { "none".into() } else { allowed.join(", ").into() };
            return Err(refuse(400, format!("unknown parameter {key:?}; known here: {known}")));
        };
        if found.insert(*key, value.into_owned()).is_some() {
            return Err(refuse(400, format!("{key} is given twice")));
        }
    }
    Ok(found)
}

fn address(text: &str) -> Result<std::net::IpAddr, Refusal> {
    let wrong = |_| refuse(400, format!("source: expected an IP address, found {text:?}"));
    text.parse().map(|ip: std::net::IpAddr| ip.to_canonical()).map_err(wrong)
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|list| {
            list.split(',').any(|one| {
                one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind)
            })
        })
    })
}

async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let all = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(BODY, all).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(refuse(413, format!("the body may have {MAX_BODY_BYTES} bytes")))
        }
        Ok(Err(error)) => Err(refuse(400, format!("the body cannot be read: {error}"))),
        Err(_) => Err(refuse(408, format!("the body was not there within {} s", BODY.as_secs()))),
    }
}

/// A body: a JSON object with some of the keys that are known; none is one without members.
struct Body(Map<String, Value>);

impl Body {
    fn read(body: &Bytes, known: &[&str]) -> Result<Self, Refusal> {
        let bytes: &[u8] = if body.is_empty() { b"{}" } else { body };
        let value = serde_json::from_slice(bytes)
            .map_err(|error| refuse(400, format!("the body is no JSON: {error}")))?;
        let Value::Object(members) = value else {
            return Err(refuse(400, format!("the body: expected a JSON object, found {value}")));
        };
        match members.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(refuse(400, format!("the body: unknown key {key:?}; known here: {known}")))
            }
            None => Ok(Self(members)),
        }
    }

    /// A member that is text; null is none.
    fn text(&mut self, key: &str, expected: &str) -> Result<Option<String>, Refusal> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(refuse(400, format!("{key}: expected {expected}, found {other}"))),
        }
    }

    fn weight(&self) -> Result<u32, Refusal> {
        let most = Backend::MAX_WEIGHT;
        let Some(value) = self.0.get("weight") else {
            return Err(refuse(400, "weight is missing; write {\"weight\": 5}".to_owned()));
        };
        let weight = value.as_u64().and_then(|weight| u32::try_from(weight).ok());
        weight.filter(|weight| *weight <= most).ok_or_else(|| {
            refuse(400, format!("weight: expected a whole number from 0 to {most}, found {value}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_may_hold_anything() {
        let path = "/api/v1/pools/a%20b/backends/unix%3A%2Frun%2Fapp.sock/drain";
        let expected =
            Target::Operate("a b".to_owned(), "unix:/run/app.sock".to_owned(), Verb::Drain);
        assert_eq!(target(path), Ok(expected));
        assert_eq!(target("/api/v1/pools/%FF").unwrap_err().status, 400);
    }

    #[test]
    fn what_is_nearly_a_path_is_none() {
        for path in ["/api/v1/status/", "//livez", "/api/v1/pools", "/api", "/Metrics", "x", "/.."]
        {
            assert_eq!(target(path).unwrap_err().status, 404, "{path}");
        }
    }

    #[test]
    fn a_parameter_is_known_and_there_once() {
        let found = query("source=%3A%3A1&pool=a+b", &["pool", "source"]).unwrap();
        assert_eq!((&*found["source"], &*found["pool"]), ("::1", "a b"));
        for wrong in ["sauce=1", "pool=a&pool=b"] {
            assert_eq!(query(wrong, &["pool", "source"]).unwrap_err().status, 400);
        }
    }

    #[test]
    fn a_kill_may_spare_what_is_not_idle() {
        let kill = |body: &'static str| Verb::Kill.operation(&Bytes::from_static(body.as_bytes()));
        assert_eq!(kill(""), Ok(Operation::Kill { idle: None }));
        let idle = Some(Duration::from_secs(600));
        assert_eq!(kill(r#"{"idle":"10m"}"#), Ok(Operation::Kill { idle }));
        for wrong in [r#"{"idle":"ten"}"#, r#"{"idel":"10m"}"#, "[", r#"{"idle":10}"#] {
            assert_eq!(kill(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn a_weight_is_in_range() {
        let weight =
            |body: &'static str| Verb::Weight.operation(&Bytes::from_static(body.as_bytes()));
        assert_eq!(weight(r#"{"weight":5}"#), Ok(Operation::Weight(5)));
        let range = "weight: expected a whole number from 0 to 65535, found";
        for (wrong, told) in [
            ("", "weight is missing; write {\"weight\": 5}".to_owned()),
            ("[5]", "the body: expected a JSON object, found [5]".to_owned()),
            (r#"{"wieght":5}"#, "the body: unknown key \"wieght\"; known here: weight".to_owned()),
            (r#"{"weight":65536}"#, format!("{range} 65536")),
            (r#"{"weight":-1}"#, format!("{range} -1")),
            (r#"{"weight":"5"}"#, format!("{range} \"5\"")),
            (r#"{"weight":1.5}"#, format!("{range} 1.5")),
        ] {
            let refusal = weight(wrong).unwrap_err();
            assert_eq!((refusal.status, refusal.body["error"].as_str()), (400, Some(&*told)));
        }
    }
}
