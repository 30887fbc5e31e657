//! What is known of one pool, and what follows from it: pure, and driven by the simulation as by the
//! controller.
//!
//! A [`Keeper`] holds the health of each backend, the active role or the priority in use, and who is in
//! rotation. It is told what happens, keeps what follows in [`Keeper::told`] for whoever acts on it, and
//! does nothing itself. Time is an argument.

use std::sync::Arc;

use super::places::Places;
use crate::balance::candidates::{self, Choice, Line, Member, Standing, choose};
use crate::failover::{
    self, Action, Cause, Edge, Event as RoleEvent, Failover, Fitness, Id, Known, Levels, MoveError,
    Presence, Standby, View, Why,
};
use crate::health::{
    self, Change, Due, Event, Health, Held, Operator, PoolView, Saved, SavedBackend, SavedMove,
    SavedPool, State, Tick, first,
};

/// A backend.
#[derive(Clone, Debug)]
pub struct Node {
    /// Who it is.
    pub id: Id,
    /// Its name within the pool.
    pub name: Arc<str>,
    /// Where it is, as displayed.
    pub address: Arc<str>,
    /// Lower numbers come first.
    pub priority: u32,
    /// The file's word and the operator's.
    pub operator: Held<Operator>,
    /// The file's weight and the operator's.
    pub weight: Held<u32>,
    /// Its state.
    pub health: Health,
    /// The timer of its next check.
    pub due: Option<Due>,
    /// The number of the check under way.
    pub running: Option<u64>,
}

/// What the configuration says of the pool.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When a backend is fit.
    pub health: health::Policy,
    /// Who is in rotation.
    pub rotation: candidates::Policy,
    /// Who is active, and what gives way to whom.
    pub failover: failover::Policy,
    /// Whether one serves alone.
    pub is_standby: bool,
}

/// What follows, for whoever acts on it, in this order.
#[derive(Clone, Debug)]
pub enum Told {
    /// The state of a backend has changed.
    Changed(Id, Change),
    /// The active role moves.
    Did(Action),
    /// The pool went down or came up.
    Edge(Edge),
    /// Another priority is in use.
    Level {
        /// Before.
        from: Option<u32>,
        /// Now.
        to: Option<u32>,
        /// Who was how fit.
        members: Vec<Standby>,
    },
}

/// One pool.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// Its name.
    pub name: Arc<str>,
    /// What the configuration says.
    pub settings: Settings,
    /// In the order of the list.
    pub nodes: Vec<Node>,
    /// The active role, in a hot standby.
    pub role: Option<Failover>,
    /// The priority in use, elsewhere.
    pub levels: Levels,
    /// Whether anybody is usable.
    pub presence: Presence,
    /// Who is in rotation.
    pub choice: Choice,
    /// What is still to be acted on.
    pub told: Vec<Told>,
    /// Who had the role at start.
    pub first_active: Option<Id>,
    role_wake: Option<Tick>,
    /// What has changed since the pool was last looked at, and whether it was found out.
    unsettled: Option<(Why, bool)>,
}

impl Node {
    /// A backend as the file has it. What is known of it comes with [`Keeper::start`].
    #[must_use]
    pub fn new(
        id: Id,
        (name, address): (Arc<str>, Arc<str>),
        priority: u32,
        (operator, weight): (Operator, u32),
    ) -> Self {
        Self {
            id,
            name,
            address,
            priority,
            operator: Held::new(operator),
            weight: Held::new(weight),
            health: Health::new(operator, 0, &health::Policy::default()),
            due: None,
            running: None,
        }
    }

    /// How fit it is to be the active one.
    #[must_use]
    pub fn fitness(&self, at: Tick) -> Fitness {
        match self.health.state() {
            _ if self.weight.value() == 0 => Fitness::Down,
            State::Healthy => Fitness::Healthy(self.health.age(at)),
            State::Unknown => Fitness::Unknown,
            State::Ejected if self.health.trial().is_some() => Fitness::Trial,
            State::Ejected | State::Unhealthy | State::Draining | State::Disabled => Fitness::Down,
        }
    }

    /// What is known of it, as far as rotations are concerned.
    #[must_use]
    pub fn member(&self, at: Tick) -> Member {
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

    /// Takes over the operator's words that were saved, unless the file says otherwise now.
    pub(super) fn restore(&mut self, known: &SavedBackend) -> Operator {
        let (mut operator, mut weight) = (known.operator, known.weight);
        operator.read_again(self.operator.value());
        weight.read_again(self.weight.value());
        (self.operator, self.weight) = (operator, weight);
        operator.value()
    }
}

impl Keeper {
    /// A pool at start, `now` in ticks and in milliseconds since the Unix epoch, with what was saved of
    /// it. `nodes` are as the file has them.
    #[must_use]
    pub fn start(
        (name, settings): (Arc<str>, Settings),
        nodes: Vec<Node>,
        saved: Option<&Saved>,
        (at, unix): (Tick, u64),
    ) -> Self {
        let mut pool = Self {
            name,
            settings,
            nodes,
            role: None,
            levels: Levels::default(),
            presence: Presence::default(),
            choice: Choice::default(),
            told: Vec::new(),
            first_active: None,
            role_wake: None,
            unsettled: None,
        };
        let saved_at = saved.map_or(0, |saved| saved.saved_at);
        let policy = pool.settings.health;
        for node in &mut pool.nodes {
            let known = saved.and_then(|s| s.backend(&pool.name, &node.name, &node.address));
            node.health = match known {
                Some(known) => {
                    let operator = node.restore(known);
                    let restored = known.restored(saved_at, (at, unix));
                    Health::restored(&restored, operator, at, &policy)
                }
                None => Health::new(node.operator.value(), at, &policy),
            };
        }
        pool.begin_checks(&pool.places(), at);
        pool.take_roles(saved, at);
        pool.refresh(&Why::new(Cause::Configuration, "start"), false, at);
        pool
    }

    /// Gives each backend that has a place and is to be checked the time of its first check.
    pub fn begin_checks(&mut self, places: &Places, at: Tick) {
        let Some(checks) = self.settings.health.checks else { return };
        for node in self.nodes.iter_mut().filter(|node| node.health.is_checked()) {
            node.due = places.first(node.id, at, &checks).or(node.due);
        }
    }

    /// The places of its own backends.
    #[must_use]
    pub fn places(&self) -> Places {
        let nodes = self.nodes.iter().filter(|node| node.health.is_checked());
        Places::of(&nodes.map(|node| (node.id, &*self.name, &*node.name)).collect::<Vec<_>>())
    }

    fn take_roles(&mut self, saved: Option<&Saved>, at: Tick) {
        let was = saved.and_then(|saved| saved.pools.get(&*self.name));
        if !self.settings.is_standby {
            self.levels = Levels::restored(was.and_then(|was| was.level));
            return;
        }
        let known = was.map_or_else(Known::default, |was| self.known_role(was));
        let members = self.standbys(at);
        let view = View { members: &members, policy: &self.settings.failover, at };
        let step = Failover::start(known, &view);
        self.first_active = step.next.active();
        (self.role, self.role_wake) = (Some(step.next), step.wake);
        self.told.extend(step.actions.into_iter().map(Told::Did));
    }

    /// What was saved of the active role, of backends that are still where they were.
    fn known_role(&self, was: &SavedPool) -> Known {
        let find = |name: &String| {
            let node = self.nodes.iter().find(|node| *node.name == **name)?;
            let saved = was.backends.get(name)?;
            (*saved.address == *node.address).then_some(node.id)
        };
        let preparing = was.preparing.as_ref().and_then(|to| {
            let cause = Cause::from_word(&to.cause).unwrap_or(Cause::Configuration);
            Some((find(&to.backend)?, Why::new(cause, to.evidence.as_str())))
        });
        Known {
            active: was.active.as_ref().and_then(find),
            was_held: was.was_held || was.active.is_some() || was.preparing.is_some(),
            preparing,
            last: was.last.as_ref().and_then(find),
            is_pinned: was.is_pinned,
            barred: was.barred.iter().filter_map(find).collect(),
        }
    }

    /// The backend of this id.
    #[must_use]
    pub fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(self.position(id)?)
    }

    /// Where it is in the list. Ids count up along a list that was read at once: there it is found
    /// without a search.
    fn position(&self, id: Id) -> Option<usize> {
        let first = self.nodes.first()?.id;
        let guess = id.checked_sub(first).and_then(|offset| usize::try_from(offset).ok());
        let is_there = |index: &usize| self.nodes.get(*index).is_some_and(|node| node.id == id);
        guess.filter(is_there).or_else(|| self.nodes.iter().position(|node| node.id == id))
    }

    /// The same, to be changed.
    pub fn node_mut(&mut self, id: Id) -> Option<&mut Node> {
        let position = self.position(id)?;
        self.nodes.get_mut(position)
    }

    /// Something happened to a backend: what follows for it and for the pool.
    pub fn apply(&mut self, id: Id, event: Event, at: Tick) {
        let _ = self.note(id, event, at);
        self.settle(at);
    }

    /// Something happened to a backend, and more may follow before [`Keeper::settle`] looks at the pool.
    /// Whether the pool has to be looked at.
    pub fn note(&mut self, id: Id, event: Event, at: Tick) -> bool {
        let seen = |pool: &Self| pool.node(id).map(|n| (n.health.state(), n.health.trial()));
        let before = seen(self);
        let change = self.feed(id, event, at);
        if before == seen(self) {
            // Nobody is more or less fit than before: most checks end here.
            return false;
        }
        let is_initial = change.as_ref().is_some_and(|change| change.is_initial);
        let why = match (change, self.node(id)) {
            (Some(change), _) => Why::new(cause(change.cause), change.evidence.to_string()),
            // People see no change, it was and is ejected; who relied on its trial does.
            (None, Some(node)) => Why::new(Cause::Outlier, node.health.reason().to_string()),
            (None, None) => return false,
        };
        let is_found_out = matches!(why.cause, Cause::Probe | Cause::Outlier) && !is_initial;
        if self.role.is_some() {
            // Who is active is decided event by event, so that each move has its own reason.
            self.refresh(&why, is_found_out, at);
        } else {
            let was = self.unsettled.take().is_some_and(|(_, is_found_out)| is_found_out);
            self.unsettled = Some((why, is_found_out || was));
        }
        true
    }

    /// Looks at the pool if anything has changed since it was last looked at.
    pub fn settle(&mut self, at: Tick) {
        if let Some((why, is_found_out)) = self.unsettled.take() {
            self.refresh(&why, is_found_out, at);
        }
    }

    /// Something happened to a backend; only its own state is looked at.
    pub fn feed(&mut self, id: Id, event: Event, at: Tick) -> Option<Change> {
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

    /// The timing of checks may have changed: nobody waits out an interval that is configured no more.
    pub fn reschedule(&mut self, places: &Places, at: Tick) {
        let Some(checks) = self.settings.health.checks else { return };
        for node in &mut self.nodes {
            let Some(first) = places.first(node.id, at, &checks) else { continue };
            let pace = node.health.pace();
            node.due = node.due.map(|due| due.replanned(first, at, pace, &checks));
        }
    }

    /// The pool has changed: who is active, and who is in rotation.
    pub fn refresh(&mut self, why: &Why, is_found_out: bool, at: Tick) {
        self.role_event(RoleEvent::Changed(why.clone()), at);
        let is_usable = |n: &Node| matches!(n.fitness(at), Fitness::Healthy(_) | Fitness::Unknown);
        let is_up = self.nodes.iter().any(is_usable);
        let (presence, edge) = self.presence.see(is_up, is_found_out);
        self.presence = presence;
        self.told.extend(edge.map(Told::Edge));
    }

    /// Something happened to the active role, or to the priority in use.
    pub fn role_event(&mut self, event: RoleEvent, at: Tick) {
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
            self.choose(at);
        }
    }

    fn take(&mut self, step: failover::Step, at: Tick) {
        (self.role, self.role_wake) = (Some(step.next), step.wake);
        self.told.extend(step.actions.into_iter().map(Told::Did));
        self.choose(at);
    }

    /// An operator moves the active role. Nothing happens in a pool that is no hot standby.
    ///
    /// # Errors
    ///
    /// Why it cannot be moved; nothing has changed then.
    pub fn move_to(&mut self, to: Option<Id>, at: Tick) -> Result<(), MoveError> {
        let members = self.standbys(at);
        let view = View { members: &members, policy: &self.settings.failover, at };
        if let Some(role) = &self.role {
            let step = role.move_to(to, &view)?;
            self.take(step, at);
        }
        Ok(())
    }

    /// Chooses anew who is in rotation.
    pub fn choose(&mut self, at: Tick) {
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

    /// Whether new connections may go to a backend, by its state alone: whether they do is a matter of
    /// the priority in use and of the active role. One that is `unknown` is usable while no backend of its
    /// priority is `healthy`.
    #[must_use]
    pub fn is_usable(&self, node: &Node) -> bool {
        let is_better = |other: &Node| {
            other.priority == node.priority
                && other.weight.value() > 0
                && other.health.state() == State::Healthy
        };
        match node.health.state() {
            State::Unknown => !self.nodes.iter().any(is_better),
            state => state.is_usable(),
        }
    }

    /// How fit each is to be the active one.
    #[must_use]
    pub fn standbys(&self, at: Tick) -> Vec<Standby> {
        let standby = |node: &Node| Standby {
            id: node.id,
            priority: node.priority,
            fitness: node.fitness(at),
        };
        self.nodes.iter().map(standby).collect()
    }

    /// The pool as the limit of ejections sees it, for the backend `id`.
    #[must_use]
    pub fn view(&self, id: Id, at: Tick) -> PoolView {
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

    /// When the role, the priority in use or a weight is to be looked at again.
    #[must_use]
    pub fn pool_wake(&self) -> Option<Tick> {
        [self.role_wake, self.choice.wake].into_iter().flatten().min()
    }

    /// When the next of all its timers fires, those of its backends included; not those of checks.
    #[must_use]
    pub fn wake(&self) -> Option<Tick> {
        let nodes = self.nodes.iter().filter_map(|node| node.health.wake());
        nodes.chain(self.pool_wake()).min()
    }

    /// Its timers fire.
    pub fn timer(&mut self, at: Tick) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].health.wake().is_some_and(|wake| wake <= at) {
                self.apply(self.nodes[index].id, Event::Timer, at);
            }
        }
        self.role_event(RoleEvent::Timer, at);
    }

    /// What is to be saved of it, `at` this tick; of its recovery actions nothing is known here.
    #[must_use]
    pub fn save(&self, (at, unix): (Tick, u64)) -> SavedPool {
        let backends = self.nodes.iter().map(|node| {
            let held = (node.operator, node.weight);
            let address = node.address.to_string();
            let backend = SavedBackend::new(address, &node.health, held, (at, unix));
            (node.name.to_string(), backend)
        });
        let name_of = |id: Id| self.node(id).map(|node| node.name.to_string());
        let role = self.role.as_ref();
        let active = role.and_then(Failover::active);
        let preparing = role.and_then(Failover::preparing).and_then(|(to, why)| {
            let (cause, evidence) = (why.cause.as_str().to_owned(), why.evidence.to_string());
            Some(SavedMove { backend: name_of(to)?, cause, evidence })
        });
        let last = role.and_then(Failover::last);
        let barred = role.into_iter().flat_map(|role| role.barred());
        SavedPool {
            active: active.and_then(name_of),
            preparing,
            last: last.filter(|_| active.is_none()).and_then(name_of),
            was_held: last.is_some(),
            is_pinned: role.is_some_and(Failover::is_pinned),
            barred: barred.filter_map(|id| name_of(*id)).collect(),
            level: self.levels.level(),
            backends: backends.collect(),
            ..SavedPool::default()
        }
    }
}

/// The cause of a move that follows from a change.
fn cause(cause: health::Cause) -> Cause {
    match cause {
        health::Cause::Probe => Cause::Probe,
        health::Cause::Outlier => Cause::Outlier,
        health::Cause::Operator => Cause::Operator,
        health::Cause::Resolve => Cause::Resolve,
    }
}
