//! Keys of routes, and of who may come in.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::form::{AlpnToken, PerByteSecond, PortNumber, Sni, SourceOrigin};
use super::super::unit::Throughput;
use super::super::written::{OneOrMany, OrOff};
use crate::net::cidr::Origin;
use crate::net::name::NamePattern;

/// A rule: what must hold of a connection, and the pool that it then goes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What must hold, all of it; without it the route always matches.
    #[serde(default, rename = "match")]
    pub conditions: Match,
    /// The pool that its connections go to.
    #[schemars(extend("x-form" = "name"))]
    pub pool: String,
}

/// What must hold for a route. A key that is absent always holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The name asked for in the ClientHello is one of these: a name, `*.` and a name for all below
    /// it, or `*` for any.
    #[serde(with = "OneOrMany::<Sni, 1>", skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<NamePattern>,
    /// Any protocol offered in the ClientHello is one of these.
    #[serde(with = "OneOrMany::<AlpnToken, 1>", skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// Whether the connection begins with a ClientHello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// The client comes from one of these networks, or over a unix socket.
    #[serde(with = "OneOrMany::<SourceOrigin, 1>", skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<Origin>,
    /// The port that the client has connected to is one of these; behind a PROXY header, the port
    /// of the header's destination.
    #[serde(with = "OneOrMany::<PortNumber, 1>", skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<u16>,
}

/// Bytes a second of each connection, with a burst of at most a quarter of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    /// From the client to the backend.
    #[serde(rename = "in", with = "OrOff::<PerByteSecond>")]
    #[schemars(extend("x-minimum" = "1KiB/s"))]
    pub inward: Option<Throughput>,
    /// From the backend to the client.
    #[serde(rename = "out", with = "OrOff::<PerByteSecond>")]
    #[schemars(extend("x-minimum" = "1KiB/s"))]
    pub outward: Option<Throughput>,
}

/// Adds the key `pool`, which is a word for a single route: the checker puts that in its place.
pub(super) fn with_pool(schema: &mut Schema) {
    schema.insert("x-one-of".to_owned(), json!(["pool", "routes"]));
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|key| key != "routes");
    }
    let Some(Value::Object(keys)) = schema.get_mut("properties") else { return };
    let pool = json!({
        "description": "The pool that its connections go to: short for one route without `match`.",
        "type": "string",
        "x-form": "name",
        "x-means": { "routes": "pool" },
    });
    let mut all = Map::new();
    for (key, value) in std::mem::take(keys) {
        if key == "routes" {
            all.insert("pool".to_owned(), pool.clone());
        }
        all.insert(key, value);
    }
    *keys = all;
}
