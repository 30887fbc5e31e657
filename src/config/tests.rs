use super::*;
use crate::balance::{Candidate, Entry as Row, OptionKey, Options, Strategy};

fn build(_: &[Candidate], _: &Options) -> Box<dyn Strategy> {
    unreachable!("the configuration builds no strategy")
}

/// The strategies of the contract; those that are built in already stay as they are.
pub(super) fn registry() -> Registry {
    const HASH: &[OptionKey] = &[
        OptionKey {
            name: "prefix_v4",
            summary: "Bits of an IPv4 source address that count.",
            min: 0,
            max: 32,
            default: 32,
            check: None,
        },
        OptionKey {
            name: "prefix_v6",
            summary: "Bits of an IPv6 source address that count.",
            min: 0,
            max: 128,
            default: 64,
            check: None,
        },
        OptionKey {
            name: "table_size",
            summary: "Slots of the table; a prime.",
            min: 1,
            max: 5_000_011,
            default: 65_537,
            check: None,
        },
    ];
    let mut registry = Registry::default();
    for (name, options) in [
        ("round_robin", &[][..]),
        ("least_connections", &[]),
        ("random", &[]),
        ("power_of_two", &[]),
        ("least_latency", &[]),
        ("source_hash", HASH),
        ("first_available", &[]),
        ("hot_standby", &[]),
    ] {
        if registry.find(name).is_none() {
            registry.register(Row { name, summary: "A strategy.", options, build });
        }
    }
    registry
}

/// No variable is set but `HOST` and `PORT`.
pub(super) fn env(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("10.0.0.1".to_owned()),
        "PORT" => Some("9501".to_owned()),
        _ => None,
    }
}

/// The problems of a text, as lines.
pub(super) fn problems(text: &str) -> Vec<String> {
    match load(text, &env, &registry()) {
        Ok(config) => panic!("no problem in:\n{text}\n{config:#?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn config(text: &str) -> Config {
    load(text, &env, &registry()).unwrap_or_else(|problems| panic!("{}", render("f", &problems)))
}

const GOOD: &str = "\
listeners:
  web:
    bind: 0.0.0.0:9501
    pool: app
pools:
  app:
    strategy: { source_hash: { prefix_v4: 24 } }
    backends:
      - 10.0.0.11:9501
      - { address: 10.0.0.12:9501, name: app-2, weight: 3, max_connections: 500 }
      - unix:/run/app.sock
";

#[test]
fn try_it() {
    println!("{:#?}", config(GOOD));
    for bad in [
        "listners: 3\n",
        "listeners:\n  web:\n    bind: [::]:443\n",
        "listeners:\n  web: { bind: 1.2.3.4:80, pool: ${POOL} }\n",
        "a: b\na: c\n? [x]\n: y\n<<: z\n",
        "",
        "- a\n",
        "listeners:\n  web:\n    bind: 0.0.0.0:9501\n    pool:\npools:\n  app:\n    strategy: leastconn\n    backends: []\n  a b: 3\n",
        "defaults:\n  listener:\n    timeouts: { idle: 5, half_close: 3s }\nlisteners:\n  web:\n    bind: 0.0.0.0:9501\n    pool: ap\n    tcp: { backlog: 0x10 , nodelay: 3}\n  w2: { bind: 127.0.0.1:9501, pool: app }\npools:\n  app:\n    backends: [127.0.0.1:9501, 127.0.0.1:9501, {addres: 1}, {address: x:80, weight: 70000}]\n    connect: { attempts: 0, timeout: off, hedge: 0, source: client }\n",
    ] {
        println!("---\n{bad}");
        for p in problems(bad) {
            println!("{p}");
        }
    }
}
