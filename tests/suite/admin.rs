//! The admin endpoint of the real program.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::support::admin::Admin;
use super::support::cli::tidegate;
use super::support::{PATIENCE, Proxy, Setup, TestBackend, eventually};

const HEAD: &str = "admin: {bind: \"127.0.0.1:0\"}";

fn two() -> (TestBackend, TestBackend) {
    (TestBackend::named("one"), TestBackend::named("two"))
}

fn start(one: &TestBackend, two: &TestBackend) -> Proxy {
    let backend =
        |name: &str, at: &TestBackend| format!("{{name: {name}, address: \"{}\"}}", at.address());
    Setup::to([backend("one", one), backend("two", two)]).head(HEAD).start()
}

#[test]
fn an_operator_drains_enables_disables_weighs_and_kills() {
    let (one, two) = two();
    let proxy = start(&one, &two);
    let admin = Admin::of(&proxy);
    let status = admin.get("/api/v1/status").ok();
    assert_eq!(status["pools"][0]["backends"][1]["name"], "two", "{status}");
    let drained = admin.post("/api/v1/pools/app/backends/two/drain", "{}").ok();
    assert_eq!(drained["state"], "draining", "{drained}");
    for _ in 0..6 {
        let client = proxy.client();
        assert_eq!(client.receive(3), b"one");
    }
    admin.post("/api/v1/pools/app/backends/two/enable", "{}").ok();
    let disabled = admin.post("/api/v1/pools/app/backends/one/disable", "{}").ok();
    assert_eq!(disabled["state"], "disabled", "{disabled}");
    let client = proxy.client();
    assert_eq!(client.receive(3), b"two");
    let weighed = admin.ask("PUT", "/api/v1/pools/app/backends/two/weight", "", "{\"weight\":7}");
    assert_eq!(weighed.ok()["weight"], 7);
    let open = admin.get("/api/v1/connections").ok();
    assert_eq!(open[0]["backend"], "two", "{open}");
    admin.post("/api/v1/pools/app/backends/two/kill", "{}").ok();
    eventually(PATIENCE, "it is killed", || proxy.ended().iter().any(|e| e.reason == "killed"));
    drop(client);
    assert_eq!(admin.post("/api/v1/pools/app/backends/none/drain", "{}").code, 404);
    assert_eq!(admin.post("/api/v1/pools/app/failover", "{}").code, 409, "no hot standby");
}

#[test]
fn what_is_explained_then_happens() {
    let (one, two) = two();
    let proxy = start(&one, &two);
    let admin = Admin::of(&proxy);
    for _ in 0..4 {
        let said = admin.get("/api/v1/explain?listener=web&source=127.0.0.1").ok();
        let client = proxy.client();
        let served = String::from_utf8(client.receive(3)).unwrap();
        assert_eq!(said["pick"], served.as_str(), "{said}");
    }
}

#[test]
fn a_stranger_is_refused_and_the_token_is_changed_by_a_reload() {
    let backend = TestBackend::echo();
    let scratch = super::support::setup::Scratch::new();
    let file = scratch.write("token", "first\n");
    let head = format!("admin: {{bind: \"127.0.0.1:0\", token_file: \"{file}\"}}");
    let proxy = Setup::to([backend.address()]).head(&head).start();
    let admin = Admin::of(&proxy);
    let with = |token: &str| {
        let head = format!("Authorization: Bearer {token}\r\n");
        admin.ask("GET", "/api/v1/status", &head, "").code
    };
    assert_eq!(admin.get("/api/v1/status").code, 401);
    assert_eq!((admin.get("/livez").code, admin.get("/readyz").code), (200, 200));
    assert_eq!((with("first"), with("second")), (200, 401));
    let rebound = "Host: evil.example\r\nAuthorization: Bearer first\r\n";
    assert_eq!(admin.ask("GET", "/api/v1/status", rebound, "").code, 403);
    scratch.write("token", "second\n");
    let head = "Authorization: Bearer first\r\n";
    assert_eq!(admin.ask("POST", "/api/v1/reload", head, "{}").code, 200);
    eventually(PATIENCE, "the new token is in force", || with("second") == 200);
    assert_eq!(with("first"), 401);
    scratch.write("token", "");
    let head = "Authorization: Bearer second\r\n";
    let refused = admin.ask("POST", "/api/v1/reload", head, "{}");
    assert!(refused.code == 422 && refused.body.contains("the token is empty"), "{refused:?}");
    assert_eq!(with("second"), 200);
}

#[test]
fn events_are_followed() {
    let (one, two) = two();
    let proxy = start(&one, &two);
    let admin = Admin::of(&proxy);
    let mut stream = TcpStream::connect(admin.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head =
        "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    let mut is_asked = false;
    while !String::from_utf8_lossy(&told).contains("\"draining\"") {
        if !is_asked && !told.is_empty() {
            admin.post("/api/v1/pools/app/backends/two/drain", "{}").ok();
            is_asked = true;
        }
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&told));
        told.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn commands_talk_to_the_program() {
    let (one, two) = two();
    let proxy = start(&one, &two);
    let url = format!("http://{}", Admin::of(&proxy).address());
    let status = tidegate(&["status", "--admin", &url]);
    assert!(status.code == 0 && status.stdout.contains("pool app"), "{status:?}");
    let drained = tidegate(&["drain", "app/two", "--admin", &url]);
    assert!(drained.code == 0 && drained.stdout.contains("draining"), "{drained:?}");
    let events = tidegate(&["events", "--admin", &url]);
    assert!(events.stdout.contains("draining"), "{events:?}");
    assert_eq!(tidegate(&["drain", "app/none", "--admin", &url]).code, 1);
}

#[test]
fn what_is_measured_is_what_happened() {
    let (one, two) = two();
    let proxy = start(&one, &two);
    let admin = Admin::of(&proxy);
    for _ in 0..10 {
        let client = proxy.client();
        client.receive(3);
        client.send("hello");
        assert_eq!(client.receive(5), b"hello");
        client.fin();
    }
    eventually(PATIENCE, "all have ended", || proxy.ended().len() == 10);
    let bytes = |name: &str| admin.metric(name, &[]);
    assert_eq!(one.accepted() + two.accepted(), 10);
    let text = admin.get("/metrics").body;
    let total = |word: &str| {
        let of = |line: &&str| !line.starts_with('#') && line.contains(word);
        text.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(
        bytes("tidegate_config_last_reload_success_timestamp_seconds") > 0.0,
        "{:?}",
        total("reload")
    );
    let status = admin.get("/api/v1/status").ok();
    let backends = status["pools"][0]["backends"].as_array().unwrap();
    let sum = |key: &str| backends.iter().map(|b| b[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("connections_total"), sum("bytes_in"), sum("bytes_out")), (10, 50, 80));
}

/// A pool of these three with a strategy, on one thread, so that nothing else moves a turn.
fn three(strategy: &str, backends: &[TestBackend; 3]) -> Proxy {
    let named = ["one", "two", "six"].into_iter().zip(backends);
    let named = named.map(|(name, b)| {
        let weight = if name == "two" { 2 } else { 1 };
        format!(
            "{{name: {name}, address: \"{}\", weight: {weight}, max_connections: 3}}",
            b.address()
        )
    });
    let keys = format!("strategy: {strategy}, queue: off");
    Setup::to(named).pool(&keys).head(HEAD).threads(1).start()
}

#[test]
fn what_is_explained_then_happens_with_every_strategy() {
    for strategy in [
        "round_robin",
        "least_connections",
        "random",
        "power_of_two",
        "least_latency",
        "source_hash",
        "first_available",
        "hot_standby",
    ] {
        let backends = ["one", "two", "six"].map(TestBackend::named);
        let proxy = three(strategy, &backends);
        let admin = Admin::of(&proxy);
        let mut open = Vec::new();
        for round in 0..9 {
            if round == 4 {
                admin.post("/api/v1/pools/app/backends/two/drain", "{}").ok();
            }
            let said = admin.get("/api/v1/explain?listener=web&source=127.0.0.1").ok();
            let again = admin.get("/api/v1/explain?listener=web&source=127.0.0.1").ok();
            let candidates = said["candidates"].as_array().unwrap();
            assert_eq!(candidates.len(), 3, "{said}");
            let is_usable = |name: &str| {
                let found = candidates.iter().find(|c| c["backend"] == name).unwrap();
                found["usable"] == true
            };
            let client = proxy.client();
            let (bytes, _) = match said["pick"].as_str() {
                Some(_) => (client.receive(3), ()),
                None => (client.receive_all().0, ()),
            };
            let served = String::from_utf8(bytes).unwrap();
            if served.is_empty() {
                assert!(said["pick"].is_null(), "{strategy}, round {round}: {said}");
                let why = said["why"].as_str().unwrap();
                assert!(why.contains("at its max_connections"), "{strategy}: {said}");
                continue;
            }
            assert!(is_usable(&served), "{strategy}, round {round}: {served}, but {said}");
            assert!(is_usable(said["pick"].as_str().unwrap()), "{strategy}: {said}");
            // Two of them draw lots, for the question and for the connection anew.
            if !matches!(strategy, "random" | "power_of_two") {
                assert_eq!(said["pick"], again["pick"], "{strategy}: to ask moves nothing");
                assert_eq!(said["pick"], served.as_str(), "{strategy}, round {round}: {said}");
            }
            open.push(client);
        }
        assert!(open.len() >= 3, "{strategy}: {}", open.len());
    }
}

#[test]
fn an_operator_moves_the_active_role() {
    let backends = ["one", "two", "six"].map(TestBackend::named);
    let proxy = three("hot_standby", &backends);
    let admin = Admin::of(&proxy);
    let greeted = || {
        let client = proxy.client();
        (String::from_utf8(client.receive(3)).unwrap(), client)
    };
    let (name, old) = greeted();
    assert_eq!(name, "one");
    let moved = admin.post("/api/v1/pools/app/failover", "{}").ok();
    assert_eq!(moved["active"], "two", "the next one in order: {moved}");
    // The answer means that it is done: nobody gets to the old one any more.
    assert_eq!(greeted().0, "two");
    let moved = admin.post("/api/v1/pools/app/failover", "{\"backend\": \"six\"}").ok();
    assert_eq!(moved["active"], "six", "{moved}");
    assert_eq!(greeted().0, "six");
    // hot_standby's demotion is `close`, from its grace of two seconds on.
    let (_, end) = old.receive_all();
    assert_eq!(end, super::support::End::Fin);
    eventually(PATIENCE, "it ended so", || proxy.reasons().contains_key("demoted"));
    let events = admin.get("/api/v1/events").ok();
    let takeovers: Vec<_> =
        events.as_array().unwrap().iter().filter(|e| e["kind"] == "takeover").collect();
    assert_eq!((&takeovers[0]["from"], &takeovers[0]["to"]), (&"one".into(), &"two".into()));
    assert_eq!(
        (&takeovers[0]["cause"], &takeovers[0]["backend"]),
        (&"operator".into(), &"two".into())
    );
    assert_eq!(admin.metric("tidegate_takeovers_total", &[]) as usize, 2);
    assert_eq!(admin.metric("tidegate_pool_active_backend", &["\"six\""]) as usize, 1);
    assert_eq!(admin.metric("tidegate_pool_active_backend", &[]) as usize, 1);

    let code = |body: &str| admin.post("/api/v1/pools/app/failover", body).code;
    assert_eq!(code("{\"backend\": \"seven\"}"), 404);
    admin.post("/api/v1/pools/app/backends/one/disable", "{}").ok();
    let refused = admin.post("/api/v1/pools/app/failover", "{\"backend\": \"one\"}");
    assert!(refused.code == 409 && refused.body.contains("enable it first"), "{refused:?}");
    admin.post("/api/v1/pools/app/backends/two/drain", "{}").ok();
    assert_eq!(code("{}"), 409, "nobody else is usable");
    assert_eq!(greeted().0, "six");
    let url = format!("http://{}", admin.address());
    admin.post("/api/v1/pools/app/backends/one/enable", "{}").ok();
    let told = tidegate(&["failover", "app", "one", "--admin", &url]);
    assert!(told.code == 0 && told.stdout == "one is active in pool app\n", "{told:?}");
    let told = tidegate(&["failover", "app", "onne", "--admin", &url]);
    assert!(told.code == 1 && told.stderr.contains("did you mean \"one\"?"), "{told:?}");
    assert_eq!(greeted().0, "one");
}
