use std::time::Duration;

use super::*;
use crate::balance::{Entry as Row, OptionKey};
use crate::net::addr::{Address, Target};

pub(super) fn registry() -> Registry {
    Registry::default()
}

/// The option of a strategy.
fn option(strategy: &str, name: &str) -> OptionKey {
    let registry = registry();
    let options = registry.find(strategy).map_or(&[][..], |entry| entry.options);
    *options.iter().find(|option| option.name == name).expect("an option")
}

/// No variable is set but `HOST`.
pub(super) fn env(name: &str) -> Option<String> {
    (name == "HOST").then(|| "10.0.0.1".to_owned())
}

/// The problems of a text, as lines.
pub(super) fn problems(text: &str) -> Vec<String> {
    match load(text, &env, &registry()) {
        Ok(config) => panic!("no problem in:\n{text}\n{config:#?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// The only problem of a text.
pub(super) fn problem(text: &str) -> String {
    let mut problems = problems(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

pub(super) fn config(text: &str) -> Config {
    load(text, &env, &registry()).unwrap_or_else(|problems| panic!("{}", render("f", &problems)))
}

pub(super) const GOOD: &str = "\
listeners:
  web:
    bind: 0.0.0.0:9501
    pool: app
pools:
  app:
    strategy: { source_hash: { prefix_v4: 24 } }
    backends:
      - 10.0.0.11:9501
      - { address: \"${HOST}:9501\", name: app-2, weight: 3, max_connections: 500 }
      - unix:/run/app.sock
";

/// A file with every key that there is.
pub(super) const FULL: &str = include_str!("../../tests/data/config/valid/every-key.yaml");

fn target(text: &str) -> Target {
    Target::parse(text).unwrap()
}

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse().unwrap())
}

#[test]
fn a_file_becomes_values() {
    let config = config(GOOD);
    let listener = &config.listeners["web"];
    assert_eq!(listener.bind, [tcp("0.0.0.0:9501")]);
    let route = model::Route { conditions: model::Match::default(), pool: "app".to_owned() };
    assert_eq!(listener.routes, [route]);
    let pool = &config.pools["app"];
    assert_eq!(pool.strategy.name, "source_hash");
    assert_eq!(pool.strategy.options.get(&option("source_hash", "prefix_v4")), 24);
    assert_eq!(pool.strategy.options.get(&option("source_hash", "prefix_v6")), 64);
    let names: Vec<&str> = pool.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["10.0.0.11:9501", "app-2", "unix:/run/app.sock"]);
    assert_eq!(pool.backends[1].address, target("10.0.0.1:9501"));
    assert_eq!(pool.backends[1].weight, 3);
    assert_eq!(pool.backends[1].max_connections.map(|max| max.get()), Some(500));
    assert_eq!(pool.backends[2].address, target("unix:/run/app.sock"));
}

#[test]
fn absent_keys_have_the_defaults_of_the_contract() {
    let config = config(
        "listeners: { web: { bind: 127.0.0.1:0, pool: app } }\n\
         pools: { app: { backends: [10.0.0.1:9501] } }\n",
    );
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(config.runtime.threads, None);
    assert_eq!(config.runtime.shutdown_grace, seconds(30));
    assert_eq!(config.runtime.max_connections, None);
    let listener = &config.listeners["web"];
    assert_eq!(listener.timeouts.idle, seconds(3600));
    assert_eq!(listener.timeouts.half_closed, seconds(60));
    assert_eq!(listener.timeouts.max_duration, None);
    assert!(listener.tcp.nodelay);
    assert_eq!(listener.tcp.keepalive, seconds(60));
    assert_eq!(listener.tcp.user_timeout, seconds(60));
    assert_eq!(listener.tcp.backlog, 4096);
    assert_eq!(listener.over_limit, model::OverLimit::Wait);
    let pool = &config.pools["app"];
    assert_eq!(pool.strategy.name, "round_robin");
    assert_eq!(pool.connect, model::Connect::default());
    assert_eq!(pool.connect.timeout, Duration::from_secs(1));
    assert_eq!(pool.connect.hedge, Some(Duration::from_millis(250)));
    assert_eq!(pool.connect.source, model::Source::Addresses(Vec::new()));
    assert_eq!(pool.connect.send_proxy_protocol, model::SendProxyProtocol::Off);
    assert_eq!(pool.queue, None);
    assert_eq!(pool.resolve.min_interval, Duration::from_secs(5));
    assert_eq!(pool.resolve.max_interval, Duration::from_secs(300));
    assert_eq!(pool.resolve.timeout, Duration::from_secs(2));
    assert_eq!(listener.timeouts.peek, Duration::from_secs(3));
    assert_eq!(listener.bandwidth, model::Bandwidth { inward: None, outward: None });
    assert_eq!((&listener.allow, &listener.deny), (&Vec::new(), &Vec::new()));
    assert_eq!(listener.accept_proxy_protocol, []);
    assert_eq!(listener.max_connections_per_source, None);
    assert_eq!(listener.connection_rate_per_source, None);
    assert_eq!((config.admin.as_ref(), config.log.access.as_ref()), (None, None));
    assert_eq!(pool.backends[0].weight, 1);
    assert_eq!(config.state_file, None);
    assert_eq!(pool.backends[0].priority, 0);
    assert!(!pool.backends[0].disabled);
    assert_eq!(pool.health_check, None);
    assert_eq!(pool.outlier_detection, Some(model::OutlierDetection::default()));
    assert_eq!(pool.evicted_connections, model::EvictedConnections::Keep);
    assert_eq!((pool.slow_start, pool.panic_threshold), (None, 0));
    assert_eq!(pool.recovery, model::Recovery::default());
}

/// The only pool of a file: the good one with other lines at its end.
fn pool_with(lines: &str) -> model::Pool {
    config(&format!("{GOOD}{lines}")).pools["app"].clone()
}

#[test]
fn a_check_of_a_few_words_has_the_defaults_of_the_contract() {
    let check = pool_with("    health_check: {}\n").health_check.unwrap();
    assert_eq!(check, model::HealthCheck::default());
    assert_eq!(check.probe, model::Probe::Tcp);
    assert_eq!((check.rise, check.fall, check.jitter, check.port), (2, 3, 20, None));
    let millis = Duration::from_millis;
    assert_eq!((check.interval, check.timeout), (millis(2_000), millis(1_000)));
    assert_eq!(check.fast_interval, millis(500));
    let check = pool_with("    health_check: { interval: 200ms, timeout: 1h }\n").health_check;
    assert_eq!(check.unwrap().fast_interval, millis(200), "never longer than the interval");
    let check = pool_with("    health_check: { probe: http }\n").health_check.unwrap();
    let http = model::HttpProbe {
        path: "/".to_owned(),
        host: None,
        method: "GET".to_owned(),
        expect_status: vec![model::StatusRange { first: 200, last: 299 }],
        expect_body: None,
    };
    assert_eq!(check.probe, model::Probe::Http(http));
    let check = pool_with("    health_check: { probe: { tls: { server_name: a } } }\n");
    let tls = model::TlsProbe { server_name: Some("a".to_owned()), verify: true };
    assert_eq!(check.health_check.unwrap().probe, model::Probe::Tls(tls));
}

#[test]
fn checks_of_the_defaults_can_be_turned_off() {
    let text = format!("defaults: {{ pool: {{ health_check: {{ rise: 9 }} }} }}\n{GOOD}");
    assert_eq!(config(&text).pools["app"].health_check.as_ref().unwrap().rise, 9);
    assert_eq!(config(&format!("{text}    health_check: off\n")).pools["app"].health_check, None);
    assert_eq!(pool_with("    outlier_detection: off\n").outlier_detection, None);
}

#[test]
fn backup_is_a_word_for_a_priority() {
    let priority = |keys: &str| {
        let backend = format!("{{ address: 10.0.0.11:9501, {keys} }}");
        let text = GOOD.replacen("- 10.0.0.11:9501", &format!("- {backend}"), 1);
        config(&text).pools["app"].backends[0].priority
    };
    assert_eq!(priority("backup: true"), 1);
    assert_eq!(priority("backup: \"yes\""), 1);
    assert_eq!(priority("backup: false"), 0);
    assert_eq!(priority("priority: 7"), 7);
}

#[test]
fn what_follows_a_failover_depends_on_the_strategy() {
    use model::{DemotionConnections, Failback};
    let in_force = |strategy: &str, lines: &str| {
        let text = GOOD.replace("{ source_hash: { prefix_v4: 24 } }", strategy) + lines;
        let pool = config(&text).pools["app"].clone();
        (pool.failover.failback(&pool.strategy), pool.failover.demoted_connections(&pool.strategy))
    };
    let (auto, manual) = (Failback::Auto, Failback::Manual);
    let (keep, close) = (DemotionConnections::Keep, DemotionConnections::Close);
    assert_eq!(in_force("hot_standby", ""), (manual, close));
    assert_eq!(in_force("random", ""), (auto, keep));
    assert_eq!(in_force("hot_standby", "    failover: { failback: auto }\n"), (auto, close));
    let demotion = "    failover: { failback: manual, demotion: { connections: keep } }\n";
    assert_eq!(in_force("hot_standby", demotion), (manual, keep));
    assert_eq!(in_force("random", demotion), (manual, keep));
}

#[test]
fn an_action_of_a_few_words_has_the_defaults_of_the_contract() {
    let pool = pool_with(
        "    recovery: { on_evict: [{ exec: { command: [a] } }, { webhook: { url: http://a } }] }\n",
    );
    let seconds = Duration::from_secs;
    let exec = model::ExecAction {
        command: vec!["a".to_owned()],
        timeout: seconds(30),
        attempts: 1,
        backoff: seconds(5),
        max_per_hour: None,
        before_traffic: false,
    };
    let webhook = model::WebhookAction {
        url: "http://a/".parse().unwrap(),
        timeout: seconds(30),
        attempts: 1,
        backoff: seconds(5),
        max_per_hour: None,
    };
    let expected = [model::Action::Exec(exec), model::Action::Webhook(webhook)];
    assert_eq!(pool.recovery.on_evict, expected);
}

#[test]
fn ranges_and_lists_are_expanded() {
    let text = GOOD.replace("0.0.0.0:9501", "[\"0.0.0.0:1-3\", \"[::]:9\"]");
    let bind = config(&text).listeners["web"].bind.clone();
    assert_eq!(bind, [tcp("0.0.0.0:1"), tcp("0.0.0.0:2"), tcp("0.0.0.0:3"), tcp("[::]:9")]);
}

#[test]
fn defaults_lie_under_every_listener_and_pool() {
    let text = format!(
        "defaults:\n  listener: {{ tcp: {{ nodelay: off, backlog: 5 }}, over_limit: close }}\n  \
         pool: {{ strategy: {{ random: {{}} }}, connect: {{ source: 10.0.0.2 }} }}\n{GOOD}    \
         connect: {{ attempts: 7 }}\n"
    )
    .replace("pool: app", "pool: app\n    tcp: { backlog: 6 }");
    let config = config(&text);
    let listener = &config.listeners["web"];
    assert_eq!((listener.tcp.nodelay, listener.tcp.backlog), (false, 6));
    assert_eq!(listener.over_limit, model::OverLimit::Close);
    let pool = &config.pools["app"];
    assert_eq!(pool.strategy.name, "source_hash", "a choice is replaced, not merged");
    assert_eq!(pool.connect.attempts, 7);
    assert_eq!(pool.connect.source.addresses().len(), 1);
}

#[test]
fn a_variable_never_becomes_more_than_text() {
    let env = |name: &str| (name == "POOL").then(|| "[app]".to_owned());
    let text = GOOD.replace("pool: app", "pool: ${POOL}");
    let problems = load(&text, &env, &registry()).unwrap_err();
    assert!(problems.iter().any(|problem| problem.message.contains("found \"[app]\"")));
}

#[test]
fn bytes_that_are_no_text_are_refused_at_their_place() {
    let load = |bytes: &[u8]| load_bytes(bytes, &env, &registry()).map_err(|p| p[0].to_string());
    assert_eq!(
        load(b"a: b\nc: \xff"),
        Err("2:4: the byte 0xff is no UTF-8; save the file as UTF-8".to_owned())
    );
    assert_eq!(
        load(b"\xef\xbb\xbfa: \0"),
        Err("1:4: a NUL character; the file is no text".to_owned())
    );
    assert_eq!(load(b"\xff\xfea\0"), Err("1:1: the file is UTF-16; save it as UTF-8".to_owned()));
    let large = vec![b'#'; MAX_BYTES + 1];
    assert_eq!(
        load(&large),
        Err("1:1: the file has 16777217 bytes; more than 16 MiB are refused".to_owned())
    );
    assert!(load_bytes(format!("\u{feff}{GOOD}").as_bytes(), &env, &registry()).is_ok());
    assert!(load_bytes(GOOD.replace('\n', "\r\n").as_bytes(), &env, &registry()).is_ok());
}

#[test]
fn the_order_of_the_file_is_kept() {
    let text = "\
listeners: { z: { bind: 127.0.0.1:1, pool: y }, a: { bind: 127.0.0.1:2, pool: b } }
pools: { y: { backends: [10.0.0.1:1] }, b: { backends: [10.0.0.1:1] } }
";
    let config = config(text);
    assert_eq!(config.listeners.keys().collect::<Vec<_>>(), ["z", "a"]);
    assert_eq!(config.pools.keys().collect::<Vec<_>>(), ["y", "b"]);
}

#[test]
fn a_configuration_needs_no_file() {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (listen, backends) = (texts(&["127.0.0.1:9501"]), texts(&["10.0.0.1:1", "10.0.0.2:1"]));
    let config =
        one_shot(&listen, &backends, Some("random"), Some("127.0.0.1:0"), &registry()).unwrap();
    assert_eq!(config.listeners["main"].bind, [tcp("127.0.0.1:9501")]);
    assert_eq!(config.listeners["main"].routes[0].pool, "main");
    assert_eq!(config.pools["main"].backends.len(), 2);
    assert_eq!(config.pools["main"].strategy.name, "random");
    assert_eq!(config.admin.unwrap().bind, tcp("127.0.0.1:0"));
    assert!(one_shot(&listen, &backends, None, None, &registry()).is_ok());

    let wrong = one_shot(&texts(&["9501"]), &texts(&["10.0.0.1"]), Some("rnd"), None, &registry());
    let wrong: Vec<String> = wrong.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(wrong.len(), 3, "{wrong:#?}");
    for (option, hint) in [
        ("--listen: ", "did you mean \"0.0.0.0:9501\"?"),
        ("--backend: ", "the port is missing"),
        ("--strategy: ", "unknown strategy \"rnd\""),
    ] {
        let found = wrong.iter().find(|problem| problem.starts_with(option));
        assert!(found.is_some_and(|problem| problem.contains(hint)), "{option} {wrong:#?}");
    }
    let twice = texts(&["127.0.0.1:1", "127.0.0.1:1"]);
    let loops = one_shot(&twice, &texts(&["127.0.0.1:1"]), None, None, &registry()).unwrap_err();
    assert_eq!(loops.len(), 2, "each is said once: {loops:#?}");
    assert!(loops.iter().all(|problem| !problem.to_string().contains("line")));
    let none = one_shot(&[], &[], None, None, &registry()).unwrap_err();
    assert_eq!(none.len(), 2, "{none:#?}");
    let open = one_shot(&listen, &backends, None, Some("0.0.0.0:9900"), &registry()).unwrap_err();
    assert!(open[0].to_string().starts_with("--admin-bind: "), "{open:#?}");
}

#[test]
fn a_strategy_that_was_registered_can_be_configured() {
    let text = GOOD.replace("{ source_hash: { prefix_v4: 24 } }", "mine");
    assert!(problem(&text).contains("unknown strategy \"mine\""));
    let mut registry = registry();
    let first = registry.entries()[0];
    registry.register(Row { name: "mine", ..first });
    let config = load(&text, &env, &registry).unwrap();
    assert_eq!(config.pools["app"].strategy.name, "mine");
}

#[test]
fn an_option_is_checked_by_its_strategy() {
    let problem = problem(&GOOD.replace("prefix_v4: 24", "table_size: 65536"));
    assert!(
        problem.starts_with("7:44: pools.app.strategy.source_hash.table_size: expected a prime"),
        "{problem}"
    );
}

#[test]
fn ten_thousand_backends_are_loaded() {
    let mut text =
        "listeners: { web: { bind: 127.0.0.1:0, pool: app } }\npools:\n  app:\n    backends:\n"
            .to_owned();
    for index in 0..10_000 {
        let (high, low) = (index / 250, index % 250);
        text += &format!(
            "      - {{ address: 10.0.{high}.{low}:9501, name: app-{index}, weight: 3 }}\n"
        );
    }
    assert_eq!(config(&text).pools["app"].backends.len(), 10_000);
}

#[test]
fn what_many_inherit_is_looked_at_in_linear_time() {
    let keys = |count: usize| (0..count).map(|n| format!("k{n}: 1, ")).collect::<String>();
    let many = 20_000;
    let text = format!(
        "defaults: {{ pool: {{ {0} }}, listener: {{ pool: nowhere }} }}\n\
         listeners:\n  a: {{ {0} bind: [{1}] }}\n{2}pools: {{ a: {{ {0} }} }}\n",
        keys(many),
        (0..many).map(|n| format!("127.0.0.1:{}, ", n + 1)).collect::<String>(),
        (0..many).map(|n| format!("  l{n}: {{}}\n")).collect::<String>(),
    );
    let problems = problems(&text);
    assert_eq!(problems.len(), problem::MAX_PROBLEMS + 1);
}
