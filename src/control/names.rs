//! Backends whose address is a name: one for each address that it resolves to.
//!
//! A name is looked up by a task of its own; nothing else waits for it. An address that is new becomes a
//! backend like any other. One that the name has lost gets no new connections, and goes when its last
//! one has ended; if the name has it again before that, it is as it was.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::controller::Controller;
use super::event::{Kind, More, News};
use super::keeper::Node;
use super::pool::{Controlled, Place};
use super::timers::Timer;
use crate::config::model;
use crate::failover::{Cause, Id, Why};
use crate::health::{Event, SavedFound, SavedName, SavedPool, SavedService, Tick};
use crate::net::addr::{Address, Target};
use crate::net::resolve::{
    Bounds, Change, Found, Known, LookupError, Query, Resolver, Service, Watch,
};

/// A name that is looked up again and again.
#[derive(Debug)]
pub(super) struct Named {
    /// The backend, as the configuration calls it.
    backend: Arc<str>,
    written: Target,
    /// How it is looked up.
    how: model::Resolve,
    /// The number of who looks it up: answers of others before it count for nothing.
    serial: u64,
    known: Known,
    /// Whether the last look-up has failed: told once in a row.
    has_failed: bool,
    task: AbortHandle,
}

impl Named {
    fn is_of(&self, backend: &model::Backend) -> bool {
        *self.backend == *backend.name && self.written == backend.address
    }

    /// Whether it is looked up in this way already. How the system does it may have changed meanwhile.
    fn is_looked_up(&self, how: &model::Resolve) -> bool {
        self.how == *how && !how.servers.is_empty()
    }
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
    /// The number of who has looked it up.
    serial: u64,
    known: Known,
    change: Change,
}

/// What is known of names from before, by the backends as the configuration calls them.
pub(super) type Remembered = BTreeMap<String, Known>;

/// What the backends of one name are called, by their addresses as displayed.
type Called = HashMap<Arc<str>, Arc<str>>;

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

/// What was saved of the names of a pool, of those that are still the same.
pub(super) fn remembered(
    pool: &str,
    config: &model::Pool,
    saved: Option<&SavedPool>,
) -> Remembered {
    let Some(saved) = saved else { return Remembered::new() };
    let known = |backend: &model::Backend| {
        let name = saved.names.get(&backend.name)?;
        let is_it =
            backend.address.address().is_none() && name.target == backend.address.to_string();
        is_it.then(|| (backend.name.clone(), Known::of(name.found.iter().map(found))))
    };
    let remembered: Remembered = config.backends.iter().filter_map(known).collect();
    if !remembered.is_empty() {
        let names = remembered.len();
        info!(pool, names, "names have the addresses from before until they are looked up");
    }
    remembered
}

/// Where the backends of a pool are at start, as far as that is known from before.
pub(super) fn first_places<'a>(
    config: &'a model::Pool,
    remembered: &Remembered,
    saved: Option<&SavedPool>,
) -> Vec<Place<'a>> {
    let of_name = |backend: &'a model::Backend| {
        let known = remembered.get(&backend.name)?;
        let called = saved.map(|saved| called_before(&backend.name, saved)).unwrap_or_default();
        Some(places_of_name(backend, known, &called))
    };
    places(config, of_name)
}

/// What the backends of a name were called when they were saved.
fn called_before(name: &str, saved: &SavedPool) -> Called {
    let all = saved.backends.range::<str, _>((Bound::Included(name), Bound::Unbounded));
    let all = all.map_while(|(own, backend)| Some((own, own.strip_prefix(name)?, backend)));
    all.filter(|(_, rest, _)| rest.is_empty() || rest.starts_with('@'))
        .map(|(own, _, backend)| (backend.address.as_str().into(), own.as_str().into()))
        .collect()
}

/// In the order of the list; nothing of names of which nothing is known.
fn places<'a>(
    config: &'a model::Pool,
    of_name: impl Fn(&'a model::Backend) -> Option<Vec<Place<'a>>>,
) -> Vec<Place<'a>> {
    let of = |backend: &'a model::Backend| match Place::of(backend) {
        Some(place) => vec![place],
        None => of_name(backend).unwrap_or_default(),
    };
    config.backends.iter().flat_map(of).collect()
}

fn places_of_name<'a>(
    config: &'a model::Backend,
    known: &Known,
    called: &Called,
) -> Vec<Place<'a>> {
    let has_plain = called.values().any(|name| **name == *config.name);
    let is_single = known.found().count() == 1 && !has_plain;
    let place = |found: Found| {
        let address = Address::Tcp(found.address);
        let displayed = address.to_string();
        let name = called.get(&*displayed).cloned().unwrap_or_else(|| match is_single {
            true => config.name.as_str().into(),
            false => format!("{}@{displayed}", config.name).into(),
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
    known.found().map(place).collect()
}

impl Controlled {
    /// Where the backends of a configuration are, as far as that is known.
    pub(super) fn places<'a>(&self, config: &'a model::Pool) -> Vec<Place<'a>> {
        let names: HashMap<&str, &Named> = self.names.iter().map(|n| (&*n.backend, n)).collect();
        let mut called: HashMap<&str, Called> = HashMap::new();
        for node in &self.keeper.nodes {
            if let Some(origin) = self.origin(node.id) {
                let called = called.entry(origin).or_default();
                called.insert(Arc::clone(&node.address), Arc::clone(&node.name));
            }
        }
        let none = Called::new();
        places(config, |backend| {
            let named = names.get(&*backend.name).filter(|named| named.is_of(backend))?;
            let called = called.get(&*backend.name).unwrap_or(&none);
            Some(places_of_name(backend, &named.known, called))
        })
    }

    /// The name in the configuration that a backend is an address of.
    pub(super) fn origin(&self, id: Id) -> Option<&str> {
        self.backings.get(&id)?.origin.as_deref()
    }

    /// Those whose names have other addresses by now. While nothing is known of a name, nothing is lost:
    /// one that was written anew leaves what was there before until it is answered.
    fn lost(&self) -> HashSet<Id> {
        let addresses = |named: &Named| named.known.found().map(|found| found.address).collect();
        let names = self.names.iter().map(|named| (&*named.backend, addresses(named)));
        let names: HashMap<&str, HashSet<SocketAddr>> = names.collect();
        let is_lost = |node: &&Node| {
            let Some(backing) = self.backings.get(&node.id) else { return false };
            let known = backing.origin.as_deref().and_then(|origin| names.get(origin));
            let known = known.filter(|known| !known.is_empty());
            known.is_some_and(|known| match &backing.backend.address {
                Address::Tcp(address) => !known.contains(address),
                Address::Unix(_) => true,
            })
        };
        self.keeper.nodes.iter().filter(is_lost).map(|node| node.id).collect()
    }

    /// What is to be saved of its names.
    pub(super) fn saved_names(&self) -> BTreeMap<String, SavedName> {
        let known = self.names.iter().filter(|named| named.known.found().next().is_some());
        let saved = known.map(|named| {
            let found = named.known.found().map(saved_found).collect();
            (named.backend.to_string(), SavedName { target: named.written.to_string(), found })
        });
        saved.collect()
    }
}

impl Controller {
    /// Looks up the names of the pool of this index, in the way its configuration says, and nothing that
    /// is no longer wanted. What is looked up in that way already goes on; the rest begins with what is
    /// known of it, or `remembered` from before the process.
    pub(super) fn watch_names(
        &mut self,
        index: usize,
        resolver: Option<&Rc<Resolver>>,
        remembered: &Remembered,
    ) {
        let pool = &mut self.pools[index];
        let (config, number) = (pool.config.clone(), pool.number);
        let before = std::mem::take(&mut pool.names);
        let mut before: HashMap<_, _> =
            before.into_iter().map(|named| (Arc::clone(&named.backend), named)).collect();
        let mut names = Vec::new();
        for backend in &config.backends {
            let (Some(query), Some(resolver)) = (query(&backend.address), resolver) else {
                continue;
            };
            let same = before.remove(&*backend.name).filter(|named| named.is_of(backend));
            let named = match same {
                Some(named) if named.is_looked_up(&config.resolve) => named,
                same => {
                    let known = same.as_ref().map(|named| &named.known);
                    let known =
                        known.or(remembered.get(&backend.name)).cloned().unwrap_or_default();
                    self.watch(number, (backend, &config.resolve), (resolver, query), known)
                }
            };
            names.push(named);
        }
        self.pools[index].names = names;
    }

    fn watch(
        &mut self,
        pool: u32,
        (backend, how): (&model::Backend, &model::Resolve),
        (resolver, query): (&Rc<Resolver>, Query),
        known: Known,
    ) -> Named {
        self.last_watch += 1;
        let (serial, to) = (self.last_watch, self.resolved.clone());
        let bounds = Bounds { min: how.min_interval, max: how.max_interval };
        let mut watch = Watch::new(Rc::clone(resolver), query, bounds, known.clone());
        let task = tokio::task::spawn_local(async move {
            loop {
                let change = watch.next().await;
                let resolved = Resolved { pool, serial, known: watch.known().clone(), change };
                if to.send(resolved).is_err() {
                    break;
                }
            }
        });
        Named {
            backend: backend.name.as_str().into(),
            written: backend.address.clone(),
            how: how.clone(),
            serial,
            known,
            has_failed: false,
            task: task.abort_handle(),
        }
    }

    /// A name was looked up.
    pub(super) fn name_resolved(&mut self, resolved: Resolved) {
        let Resolved { pool: number, serial, known, change } = resolved;
        let Some(index) = self.pools.iter().position(|pool| pool.number == number) else { return };
        let pool = &mut self.pools[index];
        let name = Arc::clone(pool.name());
        let Some(named) = pool.names.iter_mut().find(|named| named.serial == serial) else {
            return;
        };
        if let Some(error) = &change.error
            && !named.has_failed
        {
            tell_failure(&name, named, error);
        }
        named.has_failed = change.error.is_some();
        let before = std::mem::replace(&mut named.known, known);
        if before.found().eq(named.known.found()) {
            return;
        }
        let addresses =
            |known: &Known| known.found().map(|f| f.address).collect::<BTreeSet<SocketAddr>>();
        let (was, is) = (addresses(&before), addresses(&named.known));
        let news: Vec<SocketAddr> = is.difference(&was).copied().collect();
        let words = |address: &SocketAddr| address.to_string().into();
        let added: Vec<Arc<str>> = news.iter().map(words).collect();
        let removed: Vec<Arc<str>> = was.difference(&is).map(words).collect();
        let evidence = format!("{} resolves to {} addresses", named.written, is.len());
        let backend = Arc::clone(&named.backend);
        self.tell_loops(&name, &news);
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

    /// Warns of addresses at which a listener would forward to itself. What a name stands for is not
    /// known when a configuration is checked, and may change at any time.
    fn tell_loops(&self, pool: &str, news: &[SocketAddr]) {
        let config = self.config.load();
        for (listener, bound) in self.host.addresses() {
            let leads = |listener: &model::Listener| listener.routes.iter().any(|r| r.pool == pool);
            if !config.listeners.get(&listener).is_some_and(leads) {
                continue;
            }
            for address in news.iter().filter(|address| reaches(**address, &bound)) {
                warn!(
                    %pool, %listener, %address,
                    "a name resolves to a listener that leads to it: connections go round"
                );
            }
        }
    }

    /// Puts the backends of the pool in order again after an address came or went.
    fn place_anew(&mut self, index: usize) {
        let at = self.now();
        let (pool, config) =
            (Arc::clone(&self.pools[index].pool), self.pools[index].config.clone());
        let _ = self.renew_nodes(index, &pool, &config);
        let known = &mut self.pools[index];
        let lost = known.lost();
        let named: Vec<Id> = {
            let nodes = known.keeper.nodes.iter().map(|node| node.id);
            nodes.filter(|id| known.origin(*id).is_some()).collect()
        };
        // New ones first, with all that are new: one that comes back is checked by itself.
        self.begin_checks();
        let known = &mut self.pools[index];
        for id in named {
            let _ = known.keeper.feed(id, Event::Resolved(!lost.contains(&id)), at);
            let due = known.keeper.node(id).and_then(|node| node.due);
            due.into_iter().for_each(|due| self.timers.set(due.at, Timer::Check(id)));
        }
        let why = Why::new(Cause::Resolve, "the name resolves to other addresses");
        known.keeper.refresh(&why, false, at);
        known.is_dirty = true;
        if !lost.is_empty() {
            self.purge_later(index);
        }
        self.claim();
        self.unsaved();
    }

    /// Forgets the addresses that a name has lost, and the backends that are configured no more, as far
    /// as nobody is connected to them any more.
    pub(super) fn purge(&mut self, number: u32) {
        let at = self.now();
        let Some(index) = self.pools.iter().position(|pool| pool.number == number) else { return };
        let pool = &mut self.pools[index];
        pool.purge_parted(at);
        let lost = pool.lost();
        let over: HashSet<Id> = lost.iter().copied().filter(|id| pool.open(*id) == 0).collect();
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
    let known = named.known.found().count();
    let (backend, name) = (&named.backend, &named.written);
    if known == 0 {
        warn!(%pool, %backend, %name, %error, "a name does not resolve yet: it is looked up again");
    } else {
        warn!(%pool, %backend, %name, %error, known, "a name cannot be looked up: what is known stays");
    }
}

/// Whether who connects to `to` comes to what is bound at `bound`, as far as the two tell: other
/// addresses of this host are not known.
fn reaches(to: SocketAddr, bound: &Address) -> bool {
    let Address::Tcp(at) = bound else { return false };
    let (ip, own) = (to.ip().to_canonical(), at.ip());
    let is_every = own.is_unspecified() && own.is_ipv4() == ip.is_ipv4();
    to.port() == at.port() && (ip == own || (is_every && ip.is_loopback()))
}

fn query(target: &Target) -> Option<Query> {
    match target {
        Target::Address(_) => None,
        Target::Host { name, port } => Some(Query::Host(name.clone(), *port)),
        Target::Service(name) => Some(Query::Service(name.clone())),
    }
}

fn found(saved: &SavedFound) -> Found {
    let service = |s: SavedService| Service { priority: s.priority, weight: s.weight };
    Found { address: saved.address, service: saved.service.map(service) }
}

fn saved_found(found: Found) -> SavedFound {
    let service = |s: Service| SavedService { priority: s.priority, weight: s.weight };
    SavedFound { address: found.address, service: found.service.map(service) }
}

/// How long after the start what was saved is believed of addresses that are found only then.
pub(super) const LATE: Tick = 60_000;

#[cfg(test)]
mod tests;
