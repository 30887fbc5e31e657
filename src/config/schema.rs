//! The model as JSON Schema: for the checker as it comes, for editors tidied up.

mod published;

use std::collections::HashSet;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::model::{Config, Defaults};
use super::shape::Shape;
use super::strategy;
use crate::balance::Registry;

/// The JSON Schema (2020-12) of a configuration file, for editors.
///
/// It takes what an editor reads of a valid file: bare digits as a number, `off` as a text or as
/// false. Where a value may come from the environment, a text with `${` is valid too. What is
/// between keys, and some of what a pattern can only say at length, is left to `tidegate check`.
#[must_use]
pub fn schema(registry: &Registry) -> Value {
    let mut root = annotated(registry);
    require_without_defaults(&mut root);
    publish(&mut root);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tidegate configuration",
    });
    if let (Value::Object(schema), Value::Object(root)) = (&mut schema, root) {
        schema.extend(root);
    }
    schema
}

/// The schema with what the checker needs beyond JSON Schema, in keys that begin with `x-`:
///
/// | key | meaning |
/// |---|---|
/// | `x-form` | the text is of this form of `form::FORMS` |
/// | `x-minimum`, `x-maximum` | bounds of such a text, in the same form |
/// | `x-none` | the words of this `enum` mean that there is no value |
/// | `x-shorthand` | a text in the place of this section is the value of that key |
/// | `x-default-from` | without this key its value is the text of that key |
/// | `x-means` | this key is a word for another: true for that number, or a text for a list of one section with that key |
/// | `x-not` | none of these schemas may hold too |
/// | `x-one-of`, `x-at-most-one-of` | only one of these keys is there; with the former it must be |
pub(super) fn annotated(registry: &Registry) -> Value {
    let mut defaults = of_type::<Defaults>();
    let mut root = of_type::<Config>();
    make_optional(&mut defaults);
    for section in ["listener", "pool"] {
        if let Some(section) = defaults.pointer_mut(&format!("/properties/{section}")) {
            make_optional(section);
        }
    }
    insert_before(&mut root, "listeners", ("defaults", defaults));
    fill_in(&mut root, &strategy::choices(registry));
    root
}

/// The annotated schema of one type, everything in its place.
pub(super) fn of_type<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    schema
}

/// Lets every key of a section be absent.
fn make_optional(section: &mut Value) {
    if let Value::Object(section) = section {
        section.remove("required");
        if let Some(keys) = section.remove("x-one-of") {
            section.insert("x-at-most-one-of".to_owned(), keys);
        }
    }
}

/// Takes out what Rust types say and files do not: names of types, null for an absent key, and
/// that a key is required whose default is the text of another one.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.remove("title");
            without_null(object);
            let properties = object.get("properties").cloned();
            if let Some(Value::Array(required)) = object.get_mut("required") {
                required.retain(|key| {
                    let key = key.as_str().and_then(|key| properties.as_ref()?.get(key));
                    key.is_none_or(|key| key.get("x-default-from").is_none())
                });
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// An `Option` is a key that may be absent, never a null.
fn without_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            object.insert("type".to_owned(), one);
        }
    }
    let Some(Value::Array(branches)) = object.get_mut("anyOf") else { return };
    branches.retain(|branch| branch.get("type").is_none_or(|name| name != "null"));
    if branches.len() == 1
        && let Some(Value::Object(only)) = branches.pop()
    {
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}

/// Puts a property before another one.
fn insert_before(root: &mut Value, before: &str, (name, schema): (&str, Value)) {
    let Some(Value::Object(properties)) = root.get_mut("properties") else { return };
    let mut added = Map::new();
    for (key, value) in std::mem::take(properties) {
        if key == before {
            added.insert(name.to_owned(), schema.clone());
        }
        added.insert(key, value);
    }
    *properties = added;
}

/// Puts `strategies` in the place of every `x-registry`, keeping the key's own description.
fn fill_in(schema: &mut Value, strategies: &Value) {
    match schema {
        Value::Object(object) if object.contains_key("x-registry") => {
            object.remove("x-registry");
            if let Value::Object(strategies) = strategies {
                for (key, value) in strategies {
                    object.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        Value::Object(object) => {
            object.values_mut().for_each(|value| fill_in(value, strategies));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(item, strategies)),
        _ => {}
    }
}

/// With `defaults` a listener or pool may have its required keys from there: whether it has them is
/// more than a schema can tell.
fn require_without_defaults(root: &mut Value) {
    let mut then = Map::new();
    for all in ["listeners", "pools"] {
        let section = format!("/properties/{all}/additionalProperties");
        let Some(Value::Object(section)) = root.pointer_mut(&section) else { continue };
        let one_of = section.remove("x-one-of");
        if let Some(required) = section.remove("required") {
            let mut rule = json!({ "required": required });
            if let Some(Value::Array(keys)) = one_of {
                rule["oneOf"] = keys.iter().map(|key| json!({ "required": [key] })).collect();
            }
            then.insert(all.to_owned(), json!({ "additionalProperties": rule }));
        }
    }
    if let Value::Object(root) = root {
        root.insert("if".to_owned(), json!({ "not": { "required": ["defaults"] } }));
        root.insert("then".to_owned(), json!({ "properties": then }));
    }
}

/// Turns the annotated schema into plain JSON Schema: of every leaf, what its shape takes.
fn publish(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    hand_down_bounds(object);
    for (key, value) in object.iter_mut() {
        match key.as_str() {
            "properties" => {
                if let Value::Object(properties) = value {
                    properties.values_mut().for_each(publish);
                }
            }
            "additionalProperties" | "items" => publish(value),
            "anyOf" | "oneOf" => {
                if let Value::Array(branches) = value {
                    let is_word = |branch: &Value| {
                        branch.get("const").is_some() || branch.get("enum").is_some()
                    };
                    let has_words = branches.iter().any(is_word);
                    branches.iter_mut().for_each(publish);
                    if key == "oneOf" {
                        complete_choice(branches);
                    }
                    branches.extend(has_words.then(published::variable));
                }
            }
            _ => {}
        }
    }
    if object.get("additionalProperties").is_some_and(Value::is_object) {
        object.insert("propertyNames".to_owned(), json!({ "pattern": NAME_OR_VARIABLE }));
    }
    let shorthand = object.get("x-shorthand").and_then(Value::as_str).map(str::to_owned);
    let short = shorthand.and_then(|key| object.get("properties")?.get(&key).cloned());
    let is_section_default = object.get("default").is_some_and(Value::is_object);
    let is_choice = object.contains_key("oneOf");
    let shape = (!is_choice).then(|| Shape::of(&Value::Object(object.clone())));
    if let Some(leaf) = shape.as_ref().and_then(published::leaf) {
        let refused = object.get("x-not").cloned();
        object.retain(|key, _| ["description", "default"].contains(&key.as_str()));
        object.extend(leaf);
        published::refuse(object, refused);
    }
    object.retain(|key, _| !key.starts_with("x-") && key != "format");
    if is_section_default {
        object.remove("default");
    }
    if let Some(short) = short {
        let section = Value::Object(std::mem::take(object));
        object.insert("anyOf".to_owned(), json!([short, section]));
    }
}

/// Bounds of a value of several shapes are those of each.
fn hand_down_bounds(object: &mut Map<String, Value>) {
    for key in ["x-minimum", "x-maximum"] {
        let Some(bound) = object.get(key).cloned() else { continue };
        let Some(Value::Array(branches)) = object.get_mut("anyOf") else { continue };
        for branch in branches.iter_mut().filter_map(Value::as_object_mut) {
            if branch.contains_key("x-form") {
                branch.insert(key.to_owned(), bound.clone());
            }
        }
    }
}

/// A choice whose options may all be absent is written as its name alone, or with nothing behind it;
/// one that has none, with an empty section too where others have some.
fn complete_choice(branches: &mut Vec<Value>) {
    let has_options = branches.iter().any(|branch| branch.get("required").is_some());
    let mut named: HashSet<String> = HashSet::new();
    let mut bare = Vec::new();
    for branch in branches.iter_mut().filter(|branch| branch.get("required").is_some()) {
        let Some(Value::Object(properties)) = branch.get_mut("properties") else { continue };
        for (name, options) in properties {
            named.insert(name.clone());
            if options.get("required").is_none() {
                options["type"] = json!(["object", "null"]);
                bare.push(name.clone());
            }
        }
    }
    let known: Vec<String> = branches
        .iter()
        .filter_map(|branch| branch.get("const").and_then(Value::as_str))
        .map(str::to_owned)
        .collect();
    let missing = bare.iter().filter(|name| !known.contains(name));
    branches.extend(missing.map(|name| json!({ "type": "string", "const": name })));
    if has_options {
        let alone = known.iter().filter(|name| !named.contains(*name));
        let empty = json!({ "type": ["object", "null"], "additionalProperties": false });
        branches.extend(alone.map(|name| {
            json!({
                "type": "object",
                "properties": { name: empty },
                "required": [name],
                "additionalProperties": false,
            })
        }));
    }
}

const NAME_OR_VARIABLE: &str = r"^[A-Za-z0-9_.-]{1,128}$|\$\{";

#[cfg(test)]
mod tests {
    use super::*;

    /// Every object of a schema, with its pointer.
    fn objects<'v>(value: &'v Value, at: &str, out: &mut Vec<(String, &'v Map<String, Value>)>) {
        match value {
            Value::Object(object) => {
                out.push((at.to_owned(), object));
                for (key, value) in object {
                    objects(value, &format!("{at}/{key}"), out);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    objects(value, &format!("{at}/{index}"), out);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn what_is_published_is_plain_json_schema() {
        let schema = schema(&Registry::default());
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let mut all = Vec::new();
        objects(&schema, "", &mut all);
        assert!(all.len() > 100);
        for (at, object) in all.iter().filter(|(at, _)| !at.ends_with("/properties")) {
            for key in object.keys() {
                assert!(!key.starts_with("x-") && key != "format" && key != "$ref", "{at}/{key}");
            }
        }
    }

    #[test]
    fn every_section_is_closed_and_every_key_described() {
        let schema = schema(&Registry::default());
        let mut all = Vec::new();
        objects(&schema, "", &mut all);
        for (at, object) in all.iter().filter(|(at, _)| !at.starts_with("/then")) {
            if object.get("properties").is_some_and(Value::is_object) {
                assert_eq!(object.get("additionalProperties"), Some(&json!(false)), "{at}");
            }
            if at.ends_with("/properties") && !at.contains("/oneOf/") {
                for (key, value) in *object {
                    assert!(value.get("description").is_some(), "{at}/{key}");
                }
            }
        }
    }

    #[test]
    fn keys_stand_in_the_order_of_the_contract() {
        let schema = schema(&Registry::default());
        let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["admin", "state_file", "runtime", "log", "defaults", "listeners", "pools"]
        );
    }
}
