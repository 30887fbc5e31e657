//! [HH-8] Every kind of probe, through the program.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::{expect_service_of, who};
use crate::support::setup::Scratch;
use crate::support::{Node, PATIENCE, Peer, Setup, TestBackend, eventually, ms, pause, throughout};

/// A node that is checked elsewhere, by this probe.
fn probed(node: &Node, port: &str, probe: &str) -> Setup {
    let timing = "interval: 80ms, fast_interval: 40ms, timeout: 300ms, jitter: 0, fall: 2, rise: 2";
    let port = if port.is_empty() { String::new() } else { format!(", port: {port}") };
    let setup = Setup::to([node.entry("")]);
    setup.pool(&format!("health_check: {{probe: {probe}, {timing}{port}}}"))
}

fn port(backend: &TestBackend) -> &str {
    backend.address().rsplit(':').next().unwrap()
}

/// The words of the eviction that follows when this is what the checks meet.
#[track_caller]
fn failure(probe: &str, script: impl Fn(Peer) + Send + Sync + 'static) -> String {
    let (node, backend) = (Node::named("a"), TestBackend::scripted(script));
    let proxy = probed(&node, port(&backend), probe).start();
    let told = proxy.expect_told("evicted", "a");
    assert_eq!(node.accepted(), 0, "the traffic's port is left alone");
    told.evidence.split_once(": ").unwrap().1.to_owned()
}

/// Nothing is evicted when this is what the checks meet.
#[track_caller]
fn passes(probe: &str, script: impl Fn(Peer) + Send + Sync + 'static) {
    let (node, backend) = (Node::named("a"), TestBackend::scripted(script));
    let proxy = probed(&node, port(&backend), probe).start();
    eventually(PATIENCE, "it is checked", || backend.accepted() >= 5);
    assert_eq!(who(&proxy), "a");
    assert!(proxy.events().is_empty(), "{probe}: {:?}", proxy.events());
    eventually(PATIENCE, "checks leave nothing open", || backend.open() <= 1);
}

fn answer(text: &'static str) -> impl Fn(Peer) + Send + Sync + 'static {
    answers(&[], text)
}

/// Reads once, then sends the pieces with a moment between them, then the last.
fn answers(pieces: &'static [&'static str], last: &'static str) -> impl Fn(Peer) + Send + Sync {
    move |peer: Peer| {
        if matches!(peer.try_read(&mut [0; 4096]), Ok(1..)) {
            for piece in pieces {
                let _ = peer.try_send(piece);
                pause(ms(8));
            }
            let _ = peer.try_send(last);
            let _ = peer.try_read(&mut [0; 16]);
        }
    }
}

#[test]
fn tcp() {
    let node = Node::named("a");
    let proxy = probed(&node, "", "tcp").start();
    expect_service_of(&proxy, "a");
    node.kill();
    let told = proxy.expect_told("evicted", "a");
    assert_eq!(told.evidence, "2 checks failed in a row: refused");
    node.restart();
    proxy.expect_told("reinstated", "a");
    assert_eq!(who(&proxy), "a");
}

/// A process that hangs is none of a TCP check's business: documented.
#[test]
fn a_tcp_check_passes_while_the_kernel_accepts() {
    let (node, silent) = (Node::named("a"), TestBackend::manual());
    let proxy = probed(&node, port(&silent), "tcp").start();
    eventually(PATIENCE, "it is checked", || silent.accepted() >= 6);
    throughout(ms(200), "it stays", || proxy.events().is_empty());
}

#[test]
fn send_expect() {
    const PROBE: &str = r#"{send_expect: {send: "PING\r\n", expect: "+PONG"}}"#;
    passes(PROBE, answer("+PONG\r\n"));
    passes(PROBE, answers(&["+P", "ON"], "G\r\n"));
    passes(PROBE, answers(&["banner first\r\n"], "+PONG\r\n"));
    passes(r#"{send_expect: {expect: "ready"}}"#, |peer| {
        let _ = peer.try_send("I am ready");
        let _ = peer.try_read(&mut [0; 8]);
    });
    let banner = failure(PROBE, answers(&["hello\r\n"], ""));
    assert!(banner.contains("timed out after 300ms") || banner.contains("ended"), "{banner}");
    let silent = failure(PROBE, |peer| hang(&peer));
    assert!(silent.starts_with("timed out after 300ms"), "{silent}");
    let reset = failure(PROBE, |peer| {
        let _ = peer.try_read(&mut [0; 64]);
        peer.reset();
    });
    assert!(reset.contains("reset"), "{reset}");
}

#[test]
fn http() {
    const PROBE: &str = "{http: {path: /healthz, host: app.example, expect_body: fine}}";
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nI am fine";
    passes(PROBE, answer(OK));
    passes(PROBE, answers(&["HTTP/1.1 20", "0 OK\r\nContent-Le", "ngth: 9\r\n\r\nI a"], "m fine"));
    passes(
        "{http: {expect_status: [\"200-299\", 404]}}",
        answer("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
    );
    let status = failure(PROBE, answer("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
    assert!(status.contains("503"), "{status}");
    let body = failure(PROBE, answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsick"));
    assert!(!body.is_empty(), "{body}");
    let other = failure(PROBE, answer("SSH-2.0-OpenSSH_9.2\r\n"));
    assert!(!other.contains("timed out"), "{other}");
    let late = failure(PROBE, |peer| {
        let _ = peer.try_read(&mut [0; 4096]);
        pause(ms(380));
        let _ = peer.try_send(OK);
    });
    assert!(late.starts_with("timed out after 300ms"), "{late}");
}

#[test]
fn an_http_check_says_what_it_wants_and_whom_it_asks() {
    let (sender, heads) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    passes("{http: {path: \"/up?x=1\", host: app.example, method: HEAD}}", move |peer| {
        let mut head = vec![0; 4096];
        let count = peer.try_read(&mut head).unwrap_or(0);
        let _ = sender.lock().unwrap().send(String::from_utf8_lossy(&head[..count]).into_owned());
        let _ = peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    });
    let head = heads.recv().unwrap();
    assert!(head.starts_with("HEAD /up?x=1 HTTP/1.1\r\n"), "{head:?}");
    assert!(head.to_lowercase().contains("host: app.example\r\n"), "{head:?}");
}

/// One direction of a peer as `std::io` has it.
struct Io<'a>(&'a Peer);

impl Read for Io<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Io<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.try_send(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn tls_server() -> impl Fn(Peer) + Send + Sync + 'static {
    let certificate = include_bytes!("../../data/tls/valid.pem");
    let key = include_bytes!("../../data/tls/server.key");
    let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    move |peer| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        while tls.is_handshaking() && tls.complete_io(&mut Io(&peer)).is_ok() {}
        let _ = peer.try_read(&mut [0; 64]);
    }
}

#[test]
fn tls() {
    passes("{tls: {verify: false}}", tls_server());
    let unknown = failure("{tls: {server_name: app.example}}", tls_server());
    assert!(!unknown.contains("timed out"), "{unknown}");
    let alert = failure("{tls: {verify: false}}", answer("\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}\u{28}"));
    assert!(!alert.contains("timed out"), "{alert}");
    let plain = failure("{tls: {verify: false}}", answer("220 ready\r\n"));
    assert!(!plain.contains("timed out"), "{plain}");
    let hangs = failure("{tls: {verify: false}}", |peer| hang(&peer));
    assert!(hangs.starts_with("timed out after 300ms"), "{hangs}");
}

#[test]
fn exec() {
    let (node, scratch) = (Node::named("a"), Scratch::new());
    let directory = scratch.path().display().to_string();
    let script =
        "cd \"$1\"; echo \"$2 $3 $4 $5\" >> asked; [ ! -e ill ] || ( echo no pulse; exit 3 )";
    let command = format!(
        "[sh, -c, '{script}', check, \"{directory}\", \"{{pool}}\", \"{{backend}}\", \"{{host}}\", \"{{port}}\"]"
    );
    let proxy = probed(&node, "", &format!("{{exec: {{command: {command}}}}}")).start();
    let asked = || std::fs::read_to_string(scratch.path().join("asked")).unwrap_or_default();
    eventually(PATIENCE, "it is asked", || asked().lines().count() >= 3);
    let (host, port) = (node.address(), String::new());
    let (host, port) = host.split_once(':').unwrap_or((&host, &port));
    assert!(asked().lines().all(|line| line == format!("app a {host} {port}")), "{}", asked());
    assert_eq!(who(&proxy), "a");
    scratch.write("ill", "");
    let told = proxy.expect_told("evicted", "a");
    assert!(told.evidence.contains("no pulse") || told.evidence.contains('3'), "{told:?}");
    std::fs::remove_file(scratch.path().join("ill")).unwrap();
    proxy.expect_told("reinstated", "a");
}

/// The program and its children are gone when the time is over.
#[test]
fn an_exec_check_that_hangs_is_killed_with_its_children() {
    let (node, scratch) = (Node::named("a"), Scratch::new());
    let directory = scratch.path().display().to_string();
    let script = "cd \"$1\"; sleep 600 & echo $! > child; wait";
    let command = format!("[sh, -c, '{script}', check, \"{directory}\"]");
    let proxy = probed(&node, "", &format!("{{exec: {{command: {command}}}}}")).start();
    let told = proxy.expect_told("evicted", "a");
    assert!(told.evidence.contains("timed out after 300ms"), "{told:?}");
    let child = std::fs::read_to_string(scratch.path().join("child")).unwrap();
    let alive = || std::path::Path::new(&format!("/proc/{}", child.trim())).exists();
    eventually(PATIENCE, "it is gone", || !alive());
    drop(proxy);
}

/// Reads and answers nothing.
fn hang(peer: &Peer) {
    let _ = crate::support::backend::drain(peer);
}
