use std::io::{Read, Write};
use std::net::TcpStream;

use super::super::peer::{PATIENCE, Peer, assert_fails, ms};
use super::*;

/// What a peer answers, piece by piece.
type Pieces = &'static [&'static [u8]];

fn probe(change: impl FnOnce(&mut model::HttpProbe)) -> model::Probe {
    let mut options = model::HttpProbe::default();
    change(&mut options);
    model::Probe::Http(options)
}

fn status() -> model::Probe {
    probe(|_| {})
}

fn body(text: &str) -> model::Probe {
    probe(|options| options.expect_body = Some(text.to_owned()))
}

/// Reads the head of a request.
fn request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn the_request_says_what_is_configured() {
    let (sender, got) = std::sync::mpsc::channel();
    let peer = Peer::scripted(move |stream| {
        sender.send(request(stream)).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    });
    let options = probe(|options| {
        options.path = "/healthz?deep=1".into();
        options.host = Some("app.example".into());
        options.method = "HEAD".into();
    });
    assert_eq!(peer.check(&options, PATIENCE), Outcome::Pass);
    let head = got.recv().unwrap();
    assert!(head.starts_with("HEAD /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
    for line in ["host: app.example", "connection: close", "user-agent: tidegate/0.1.0"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
    }
    assert_eq!(peer.check(&status(), PATIENCE), Outcome::Pass);
    let head = got.recv().unwrap();
    assert!(head.contains(&format!("\r\nhost: {}\r\n", peer.target.address)), "{head}");
}

#[test]
fn the_status_decides() {
    let cases: [(Pieces, model::Probe, Option<&str>); 6] = [
        (&[b"HTTP/1.1 200 OK\r\n\r\n"], status(), None),
        (&[b"HTTP/1.0 299 x\r\n\r\n"], status(), None),
        (&[b"HTTP/1.1 2", b"00 OK\r\nx: y\r", b"\n\r", b"\n"], status(), None),
        (
            &[b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n"],
            status(),
            Some("status 503, expected 200-299"),
        ),
        (&[b"HTTP/1.1 302 x\r\n\r\n"], status(), Some("status 302, expected 200-299")),
        (
            &[b"HTTP/1.1 200 OK\r\n\r\n"],
            probe(|options| {
                options.expect_status = [(204, 204), (401, 403)]
                    .map(|(first, last)| model::StatusRange { first, last })
                    .to_vec();
            }),
            Some("status 200, expected 204, 401-403"),
        ),
    ];
    for (pieces, options, words) in cases {
        let outcome = Peer::answering(pieces, ms(20)).check(&options, PATIENCE);
        let expected = words.map_or(Outcome::Pass, |words| Outcome::Fail(words.into()));
        assert_eq!(outcome, expected, "{pieces:?}");
    }
}

#[test]
fn the_body_is_looked_at_if_it_is_to_be() {
    let cases: [(Pieces, &str, Option<&str>); 6] = [
        (&[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"all is o", b"k"], "is ok", None),
        (
            &[
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                b"1\r\no\r\n",
                b"1\r\nk\r\n",
            ],
            "ok",
            None,
        ),
        (&[b"HTTP/1.0 200 OK\r\n\r\n", b"ok"], "ok", None),
        (
            &[b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", b"degraded"],
            "ok",
            Some(r#"the body "degraded" where "ok" was expected"#),
        ),
        (
            &[b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"],
            "ok",
            Some(r#"an empty body where "ok" was expected"#),
        ),
        (
            &[b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b"half"],
            "ok",
            Some(r#"timed out after 300ms while waiting for "ok" in the body, so far "half""#),
        ),
    ];
    for (pieces, text, words) in cases {
        let outcome = Peer::answering(pieces, ms(10)).check(&body(text), ms(300));
        let expected = words.map_or(Outcome::Pass, |words| Outcome::Fail(words.into()));
        assert_eq!(outcome, expected, "{pieces:?}");
    }
}

#[test]
fn what_stands_behind_the_first_64_kib_of_a_body_is_not_found() {
    for (before, passes) in [(LONGEST_BODY - 2, true), (LONGEST_BODY - 1, false)] {
        let peer = Peer::scripted(move |stream| {
            request(stream);
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            let text = [head.as_bytes(), &vec![b'x'; before], b"ok"].concat();
            let _ = stream.write_all(&text);
        });
        let outcome = peer.check(&body("ok"), ms(2000));
        assert_eq!(outcome == Outcome::Pass, passes, "{outcome:?}");
    }
}

#[test]
fn what_is_no_http_is_told() {
    let cases: [(Pieces, &str); 3] = [
        (&[b"+PONG\r\n\r\n"], "answered with something that is no HTTP/1"),
        (&[b"SSH-2.0-OpenSSH_9.2\r\n"], "answered with something that is no HTTP/1"),
        (&[b"HTTP/1.1 20"], "timed out after 300ms while waiting for the answer"),
    ];
    for (pieces, words) in cases {
        assert_fails(Peer::answering(pieces, ms(0)).check(&status(), ms(300)), words);
    }
}

#[test]
fn a_head_without_end_fails_when_it_is_too_long() {
    let peer = Peer::scripted(|stream| {
        request(stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").is_ok() {}
    });
    let Outcome::Fail(words) = peer.check(&status(), PATIENCE) else { panic!("it passed") };
    assert!(words.contains("head") || words.contains("no HTTP"), "{words}");
}

#[test]
fn options_that_make_no_request_are_refused() {
    let roots = Roots::default();
    let method = probe(|options| options.method = "G ET".into());
    let built = super::super::build(&method, &roots);
    assert_eq!(built.unwrap_err(), r#"method: no such method as "G ET""#);
    let path = probe(|options| options.path = "a b".into());
    assert!(super::super::build(&path, &roots).unwrap_err().starts_with("path: "));
}
