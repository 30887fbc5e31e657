//! What is valid and can hardly be meant, as far as this machine and the routes tell.

use super::limits::possible_connections;
use crate::config::Step::{Item, Key};
use crate::config::model::{self, Listener};
use crate::config::{self, Facts, Loaded, Problem};
use crate::control;
use crate::net::addr::Address;
use crate::state::route::{Match, Routes};

/// Everything that is suspicious about a configuration, in the order of its file.
#[must_use]
pub fn warnings(loaded: &Loaded) -> Vec<Problem> {
    let facts = Facts { connections: Some(possible_connections(&loaded.config)) };
    let mut all = config::warnings(loaded, &facts);
    all.extend(control::absent(loaded));
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

/// The ports of a listener; none where the kernel chooses one, clients come without any, or a PROXY
/// header may name any other: that of its destination counts then.
fn ports(listener: &Listener) -> Vec<u16> {
    if !listener.accept_proxy_protocol.is_empty() {
        return Vec::new();
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Registry;
    use crate::config::load_with_places;

    fn warned(text: &str) -> Vec<String> {
        let loaded = load_with_places(text.as_bytes(), &|_| None, &Registry::default()).unwrap();
        warnings(&loaded).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn routes_that_can_never_match_are_told_at_their_place() {
        let text = "\
listeners:
  edge:
    bind: 0.0.0.0:443
    routes:
      - match: { sni: [\"*.example.com\"] }
        pool: app
      - match: { sni: [api.example.com, example.org] }
        pool: app
      - match: { port: [80] }
        pool: app
      - match: { tls: false, alpn: [h2] }
        pool: app
      - pool: app
      - match: { source: [10.0.0.0/8] }
        pool: app
pools: { app: { backends: [10.0.0.1:80] } }
";
        let expected = [
            "7:9: listeners.edge.routes[1]: \"api.example.com\" can never match here: routes[0]",
            "9:9: listeners.edge.routes[2]: this route can never match: the listener is bound to",
            "11:9: listeners.edge.routes[3]: this route can never match: what is no TLS has no",
            "14:9: listeners.edge.routes[5]: this route can never match: routes[4] before it",
        ];
        let warnings = warned(text);
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        for (warning, start) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(start), "{warning}");
        }
        assert_eq!(warned(&text.replace("0.0.0.0:443", "0.0.0.0:0")).len(), 3, "any port");
        let proxied = "0.0.0.0:443\n    accept_proxy_protocol: [10.0.0.0/8]";
        assert_eq!(warned(&text.replace("0.0.0.0:443", proxied)).len(), 3, "the header's port");
    }

    #[test]
    fn more_connections_than_descriptors_are_told() {
        let text = "runtime: { max_connections: 4000000000 }\n\
                    listeners: { a: { bind: 0.0.0.0:80, pool: app } }\n\
                    pools: { app: { backends: [10.0.0.1:80] } }\n";
        let warnings = warned(text);
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].starts_with("1:29: runtime.max_connections: 4000000000 connections"));
    }
}
