//! Every answer that the document has is given, and is as the document says.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::super::Options;
use super::script::World;
use super::{Answer, Endpoint, guarded};

const DOCUMENT: &str = include_str!("../openapi.json");

/// What the scripted controller cannot answer; `tests/suite` makes a real one do so.
const ELSEWHERE: [(&str, &str, u16); 1] = [("post", "/api/v1/reload", 409)];

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// Checks an answer against the kind and the schema that the document has for it.
#[track_caller]
pub(super) fn assert_documented(path: &str, method: &str, answer: &Answer) {
    let document = document();
    let status = answer.status.to_string();
    let content = &document["paths"][path][method]["responses"][&status]["content"];
    let kind = answer.header("content-type").split(';').next().unwrap_or_default().to_owned();
    let schema = &content[&kind]["schema"];
    assert!(schema.is_object(), "{method} {path} has no {kind} for {status}: {}", answer.body);
    if kind != "application/json" {
        return;
    }
    let mut root = json!({ "components": document["components"] });
    for (key, value) in schema.as_object().unwrap() {
        root[key] = value.clone();
    }
    let errors: Vec<_> = jsonschema::validator_for(&root)
        .unwrap()
        .iter_errors(&answer.json())
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{method} {path} {status}: {errors:?}\n{}", answer.body);
}

/// All that the document promises: method, path, status.
fn promised() -> BTreeSet<(String, String, u16)> {
    let mut promised = BTreeSet::new();
    for (path, methods) in document()["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let responses = operation["responses"].as_object();
            for status in responses.into_iter().flat_map(|all| all.keys()) {
                promised.insert((method.clone(), path.clone(), status.parse().unwrap()));
            }
        }
    }
    promised
}

/// A request that is in order: its path with names in it, and its body.
fn in_order(path: &str) -> (String, &'static str) {
    let pool = if path.ends_with("failover") { "db" } else { "app" };
    let asked = path.replace("{pool}", pool).replace("{backend}", "app-1");
    let query = if path.ends_with("explain") { "?listener=web&source=::1" } else { "" };
    let body = if path.ends_with("weight") { r#"{"weight":3}"# } else { "{}" };
    (asked + query, body)
}

/// Makes an endpoint answer with this status.
async fn provoke(method: &str, path: &str, status: u16) -> Answer {
    let open = || Endpoint::start(Options::default());
    let (asked, body) = in_order(path);
    let is_get = method == "get";
    let line = format!("{} {asked}", method.to_uppercase());
    let (json, body) = if is_get { ("", "") } else { ("JSON", body) };
    match status {
        400 if is_get => open().await.get(&format!("{path}?nonsense=1")).await,
        400 => open().await.ask(&line, json, "[").await,
        401 => Endpoint::start(guarded()).await.ask(&line, json, body).await,
        403 => {
            let host = format!("{line} HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n");
            open().await.raw(&host).await
        }
        404 if path.ends_with("explain") => {
            open().await.get(&format!("{path}?listener=nope&source=::1")).await
        }
        404 => {
            let line = line.replace("/app", "/nope").replace("/db", "/nope");
            open().await.ask(&line, json, body).await
        }
        405 => open().await.ask(&format!("DELETE {asked}"), "", "").await,
        408 => {
            let head = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
            let begun = format!("{line} HTTP/1.1\r\n{head}Content-Length: 10\r\n\r\n{{");
            open().await.raw(&begun).await
        }
        409 => open().await.post("/api/v1/pools/app/failover", "{}").await,
        413 => open().await.ask(&line, json, &"x".repeat(70_000)).await,
        415 => open().await.ask(&line, "Content-Type: text/plain\r\n", body).await,
        422 => {
            let endpoint = open().await;
            endpoint.world.lock().unwrap().problems = vec![crate::config::Problem {
                line: 1,
                column: 1,
                path: "pools".to_owned(),
                message: "missing".to_owned(),
            }];
            endpoint.ask(&line, json, body).await
        }
        503 if path == "/readyz" => {
            let endpoint = open().await;
            endpoint.world.lock().unwrap().set("db", "db-1", "unhealthy", "refused");
            endpoint.ask(&line, json, body).await
        }
        503 => {
            let mut endpoint = open().await;
            endpoint.end_controller().await;
            endpoint.ask(&line, json, body).await
        }
        _ => {
            let answer = Endpoint::with(World::new(3), Options::default()).await;
            answer.ask(&line, json, body).await
        }
    }
}

#[tokio::test]
async fn every_answer_that_is_promised_is_given_and_as_promised() {
    let mut promised = promised();
    assert_eq!(promised.iter().map(|(_, path, _)| path).collect::<BTreeSet<_>>().len(), 17);
    for (method, path, status) in ELSEWHERE {
        assert!(promised.remove(&(method.to_owned(), path.to_owned(), status)));
    }
    let mut asking = JoinSet::new();
    for (method, path, status) in promised {
        asking.spawn(async move {
            let answer = provoke(&method, &path, status).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            assert_documented(&path, &method, &answer);
        });
    }
    while let Some(done) = asking.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn events_as_they_happen_are_documented_too() {
    let endpoint = Endpoint::start(Options::default()).await;
    let mut stream = endpoint.connect().await;
    let request = "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
                   Last-Event-ID: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    endpoint.post("/api/v1/pools/app/backends/app-1/drain", "").await;
    let _ = endpoint.world.lock().unwrap().failover("db", None);
    let (mut read, mut buffer) = (String::new(), [0; 4096]);
    while !read.contains("\"takeover\"") || !read.ends_with("\n\n\r\n") {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "{read}");
        read += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    let kind = &document()["paths"]["/api/v1/events"]["get"]["responses"]["200"]["content"];
    assert!(kind["text/event-stream"].is_object());
    let events: Vec<Value> = read
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(events.len(), 2, "{read}");
    let answer = endpoint.get("/api/v1/events").await;
    assert_eq!(answer.json(), Value::Array(events), "the same as without following");
    assert_documented("/api/v1/events", "get", &answer);
}
