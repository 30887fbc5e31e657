//! Keys of the admin endpoint.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::form::{AdminHost, FilePath, OneBind};
use super::super::written::{As, Maybe, OneOrMany};
use crate::net::addr::Address;

/// The admin endpoint: dashboard, metrics, API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where it listens: one address, or a unix socket.
    #[serde(with = "As::<OneBind>")]
    pub bind: Address,
    /// A file that holds the token that is asked for; required unless `bind` is loopback or a unix
    /// socket. Whitespace around the token does not belong to it.
    #[serde(with = "Maybe::<FilePath>", skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Names that it may be called by; IP addresses and `localhost` always may.
    #[serde(with = "OneOrMany::<AdminHost>")]
    pub hosts: Vec<String>,
    /// With a token: `/metrics` needs none.
    pub public_metrics: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            bind: Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9900))),
            token_file: None,
            hosts: Vec::new(),
            public_metrics: false,
        }
    }
}

impl Admin {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_local(&self.bind)
    }
}

/// Whether only this machine can reach what listens at an address.
pub(in super::super) fn is_local(address: &Address) -> bool {
    match address {
        Address::Tcp(tcp) => tcp.ip().to_canonical().is_loopback(),
        Address::Unix(_) => true,
    }
}
