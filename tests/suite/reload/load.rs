//! Reloads while connections come and go: nobody notices.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::support::{End, Exchange, Peer, ms, pause};

/// A configuration of which much differs for every `number`: members, weights, strategy, checks,
/// limits, timeouts, and whether there is a second listener.
fn various(number: usize, backends: &[&TestBackend], long: &TestBackend, ports: &[u16]) -> String {
    let strategies = ["round_robin", "least_connections", "random", "source_hash"];
    let kept = backends.iter().enumerate().filter(|(place, _)| *place != number % backends.len());
    let listed: Vec<_> = kept
        .map(|(n, b)| format!("{{address: \"{}\", weight: {}}}", b.address(), 1 + (number + n) % 3))
        .collect();
    let extra = match number % 2 {
        0 => String::new(),
        _ => format!("  extra: {{bind: \"127.0.0.1:{}\", pool: app}}\n", ports[2]),
    };
    let check = if number % 3 == 1 { ", health_check: {interval: 100ms}" } else { "" };
    format!(
        "listeners:\n  web: {{bind: \"127.0.0.1:{}\", pool: app, timeouts: {{idle: {}s}}, \
         max_connections: {}}}\n  long: {{bind: \"127.0.0.1:{}\", pool: long}}\n{extra}\
         pools:\n  app: {{strategy: {}, backends: [{}]{check}}}\n  long: {{backends: \
         [{{address: \"{}\", weight: {}}}]}}\n",
        ports[0],
        60 + number,
        1000 + number,
        ports[1],
        strategies[number / 2 % 4],
        listed.join(", "),
        long.address(),
        1 + number % 5,
    )
}

#[test]
fn reloads_of_everything_under_load_refuse_reset_and_cut_nobody() {
    let (one, two, long) =
        (TestBackend::named("hey"), TestBackend::named("hey"), Exchange::backend());
    let ports: Vec<u16> = crate::support::proxy::free_ports(3).collect();
    let text = |n: usize| Setup::yaml(various(n, &[&one, &two], &long, &ports)).head(HEAD);
    let proxy = text(0).listening(2).start();
    let (admin, address) = (Admin::of(&proxy), proxy.address().to_owned());
    let long_address = proxy.addresses_of("long")[0].to_owned();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let clients = || {
        while !stop.load(Ordering::SeqCst) {
            let client = Peer::connect(&address);
            client.expect("hey");
            client.fin();
            client.expect_end(End::Fin);
            served.fetch_add(1, Ordering::SeqCst);
        }
    };
    let streams = |seed: u64| {
        let long_address = &long_address;
        move || {
            let peer = Peer::connect(long_address);
            Exchange { seed, up: 40 << 20, down: 40 << 20 }.run_as_client(&peer);
        }
    };
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..4).map(|n| scope.spawn(streams(n))).collect();
        (0..3).for_each(|_| _ = scope.spawn(clients));
        let end = Stop(&stop);
        for number in 1..=12 {
            let before = served.load(Ordering::SeqCst);
            write(&proxy, &text(number).file());
            let changed = admin.post("/api/v1/reload", "{}").ok();
            assert_ne!(
                changed["changed"]["backends"]["changed"],
                serde_json::json!([]),
                "{changed}"
            );
            eventually(PATIENCE, "clients after it", || {
                served.load(Ordering::SeqCst) > before + 20
            });
        }
        drop(end);
        streams.into_iter().for_each(|stream| stream.join().unwrap());
    });
    eventually(PATIENCE, "all are counted", || {
        let total =
            |labels: &[&str]| admin.metric("tidegate_connections_accepted_total", labels) as usize;
        total(&["web"]) == served.load(Ordering::SeqCst) && total(&["long"]) == 4
    });
}

/// Ends the load, also when the test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_listener_that_is_removed_serves_who_is_queued_there_and_then_refuses() {
    let backend = TestBackend::named("hey");
    let path = |proxy: &Proxy| format!("unix:{}", proxy.directory().join("gone.sock").display());
    for is_unix in [false, true] {
        let port = crate::support::proxy::free_ports(1).next().unwrap();
        let bind = |path: &str| if is_unix { path.to_owned() } else { format!("127.0.0.1:{port}") };
        let text = |gone: &str| {
            format!(
                "listeners:\n  web: {{bind: \"127.0.0.1:0\", pool: app}}\n{gone}\
                 pools:\n  app: {{backends: [\"{}\"]}}\n",
                backend.address()
            )
        };
        let setup = |gone: &str| Setup::yaml(text(gone)).head(HEAD);
        let proxy = setup("").start();
        let admin = Admin::of(&proxy);
        let address = bind(&path(&proxy));
        let gone = format!("  gone: {{bind: \"{address}\", pool: app, max_connections: 1}}\n");
        write(&proxy, &setup(&gone).file());
        admin.post("/api/v1/reload", "{}").ok();
        let first = Peer::connect(&address);
        first.expect("hey");
        // The limit is reached, so that these wait in the kernel.
        let queued: Vec<_> = (0..20).map(|_| Peer::connect(&address)).collect();
        write(&proxy, &setup("").file());
        admin.post("/api/v1/reload", "{}").ok();
        eventually(PATIENCE, "it refuses", || {
            Peer::connect_with(&address, crate::support::peer::Options::default()).is_err()
        });
        pause(ms(20));
        first.expect_echo("goes on");
        drop(first);
        crate::support::at_once(20, |n| {
            queued[n].expect("hey");
            queued[n].expect_echo("was queued");
            queued[n].fin();
            queued[n].expect_end(End::Fin);
        });
    }
}
