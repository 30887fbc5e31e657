//! The reference page: the shape of a configuration as tables that people read.

use std::fmt::Write as _;

use serde_json::Value;

use super::form::FORMS;
use super::shape::{Branch, Key, Section, Shape, Text};
use super::{MAX_BOUND, MAX_BYTES, MAX_DEPTH, MAX_NODES, problem::MAX_PROBLEMS, schema};
use crate::balance::Registry;

/// What the tables do not say: the file, YAML, variables.
const INTRODUCTION: &str = include_str!("reference.md");

/// `docs/configuration.md`: every section with its keys, their forms, defaults and meanings.
///
/// The checked-in page is compared with it by `tests/config_files.rs`, which also writes it:
/// `UPDATE_DOCS=1 cargo test --test config_files`.
#[must_use]
pub fn reference(registry: &Registry) -> String {
    let shape = Shape::of(&schema::annotated(registry));
    let mut page = INTRODUCTION
        .replace("MAX_BYTES", &format!("{} MiB", MAX_BYTES >> 20))
        .replace("MAX_NODES", &MAX_NODES.to_string())
        .replace("MAX_DEPTH", &MAX_DEPTH.to_string())
        .replace("MAX_BOUND", &MAX_BOUND.to_string())
        .replace("MAX_PROBLEMS", &MAX_PROBLEMS.to_string())
        .replace("FORMS\n", &forms(&shape));
    if let Shape::Section(file) = &shape {
        section(&mut page, "The file", "", file);
    }
    page
}

/// The forms of text that some key has.
fn forms(shape: &Shape) -> String {
    let mut used = Vec::new();
    collect_forms(shape, &mut used);
    let rows = FORMS.iter().filter(|form| used.contains(&form.name));
    let mut rows: String =
        rows.map(|form| format!("| {} | {} |\n", form.name, cell(form.expected))).collect();
    rows.push('\n');
    rows
}

fn collect_forms(shape: &Shape, used: &mut Vec<&'static str>) {
    match shape {
        Shape::Text(Text { form: Some(form), .. }) => used.push(form.name),
        Shape::List { item, .. } => collect_forms(item, used),
        Shape::Named { value, .. } => collect_forms(value, used),
        Shape::Any(shapes) => shapes.iter().for_each(|shape| collect_forms(shape, used)),
        Shape::Section(section) => {
            section.keys.iter().for_each(|key| collect_forms(&key.shape, used));
        }
        Shape::Choice(branches) => {
            let options = branches.iter().filter_map(|branch| branch.options.as_ref());
            options.for_each(|shape| collect_forms(shape, used));
        }
        _ => {}
    }
}

/// A heading, a table, and then the sections within.
fn section(page: &mut String, title: &str, path: &str, section: &Section) {
    let _ = write!(page, "\n## {title}\n\n");
    if !section.doc.is_empty() {
        let _ = write!(page, "{}\n\n", prose(&section.doc));
    }
    table(page, &section.keys);
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    // Everything in `defaults` is described where it belongs.
    for key in section.keys.iter().filter(|key| key.name != "defaults") {
        let path = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
        let mut text = String::new();
        below(&mut text, PATH, &key.shape, &key.doc);
        match told.iter_mut().find(|(one, _)| *one == text) {
            Some((_, paths)) => paths.push(path),
            None => told.push((text, vec![path])),
        }
    }
    for (text, paths) in told.iter().filter(|(text, _)| !text.is_empty()) {
        page.push_str(&text.replace(PATH, &paths[0]));
        if let [first, others @ ..] = paths.as_slice()
            && !others.is_empty()
        {
            let others: Vec<String> = others.iter().map(|path| format!("`{path}`")).collect();
            let _ = write!(page, "\nWhat is said of `{first}` holds for {}.\n", and(&others));
        }
    }
}

/// Stands for a path that is not known yet.
const PATH: &str = "\u{0}";

/// The sections that a value has within.
fn below(page: &mut String, path: &str, shape: &Shape, doc: &str) {
    match shape {
        Shape::Section(inner) => {
            let doc = if doc.is_empty() { &inner.doc } else { doc };
            let inner = Section { doc: doc.to_owned(), ..inner.clone() };
            section(page, &format!("`{path}`"), path, &inner);
        }
        Shape::Named { value, .. } => below(page, &format!("{path}.NAME"), value, ""),
        Shape::List { item, .. } => below(page, &format!("{path}[]"), item, ""),
        Shape::Any(shapes) => shapes.iter().for_each(|shape| below(page, path, shape, doc)),
        Shape::Choice(branches) => choice(page, path, branches, doc),
        _ => {}
    }
}

/// What there is to choose, and the options of each.
fn choice(page: &mut String, path: &str, branches: &[Branch], doc: &str) {
    let _ = write!(page, "\n## `{path}`\n\n");
    if !doc.is_empty() {
        let _ = write!(page, "{}\n\n", prose(doc));
    }
    page.push_str("| choice | meaning |\n| --- | --- |\n");
    for branch in branches {
        let _ = writeln!(page, "| `{}` | {} |", branch.name, cell(&prose(&branch.doc)));
    }
    for branch in branches {
        let options = branch.options.as_ref().and_then(Shape::section);
        if let Some(options) = options.filter(|options| !options.keys.is_empty()) {
            section(page, &format!("`{path}.{}`", branch.name), path, options);
        }
    }
}

fn table(page: &mut String, keys: &[Key]) {
    page.push_str("| key | form | default | meaning |\n| --- | --- | --- | --- |\n");
    for key in keys {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            key.name,
            cell(&form(&key.shape)),
            cell(&default(key)),
            cell(&meaning(key))
        );
    }
}

/// The form of a value in a few words.
fn form(shape: &Shape) -> String {
    match shape {
        Shape::Text(text) => {
            let name = text.form.map_or("text", |form| form.name);
            match (&text.min, &text.max) {
                (None, None) => name.to_owned(),
                (Some(min), None) => format!("{name}, at least `{}`", min.text),
                (None, Some(max)) => format!("{name}, at most `{}`", max.text),
                (Some(min), Some(max)) => format!("{name}, `{}` to `{}`", min.text, max.text),
            }
        }
        Shape::Words(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{}`", word.name)).collect();
            listed(&words)
        }
        Shape::Integer { min, max } if *max >= u64::from(u32::MAX) => {
            format!("number, at least {min}")
        }
        Shape::Integer { min, max } => format!("number, {min} to {max}"),
        Shape::Boolean => "`true` or `false`".to_owned(),
        Shape::List { item, .. } => format!("list of: {}", form(item)),
        Shape::Named { .. } => "map of names to sections".to_owned(),
        Shape::Section(section) => {
            match section.shorthand.as_ref().and_then(|key| section.key(key)) {
                Some(key) => format!("{} or section", form(&key.shape)),
                None => "section".to_owned(),
            }
        }
        Shape::Choice(_) => "choice".to_owned(),
        Shape::Any(shapes) => {
            let forms: Vec<String> = shapes.iter().map(form).collect();
            forms.join(", or ")
        }
    }
}

/// `a, b or c`.
fn listed(words: &[String]) -> String {
    joined(words, "or")
}

/// `a, b and c`.
fn and(words: &[String]) -> String {
    joined(words, "and")
}

fn joined(words: &[String], word: &str) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
    }
}

fn default(key: &Key) -> String {
    if key.is_required {
        return "required".to_owned();
    }
    if let Some(from) = &key.default_from {
        return format!("that of `{from}`");
    }
    match &key.default {
        Some(Value::String(text)) if text.is_empty() => "none".to_owned(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(Value::Null) => "none".to_owned(),
        Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
        Some(value) => format!("`{value}`"),
        None => String::new(),
    }
}

/// The documentation of a key, and of the words it takes.
fn meaning(key: &Key) -> String {
    let mut text = prose(&key.doc);
    if let Shape::Words(words) = &key.shape {
        for word in words.iter().filter(|word| !word.doc.is_empty()) {
            let doc = prose(&word.doc);
            let mut letters = doc.trim_end_matches('.').chars();
            let first = letters.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
            let _ = write!(text, " `{}`: {first}{}.", word.name, letters.as_str());
        }
    }
    text
}

/// Documentation without its line breaks.
fn prose(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
