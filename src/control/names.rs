//! Backends whose address is a name: one for each address that it resolves to.
//!
//! A name is looked up by a task of its own; nothing else waits for it. An address that is new becomes a
//! backend like any other. One that the name has lost gets no new connections, and goes when its last
//! one has ended; if the name has it again before that, it is as it was.

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tracing::warn;

use super::controller::Controller;
use super::event::{Kind, More, News};
use super::pool::{Controlled, Place};
use crate::config::model;
use crate::failover::{Cause, Id, Why};
use crate::health::{Event, Tick};
use crate::net::addr::{Address, Target};
use crate::net::resolve::{Bounds, Change, Found, Known, LookupError, Query, Resolver, Watch};

/// A name that is looked up again and again.
#[derive(Debug)]
pub(super) struct Named {
    /// The backend, as the configuration calls it.
    backend: Arc<str>,
    written: Target,
    found: Vec<Found>,
    /// Whether the last look-up has failed: told once in a row.
    has_failed: bool,
    task: AbortHandle,
}

impl Drop for Named {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a look-up has brought.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The number of the pool.
    pool: u32,
    backend: Arc<str>,
    found: Vec<Found>,
    change: Change,
}

/// What asks for the names of a pool; `None` where it has none.
///
/// # Errors
///
/// Where the system's servers are not known.
pub(super) fn resolver(config: &model::Pool) -> Result<Option<Rc<Resolver>>, String> {
    let has_names = config.backends.iter().any(|backend| backend.address.address().is_none());
    if !has_names {
        return Ok(None);
    }
    let resolve = &config.resolve;
    Resolver::new(&resolve.servers, resolve.timeout).map(|resolver| Some(Rc::new(resolver)))
}

impl Controlled {
    /// Where the backends of a configuration are, as far as that is known.
    pub(super) fn places<'a>(&self, config: &'a model::Pool) -> Vec<Place<'a>> {
        let mut places = Vec::new();
        for backend in &config.backends {
            match Place::of(backend) {
                Some(place) => places.push(place),
                None => places.extend(self.places_of_name(backend)),
            }
        }
        places
    }

    fn places_of_name<'a>(&self, config: &'a model::Backend) -> Vec<Place<'a>> {
        let is_it = |n: &&Named| *n.backend == *config.name && n.written == config.address;
        let Some(named) = self.names.iter().find(is_it) else { return Vec::new() };
        let known = |address: &str| {
            let nodes = self.keeper.nodes.iter();
            let own = nodes.filter(|node| self.origin(node.id) == Some(&config.name));
            own.clone().find(|node| *node.address == *address).map(|node| Arc::clone(&node.name))
        };
        let has_plain = self.keeper.nodes.iter().any(|node| *node.name == *config.name);
        let is_single = named.found.len() == 1 && !has_plain;
        let place = |found: &Found| {
            let address = Address::Tcp(found.address);
            let name = known(&address.to_string()).unwrap_or_else(|| match is_single {
                true => config.name.as_str().into(),
                false => format!("{}@{address}", config.name).into(),
            });
            let service = found.service.map(|s| (u32::from(s.priority), u32::from(s.weight)));
            let (priority, weight) = service.unwrap_or((0, 1));
            Place {
                config,
                name,
                address,
                priority: config.priority.saturating_add(priority),
                weight: config.weight.saturating_mul(weight.max(1)).min(model::Backend::MAX_WEIGHT),
            }
        };
        named.found.iter().map(place).collect()
    }

    /// The name in the configuration that a backend is an address of.
    pub(super) fn origin(&self, id: Id) -> Option<&str> {
        self.backings.get(&id)?.origin.as_deref()
    }
}

impl Controller {
    /// Begins to look up the names of the pool of this index that are not looked up yet, and ends what
    /// is no longer wanted.
    pub(super) fn watch_names(&mut self, index: usize, resolver: Option<&Rc<Resolver>>) {
        let pool = &mut self.pools[index];
        let config = &pool.config;
        let is_wanted = |named: &Named| {
            let mut backends = config.backends.iter();
            backends.any(|b| *b.name == *named.backend && b.address == named.written)
        };
        let mut names: Vec<Named> = std::mem::take(&mut pool.names);
        names.retain(is_wanted);
        let bounds = Bounds { min: config.resolve.min_interval, max: config.resolve.max_interval };
        for backend in &config.backends {
            let (Some(query), Some(resolver)) = (query(&backend.address), resolver) else {
                continue;
            };
            if names.iter().any(|named| *named.backend == *backend.name) {
                continue;
            }
            let mut watch = Watch::new(Rc::clone(resolver), query, bounds, Known::default());
            let (number, name, to) = (pool.number, backend.name.as_str(), self.resolved.clone());
            let name: Arc<str> = name.into();
            let backend_name = Arc::clone(&name);
            let task = tokio::task::spawn_local(async move {
                loop {
                    let change = watch.next().await;
                    let (backend, found) = (Arc::clone(&backend_name), watch.known().found());
                    let resolved =
                        Resolved { pool: number, backend, found: found.collect(), change };
                    if to.send(resolved).is_err() {
                        break;
                    }
                }
            });
            names.push(Named {
                backend: name,
                written: backend.address.clone(),
                found: Vec::new(),
                has_failed: false,
                task: task.abort_handle(),
            });
        }
        pool.names = names;
    }

    /// The names are looked up anew, by another resolver or within other bounds.
    pub(super) fn watch_names_anew(&mut self, index: usize, resolver: Option<&Rc<Resolver>>) {
        let before = std::mem::take(&mut self.pools[index].names);
        self.watch_names(index, resolver);
        for named in &mut self.pools[index].names {
            let same =
                before.iter().find(|b| b.backend == named.backend && b.written == named.written);
            named.found = same.map(|known| known.found.clone()).unwrap_or_default();
        }
    }

    /// A name was looked up.
    pub(super) fn name_resolved(&mut self, resolved: Resolved) {
        let Resolved { pool: number, backend, found, change } = resolved;
        let Some(index) = self.pools.iter().position(|pool| pool.number == number) else { return };
        let pool = &mut self.pools[index];
        let name = Arc::clone(pool.name());
        let Some(named) = pool.names.iter_mut().find(|named| named.backend == backend) else {
            return;
        };
        if let Some(error) = &change.error
            && !named.has_failed
        {
            tell_failure(&name, named, error);
        }
        named.has_failed = change.error.is_some();
        if named.found == found {
            return;
        }
        let before = std::mem::replace(&mut named.found, found);
        let is_news = |found: &&Found| !before.iter().any(|b| b.address == found.address);
        let words = |found: &Found| found.address.to_string().into();
        let added: Vec<Arc<str>> = named.found.iter().filter(is_news).map(words).collect();
        let is_gone = |b: &&Found| !named.found.iter().any(|found| found.address == b.address);
        let removed: Vec<Arc<str>> = before.iter().filter(is_gone).map(words).collect();
        let evidence = format!("{} resolves to {} addresses", named.written, named.found.len());
        self.place_anew(index);
        if !added.is_empty() || !removed.is_empty() {
            self.tell(News {
                kind: Kind::Resolved,
                pool: Some(name),
                backend: Some(backend),
                cause: "resolve".into(),
                evidence: evidence.into(),
                more: More::Resolved { added, removed },
            });
        }
    }

    /// Puts the backends of the pool in order again after an address came or went.
    fn place_anew(&mut self, index: usize) {
        let at = self.now();
        let (pool, config) =
            (Arc::clone(&self.pools[index].pool), self.pools[index].config.clone());
        let _ = self.renew_nodes(index, &pool, &config);
        let known = &mut self.pools[index];
        let places = known.places(&config);
        let is_here = |address: &str| places.iter().any(|p| p.address.to_string() == *address);
        let named: Vec<(Id, bool)> = {
            let nodes = known.keeper.nodes.iter().filter(|node| known.origin(node.id).is_some());
            nodes.map(|node| (node.id, is_here(&node.address))).collect()
        };
        for (id, is_resolved) in &named {
            let _ = known.keeper.feed(*id, Event::Resolved(*is_resolved), at);
        }
        let why = Why::new(Cause::Resolve, "the name resolves to other addresses");
        known.keeper.refresh(&why, false, at);
        known.is_dirty = true;
        if named.iter().any(|(_, is_resolved)| !is_resolved) {
            self.purge_later(index);
        }
        self.begin_checks();
        self.unsaved();
    }

    /// Forgets the addresses that a name has lost, and the backends that are configured no more, as far
    /// as nobody is connected to them any more.
    pub(super) fn purge(&mut self, number: u32) {
        let at = self.now();
        let Some(index) = self.pools.iter().position(|pool| pool.number == number) else { return };
        let pool = &mut self.pools[index];
        pool.purge_parted(at);
        let config = pool.config.clone();
        let places = pool.places(&config);
        let is_lost = |id: Id, address: &str| {
            pool.origin(id).is_some() && !places.iter().any(|p| p.address.to_string() == *address)
        };
        let lost: Vec<Id> = {
            let nodes = pool.keeper.nodes.iter();
            nodes.filter(|node| is_lost(node.id, &node.address)).map(|node| node.id).collect()
        };
        let over: Vec<Id> = lost.iter().copied().filter(|id| pool.open(*id) == 0).collect();
        if over.len() < lost.len() || !pool.parted.is_empty() {
            self.purge_later(index);
        }
        if !over.is_empty() {
            let pool = &mut self.pools[index];
            pool.keeper.nodes.retain(|node| !over.contains(&node.id));
            let why = Why::new(Cause::Resolve, "the name no longer resolves to it");
            pool.keeper.refresh(&why, false, at);
            pool.is_dirty = true;
        }
        self.forget(index);
    }
}

fn tell_failure(pool: &str, named: &Named, error: &LookupError) {
    let known = named.found.len();
    let (backend, name) = (&named.backend, &named.written);
    if known == 0 {
        warn!(%pool, %backend, %name, %error, "a name does not resolve yet: it is looked up again");
    } else {
        warn!(%pool, %backend, %name, %error, known, "a name cannot be looked up: what is known stays");
    }
}

fn query(target: &Target) -> Option<Query> {
    match target {
        Target::Address(_) => None,
        Target::Host { name, port } => Some(Query::Host(name.clone(), *port)),
        Target::Service(name) => Some(Query::Service(name.clone())),
    }
}

/// How long after the start what was saved is believed of addresses that are found only then.
pub(super) const LATE: Tick = 60_000;
