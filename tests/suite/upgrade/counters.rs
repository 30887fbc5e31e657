//! The counters go on: what the old process counts to its end, the new one shows.

use super::*;
use crate::support::ms;
use crate::support::pause;

/// What is counted of connections and bytes: accepted, ended, of the backend, bytes in, bytes out.
fn counted(admin: &Admin) -> [u64; 5] {
    let of = |name: &str, labels: &[&str]| admin.metric(name, labels) as u64;
    [
        of("tidegate_connections_accepted_total", &[]),
        of("tidegate_connections_ended_total", &[]),
        of("tidegate_backend_connections_total", &[]),
        of("tidegate_backend_bytes_total", &["direction=\"in\""]),
        of("tidegate_backend_bytes_total", &["direction=\"out\""]),
    ]
}

/// Scrapes all the time, until told to stop: no number is ever less than before.
fn scrape(admin: &Admin, stop: &AtomicBool, scrapes: &AtomicUsize) {
    let mut before: Vec<(String, f64)> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        // One that the old process was about to answer when it left may be cut off.
        let Ok(answer) = admin.try_ask("GET", "/metrics", "", "") else { continue };
        assert_eq!(answer.code, 200, "{answer:?}");
        let is_counter = |line: &&str| {
            let name = line.split(['{', ' ']).next().unwrap();
            name.starts_with("tidegate_")
                && ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end))
        };
        let parse = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        };
        let now: Vec<(String, f64)> = answer.body.lines().filter(is_counter).map(parse).collect();
        for (series, value) in &before {
            let again = now.iter().find(|(other, _)| other == series).map(|(_, value)| *value);
            assert!(again >= Some(*value), "{series}: {value}, then {again:?}");
        }
        before = now;
        scrapes.fetch_add(1, Ordering::SeqCst);
    }
}

/// Opens a connection, which has brought one greeting and carried `message` both ways.
fn long(proxy: &Proxy, message: &str) -> Peer {
    let client = proxy.client();
    client.expect("one");
    client.expect_echo(message);
    client
}

#[test]
fn every_connection_and_byte_is_counted_once_through_two_upgrades_under_load() {
    let backend = TestBackend::named("one");
    let mut proxy = Setup::to([backend.address()]).head(ADMIN).start();
    let (admin, address) = (Admin::of(&proxy), proxy.address().to_owned());
    let (stop, served, scrapes) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let first: Vec<_> = (0..5).map(|_| long(&proxy, "of the first")).collect();
    let (second, successors) = std::thread::scope(|scope| {
        let end = Stop(&stop);
        for _ in 0..3 {
            scope.spawn(|| clients(&address, &stop, &served));
        }
        scope.spawn(|| scrape(&admin, &stop, &scrapes));
        let more = |what: &str| {
            let (clients, seen) = (served.load(Ordering::SeqCst), scrapes.load(Ordering::SeqCst));
            eventually(PATIENCE, what, || {
                served.load(Ordering::SeqCst) > clients + 50
                    && scrapes.load(Ordering::SeqCst) > seen + 3
            });
        };
        more("load and scrapes before");
        proxy.signal(Signal::USR2);
        let one = Successor::of(&proxy, 1);
        more("load and scrapes after the first");
        let second: Vec<_> = (0..4).map(|_| long(&proxy, "of the second")).collect();
        // The first process drains still, and the second one hands over what it hears from it.
        one.signal(Signal::USR2);
        let two = Successor::of(&proxy, 2);
        more("load and scrapes after the second");
        first.iter().for_each(|client| client.expect_echo("again"));
        drop(end);
        (second, [one, two])
    });
    assert!(procfs::runs(proxy.pid()) && procfs::runs(successors[0].pid()));
    second.iter().for_each(|client| client.expect_echo("and again"));
    let served = served.load(Ordering::SeqCst) as u64;
    let (bytes_in, greetings) = (5 * (12 + 5) + 4 * (13 + 9), 3 * (served + 9));
    let open = [served + 9, served, served + 9, bytes_in, bytes_in + greetings];
    eventually(PATIENCE, "all is counted that was carried", || counted(&admin) == open);
    assert_eq!(admin.metric("tidegate_connections_active", &[]), 0.0, "none is open in the third");
    // The middle one ends first, the oldest last.
    second.iter().for_each(Peer::fin);
    successors[0].expect_exit(PATIENCE);
    assert!(procfs::runs(proxy.pid()));
    first.iter().for_each(Peer::fin);
    proxy.expect_exit(PATIENCE);
    let all = [served + 9, served + 9, served + 9, bytes_in, bytes_in + greetings];
    eventually(PATIENCE, "all is counted", || counted(&admin) == all);
    pause(ms(300));
    assert_eq!(counted(&admin), all, "and nothing twice");
}

#[test]
fn what_is_cut_off_at_the_end_of_the_grace_is_counted_too() {
    let backend = TestBackend::named("one");
    let setup = Setup::to([backend.address()]).head(ADMIN).runtime("shutdown_grace: 300ms");
    let mut proxy = setup.start();
    let admin = Admin::of(&proxy);
    let client = long(&proxy, "open");
    proxy.signal(Signal::USR2);
    let _successor = Successor::of(&proxy, 1);
    client.expect_end(crate::support::End::Fin);
    proxy.expect_exit(PATIENCE);
    eventually(PATIENCE, "its end is counted", || {
        admin.metric("tidegate_connections_ended_total", &["reason=\"shutdown\""]) == 1.0
    });
    assert_eq!(counted(&admin), [1, 1, 1, 4, 7]);
}

#[test]
fn checks_evictions_takeovers_and_reloads_go_on_from_where_they_were() {
    let (one, two) = (TestBackend::named("one"), TestBackend::named("two"));
    let backends = [("one", &one), ("two", &two)];
    let backends =
        backends.map(|(name, node)| format!("{{address: \"{}\", name: {name}}}", node.address()));
    let setup = Setup::to(backends)
        .head(ADMIN)
        .pool("strategy: hot_standby, health_check: {interval: 20ms, fast_interval: 20ms}");
    let proxy = setup.start();
    let admin = Admin::of(&proxy);
    admin.post("/api/v1/pools/app/failover", "{}").ok();
    admin.post("/api/v1/pools/app/backends/one/drain", "{}").ok();
    admin.post("/api/v1/reload", "{}").ok();
    let checks = || admin.metric("tidegate_health_checks_total", &["backend=\"two\"", "\"pass\""]);
    eventually(PATIENCE, "some checks", || checks() > 20.0);
    proxy.signal(Signal::USR2);
    let _successor = Successor::of(&proxy, 1);
    assert!(checks() > 20.0);
    let before = checks();
    eventually(PATIENCE, "further checks", || checks() > before + 3.0);
    let one = |name: &str, labels: &[&str]| assert_eq!(admin.metric(name, labels), 1.0, "{name}");
    one("tidegate_takeovers_total", &[]);
    one("tidegate_backend_evictions_total", &["backend=\"one\"", "cause=\"operator\""]);
    one("tidegate_config_reloads_total", &["result=\"success\""]);
    one("tidegate_pool_active_backend", &["backend=\"two\""]);
}
