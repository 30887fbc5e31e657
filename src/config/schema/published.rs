//! What one value may look like, as plain JSON Schema.
//!
//! The shape that the checker walks decides; whatever it takes, an editor must take, and of what it
//! refuses as much is refused here as types, bounds and patterns can say.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::super::form::Form;
use super::super::scalar::spellings;
use super::super::shape::{Bound, Shape, Text};

/// A text that the environment makes another one of.
const VARIABLE: &str = r"\$\{";

/// The schema of a value that is one piece of text in a file; `None` for any other.
pub(super) fn leaf(shape: &Shape) -> Option<Map<String, Value>> {
    let schema = match shape {
        Shape::Text(text) => of_text(text),
        Shape::Integer { min, max } => of_integer(*min, *max),
        Shape::Boolean => {
            let all = [spellings(true), spellings(false)].concat().join("|");
            json!({ "type": ["boolean", "string"], "pattern": format!("^({all})$|{VARIABLE}") })
        }
        Shape::Words(words) => {
            let mut all: Vec<Value> = words.iter().map(|word| word.name.as_str().into()).collect();
            if words.iter().any(|word| word.name == "off") {
                let others = spellings(false).into_iter().filter(|word| word != "off");
                all.extend(others.map(Value::from));
                all.push(false.into());
            }
            match all.as_slice() {
                [one] => json!({ "type": "string", "const": one }),
                _ => json!({ "enum": all }),
            }
        }
        _ => return None,
    };
    match schema {
        Value::Object(schema) => Some(schema),
        _ => None,
    }
}

/// A word that comes from the environment.
pub(super) fn variable() -> Value {
    json!({ "type": "string", "pattern": VARIABLE })
}

/// Adds schemas of which none may hold to a leaf.
pub(super) fn refuse(leaf: &mut Map<String, Value>, refused: Option<Value>) {
    let Some(Value::Array(mut refused)) = refused else { return };
    // A schema that does not know the type would hold for any text.
    for one in refused.iter_mut().filter_map(Value::as_object_mut) {
        one.insert("type".to_owned(), json!("integer"));
    }
    refused.extend(leaf.remove("not"));
    leaf.insert("not".to_owned(), json!({ "anyOf": refused }));
}

/// A pattern alone holds for whatever is no text.
fn text_like(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn of_integer(min: u64, max: u64) -> Value {
    let pattern = if min == 0 { "^(0|[1-9][0-9]*)$" } else { "^[1-9][0-9]*$" };
    let mut schema = json!({
        "type": ["integer", "string"],
        "minimum": min,
        "pattern": format!("{pattern}|{VARIABLE}"),
    });
    if max < u64::MAX {
        schema["maximum"] = max.into();
        schema["not"] = text_like(&format!("^{}$", over(max)));
    }
    schema
}

fn of_text(text: &Text) -> Value {
    let Some(form) = text.form else { return json!({ "type": ["string", "number", "boolean"] }) };
    let takes = |text: &str| (form.check)(text).is_ok();
    let mut types = vec!["string"];
    let mut schema = Map::new();
    let sample = form.numbers.map_or(1, |(first, _)| first);
    if takes(&sample.to_string()) {
        types.push(if takes("1.5") { "number" } else { "integer" });
        if let Some((first, last)) = form.numbers {
            schema.insert("minimum".to_owned(), first.into());
            schema.insert("maximum".to_owned(), last.into());
        }
    }
    if takes("true") && takes("false") {
        types.push("boolean");
    }
    if !takes("") {
        schema.insert("minLength".to_owned(), 1.into());
    }
    if !form.pattern.is_empty() {
        let pattern = format!("{}|{VARIABLE}", form.pattern);
        schema.insert("pattern".to_owned(), pattern.into());
    }
    if let Some(pattern) = out_of_bounds(text) {
        schema.insert("not".to_owned(), text_like(&pattern));
    }
    schema.insert("type".to_owned(), if types.len() == 1 { json!("string") } else { json!(types) });
    Value::Object(schema)
}

/// What is beyond the bounds of a text, as far as one of its numbers with its unit says it.
fn out_of_bounds(text: &Text) -> Option<String> {
    let form = text.form?;
    let mut wrong = Vec::new();
    if text.min.as_ref().is_some_and(|min| min.measure > 0) {
        wrong.push("(0+[A-Za-z/]+)+$".to_owned());
    }
    let units = ["d", "h", "m", "s", "ms"];
    for (unit, one) in units.into_iter().filter_map(|unit| Some((unit, measure(form, unit)?))) {
        if let Some(Bound { measure: max, .. }) = text.max {
            // A number with its unit anywhere in a text that is nothing but such numbers.
            wrong.push(format!("([0-9]+[a-z]+)*{}{unit}([0-9]|$)", over(max / one)));
        }
    }
    (!wrong.is_empty()).then(|| format!("^({})", wrong.join("|")))
}

/// What one of this unit is, in a form that has it.
fn measure(form: &Form, unit: &str) -> Option<u64> {
    (form.check)(&format!("1{unit}")).ok().flatten().filter(|one| *one > 0)
}

/// A pattern for the decimal numbers that are greater than `number`, leading zeros or not.
fn over(number: u64) -> String {
    let digits = number.to_string();
    let mut out = format!("0*([1-9][0-9]{{{},}}", digits.len());
    for (at, digit) in digits.bytes().enumerate().filter(|(_, digit)| *digit < b'9') {
        let (same, least) = (&digits[..at], char::from(digit + 1));
        let _ = write!(out, "|{same}[{least}-9][0-9]{{{}}}", digits.len() - at - 1);
    }
    out.push(')');
    out
}
