//! The endpoint over real sockets, in front of a scripted controller.

mod abuse;
mod api;
mod browser;
mod document;
mod live;
mod look;
mod scrape;
pub(crate) mod script;

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::script::{Shared, World};
use super::{Options, Socket, Token, serve};

/// An endpoint that serves until it is dropped.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) world: Shared,
    tasks: (JoinSet<()>, JoinSet<()>),
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// The value of a header, empty where there is none.
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v).next().unwrap_or("")
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Endpoint {
    pub(crate) async fn start(options: Options) -> Self {
        Self::with(World::new(3), options).await
    }

    pub(crate) async fn with(world: Shared, options: Options) -> Self {
        Self::at(0, world, options).await
    }

    async fn at(port: u16, world: Shared, options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (handle, controller) = script::start(&world);
        let mut server = JoinSet::new();
        server.spawn(serve(Socket::Tcp(listener), handle, options));
        Self { address, world, tasks: (controller, server) }
    }

    /// From now on nobody answers the endpoint.
    async fn end_controller(&mut self) {
        self.tasks.0.shutdown().await;
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes and reads until the endpoint closes.
    async fn raw(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A reset after the answer does not unsay it.
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn ask(&self, line: &str, headers: &str, body: &str) -> Answer {
        let length = if body.is_empty() && !headers.contains("JSON") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let headers = headers.replace("JSON", "Content-Type: application/json\r\n");
        self.raw(&format!(
            "{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}{length}\r\n{body}",
            self.address
        ))
        .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "", "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(&format!("POST {path}"), "JSON", body).await
    }
}

fn guarded() -> Options {
    Options { token: Some(Token::new("s3cret").unwrap()), ..Options::default() }
}
