use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::Options;
use super::Endpoint;

/// A client that follows events.
struct Follower {
    stream: TcpStream,
    read: String,
}

impl Follower {
    async fn start(endpoint: &Endpoint, header: &str) -> Self {
        let mut stream = endpoint.connect().await;
        let request = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
             {header}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut follower = Self { stream, read: String::new() };
        follower.until(": events").await;
        follower
    }

    /// Reads until this has come.
    async fn until(&mut self, text: &str) -> &str {
        let mut buffer = [0; 4096];
        while !self.read.contains(text) {
            let read = tokio::time::timeout(Duration::from_secs(60), self.stream.read(&mut buffer));
            let count = read.await.expect("an event in time").unwrap();
            assert!(count > 0, "the stream has ended after {}", self.read);
            self.read += std::str::from_utf8(&buffer[..count]).unwrap();
        }
        &self.read
    }
}

fn evict(endpoint: &Endpoint, name: &str) {
    endpoint.world.lock().unwrap().set("app", name, "unhealthy", "3 checks failed in a row");
}

#[tokio::test]
async fn who_follows_hears_what_happens_from_then_on() {
    let endpoint = Endpoint::start(Options::default()).await;
    evict(&endpoint, "app-1");
    let mut follower = Follower::start(&endpoint, "").await;
    evict(&endpoint, "app-2");
    let heard = follower.until("app-2").await;
    assert!(heard.contains("content-type: text/event-stream"));
    assert!(heard.contains("id: 2\ndata: {\"id\":2,"), "{heard}");
    assert!(!heard.contains("app-1"), "{heard}");
}

#[tokio::test]
async fn who_comes_back_hears_what_was_missed_and_nothing_twice() {
    let endpoint = Endpoint::start(Options::default()).await;
    for name in ["app-1", "app-2", "app-3"] {
        evict(&endpoint, name);
    }
    let mut follower = Follower::start(&endpoint, "Last-Event-ID: 1\r\n").await;
    evict(&endpoint, "app-1");
    let heard = follower.until("id: 4\n").await;
    let ids: Vec<_> = heard.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["2", "3", "4"]);
}

#[tokio::test]
async fn who_comes_back_to_another_process_hears_all_of_its_events() {
    let endpoint = Endpoint::start(Options::default()).await;
    evict(&endpoint, "app-1");
    let mut follower = Follower::start(&endpoint, "Last-Event-ID: 900\r\n").await;
    assert!(follower.until("app-1").await.contains("id: 1\n"));
}

#[tokio::test(start_paused = true)]
async fn a_comment_is_sent_when_nothing_happens() {
    let endpoint = Endpoint::start(Options::default()).await;
    let mut follower = Follower::start(&endpoint, "").await;
    follower.until(": still here").await;
}
