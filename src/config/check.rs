//! A tree against its shape: every problem, and the values for serde.
//!
//! What is written in more than one way comes out in one: words for "no value" as null, a shorthand
//! as its section, a choice with options as `{name: {options}}`, numbers and booleans as such.

use serde_yaml::{Mapping, Value};

use super::form::{Name, Text as _};
use super::nearest::{hint, nearest, one_of};
use super::problem::{Path, Problems, show};
use super::scalar::{boolean, leaf};
use super::shape::{Branch, Key, Meant, Section, Shape, Word};
use super::tree::{Kind, Node};

/// Checks a value. What is returned is worth something only while there is no problem: after the
/// first one nothing is built any more.
pub(super) fn check(node: &Node<'_>, shape: &Shape, path: &Path<'_>, to: &mut Problems) -> Value {
    match (shape, &node.kind) {
        (_, Kind::Broken) => Value::Null,
        (Shape::Text(_) | Shape::Integer { .. } | Shape::Boolean, Kind::Scalar(value)) => {
            match leaf(value, shape) {
                Ok(value) => value,
                Err(hint) => mismatch(shape, (node, path), &hint, to),
            }
        }
        (Shape::Words(words), Kind::Scalar(value)) => check_word(value, words, (node, path), to),
        (Shape::List { item, min }, Kind::List(items)) => {
            if items.len() < *min {
                to.add(node.pos, path, || format!("the list is empty; expected at least {min}"));
            }
            let mut values = Vec::new();
            for (index, value) in items.iter().enumerate() {
                let value = check(value, item, &path.index(index), to);
                if to.is_empty() {
                    values.push(value);
                }
            }
            values.into()
        }
        (Shape::Named { value, min }, Kind::Map(_)) => check_named(node, (value, *min), path, to),
        (Shape::Section(section), Kind::Map(_)) => check_section(node, section, path, to),
        (Shape::Section(section), Kind::Scalar(_)) => match shorthand(section) {
            Some(key) => {
                let mut values = Mapping::new();
                let value = check(node, &key.shape, path, to);
                if to.is_empty() {
                    values.insert(key.name.as_str().into(), value);
                    fill_in(node, section, &mut values);
                }
                values.into()
            }
            None => mismatch(shape, (node, path), "", to),
        },
        (Shape::Choice(branches), Kind::Scalar(_) | Kind::Map(_)) => {
            check_choice(node, branches, path, to)
        }
        (Shape::Any(shapes), _) => check_any(node, shapes, path, to),
        (Shape::List { item, .. }, Kind::Scalar(text)) if item.is_leaf() => {
            mismatch(shape, (node, path), &as_list(text), to)
        }
        _ => mismatch(shape, (node, path), "", to),
    }
}

/// How a text is written where a list is expected.
fn as_list(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(show).collect();
    match words.as_slice() {
        [] => String::new(),
        words => format!("did you mean [{}]?", words.join(", ")),
    }
}

/// A place: where in the file, and where in the configuration.
type Place<'n, 'p> = (&'n Node<'n>, &'n Path<'p>);

fn mismatch(shape: &Shape, at: Place<'_, '_>, hint: &str, to: &mut Problems) -> Value {
    let (node, path) = at;
    to.add(node.pos, path, || {
        let gap = if hint.is_empty() { "" } else { "; " };
        format!("expected {}, found {}{gap}{hint}", shape.describe(), found(node))
    });
    Value::Null
}

/// What stands in the file.
fn found(node: &Node<'_>) -> String {
    match &node.kind {
        Kind::Nothing | Kind::Broken => "nothing".to_owned(),
        Kind::Scalar(text) => show(text),
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "a map".to_owned(),
    }
}

fn check_word(value: &str, words: &[Word], at: Place<'_, '_>, to: &mut Problems) -> Value {
    if let Some(word) = word(value, words) {
        return word_value(word);
    }
    let (node, path) = at;
    to.add(node.pos, path, || {
        let hint = hint(value, words.iter().map(|word| word.name.as_str()));
        format!("unknown {} {}; {hint}", path.noun(), show(value))
    });
    Value::Null
}

fn word<'w>(value: &str, words: &'w [Word]) -> Option<&'w Word> {
    let named = |name: &str| words.iter().find(|word| word.name == name);
    named(value).or_else(|| if boolean(value) == Some(false) { named("off") } else { None })
}

fn word_value(word: &Word) -> Value {
    if word.is_none { Value::Null } else { word.name.as_str().into() }
}

fn shorthand(section: &Section) -> Option<&Key> {
    section.shorthand.as_ref().and_then(|key| section.key(key))
}

fn check_named(
    node: &Node<'_>,
    (shape, min): (&Shape, usize),
    path: &Path<'_>,
    to: &mut Problems,
) -> Value {
    if node.entries().len() < min {
        let noun = path.noun();
        to.add(node.pos, path, || format!("the map is empty; expected at least {min} of {noun}"));
    }
    let mut values = Mapping::new();
    for entry in node.entries() {
        let path = path.key(&entry.key);
        if let Err(hint) = Name::parse(&entry.key) {
            to.add(entry.key_pos, &path, || {
                let expected = Name::EXPECTED;
                let gap = if hint.is_empty() { "" } else { "; " };
                format!("expected {expected}, found {}{gap}{hint}", show(&entry.key))
            });
        }
        let value = check(&entry.value, shape, &path, to);
        if to.is_empty() {
            values.insert(entry.key.as_ref().into(), value);
        }
    }
    values.into()
}

fn check_section(node: &Node<'_>, section: &Section, path: &Path<'_>, to: &mut Problems) -> Value {
    let mut values = Mapping::new();
    let mut meant = Vec::new();
    for entry in node.entries() {
        let inner = path.key(&entry.key);
        match section.key(&entry.key) {
            Some(key) => {
                let value = check(&entry.value, &key.shape, &inner, to);
                if to.is_empty() {
                    insert(key, value, &mut values);
                }
            }
            None => to.add(entry.key_pos, &inner, || {
                let names = section.keys.iter().map(|key| key.name.as_str());
                // A slip of the finger is one problem: its key is not missing as well.
                meant.extend(nearest(&entry.key, names.clone()));
                format!("unknown key {}; {}", show(&entry.key), hint(&entry.key, names))
            }),
        }
    }
    for key in section.keys.iter().filter(|key| key.is_required) {
        if node.get(&key.name).is_none() && !meant.contains(&key.name.as_str()) {
            to.add(node.pos, &path.key(&key.name), || {
                format!("the key is missing; expected {}", key.shape.describe())
            });
        }
    }
    check_one_of(node, section, &meant, path, to);
    if to.is_empty() {
        fill_in(node, section, &mut values);
    }
    values.into()
}

/// Puts the value of a key where it belongs: with that key, or with the one that it is a word for.
fn insert(key: &Key, value: Value, values: &mut Mapping) {
    match &key.means {
        Some((other, Meant::Number(number))) if value == Value::Bool(true) => {
            values.insert(other.as_str().into(), (*number).into());
        }
        Some((_, Meant::Number(_))) => {}
        Some((other, Meant::ListOf(inner))) => {
            let mut section = Mapping::new();
            section.insert(inner.as_str().into(), value);
            values.insert(other.as_str().into(), vec![Value::Mapping(section)].into());
        }
        None => _ = values.insert(key.name.as_str().into(), value),
    }
}

/// Of some keys there must be one, and only one.
fn check_one_of(
    node: &Node<'_>,
    section: &Section,
    meant: &[&str],
    path: &Path<'_>,
    to: &mut Problems,
) {
    let names = || one_of(section.one_of.iter().map(String::as_str));
    let is_one = |key: &str| section.one_of.iter().any(|one| one == key);
    let mut given = node.entries().iter().filter(|entry| is_one(&entry.key));
    match (given.next(), given.next()) {
        (None, _) if section.needs_one && !meant.iter().any(|key| is_one(key)) => {
            to.add(node.pos, path, || format!("a key is missing; expected {}", names()));
        }
        (Some(first), Some(second)) if first.key != second.key => {
            to.add(second.key_pos, &path.key(&second.key), || {
                format!("expected {}, found {} too", names(), show(&first.key))
            });
        }
        _ => {}
    }
}

/// Gives keys that are absent the text of another one, where the model says so.
fn fill_in(node: &Node<'_>, section: &Section, values: &mut Mapping) {
    for key in &section.keys {
        let Some(from) = &key.default_from else { continue };
        if values.contains_key(key.name.as_str()) {
            continue;
        }
        let text = match &node.kind {
            Kind::Map(_) => node.get(from).and_then(Node::text),
            _ => node.text(),
        };
        if let Some(text) = text {
            values.insert(key.name.as_str().into(), text.into());
        }
    }
}

fn check_choice(node: &Node<'_>, branches: &[Branch], path: &Path<'_>, to: &mut Problems) -> Value {
    let (name, pos, options) = match (&node.kind, node.entries()) {
        (Kind::Scalar(name), _) => (name, node.pos, None),
        (_, [one]) => (&one.key, one.key_pos, Some(&one.value)),
        (_, entries) => {
            let count = entries.len();
            to.add(node.pos, path, || {
                let names = one_of(branches.iter().map(|branch| branch.name.as_str()));
                format!("expected {names}, with its options, found {count} keys")
            });
            return Value::Null;
        }
    };
    let Some(branch) = branches.iter().find(|branch| branch.name == *name) else {
        to.add(pos, path, || {
            let hint = hint(name, branches.iter().map(|branch| branch.name.as_str()));
            format!("unknown {} {}; {hint}", path.noun(), show(name))
        });
        return Value::Null;
    };
    let inner = path.key(name);
    let empty = Node::new(pos, Kind::Map(Vec::new()));
    let options = options.filter(|options| options.kind != Kind::Nothing);
    let (shape, options) = match (&branch.options, options) {
        (None, None) => return branch.name.as_str().into(),
        (None, Some(options)) => (&Shape::Section(Section::default()), options),
        (Some(shape), options) => (shape, options.unwrap_or(&empty)),
    };
    let value = check(options, shape, &inner, to);
    if branch.options.is_none() {
        return branch.name.as_str().into();
    }
    let mut values = Mapping::new();
    values.insert(branch.name.as_str().into(), value);
    values.into()
}

/// A value of several shapes: the one that fits its kind decides, so that its problems are told.
fn check_any(node: &Node<'_>, shapes: &[Shape], path: &Path<'_>, to: &mut Problems) -> Value {
    if let Some(text) = node.text() {
        for shape in shapes {
            if let Shape::Words(words) = shape
                && let Some(word) = word(text, words)
            {
                return word_value(word);
            }
        }
    }
    let fits = |shape: &&Shape| match (&node.kind, shape) {
        (Kind::Scalar(_), shape) if shape.is_leaf() => true,
        (Kind::Scalar(_), Shape::Section(section)) => section.shorthand.is_some(),
        (Kind::Scalar(_) | Kind::Map(_), Shape::Choice(_)) => true,
        (Kind::Map(_), Shape::Section(_) | Shape::Named { .. }) => true,
        (Kind::List(_), Shape::List { .. }) => true,
        _ => false,
    };
    let Some(shape) = shapes.iter().find(fits) else {
        return mismatch(&Shape::Any(shapes.to_vec()), (node, path), "", to);
    };
    let Some(value) = node.text().filter(|_| shape.is_leaf()) else {
        return check(node, shape, path, to);
    };
    let Err(hint) = leaf(value, shape) else { return check(node, shape, path, to) };
    let is_zero = is_zero(value) && leaf("0s", shape).is_err();
    let words = shapes.iter().filter_map(|shape| match shape {
        Shape::Words(words) => Some(words.iter().map(|word| word.name.as_str())),
        _ => None,
    });
    let meant = if is_zero { Some("off") } else { nearest(value, words.clone().flatten()) };
    let hint = match meant.filter(|meant| words.flatten().any(|word| word == *meant)) {
        Some(meant) if hint.is_empty() || is_zero => format!("did you mean \"{meant}\"?"),
        _ => hint,
    };
    mismatch(&Shape::Any(shapes.to_vec()), (node, path), &hint, to)
}

/// Whether a text is a nought, with a unit or without: `0`, `0s`, `0/s`.
fn is_zero(text: &str) -> bool {
    let unit = text.trim_start_matches('0');
    unit.len() < text.len() && unit.chars().all(|c| c.is_ascii_alphabetic() || c == '/')
}

#[cfg(test)]
mod tests;
