//! The controller in miniature: what the control plane does with the pure layer, without its sockets.

use tidegate::balance::candidates::{self, Choice, Line, Member, Standing, choose};
use tidegate::failover::{
    self, Action, Cause, Edge, Event as RoleEvent, Failover, Fitness, Id, Known, Levels, MoveError,
    Presence, Role, Standby, View, Why,
};
use tidegate::health::{
    self, Change, Due, Event, Health, Held, Operator, PoolView, Saved, SavedBackend, SavedPool,
    State, Tick, first,
};

/// A backend.
pub(crate) struct Node {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) priority: u32,
    pub(crate) operator: Held<Operator>,
    pub(crate) weight: Held<u32>,
    pub(crate) health: Health,
    /// The timer of its next check.
    pub(crate) due: Option<Due>,
    /// The check under way.
    pub(crate) running: Option<u64>,
}

/// The configuration of the pool.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) health: health::Policy,
    pub(crate) rotation: candidates::Policy,
    pub(crate) failover: failover::Policy,
    pub(crate) is_standby: bool,
}

/// What the controller tells the outside.
pub(crate) enum Told {
    Changed(Id, Change),
    Did(Action),
    Edge(Edge),
    Level { from: Option<u32>, to: Option<u32>, members: Vec<Standby> },
}

pub(crate) struct Controller {
    pub(crate) settings: Settings,
    pub(crate) nodes: Vec<Node>,
    pub(crate) role: Option<Failover>,
    pub(crate) levels: Levels,
    pub(crate) presence: Presence,
    pub(crate) choice: Choice,
    pub(crate) told: Vec<Told>,
    role_wake: Option<Tick>,
    /// Who had the role at start.
    pub(crate) first_active: Option<Id>,
}

impl Node {
    pub(crate) fn new(id: Id, priority: u32, operator: Operator, weight: u32) -> Self {
        let policy = health::Policy::default();
        Self {
            id,
            name: format!("b{id}"),
            address: format!("10.0.0.{id}:1"),
            priority,
            operator: Held::new(operator),
            weight: Held::new(weight),
            health: Health::new(operator, 0, &policy),
            due: None,
            running: None,
        }
    }

    fn fitness(&self, at: Tick) -> Fitness {
        match self.health.state() {
            _ if self.weight.value() == 0 => Fitness::Down,
            State::Healthy => Fitness::Healthy(self.health.age(at)),
            State::Unknown => Fitness::Unknown,
            State::Ejected if self.health.trial().is_some() => Fitness::Trial,
            State::Ejected | State::Unhealthy | State::Draining | State::Disabled => Fitness::Down,
        }
    }

    fn member(&self, at: Tick) -> Member {
        let standing = match (self.health.state(), self.health.trial()) {
            (State::Healthy, _) => Standing::Healthy,
            (State::Unknown, _) => Standing::Unknown,
            (State::Ejected, Some(trial)) => Standing::Trial(trial),
            (State::Ejected | State::Unhealthy, _) => Standing::Down,
            (State::Draining | State::Disabled, _) => Standing::Out,
        };
        Member {
            weight: self.weight.value(),
            priority: self.priority,
            standing,
            back_for: self.health.back_for(at),
        }
    }
}

impl Controller {
    /// A pool at start, with what was saved of it.
    pub(crate) fn start(
        settings: Settings,
        nodes: Vec<Node>,
        saved: Option<&Saved>,
        unix: u64,
    ) -> Self {
        let mut pool = Self {
            settings,
            nodes,
            role: None,
            levels: Levels::default(),
            presence: Presence::default(),
            choice: Choice::default(),
            told: Vec::new(),
            role_wake: None,
            first_active: None,
        };
        let fleet = pool.nodes.len();
        let saved_at = saved.map_or(0, |saved| saved.saved_at);
        for (rank, node) in pool.nodes.iter_mut().enumerate() {
            let policy = &pool.settings.health;
            let known = saved.and_then(|saved| saved.backend("p", &node.name, &node.address));
            node.health = match known {
                Some(known) => {
                    let (mut operator, mut weight) = (known.operator, known.weight);
                    operator.read_again(file_value(&node.operator));
                    weight.read_again(file_value(&node.weight));
                    (node.operator, node.weight) = (operator, weight);
                    Health::restored(
                        &known.restored(saved_at, (0, unix)),
                        operator.value(),
                        0,
                        policy,
                    )
                }
                None => Health::new(node.operator.value(), 0, policy),
            };
            node.due = policy
                .checks
                .filter(|_| node.health.is_checked())
                .map(|p| first(rank, fleet, 0, &p));
            node.running = None;
        }
        let was = saved.and_then(|saved| saved.pools.get("p"));
        if pool.settings.is_standby {
            let address_of = |name: &str| {
                pool.nodes.iter().find(|node| node.name == name).map(|node| node.address.clone())
            };
            let active = saved.and_then(|saved| saved.active("p", address_of));
            let active = pool.nodes.iter().find(|n| Some(n.name.as_str()) == active).map(|n| n.id);
            let is_pinned = was.is_some_and(|was| was.is_pinned);
            let members = pool.standbys(0);
            let view = View { members: &members, policy: &pool.settings.failover, at: 0 };
            let is_barred = |n: &&Node| was.is_some_and(|was| was.barred.contains(&n.name));
            let barred = pool.nodes.iter().filter(is_barred).map(|node| node.id).collect();
            let role = Failover::start(Known { active, is_pinned, barred }, &view);
            (pool.first_active, pool.role) = (role.active(), Some(role));
        } else {
            pool.levels = Levels::restored(was.and_then(|was| was.level));
        }
        pool.refresh(&Why::new(Cause::Configuration, "start"), false, 0);
        pool
    }

    pub(crate) fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    pub(crate) fn node_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    /// Something happened to a backend.
    pub(crate) fn apply(&mut self, id: Id, event: Event, at: Tick) {
        let seen = |pool: &Self| pool.node(id).map(|n| (n.health.state(), n.health.trial()));
        let before = seen(self);
        let change = self.feed(id, event, at);
        let after = seen(self);
        if before == after {
            // Nobody is more or less fit than before: most checks end here.
            return;
        }
        let why = match (change, self.node(id)) {
            (Some(change), _) => Why::new(cause(change.cause), change.evidence.to_string()),
            // People see no change, it was and is ejected; who relied on its trial does.
            (None, Some(node)) => Why::new(Cause::Outlier, node.health.reason().to_string()),
            (None, None) => return,
        };
        self.refresh(&why, matches!(why.cause, Cause::Probe | Cause::Outlier), at);
    }

    /// The same, where more follows before the pool is looked at.
    pub(crate) fn feed(&mut self, id: Id, event: Event, at: Tick) -> Option<Change> {
        let policy = self.settings.health;
        let node = self.node_mut(id)?;
        let step = node.health.step(event, at, &policy);
        node.health = step.next;
        match policy.checks.filter(|_| node.health.is_checked()) {
            None => (node.due, node.running) = (None, None),
            Some(checks) if node.due.is_none() && node.running.is_none() => {
                node.due = Some(first(0, 1, at, &checks));
            }
            Some(_) => {}
        }
        self.told.extend(step.change.clone().map(|change| Told::Changed(id, change)));
        step.change
    }

    /// The timing of checks has changed.
    pub(crate) fn reschedule(&mut self, at: Tick) {
        let Some(checks) = self.settings.health.checks else { return };
        let fleet = self.nodes.len();
        for (rank, node) in self.nodes.iter_mut().enumerate() {
            node.due = node.due.map(|due| due.at_most(first(rank, fleet, at, &checks)));
        }
    }

    /// The pool has changed: who is active, and who is in rotation.
    pub(crate) fn refresh(&mut self, why: &Why, is_found_out: bool, at: Tick) {
        self.role_event(RoleEvent::Changed(why.clone()), at);
        let is_up = self
            .nodes
            .iter()
            .any(|node| matches!(node.fitness(at), Fitness::Healthy(_) | Fitness::Unknown));
        let (presence, edge) = self.presence.see(is_up, is_found_out);
        self.presence = presence;
        self.told.extend(edge.map(Told::Edge));
    }

    pub(crate) fn role_event(&mut self, event: RoleEvent, at: Tick) {
        let members = self.standbys(at);
        let view = View { members: &members, policy: &self.settings.failover, at };
        if let Some(role) = &self.role {
            let step = role.step(event, &view);
            self.take(step, at);
        } else {
            let (step, was) = (self.levels.step(&view), self.levels.level());
            (self.levels, self.role_wake) = (step.next, step.wake);
            if was != step.next.level() {
                self.told.push(Told::Level { from: was, to: step.next.level(), members });
            }
            self.publish(at);
        }
    }

    fn take(&mut self, step: failover::Step, at: Tick) {
        (self.role, self.role_wake) = (Some(step.next), step.wake);
        self.told.extend(step.actions.into_iter().map(Told::Did));
        self.publish(at);
    }

    pub(crate) fn move_to(&mut self, to: Option<Id>, at: Tick) -> Result<(), MoveError> {
        let members = self.standbys(at);
        let view = View { members: &members, policy: &self.settings.failover, at };
        if let Some(role) = &self.role {
            let step = role.move_to(to, &view)?;
            self.take(step, at);
        }
        Ok(())
    }

    fn publish(&mut self, at: Tick) {
        let members: Vec<_> = self.nodes.iter().map(|node| node.member(at)).collect();
        let line = match &self.role {
            Some(role) => {
                let active = role.active();
                Line::Only(self.nodes.iter().position(|node| Some(node.id) == active))
            }
            None => self.levels.level().map_or(Line::Lowest, |level| {
                let tries_better = Levels::tries_better(&self.settings.failover);
                Line::Level { level, tries_better }
            }),
        };
        self.choice = choose(&members, line, &self.settings.rotation, at);
    }

    fn standbys(&self, at: Tick) -> Vec<Standby> {
        let standby = |node: &Node| Standby {
            id: node.id,
            priority: node.priority,
            fitness: node.fitness(at),
        };
        self.nodes.iter().map(standby).collect()
    }

    /// The pool as the limit of ejections sees it.
    pub(crate) fn view(&self, id: Id, at: Tick) -> PoolView {
        let is_hot_standby = self.role.is_some();
        let mut view = PoolView { is_hot_standby, ..PoolView::default() };
        for node in &self.nodes {
            let member = node.member(at);
            if member.weight == 0 || member.standing == Standing::Out {
                continue;
            }
            view.members += 1;
            view.ejected += u32::from(node.health.state() == State::Ejected);
            let is_usable = matches!(member.standing, Standing::Healthy | Standing::Unknown);
            view.others_usable += u32::from(node.id != id && is_usable);
        }
        view
    }

    /// When the next of its own timers fires.
    pub(crate) fn wake(&self) -> Option<Tick> {
        let nodes = self.nodes.iter().filter_map(|node| node.health.wake());
        nodes.chain(self.role_wake).chain(self.choice.wake).min()
    }

    /// Its own timers fire.
    pub(crate) fn timer(&mut self, at: Tick) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].health.wake().is_some_and(|wake| wake <= at) {
                self.apply(self.nodes[index].id, Event::Timer, at);
            }
        }
        self.role_event(RoleEvent::Timer, at);
    }

    pub(crate) fn save(&self, at: Tick, unix: u64) -> Saved {
        let mut saved = Saved::new(unix);
        let backends = self.nodes.iter().map(|node| {
            let held = (node.operator, node.weight);
            let backend = SavedBackend::new(node.address.clone(), &node.health, held, (at, unix));
            (node.name.clone(), backend)
        });
        let active = self.role.as_ref().and_then(|role| match role.role() {
            Role::Active(id) => self.node(id).map(|node| node.name.clone()),
            Role::Vacant | Role::Preparing(_) => None,
        });
        let barred = self.role.iter().flat_map(|role| role.barred());
        let pool = SavedPool {
            active,
            is_pinned: self.role.as_ref().is_some_and(Failover::is_pinned),
            barred: barred.filter_map(|id| Some(self.node(*id)?.name.clone())).collect(),
            level: self.levels.level(),
            backends: backends.collect(),
        };
        saved.pools.insert("p".into(), pool);
        saved
    }
}

/// What the file says: without an operator, a held value is the file's.
fn file_value<T: Copy + PartialEq>(held: &Held<T>) -> T {
    held.value()
}

fn cause(cause: health::Cause) -> Cause {
    match cause {
        health::Cause::Probe => Cause::Probe,
        health::Cause::Outlier => Cause::Outlier,
        health::Cause::Operator => Cause::Operator,
        health::Cause::Resolve => Cause::Resolve,
    }
}
