//! [`Strategy`] in a file: a name, or `{name: {options}}`. The names come from the registry.

use std::borrow::Cow;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::model::Strategy;
use crate::balance::{Entry, OptionKey, Options, Registry};

/// The strategy of a pool that names none.
const DEFAULT: &str = "round_robin";

impl Default for Strategy {
    fn default() -> Self {
        Self { name: DEFAULT.to_owned(), options: Options::default() }
    }
}

impl Serialize for Strategy {
    /// Writes the name. Options are left out: only the registry knows what they are called.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for Strategy {
    /// Reads `{name: {option: number}}`; the checker has turned a bare name into it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let choice = IndexMap::<String, IndexMap<String, u64>>::deserialize(deserializer)?;
        let mut entries = choice.into_iter();
        match (entries.next(), entries.next()) {
            (Some((name, options)), None) => {
                Ok(Self { name, options: Options::new(options.into_iter().collect()) })
            }
            _ => Err(D::Error::custom("expected one strategy")),
        }
    }
}

impl JsonSchema for Strategy {
    fn schema_name() -> Cow<'static, str> {
        "Strategy".into()
    }

    /// A placeholder: `choices` takes its place when the registry is known.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-registry": "strategies" })
    }
}

/// The schema of a strategy: one branch for each entry of the registry.
pub(super) fn choices(registry: &Registry) -> Value {
    let branches: Vec<Value> = registry.entries().iter().flat_map(branches_of).collect();
    json!({ "description": "A strategy by name, with the options given for it.", "oneOf": branches })
}

const SMALL_PRIMES: [u64; 6] = [2, 3, 5, 7, 11, 13];

/// Whether an option takes no multiple of this number, judged by the first ones of its range: what it
/// wants beyond the range is a function, of which a schema can say no more.
fn never(key: &OptionKey, divisor: u64) -> bool {
    let first = key.min.next_multiple_of(divisor);
    key.check.is_some_and(|check| (0..16).all(|index| check(first + index * divisor).is_err()))
}

fn branches_of(entry: &Entry) -> [Value; 2] {
    let keys: Map<String, Value> = entry
        .options
        .iter()
        .map(|key| {
            let mut schema = json!({
                "description": key.summary,
                "type": "integer",
                "minimum": key.min,
                "maximum": key.max,
                "default": key.default,
            });
            let divisors: Vec<u64> = SMALL_PRIMES.into_iter().filter(|d| never(key, *d)).collect();
            if !divisors.is_empty() {
                let of = |divisor: &u64| json!({ "multipleOf": divisor });
                schema["x-not"] = divisors.iter().map(of).collect();
            }
            (key.name.to_owned(), schema)
        })
        .collect();
    let options = json!({ "type": "object", "properties": keys, "additionalProperties": false });
    [
        json!({ "description": entry.summary, "type": "string", "const": entry.name }),
        json!({
            "description": entry.summary,
            "type": "object",
            "properties": { entry.name: options },
            "required": [entry.name],
            "additionalProperties": false,
        }),
    ]
}
