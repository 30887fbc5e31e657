use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::super::{MAX_CONNECTIONS, Options};
use super::Endpoint;

/// Waits until the endpoint has closed the connection, and says how long that took.
async fn until_closed(stream: &mut tokio::net::TcpStream) -> Duration {
    let start = Instant::now();
    let mut sink = Vec::new();
    let ended = timeout(Duration::from_secs(30), stream.read_to_end(&mut sink)).await;
    // An end and a reset are both an end.
    let _ = ended.expect("the endpoint closes in time");
    start.elapsed()
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection_after_five_seconds() {
    let endpoint = Endpoint::start(Options::default()).await;
    let mut silent = endpoint.connect().await;
    let mut slow = endpoint.connect().await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: local").await.unwrap();
    let mut idle = endpoint.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let ended =
        tokio::join!(until_closed(&mut silent), until_closed(&mut slow), until_closed(&mut idle));
    for took in [ended.0, ended.1, ended.2] {
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_after_five_seconds() {
    let endpoint = Endpoint::start(Options::default()).await;
    let start = Instant::now();
    let answer = endpoint
        .raw(
            "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
        )
        .await;
    assert_eq!(answer.status, 408);
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn large_heads_and_bodies_are_refused() {
    let endpoint = Endpoint::start(Options::default()).await;
    let big = "x".repeat(70_000);
    let answer = endpoint.post("/api/v1/reload", &big).await;
    assert_eq!(answer.status, 413);
    let answer = endpoint.ask("GET /livez", &format!("X-Big: {big}\r\n"), "").await;
    assert!(matches!(answer.status, 431 | 0), "{}", answer.status);
    assert_eq!(endpoint.get("/livez").await.status, 200);
}

#[tokio::test]
async fn no_more_than_the_cap_are_open_and_a_slot_that_is_free_again_serves() {
    let endpoint = Endpoint::start(Options::default()).await;
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = endpoint.connect().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        open.push(stream);
    }
    let mut one_more = endpoint.connect().await;
    assert!(until_closed(&mut one_more).await < Duration::from_secs(3), "closed at once");
    drop(open);
    let start = Instant::now();
    while endpoint.get("/livez").await.status != 200 {
        assert!(start.elapsed() < Duration::from_secs(5));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_order() {
    let endpoint = Endpoint::start(Options::default()).await;
    let one = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let last = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = endpoint.raw(&format!("{one}{last}")).await;
    assert_eq!(answer.body.matches("\"alive\"").count(), 50);
    assert!(answer.body.ends_with(r#"{"ready":true,"pools":[]}"#), "{}", answer.body);
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_and_is_cut_off() {
    let endpoint = Endpoint::start(Options::default()).await;
    let mut deaf = endpoint.connect().await;
    // Answers enough to fill every buffer on the way.
    let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2_000);
    let sending = timeout(Duration::from_secs(1), deaf.write_all(many.as_bytes()));
    let _ = sending.await;
    assert_eq!(endpoint.get("/livez").await.status, 200);
    let start = Instant::now();
    loop {
        // Nothing is read; the socket learns that it was reset.
        if deaf.try_write(b"x").is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(25), "it is cut off in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
