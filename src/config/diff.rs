//! What is different between two configurations, by names.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::model::{Backend, Config, Pool};

/// What a reload has changed; backends as `pool/backend`. JSON as the API says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Listeners.
    pub listeners: Names,
    /// Pools: their own keys, not those of their backends.
    pub pools: Names,
    /// Backends.
    pub backends: Names,
    /// Keys of the process that have another value and are in force: `log.level`.
    pub settings: Vec<String>,
    /// Keys of the process that have another value, which takes a restart.
    pub needs_restart: Vec<String>,
}

/// Keys that are read at the start only.
const AT_START: &[&str] = &["runtime.threads", "log.format"];

/// Names of what came, went, and is another now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    /// New.
    pub added: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
    /// The same name, with another meaning.
    pub changed: Vec<String>,
}

impl Changes {
    /// From `old` to `new`. O(n).
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let listeners = Names::between(
            old.listeners.iter().map(|(name, listener)| (name.clone(), listener)),
            new.listeners.iter().map(|(name, listener)| (name.clone(), listener)),
            |old, new| old == new,
        );
        let pools = Names::between(
            old.pools.iter().map(|(name, pool)| (name.clone(), pool)),
            new.pools.iter().map(|(name, pool)| (name.clone(), pool)),
            is_same_pool,
        );
        let backends = Names::between(backends(old), backends(new), |old, new| old == new);
        let mut settings = Vec::new();
        differing("", &settings_of(old), &settings_of(new), &mut settings);
        let (needs_restart, settings) =
            settings.into_iter().partition(|key| AT_START.contains(&key.as_str()));
        Self { listeners, pools, backends, settings, needs_restart }
    }

    /// Whether there is no difference.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.listeners, &self.pools, &self.backends].iter().all(|names| names.is_empty())
            && self.settings.is_empty()
            && self.needs_restart.is_empty()
    }
}

impl Names {
    fn between<'a, T: 'a>(
        old: impl Iterator<Item = (String, &'a T)>,
        new: impl Iterator<Item = (String, &'a T)>,
        is_same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let mut names = Self::default();
        let mut order = Vec::new();
        let mut before: HashMap<String, &T> = HashMap::new();
        for (name, value) in old {
            order.push(name.clone());
            before.insert(name, value);
        }
        for (name, value) in new {
            match before.remove(&name) {
                None => names.added.push(name),
                Some(was) if !is_same(was, value) => names.changed.push(name),
                Some(_) => {}
            }
        }
        names.removed = order.into_iter().filter(|name| before.contains_key(name)).collect();
        names
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// What a configuration says beside listeners and pools.
fn settings_of(config: &Config) -> Value {
    let Config { admin, state_file, runtime, log, .. } = config.clone();
    let (listeners, pools) = Default::default();
    let bare = Config { admin, state_file, runtime, log, listeners, pools };
    // It can be written as JSON: every key of it can.
    serde_json::to_value(bare).unwrap_or_default()
}

/// The paths of the keys that are not the same; of a section that is there on one side only, its own.
fn differing(path: &str, old: &Value, new: &Value, out: &mut Vec<String>) {
    let (Value::Object(was), Value::Object(is)) = (old, new) else {
        if old != new {
            out.push(path.to_owned());
        }
        return;
    };
    let gone = was.keys().filter(|key| !is.contains_key(*key));
    for key in is.keys().chain(gone) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let of = |section: &Map<String, Value>| section.get(key).cloned().unwrap_or_default();
        differing(&path, &of(was), &of(is), out);
    }
}

/// Whether two pools are the same but for their backends, the order of which counts.
fn is_same_pool(old: &Pool, new: &Pool) -> bool {
    let order = |pool: &Pool| pool.backends.iter().map(|b| b.name.clone()).collect::<Vec<_>>();
    // Those that came or went are told as such.
    let common = |pool: &Pool, other: &Pool| {
        let others: std::collections::HashSet<_> = order(other).into_iter().collect();
        order(pool).into_iter().filter(|name| others.contains(name)).collect::<Vec<_>>()
    };
    let without = |pool: &Pool| Pool { backends: Vec::new(), ..pool.clone() };
    without(old) == without(new) && common(old, new) == common(new, old)
}

fn backends(config: &Config) -> impl Iterator<Item = (String, &Backend)> {
    config.pools.iter().flat_map(|(pool, of)| {
        of.backends.iter().map(move |backend| (format!("{pool}/{}", backend.name), backend))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Registry;
    use crate::config::load;

    fn config(listeners: &str, pools: &str) -> Config {
        let text = format!("listeners: {{{listeners}}}\npools: {{{pools}}}");
        load(&text, &|_| None, &Registry::default()).unwrap()
    }

    const WEB: &str = "web: {bind: '127.0.0.1:1', pool: app}";

    #[test]
    fn what_came_went_and_changed_is_told_by_name() {
        let old =
            config(WEB, "app: {backends: [{address: '127.0.0.1:2', name: a}, '127.0.0.1:3']}");
        let new = config(
            "web: {bind: '127.0.0.1:9', pool: app}, api: {bind: '127.0.0.1:8', pool: api}",
            "app: {strategy: random, backends: [{address: '127.0.0.1:2', name: a, weight: 2}]}, \
             api: {backends: ['127.0.0.1:4']}",
        );
        let changes = Changes::between(&old, &new);
        let names = |added: &[&str], removed: &[&str], changed: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            Names { added: owned(added), removed: owned(removed), changed: owned(changed) }
        };
        assert_eq!(changes.listeners, names(&["api"], &[], &["web"]));
        assert_eq!(changes.pools, names(&["api"], &[], &["app"]));
        let backends = names(&["api/127.0.0.1:4"], &["app/127.0.0.1:3"], &["app/a"]);
        assert_eq!(changes.backends, backends);
    }

    #[test]
    fn a_backend_that_came_changes_no_other_and_no_pool() {
        let old = config(WEB, "app: {backends: ['127.0.0.1:2']}");
        let new = config(WEB, "app: {backends: ['127.0.0.1:3', '127.0.0.1:2']}");
        let changes = Changes::between(&old, &new);
        assert!(changes.pools.is_empty() && changes.listeners.is_empty());
        assert_eq!(changes.backends.added, ["app/127.0.0.1:3"]);
        assert!(Changes::between(&old, &old).is_empty());
    }

    #[test]
    fn settings_of_the_process_are_told_and_which_of_them_need_a_restart() {
        let with = |head: &str| {
            let text =
                format!("{head}\nlisteners: {{{WEB}}}\npools: {{app: {{backends: ['a:1']}}}}");
            load(&text, &|_| None, &Registry::default()).unwrap()
        };
        let old = with("runtime: {threads: 1, max_connections: 10}\nadmin: {}");
        let new =
            with("runtime: {threads: 2, shutdown_grace: 5s}\nlog: {level: warn, format: json}");
        let changes = Changes::between(&old, &new);
        assert_eq!(
            changes.settings,
            ["admin", "runtime.shutdown_grace", "runtime.max_connections", "log.level"]
        );
        assert_eq!(changes.needs_restart, ["runtime.threads", "log.format"]);
        assert!(!changes.is_empty() && Changes::between(&old, &old).is_empty());
    }

    #[test]
    fn another_order_of_backends_is_another_pool() {
        let old = config(WEB, "app: {backends: ['127.0.0.1:2', '127.0.0.1:3']}");
        let new = config(WEB, "app: {backends: ['127.0.0.1:3', '127.0.0.1:2']}");
        assert_eq!(Changes::between(&old, &new).pools.changed, ["app"]);
    }
}
