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
