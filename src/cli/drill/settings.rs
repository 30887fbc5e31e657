//! The configuration of the drill: a file as a user writes it.

use std::fmt::Write;

/// The worker nodes, in the order of the configuration: three that share work, and a pair.
pub(super) const NODES: [&str; 5] = ["web-1", "web-2", "web-3", "db-1", "db-2"];

/// This program, whatever it is called and even if its file was replaced.
pub(super) const PROGRAM: &str = "/proc/self/exe";

/// The text of the configuration, for nodes at these addresses. `door` is where a restart is asked
/// for, `dashboard` where that is to be.
pub(super) fn text(addresses: &[String], door: &str, dashboard: &str) -> String {
    let backends = |nodes: std::ops::Range<usize>| {
        let mut lines = String::new();
        for (name, address) in NODES.iter().zip(addresses).skip(nodes.start).take(nodes.len()) {
            let _ = writeln!(lines, "      - {{ address: \"{address}\", name: {name} }}");
        }
        lines
    };
    let (web, db) = (backends(0..3), backends(3..5));
    format!(
        r#"# What the drill runs with: quicker than the defaults, so that nobody has to wait.
# Nodes are killed between two requests. What is inside a node dies with it, whoever
# balances.

log: {{ level: error }}
admin: {{ bind: "{dashboard}" }}

listeners:
  web: {{ bind: "127.0.0.1:0", pool: web }}
  db: {{ bind: "127.0.0.1:0", pool: db }}

pools:
  web:                            # three nodes share the work
    backends:
{web}    health_check:
      probe: {{ http: {{ path: /health }} }}
      interval: 500ms             # default: 2s
      timeout: 300ms              # default: 1s
      fast_interval: 200ms        # default: 500ms
    outlier_detection:
      first_byte: 250ms           # default: off; for servers that answer at once

  db:                             # one node works, the other stands by
    strategy: hot_standby         # failback is manual by default
    backends:
{db}    health_check:
      interval: 500ms
      fast_interval: 200ms
    outlier_detection:
      base_ejection: 2s           # default: 10s
    recovery:
      on_evict:                   # an action: this very program restarts the node
        - exec:
            command: [{PROGRAM}, demo-restart, "{{backend}}", {door}]
            timeout: 10s          # default: 30s
"#
    )
}

/// The text with addresses and names such as they would be.
pub(super) fn sample() -> String {
    let addresses: Vec<String> =
        (7001..).take(NODES.len()).map(|p| format!("127.0.0.1:{p}")).collect();
    text(&addresses, "tidegate-drill", "127.0.0.1:9900")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Registry;
    use crate::config::load;

    #[test]
    fn the_configuration_of_the_drill_is_valid() {
        let config = load(&sample(), &|_| None, &Registry::default()).unwrap();
        let count = |pool: &str| config.pools[pool].backends.len();
        assert_eq!((count("web"), count("db")), (3, 2));
    }
}
