//! The way from a command to the admin endpoint of a running instance.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::show::safe;
use super::{FAILED, WRONG};
use crate::config::Problem;

/// Where the endpoint is when nobody says.
const USUAL: &str = "http://127.0.0.1:9900";
/// How long it may take to connect, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream of events may be silent: the endpoint sends something every 15 seconds.
const SILENCE: Duration = Duration::from_secs(40);
/// Bytes of an answer.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// Which instance, and how it is spoken to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Instance {
    /// The admin endpoint: http://HOST:PORT or unix:/path [default: http://127.0.0.1:9900]
    ///
    /// TIDEGATE_ADMIN names one too.
    #[arg(long, value_name = "URL")]
    pub(super) admin: Option<String>,
    /// The file that holds the endpoint's token; TIDEGATE_TOKEN may hold the token itself
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

/// Why a command is not done: what is said, and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
    /// The endpoint could not be reached, or has gone: it may be worth another try.
    pub(super) is_absent: bool,
}

impl Failure {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into(), is_absent: false }
    }

    pub(super) fn wrong(message: impl Into<String>) -> Self {
        Self { code: WRONG, message: message.into(), is_absent: false }
    }

    fn absent(message: String) -> Self {
        Self { code: FAILED, message, is_absent: true }
    }
}

/// Where the endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Host and port.
    Tcp(String),
    Unix(PathBuf),
}

/// Asks the endpoint, one request at a time.
pub(super) struct Client {
    place: Place,
    token: Option<String>,
    runtime: Runtime,
}

impl Client {
    /// A client for the instance that the arguments and the environment name.
    ///
    /// # Errors
    ///
    /// When the place or the token cannot be understood.
    pub(super) fn new(instance: &Instance) -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let place = instance.admin.clone().or_else(|| variable("TIDEGATE_ADMIN"));
        let place = Place::parse(place.as_deref().unwrap_or(USUAL))?;
        let token = match &instance.token_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
                Failure::wrong(format!("cannot read the token file {}: {error}", file.display()))
            })?),
            None => variable("TIDEGATE_TOKEN"),
        };
        let token = token.map(|token| token.trim().to_owned());
        if token.as_ref().is_some_and(|t| t.is_empty() || !t.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Failure::wrong("the token is empty, or holds more than printable ASCII"));
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        Ok(Self { place, token, runtime })
    }

    /// Where it asks, for people.
    pub(super) fn place(&self) -> String {
        match &self.place {
            Place::Tcp(authority) => format!("http://{authority}"),
            Place::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::POST, path, Some(body))
    }

    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::PUT, path, Some(body))
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let request = self.request(method, path, body, None)?;
        let answered = self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                let mut connection = JoinSet::new();
                let response = self.send(request, &mut connection).await?;
                let status = response.status();
                let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
                let body = body.map_err(|error| self.broken(&error.to_string()))?;
                Ok((status, body.to_bytes()))
            })
            .await
        });
        let (status, body) = answered.unwrap_or_else(|_| {
            Err(Failure::absent(format!(
                "no answer from {} within {} s",
                self.place(),
                PATIENCE.as_secs()
            )))
        })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| {
                Failure::failed(format!(
                    "{} is no admin endpoint of tidegate: its answer is no JSON",
                    self.place()
                ))
            });
        }
        Err(refused(status, &body))
    }

    /// Hands every event after `after` to `each`, until that says it is enough.
    ///
    /// # Errors
    ///
    /// When the endpoint cannot be reached or has gone; not when it is enough.
    pub(super) fn follow(
        &self,
        after: u64,
        mut each: impl FnMut(Value) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let request = self.request(Method::GET, "/api/v1/events", None, Some(after))?;
        self.runtime.block_on(async {
            let mut connection = JoinSet::new();
            let response =
                tokio::time::timeout(PATIENCE, self.send(request, &mut connection)).await;
            let response = response.unwrap_or_else(|_| Err(self.broken("no answer")))?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                return Err(refused(status, &body));
            }
            let mut lines = Vec::new();
            loop {
                let frame = tokio::time::timeout(SILENCE, body.frame()).await;
                let Ok(Some(Ok(frame))) = frame else { return Err(self.broken("it has gone")) };
                lines.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = lines.drain(..=end).collect();
                    let Some(data) = line.strip_prefix(b"data: ") else { continue };
                    if let Ok(event) = serde_json::from_slice(data)
                        && each(event).is_break()
                    {
                        return Ok(());
                    }
                }
                if lines.len() > MAX_BYTES {
                    return Err(Failure::failed("an event is too long"));
                }
            }
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        after: Option<u64>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let host = match &self.place {
            Place::Tcp(authority) => authority,
            Place::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(after) = after {
            request = request.header(ACCEPT, "text/event-stream").header("last-event-id", after);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let built = request.body(Full::new(Bytes::from(body)));
        built.map_err(|error| Failure::wrong(format!("{path} cannot be asked for: {error}")))
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        connection: &mut JoinSet<()>,
    ) -> Result<Response<Incoming>, Failure> {
        let sent = match &self.place {
            Place::Tcp(authority) => {
                let stream =
                    TcpStream::connect(authority).await.map_err(|e| self.unreachable(&e))?;
                exchange(stream, request, connection).await
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|e| self.unreachable(&e))?;
                exchange(stream, request, connection).await
            }
        };
        sent.map_err(|error| self.broken(&error.to_string()))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        Failure::absent(format!(
            "cannot reach the admin endpoint at {}: {error}; is tidegate running, with `admin` in its \
             configuration? Another place is named by --admin or TIDEGATE_ADMIN",
            self.place()
        ))
    }

    fn broken(&self, why: &str) -> Failure {
        Failure::absent(format!("the admin endpoint at {} did not answer: {why}", self.place()))
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    tasks: &mut JoinSet<()>,
) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn(async {
        // What goes wrong is told to whoever waits for the answer.
        let _ = connection.await;
    });
    sender.send_request(request).await
}

/// What an answer says that is no success.
fn refused(status: hyper::StatusCode, body: &[u8]) -> Failure {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(error) = body["error"].as_str() else {
        return Failure::failed(format!("the admin endpoint answered {status}"));
    };
    let mut message = safe(error).into_owned();
    for problem in problems(&body) {
        message += &format!("\n{problem}");
    }
    Failure::failed(message)
}

/// The problems that an answer or an event tells, each as `FILE:LINE:COLUMN: KEY.PATH: message`.
pub(super) fn problems(of: &Value) -> Vec<String> {
    let file = of["file"].as_str();
    let told = of["problems"].as_array().into_iter().flatten();
    told.map(|problem| {
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| {
            problem[key].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
        };
        let (line, column) = (number("line"), number("column"));
        let problem = Problem { line, column, path: text("path"), message: text("message") };
        let told = file.map_or_else(|| problem.to_string(), |file| problem.in_file(file));
        safe(&told).into_owned()
    })
    .collect()
}

impl Place {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |hint: &str| {
            Err(Failure::wrong(format!(
                "the admin endpoint: expected http://HOST:PORT or unix:/path, found {text:?}{hint}"
            )))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { wrong("") };
        }
        if text.starts_with("https://") {
            return wrong("; it speaks plain HTTP: over a network, use a tunnel");
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return match text.split_once("://") {
                Some((scheme, rest)) => wrong(&format!("; not {scheme}: try http://{rest}")),
                None => wrong(&format!("; try http://{text}")),
            };
        };
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', '?', '#', ' ']) {
            return wrong("");
        }
        let host_end = authority.rfind(']').unwrap_or(0);
        match authority[host_end..].split_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => Ok(Self::Tcp(authority.to_owned())),
            Some(_) => wrong(""),
            None => Ok(Self::Tcp(format!("{authority}:80"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_or_the_path_of_a_socket() {
        for (text, authority) in [
            ("http://127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://[::1]:9900/", "[::1]:9900"),
            ("http://lb.internal", "lb.internal:80"),
        ] {
            assert_eq!(Place::parse(text), Ok(Place::Tcp(authority.to_owned())));
        }
        let unix = Place::parse("unix:/run/tidegate/admin.sock");
        assert_eq!(unix, Ok(Place::Unix("/run/tidegate/admin.sock".into())));
        for wrong in
            ["127.0.0.1:9900", "https://x", "unix:run", "http://", "http://a/b", "http://a:x", ""]
        {
            assert_eq!(Place::parse(wrong).unwrap_err().code, WRONG, "{wrong}");
        }
        let hint = Place::parse("ftp://x:1").unwrap_err().message;
        assert!(hint.ends_with("; not ftp: try http://x:1"), "{hint}");
        let hint = Place::parse("127.0.0.1:9900").unwrap_err().message;
        assert!(hint.ends_with("try http://127.0.0.1:9900"), "{hint}");
    }

    #[test]
    fn a_refusal_is_told_in_words_with_every_problem() {
        let body = br#"{"error":"not valid\u001b[2J","file":"/etc/t.yaml","problems":[
            {"line":14,"column":15,"path":"pools.app.strategy","message":"unknown"},
            {"line":0,"column":0,"path":"","message":"more"}]}"#;
        assert_eq!(
            refused(hyper::StatusCode::UNPROCESSABLE_ENTITY, body).message,
            "not valid\\u{1b}[2J\n/etc/t.yaml:14:15: pools.app.strategy: unknown\n/etc/t.yaml: more"
        );
        let other = refused(hyper::StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(other.message, "the admin endpoint answered 502 Bad Gateway");
    }
}
