//! [RL-4] What is known of backends outlives reloads and an upgrade; a check that is another one knows
//! nothing of what the one before it saw.

use super::*;
use crate::support::{Answers, End, Mode, Node, ms, pause};
use crate::upgrade::Successor;

struct World {
    nodes: [Node; 4],
    answers: [Answers; 4],
}

impl World {
    fn new() -> Self {
        let nodes = ["good", "down", "drained", "ejected"].map(Node::named);
        Self { nodes, answers: [(); 4].map(|()| Answers::by("P")) }
    }

    /// A configuration that differs with `round` in what has nothing to do with health.
    fn setup(&self, round: u32) -> Setup {
        let entry = |(node, answers): (&Node, &Answers)| {
            node.entry(&format!("health_port: {}", answers.port()))
        };
        Setup::to(self.nodes.iter().zip(&self.answers).map(entry))
            .head(HEAD)
            .listener(&format!("timeouts: {{idle: {}s}}", 60 + round))
            .pool(&format!("connect: {{deadline: {}s}}", 5 + round))
            .pool(&format!(
                "health_check: {{{}, interval: 50ms, fast_interval: 20ms, timeout: 500ms, fall: 2}}",
                Answers::PROBE
            ))
            .pool(
                "outlier_detection: {consecutive_failures: 1, base_ejection: 5m, \
                 max_ejected_percent: 100}",
            )
    }

    /// Connections that came to all but the good one.
    fn strays(&self) -> usize {
        self.nodes[1..].iter().map(Node::accepted).sum()
    }
}

fn states(admin: &Admin) -> Vec<String> {
    let pool = admin.get("/api/v1/pools/app").ok();
    let backends = pool["backends"].as_array().unwrap();
    backends.iter().map(|backend| backend["state"].as_str().unwrap().to_owned()).collect()
}

/// Twenty clients, all of which the good one serves.
#[track_caller]
fn expect_good(proxy: &Proxy) {
    for _ in 0..20 {
        let client = proxy.client();
        client.expect("good");
        client.fin();
        client.expect_end(End::Fin);
    }
}

#[test]
fn health_ejections_and_operators_words_outlive_reloads_and_an_upgrade() {
    let world = World::new();
    let mut proxy = world.setup(0).start();
    let admin = Admin::of(&proxy);
    let is = |expected: [&str; 4]| states(&admin) == expected;
    world.nodes[3].set(Mode::Resets);
    eventually(PATIENCE, "one is ejected", || {
        let client = proxy.client();
        client.send("x");
        let _ = client.receive_all_within(ms(20));
        states(&admin)[3] == "ejected"
    });
    // From here on it would serve, and show that it was forgotten that it is out.
    world.nodes[3].set(Mode::Greets);
    world.answers[1].go_on("F");
    admin.post("/api/v1/pools/app/backends/drained/drain", "{}").ok();
    let expected = ["healthy", "unhealthy", "draining", "ejected"];
    eventually(PATIENCE, "one is down", || is(expected));
    proxy.expect_told("evicted", "down");
    let strays = world.strays();
    let checks = || admin.metric("tidegate_health_checks_total", &["backend=\"good\""]);
    let mut counted = checks();
    for round in 1..=10 {
        write(&proxy, &world.setup(round).file());
        admin.post("/api/v1/reload", "{}").ok();
        assert!(is(expected), "{:?}", states(&admin));
        expect_good(&proxy);
        assert!(checks() >= counted, "counters go on");
        counted = checks();
    }
    // One checker for each, as before: at the interval of 50 ms less its jitter of a fifth.
    let asked = world.answers[0].asked();
    pause(ms(800));
    let more = world.answers[0].asked() - asked;
    assert!((2..=22).contains(&more), "{more} checks in 800 ms");
    proxy.signal(Signal::USR2);
    let _successor = Successor::of(&proxy, 1);
    proxy.expect_exit(PATIENCE);
    assert!(is(expected), "{:?}", states(&admin));
    expect_good(&proxy);
    assert!(checks() >= counted, "counters go on");
    assert_eq!(world.strays(), strays, "nobody came to those that are out");
    assert_eq!(proxy.told("evicted", "down").len(), 1, "nothing is told again");
    assert_eq!(proxy.told("reinstated", "down"), []);
}

#[test]
fn another_check_begins_anew() {
    let world = World::new();
    let proxy = world.setup(0).start();
    let admin = Admin::of(&proxy);
    world.answers[1].go_on("F");
    eventually(PATIENCE, "one is down", || states(&admin)[1] == "unhealthy");
    let tcp = world.setup(0).file().replace(Answers::PROBE, "probe: tcp");
    write(&proxy, &tcp);
    admin.post("/api/v1/reload", "{}").ok();
    eventually(PATIENCE, "it is fit by the new check", || states(&admin)[1] == "healthy");
    let asked = world.answers[1].asked();
    eventually(PATIENCE, "it is checked on", || world.answers[1].asked() > asked + 3);
}
