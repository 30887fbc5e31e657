//! Another configuration in one straight line: read, check, compare, prepare, commit.
//!
//! All that can fail stands before the commit, and nothing after it can: a reload that fails leaves no
//! trace but an event. Reading and checking happen on a thread for such things; preparing and
//! committing on the control thread, one reload at a time. Requests that come meanwhile are answered
//! by one more reload: the file may be another one again.

use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tracing::warn;

use super::controller::{ControlError, Controller};
use super::event::{Kind, More, News};
use super::handle::{Error, Reply};
use super::keeper::Node;
use super::pool::{self, Backing, Controlled};
use super::timers::Timer;
use crate::balance::{Entry, Registry};
use crate::config::model::{self, Config};
use crate::config::{self, Changes, Problem};
use crate::failover::{Cause, Failover, Id, Known, Levels, View, Why};
use crate::health::{Event, Health, first, ranks};
use crate::probe::Probe;
use crate::state::{Backend, Pool, Snapshot};

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file; `None` where there is none to read again.
    pub path: Option<PathBuf>,
    /// The strategies.
    pub registry: Registry,
}

/// Why a configuration could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It has problems.
    #[error("{} problems", .0.len())]
    Problems(Vec<Problem>),
    /// There is no file.
    #[error("this instance was started without a file: there is nothing to read again")]
    NoFile,
}

impl Source {
    /// Reads and checks the file. Blocks, and takes time linear in its size.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub fn load(&self) -> Result<Config, LoadError> {
        let path = self.path.clone().ok_or(LoadError::NoFile)?;
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(config::MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return Err(LoadError::Unreadable { path, error });
        }
        let env = |name: &str| std::env::var(name).ok();
        config::load_bytes(&bytes, &env, &self.registry).map_err(LoadError::Problems)
    }
}

/// What the process around the control plane does at a reload: listening sockets, limits, the log.
pub trait Host: Send {
    /// Gets everything ready that can fail; nothing is in force yet.
    ///
    /// # Errors
    ///
    /// Why it cannot be, in words. What was got ready is given back by [`abandon`](Self::abandon).
    fn prepare(&mut self, config: &Config, snapshot: &Snapshot) -> Result<(), HostError>;

    /// Puts in force what was prepared.
    fn commit(&mut self);

    /// Gives back what was prepared.
    fn abandon(&mut self);
}

/// Why the process cannot do what a configuration asks for, in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// A configuration that was read again.
pub(super) struct Loaded(Result<Config, LoadError>);

/// Reloads under way.
#[derive(Default)]
pub(super) struct Reloads {
    /// Who waits for the one under way.
    waiting: Vec<Reply<Changes>>,
    /// Who waits for the one after it.
    queued: Vec<Reply<Changes>>,
    is_under_way: bool,
}

/// What was made of a pool's configuration before it is in force.
type Made = (Entry, Option<Rc<dyn Probe>>);

impl Controller {
    /// Somebody wants the configuration read again.
    pub(super) fn want_reload(&mut self, reply: Reply<Changes>) {
        if self.reloads.is_under_way {
            self.reloads.queued.push(reply);
        } else {
            self.reloads.waiting.push(reply);
            self.read_again();
        }
    }

    fn read_again(&mut self) {
        self.reloads.is_under_way = true;
        let (source, loaded) = (self.source.clone(), self.loaded.clone());
        tokio::task::spawn_local(async move {
            let read = tokio::task::spawn_blocking(move || source.load()).await;
            let failed = |_| Err(LoadError::NoFile);
            // The controller may have ended.
            let _ = loaded.send(Loaded(read.unwrap_or_else(failed)));
        });
    }

    /// The configuration was read again.
    pub(super) async fn reload(&mut self, Loaded(read): Loaded) {
        let done = match read {
            Ok(config) => self.put_in_force(config).await,
            Err(LoadError::Problems(problems)) => Err(Error::Problems(problems)),
            Err(error) => Err(Error::NotNow(error.to_string())),
        };
        match &done {
            Ok(changes) => self.tell_reloaded(changes),
            Err(error) => self.tell_refused(error),
        }
        for reply in std::mem::take(&mut self.reloads.waiting) {
            let _ = reply.send(done.clone());
        }
        self.reloads.is_under_way = false;
        self.reloads.waiting = std::mem::take(&mut self.reloads.queued);
        if !self.reloads.waiting.is_empty() {
            self.read_again();
        }
    }

    /// Compares, prepares, commits.
    async fn put_in_force(&mut self, config: Config) -> Result<Changes, Error> {
        let before = self.config.load_full();
        let changes = Changes::between(&before, &config);
        let snapshot = Snapshot::new(&config, Some(&self.snapshot))
            .map_err(|name| Error::NotNow(format!("no pool is called {name}")))?;
        let made =
            self.make(&config, &snapshot).map_err(|error| Error::NotNow(error.to_string()))?;
        if let Err(error) = self.host.prepare(&config, &snapshot) {
            self.host.abandon();
            return Err(Error::NotNow(error.to_string()));
        }
        self.commit_pools(&config, &snapshot, made).await;
        snapshot.take_effect();
        self.host.commit();
        if config.state_file != before.state_file {
            self.keep_state_in(config.state_file.clone());
        }
        self.config.store(Arc::new(config));
        self.snapshot = Arc::new(snapshot);
        Ok(changes)
    }

    /// What can fail about pools.
    fn make(&self, config: &Config, snapshot: &Snapshot) -> Result<Vec<Made>, ControlError> {
        let made = snapshot.pools.iter().filter_map(|pool| {
            let config = config.pools.get(&*pool.name)?;
            let known = self.pools.iter().find(|known| known.name() == &pool.name);
            let same = known.filter(|known| probe_of(&known.config) == probe_of(config));
            let made = self.entry(config).and_then(|entry| match same {
                Some(known) => Ok((entry, known.probe.clone())),
                None => Ok((entry, self.probe(pool, config)?)),
            });
            Some(made)
        });
        made.collect()
    }

    async fn commit_pools(&mut self, config: &Config, snapshot: &Snapshot, made: Vec<Made>) {
        let mut before = std::mem::take(&mut self.pools);
        for (pool, made) in snapshot.pools.iter().zip(made) {
            let Some(config) = config.pools.get(&*pool.name) else { continue };
            match before.iter().position(|known| known.name() == &pool.name) {
                Some(index) => {
                    let known = before.swap_remove(index);
                    self.pools.push(known);
                    self.renew_pool((pool, config), made);
                }
                None => self.add_pool((pool, config), made, None),
            }
        }
        for gone in before {
            gone.backings.keys().for_each(|id| _ = self.homes.remove(id));
        }
        self.settle_all().await;
        // Only now: what has gone is named in what followed.
        for pool in &mut self.pools {
            let nodes = &pool.keeper.nodes;
            let is_gone = |id: &Id| !nodes.iter().any(|node| node.id == *id);
            let gone: Vec<Id> = pool.backings.keys().copied().filter(is_gone).collect();
            for id in gone {
                pool.backings.remove(&id);
                pool.repairs.forget(id);
                pool.probed.remove(&id);
                self.homes.remove(&id);
            }
        }
        self.unsaved();
    }

    /// Puts another configuration of the last pool in force.
    fn renew_pool(&mut self, (pool, config): (&Arc<Pool>, &model::Pool), made: Made) {
        let at = self.now();
        let Some(index) = self.pools.len().checked_sub(1) else { return };
        let fresh = self.renew_nodes(index, pool, config);
        let known = &mut self.pools[index];
        let is_new_check = probe_of(&known.config) != probe_of(config);
        let was_standby = known.keeper.settings.is_standby;
        let is_new_strategy = known.config.strategy != config.strategy;
        known.keeper.settings = pool::settings(config);
        (known.entry, known.probe) = made;
        known.pool = Arc::clone(pool);
        known.config = config.clone();
        known.is_dirty = true;
        if is_new_strategy {
            known.forget_published();
        }
        for (id, is_known) in fresh {
            if !is_known {
                continue;
            }
            let _ = known.keeper.feed(id, Event::Configured { is_new_check }, at);
            let told = known.keeper.node(id).map(|n| (n.operator.value(), n.health.operator()));
            if let Some((wanted, _)) = told.filter(|(wanted, is)| wanted != is) {
                let _ = known.keeper.feed(id, Event::Operator(wanted), at);
            }
        }
        known.keeper.reschedule(at);
        if was_standby != known.keeper.settings.is_standby {
            known.change_of_kind(at);
        }
        known.keeper.refresh(&Why::new(Cause::Configuration, "another configuration"), false, at);
        for node in &known.keeper.nodes {
            node.due.into_iter().for_each(|due| self.timers.set(due.at, Timer::Check(node.id)));
        }
    }

    /// Puts the nodes in order that a configuration has; each with whether it was there before.
    fn renew_nodes(
        &mut self,
        index: usize,
        pool: &Arc<Pool>,
        config: &model::Pool,
    ) -> Vec<(Id, bool)> {
        let at = self.now();
        let number = self.pools[index].number;
        let mut before = std::mem::take(&mut self.pools[index].keeper.nodes);
        let (mut nodes, mut fresh) = (Vec::new(), Vec::new());
        for backend in &config.backends {
            let target = pool::target(pool, config.health_check.as_ref(), backend, self.ports);
            let address = backend.address.to_string();
            let is_it = |node: &Node| *node.name == *backend.name && *node.address == *address;
            let known = before.iter().position(is_it).map(|index| before.swap_remove(index));
            let node = match known {
                Some(mut node) => {
                    let file = pool::node(node.id, backend);
                    node.priority = file.priority;
                    node.operator.read_again(file.operator.value());
                    node.weight.read_again(file.weight.value());
                    if let Some(backing) = self.pools[index].backings.get_mut(&node.id) {
                        backing.renew(backend, target);
                    }
                    fresh.push((node.id, true));
                    node
                }
                None => {
                    let id = self.next_id();
                    self.homes.insert(id, number);
                    let live = Backend::new(id, &backend.name, backend.address.clone());
                    let backing = Backing::new(Arc::new(live), backend, target);
                    self.pools[index].backings.insert(id, backing);
                    fresh.push((id, false));
                    pool::node(id, backend)
                }
            };
            nodes.push(node);
        }
        let policy = pool::settings(config).health;
        let new = |id: &Id| fresh.iter().any(|(other, is_known)| other == id && !is_known);
        let added: Vec<usize> = (0..nodes.len()).filter(|index| new(&nodes[*index].id)).collect();
        let names = added.iter().map(|index| (&*pool.name, &*nodes[*index].name));
        let ranks = ranks(names.collect::<Vec<_>>().into_iter());
        for (index, rank) in added.iter().zip(ranks) {
            let node = &mut nodes[*index];
            node.health = Health::new(node.operator.value(), at, &policy);
            let checks = policy.checks.filter(|_| node.health.is_checked());
            node.due = checks.map(|checks| first(rank, added.len(), at, &checks));
        }
        self.pools[index].keeper.nodes = nodes;
        fresh
    }

    fn tell_reloaded(&self, changes: &Changes) {
        let nothing = if changes.is_empty() { "nothing has changed" } else { "in force" };
        self.tell(News {
            kind: Kind::Reloaded,
            pool: None,
            backend: None,
            cause: "operator".into(),
            evidence: nothing.into(),
            more: More::Reloaded { changed: changes.clone().into() },
        });
    }

    fn tell_refused(&self, error: &Error) {
        let problems = match error {
            Error::Problems(problems) => problems.clone(),
            _ => Vec::new(),
        };
        problems.iter().for_each(|problem| warn!("{problem}"));
        self.tell(News {
            kind: Kind::ReloadFailed,
            pool: None,
            backend: None,
            cause: "operator".into(),
            evidence: error.to_string().into(),
            more: More::Refused { problems },
        });
    }
}

/// What of a configuration makes a check another one.
fn probe_of(pool: &model::Pool) -> Option<(&model::Probe, Option<u16>, &[std::net::IpAddr])> {
    let check = pool.health_check.as_ref()?;
    Some((&check.probe, check.port, &pool.connect.source))
}

impl Controlled {
    /// The pool has become a hot standby, or is one no more.
    fn change_of_kind(&mut self, at: crate::health::Tick) {
        self.keeper.levels = Levels::default();
        self.demotions.clear();
        self.keeper.role = self.keeper.settings.is_standby.then(|| {
            let members = self.keeper.standbys(at);
            let view = View { members: &members, policy: &self.keeper.settings.failover, at };
            Failover::start(Known::default(), &view)
        });
        self.reign += 1;
    }
}
