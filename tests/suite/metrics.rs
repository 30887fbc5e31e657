//! What `/metrics` says is what clients and backends counted, number by number.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::guard::routes::hello;
use super::support::admin::Admin;
use super::support::setup::Scratch;
use super::support::{End, PATIENCE, Peer, Proxy, Refusing, Setup, TestBackend, eventually};

/// Bytes that a backend read and wrote.
#[derive(Default)]
struct Bytes {
    read: AtomicU64,
    written: AtomicU64,
}

/// A backend that echoes and counts. On `bye` it ends, on `cut` it resets.
fn counting(bytes: &Arc<Bytes>) -> TestBackend {
    let bytes = Arc::clone(bytes);
    TestBackend::scripted(move |peer| {
        let mut buffer = [0; 4096];
        loop {
            let count = match peer.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => return,
            };
            bytes.read.fetch_add(count as u64, SeqCst);
            match &buffer[..count] {
                b"bye" => return,
                b"cut" => return peer.reset(),
                text => {
                    if peer.try_send(text).is_err() {
                        return;
                    }
                    bytes.written.fetch_add(count as u64, SeqCst);
                }
            }
        }
    })
}

const LISTENERS: [&str; 9] =
    ["web", "idle", "denied", "source", "rate", "over", "peek", "dead", "proxy"];

fn file(one: &str, two: Option<&str>, dead: &str) -> String {
    let two = two.map_or_else(String::new, |two| format!(", {{name: two, address: \"{two}\"}}"));
    let listener = |name: &str| {
        let keys = match name {
            "idle" => "pool: app, timeouts: {idle: 300ms}",
            "denied" => "pool: app, deny: [127.0.0.0/8]",
            "source" => "pool: app, max_connections_per_source: 1",
            "rate" => "pool: app, connection_rate_per_source: 1/s",
            "over" => "pool: app, max_connections: 1, over_limit: close",
            "peek" => "timeouts: {peek: 300ms}, routes: [{match: {sni: [a.example]}, pool: app}]",
            "dead" => "pool: dead",
            "proxy" => "pool: app, accept_proxy_protocol: [127.0.0.0/8]",
            _ => "pool: app",
        };
        format!("  {name}: {{bind: \"127.0.0.1:0\", {keys}}}\n")
    };
    format!(
        "listeners:\n{}pools:\n  app: {{outlier_detection: off, backends: [{{name: one, address: \"{one}\"}}{two}]}}\n\
         \x20 dead: {{outlier_detection: off, backends: [{{name: none, address: \"{dead}\"}}]}}\n",
        LISTENERS.map(listener).concat()
    )
}

/// What is to be counted of one listener: the reasons of those that ended.
struct Expected(&'static str, u64, &'static [(&'static str, u64)]);

const EXPECTED: [Expected; 9] = [
    Expected(
        "web",
        15,
        &[("client_closed", 5), ("backend_closed", 3), ("client_reset", 2), ("backend_reset", 2)],
    ),
    Expected("idle", 2, &[("idle_timeout", 2)]),
    Expected("denied", 4, &[("denied", 4)]),
    Expected("source", 3, &[("source_limit", 2), ("client_closed", 1)]),
    Expected("rate", 3, &[("source_rate", 2), ("client_closed", 1)]),
    Expected("over", 3, &[("over_limit", 2), ("client_closed", 1)]),
    Expected("peek", 6, &[("peek_timeout", 2), ("no_route", 3), ("client_closed", 1)]),
    Expected("dead", 3, &[("connect_failed", 3)]),
    Expected("proxy", 2, &[("bad_proxy_header", 1), ("client_closed", 1)]),
];

fn closed(client: &Peer) {
    client.expect_echo("hello");
    client.fin();
    client.expect_end(End::Fin);
}

/// Everything but the three connections to `web` that are still open, which it gives.
fn mix(proxy: &Proxy) -> Vec<Peer> {
    let to = |listener: &str| Peer::connect(proxy.addresses_of(listener)[0]);
    let greeted = |listener: &str| {
        let client = to(listener);
        client.expect_echo("hello");
        client
    };
    (0..5).for_each(|_| closed(&to("web")));
    for _ in 0..3 {
        let client = greeted("web");
        client.send("bye");
        client.expect_end(End::Fin);
    }
    (0..2).for_each(|_| greeted("web").reset());
    for _ in 0..2 {
        let client = greeted("web");
        client.send("cut");
        client.expect_end(End::Reset);
    }
    let live: Vec<_> = (0..3).map(|_| greeted("web")).collect();
    (0..2).map(|_| greeted("idle")).for_each(|client| client.expect_end(End::Fin));
    (0..4).for_each(|_| to("denied").expect_end(End::Reset));
    for listener in ["source", "rate", "over"] {
        let first = greeted(listener);
        (0..2).for_each(|_| to(listener).expect_end(End::Reset));
        first.fin();
        first.expect_end(End::Fin);
    }
    (0..2).for_each(|_| to("peek").expect_end(End::Reset));
    for name in ["evil\".example", "b.example", "a\nb"] {
        let client = to("peek");
        client.send(hello(Some(name), None, 4096));
        client.expect_end(End::Reset);
    }
    let client = to("peek");
    let begin = hello(Some("a.example"), None, 4096);
    client.send(&begin);
    client.expect(&begin);
    client.fin();
    client.expect_end(End::Fin);
    (0..3).for_each(|_| to("dead").expect_end(End::Reset));
    let client = to("proxy");
    client.send("no header\r\n");
    client.expect_end(End::Reset);
    let client = to("proxy");
    client.send("PROXY TCP4 203.0.113.77 127.0.0.1 1 2\r\n");
    closed(&client);
    live
}

/// The lines that have a value, each as its series and that.
fn series(text: &str) -> Vec<(&str, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(s, v)| (s, v.parse().unwrap())).collect()
}

#[test]
fn every_number_is_what_clients_and_backends_counted() {
    let bytes = [Arc::<Bytes>::default(), Arc::default()];
    let (one, two) = (counting(&bytes[0]), counting(&bytes[1]));
    let dead = Refusing::new();
    let with = |two| {
        Setup::yaml(file(one.address(), two, &dead.address()))
            .head("admin: {bind: \"127.0.0.1:0\"}")
            .listening(LISTENERS.len())
    };
    let proxy = with(Some(two.address())).start();
    let admin = Admin::of(&proxy);
    let before = series(&admin.get("/metrics").body).len();
    let live = mix(&proxy);
    let ended: u64 = EXPECTED.iter().flat_map(|e| e.2).map(|(_, count)| count).sum();
    eventually(PATIENCE, "all that end have ended", || {
        admin.metric("tidegate_connections_ended_total", &[]) as u64 == ended
    });

    for Expected(listener, accepted, reasons) in EXPECTED {
        let label = format!("listener=\"{listener}\"");
        let read = |name: &str, more: &str| admin.metric(name, &[&label, more]) as u64;
        assert_eq!(read("tidegate_connections_accepted_total", ""), accepted, "{listener}");
        for (reason, count) in reasons {
            let more = format!("reason=\"{reason}\"");
            assert_eq!(
                read("tidegate_connections_ended_total", &more),
                *count,
                "{listener} {reason}"
            );
        }
        let all: u64 = reasons.iter().map(|(_, count)| count).sum();
        assert_eq!(
            read("tidegate_connections_ended_total", ""),
            all,
            "{listener}: no other reason"
        );
        assert_eq!(read("tidegate_connections_active", ""), accepted - all, "{listener}");
        assert_eq!(read("tidegate_connection_duration_seconds_count", ""), all, "{listener}");
    }
    let served = [&one, &two].map(|backend| backend.accepted() as u64);
    for ((backend, bytes), served) in ["one", "two"].iter().zip(&bytes).zip(served) {
        let label = format!("backend=\"{backend}\"");
        let read = |name: &str, more: &str| admin.metric(name, &[&label, more]) as u64;
        assert_eq!(read("tidegate_backend_connections_total", ""), served, "{backend}");
        // Three of them live: what they sent is counted all the same.
        assert_eq!(read("tidegate_backend_bytes_total", "\"in\""), bytes.read.load(SeqCst));
        assert_eq!(read("tidegate_backend_bytes_total", "\"out\""), bytes.written.load(SeqCst));
        assert_eq!(read("tidegate_backend_connect_failures_total", ""), 0);
    }
    assert_eq!(admin.metric("tidegate_backend_connections_active", &["pool=\"app\""]) as usize, 3);
    assert_eq!(
        admin.metric("tidegate_backend_connect_seconds_count", &["pool=\"app\""]) as u64,
        served[0] + served[1]
    );
    let refused = ["pool=\"dead\"", "reason=\"refused\""];
    assert_eq!(admin.metric("tidegate_backend_connect_failures_total", &refused) as u64, 3);
    assert_eq!(admin.metric("tidegate_backend_connections_total", &["pool=\"dead\""]) as u64, 0);
    assert_eq!(
        admin.metric("tidegate_connect_retries_total", &[]) as u64,
        0,
        "nobody else is there"
    );

    let text = admin.get("/metrics").body;
    assert!(series(&text).iter().all(|(_, value)| *value >= 0.0), "{text}");
    assert_eq!(series(&text).len(), before, "what clients send makes no series");
    for wire in ["evil", "example", "203.0.113.77"] {
        assert!(!text.contains(wire), "{wire} came from the wire");
    }

    std::fs::write(proxy.directory().join("tidegate.yaml"), with(None).file()).unwrap();
    admin.post("/api/v1/reload", "{}").ok();
    let text = admin.get("/metrics").body;
    assert!(!text.contains("backend=\"two\"") && text.contains("backend=\"one\""), "{text}");
    // Those on the backend that has gone go on, and are counted where they came in.
    assert_eq!(admin.metric("tidegate_connections_active", &["listener=\"web\""]) as usize, 3);
    live.iter().for_each(closed_later);
    eventually(PATIENCE, "nobody is there any more", || {
        admin.metric("tidegate_connections_active", &[])
            + admin.metric("tidegate_backend_connections_active", &[])
            == 0.0
    });
    let end = ["listener=\"web\"", "reason=\"client_closed\""];
    assert_eq!(admin.metric("tidegate_connections_ended_total", &end) as usize, 8);
    assert!(series(&admin.get("/metrics").body).iter().all(|(_, value)| *value >= 0.0));
}

fn closed_later(client: &Peer) {
    closed(client);
}

#[test]
fn retries_and_failures_are_those_of_the_access_log() {
    let backend = TestBackend::named("one");
    let dead = [Refusing::new(), Refusing::new()];
    let scratch = Scratch::new();
    let log = scratch.path().join("access.log").to_str().unwrap().to_owned();
    let addresses = [dead[0].address(), dead[1].address(), backend.address().to_owned()];
    let proxy = Setup::to(addresses)
        .pool("strategy: first_available, outlier_detection: off")
        .with_log(&format!(", access: \"{log}\""))
        .head("admin: {bind: \"127.0.0.1:0\"}")
        .start();
    let admin = Admin::of(&proxy);
    for _ in 0..5 {
        let client = proxy.client();
        client.expect("one");
        closed(&client);
    }
    let lines = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    eventually(PATIENCE, "five lines", || lines().len() == 5);
    let sum = |key: &str| lines().iter().map(|line| line[key].as_u64().unwrap()).sum::<u64>();
    let tried: usize = lines().iter().map(|line| line["tried"].as_array().unwrap().len()).sum();
    assert_eq!(tried, 10);
    assert_eq!(admin.metric("tidegate_backend_connect_failures_total", &["refused"]) as usize, 10);
    assert_eq!(admin.metric("tidegate_connect_retries_total", &[]) as usize, 10);
    assert_eq!(admin.metric("tidegate_backend_bytes_total", &["\"in\""]) as u64, sum("bytes_in"));
    assert_eq!(admin.metric("tidegate_backend_bytes_total", &["\"out\""]) as u64, sum("bytes_out"));
    assert_eq!((sum("bytes_in"), sum("bytes_out")), (25, 40));
}
