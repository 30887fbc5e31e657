//! Text in, values or problems out.
//!
//! Pure: no file, no environment, no clock; whoever calls brings text and variables. The line:
//! `read` (YAML and `${VAR}` → a located tree) → `merge` (`defaults` under listeners and pools) →
//! `check` (the tree against the shape that the schema of `model` has) → `rules` (what is between
//! keys) → values by serde. Every problem of a file is found in one go; each has its place.

mod check;
mod diff;
mod expand;
pub mod form;
mod merge;
pub mod model;
mod nearest;
mod places;
pub mod problem;
mod read;
mod reference;
mod rules;
mod scalar;
mod schema;
mod shape;
mod strategy;
mod token;
mod tree;
pub mod unit;
mod warnings;
pub mod written;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;

pub use diff::{Changes, Names};
pub(crate) use nearest::hint as did_you_mean;
pub use places::{Loaded, Places, Step};
pub use problem::{Problem, render};
pub use read::{MAX_BYTES, MAX_DEPTH, MAX_NODES};
pub use reference::reference;
pub use rules::MAX_BOUND;
pub use schema::schema;
pub use token::token_in;
pub use warnings::{Facts, warnings};

use crate::balance::Registry;
use model::Config;
use problem::{Path, Problems};
use read::Read;
use shape::Shape;
use tree::{Entry, Kind, Node, Pos};

/// Reads a configuration: text in, values or problems out.
///
/// `env` answers what `${VAR}` is; `registry` knows the strategies. Takes time linear in the size
/// of the text, and refuses what is larger than [`MAX_BYTES`], [`MAX_NODES`] or [`MAX_DEPTH`].
///
/// # Errors
///
/// Every problem of the text in the order of the file, at most [`problem::MAX_PROBLEMS`] and one
/// that counts the rest. Never empty.
pub fn load(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<Config, Vec<Problem>> {
    load_bytes(text.as_bytes(), env, registry)
}

/// Reads a configuration from bytes that may be no text; else as [`load`].
///
/// # Errors
///
/// As [`load`].
pub fn load_bytes(
    bytes: &[u8],
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<Config, Vec<Problem>> {
    load_tree(bytes, env, registry).map(|(config, _)| config)
}

/// Reads a configuration from bytes and keeps where its values are, for [`warnings`] and for what is
/// found wrong with them later; else as [`load`].
///
/// # Errors
///
/// As [`load`].
pub fn load_with_places(
    bytes: &[u8],
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<Loaded, Vec<Problem>> {
    let (config, root) = load_tree(bytes, env, registry)?;
    Ok(Loaded { config, places: Places::new(root) })
}

fn load_tree<'b>(
    bytes: &'b [u8],
    env: &dyn Fn(&str) -> Option<String>,
    registry: &Registry,
) -> Result<(Config, Node<'b>), Vec<Problem>> {
    let mut problems = Problems::default();
    let read = text_of(bytes, &mut problems).and_then(|text| read::read(text, env, &mut problems));
    match read {
        Some(read) => finish(read, registry, problems),
        None => Err(problems.into_list()),
    }
}

/// A configuration without a file: `run --listen … --backend … --strategy …`. One listener, `main`,
/// with every `listen` address, and one pool, `main`, with every backend; and the admin endpoint at
/// `admin`.
///
/// # Errors
///
/// Every problem; `path` is the option, `--listen`, `--backend`, `--strategy` or `--admin-bind`.
pub fn one_shot(
    listen: &[String],
    backends: &[String],
    strategy: Option<&str>,
    admin: Option<&str>,
    registry: &Registry,
) -> Result<Config, Vec<Problem>> {
    let read =
        Read { root: one_shot_tree(listen, backends, strategy, admin), nodes_left: MAX_NODES };
    finish(read, registry, Problems::default()).map(|(config, _)| config).map_err(|problems| {
        let options = [
            ("listeners.main.bind", "--listen"),
            ("pools.main.backends", "--backend"),
            ("pools.main.strategy", "--strategy"),
            ("admin", "--admin-bind"),
        ];
        let named = |problem: Problem| {
            let option = options.iter().find(|(path, _)| problem.path.starts_with(path));
            let path = option.map_or(problem.path.clone(), |(_, name)| (*name).to_owned());
            let message = match problem.path == "admin.token_file" {
                // A token takes a file, and there is none here.
                true => "whoever reaches this address could command the process, and only a \
                         configuration file (-c) can name a token; take 127.0.0.1:9900 or \
                         unix:/run/tidegate/admin.sock"
                    .to_owned(),
                false => problem.message,
            };
            Problem { line: 0, column: 0, path, message }
        };
        let mut seen = HashSet::new();
        problems.into_iter().map(named).filter(|problem| seen.insert(problem.to_string())).collect()
    })
}

/// From the tree to values; the tree is handed back with `defaults` merged into it.
fn finish<'t>(
    mut read: Read<'t>,
    registry: &Registry,
    mut problems: Problems,
) -> Result<(Config, Node<'t>), Vec<Problem>> {
    let shape = Shape::of(&schema::annotated(registry));
    // What stands in `defaults` is looked at first, so that its problems have its path.
    check_defaults(&read.root, &shape, &mut problems);
    if merge::merge_defaults(&mut read, &shape, &mut problems).is_none() {
        return Err(problems.into_list());
    }
    rules::check_rules(&read.root, registry, &mut problems);
    let mut value = check::check(&read.root, &shape, &Path::Root, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into_list());
    }
    if let serde_yaml::Value::Mapping(root) = &mut value {
        root.remove("defaults");
    }
    match serde_yaml::with::singleton_map_recursive::deserialize::<Config, _>(value) {
        Ok(mut config) => {
            config.settle();
            Ok((config, read.root))
        }
        Err(error) => {
            // The shape has let something through that the model refuses.
            problems
                .add(read.root.pos, &Path::Root, || format!("this is a bug of tidegate: {error}"));
            Err(problems.into_list())
        }
    }
}

fn check_defaults(root: &Node<'_>, shape: &Shape, problems: &mut Problems) {
    let key = shape.section().and_then(|section| section.key("defaults"));
    if let (Some(node), Some(key)) = (root.get("defaults"), key) {
        check::check(node, &key.shape, &Path::Root.key("defaults"), problems);
    }
}

/// The text of a file, when it is small enough and text.
fn text_of<'b>(bytes: &'b [u8], problems: &mut Problems) -> Option<&'b str> {
    let start = Pos { line: 1, column: 1 };
    let mut refuse = |pos: Pos, message: String| {
        problems.add(pos, &Path::Root, || message);
        None
    };
    if bytes.len() > MAX_BYTES {
        let (size, max) = (bytes.len(), MAX_BYTES >> 20);
        return refuse(
            start,
            format!("the file has {size} bytes; more than {max} MiB are refused"),
        );
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refuse(start, "the file is UTF-16; save it as UTF-8".to_owned());
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = &bytes[..error.valid_up_to()];
            let pos = end_of(&String::from_utf8_lossy(valid));
            let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
            return refuse(
                pos,
                format!("the byte 0x{byte:02x} is no UTF-8; save the file as UTF-8"),
            );
        }
    };
    if let Some(at) = text.find('\0') {
        return refuse(end_of(&text[..at]), "a NUL character; the file is no text".to_owned());
    }
    Some(text)
}

/// The place behind a text.
fn end_of(text: &str) -> Pos {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let last = text.rsplit('\n').next().unwrap_or("");
    Pos { line: number(text.matches('\n').count() + 1), column: number(last.chars().count() + 1) }
}

/// What a file with these values would be.
fn one_shot_tree<'a>(
    listen: &'a [String],
    backends: &'a [String],
    strategy: Option<&'a str>,
    admin: Option<&'a str>,
) -> Node<'a> {
    // Places are counters: problems of different values must not be taken for one.
    let places = Cell::new(0);
    let pos = || Pos { line: 0, column: places.replace(places.get() + 1) };
    let scalar = |text: &'a str| Node::new(pos(), Kind::Scalar(Cow::Borrowed(text)));
    let list = |texts: &'a [String]| {
        let items = texts.iter().map(|text| scalar(text)).collect();
        Node::new(pos(), Kind::List(items))
    };
    let map = |entries: Vec<(&'a str, Node<'a>)>| {
        let entry = |(key, value): (&'a str, _)| Entry {
            key: key.into(),
            key_pos: pos(),
            is_double: false,
            value,
        };
        Node::new(pos(), Kind::Map(entries.into_iter().map(entry).collect()))
    };
    let listener = map(vec![("bind", list(listen)), ("pool", scalar("main"))]);
    let mut pool = vec![("backends", list(backends))];
    pool.extend(strategy.map(|strategy| ("strategy", scalar(strategy))));
    let mut root = vec![
        ("listeners", map(vec![("main", listener)])),
        ("pools", map(vec![("main", map(pool))])),
    ];
    root.extend(admin.map(|admin| ("admin", map(vec![("bind", scalar(admin))]))));
    map(root)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod tests;
