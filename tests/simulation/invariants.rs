//! What must hold after each step, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::control::keeper::Told;
use tidegate::failover::{Action, Cause, Failback, Fitness, Id, MoveError, Role, Standby};
use tidegate::health::{self, Change, Checking, Evidence, Operator, Outlier, State, Tick, Turn};

use crate::naive::{Counts, Unix};
use crate::standby::{hot_standby, prepared, switched};
use crate::world::World;

/// What the invariants remember from step to step.
#[derive(Default)]
pub(crate) struct Watch {
    /// The highest identity given so far.
    pub(crate) highest: Id,
    /// What the changes that were told add up to.
    counts: BTreeMap<Id, Counts>,
    /// Start, then end, of the last check of each backend.
    last_check: BTreeMap<Id, Tick>,
    /// Share at the last look, of those in slow start: since when, weight, parts in a thousand.
    shares: BTreeMap<Id, (Unix, u32, u64, u64)>,
    /// Those whose actions before traffic failed, while they have not been away.
    pub(crate) failed_hooks: BTreeSet<Id>,
    /// For whom actions run.
    pub(crate) prepared: Option<(Id, u64)>,
    /// Whether the actions for the one prepared have just succeeded.
    pub(crate) hook_ok: bool,
    /// Who was prepared just before, until the next switch.
    pub(crate) abandoned: Option<Id>,
    pub(crate) last: Option<Id>,
    /// Who gets connections by what was told: one at a time.
    pub(crate) holder: Option<Id>,
    pub(crate) is_pinned: bool,
    was_up: Option<bool>,
    before_restart: Before,
}

/// How it was when the process ended.
#[derive(Default)]
struct Before {
    /// Who was out.
    out: Vec<Id>,
    /// Who had the role and is to have it again, or for whom actions ran that are to run again.
    role: Option<Role>,
    /// Who had traffic.
    served: Option<Id>,
    /// Whether anybody had had the role, or had been tried for it.
    is_known: bool,
}

impl Watch {
    pub(crate) fn new(highest: Id, active: Option<Id>) -> Self {
        Self { highest, last: active, holder: active, ..Self::default() }
    }

    /// All that can be seen of the world after a step.
    pub(crate) fn look(world: &mut World) {
        each_backend(world);
        if world.controller.role.is_some() {
            hot_standby(world);
        } else {
            rotation(world);
        }
        nobody_wrong_in_rotation(world);
        slow_start(world);
    }

    /// Checks of one backend never come in a burst.
    pub(crate) fn check_starts(&mut self, id: Id, now: Tick, policy: &Checking) {
        if let Some(last) = self.last_check.insert(id, now) {
            let fast = policy.fast_interval * u64::from(100 - policy.jitter) / 100;
            assert!(now > last && now - last >= fast / 4, "checks of {id} at {last} and {now}");
        }
    }

    /// The next check comes after a pause, however long this one was.
    pub(crate) fn check_ends(&mut self, id: Id, now: Tick) {
        self.last_check.insert(id, now);
    }

    /// The next check may come at once: the backend was disabled, or the checks are others.
    pub(crate) fn check_is_due(&mut self, id: Id) {
        self.last_check.remove(&id);
    }

    /// An ejection has just begun: was it allowed?
    pub(crate) fn ejected(world: &World, id: Id, policy: &Outlier) {
        let (mut all, mut out, mut usable) = (0_u32, 0_u32, 0_u32);
        for node in &world.controller.nodes {
            let naive = &world.outside[&node.id].naive;
            if node.weight.value() == 0 || is_out(naive.state) {
                continue;
            }
            all += 1;
            out += u32::from(naive.state == State::Ejected);
            usable += u32::from(naive.is_usable());
        }
        if is_out(world.outside[&id].naive.state) {
            return;
        }
        let percent = policy.max_ejected_percent;
        assert!(percent > 0, "{id} ejected though none may be");
        if percent < 100 {
            assert!(usable > 0, "{id} ejected, the last usable one");
            let is_standby = world.controller.role.is_some();
            let is_few = is_standby || out <= 1 || out * 100 <= percent * all;
            assert!(is_few, "{out} of {all} ejected, {percent}%");
        }
    }

    pub(crate) fn hook_ends(&mut self, serial: u64, is_ok: bool, _now: Tick) {
        let Some((id, prepared)) = self.prepared else { return };
        if serial != prepared {
            return;
        }
        if is_ok {
            self.hook_ok = true;
        } else {
            self.prepared = None;
            self.failed_hooks.insert(id);
            self.is_pinned = false;
        }
    }

    /// An operator's move is possible exactly when its target is usable and not active.
    pub(crate) fn after_move(world: &mut World, to: Option<Id>, moved: Result<(), MoveError>) {
        let Some(role) = world.role() else { return };
        world.watch.is_pinned |= moved.is_ok();
        let Some(to) = to else { return };
        if moved.is_ok() {
            world.watch.failed_hooks.remove(&to);
            let is_there = role == Role::Active(to) || role == Role::Preparing(to);
            assert!(is_there && is_usable(world, to), "moved to {to}");
        } else {
            let is_there = role == Role::Active(to) || role == Role::Preparing(to);
            assert!(is_there || !is_usable(world, to), "not moved to {to}: {moved:?}");
        }
    }

    pub(crate) fn before_restart(world: &mut World) {
        let out = world.outside.iter().filter(|(_, o)| !o.naive.is_usable() && o.naive.is_resolved);
        let out = out.map(|(id, _)| *id).collect();
        let served = world.controller.role.as_ref().and_then(|role| role.active());
        // Who was not resolved is new after the restart, and may be the preferred one.
        let is_same = world.outside.values().all(|outside| outside.naive.is_resolved);
        let role = world.role().filter(|role| match role {
            Role::Active(id) | Role::Preparing(id) => is_same && is_usable(world, *id),
            Role::Vacant => false,
        });
        let watch = &world.watch;
        let is_known = watch.last.is_some()
            || watch.prepared.is_some()
            || world.controller.role.as_ref().is_some_and(|role| !role.barred().is_empty());
        world.watch.before_restart = Before { out, role, served, is_known };
    }

    /// Who was out is out, the active role has not moved, and nobody has traffic whose actions
    /// before it have not succeeded.
    pub(crate) fn after_restart(world: &mut World) {
        let Before { out, role, served, is_known } =
            std::mem::take(&mut world.watch.before_restart);
        for id in out {
            let state = world.controller.node(id).expect("it is there").health.state();
            assert!(!state.is_usable(), "{id} is back by a restart: {state:?}");
        }
        if let Some(role) = role {
            assert_eq!(world.role(), Some(role), "a restart moved the active role");
        }
        let first = world.controller.first_active;
        if world.controller.settings.failover.has_hooks && is_known && first.is_some() {
            let last = world.watch.last.filter(|_| served.is_none());
            let is_meant = first == served || (first == last && role.is_none());
            assert!(is_meant, "{first:?} is active after a restart, {served:?} was");
        }
        let has_failed = !world.watch.failed_hooks.is_empty();
        match (served, role) {
            (Some(_), _) => world.count("restart, one active"),
            (None, Some(_)) => world.count("restart, actions under way"),
            (None, None) if has_failed => world.count("restart, actions failed"),
            (None, None) => {}
        }
        let is_here = |id: &Id| world.outside.contains_key(id);
        world.watch.last = first.or(world.watch.last.filter(is_here));
        let watch = &mut world.watch;
        watch.last_check.clear();
        watch.counts.clear();
        watch.shares.clear();
        (watch.prepared, watch.hook_ok, watch.was_up) = (None, false, None);
        watch.holder = first;
        watch.is_pinned = world.controller.role.as_ref().is_some_and(|role| role.is_pinned());
    }

    /// Something was told: had it its reason?
    pub(crate) fn hear(world: &mut World, told: Told) {
        match told {
            Told::Changed(id, change) => changed(world, id, &change),
            Told::Did(Action::Vacate { from, why }) => {
                let watch = &mut world.watch;
                assert_eq!(watch.holder.take(), Some(from), "another one loses the role");
                let is_failback = why.cause == Cause::Failback;
                assert!(!(is_failback && watch.is_pinned), "a failback against an operator's word");
                watch.is_pinned &= why.cause == Cause::Operator;
            }
            Told::Did(Action::Abandon { serial }) => {
                let prepared = world.watch.prepared.map(|(_, serial)| serial);
                assert_eq!(prepared, Some(serial), "abandoned");
                world.watch.hook_ok = false;
                world.watch.abandoned = world.watch.prepared.take().map(|(id, _)| id);
            }
            Told::Did(Action::Prepare { to, serial, .. }) => prepared(world, to, serial),
            Told::Did(Action::Switch(switch)) => switched(world, &switch),
            Told::Edge(edge) => {
                assert_ne!(world.watch.was_up, Some(edge.is_up), "an edge that is none");
                world.watch.was_up = Some(edge.is_up);
            }
            Told::Level { from, to, members } => level_moved(world, from, to, &members),
        }
    }
}

fn is_out(state: State) -> bool {
    matches!(state, State::Draining | State::Disabled)
}

/// Usable, and of a weight.
pub(crate) fn is_usable(world: &World, id: Id) -> bool {
    let has_weight = world.controller.node(id).is_some_and(|node| node.weight.value() > 0);
    has_weight && world.outside.get(&id).is_some_and(|outside| outside.naive.is_usable())
}

pub(crate) fn is_on_trial(world: &World, id: Id) -> bool {
    let has_weight = world.controller.node(id).is_some_and(|node| node.weight.value() > 0);
    let naive = world.outside.get(&id).map(|outside| &outside.naive);
    has_weight
        && naive.is_some_and(|naive| {
            naive.state == State::Ejected && naive.ejected.is_some_and(|e| e.is_on_trial)
        })
}

/// The machine says what the reference says, and what was told adds up.
fn each_backend(world: &World) {
    for node in &world.controller.nodes {
        let naive = &world.outside[&node.id].naive;
        let id = node.id;
        assert_eq!(node.health.state(), naive.state, "state of {id}");
        let is_on_trial =
            naive.ejected.is_some_and(|e| e.is_on_trial) && naive.state == State::Ejected;
        assert_eq!(node.health.trial().is_some(), is_on_trial, "trial of {id}");
        let told = world.watch.counts.get(&id).copied().unwrap_or_default();
        assert_eq!(told, naive.counts, "evictions, reinstatements and actions of {id}");
        let turns = |counts: [u64; 4]| counts.iter().sum::<u64>();
        let (out, back) = (turns(told.evictions), turns(told.reinstatements));
        assert!(out.abs_diff(back) <= 1, "{out} evictions and {back} reinstatements of {id}");
        if node.health.is_checked() {
            assert!(node.due.is_some() || node.running.is_some(), "{id} is checked no more");
            let interval = world.controller.settings.health.checks.map_or(0, |c| c.interval);
            let longest = world.now + interval * 3 / 2;
            assert!(node.due.is_none_or(|due| due.at <= longest), "{id} is checked too late");
        }
    }
}

/// A change has its cause and the evidence for it.
fn changed(world: &mut World, id: Id, change: &Change) {
    if !change.to.is_usable() {
        world.watch.failed_hooks.remove(&id);
    }
    let settings = &world.controller.settings.health;
    let is_evidence = match (change.cause, &change.evidence) {
        (health::Cause::Probe, Evidence::ChecksFailed { count, .. }) => {
            !change.to.is_usable() && settings.checks.is_some_and(|policy| *count >= policy.fall)
        }
        (health::Cause::Probe, Evidence::ChecksPassed(count)) => {
            let rise = settings.checks.map_or(1, |policy| policy.rise);
            change.from == State::Unknown || *count >= rise
        }
        (health::Cause::Outlier, Evidence::Failures { count, .. }) => {
            let needed = settings.outlier.map_or(1, |policy| policy.consecutive_failures);
            !change.to.is_usable() && *count >= needed
        }
        (health::Cause::Outlier, Evidence::TrialPassed) => change.from == State::Ejected,
        (health::Cause::Operator, Evidence::Operator | Evidence::Configuration) => true,
        (health::Cause::Resolve, Evidence::Resolved | Evidence::Unresolved) => true,
        _ => false,
    };
    assert!(is_evidence, "{id}: {change:?}");
    assert!(change.first_sign.is_none_or(|sign| sign <= world.now), "{id}: {change:?}");
    let counts = world.watch.counts.entry(id).or_default();
    match change.turn {
        Some(Turn::Evicted) => counts.evictions[change.cause as usize] += 1,
        Some(Turn::Reinstated) => counts.reinstatements[change.cause as usize] += 1,
        None => {}
    }
    match change.action() {
        Some(Turn::Evicted) => counts.evict_actions += 1,
        Some(Turn::Reinstated) => counts.reinstate_actions += 1,
        None => {}
    }
}

/// The whole priority in use is in rotation, or everybody in panic.
fn rotation(world: &World) {
    let choice = &world.controller.choice;
    let nodes = &world.controller.nodes;
    let naive = |index: usize| &world.outside[&nodes[index].id].naive;
    let counted: Vec<usize> = (0..nodes.len())
        .filter(|i| nodes[*i].weight.value() > 0 && !is_out(naive(*i).state))
        .collect();
    let usable: Vec<usize> = counted.iter().copied().filter(|i| naive(*i).is_usable()).collect();
    let threshold = world.controller.settings.rotation.panic_threshold as usize;
    let is_panic = usable.len() * 100 < threshold * counted.len();
    assert_eq!(choice.is_panic, is_panic, "{} of {}", usable.len(), counted.len());
    let mut chosen: Vec<_> = choice.chosen.iter().map(|c| c.index).collect();
    chosen.sort_unstable();
    if is_panic {
        assert_eq!(chosen, counted, "in panic all are used");
        return;
    }
    let open: Vec<usize> = chosen.iter().copied().filter(|i| naive(*i).is_usable()).collect();
    let Some(level) = open.first().map(|index| nodes[*index].priority) else {
        assert!(usable.is_empty(), "nobody is used, {usable:?} are usable");
        return;
    };
    let same: Vec<usize> = usable.iter().copied().filter(|i| nodes[*i].priority == level).collect();
    let healthy: Vec<usize> =
        same.iter().copied().filter(|i| naive(*i).state == State::Healthy).collect();
    assert_eq!(open, if healthy.is_empty() { same } else { healthy }, "priority {level}");
}

/// Another priority is in use: because the other one has nobody, or by failback.
fn level_moved(world: &World, from: Option<u32>, to: Option<u32>, members: &[Standby]) {
    let usable = |level: u32| {
        members.iter().any(|member| {
            let is_usable = matches!(member.fitness, Fitness::Healthy(_) | Fitness::Unknown);
            member.priority == level && is_usable
        })
    };
    let Some(to) = to else {
        assert!(!(0..9).any(usable), "no priority in use");
        return;
    };
    if let Some(from) = from.filter(|from| usable(*from)) {
        let policy = world.controller.settings.failover;
        let is_ripe = |member: &Standby| match member.fitness {
            Fitness::Healthy(age) => member.priority == to && age >= policy.failback_delay,
            _ => false,
        };
        assert!(to < from && policy.failback == Failback::Auto, "priority {from} to {to}");
        assert!(members.iter().any(is_ripe), "back to priority {to} too early");
    } else {
        assert_eq!((0..9).find(|level| usable(*level)), Some(to), "not the lowest");
    }
}

/// Whoever may not be used is not.
fn nobody_wrong_in_rotation(world: &World) {
    let choice = &world.controller.choice;
    for chosen in &choice.chosen {
        let node = &world.controller.nodes[chosen.index];
        let naive = &world.outside[&node.id].naive;
        let id = node.id;
        assert!(chosen.weight > 0 && node.weight.value() > 0, "{id} in rotation with no weight");
        assert!(!is_out(naive.state), "{id} in rotation, {:?}", naive.state);
        assert_eq!(chosen.trial, node.health.trial(), "trial of {id}");
        let is_trial =
            naive.state == State::Ejected && naive.ejected.is_some_and(|e| e.is_on_trial);
        if !choice.is_panic {
            assert!(naive.is_usable() || is_trial, "{id} in rotation, {:?}", naive.state);
            let is_alone = choice.chosen.iter().all(|chosen| chosen.trial.is_some());
            assert_eq!(chosen.is_limited, is_trial && !is_alone, "{id} gets one connection");
        }
        assert_ne!(naive.told, Operator::Disabled);
    }
}

/// Shares grow in a straight line from ten percent after a return, and are whole otherwise.
fn slow_start(world: &mut World) {
    let choice = &world.controller.choice;
    if choice.is_panic || world.controller.role.is_some() {
        world.watch.shares.clear();
        return;
    }
    let scale = if choice.wake.is_some() { 20 } else { 1 };
    let (unix, mut shares) = (world.unix(), BTreeMap::new());
    for chosen in &choice.chosen {
        let node = &world.controller.nodes[chosen.index];
        let whole = u64::from(node.weight.value()) * scale;
        let share = u64::from(chosen.weight) * 1000 / whole;
        let span = world.controller.settings.rotation.slow_start;
        let naive = &world.outside[&node.id].naive;
        let (Some(span), Some(returned)) = (span, naive.returned) else {
            assert_eq!(share, 1000, "{} was never away", node.id);
            continue;
        };
        let line = (100 + 900 * (unix - returned) / span).min(1000);
        assert!(share <= line + 1 && share + 51 >= line, "{}: {share} at {line}", node.id);
        let known = (returned, node.weight.value(), span, share);
        if let Some((since, weight, then, before)) = world.watch.shares.get(&node.id) {
            let is_same = (*since, *weight, *then) == (known.0, known.1, known.2);
            assert!(!is_same || share >= *before, "{}: {before} down to {share}", node.id);
        }
        shares.insert(node.id, known);
    }
    world.watch.shares = shares;
}
