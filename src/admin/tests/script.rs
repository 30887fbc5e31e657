//! A controller that follows a script: it answers what a real one is asked, from a table.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;

use crate::config::{Changes, Names};
use crate::control::event::{Events, Kind, More, News, TakeoverMore};
use crate::control::handle::{
    BackendStatus, ConnectionStatus, Error, ExplainedCandidate, Explanation, Handle,
    ListenerStatus, Operation, PoolStatus, Request, Status,
};
use crate::metrics;

/// What the scripted controller knows. Shared with the test, which changes it.
pub(crate) struct World {
    pub(crate) status: Status,
    /// What is wrong with the configuration, for the next reload.
    pub(crate) problems: Vec<crate::config::Problem>,
    /// Changes that were asked for, in words.
    pub(crate) asked: Vec<String>,
    pub(crate) events: Events,
}

#[allow(clippy::disallowed_types, reason = "a test may take a lock")]
pub(crate) type Shared = Arc<std::sync::Mutex<World>>;

fn now() -> SystemTime {
    #[allow(clippy::disallowed_methods, reason = "for display")]
    SystemTime::now()
}

fn backend(name: &str, port: usize) -> BackendStatus {
    BackendStatus {
        name: name.into(),
        address: format!("10.0.0.{}:{port}", 11 + port % 200),
        state: "healthy",
        usable: true,
        in_rotation: true,
        since: now(),
        reason: "2 checks passed in a row".to_owned(),
        weight: 1,
        priority: 0,
        connections_active: 0,
        connections_total: 0,
        bytes_in: 0,
        bytes_out: 0,
    }
}

impl World {
    /// A listener, the pool `app` of so many backends, and the hot standby `db` of two.
    pub(crate) fn new(backends: usize) -> Shared {
        let app = (1..=backends).map(|n| backend(&format!("app-{n}"), 9500 + n)).collect();
        let mut standby = vec![backend("db-1", 5432), backend("db-2", 5433)];
        standby[1].in_rotation = false;
        let pool = |name: &str, strategy, backends| PoolStatus {
            name: name.into(),
            strategy,
            active: None,
            preparing: None,
            backends,
        };
        let mut db = pool("db", "hot_standby", standby);
        db.active = Some("db-1".into());
        let listener = |name: &str, address: &str| ListenerStatus {
            name: name.into(),
            addresses: vec![address.to_owned()],
            connections_active: 0,
            connections_total: 0,
        };
        #[allow(clippy::disallowed_types, reason = "a test may take a lock")]
        Arc::new(std::sync::Mutex::new(Self {
            status: Status {
                version: env!("CARGO_PKG_VERSION"),
                uptime_seconds: 93_784,
                config_hash: "8c1f0d2a44b19e07".to_owned(),
                listeners: vec![
                    listener("web", "0.0.0.0:9501"),
                    listener("postgres", "10.0.0.2:5432"),
                ],
                pools: vec![pool("app", "least_connections", app), db],
            },
            problems: Vec::new(),
            asked: Vec::new(),
            events: Events::default(),
        }))
    }

    pub(crate) fn tell(&self, kind: Kind, at: (&str, &str), why: (&str, &str), more: More) {
        let (pool, backend) = at;
        let news = News {
            kind,
            pool: Some(pool.into()).filter(|p: &Arc<str>| !p.is_empty()),
            backend: Some(backend.into()).filter(|b: &Arc<str>| !b.is_empty()),
            cause: why.0.into(),
            evidence: why.1.into(),
            more,
        };
        let _ = self.events.tell(news, now());
    }

    pub(crate) fn backend(&mut self, pool: &str, name: &str) -> Result<&mut BackendStatus, Error> {
        let pool = self.pool(pool)?;
        let called = pool.name.to_string();
        let backend = pool.backends.iter_mut().find(|b| &*b.name == name);
        backend.ok_or_else(|| Error::Unknown(format!("pool {called} has no backend {name:?}")))
    }

    pub(crate) fn pool(&mut self, name: &str) -> Result<&mut PoolStatus, Error> {
        let pool = self.status.pools.iter_mut().find(|pool| &*pool.name == name);
        pool.ok_or_else(|| Error::Unknown(format!("there is no pool {name:?}")))
    }

    /// Puts a backend into a state, as the checks would.
    pub(crate) fn set(&mut self, pool: &str, name: &str, state: &'static str, reason: &str) {
        let backend = self.backend(pool, name).unwrap();
        let before = backend.state;
        backend.state = state;
        backend.usable = state == "healthy";
        backend.in_rotation = backend.usable;
        backend.reason = reason.to_owned();
        backend.since = now();
        let (kind, cause) = match state {
            "draining" => (Kind::Draining, "operator"),
            "disabled" => (Kind::Disabled, "operator"),
            "healthy" if before == "draining" || before == "disabled" => {
                (Kind::Enabled, "operator")
            }
            "healthy" => (Kind::Reinstated, "probe"),
            "ejected" => (Kind::Evicted, "outlier"),
            _ => (Kind::Evicted, "probe"),
        };
        self.tell(kind, (pool, name), (cause, reason), More::State { from: before, to: state });
    }

    fn operate(&mut self, pool: &str, name: &str, op: Operation) -> Result<BackendStatus, Error> {
        self.backend(pool, name)?;
        self.asked.push(format!("{op:?} {pool}/{name}"));
        match op {
            Operation::Drain => self.set(pool, name, "draining", "drained by an operator"),
            Operation::Disable => self.set(pool, name, "disabled", "disabled by an operator"),
            Operation::Enable => self.set(pool, name, "healthy", "enabled by an operator"),
            Operation::Weight(weight) => {
                self.backend(pool, name)?.weight = weight;
                let more = More::Weight { weight };
                self.tell(Kind::Weight, (pool, name), ("operator", "weight set"), more);
            }
            Operation::Kill { .. } => self.backend(pool, name)?.connections_active = 0,
        }
        self.backend(pool, name).cloned()
    }

    pub(crate) fn failover(&mut self, name: &str, to: Option<&str>) -> Result<PoolStatus, Error> {
        let pool = self.pool(name)?;
        let Some(from) = pool.active.clone() else {
            return Err(Error::NotNow(format!(
                "pool {name} is no hot standby: its strategy is {}",
                pool.strategy
            )));
        };
        let is_it = |b: &BackendStatus| match to {
            Some(to) => &*b.name == to,
            None => b.usable && b.name != from,
        };
        let Some(target) = pool.backends.iter().find(|b| is_it(b)) else {
            return Err(Error::Unknown(format!("pool {name} has no backend {to:?}")));
        };
        if !target.usable {
            let (name, state) = (&target.name, target.state);
            return Err(Error::NotNow(format!("{name} is {state}: it cannot have the role")));
        }
        let to = Arc::clone(&target.name);
        for backend in &mut pool.backends {
            backend.in_rotation = backend.name == to;
        }
        pool.active = Some(Arc::clone(&to));
        let pool = pool.clone();
        let more = TakeoverMore {
            from: Some(from.to_string()),
            to: to.to_string(),
            detection_ms: 0,
            takeover_ms: Some(14),
            retried: 3,
            cut: 12,
            demoting: 0,
            lost: 0,
        };
        let why = ("operator", "failover asked for by an operator");
        self.tell(Kind::Takeover, (name, &to), why, More::Takeover(more));
        Ok(pool)
    }

    fn reload(&mut self) -> Result<Changes, Error> {
        self.asked.push("reload".to_owned());
        if !self.problems.is_empty() {
            return Err(Error::Problems {
                file: "/etc/tidegate.yaml".into(),
                problems: self.problems.clone(),
            });
        }
        let backends = Names { added: vec!["app/app-9".to_owned()], ..Names::default() };
        Ok(Changes { backends, ..Changes::default() })
    }

    fn explain(&self, listener: &str) -> Result<Explanation, Error> {
        if listener != "web" {
            return Err(Error::Unknown(format!("there is no listener {listener:?}")));
        }
        let candidates = self.status.pools[0].backends.iter().map(|b| ExplainedCandidate {
            backend: Arc::clone(&b.name),
            usable: b.usable,
            reason: format!("{}: {}", b.state, b.reason),
        });
        Ok(Explanation {
            listener: listener.into(),
            route: Some(0),
            pool: Some("app".into()),
            candidates: candidates.collect(),
            pick: self.status.pools[0].backends.iter().find(|b| b.usable).map(|b| b.name.clone()),
            why: "least_connections: the fewest open connections for its weight".to_owned(),
        })
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(Ok(self.status.clone()))),
            Request::Pool(name, reply) => drop(reply.send(self.pool(&name).map(|p| p.clone()))),
            Request::Operate { pool, backend, operation, reply } => {
                drop(reply.send(self.operate(&pool, &backend, operation)));
            }
            Request::Failover { pool, to, reply } => {
                drop(reply.send(self.failover(&pool, to.as_deref())));
            }
            Request::Connections(filter, reply) => {
                let connection = ConnectionStatus {
                    id: 7,
                    listener: "web".into(),
                    source: filter.source.map(|source| format!("{source}:40000")),
                    pool: filter.pool.map(Into::into),
                    backend: filter.backend.map(Into::into),
                    age_ms: 61_000,
                    idle_ms: 12,
                    bytes_in: 1,
                    bytes_out: 2,
                };
                drop(reply.send(Ok(vec![connection])));
            }
            Request::Explain(question, reply) => drop(reply.send(self.explain(&question.listener))),
            Request::Reload(reply) => drop(reply.send(self.reload())),
            Request::HandOver(reply) => drop(reply.send(Err(Error::Gone))),
            Request::Inherit(_, reply) => drop(reply.send(Err(Error::Gone))),
            Request::GoOn | Request::Alone => {}
            Request::Unready(reply) => {
                let is_down = |p: &&PoolStatus| !p.backends.iter().any(|b| b.in_rotation);
                let down = self.status.pools.iter().filter(is_down);
                drop(reply.send(Ok(down.map(|p| Arc::clone(&p.name)).collect())));
            }
            Request::Measures(reply) => drop(reply.send(Ok(metrics::tests::view(3)))),
        }
    }
}

/// Starts the controller, which ends with the set.
pub(crate) fn start(world: &Shared) -> (Handle, JoinSet<()>) {
    let one = ["127.0.0.1:0".to_owned()];
    let other = ["127.0.0.1:1".to_owned()];
    let registry = crate::balance::Registry::default();
    let config = crate::config::one_shot(&one, &other, None, None, &registry).unwrap();
    let events = world.lock().unwrap().events.clone();
    let (handle, mut inbox) = Handle::new(events, Arc::new(ArcSwap::from_pointee(config)));
    let world = Arc::clone(world);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Some(request) = inbox.recv().await {
            world.lock().unwrap().answer(request);
        }
    });
    (handle, task)
}
