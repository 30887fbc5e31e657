//! How the values of the model are written in a file.
//!
//! A field of the model that is not a plain number, word or section names its form once, and gets
//! reading, writing and its schema from it:
//!
//! ```ignore
//! #[serde(with = "OrOff::<Period>")]
//! pub idle: Option<Duration>,
//! ```
//!
//! The forms of text are in `form.rs`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor, value};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::form::{BackendAddress, BindAddress, Text};
use crate::net::addr::{Address, Bind};

/// A value with a form: what the wrappers [`As`], [`OrOff`], [`OrAuto`] are made of.
pub trait Written {
    /// The value.
    type Value;

    /// The schema of the form.
    fn schema(generator: &mut SchemaGenerator) -> Schema;

    /// Writes the value.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    fn write<S: Serializer>(value: &Self::Value, serializer: S) -> Result<S::Ok, S::Error>;

    /// Reads the value.
    ///
    /// # Errors
    ///
    /// Those of the deserializer, and a value that is not of this form.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self::Value, D::Error>;
}

impl<T: Text> Written for T {
    type Value = T::Value;

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": T::PATTERN, "x-form": T::NAME })
    }

    fn write<S: Serializer>(value: &T::Value, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&T::print(value))
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T::Value, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::parse(&text).map_err(|hint| D::Error::custom(format!("{text:?}: {hint}")))
    }
}

/// A whole number from `MIN` to `MAX`.
pub struct Whole<N, const MIN: u64, const MAX: u64>(PhantomData<N>);

impl<N: Serialize + DeserializeOwned, const MIN: u64, const MAX: u64> Written
    for Whole<N, MIN, MAX>
{
    type Value = N;

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }

    fn write<S: Serializer>(value: &N, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<N, D::Error> {
        N::deserialize(deserializer)
    }
}

/// A section, or another value that has a schema of its own.
pub struct Section<T>(PhantomData<T>);

impl<T: Serialize + DeserializeOwned + JsonSchema> Written for Section<T> {
    type Value = T;

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }

    fn write<S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}

/// Carries a [`Written`] value through serde.
struct Carried<W: Written>(W::Value);

impl<'de, W: Written> Deserialize<'de> for Carried<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        W::read(deserializer).map(Self)
    }
}

struct Borrowed<'a, W: Written>(&'a W::Value);

impl<W: Written> Serialize for Borrowed<'_, W> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        W::write(self.0, serializer)
    }
}

/// The value alone: `#[serde(with = "As::<Period>")]` on a `Duration`.
pub struct As<W>(PhantomData<W>);

impl<W: Written> As<W> {
    /// Writes the value.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &W::Value, serializer: S) -> Result<S::Ok, S::Error> {
        W::write(value, serializer)
    }

    /// Reads the value.
    ///
    /// # Errors
    ///
    /// Those of the deserializer, and a value that is not of this form.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<W::Value, D::Error> {
        W::read(deserializer)
    }
}

impl<W: Written> JsonSchema for As<W> {
    fn schema_name() -> Cow<'static, str> {
        "As".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        W::schema(generator)
    }
}

/// Declares a wrapper for `Option<W::Value>` whose absent value is written as a word.
macro_rules! or_word {
    ($(#[$doc:meta])* $name:ident, $word:literal, $words:expr) => {
        $(#[$doc])*
        pub struct $name<W>(PhantomData<W>);

        impl<W: Written> $name<W> {
            /// Writes the value or the word.
            ///
            /// # Errors
            ///
            /// Those of the serializer.
            pub fn serialize<S: Serializer>(
                value: &Option<W::Value>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match value {
                    Some(value) => W::write(value, serializer),
                    None => serializer.serialize_str($word),
                }
            }

            /// Reads the value, or nothing: the checker has put it in the place of the word.
            ///
            /// # Errors
            ///
            /// Those of the deserializer, and a value that is not of this form.
            pub fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<W::Value>, D::Error> {
                Ok(Option::<Carried<W>>::deserialize(deserializer)?.map(|carried| carried.0))
            }
        }

        impl<W: Written> JsonSchema for $name<W> {
            fn schema_name() -> Cow<'static, str> {
                $word.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let form = W::schema(generator);
                json_schema!({ "anyOf": [form, { "enum": $words, "x-none": true }] })
            }
        }
    };
}

// YAML 1.1 reads a bare `off` as false; editors that do must not complain.
or_word!(
    /// The value or `off`: `#[serde(with = "OrOff::<Period>")]` on an `Option<Duration>`.
    OrOff, "off", serde_json::json!(["off", false])
);
or_word!(
    /// The value or `auto`: `#[serde(with = "OrAuto::<Whole<u32, 1, 64>>")]` on an `Option<u32>`.
    OrAuto, "auto", serde_json::json!(["auto"])
);

/// A value that may be absent and has no word for that: `#[serde(with = "Maybe::<Filled>")]` on an
/// `Option<String>`, with `skip_serializing_if = "Option::is_none"`.
pub struct Maybe<W>(PhantomData<W>);

impl<W: Written> Maybe<W> {
    /// Writes the value.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        value: &Option<W::Value>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => W::write(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the value.
    ///
    /// # Errors
    ///
    /// Those of the deserializer, and a value that is not of this form.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<W::Value>, D::Error> {
        W::read(deserializer).map(Some)
    }
}

impl<W: Written> JsonSchema for Maybe<W> {
    fn schema_name() -> Cow<'static, str> {
        "Maybe".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        W::schema(generator)
    }
}

/// One value or a list of them, at least `MIN`: `#[serde(with = "OneOrMany::<Ip>")]` on a
/// `Vec<IpAddr>`.
pub struct OneOrMany<T, const MIN: usize = 0>(PhantomData<T>);

impl<T: Text, const MIN: usize> OneOrMany<T, MIN> {
    /// Writes one value alone, others as a list.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(values: &[T::Value], serializer: S) -> Result<S::Ok, S::Error> {
        match values {
            [one] => T::write(one, serializer),
            many => serializer.collect_seq(many.iter().map(Borrowed::<T>)),
        }
    }

    /// Reads one value or a list of them.
    ///
    /// # Errors
    ///
    /// Those of the deserializer, and a value that is not of this form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<T::Value>, D::Error> {
        d.deserialize_any(ManyVisitor::<T>(PhantomData))
    }
}

impl<T: Text, const MIN: usize> JsonSchema for OneOrMany<T, MIN> {
    fn schema_name() -> Cow<'static, str> {
        "OneOrMany".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = T::schema(generator);
        let mut many = json_schema!({ "type": "array", "items": one });
        if MIN > 0 {
            many.insert("minItems".to_owned(), MIN.into());
        }
        json_schema!({ "anyOf": [one, many] })
    }
}

struct ManyVisitor<T>(PhantomData<T>);

impl<'de, T: Text> Visitor<'de> for ManyVisitor<T> {
    type Value = Vec<T::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list", T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::read(value::StrDeserializer::new(text)).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Carried(value)) = items.next_element::<Carried<T>>()? {
            values.push(value);
        }
        Ok(values)
    }
}

/// A list of values with a form: `#[serde(with = "ListOf::<Name>")]` on a `Vec<String>`.
pub struct ListOf<W>(PhantomData<W>);

impl<W: Written> ListOf<W> {
    /// Writes the values.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(values: &[W::Value], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(Borrowed::<W>))
    }

    /// Reads the values.
    ///
    /// # Errors
    ///
    /// Those of the deserializer, and a value that is not of this form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<W::Value>, D::Error> {
        let values = Vec::<Carried<W>>::deserialize(d)?;
        Ok(values.into_iter().map(|carried| carried.0).collect())
    }
}

impl<W: Written> JsonSchema for ListOf<W> {
    fn schema_name() -> Cow<'static, str> {
        "ListOf".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": W::schema(generator) })
    }
}

/// Addresses to listen on, one or a list, ranges expanded: on a `Vec<Address>`.
pub struct Binds;

impl Binds {
    /// Writes the addresses, one alone or as a list; ranges stay expanded.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(values: &[Address], s: S) -> Result<S::Ok, S::Error> {
        OneOrMany::<BackendAddress, 1>::serialize(values, s)
    }

    /// Reads the addresses and expands ranges.
    ///
    /// # Errors
    ///
    /// Those of the deserializer, and a value that is not of this form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Address>, D::Error> {
        let binds = OneOrMany::<BindAddress, 1>::deserialize(d)?;
        Ok(binds.iter().flat_map(Bind::addresses).collect())
    }
}

impl JsonSchema for Binds {
    fn schema_name() -> Cow<'static, str> {
        "Binds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OneOrMany::<BindAddress, 1>::json_schema(generator)
    }
}
