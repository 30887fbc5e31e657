//! Backends that are names.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::support::admin::Admin;
use crate::support::{End, PATIENCE, Proxy, Setup, TestBackend, eventually, ms, throughout};

/// What a name has.
#[derive(Clone)]
enum Record {
    A([u8; 4]),
    Aaaa(Ipv6Addr),
    /// Priority, weight, port, target (RFC 2782).
    Srv(u16, u16, u16, &'static str),
}

use Record::{A, Aaaa, Srv};

/// The records of each name; a name that is not here does not exist, one without records has none.
type Zone = BTreeMap<&'static str, Vec<Record>>;

const HERE: Record = A([127, 0, 0, 1]);
const SILENT: &str = "silent.test";

/// A server that answers every question but those for [`SILENT`].
struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Dns {
    fn start(zone: impl IntoIterator<Item = (&'static str, Vec<Record>)>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(zone.into_iter().collect()));
        let dns = Self { address, zone, asked: Arc::default() };
        let (zone, asked) = (Arc::clone(&dns.zone), Arc::clone(&dns.asked));
        // Ends with the process of the test: nobody asks it any more then.
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let name = name_in(&buffer[12..length]);
                asked.lock().unwrap().push(name.clone());
                if name != SILENT {
                    let records = zone.lock().unwrap().get(name.as_str()).cloned();
                    let _ = socket.send_to(&reply(&buffer[..length], records), from);
                }
            }
        });
        dns
    }

    fn set(&self, name: &'static str, records: Vec<Record>) {
        self.zone.lock().unwrap().insert(name, records);
    }

    fn remove(&self, name: &'static str) {
        self.zone.lock().unwrap().remove(name);
    }

    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    /// Waits until this name is asked for once more, with what it has now.
    #[track_caller]
    fn expect_asked(&self, name: &str) {
        // A question for each family; the answer to the last but one may be on its way.
        let before = self.asked(name);
        eventually(PATIENCE, name, || self.asked(name) > before + 3);
    }

    /// Keys of a pool.
    fn keys(&self) -> String {
        format!(
            "resolve: {{servers: [\"{}\"], min_interval: 1s, max_interval: 1s, timeout: 500ms}}",
            self.address
        )
    }
}

/// The first name of a question, its labels joined.
fn name_in(mut question: &[u8]) -> String {
    let mut labels = Vec::new();
    while let [length, rest @ ..] = question
        && *length > 0
    {
        let (label, rest) = rest.split_at(usize::from(*length));
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        question = rest;
    }
    labels.join(".")
}

/// RFC 1035, section 4.1: the header, the question again, and a record for each answer.
fn reply(question: &[u8], records: Option<Vec<Record>>) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
    let code = if records.is_some() { 0 } else { 3 };
    let records = records.unwrap_or_default();
    let records: Vec<_> = records.iter().map(data).filter(|(own, _)| *own == kind).collect();
    let mut reply = question[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    reply.extend(&question[12..end]);
    for (kind, data) in records {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 1]);
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    reply
}

/// The type of a record, and what is in it.
fn data(record: &Record) -> (u16, Vec<u8>) {
    match record {
        A(address) => (1, address.to_vec()),
        Aaaa(address) => (28, address.octets().to_vec()),
        Srv(priority, weight, port, target) => {
            let mut data: Vec<u8> =
                [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
            for label in target.split('.') {
                data.push(label.len() as u8);
                data.extend(label.as_bytes());
            }
            data.push(0);
            (33, data)
        }
    }
}

fn port(backend: &TestBackend) -> u16 {
    backend.address().parse::<SocketAddr>().unwrap().port()
}

fn setup(dns: &Dns, port: u16) -> Setup {
    Setup::to([format!("app.test:{port}")]).pool(&dns.keys())
}

fn is_served(proxy: &Proxy) -> bool {
    let client = proxy.client();
    client.try_send("?").is_ok() && client.try_read(&mut [0]).is_ok_and(|n| n == 1)
}

const ADMIN: &str = "admin: {bind: \"127.0.0.1:0\"}";

/// The backends of the pool `app`: name, state, priority, weight.
fn backends(admin: &Admin) -> Vec<(String, String, u64, u64)> {
    let pool = admin.get("/api/v1/pools/app").ok();
    let backends = pool["backends"].as_array().unwrap().iter();
    let one = |b: &serde_json::Value| {
        let text = |key: &str| b[key].as_str().unwrap().to_owned();
        let number = |key: &str| b[key].as_u64().unwrap();
        (text("name"), text("state"), number("priority"), number("weight"))
    };
    backends.map(one).collect()
}

#[test]
fn a_name_that_does_not_resolve_yet_comes_later_and_stays_when_it_is_lost() {
    let backend = TestBackend::echo();
    let dns = Dns::start([]);
    let proxy = setup(&dns, port(&backend)).start();
    proxy.client().expect_end(End::Reset);
    proxy.expect_ends(&["no_backend"]);
    dns.set("app.test", vec![HERE]);
    eventually(PATIENCE, "the name resolves", || is_served(&proxy));
    for loses in [|dns: &Dns| dns.remove("app.test"), |dns: &Dns| dns.set("app.test", vec![])] {
        loses(&dns);
        proxy.expect_line("what is known stays");
        dns.expect_asked("app.test");
        proxy.client().expect_echo("still there");
    }
}

#[test]
fn addresses_come_and_go_with_their_name() {
    let backend = TestBackend::echo();
    let dns = Dns::start([("app.test", vec![A([127, 0, 0, 2]), A([127, 0, 0, 3])])]);
    let proxy = setup(&dns, port(&backend)).start();
    let told =
        |text: &str| proxy.events().iter().any(|e| e.kind == "resolved" && e.more.contains(text));
    eventually(PATIENCE, "both are found", || told("127.0.0.2") && told("127.0.0.3"));
    dns.set("app.test", vec![HERE, A([127, 0, 0, 3])]);
    eventually(PATIENCE, "the new one is found", || told("127.0.0.1"));
    dns.set("app.test", vec![HERE]);
    eventually(PATIENCE, "the old ones are forgotten", || is_served(&proxy));
    (0..6).for_each(|_| proxy.client().expect_echo("the only one left"));
}

#[test]
fn an_address_that_is_gone_keeps_its_connections_and_gets_no_others() {
    let (old, new) = (TestBackend::named("old"), TestBackend::named("new"));
    let target = |backend: &TestBackend| Srv(0, 1, port(backend), "app.test");
    let dns = Dns::start([("app.test", vec![HERE]), ("_a._tcp.test", vec![target(&old)])]);
    let proxy = Setup::to(["srv+_a._tcp.test"]).pool(&dns.keys()).head(ADMIN).start();
    let admin = Admin::of(&proxy);
    eventually(PATIENCE, "it resolves", || is_served(&proxy));
    let kept = proxy.client();
    kept.expect("old");
    dns.set("_a._tcp.test", vec![target(&new)]);
    eventually(PATIENCE, "the new one is in rotation", || {
        let client = proxy.client();
        client.receive(3) == b"new"
    });
    kept.expect_echo("goes on");
    let names = |admin: &Admin| backends(admin).into_iter().map(|b| b.0).collect::<Vec<_>>();
    assert_eq!(names(&admin).len(), 2);
    (0..4).for_each(|_| proxy.client().expect("new"));
    let metric = |cause: &str| admin.metric("tidegate_backend_evictions_total", &[cause]);
    assert_eq!(metric("cause=\"resolve\""), 1.0);
    // When the last connection has ended it is gone, and with it its series.
    drop(kept);
    eventually(PATIENCE, "it is forgotten", || names(&admin).len() == 1);
    let old = format!("@{}", old.address());
    assert!(!admin.get("/metrics").body.contains(&old));
}

#[test]
fn a_service_brings_ports_weights_and_priorities() {
    let [heavy, light, later] = ["heavy", "light", "later"].map(TestBackend::named);
    let dns = Dns::start([
        ("here.test", vec![HERE]),
        (
            "_a._tcp.test",
            vec![
                Srv(10, 3, port(&heavy), "here.test"),
                Srv(10, 1, port(&light), "here.test"),
                Srv(20, 7, port(&later), "here.test"),
            ],
        ),
    ]);
    let proxy =
        Setup::to(["{address: srv+_a._tcp.test, name: web}"]).pool(&dns.keys()).head(ADMIN).start();
    let admin = Admin::of(&proxy);
    eventually(PATIENCE, "it resolves", || backends(&admin).len() == 3);
    let mut found = backends(&admin);
    found.sort();
    let of = |backend: &TestBackend, priority, weight| {
        (format!("web@{}", backend.address()), "healthy".to_owned(), priority, weight)
    };
    let mut expected = [of(&heavy, 10, 3), of(&light, 10, 1), of(&later, 20, 7)];
    expected.sort();
    assert_eq!(found, expected);
    let clients: Vec<_> = (0..16).map(|_| proxy.client()).collect();
    let served: Vec<_> = clients.iter().map(|client| client.receive(5)).collect();
    let count = |name: &[u8]| served.iter().filter(|own| *own == name).count();
    assert_eq!((count(b"heavy"), count(b"light")), (12, 4));
    // Another weight, without another address.
    dns.set("_a._tcp.test", vec![Srv(10, 5, port(&light), "here.test")]);
    eventually(PATIENCE, "the weight is another", || {
        backends(&admin).iter().any(|b| b.0.ends_with(light.address()) && b.3 == 5)
    });
}

#[test]
fn a_reload_keeps_the_addresses_of_a_name_and_what_is_known_of_them() {
    let [one, two] = ["one", "two"].map(TestBackend::named);
    let target = |backend: &TestBackend| Srv(0, 1, port(backend), "here.test");
    let dns =
        Dns::start([("here.test", vec![HERE]), ("_a._tcp.test", vec![target(&one), target(&two)])]);
    let setup = Setup::to(["{address: srv+_a._tcp.test, name: web}"]).pool(&dns.keys()).head(ADMIN);
    let proxy = setup.clone().start();
    let admin = Admin::of(&proxy);
    eventually(PATIENCE, "it resolves", || backends(&admin).len() == 2);
    let drained = format!("web@{}", one.address());
    let path = format!("/api/v1/pools/app/backends/{}/drain", drained.replace(':', "%3A"));
    admin.post(&path, "{}").ok();
    let kept = proxy.client();
    kept.expect("two");
    // From now on nothing can be looked up: what a reload does not keep is lost.
    dns.remove("_a._tcp.test");
    for more in ["connect: {attempts: 2}", "resolve_other"] {
        let text = match more {
            // Other bounds: the names are looked up anew.
            "resolve_other" => setup.file().replace("max_interval: 1s", "max_interval: 2s"),
            more => setup.clone().pool(more).file(),
        };
        std::fs::write(proxy.directory().join("tidegate.yaml"), text).unwrap();
        let before = proxy.events().iter().filter(|event| event.kind == "reloaded").count();
        proxy.signal(Signal::HUP);
        eventually(PATIENCE, "it is read again", || {
            proxy.events().iter().filter(|event| event.kind == "reloaded").count() > before
        });
        throughout(ms(100), "both are there", || backends(&admin).len() == 2);
        let state = backends(&admin).into_iter().find(|b| b.0 == drained).unwrap().1;
        assert_eq!(state, "draining");
        proxy.client().expect("two");
    }
    kept.expect_echo("goes on");
}

#[test]
fn two_names_of_one_address_are_two_backends_that_go_each_with_its_own_name() {
    let backend = TestBackend::echo();
    let dns = Dns::start([("a.test", vec![HERE]), ("b.test", vec![HERE])]);
    let port = port(&backend);
    let names = ["a.test", "b.test"].map(|name| format!("{name}:{port}"));
    let proxy = Setup::to(names.clone()).pool(&dns.keys()).head(ADMIN).start();
    let admin = Admin::of(&proxy);
    let found = || {
        let mut names: Vec<_> = backends(&admin).into_iter().map(|b| b.0).collect();
        names.sort();
        names
    };
    eventually(PATIENCE, "both resolve", || found() == names);
    dns.set("a.test", vec![A([127, 0, 0, 9])]);
    let moved = format!("{}@127.0.0.9:{port}", names[0]);
    eventually(PATIENCE, "one goes", || found() == [moved.clone(), names[1].clone()]);
}

#[test]
fn where_one_family_is_dead_the_other_one_serves_and_each_is_checked() {
    let backend = TestBackend::echo();
    let port = port(&backend);
    // Bound and not listening: there the other family refuses.
    let guard = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    guard.set_only_v6(true).unwrap();
    guard.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, port)).into()).unwrap();
    let dns = Dns::start([("app.test", vec![Aaaa(Ipv6Addr::LOCALHOST), HERE])]);
    let proxy = Setup::to([format!("app.test:{port}")])
        .pool(&dns.keys())
        .pool("health_check: {interval: 200ms, fast_interval: 100ms, rise: 1, fall: 1}")
        .head(ADMIN)
        .start();
    let admin = Admin::of(&proxy);
    eventually(PATIENCE, "it resolves", || backends(&admin).len() == 2);
    let start = Instant::now();
    proxy.client().expect_echo("by the other one");
    assert!(start.elapsed() < ms(1_250), "took {:?}", start.elapsed());
    eventually(PATIENCE, "each has been checked", || {
        let state = |end: &str| {
            let found = backends(&admin);
            found.into_iter().find(|b| b.0.ends_with(end)).map(|b| b.1).unwrap_or_default()
        };
        let v6 = state(&format!("@[::1]:{port}"));
        let v4 = state(&format!("@127.0.0.1:{port}"));
        (v6.as_str(), v4.as_str()) == ("unhealthy", "healthy")
    });
}

#[test]
fn a_name_that_cannot_be_looked_up_stops_neither_the_start_nor_others() {
    let backend = TestBackend::echo();
    let dns = Dns::start([]);
    let start = Instant::now();
    let proxy =
        Setup::to([backend.address(), "silent.test:80", "none.test:80"]).pool(&dns.keys()).start();
    (0..20).for_each(|_| proxy.client().expect_echo("at once"));
    assert!(start.elapsed() < ms(2_500), "took {:?}", start.elapsed());
    proxy.expect_line("does not resolve yet");
    let questions = dns.asked(SILENT) + dns.asked("none.test");
    (0..20).for_each(|_| proxy.client().expect_echo("no look-up for a connection"));
    assert!(dns.asked(SILENT) + dns.asked("none.test") <= questions + 8);
}

#[test]
fn localhost_is_known_without_any_server() {
    let backend = TestBackend::echo();
    let proxy = Setup::to([format!("localhost:{}", port(&backend))]).start();
    eventually(PATIENCE, "the name resolves", || is_served(&proxy));
}
