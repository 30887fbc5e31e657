//! [RL-6] [RL-7] Many changes one after the other, with connections open all the while.

use super::*;
use crate::support::{Peer, ms};

fn weight(admin: &Admin) -> u64 {
    admin.get("/api/v1/pools/app").ok()["backends"][0]["weight"].as_u64().unwrap()
}

#[test]
fn of_two_hundred_changes_in_a_storm_the_last_one_wins() {
    let one = TestBackend::named("one");
    let text = |weight: usize| {
        let backend = format!("{{address: \"{}\", weight: {weight}}}", one.address());
        Setup::to([backend]).head(HEAD)
    };
    let proxy = text(1).start();
    let admin = Admin::of(&proxy);
    let new = proxy.directory().join("new.yaml");
    let file = proxy.directory().join("tidegate.yaml");
    let (stop, address) = (std::sync::atomic::AtomicBool::new(false), proxy.address().to_owned());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                Peer::connect(&address).expect("one");
            }
        });
        for round in 1..=200 {
            let text = text(round).file();
            match round % 4 {
                // Half of it is there for a moment; half a file has problems, or is refused.
                0 => {
                    let half = text.find("backends: [").unwrap() + 12;
                    std::fs::write(&file, &text[..half]).unwrap();
                    proxy.signal(Signal::HUP);
                    std::fs::write(&file, text).unwrap();
                }
                1 => {
                    std::fs::write(&new, text).unwrap();
                    std::fs::rename(&new, &file).unwrap();
                }
                2 => {
                    let target = proxy.directory().join(format!("{round}.yaml"));
                    std::fs::write(&target, text).unwrap();
                    std::os::unix::fs::symlink(&target, &new).unwrap();
                    std::fs::rename(&new, &file).unwrap();
                }
                _ => {
                    let _ = std::fs::remove_file(&file);
                    std::fs::write(&file, text).unwrap();
                }
            }
            if round % 10 == 0 {
                // Amid the reloads: an operator's word is taken whenever it comes.
                let body = admin.post("/api/v1/pools/app/failover", "{}");
                assert_eq!(body.code, 409, "{body:?}");
            }
            proxy.signal(Signal::HUP);
        }
        eventually(ms(2000), "the last one is in force", || weight(&admin) == 200);
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    proxy.allow_errors();
}

#[test]
fn connections_live_on_through_every_change_of_membership() {
    const ROUNDS: usize = 120;
    let nodes = [TestBackend::named("hey"), TestBackend::named("hey"), TestBackend::named("hey")];
    // Of three backends one is away, another has another name, weights change, and one is in the other pool.
    let text = |round: usize| {
        let mut pools = [Vec::new(), Vec::new()];
        for (n, node) in nodes.iter().enumerate() {
            let name = if (round / 3 + n) % 3 == 1 { "other" } else { "same" };
            let entry = format!(
                "{{address: \"{}\", name: {name}-{n}, weight: {}}}",
                node.address(),
                1 + (round + n) % 4
            );
            if !(round + n).is_multiple_of(3) {
                pools[usize::from((round + n) % 5 == 1)].push(entry);
            }
        }
        let fixed = |pool: &[String], n: usize| match pool {
            [] => format!("{{address: \"{}\", name: same-{n}}}", nodes[n].address()),
            pool => pool.join(", "),
        };
        format!(
            "listeners:\n  web: {{bind: \"127.0.0.1:0\", pool: app}}\n  more: {{bind: \
             \"127.0.0.1:0\", pool: also}}\npools:\n  app: {{strategy: least_connections, \
             backends: [{}]}}\n  also: {{backends: [{}]}}\n",
            fixed(&pools[0], 0),
            fixed(&pools[1], 1)
        )
    };
    let setup = |round: usize| Setup::yaml(text(round)).head(HEAD).listening(2);
    let proxy = setup(0).start();
    let admin = Admin::of(&proxy);
    let mut open: Vec<Peer> = Vec::new();
    for round in 1..=ROUNDS {
        write(&proxy, &setup(round).file());
        admin.post("/api/v1/reload", "{}").ok();
        let client = proxy.client();
        client.expect("hey");
        open.push(client);
        if round % 3 == 0 {
            drop(open.swap_remove(fastrand::usize(..open.len())));
        }
        if round % 10 == 0 {
            open.iter().for_each(|client| client.expect_echo("still"));
            let page = admin.get("/metrics").body;
            let gauges = page.lines().filter(|line| line.contains("_active{"));
            for line in gauges {
                let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
                assert!((0.0..=open.len() as f64 + 1.0).contains(&value), "{line}");
            }
        }
    }
    eventually(PATIENCE, "as many are open as there are", || {
        admin.metric("tidegate_connections_active", &["web"]) == open.len() as f64
    });
    // What is there is what the last configuration has, and nothing else: as after a fresh start.
    let shown = |admin: &Admin| {
        let page = admin.get("/metrics").body;
        let series = page.lines().filter(|line| {
            line.starts_with("tidegate_backend_weight{") || line.contains("_in_rotation{")
        });
        series.map(str::to_owned).collect::<Vec<_>>()
    };
    let fresh = setup(ROUNDS).start();
    assert_eq!(shown(&admin), shown(&Admin::of(&fresh)));
    let pools = |admin: &Admin| {
        let mut status = admin.get("/api/v1/status").ok()["pools"].clone();
        for pool in status.as_array_mut().unwrap() {
            for backend in pool["backends"].as_array_mut().unwrap() {
                let backend = backend.as_object_mut().unwrap();
                backend.retain(|key, _| {
                    ["name", "address", "weight", "priority", "state", "in_rotation"]
                        .contains(&key.as_str())
                });
            }
        }
        status
    };
    assert_eq!(pools(&admin), pools(&Admin::of(&fresh)));
    open.iter().for_each(|client| client.expect_echo("to the end"));
    drop(open);
    eventually(PATIENCE, "none is open", || {
        admin.metric("tidegate_backend_connections_active", &[]) == 0.0
            && admin.metric("tidegate_connections_active", &[]) == 0.0
    });
}

#[test]
fn a_backend_that_comes_back_has_the_connections_it_had() {
    let (one, two) = (TestBackend::named("one"), TestBackend::named("two"));
    let text = |backends: &[(&str, &TestBackend)]| {
        let entry = |(name, node): &(&str, &TestBackend)| {
            format!("{{address: \"{}\", name: {name}, max_connections: 1}}", node.address())
        };
        Setup::to(backends.iter().map(entry)).head(HEAD).pool("strategy: first_available")
    };
    let all = [("one", &one), ("two", &two)];
    let proxy = text(&all).start();
    let admin = Admin::of(&proxy);
    let first = proxy.client();
    first.expect("one");
    write(&proxy, &text(&all[1..]).file());
    admin.post("/api/v1/reload", "{}").ok();
    first.expect_echo("goes on");
    write(&proxy, &text(&all).file());
    admin.post("/api/v1/reload", "{}").ok();
    assert_eq!(admin.metric("tidegate_backend_connections_active", &["\"one\""]), 1.0);
    let second = proxy.client();
    second.expect("two");
    admin.post("/api/v1/pools/app/backends/one/kill", "{}").ok();
    first.expect_end(End::Fin);
    eventually(PATIENCE, "its slot is free", || {
        admin.metric("tidegate_backend_connections_active", &["\"one\""]) == 0.0
    });
    proxy.client().expect("one");
}
