//! The first route that matches, by what a client says and where it comes from.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::{
    End, PATIENCE, Peer, Proxy, SLACK, Setup, TestBackend, eventually, ms, pause, skipped,
};

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(data)].concat()
}

/// A ClientHello of this name and protocol, in records of at most `size`.
pub(crate) fn hello(sni: Option<&str>, alpn: Option<&str>, size: usize) -> Vec<u8> {
    hello_with(&[], sni, alpn, size)
}

/// The same, with more extensions before.
fn hello_with(more: &[u8], sni: Option<&str>, alpn: Option<&str>, size: usize) -> Vec<u8> {
    let sni = sni.map(|n| extension(0, &long(&[&[0], &long(n.as_bytes())[..]].concat())));
    let alpn = alpn.map(|a| extension(16, &long(&[&[a.len() as u8], a.as_bytes()].concat())));
    let own = [sni, alpn].into_iter().flatten().flatten();
    let extensions: Vec<u8> = more.iter().copied().chain(own).collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(long(&[0x13, 1]));
    body.extend([1, 0]);
    body.extend(long(&extensions));
    let length = (body.len() as u32).to_be_bytes();
    let handshake = [&[1], &length[1..], &body].concat();
    handshake.chunks(size).flat_map(|part| [&[22, 3, 1], &long(part)[..]].concat()).collect()
}

/// A listener with these routes; each pool `NAME` has the one backend of that name.
fn routed(routes: &str, backends: &[(&str, &TestBackend)]) -> Setup {
    let pools =
        backends.iter().map(|(n, b)| format!("  {n}: {{backends: [\"{}\"]}}\n", b.address()));
    let pools: String = pools.collect();
    Setup::yaml(format!(
        "listeners:\n  web: {{bind: \"127.0.0.1:0\", timeouts: {{peek: 1s}}, routes: [{routes}]}}\npools:\n{pools}"
    ))
}

/// Who answers a client that begins with `bytes`: what comes back before the echo.
#[track_caller]
fn answer(proxy: &Proxy, bytes: &[u8], name: &str) {
    let client = proxy.client();
    client.send(bytes);
    client.expect(name);
    client.expect(bytes);
}

#[test]
fn names_lead_to_their_pools_and_what_was_peeked_is_forwarded_untouched() {
    let (one, two, three) =
        (TestBackend::named("one"), TestBackend::named("two"), TestBackend::named("rest"));
    let routes = "{match: {sni: [\"www.example.com\"]}, pool: one}, \
        {match: {sni: [\"*.example.com\"], alpn: [h2]}, pool: two}, {pool: rest}";
    let proxy = routed(routes, &[("one", &one), ("two", &two), ("rest", &three)]).start();
    for name in ["www.example.com", "WWW.Example.COM", "www.example.com."] {
        answer(&proxy, &hello(Some(name), None, 9000), "one");
    }
    answer(&proxy, &hello(Some("a.b.example.com"), Some("h2"), 9000), "two");
    answer(&proxy, &hello(Some("a.b.example.com"), Some("http/1.1"), 9000), "rest");
    answer(&proxy, &hello(Some("example.com"), Some("h2"), 9000), "rest");
    answer(&proxy, &hello(None, None, 9000), "rest");
    answer(&proxy, b"GET / HTTP/1.1\r\n\r\n", "rest");
}

#[test]
fn a_hello_may_come_in_any_pieces_and_over_many_records() {
    let (one, rest) = (TestBackend::named("one"), TestBackend::named("rest"));
    let routes = "{match: {sni: [a.test]}, pool: one}, {pool: rest}";
    let proxy = routed(routes, &[("one", &one), ("rest", &rest)]).start();
    let bytes = hello(Some("a.test"), None, 20);
    // One client for each place, side by side: the first part of all, then the rest of all.
    let clients: Vec<_> = (1..bytes.len()).map(|at| (proxy.client(), at)).collect();
    clients.iter().for_each(|(client, at)| client.send(&bytes[..*at]));
    pause(ms(50));
    for (client, at) in &clients {
        client.send(&bytes[*at..]);
        client.expect("one");
        client.expect(&bytes);
    }
}

/// Names that are none, and two of them: not the route of a name, and forwarded untouched.
#[test]
fn a_name_that_is_none_leads_to_no_name() {
    let (one, any, rest) =
        (TestBackend::named("one"), TestBackend::named("any"), TestBackend::named("rest"));
    let routes = "{match: {sni: [a.test]}, pool: one}, {match: {sni: \"*\"}, pool: any}, \
        {pool: rest}";
    let proxy = routed(routes, &[("one", &one), ("any", &any), ("rest", &rest)]).start();
    let long = [&"a".repeat(250)[..], ".test"].concat();
    for name in ["192.0.2.1", "::1", "", "a\0.test", "a.test..", &long] {
        answer(&proxy, &hello(Some(name), None, 9000), "rest");
    }
    for name in ["A.TEST", "a.test."] {
        answer(&proxy, &hello(Some(name), None, 9000), "one");
    }
    answer(&proxy, &hello(Some("b.test"), None, 9000), "any");
    // Garbage behind a hello is payload; garbage inside makes it none.
    let good = hello(Some("a.test"), None, 9000);
    answer(&proxy, &[&good[..], &[0xff; 300]].concat(), "one");
    let mut bad = good;
    let at = bad.len() - 1;
    bad[at] = 0xff;
    answer(&proxy, &bad, "rest");
    bad[9 + 2 + 32] = 0xff;
    answer(&proxy, &bad, "rest");
}

#[test]
fn a_hello_as_large_as_with_an_encrypted_one_and_a_post_quantum_share_is_read() {
    let (one, rest) = (TestBackend::named("one"), TestBackend::named("rest"));
    let routes = "{match: {sni: [a.test]}, pool: one}, {pool: rest}";
    let proxy = routed(routes, &[("one", &one), ("rest", &rest)]).start();
    for (size, name) in [(1_700, "one"), (4_200, "one"), (15_900, "one"), (16_500, "rest")] {
        // Reserved for nothing (RFC 8701), an encrypted hello, a share of this size, then the name.
        let more = [
            extension(0x1a1a, &[]),
            extension(0xfe0d, &[9; 300]),
            extension(51, &vec![7; size - 300]),
        ];
        for record in [16_384, 500] {
            let bytes = hello_with(&more.concat(), Some("a.test"), None, record);
            let client = proxy.client();
            bytes.chunks(1_400).for_each(|part| client.send(part));
            client.expect(name);
            client.expect(&bytes);
        }
    }
}

/// OpenSSL's own hello, with whatever shares and options it has by default, and with the largest
/// share it knows.
#[test]
fn what_openssl_sends_is_understood() {
    let (one, rest) = (TestBackend::manual(), TestBackend::manual());
    let routes = "{match: {sni: [a.test], alpn: [h2]}, pool: one}, {pool: rest}";
    let proxy = routed(routes, &[("one", &one), ("rest", &rest)]).start();
    let groups = [&[][..], &["-groups", "X25519MLKEM768"], &["-groups", "P-521"]];
    let mut understood = 0;
    for group in groups {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", proxy.address(), "-alpn", "h2,http/1.1"]);
        command.args(["-servername", "A.test"]).args(group);
        let null = Stdio::null;
        let Ok(mut client) = command.stdin(null()).stdout(null()).stderr(null()).spawn() else {
            return skipped("there is no openssl");
        };
        // An old one does not know the group, and ends without a hello.
        let mut hello = Vec::new();
        eventually(PATIENCE, "it has connected or ended", || {
            one.accepted() > understood || client.try_wait().unwrap().is_some()
        });
        if one.accepted() > understood {
            understood += 1;
            hello = one.accept().receive(200);
        }
        let _ = client.kill();
        let _ = client.wait();
        assert!(hello.is_empty() || hello[0] == 22, "{hello:?}");
    }
    assert!(understood >= 2, "{understood} hellos were understood");
    assert_eq!(rest.accepted(), 0);
}

#[test]
fn ports_and_what_is_no_tls_have_their_routes() {
    let [low, plain, rest] = ["low", "plain", "rest"].map(TestBackend::named);
    // The port that a PROXY header names is the one that the client has connected to.
    let routes = "{match: {port: 4433}, pool: low}, {match: {tls: false}, pool: plain}, \
        {pool: rest}";
    let pools = [("low", &low), ("plain", &plain), ("rest", &rest)];
    let proxy = routed(&format!("{routes}], accept_proxy_protocol: [127.0.0.1"), &pools).start();
    let at = |port: u16| {
        let client = proxy.client();
        client.send(format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 {port}\r\n"));
        client
    };
    // Without a byte: nothing of a hello can matter at this port.
    at(4433).expect("low");
    let client = at(443);
    client.send("GET /");
    client.expect("plain");
    let client = at(443);
    client.send(hello(None, None, 9000));
    client.expect("rest");
}

#[test]
fn without_a_route_that_matches_there_is_no_connection() {
    let one = TestBackend::echo();
    let proxy = routed("{match: {tls: true}, pool: one}", &[("one", &one)]).start();
    let client = proxy.client();
    client.send("plain");
    client.expect_end(End::Reset);
    proxy.expect_ends(&["no_route"]);
    answer(&proxy, &hello(None, None, 9000), "");
}

#[test]
fn a_hello_that_is_too_long_is_no_tls() {
    let (one, rest) = (TestBackend::named("one"), TestBackend::named("rest"));
    let routes = "{match: {tls: true}, pool: one}, {pool: rest}";
    let proxy = routed(routes, &[("one", &one), ("rest", &rest)]).start();
    let client = proxy.client();
    // A handshake message of 64 KiB, announced.
    client.send([22, 3, 1, 0x3f, 0xff, 1, 1, 0, 0]);
    client.send([0; 64]);
    client.expect("rest");
}

#[test]
fn a_server_that_speaks_first_is_heard_where_no_hello_can_matter() {
    let (one, rest) = (TestBackend::named("one"), TestBackend::named("rest"));
    let routes = "{match: {source: [127.0.0.0/8]}, pool: one}, {match: {tls: true}, pool: rest}";
    let proxy = routed(routes, &[("one", &one), ("rest", &rest)]).start();
    proxy.client().expect("one");
}

#[test]
fn the_deadline_is_from_accept_and_bytes_do_not_put_it_off() {
    let one = TestBackend::echo();
    let proxy = routed("{match: {sni: [a.test]}, pool: one}", &[("one", &one)]).start();
    let clients: Vec<Peer> = (0..50).map(|_| proxy.client()).collect();
    let (start, bytes) = (Instant::now(), hello(Some("a.test"), None, 9000));
    for byte in bytes.iter().take(20) {
        clients.iter().for_each(|client| drop(client.try_send([*byte])));
        pause(ms(40));
    }
    clients.iter().for_each(|client| client.expect_end(End::Reset));
    let time = start.elapsed();
    assert!(time > ms(750) && time < ms(1_100) + SLACK, "took {time:?}");
    proxy.expect_ends(&["peek_timeout"; 50]);
}

/// What the client's opening takes is no time of the backends.
#[test]
fn the_deadline_of_connects_begins_after_the_opening() {
    let one = TestBackend::named("one");
    let routes = "{match: {sni: [a.test]}, pool: one}";
    let setup = routed(routes, &[("one", &one)]);
    let proxy =
        setup.head("defaults: {pool: {connect: {deadline: 300ms, timeout: 300ms}}}").start();
    let client = proxy.client();
    client.expect_silence(ms(600));
    client.send(hello(Some("a.test"), None, 9000));
    client.expect("one");
}

#[test]
fn what_was_peeked_reaches_the_second_backend_when_the_first_refuses() {
    let (dead, up) = (crate::support::Refusing::new(), TestBackend::echo());
    let proxy = Setup::yaml(format!(
        "listeners:\n  web: {{bind: \"127.0.0.1:0\", routes: [{{match: {{sni: [a.test]}}, pool: app}}]}}\n\
         pools:\n  app: {{strategy: first_available, backends: [\"{}\", \"{}\"]}}\n",
        dead.address(),
        up.address()
    ))
    .start();
    answer(&proxy, &hello(Some("a.test"), None, 11), "");
    eventually(SLACK, "it is over", || proxy.ended().len() == 1);
}
