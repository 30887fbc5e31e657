//! The admin endpoint, asked over a plain socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::{PATIENCE, Proxy, eventually};

/// What the endpoint answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of an answer that says yes.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.code, 200, "{self:?}");
        self.json()
    }
}

/// The endpoint of a running program.
#[derive(Clone, Debug)]
pub(crate) struct Admin(String);

impl Admin {
    /// The one that the log named last.
    #[track_caller]
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let mut found = None;
        eventually(PATIENCE, "the admin endpoint is open", || {
            let lines = proxy.log().lines();
            let open = lines.iter().rev().find(|l| l.text().contains("the admin endpoint is open"));
            found = open.and_then(|line| line.field("address"));
            found.is_some()
        });
        Self(found.unwrap())
    }

    pub(crate) fn address(&self) -> &str {
        &self.0
    }

    /// Asks, with these further lines of the head.
    #[track_caller]
    pub(crate) fn ask(&self, verb: &str, path: &str, head: &str, body: &str) -> Answer {
        self.try_ask(verb, path, head, body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The same, where there may be no endpoint.
    pub(crate) fn try_ask(
        &self,
        verb: &str,
        path: &str,
        head: &str,
        body: &str,
    ) -> std::io::Result<Answer> {
        let host = if head.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let text = format!(
            "{verb} {path} HTTP/1.1\r\n{host}{head}{kind}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        let mut whole = Vec::new();
        match self.0.strip_prefix("unix:") {
            Some(path) => talk(UnixStream::connect(path)?, &text, &mut whole)?,
            None => {
                let stream = TcpStream::connect(&self.0)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                talk(stream, &text, &mut whole)?;
            }
        }
        let whole = String::from_utf8_lossy(&whole);
        let bad = || std::io::Error::other(format!("no answer: {whole:?}"));
        let (head, body) = whole.split_once("\r\n\r\n").ok_or_else(bad)?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        Ok(Answer { code, body: body.to_owned() })
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "")
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "", body)
    }

    /// The sum of the metric's lines with all of these labels.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let answer = self.get("/metrics");
        assert_eq!(answer.code, 200);
        let of = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        answer.body.lines().filter(of).map(value).sum()
    }
}

fn talk(mut to: impl Read + Write, text: &str, whole: &mut Vec<u8>) -> std::io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.read_to_end(whole)?;
    Ok(())
}
