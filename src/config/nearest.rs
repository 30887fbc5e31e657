//! What somebody may have meant: the nearest valid name.

use super::form::{Name, Text as _};
use super::problem::show;

/// Names that other balancers use, and what they are called here.
const ALIASES: &[(&str, &str)] = &[
    // strategies
    ("leastconn", "least_connections"),
    ("least_conn", "least_connections"),
    ("least_request", "least_connections"),
    ("least", "least_connections"),
    ("roundrobin", "round_robin"),
    ("rr", "round_robin"),
    ("wrr", "round_robin"),
    ("static_rr", "round_robin"),
    ("weighted_round_robin", "round_robin"),
    ("p2c", "power_of_two"),
    ("pick2", "power_of_two"),
    ("two_random_choices", "power_of_two"),
    ("least_time", "least_latency"),
    ("peak_ewma", "least_latency"),
    ("ewma", "least_latency"),
    ("maglev", "source_hash"),
    ("source", "source_hash"),
    ("ip_hash", "source_hash"),
    ("ring_hash", "source_hash"),
    ("hash", "source_hash"),
    ("first", "first_available"),
    ("backup", "hot_standby"),
    ("active_passive", "hot_standby"),
    ("active_standby", "hot_standby"),
    ("failover", "hot_standby"),
    // keys
    ("servers", "backends"),
    ("server", "backends"),
    ("endpoints", "backends"),
    ("nodes", "backends"),
    ("targets", "backends"),
    ("upstreams", "pools"),
    ("upstream", "pools"),
    ("clusters", "pools"),
    ("cluster", "pool"),
    ("backend", "pool"),
    ("default_backend", "pool"),
    ("proxy_pass", "pool"),
    ("frontends", "listeners"),
    ("frontend", "listeners"),
    ("global", "runtime"),
    ("logging", "log"),
    ("algorithm", "strategy"),
    ("balance", "strategy"),
    ("policy", "strategy"),
    ("lb_policy", "strategy"),
    ("maxconn", "max_connections"),
    ("max_conns", "max_connections"),
    ("addr", "address"),
    ("host", "address"),
    ("listen", "bind"),
    ("workers", "threads"),
    ("nbthread", "threads"),
    ("worker_processes", "threads"),
    ("retries", "attempts"),
    ("half_close", "half_closed"),
    ("loglevel", "level"),
    ("check", "health_check"),
    ("health_checks", "health_check"),
    ("healthcheck", "health_check"),
    ("inter", "interval"),
    ("fastinter", "fast_interval"),
    ("healthy_threshold", "rise"),
    ("passes", "rise"),
    ("unhealthy_threshold", "fall"),
    ("fails", "fall"),
    ("interval_jitter", "jitter"),
    ("slowstart", "slow_start"),
    ("healthy_panic_threshold", "panic_threshold"),
    ("max_fails", "consecutive_failures"),
    ("fail_timeout", "base_ejection"),
    ("base_ejection_time", "base_ejection"),
    ("max_ejection_time", "max_ejection"),
    ("max_ejection_percent", "max_ejected_percent"),
    ("down", "disabled"),
    ("preempt", "failback"),
    ("ssl", "tls"),
    ("httpchk", "http"),
    ("uri", "path"),
    ("sni", "server_name"),
    ("cmd", "command"),
    ("script", "exec"),
    ("whitelist", "allow"),
    ("blacklist", "deny"),
    ("rules", "routes"),
    ("accept_proxy", "accept_proxy_protocol"),
    ("proxy_protocol", "accept_proxy_protocol"),
    ("send_proxy", "send_proxy_protocol"),
    ("server_names", "sni"),
    ("server_name", "sni"),
    ("resolvers", "resolve"),
    ("resolver", "resolve"),
    ("nameservers", "servers"),
    ("inward", "in"),
    ("inbound", "in"),
    ("ingress", "in"),
    ("input", "in"),
    ("ni", "in"),
    ("outward", "out"),
    ("outbound", "out"),
    ("egress", "out"),
    ("output", "out"),
    ("access_log", "access"),
    ("api", "admin"),
    ("stats", "admin"),
    ("warning", "warn"),
];

/// Candidates that are compared; bounds the time for one name.
const COMPARED: usize = 200;
/// The longest name that is compared, in bytes.
const LONGEST: usize = 40;

/// The candidate that `name` is most likely meant to be.
pub(super) fn nearest<'c>(
    name: &str,
    candidates: impl Iterator<Item = &'c str> + Clone,
) -> Option<&'c str> {
    if name.len() > LONGEST {
        return None;
    }
    let wanted = normalized(name);
    let alias = ALIASES.iter().find(|(alias, _)| *alias == wanted).map(|(_, meant)| *meant);
    if let Some(found) = alias.and_then(|meant| candidates.clone().find(|one| *one == meant)) {
        return Some(found);
    }
    candidates
        .take(COMPARED)
        .filter(|candidate| candidate.len() <= LONGEST)
        .filter_map(|candidate| Some((distance(&wanted, candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean "…"?` for the nearest candidate; else the candidates, as far as they are few.
pub(crate) fn hint<'c>(name: &str, candidates: impl Iterator<Item = &'c str> + Clone) -> String {
    match nearest(name, candidates.clone()) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("expected {}", one_of(candidates)),
    }
}

/// `one of a, b, c`, with the number of those left out when there are many.
pub(super) fn one_of<'c>(names: impl Iterator<Item = &'c str> + Clone) -> String {
    const LISTED: usize = 24;
    let count = names.clone().count();
    let listed = names.take(LISTED).map(shown).collect::<Vec<_>>().join(", ");
    match count {
        0 => "nothing".to_owned(),
        1 => listed,
        2..=LISTED => format!("one of {listed}"),
        _ => format!("one of {listed} and {} more", count - LISTED),
    }
}

/// A name in a list: bare where it is one, else in quotes.
fn shown(name: &str) -> String {
    match Name::parse(name) {
        Ok(name) => name,
        Err(_) => show(name),
    }
}

/// How far `wanted` is from `candidate`; `None` when it is too far to be meant.
fn distance(wanted: &str, candidate: &str) -> Option<usize> {
    let candidate = normalized(candidate);
    let allowed = 1.max(wanted.len().max(candidate.len()) / 3);
    if wanted.len().abs_diff(candidate.len()) <= allowed {
        let edits = strsim::osa_distance(wanted, &candidate);
        // Two names of one or two letters are never near; of two, one letter too many is.
        let is_long = candidate.len() > 2 || candidate.len() == 2 && wanted.len() == 3;
        let enough = edits < wanted.len().max(2) && (edits == 0 || is_long);
        if edits <= allowed && enough {
            return Some(edits);
        }
    }
    let is_prefix = wanted.len() >= 3 && candidate.starts_with(wanted);
    is_prefix.then_some(LONGEST)
}

fn normalized(name: &str) -> String {
    name.chars().map(|c| if c == '-' || c == ' ' { '_' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
        nearest(name, candidates.iter().copied())
    }

    #[test]
    fn slips_of_the_finger_are_understood() {
        let keys = ["runtime", "log", "defaults", "listeners", "pools"];
        assert_eq!(near("listners", &keys), Some("listeners"));
        assert_eq!(near("Pools", &keys), Some("pools"));
        assert_eq!(near("pool", &keys), Some("pools"));
        assert_eq!(near("max-conections", &["max_connections"]), Some("max_connections"));
        assert_eq!(near("max_conn", &["max_connections"]), Some("max_connections"));
        assert_eq!(near("zebra", &keys), None);
        assert_eq!(near("b", &["a", "c"]), None);
        for slip in ["inn", "iin", "In", "ni", "inbound"] {
            assert_eq!(near(slip, &["in", "out"]), Some("in"), "{slip}");
        }
        assert_eq!(near("tcp", &["in", "v1"]), None);
        assert_eq!(near("", &["a", "tcp"]), None);
    }

    #[test]
    fn names_of_other_balancers_are_known() {
        let strategies = ["round_robin", "least_connections", "source_hash", "hot_standby"];
        assert_eq!(near("leastconn", &strategies), Some("least_connections"));
        assert_eq!(near("RoundRobin", &strategies), Some("round_robin"));
        assert_eq!(near("maglev", &strategies), Some("source_hash"));
        assert_eq!(near("maglev", &["random"]), None);
        assert_eq!(near("upstreams", &["listeners", "pools"]), Some("pools"));
    }

    #[test]
    fn without_a_near_name_the_valid_ones_are_listed() {
        assert_eq!(hint("zebra", ["text", "json"].into_iter()), "expected one of text, json");
    }
}
