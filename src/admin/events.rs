//! Events as they happen: server-sent events (HTML Living Standard, section 9.2).

use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::answer::{Content, answer};
use crate::control::event::{Event, Events};

/// A comment is sent when nothing else was for so long: it keeps the way open, and finds out who
/// has gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that may wait to be sent; further ones wait in the ring.
const WAITING: usize = 16;

/// Answers with all events from now on; after those that came since the one that the client says it
/// had last (`Last-Event-ID`).
pub(super) fn follow(events: &Events, headers: &HeaderMap) -> Response<Content> {
    let newest = events.since(0).last().map_or(0, |event| event.id);
    let had = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.trim().parse().ok());
    // A number that is yet to come was given by another process: this one's are all news.
    let after = match had {
        Some(had) if had > newest => 0,
        Some(had) => had,
        None => newest,
    };
    let (to, feed) = mpsc::channel(WAITING);
    let mut task = JoinSet::new();
    task.spawn(pump(events.clone(), after, to));
    answer("text/event-stream", Content::Feed(feed, task))
}

/// Sends events until nobody receives them any more.
async fn pump(events: Events, mut after: u64, to: mpsc::Sender<Bytes>) {
    // Makes proxies and clients see the head of the answer at once.
    if to.send(Bytes::from_static(b": events\n\n")).await.is_err() {
        return;
    }
    loop {
        let (kept, mut feed) = events.follow(after);
        for event in kept {
            after = event.id;
            if to.send(frame(&event)).await.is_err() {
                return;
            }
        }
        loop {
            let sent = match tokio::time::timeout(KEEP_ALIVE, feed.recv()).await {
                Ok(Ok(event)) => {
                    after = event.id;
                    to.send(frame(&event)).await
                }
                // What was missed is still in the ring, or lost to everybody.
                Ok(Err(RecvError::Lagged(_))) => break,
                Ok(Err(RecvError::Closed)) => return,
                Err(_) => to.send(Bytes::from_static(b": still here\n\n")).await,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// One event. JSON has no line breaks, so one line of data is enough.
fn frame(event: &Event) -> Bytes {
    let data = serde_json::to_string(event).unwrap_or_else(|_| "null".to_owned());
    format!("id: {}\ndata: {data}\n\n", event.id).into()
}
