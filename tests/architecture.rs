//! What may import what: the table of docs/architecture.md, held against the sources.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// For each module the others of ours that it may import. What is not listed imports nothing.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("balance", &[]),
    ("config", &["balance", "net::addr", "net::cidr", "net::name"]),
    ("failover", &[]),
    ("health", &[]),
    ("net", &[]),
    ("probe", &["config::model", "net"]),
    ("state", &["balance", "config", "health", "net"]),
    ("metrics", &["balance", "health", "net", "state"]),
    ("log", &["config", "net", "state"]),
    (
        "control",
        &["balance", "config", "failover", "health", "log", "metrics", "net", "probe", "state"],
    ),
    ("admin", &["config", "control::event", "control::handle", "metrics", "net", "state"]),
    ("proxy", &["balance", "config::model", "health", "log::access", "net", "state"]),
    (
        "process",
        &[
            "admin", "balance", "config", "control", "health", "log", "metrics", "net", "proxy",
            "state",
        ],
    ),
    ("cli", &["balance", "config", "log", "process"]),
];

/// Sources that need neither clock nor socket nor randomness.
const PURE: &[&str] = &["balance", "config", "failover", "health"];
const IMPURE: &[&str] =
    &["tokio", "rustix", "socket2", "fastrand", "std::fs", "std::time::Instant", "SystemTime"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source of the library but the root, as (module, path, code without its tests).
fn modules() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let is_root = |path: &Path| path == root.join("lib.rs") || path == root.join("main.rs");
    let is_test = |path: &Path| {
        path.file_stem().is_some_and(|stem| stem == "tests" || stem == "contract")
            || path.components().any(|part| part.as_os_str() == "tests")
    };
    found
        .into_iter()
        .filter(|path| !is_root(path) && !is_test(path))
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap().with_extension("");
            let module = relative.components().next().unwrap().as_os_str().to_string_lossy();
            let code = fs::read_to_string(&path).unwrap();
            let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (module.into_owned(), path.clone(), lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// The paths below `crate::` that a source names, at most two parts deep.
fn imports(code: &str) -> BTreeSet<String> {
    let part = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    code.match_indices("crate::")
        .map(|(at, found)| {
            let rest = &code[at + found.len()..];
            let first = part(rest);
            let second = rest[first.len()..].strip_prefix("::").map(part).unwrap_or_default();
            if second.is_empty() { first } else { format!("{first}::{second}") }
        })
        .collect()
}

#[test]
fn imports_only_go_down() {
    let modules = modules();
    assert!(modules.len() > 30, "only {} sources were found", modules.len());
    for (module, path, code) in &modules {
        let row = MAY_IMPORT.iter().find(|(name, _)| name == module);
        let (_, allowed) = row.unwrap_or_else(|| panic!("{module} is in no row of the table"));
        for import in imports(code) {
            let is_own = import.split("::").next() == Some(module);
            let is_allowed = allowed
                .iter()
                .any(|allowed| import == *allowed || import.starts_with(&format!("{allowed}::")));
            assert!(is_own || is_allowed, "{} imports crate::{import}", path.display());
        }
    }
}

#[test]
fn the_pure_layer_knows_no_clock_no_socket_and_no_chance() {
    for (module, path, code) in modules() {
        if PURE.contains(&module.as_str()) {
            for word in IMPURE {
                assert!(!code.contains(word), "{} mentions {word}", path.display());
            }
        }
    }
}

#[test]
fn every_row_of_the_table_is_a_module() {
    let found: BTreeSet<_> = modules().into_iter().map(|(module, _, _)| module).collect();
    for (module, _) in MAY_IMPORT {
        assert!(found.contains(*module), "{module} is in the table and not in src");
    }
}

#[test]
fn unsafe_code_is_in_one_file() {
    for (_, path, code) in modules() {
        let is_sys = path.ends_with("net/sys.rs");
        assert!(is_sys || !code.contains("unsafe"), "{} mentions unsafe", path.display());
    }
}
