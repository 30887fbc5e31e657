//! The first route that matches, by what a client says and where it comes from.

use std::time::Instant;

use crate::support::{End, Peer, Proxy, SLACK, Setup, TestBackend, eventually, ms, pause};

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(data)].concat()
}

/// A ClientHello of this name and protocol, in records of at most `size`.
pub(crate) fn hello(sni: Option<&str>, alpn: Option<&str>, size: usize) -> Vec<u8> {
    let sni = sni.map(|n| extension(0, &long(&[&[0], &long(n.as_bytes())[..]].concat())));
    let alpn = alpn.map(|a| extension(16, &long(&[&[a.len() as u8], a.as_bytes()].concat())));
    let extensions: Vec<u8> = [sni, alpn].into_iter().flatten().flatten().collect();
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
    for (bytes, at) in
        [1, 3, 5, 6, 9, 44, 60].iter().map(|at| (hello(Some("a.test"), None, 20), at))
    {
        let client = proxy.client();
        client.send(&bytes[..*at]);
        pause(ms(5));
        client.send(&bytes[*at..]);
        client.expect("one");
        client.expect(&bytes);
    }
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
