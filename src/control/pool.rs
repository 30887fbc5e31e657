//! One pool as the controller runs it: what is known of it, and what it publishes.

use std::cell::Cell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::controller::wall;
use super::demotion::Demotion;
use super::keeper::{Keeper, Node, Settings};
use super::names::Named;
use super::parted::Parted;
use super::repair::Repairs;
use super::takeover::Takeover;
use crate::balance::candidates::{self, Chosen};
use crate::balance::{Entry, Options};
use crate::config::model::{self, DemotionConnections, EvictedConnections};
use crate::failover::{self, Failback, Id, Role, Why};
use crate::health::{self, Checking, Operator, Outlier, Tick};
use crate::net::addr::Address;
use crate::net::clock::ticks;
use crate::net::dial::EphemeralPorts;
use crate::probe::{Probe, Target};
use crate::state::{Backend, Ending, Member, Pool, Rotation, Trial, Wait};

/// A pool.
#[derive(Debug)]
pub(super) struct Controlled {
    /// Its number within the process.
    pub(super) number: u32,
    /// What the data path has of it.
    pub(super) pool: Arc<Pool>,
    pub(super) keeper: Keeper,
    pub(super) config: model::Pool,
    pub(super) entry: Entry,
    pub(super) probe: Option<Rc<dyn Probe>>,
    /// By id.
    pub(super) backings: HashMap<Id, Backing>,
    /// Who has had the active role counts up.
    pub(super) reign: u64,
    pub(super) takeover: Option<Takeover>,
    /// When the active role was lost that nobody has yet, and the first sign of that.
    pub(super) vacated: Option<Vacated>,
    /// By the backend that was demoted.
    pub(super) demotions: HashMap<Id, Demotion>,
    /// Whose connections end once the next rotation is in force, and why.
    pub(super) to_end: Vec<(Id, Ending)>,
    pub(super) repairs: Repairs,
    /// Actions before traffic that are to begin anew: for whom, the number that the role waits for, why.
    pub(super) postponed: Option<(Id, u64, Why)>,
    /// What is in force.
    published: Option<Plan>,
    /// When it was published, and how long that took.
    cost: (Tick, Tick),
    /// Whether anything has changed since.
    pub(super) is_dirty: bool,
    /// Whether the timing of its checks has become another one, and they are to be planned anew.
    pub(super) is_retimed: bool,
    /// The names among its backends.
    pub(super) names: Vec<Named>,
    /// When it is next looked at the addresses that they have lost.
    pub(super) purge_at: Option<Tick>,
    /// Trials that a check is to decide, or is deciding.
    pub(super) probed: HashMap<Id, u64>,
    /// Backends that are configured no more, as long as they have connections: whoever is back by then
    /// is the same one.
    pub(super) parted: Vec<Parted>,
}

/// The active role as somebody left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vacated {
    pub(super) at: Tick,
    pub(super) first_sign: Option<Tick>,
}

/// What stands behind a node.
#[derive(Clone, Debug)]
pub(super) struct Backing {
    pub(super) backend: Arc<Backend>,
    pub(super) max_connections: Option<NonZeroU32>,
    pub(super) target: Rc<Target>,
    /// The name in the configuration that it is an address of, if it is.
    pub(super) origin: Option<Box<str>>,
    /// When the first of the failures was seen that led to its present state.
    pub(super) first_sign: Option<Tick>,
    trial: Option<Arc<Trial>>,
    /// When the present state began, by the clock of the process (it may have been before that), and by
    /// the wall clock as it was when that was first asked for.
    since: Cell<Option<(i128, SystemTime)>>,
}

/// A backend of a rotation before that is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    id: Id,
    weight: u32,
    trial: Option<u64>,
    is_limited: bool,
    max_connections: Option<NonZeroU32>,
}

/// A rotation before it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    chosen: Vec<Row>,
    reserve: Vec<Id>,
    wait: Option<Wait>,
    reign: u64,
}

/// What the configuration says of a pool, as the keeper takes it.
pub(super) fn settings(pool: &model::Pool) -> Settings {
    let checks = pool.health_check.as_ref().map(|check| Checking {
        rise: check.rise,
        fall: check.fall,
        interval: ticks(check.interval),
        fast_interval: ticks(check.fast_interval),
        timeout: ticks(check.timeout),
        jitter: check.jitter,
    });
    let outlier = pool.outlier_detection.as_ref().map(|outlier| Outlier {
        consecutive_failures: outlier.consecutive_failures,
        base_ejection: ticks(outlier.base_ejection),
        max_ejection: ticks(outlier.max_ejection),
        max_ejected_percent: outlier.max_ejected_percent,
    });
    let delay = pool.failover.failback_delay;
    Settings {
        health: health::Policy { checks, outlier },
        rotation: candidates::Policy {
            panic_threshold: pool.panic_threshold,
            slow_start: pool.slow_start.map(ticks),
        },
        failover: failover::Policy {
            failback: match pool.failover.failback(&pool.strategy) {
                model::Failback::Auto => Failback::Auto,
                model::Failback::Manual => Failback::Manual,
            },
            failback_delay: if delay.is_zero() { 0 } else { ticks(delay) },
            has_hooks: pool.recovery.on_takeover.iter().any(is_before_traffic),
        },
        is_standby: pool.strategy.is_hot_standby(),
    }
}

pub(super) fn is_before_traffic(action: &model::Action) -> bool {
    matches!(action, model::Action::Exec(exec) if exec.before_traffic)
}

/// A backend as the file has it.
pub(super) fn node(id: Id, place: &Place<'_>) -> Node {
    let backend = place.config;
    let operator = if backend.disabled { Operator::Disabled } else { Operator::Enabled };
    let names = (Arc::clone(&place.name), place.address.to_string().into());
    Node::new(id, names, place.priority, (operator, place.weight))
}

/// A backend at one address: as the file has it, or as one of the addresses of a name.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) config: &'a model::Backend,
    pub(super) name: Arc<str>,
    pub(super) address: Address,
    pub(super) priority: u32,
    pub(super) weight: u32,
}

impl<'a> Place<'a> {
    /// The one address of a backend whose address is no name.
    pub(super) fn of(config: &'a model::Backend) -> Option<Self> {
        let address = config.address.address()?.clone();
        let name = config.name.as_str().into();
        Some(Self { config, name, address, priority: config.priority, weight: config.weight })
    }
}

/// Where a backend is checked, and from where.
pub(super) fn target(
    pool: &Pool,
    check: Option<&model::HealthCheck>,
    place: &Place<'_>,
    ports: EphemeralPorts,
) -> Target {
    let port = place.config.health_port.or(check.and_then(|check| check.port));
    let address = match (&place.address, port) {
        (Address::Tcp(tcp), Some(port)) => {
            let mut tcp = *tcp;
            tcp.set_port(port);
            Address::Tcp(tcp)
        }
        (address, _) => address.clone(),
    };
    let source = pool.sources(&address).next().flatten();
    Target {
        pool: Arc::clone(&pool.name),
        backend: Arc::clone(&place.name),
        source,
        address,
        ports,
        preface: pool.preface_of_checks(),
    }
}

impl Backing {
    pub(super) fn new(backend: Arc<Backend>, place: &Place<'_>, target: Target) -> Self {
        let config = place.config;
        Self {
            backend,
            max_connections: config.max_connections,
            target: Rc::new(target),
            origin: config.address.address().is_none().then(|| config.name.as_str().into()),
            first_sign: None,
            trial: None,
            since: Cell::new(None),
        }
    }
}

impl Backing {
    /// When a state began that has lasted for `age` `at` this time, by the wall clock. The same moment as
    /// long as it lasts, whatever the wall clock does meanwhile.
    pub(super) fn since(&self, age: Tick, at: Tick) -> SystemTime {
        let began = i128::from(at) - i128::from(age);
        if let Some((known, since)) = self.since.get()
            && known == began
        {
            return since;
        }
        let since = wall().checked_sub(Duration::from_millis(age));
        let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
        self.since.set(Some((began, since)));
        since
    }

    /// What stands behind the node is described anew.
    pub(super) fn renew(&mut self, place: &Place<'_>, target: Target) {
        let config = place.config;
        self.max_connections = config.max_connections;
        self.target = Rc::new(target);
        self.origin = config.address.address().is_none().then(|| config.name.as_str().into());
    }
}

impl Controlled {
    /// A pool whose nodes have these backings.
    pub(super) fn new(
        number: u32,
        (pool, config): (Arc<Pool>, &model::Pool),
        keeper: Keeper,
        backings: HashMap<Id, Backing>,
        (entry, probe): (Entry, Option<Rc<dyn Probe>>),
    ) -> Self {
        Self {
            number,
            pool,
            keeper,
            config: config.clone(),
            entry,
            probe,
            backings,
            reign: 1,
            takeover: None,
            vacated: None,
            demotions: HashMap::new(),
            to_end: Vec::new(),
            repairs: Repairs::default(),
            postponed: None,
            published: None,
            cost: (0, 0),
            is_dirty: true,
            is_retimed: false,
            names: Vec::new(),
            purge_at: None,
            probed: HashMap::new(),
            parted: Vec::new(),
        }
    }

    pub(super) fn options(&self) -> &Options {
        &self.config.strategy.options
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.pool.name
    }

    /// The name of a backend of the pool; of one that has gone, none.
    pub(super) fn name_of(&self, id: Id) -> Option<Arc<str>> {
        self.keeper.node(id).map(|node| Arc::clone(&node.name))
    }

    /// Open connections of a backend, whether it is configured or not.
    pub(super) fn open(&self, id: Id) -> u32 {
        self.backings.get(&id).map_or(0, |backing| backing.backend.load.open())
    }

    pub(super) fn closes_demoted(&self) -> bool {
        let closes = self.config.failover.demoted_connections(&self.config.strategy);
        closes == DemotionConnections::Close
    }

    pub(super) fn closes_evicted(&self) -> bool {
        self.config.evicted_connections == EvictedConnections::Close
    }

    /// Descriptors that one check needs, or a connect in its place.
    pub(super) fn cost_of_check(&self) -> u32 {
        self.config.health_check.as_ref().map_or(1, |check| check.probe.descriptors())
    }

    /// Whether `id` is a candidate for the next connection.
    pub(super) fn is_in_rotation(&self, id: Id) -> bool {
        let chosen = &self.keeper.choice.chosen;
        chosen.iter().any(|chosen| self.keeper.nodes[chosen.index].id == id)
    }

    /// Whether anybody is.
    pub(super) fn has_rotation(&self) -> bool {
        !self.keeper.choice.chosen.is_empty()
    }

    /// The active backend of a hot standby.
    pub(super) fn active(&self) -> Option<Id> {
        self.keeper.role.as_ref()?.active()
    }

    /// Whose actions before traffic run.
    pub(super) fn preparing(&self) -> Option<Id> {
        match self.keeper.role.as_ref()?.role() {
            Role::Preparing(id) => Some(id),
            Role::Active(_) | Role::Vacant => None,
        }
    }

    /// Publishes an empty rotation, in which connections wait.
    pub(super) fn hold(&mut self, wait: Option<Wait>) {
        let plan = Plan { chosen: Vec::new(), reserve: Vec::new(), wait, reign: self.reign };
        self.pool.live.publish(Arc::new(Rotation::empty(wait).of_reign(self.reign)));
        self.published = Some(plan);
    }

    /// When the pool may be published again after what is dirty now: one with thousands of backends
    /// takes its time, which others need too.
    pub(super) fn publish_at(&self) -> Tick {
        /// Longest wait: a decision is in force within 10 ms.
        const MOST: Tick = 8;
        let (at, took) = self.cost;
        at + (took * 3).min(MOST)
    }

    /// What is dirty now may be published at once: somebody waits for it to be in force.
    pub(super) fn hurry(&mut self) {
        self.cost = (0, 0);
    }

    /// Publishes who is in rotation now, if that is another rotation than before. `clock` gives exact
    /// ticks.
    pub(super) fn publish(&mut self, clock: impl Fn() -> Tick) {
        self.is_dirty = false;
        let plan = self.plan();
        if self.published.as_ref() == Some(&plan) {
            return;
        }
        let begun = clock();
        let members = self.members();
        let mut rotation = if members.is_empty() {
            Rotation::empty(plan.wait)
        } else {
            Rotation::new(members, &self.entry, self.options())
        };
        let reserve = plan.reserve.iter().filter_map(|id| self.reserved(*id)).collect();
        rotation = rotation.of_reign(self.reign).with_reserve(reserve);
        let rotation = Arc::new(rotation);
        if let Some(takeover) = &mut self.takeover {
            takeover.watch(&rotation);
        }
        self.pool.live.publish(rotation);
        self.published = Some(plan);
        let now = clock();
        self.cost = (now, now - begun);
    }

    /// The next rotation is published whether or not it has the same members.
    pub(super) fn forget_published(&mut self) {
        self.published = None;
    }

    /// Connections wait while the role is on its way.
    fn wait(&self) -> Option<Wait> {
        self.preparing().map(|_| Wait::Actions)
    }

    fn plan(&self) -> Plan {
        let nodes = &self.keeper.nodes;
        let row = |chosen: &Chosen| {
            let id = nodes[chosen.index].id;
            let limit = self.backings.get(&id).and_then(|backing| backing.max_connections);
            let Chosen { weight, trial, is_limited, .. } = *chosen;
            Row { id, weight, trial, is_limited, max_connections: limit }
        };
        Plan {
            chosen: self.keeper.choice.chosen.iter().map(row).collect(),
            reserve: self.reserve(),
            wait: self.wait(),
            reign: self.reign,
        }
    }

    /// The members of the rotation. A trial that goes on keeps its seat.
    fn members(&mut self) -> Vec<Member> {
        let mut members = Vec::new();
        for chosen in &self.keeper.choice.chosen {
            let id = self.keeper.nodes[chosen.index].id;
            let Some(backing) = self.backings.get_mut(&id) else { continue };
            backing.trial = chosen.trial.map(|number| match backing.trial.take() {
                Some(trial) if trial.is(number, chosen.is_limited) => trial,
                _ => Arc::new(Trial::new(number, chosen.is_limited)),
            });
            members.push(Member {
                backend: Arc::clone(&backing.backend),
                weight: chosen.weight,
                max_connections: backing.max_connections,
                trial: backing.trial.clone(),
            });
        }
        members
    }

    /// Usable backends of priorities that are not in use, in order: for connections that have tried all
    /// that are. Better ones too, which wait for a failback: better late than not at all.
    fn reserve(&self) -> Vec<Id> {
        if self.keeper.role.is_some() || self.keeper.choice.is_panic {
            return Vec::new();
        }
        let level = self.keeper.levels.level();
        let mut nodes: Vec<_> = self
            .keeper
            .nodes
            .iter()
            .filter(|node| Some(node.priority) != level && level.is_some())
            .filter(|node| node.health.state().is_usable() && node.weight.value() > 0)
            .collect();
        nodes.sort_by_key(|node| node.priority);
        nodes.into_iter().map(|node| node.id).collect()
    }

    fn reserved(&self, id: Id) -> Option<Member> {
        let backing = self.backings.get(&id)?;
        Some(Member {
            backend: Arc::clone(&backing.backend),
            weight: 1,
            max_connections: backing.max_connections,
            trial: None,
        })
    }
}
