//! The model as JSON Schema: for the checker as it comes, for editors tidied up.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::model::{Config, Defaults};
use super::strategy;
use crate::balance::Registry;

/// The JSON Schema (2020-12) of a configuration file, for editors.
///
/// Where a value may come from the environment, a text with `${` is valid too.
#[must_use]
pub fn schema(registry: &Registry) -> Value {
    let mut root = annotated(registry);
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
pub(super) fn annotated(registry: &Registry) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut defaults = generator.subschema_for::<Defaults>().to_value();
    let mut root = generator.into_root_schema_for::<Config>().to_value();
    if let Value::Object(defaults) = &mut defaults {
        defaults.remove("required");
        for key in ["listener", "pool"] {
            if let Some(Value::Object(section)) =
                defaults.get_mut("properties").and_then(|keys| keys.get_mut(key))
            {
                section.remove("required");
            }
        }
    }
    insert_before(&mut root, "listeners", ("defaults", defaults));
    if let Value::Object(root) = &mut root {
        root.remove("title");
        root.insert("description".to_owned(), "A configuration of tidegate.".into());
    }
    fill_in(&mut root, &strategy::choices(registry));
    relax(&mut root);
    root
}

/// Takes keys that have a default out of `required`: serde does not know of `x-default-from`.
fn relax(schema: &mut Value) {
    if let Value::Object(object) = schema {
        let properties = object.get("properties").cloned();
        let has_default =
            |key: &Value| properties.as_ref()?.get(key.as_str()?)?.get("x-default-from").map(drop);
        if let Some(Value::Array(required)) = object.get_mut("required") {
            required.retain(|key| has_default(key).is_none());
        }
        object.values_mut().for_each(relax);
    } else if let Value::Array(items) = schema {
        items.iter_mut().for_each(relax);
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

/// Turns the annotated schema into plain JSON Schema.
fn publish(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
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
                    branches.iter_mut().for_each(publish);
                }
            }
            _ => {}
        }
    }
    if object.get("additionalProperties").is_some_and(Value::is_object) {
        object.insert("propertyNames".to_owned(), json!({ "pattern": NAME_OR_VARIABLE }));
    }
    let shorthand = object.get("x-shorthand").and_then(Value::as_str).map(str::to_owned);
    let short = shorthand.and_then(|key| object.get("properties")?.get(key).cloned());
    let is_section_default = object.get("default").is_some_and(Value::is_object);
    object.retain(|key, _| !key.starts_with("x-") && key != "format");
    if is_section_default {
        object.remove("default");
    }
    let_variables_in(object);
    if let Some(short) = short {
        let section = Value::Object(std::mem::take(object));
        object.insert("anyOf".to_owned(), json!([short, section]));
    }
}

const NAME_OR_VARIABLE: &str = r"^[A-Za-z0-9_.-]{1,128}$|\$\{";

/// Allows `${VAR}` where a number, a boolean or a text of some form stands.
fn let_variables_in(object: &mut Map<String, Value>) {
    if let Some(Value::String(pattern)) = object.get_mut("pattern") {
        *pattern = format!(r"{pattern}|\$\{{");
        return;
    }
    let is_leaf = matches!(object.get("type").and_then(Value::as_str), Some("integer" | "boolean"));
    if is_leaf {
        let kept = ["description", "default"];
        let (outer, inner): (Map<_, _>, Map<_, _>) =
            std::mem::take(object).into_iter().partition(|(key, _)| kept.contains(&key.as_str()));
        *object = outer;
        object.insert(
            "anyOf".to_owned(),
            json!([Value::Object(inner), { "type": "string", "pattern": r"\$\{" }]),
        );
    }
}
