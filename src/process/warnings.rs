//! What is valid and can hardly be meant, as far as this machine and the routes tell.

use super::limits::possible_connections;
use crate::config::Step::{Item, Key};
use crate::config::model::{self, Listener};
use crate::config::{self, Facts, Loaded, Problem};
use crate::net::addr::Address;
use crate::state::route::{Match, Routes};

/// Everything that is suspicious about a configuration, in the order of its file.
#[must_use]
pub fn warnings(loaded: &Loaded) -> Vec<Problem> {
    let facts = Facts { connections: Some(possible_connections(&loaded.config)) };
    let mut all = config::warnings(loaded, &facts);
    for (name, listener) in &loaded.config.listeners {
        let matches = listener.routes.iter().map(|route| compiled(&route.conditions));
        for suspicion in Routes::new(matches.collect()).suspicions(&ports(listener)) {
            let at = [Key("listeners"), Key(name), Key("routes"), Item(suspicion.route())];
            all.push(loaded.places.problem(&at, suspicion.to_string()));
        }
    }
    all.sort();
    all.dedup();
    all
}

fn compiled(conditions: &model::Match) -> Match {
    let model::Match { sni, alpn, tls, source, port } = conditions;
    let alpn = alpn.iter().map(|protocol| protocol.as_bytes().into()).collect();
    Match { sni: sni.clone(), alpn, tls: *tls, source: source.clone(), port: port.clone() }
}

/// The ports of a listener; none where the kernel chooses one, or clients come without any.
fn ports(listener: &Listener) -> Vec<u16> {
    let ports: Vec<u16> = listener
        .bind
        .iter()
        .filter_map(|address| match address {
            Address::Tcp(tcp) => Some(tcp.port()),
            Address::Unix(_) => None,
        })
        .collect();
    if ports.contains(&0) { Vec::new() } else { ports }
}
