//! The configuration files of the repository: those that are shipped load, those that are wrong
//! have the problems that they say, and the reference page is what the model says.
//!
//! A file in `tests/data/config/invalid` lists its problems, in order, as comments:
//!
//! ```yaml
//! #! 14:15: pools.app.strategy: unknown strategy "leastconn"; did you mean "least_connections"?
//! ```
//!
//! `UPDATE_DOCS=1 cargo test --test config_files` writes `docs/configuration.md` anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate::balance::Registry;
use tidegate::config::{load_bytes, reference, render, schema};

fn registry() -> Registry {
    Registry::default()
}

fn env(name: &str) -> Option<String> {
    (name == "HOST").then(|| "10.0.0.1".to_owned())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = root().join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_shipped_and_every_valid_file_loads() {
    let mut paths = vec![root().join("conf/tidegate.yaml")];
    for (folder, least) in [("conf/examples", 7), ("tests/data/config/valid", 8)] {
        let found = files(folder);
        assert!(found.len() >= least, "{folder} has {} files", found.len());
        paths.extend(found);
    }
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        if let Err(problems) = load_bytes(&bytes, &env, &registry()) {
            panic!("{}", render(&path.display().to_string(), &problems));
        }
    }
}

#[test]
fn every_invalid_file_has_the_problems_that_it_says() {
    let paths = files("tests/data/config/invalid");
    assert!(paths.len() >= 23, "{} files", paths.len());
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let expected: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix("#! ")).collect();
        let found: Vec<String> = match load_bytes(&bytes, &env, &registry()) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        };
        assert!(!found.is_empty(), "{}: no problem", path.display());
        assert_eq!(found, expected, "{}", path.display());
    }
}

/// What an editor makes of a file: a number, a boolean or null where YAML 1.2 has one.
fn as_an_editor(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn is_valid(validator: &jsonschema::Validator, file: &Value) -> Result<(), String> {
    let told: Vec<String> = validator
        .iter_errors(file)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
}

#[test]
fn an_editor_takes_every_shipped_and_every_valid_file() {
    let validator = jsonschema::validator_for(&schema(&registry())).unwrap();
    let mut paths = vec![root().join("conf/tidegate.yaml")];
    paths.extend(["conf/examples", "tests/data/config/valid"].into_iter().flat_map(files));
    let wrong: Vec<String> = paths
        .into_iter()
        .filter_map(|path| {
            let file = as_an_editor(&fs::read_to_string(&path).unwrap());
            let told = is_valid(&validator, &file).err()?;
            Some(format!("{}: {told}", path.display()))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A file with one line of a listener, a route, a pool, a backend or the root.
fn with(line: &str) -> String {
    let (place, line) = line.split_once(' ').unwrap();
    let at = |wanted: &str| if place == wanted { line } else { "{}" };
    let inner = |wanted: &str| at(wanted).trim_matches(['{', '}']).to_owned();
    let comma = |text: String| if text.is_empty() { text } else { format!(", {text}") };
    let root = if place == "root" { line } else { "" };
    let matches = at("match");
    let (listener, pool, backend) = (at("listener"), at("pool"), comma(inner("backend")));
    let listener = comma(listener[1..listener.len() - 1].to_owned());
    let pool = comma(pool[1..pool.len() - 1].to_owned());
    format!(
        "{root}\nlisteners: {{ web: {{ bind: '127.0.0.1:9501', routes: [{{ match: {matches}, pool: \
         '5' }}]{listener} }} }}\npools: {{ '5': {{ backends: [{{ address: 'app:80'{backend} }}, \
         'app:81']{pool} }} }}"
    )
}

#[test]
fn the_schema_and_the_checker_take_and_refuse_the_same() {
    let validator = jsonschema::validator_for(&schema(&registry())).unwrap();
    let taken = [
        "match {port: [443]}",
        "match {port: 443}",
        "match {port: ['443', 65535]}",
        "match {alpn: [1]}",
        "match {sni: true.example}",
        "match {tls: 'TRUE'}",
        "match {tls: no}",
        "listener {tcp: {nodelay: 'no'}}",
        "listener {tcp: {nodelay: \"false\"}}",
        "listener {tcp: {nodelay: Off}}",
        "listener {tcp: {nodelay: '${NODELAY:-on}'}}",
        "listener {max_connections: 'OFF'}",
        "listener {max_connections: 'FALSE'}",
        "listener {max_connections: false}",
        "listener {max_connections: '5'}",
        "listener {over_limit: '${OVER:-close}'}",
        "listener {timeouts: {idle: '${IDLE:-5s}', half_closed: 0s}}",
        "listener {timeouts: {peek: 1h}}",
        "listener {timeouts: {peek: 59m}}",
        "listener {timeouts: {peek: 0d0h1s}}",
        "listener {timeouts: {idle: 1d2h3m4s5ms}}",
        "pool {strategy: {source_hash: }}",
        "pool {strategy: {source_hash: {table_size: 1009}}}",
        "pool {strategy: {random: }}",
        "pool {strategy: '${STRATEGY:-random}'}",
        "pool {connect: {send_proxy_protocol: false}}",
        "pool {connect: {send_proxy_protocol: 'No'}}",
        "pool {connect: {source: client}}",
        "pool {resolve: {servers: 10.0.0.53}}",
        "pool {resolve: {servers: [10.0.0.53, '10.0.0.54:5353']}}",
        "pool {health_check: {probe: {tcp: }}}",
        "pool {health_check: {probe: {tcp: {}}}}",
        "pool {health_check: {probe: {tls: }}}",
        "pool {health_check: '${CHECK:-off}'}",
        "pool {health_check: {port: 65535}}",
        "pool {health_check: {probe: {http: {expect_status: 200}}}}",
        "pool {health_check: {probe: {http: {expect_status: [204, '300-399']}}}}",
        "pool {health_check: {probe: {http: {expect_body: 1}}}}",
        "pool {health_check: {probe: {http: {expect_body: true}}}}",
        "pool {health_check: {probe: {send_expect: {send: 1, expect: 2.5}}}}",
        "pool {health_check: {probe: {exec: {command: [/bin/x, 5, true, 1.5]}}}}",
        "pool {slow_start: off}",
        "pool {slow_start: 1d}",
        "backend {name: 1}",
        "backend {name: 1.5}",
        "backend {name: true}",
        "backend {weight: '3'}",
        "root admin: {hosts: lb.internal}",
        "root admin: off",
        "root runtime: {threads: auto, max_connections: '${MAX:-10}'}",
        "root log: {level: '${LEVEL:-warn}'}",
        "root defaults: {listener: {pool: 5}}",
    ];
    let refused = [
        "match {port: [0]}",
        "match {port: [65536]}",
        "match {port: '99999'}",
        "match {port: 1.5}",
        "match {alpn: ['a b']}",
        "match {tls: nope}",
        "listener {tcp: {nodelay: 1}}",
        "listener {tcp: {nodelay: nO}}",
        "listener {tcp: {keepalive: 32768s}}",
        "listener {tcp: {keepalive: 10h}}",
        "listener {max_connections: 0}",
        "listener {max_connections: '0'}",
        "listener {max_connections: 4294967296}",
        "listener {max_connections: '4294967296'}",
        "listener {max_connections: oFF}",
        "listener {over_limit: off}",
        "listener {timeouts: {idle: 30s1m}}",
        "listener {timeouts: {idle: 1m1m}}",
        "listener {timeouts: {idle: 0s}}",
        "listener {timeouts: {idle: 0h0ms}}",
        "listener {timeouts: {idle: ''}}",
        "listener {timeouts: {idle: 5}}",
        "listener {timeouts: {peek: 1d}}",
        "listener {timeouts: {peek: 61m}}",
        "listener {timeouts: {peek: 1s3600001ms}}",
        "listener {connection_rate_per_source: 0/s}",
        "listener {bandwidth: {in: 0B/s}}",
        "pool {strategy: {source_hash: {table_size: 1000}}}",
        "pool {strategy: {source_hash: {table_size: 250}}}",
        "pool {strategy: [random]}",
        "pool {strategy: 1}",
        "pool {connect: {timeout: 0s}}",
        "pool {health_check: {probe: {tcp: {a: 1}}}}",
        "pool {health_check: {probe: {exec: }}}",
        "pool {health_check: {port: 65536}}",
        "pool {health_check: {probe: {http: {expect_status: 99}}}}",
        "pool {health_check: {probe: {http: {expect_status: 600}}}}",
        "pool {health_check: {probe: {http: {expect_body: ''}}}}",
        "pool {slow_start: 2d}",
        "pool {slow_start: 0s}",
        "pool {queue: }",
        "backend {name: 5 s}",
        "backend {name: ''}",
        "backend {name: }",
        "backend {address: '10.0.0.1:65536'}",
        "backend {address: '10.0.0.1:0'}",
        "backend {address: 5}",
        "backend {weight: 65536}",
        "backend {weight: 1.5}",
        "root admin: {bind: '127.0.0.1:65536'}",
        "root admin: {bind: 'unix:/run/'}",
        "root state_file: /var/",
        "root log: {access: 1}",
    ];
    let mut wrong = Vec::new();
    let cases = taken.map(|line| (line, true)).into_iter().chain(refused.map(|line| (line, false)));
    for (line, is_right) in cases {
        // The last of two keys counts for an editor; the checker would say that there are two.
        let text = match line.strip_prefix("backend {address:") {
            Some(rest) => with("backend {}").replace("'app:80'", rest.trim_end_matches('}')),
            None => with(line),
        };
        let checked = load_bytes(text.as_bytes(), &env, &registry());
        if checked.is_ok() != is_right {
            wrong.push(format!("{line}: the checker says {checked:?}"));
        }
        let told = is_valid(&validator, &as_an_editor(&text));
        if told.is_ok() != is_right {
            wrong.push(format!("{line}: the schema says {told:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The names of all keys and of choices with options, but not of strategies: they have a page.
fn collect_keys<'v>(value: &'v Value, keys: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                if let ("properties", Value::Object(properties)) = (key.as_str(), value) {
                    keys.extend(properties.keys().map(String::as_str));
                }
                if key != "strategy" {
                    collect_keys(value, keys);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

#[test]
fn the_shipped_file_shows_every_key() {
    let text = fs::read_to_string(root().join("conf/tidegate.yaml")).unwrap();
    let schema = schema(&registry());
    let mut keys = BTreeSet::new();
    collect_keys(&schema["properties"], &mut keys);
    assert!(keys.len() > 60, "{keys:?}");
    let missing: Vec<_> = keys.iter().filter(|key| !text.contains(&format!("{key}:"))).collect();
    assert!(missing.is_empty(), "conf/tidegate.yaml does not show {missing:?}");
}

#[test]
fn the_reference_page_is_what_the_model_says() {
    let path = root().join("docs/configuration.md");
    let page = reference(&registry());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == page,
        "docs/configuration.md is out of date; write it with\n    \
         UPDATE_DOCS=1 cargo test --test config_files"
    );
}
