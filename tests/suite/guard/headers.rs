//! PROXY headers, in and out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::backend::echo;
use crate::support::{End, PATIENCE, Peer, Setup, TestBackend, eventually, ms};

const TRUSTING: &str = "accept_proxy_protocol: [127.0.0.0/8], timeouts: {peek: 500ms}";
const MAGIC: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [MAGIC, &[0x20 | command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

fn v2_tcp4() -> Vec<u8> {
    v2(1, 0x11, &[192, 0, 2, 7, 198, 51, 100, 9, 0x12, 0x34, 0x01, 0xbb])
}

#[test]
fn what_a_trusted_peer_says_is_passed_on_in_both_versions() {
    let backend = TestBackend::manual();
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\n".to_vec();
    for (version, out) in [("v1", v1.clone()), ("v2", v2_tcp4())] {
        let proxy = Setup::to([backend.address()])
            .listener(TRUSTING)
            .pool(&format!("connect: {{send_proxy_protocol: {version}}}"))
            .start();
        for header in [v1.clone(), v2_tcp4()] {
            let client = proxy.client();
            client.send([&header[..], b"payload"].concat());
            let server = backend.accept();
            server.expect([&out[..], b"payload"].concat());
        }
    }
}

#[test]
fn local_unknown_and_unspec_mean_the_peer_itself() {
    let backend = TestBackend::manual();
    let proxy = Setup::to([backend.address()])
        .listener(TRUSTING)
        .pool("connect: {send_proxy_protocol: v1}")
        .start();
    let headers = [b"PROXY UNKNOWN\r\n".to_vec(), v2(0, 0, &[]), v2(1, 0, &[])];
    for header in headers {
        let client = proxy.client();
        client.send([&header[..], b"!"].concat());
        let (from, to) = (client.local(), client.remote());
        let own = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n!", from.port(), to.port());
        backend.accept().expect(own);
    }
}

#[test]
fn a_second_header_is_payload_and_of_others_the_first_one_too() {
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\n";
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).listener(TRUSTING).start();
    let client = proxy.client();
    client.send([header, header].map(|h| &h[..]).concat());
    client.expect(header);
    client.expect_silence(ms(50));
    let proxy =
        Setup::to([backend.address()]).listener("accept_proxy_protocol: [192.0.2.0/24]").start();
    let client = proxy.client();
    client.send(header);
    client.expect(header);
}

#[test]
fn what_is_no_header_ends_the_connection_and_a_part_of_one_times_out() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()]).listener(TRUSTING).start();
    let long = v2(1, 0x11, &[0; 5000]);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &long, &[b'P'; 200]] {
        let client = proxy.client();
        let _ = client.try_send(bytes);
        client.expect_end(End::Reset);
    }
    let client = proxy.client();
    client.send(&v2_tcp4()[..20]);
    client.fin();
    client.expect_end(End::Reset);
    let client = proxy.client();
    client.send(&v2_tcp4()[..20]);
    client.expect_end(End::Reset);
    let bad = "bad_proxy_header";
    proxy.expect_ends(&[bad, bad, bad, bad, "peek_timeout"]);
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn a_header_out_comes_first_for_a_server_that_speaks_first_too() {
    let backend = TestBackend::manual();
    let proxy = Setup::to([backend.address()]).pool("connect: {send_proxy_protocol: v1}").start();
    let client = proxy.client();
    let server = backend.accept();
    let (from, to) = (client.local(), client.remote());
    server.expect(format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), to.port()));
    server.send("220 hello");
    client.expect("220 hello");
}

#[test]
fn clients_of_a_unix_socket_are_unknown() {
    let backend = TestBackend::manual();
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(1, 0, &[]))] {
        let path = std::env::temp_dir().join(format!("tg-guard-{}-{version}", std::process::id()));
        let proxy = Setup::yaml(format!(
            "listeners:\n  web: {{bind: \"unix:{}\", pool: app}}\npools:\n  \
             app: {{backends: [\"{}\"], connect: {{send_proxy_protocol: {version}}}}}\n",
            path.display(),
            backend.address()
        ))
        .start();
        let client = Peer::connect(&format!("unix:{}", path.display()));
        client.send("?");
        backend.accept().expect([&header[..], b"?"].concat());
        drop(client);
        drop(proxy);
        let _ = std::fs::remove_file(path);
    }
}

#[test]
fn limits_and_routes_are_about_the_source_in_the_header() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([backend.address()])
        .listener(TRUSTING)
        .listener("deny: [192.0.2.0/24], max_connections_per_source: 1")
        .start();
    let client = proxy.client();
    client.send(v2_tcp4());
    client.expect_end(End::Reset);
    let from = |last: u8| {
        let client = proxy.client();
        client.send(format!("PROXY TCP4 198.51.100.{last} 127.0.0.1 1 2\r\n"));
        client
    };
    // Threads take them as they come: the first has to be in before the third comes.
    let first = from(1);
    first.expect_echo("a");
    let (second, third) = (from(2), from(1));
    third.expect_end(End::Reset);
    second.expect_echo("b");
    drop((first, second));
    proxy.expect_ends(&["denied", "source_limit", "client_closed", "client_closed"]);
}

/// A worker node that serves nobody without a header, and is checked like any other.
#[test]
fn a_check_comes_with_a_header_of_its_own() {
    for (version, local) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(0, 0, &[]))] {
        let probe = [&local[..], b"ping"].concat();
        let checks = Arc::new(AtomicUsize::new(0));
        let (count, expected) = (Arc::clone(&checks), probe.clone());
        let backend = TestBackend::scripted(move |peer| {
            let mut begin = vec![0; expected.len()];
            let mut length = 0;
            while length < begin.len() {
                match peer.try_read(&mut begin[length..]) {
                    Ok(more @ 1..) => length += more,
                    _ => return,
                }
            }
            if begin == expected {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = peer.try_send("pong");
            } else if begin.starts_with(if local.len() == 15 { b"PROXY TCP4" } else { MAGIC }) {
                let _ = peer.try_send("served");
                echo(peer);
            }
        });
        let proxy = Setup::to([backend.address()])
            .pool(&format!("connect: {{send_proxy_protocol: {version}}}"))
            .pool(
                "health_check: {probe: {send_expect: {send: ping, expect: pong}}, interval: 100ms}",
            )
            .start();
        eventually(PATIENCE, "it is checked", || checks.load(Ordering::SeqCst) >= 3);
        assert!(proxy.told("evicted", backend.address()).is_empty());
        let client = proxy.client();
        client.send("more than a check sends");
        client.expect("served");
    }
}
