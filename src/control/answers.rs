//! What operators and monitoring systems ask, and what they are answered.

use std::sync::Arc;
use std::time::Duration;

use super::controller::{Controller, news, wall};
use super::demotion::list;
use super::event::{Kind, More, News};
use super::handle::{
    BackendStatus, ConnectionStatus, Error, Filter, Operation, PoolStatus, Request,
};
use super::keeper::Node;
use super::names::LATE;
use super::pool::Controlled;
use crate::config::did_you_mean;
use crate::failover::{Cause, Id, MoveError, Why};
use crate::health::{Event, Evidence, Operator, State, Tick};
use crate::net::clock::ticks;
use crate::state::{Ending, Notice, Open, Which};

impl Controller {
    /// Answers a request, or sees to its being answered.
    pub(super) async fn answer(&mut self, request: Request) {
        // Who has asked may have gone: then nobody is told.
        match request {
            Request::Operate { reply, .. } if self.is_handing_over => {
                drop(reply.send(Err(later())));
            }
            Request::Failover { reply, .. } if self.is_handing_over => {
                drop(reply.send(Err(later())));
            }
            Request::Reload(reply) if self.is_handing_over => drop(reply.send(Err(later()))),
            Request::Status(reply) => drop(reply.send(Ok(self.status()))),
            Request::Measures(reply) => drop(reply.send(Ok(self.measures()))),
            Request::Explain(question, reply) => drop(reply.send(self.explain(&question))),
            Request::Pool(name, reply) => {
                let _ = reply.send(self.pool_called(&name).map(|index| self.pool_status(index)));
            }
            Request::Operate { pool, backend, operation, reply } => {
                let _ = reply.send(self.operate(&pool, &backend, operation).await);
            }
            Request::Failover { pool, to, reply } => {
                let _ = reply.send(self.fail_over(&pool, to.as_deref()).await);
            }
            Request::Connections(filter, reply) => {
                let (threads, now) = (self.threads.clone(), self.clock.now());
                let known = self.knows(&filter);
                tokio::task::spawn_local(async move {
                    let open = list(&threads, None).await;
                    let shown = open.into_iter().filter(|one| filter.takes(one));
                    let shown: Vec<_> = shown.map(|one| connection_status(one, now)).collect();
                    // What was configured is known by its connections.
                    let unknown = known.err().filter(|_| shown.is_empty());
                    let _ = reply.send(unknown.map_or(Ok(shown), Err));
                });
            }
            Request::HandOver(reply) => self.want_hand_over(reply),
            Request::GoOn => self.is_handing_over = false,
            Request::Alone => self.resume(),
            Request::Inherit(tally, reply) => {
                self.unclaimed.add(tally);
                self.claim();
                let _ = reply.send(Ok(()));
            }
            Request::Reload(reply) => self.want_reload(reply),
            Request::Unready(reply) => {
                let unready = self.pools.iter().filter(|pool| !pool.has_rotation());
                let _ = reply.send(Ok(unready.map(|pool| Arc::clone(pool.name())).collect()));
            }
        }
    }

    /// Adds what another process has counted of what is here.
    pub(super) fn claim(&mut self) {
        if self.unclaimed.is_empty() {
            return;
        }
        let view = self.measures();
        self.unclaimed.claim(&view);
        if self.now() > LATE {
            self.unclaimed.forget();
        }
    }

    fn pool_called(&self, name: &str) -> Result<usize, Error> {
        let found = self.pools.iter().position(|pool| **pool.name() == *name);
        found.ok_or_else(|| {
            let hint = did_you_mean(name, self.pools.iter().map(|pool| &**pool.name()));
            Error::Unknown(format!("no pool is called {name:?}; {hint}"))
        })
    }

    /// Whether there are a pool and a backend of these names.
    fn knows(&self, filter: &Filter) -> Result<(), Error> {
        match (&filter.pool, &filter.backend) {
            (Some(pool), Some(backend)) => {
                self.backend_called(self.pool_called(pool)?, backend).map(|_| ())
            }
            (Some(pool), None) => self.pool_called(pool).map(|_| ()),
            (None, Some(backend)) => {
                let mut pools = 0..self.pools.len();
                let is_somewhere = pools.any(|index| self.backend_called(index, backend).is_ok());
                let unknown = || Error::Unknown(format!("no backend is called {backend:?}"));
                is_somewhere.then_some(()).ok_or_else(unknown)
            }
            (None, None) => Ok(()),
        }
    }

    fn backend_called(&self, index: usize, name: &str) -> Result<Id, Error> {
        let pool = &self.pools[index];
        let found = pool.keeper.nodes.iter().find(|node| *node.name == *name);
        found.map(|node| node.id).ok_or_else(|| {
            let hint = did_you_mean(name, pool.keeper.nodes.iter().map(|node| &*node.name));
            let pool = pool.name();
            Error::Unknown(format!("pool {pool:?} has no backend called {name:?}; {hint}"))
        })
    }

    async fn operate(
        &mut self,
        pool: &str,
        backend: &str,
        operation: Operation,
    ) -> Result<BackendStatus, Error> {
        let index = self.pool_called(pool)?;
        if let Operation::Kill { idle } = operation {
            return self.kill(index, backend, idle).await;
        }
        let id = self.backend_called(index, backend)?;
        match operation {
            Operation::Drain => self.say(id, Operator::Draining),
            Operation::Enable => self.say(id, Operator::Enabled),
            Operation::Disable => self.say(id, Operator::Disabled),
            Operation::Weight(weight) => self.weigh(index, id, weight),
            Operation::Kill { .. } => {}
        }
        // Who is told that it is so finds it so.
        self.pools[index].hurry();
        self.settle_all().await;
        let at = self.now();
        let pool = &self.pools[index];
        let node = pool.keeper.node(id).ok_or(Error::Gone)?;
        Ok(backend_status(pool, node, at))
    }

    /// An operator's word about a backend.
    fn say(&mut self, id: Id, operator: Operator) {
        let Some(node) = self.home(id).and_then(|pool| pool.keeper.node_mut(id)) else { return };
        node.operator.overrule(operator);
        self.note(id, Event::Operator(operator));
        self.unsaved();
    }

    fn weigh(&mut self, index: usize, id: Id, weight: u32) {
        let at = self.now();
        let pool = &mut self.pools[index];
        let Some(node) = pool.keeper.node_mut(id) else { return };
        let before = node.weight.value();
        node.weight.overrule(weight);
        if before == weight {
            // It is the operator's word from now on; nothing has happened.
            return self.unsaved();
        }
        let name = Arc::clone(&node.name);
        pool.keeper.refresh(&Why::new(Cause::Operator, "another weight"), false, at);
        pool.is_dirty = true;
        let evidence = format!("weight {weight}").into();
        let news = news(Kind::Weight, pool.name(), Some(name));
        self.tell(News { evidence, more: More::Weight { weight }, ..news });
        self.unsaved();
    }

    /// Closes the connections of all that are listed under this name: of one that is configured no more
    /// too.
    async fn kill(
        &self,
        index: usize,
        name: &str,
        idle: Option<Duration>,
    ) -> Result<BackendStatus, Error> {
        let pool = &self.pools[index];
        let parted: Vec<_> =
            pool.parted.iter().map(|p| &p.node).filter(|n| *n.name == *name).collect();
        let node = match (self.backend_called(index, name), &parted[..]) {
            (Ok(id), _) => pool.keeper.node(id).ok_or(Error::Gone)?,
            (Err(_), [parted, ..]) => parted,
            (Err(unknown), []) => return Err(unknown),
        };
        for id in parted.iter().map(|node| node.id).chain([node.id]) {
            let which = Which::Of(id, idle.map_or(0, ticks));
            self.threads.tell(&Notice::End { which, reason: Ending::Killed }).await;
        }
        Ok(backend_status(pool, node, self.now()))
    }

    async fn fail_over(&mut self, pool: &str, to: Option<&str>) -> Result<PoolStatus, Error> {
        let index = self.pool_called(pool)?;
        let to = to.map(|name| self.backend_called(index, name)).transpose()?;
        let at = self.now();
        let pool = &mut self.pools[index];
        let name = Arc::clone(pool.name());
        if pool.keeper.role.is_none() {
            return Err(Error::NotNow(format!(
                "pool {name:?} is no hot standby: it has no active role to move \
                 (strategy: hot_standby)"
            )));
        }
        let unusable = to.and_then(|id| pool.keeper.node(id)).map_or_else(String::new, unusable);
        pool.keeper.move_to(to, at).map_err(|error| match error {
            MoveError::Unknown => Error::Unknown(error.to_string()),
            MoveError::NotUsable => Error::NotNow(format!("pool {name:?}: {unusable}")),
            error => Error::NotNow(format!("pool {name:?}: {error}")),
        })?;
        pool.is_dirty = true;
        self.settle_all().await;
        Ok(self.pool_status(index))
    }

    pub(super) fn pool_status(&self, index: usize) -> PoolStatus {
        let at = self.now();
        let pool = &self.pools[index];
        let nodes = &pool.keeper.nodes;
        PoolStatus {
            name: Arc::clone(pool.name()),
            strategy: pool.entry.name,
            active: pool.active().and_then(|id| pool.name_of(id)),
            preparing: pool.preparing().and_then(|id| pool.name_of(id)),
            backends: nodes.iter().map(|node| backend_status(pool, node, at)).collect(),
        }
    }
}

/// Why a backend cannot have the active role, and what would change that.
fn unusable(node: &Node) -> String {
    let (state, reason) = (node.health.state(), node.health.reason());
    let hint = match state {
        State::Draining | State::Disabled => "; enable it first",
        _ if node.weight.value() == 0 => "; its weight is 0",
        _ => "",
    };
    format!(
        "{:?} is {} ({reason}) and cannot have the active role{hint}",
        node.name,
        state.as_str()
    )
}

pub(super) fn backend_status(pool: &Controlled, node: &Node, at: Tick) -> BackendStatus {
    let backing = pool.backings.get(&node.id);
    let live = backing.map(|backing| &backing.backend);
    let is_parted = pool.keeper.node(node.id).is_none();
    let (state, reason) = if is_parted {
        (State::Draining, "no longer configured".to_owned())
    } else {
        let reason = match node.health.reason() {
            Evidence::Start if pool.probe.is_none() => "no health check".to_owned(),
            reason => reason.to_string(),
        };
        (node.health.state(), reason)
    };
    let since = backing.map(|backing| backing.since(node.health.age(at), at));
    BackendStatus {
        name: Arc::clone(&node.name),
        address: node.address.to_string(),
        state: state.as_str(),
        usable: !is_parted && pool.keeper.is_usable(node),
        in_rotation: pool.is_in_rotation(node.id),
        since: since.unwrap_or_else(wall),
        reason,
        weight: node.weight.value(),
        priority: node.priority,
        connections_active: live.map_or(0, |live| live.load.open().into()),
        connections_total: live.map_or(0, |live| live.totals.connections()),
        bytes_in: live.map_or(0, |live| live.totals.bytes_in()),
        bytes_out: live.map_or(0, |live| live.totals.bytes_out()),
    }
}

impl Filter {
    fn takes(&self, open: &Open) -> bool {
        let is_pool = self.pool.as_deref().is_none_or(|pool| Some(pool) == open.pool.as_deref());
        let backend = open.backend.as_ref().map(|(_, name)| &**name);
        let is_backend = self.backend.as_deref().is_none_or(|wanted| Some(wanted) == backend);
        let source = open.source.map(|source| source.ip());
        is_pool && is_backend && self.source.is_none_or(|wanted| Some(wanted) == source)
    }
}

fn connection_status(open: Open, now: Tick) -> ConnectionStatus {
    ConnectionStatus {
        id: open.number,
        listener: open.listener,
        source: open.source.map(|source| source.to_string()),
        pool: open.pool,
        backend: open.backend.map(|(_, name)| name),
        age_ms: now.saturating_sub(open.start),
        idle_ms: now.saturating_sub(open.active),
        bytes_in: open.bytes_in,
        bytes_out: open.bytes_out,
    }
}

/// What an operator is told while another process is about to go on.
fn later() -> Error {
    Error::NotNow("an upgrade is under way: say it again when it is done".into())
}
