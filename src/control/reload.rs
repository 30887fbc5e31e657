//! Another configuration in one straight line: read, check, compare, prepare, commit.
//!
//! All that can fail stands before the commit, and nothing after it can: a reload that fails leaves no
//! trace but an event. Reading and checking happen on a thread for such things; preparing and
//! committing on the control thread, one reload at a time. Requests that come meanwhile are answered
//! by one more reload: the file may be another one again.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;

use super::controller::{ControlError, Controller, Made, unix_ms, unix_seconds};
use super::event::{Kind, More, News};
use super::files;
use super::handle::{Error, Heritage, Reply};
use super::keeper::Node;
use super::names::{LATE, Remembered};
use super::pool::{self, Controlled};
use crate::balance::Registry;
use crate::config::model::{self, Config};
use crate::config::{self, Changes, Problem};
use crate::failover::{Cause, Failover, Id, Known, Levels, View, Why};
use crate::health::{Event, Health, Policy, Tick};
use crate::net::addr::Address;
use crate::state::{Pool, Snapshot};

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
    #[error("{}", config::render(&file.display().to_string(), problems).trim_end())]
    Problems {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
    /// There is no file.
    #[error("this instance was started without a file: there is nothing to read again")]
    NoFile,
}

impl Source {
    /// Reads and checks the file, and looks at what it names on this host. Blocks, and takes time
    /// linear in its size.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub fn load(&self) -> Result<config::Loaded, LoadError> {
        let path = self.path.clone().ok_or(LoadError::NoFile)?;
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(config::MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return Err(LoadError::Unreadable { path, error });
        }
        let env = |name: &str| std::env::var(name).ok();
        let wrong = |problems| LoadError::Problems { file: path.clone(), problems };
        let loaded = config::load_with_places(&bytes, &env, &self.registry).map_err(wrong)?;
        let problems = files::problems(&loaded);
        if problems.is_empty() { Ok(loaded) } else { Err(wrong(problems)) }
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

    /// Descriptors that checks may have open at once, as the configuration in force has it.
    fn descriptors_of_checks(&self) -> u32 {
        u32::MAX
    }

    /// Where each listener is bound, by its name; ports chosen by the kernel filled in.
    fn addresses(&self) -> Vec<(String, Address)>;
}

/// Why the process cannot do what a configuration asks for, in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// A configuration that was read again.
pub(super) struct Loaded(Result<config::Loaded, LoadError>);

/// Reloads under way.
#[derive(Default)]
pub(super) struct Reloads {
    /// Who waits for the one under way.
    waiting: Vec<Reply<Changes>>,
    /// Who waits for the one after it.
    queued: Vec<Reply<Changes>>,
    /// Who waits for the last of them, to go on from there.
    heir: Option<Reply<Heritage>>,
    is_under_way: bool,
}

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
            Ok(loaded) => self.put_in_force(loaded.config).await,
            Err(LoadError::Problems { file, problems }) => {
                Err(Error::Problems { file: file.display().to_string().into(), problems })
            }
            Err(error) => Err(Error::NotNow(error.to_string())),
        };
        match &done {
            Ok(changes) => {
                self.counters.reloads.add();
                self.counters.configured(unix_seconds());
                self.tell_reloaded(changes);
            }
            Err(error) => {
                self.counters.failed_reloads.add();
                self.tell_refused(error);
            }
        }
        for reply in std::mem::take(&mut self.reloads.waiting) {
            let _ = reply.send(done.clone());
        }
        self.reloads.is_under_way = false;
        self.reloads.waiting = std::mem::take(&mut self.reloads.queued);
        if !self.reloads.waiting.is_empty() {
            self.read_again();
        } else if let Some(heir) = self.reloads.heir.take() {
            self.hand_over(heir);
        }
    }

    /// Another process is to go on: at once, or after the reloads that are under way.
    pub(super) fn want_hand_over(&mut self, reply: Reply<Heritage>) {
        self.is_handing_over = true;
        if self.reloads.is_under_way {
            self.reloads.heir = Some(reply);
        } else {
            self.hand_over(reply);
        }
    }

    fn hand_over(&self, reply: Reply<Heritage>) {
        let _ = reply.send(Ok((self.saved(), self.measures())));
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
        self.checks.allow(self.host.descriptors_of_checks());
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
            let made = self.made(pool, config).map(|made| match same {
                Some(known) => Made { probe: known.probe.clone(), ..made },
                None => made,
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
        self.reschedule();
        self.begin_checks();
        for gone in before {
            gone.backings.keys().for_each(|id| _ = self.homes.remove(id));
        }
        self.settle_all().await;
        // Only now: what has gone is named in what followed.
        (0..self.pools.len()).for_each(|index| self.forget(index));
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
        let checks_before = known.keeper.settings.health.checks;
        let is_new_strategy = known.config.strategy != config.strategy;
        known.keeper.settings = pool::settings(config);
        let checks_now = known.keeper.settings.health.checks;
        known.is_retimed = checks_before.is_some() && checks_now != checks_before;
        (known.entry, known.probe) = (made.entry, made.probe);
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
        if checks_before.is_none() {
            // They begin with those of all pools.
            known.keeper.nodes.iter_mut().for_each(|node| node.due = None);
        }
        if was_standby != known.keeper.settings.is_standby {
            known.change_of_kind(at);
        }
        known.keeper.refresh(&Why::new(Cause::Configuration, "another configuration"), false, at);
        self.watch_names(index, made.resolver.as_ref(), &Remembered::new());
    }

    /// Puts the nodes in order that a configuration has; each with whether it was there before.
    pub(super) fn renew_nodes(
        &mut self,
        index: usize,
        pool: &Arc<Pool>,
        config: &model::Pool,
    ) -> Vec<(Id, bool)> {
        let at = self.now();
        let places = self.pools[index].places(config);
        let before = std::mem::take(&mut self.pools[index].keeper.nodes);
        let key = |node: &Node| (Arc::clone(&node.name), Arc::clone(&node.address));
        let found: HashMap<_, _> = before.iter().enumerate().map(|(n, b)| (key(b), n)).collect();
        let mut before: Vec<Option<Node>> = before.into_iter().map(Some).collect();
        let (mut nodes, mut fresh) = (Vec::new(), Vec::new());
        for place in places {
            let key = (Arc::clone(&place.name), place.address.to_string().into());
            let known = found.get(&key).and_then(|number| before[*number].take());
            let node = match known {
                Some(mut node) => {
                    let file = pool::node(node.id, &place);
                    node.priority = file.priority;
                    node.operator.read_again(file.operator.value());
                    node.weight.read_again(file.weight.value());
                    let target =
                        pool::target(pool, config.health_check.as_ref(), &place, self.ports);
                    if let Some(backing) = self.pools[index].backings.get_mut(&node.id) {
                        backing.renew(&place, target);
                    }
                    fresh.push((node.id, true));
                    node
                }
                None => {
                    let node = self.come(index, pool, (config, &place));
                    fresh.push((node.id, false));
                    node
                }
            };
            nodes.push(node);
        }
        // What a name has lost stays until its last connection has ended.
        let is_name = |origin: &str| {
            let mut backends = config.backends.iter();
            backends.any(|b| b.name == *origin && b.address.address().is_none())
        };
        let (lost, gone): (Vec<Node>, Vec<Node>) = before
            .into_iter()
            .flatten()
            .partition(|node| self.pools[index].origin(node.id).is_some_and(is_name));
        self.part(index, gone);
        fresh.extend(lost.iter().map(|node| (node.id, true)));
        nodes.extend(lost);
        let policy = pool::settings(config).health;
        let new: HashSet<Id> =
            fresh.iter().filter(|(_, is_known)| !is_known).map(|(id, _)| *id).collect();
        for node in nodes.iter_mut().filter(|node| new.contains(&node.id)) {
            node.health = self.first_health(pool, node, at, &policy).after(&node.health);
        }
        self.pools[index].keeper.nodes = nodes;
        fresh
    }

    /// What is known of a node that has just come: something only of an address that its name has had
    /// before a restart.
    fn first_health(&self, pool: &Pool, node: &mut Node, at: Tick, policy: &Policy) -> Health {
        let saved = self.restored.as_ref().filter(|_| at < LATE);
        let known =
            saved.and_then(|s| Some((s, s.backend(&pool.name, &node.name, &node.address)?)));
        match known {
            Some((saved, known)) => {
                let restored = known.restored(saved.saved_at, (at, unix_ms()));
                Health::restored(&restored, node.restore(known), at, policy)
            }
            None => Health::new(node.operator.value(), at, policy),
        }
    }

    fn tell_reloaded(&self, changes: &Changes) {
        let nothing = if changes.is_empty() { "nothing has changed" } else { "in force" };
        for key in &changes.needs_restart {
            warn!("{key} has changed: that needs a restart");
        }
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
        let (file, problems) = match error {
            Error::Problems { file, problems } => (Some(Arc::clone(file)), problems.clone()),
            _ => (None, Vec::new()),
        };
        for problem in &problems {
            warn!("{}", problem.in_file(file.as_deref().unwrap_or_default()));
        }
        self.tell(News {
            kind: Kind::ReloadFailed,
            pool: None,
            backend: None,
            cause: "operator".into(),
            evidence: error.to_string().into(),
            more: More::Refused { file, problems },
        });
    }
}

/// What of a configuration makes a check another one: what is asked where, from where, and what is sent
/// first. How often, and what evicts, does not.
fn probe_of(pool: &model::Pool) -> Option<impl PartialEq> {
    let check = pool.health_check.as_ref()?;
    let connect = &pool.connect;
    Some((&check.probe, check.port, &connect.source, connect.send_proxy_protocol))
}

impl Controlled {
    /// The pool has become a hot standby, or is one no more.
    fn change_of_kind(&mut self, at: Tick) {
        self.keeper.levels = Levels::default();
        self.demotions.clear();
        self.repairs.end_roles();
        self.keeper.role = self.keeper.settings.is_standby.then(|| {
            let members = self.keeper.standbys(at);
            let view = View { members: &members, policy: &self.keeper.settings.failover, at };
            Failover::start(Known::default(), &view).next
        });
        self.reign += 1;
    }
}
