use serde_json::json;

use super::super::Options;
use super::document::assert_documented;
use super::{Answer, Endpoint, guarded};
use crate::config::Problem;

const BACKEND: &str = "/api/v1/pools/{pool}/backends/{backend}/";

#[tokio::test]
async fn every_answer_is_as_the_document_says() {
    let endpoint = Endpoint::start(Options::default()).await;
    for (path, asked) in [
        ("/livez", "/livez"),
        ("/readyz", "/readyz"),
        ("/api/v1/openapi.json", "/api/v1/openapi.json"),
        ("/api/v1/status", "/api/v1/status"),
        ("/api/v1/pools/{pool}", "/api/v1/pools/db"),
        ("/api/v1/connections", "/api/v1/connections?pool=app&source=::ffff:192.0.2.1"),
        ("/api/v1/connections", "/api/v1/connections"),
        ("/api/v1/explain", "/api/v1/explain?listener=web&source=192.0.2.1&sni=x"),
    ] {
        let answer = endpoint.get(asked).await;
        assert_eq!(answer.status, 200, "{asked}: {}", answer.body);
        assert_documented(path, "get", &answer);
    }
    for verb in ["drain", "disable", "enable", "kill"] {
        let answer = endpoint.post(&format!("/api/v1/pools/app/backends/app-1/{verb}"), "").await;
        assert_eq!(answer.status, 200, "{verb}: {}", answer.body);
        assert_documented(&format!("{BACKEND}{verb}"), "post", &answer);
    }
    let path = "PUT /api/v1/pools/app/backends/app-1/weight";
    let answer = endpoint.ask(path, "JSON", r#"{"weight":7}"#).await;
    assert_eq!(answer.json()["weight"], 7);
    assert_documented(&format!("{BACKEND}weight"), "put", &answer);
    let answer = endpoint.post("/api/v1/pools/db/failover", "{}").await;
    assert_eq!(answer.json()["active"], "db-2");
    assert_documented("/api/v1/pools/{pool}/failover", "post", &answer);
    let answer = endpoint.post("/api/v1/reload", "").await;
    assert_eq!(answer.json()["changed"]["backends"]["added"], json!(["app/app-9"]));
    assert_documented("/api/v1/reload", "post", &answer);
    let answer = endpoint.get("/api/v1/events").await;
    let events = answer.json();
    let kinds: Vec<_> = events.as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["draining", "disabled", "enabled", "weight", "takeover"]);
    assert_documented("/api/v1/events", "get", &answer);
}

#[tokio::test]
async fn every_error_is_json_with_the_right_status() {
    let endpoint = Endpoint::start(Options::default()).await;
    let drain = format!("{BACKEND}drain");
    for (status, path, asked, body) in [
        (404, "/api/v1/pools/{pool}", "GET /api/v1/pools/nope", ""),
        (404, &*drain, "POST /api/v1/pools/app/backends/nope/drain", ""),
        (400, &*drain, "POST /api/v1/pools/app/backends/app-1/drain", r#"{"x":1}"#),
        (409, "/api/v1/pools/{pool}/failover", "POST /api/v1/pools/app/failover", ""),
        (400, "/api/v1/explain", "GET /api/v1/explain?listener=web", ""),
        (400, "/api/v1/explain", "GET /api/v1/explain?listener=web&source=x", ""),
        (400, "/api/v1/connections", "GET /api/v1/connections?sauce=1", ""),
    ] {
        let headers = if asked.starts_with("POST") { "JSON" } else { "" };
        let answer = endpoint.ask(asked, headers, body).await;
        assert_eq!(answer.status, status, "{asked}: {}", answer.body);
        let method = if headers.is_empty() { "get" } else { "post" };
        assert_documented(path, method, &answer);
    }
    let answer = endpoint.get("/nothing").await;
    assert_eq!((answer.status, answer.json()["error"].is_string()), (404, true));
}

#[tokio::test]
async fn a_refused_configuration_is_answered_with_every_problem() {
    let endpoint = Endpoint::start(Options::default()).await;
    endpoint.world.lock().unwrap().problems = vec![Problem {
        line: 14,
        column: 15,
        path: "pools.app.strategy".to_owned(),
        message: "unknown strategy \"leastconn\"".to_owned(),
    }];
    let answer = endpoint.post("/api/v1/reload", "").await;
    assert_eq!((answer.status, &answer.json()["problems"][0]["line"]), (422, &json!(14)));
    assert_documented("/api/v1/reload", "post", &answer);
}

#[tokio::test]
async fn readiness_names_the_pools_that_have_nothing_in_rotation() {
    let endpoint = Endpoint::start(Options::default()).await;
    endpoint.world.lock().unwrap().set("db", "db-1", "unhealthy", "3 checks failed");
    let answer = endpoint.get("/readyz").await;
    assert_eq!((answer.status, &answer.json()["pools"]), (503, &json!(["db"])));
    assert!(answer.json()["error"].as_str().unwrap().ends_with("db"));
    assert_documented("/readyz", "get", &answer);
    assert_eq!(endpoint.get("/livez").await.status, 200);
}

#[tokio::test]
async fn reading_changes_nothing_and_changing_is_no_reading() {
    let endpoint = Endpoint::start(Options::default()).await;
    for path in [
        "/api/v1/reload",
        "/api/v1/pools/db/failover",
        "/api/v1/pools/app/backends/app-1/drain",
        "/api/v1/pools/app/backends/app-1/weight",
    ] {
        let answer = endpoint.get(path).await;
        assert_eq!(answer.status, 405, "{path}");
        assert!(answer.head.contains("allow: P"), "{}", answer.head);
    }
    for path in ["/api/v1/status", "/metrics", "/", "/livez"] {
        assert_eq!(endpoint.post(path, "").await.status, 405, "{path}");
        let head = endpoint.ask(&format!("HEAD {path}"), "", "").await;
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
    }
    let options = endpoint.ask("OPTIONS /api/v1/reload", "Origin: http://evil.com\r\n", "").await;
    assert_eq!(options.status, 405);
    assert!(!options.head.contains("access-control"), "{}", options.head);
    assert!(endpoint.world.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn a_page_from_elsewhere_can_neither_read_nor_change() {
    let endpoint = Endpoint::start(Options::default()).await;
    let path = "/api/v1/pools/app/backends/app-1/drain";
    for host in ["evil.com", "127.0.0.1.evil.com", "localhost.evil.com"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(endpoint.raw(&request).await.status, 403, "{host}");
    }
    let line = format!("POST {path}");
    for headers in ["Origin: http://evil.com\r\nJSON", "Origin: null\r\nJSON"] {
        assert_eq!(endpoint.ask(&line, headers, "").await.status, 403, "{headers}");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let answer = endpoint.ask(&line, &format!("Content-Type: {kind}\r\n"), "{}").await;
        assert_eq!(answer.status, 415, "{kind}");
    }
    assert!(endpoint.world.lock().unwrap().asked.is_empty());
    let own = format!("Origin: http://{}\r\nJSON", endpoint.address);
    assert_eq!(endpoint.ask(&line, &own, "").await.status, 200);
}

#[tokio::test]
async fn with_a_token_only_the_probes_are_open() {
    let endpoint = Endpoint::start(guarded()).await;
    for path in ["/metrics", "/api/v1/status", "/api/v1/events", "/nothing", "/"] {
        let answer = endpoint.get(path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.head.contains("www-authenticate: Bearer"), "{}", answer.head);
        assert!(!answer.body.contains("s3cret"));
        let line = format!("GET {path}");
        let right = endpoint.ask(&line, "Authorization: Bearer s3cret\r\n", "").await;
        assert_ne!(right.status, 401, "{path}");
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(endpoint.get(path).await.status, 200, "{path}");
    }
    // The page that asks for the token has nothing in it that is secret.
    let page = endpoint.ask("GET /", "Accept: text/html,*/*;q=0.8\r\n", "").await;
    assert_eq!(page.status, 401);
    assert!(page.body.contains("<html"));
}

#[tokio::test]
async fn a_token_does_not_change_what_a_page_from_elsewhere_may() {
    let endpoint = Endpoint::start(guarded()).await;
    let headers = "Authorization: Bearer s3cret\r\nOrigin: http://evil.com\r\nJSON";
    assert_eq!(endpoint.ask("POST /api/v1/reload", headers, "").await.status, 403);
}

#[tokio::test]
async fn metrics_are_text_and_nothing_is_kept_by_browsers() {
    let endpoint = Endpoint::start(Options::default()).await;
    let answer = endpoint.get("/metrics").await;
    assert!(answer.body.contains("# TYPE tidegate_build_info gauge"));
    for header in [
        "content-type: text/plain; version=0.0.4",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "x-frame-options: DENY",
    ] {
        assert!(answer.head.contains(header), "{header}: {}", answer.head);
    }
}

#[tokio::test]
async fn the_dashboard_has_everything_in_it_and_a_policy_that_lets_nothing_else_in() {
    let endpoint = Endpoint::start(Options::default()).await;
    let (first, second) = (endpoint.get("/").await, endpoint.get("/").await);
    let nonce = |answer: &Answer| {
        let (_, rest) = answer.head.split_once("script-src 'nonce-").unwrap();
        rest.split('\'').next().unwrap().to_owned()
    };
    assert_ne!(nonce(&first), nonce(&second));
    assert!(first.head.contains("default-src 'none'"), "{}", first.head);
    assert!(!first.head.contains("unsafe"));
    assert_eq!(first.body.matches(&format!("nonce=\"{}\"", nonce(&first))).count(), 2);
    for outside in ["src=\"http", "href=\"http", "url(", "@import", "{{", " style=\"", " onclick"] {
        assert!(!first.body.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_for_its_user_alone_and_answers_the_same() {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{Socket, bind, serve};
    use super::script::{World, start};
    use crate::net::addr::Address;

    let path = std::env::temp_dir().join(format!("tidegate-admin-{}.sock", std::process::id()));
    let bound = bind(&Address::Unix(path.clone())).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let socket = Socket::new(&bound.sockets[0], &bound.address).unwrap();
    let (handle, _controller) = start(&World::new(1));
    let mut server = tokio::task::JoinSet::new();
    server.spawn(serve(socket, handle, Options::default()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(bound);
    assert!(!path.exists());
}
