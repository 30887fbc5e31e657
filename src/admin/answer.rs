//! What is answered: bodies, headers, errors.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Problem;
use crate::control::handle::Error;

/// What is allowed to a browser that shows an answer: nothing.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'";

/// A request that is not done: the status, and what is said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) body: Value,
    /// The methods that would do, with 405.
    pub(super) allow: Option<&'static str>,
}

/// A refusal that says one thing.
pub(super) fn refuse(status: u16, message: String) -> Refusal {
    Refusal { status, body: json!({ "error": message }), allow: None }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Unknown(_) => refuse(404, message),
            Error::NotNow(_) => refuse(409, message),
            Error::Gone => refuse(503, message),
            Error::Problems { file, problems } => {
                let problems: Vec<_> = problems.iter().map(problem).collect();
                let body = json!({ "error": message, "file": &*file, "problems": problems });
                Self { status: 422, body, allow: None }
            }
        }
    }
}

fn problem(problem: &Problem) -> Value {
    let Problem { line, column, path, message } = problem;
    json!({ "line": line, "column": column, "path": path, "message": message })
}

/// A body: whole, or made while it is sent.
#[derive(Debug)]
pub(super) enum Content {
    Whole(Option<Bytes>),
    /// What comes, and the task that makes it, which ends with this.
    Feed(mpsc::Receiver<Bytes>, #[expect(dead_code, reason = "held to end it")] JoinSet<()>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Feed(feed, _) => {
                feed.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Feed(..) => SizeHint::default(),
        }
    }
}

/// An answer of 200.
pub(super) fn answer(kind: &'static str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(NOTHING));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// An answer of 200 with this text.
pub(super) fn text(kind: &'static str, text: impl Into<Bytes>) -> Response<Content> {
    answer(kind, Content::Whole(Some(text.into())))
}

/// An answer of 200 with this value as JSON.
pub(super) fn json(value: &impl Serialize) -> Response<Content> {
    match serde_json::to_vec(value) {
        Ok(bytes) => text("application/json", bytes),
        Err(error) => refuse(500, format!("the answer cannot be written: {error}")).into_response(),
    }
}

impl Refusal {
    pub(super) fn into_response(self) -> Response<Content> {
        let mut response = text("application/json", self.body.to_string());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if self.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}
