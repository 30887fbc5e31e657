//! What must hold of the active role.

use tidegate::failover::{Cause, Failback, Id, Role, Switch};
use tidegate::health::State;

use crate::invariants::{is_on_trial, is_usable};
use crate::world::World;

/// The order of taking over, told naively.
fn order(world: &World) -> Vec<Id> {
    let mut order: Vec<(u32, usize, Id)> = Vec::new();
    for (index, node) in world.controller.nodes.iter().enumerate() {
        order.push((node.priority, index, node.id));
    }
    order.sort_unstable();
    order.into_iter().map(|(.., id)| id).collect()
}

/// Who may take over, the first one first.
fn successors(world: &World) -> Vec<Id> {
    let failed = &world.watch.failed_hooks;
    let order = order(world);
    let may = |id: &&Id| is_usable(world, **id) && !failed.contains(*id);
    let priority = |id: Id| world.controller.node(id).map(|node| node.priority);
    let is_healthy = |id: Id| world.outside[&id].naive.state == State::Healthy;
    let mut successors: Vec<_> = order.iter().filter(may).copied().collect();
    // Within a priority the unknown ones come last.
    successors.sort_by_key(|id| (priority(*id), !is_healthy(*id)));
    successors
}

pub(crate) fn prepared(world: &mut World, to: Id, serial: u64) {
    if world.watch.failed_hooks.contains(&to) {
        let usable: Vec<_> = order(world).into_iter().filter(|id| is_usable(world, *id)).collect();
        let all_failed = usable.iter().all(|id| world.watch.failed_hooks.contains(id));
        let is_named = world.controller.role.as_ref().is_some_and(|role| role.is_pinned());
        assert!(all_failed || is_named, "{to} is tried again though there are others");
        if is_named {
            world.watch.failed_hooks.remove(&to);
        } else {
            world.watch.failed_hooks.clear();
        }
    }
    world.watch.prepared = Some((to, serial));
    world.watch.hook_ok = false;
}

pub(crate) fn switched(world: &mut World, switch: &Switch) {
    let Switch { from, to, why } = switch;
    if !world.controller.settings.failover.has_hooks {
        world.watch.failed_hooks.clear();
    }
    assert_eq!(*from, world.watch.last, "who had the role");
    assert_eq!(world.watch.holder.replace(*to), None, "two are active at one time");
    let policy = world.controller.settings.failover;
    let hook_ok = std::mem::take(&mut world.watch.hook_ok);
    let prepared = world.watch.prepared.take();
    let is_prepared = prepared.is_some() || world.watch.abandoned.take() == Some(*to);
    if prepared.is_some() {
        assert!(hook_ok, "traffic before the actions ended");
        assert_eq!(prepared.map(|(id, _)| id), Some(*to), "the actions ran for another one");
    } else if switch.is_takeover() {
        assert!(!policy.has_hooks, "traffic before the actions");
    }
    if why.cause == Cause::Failback && switch.is_takeover() && !is_prepared {
        assert_eq!(policy.failback, Failback::Auto, "a failback by itself");
        let naive = &world.outside[to].naive;
        assert_eq!(naive.state, State::Healthy, "a failback to one that is not healthy");
        assert!(world.unix() - naive.since >= policy.failback_delay, "a failback too early");
        let order = order(world);
        let place = |id| order.iter().position(|other| *other == id);
        assert!(place(*to) < from.and_then(place).or(Some(usize::MAX)), "a failback backwards");
    }
    let is_word = why.cause == Cause::Operator
        && world.controller.role.as_ref().is_some_and(|r| r.is_pinned());
    if !is_prepared && !is_word && why.cause != Cause::Failback && switch.is_takeover() {
        match successors(world).first() {
            Some(first) => assert_eq!(first, to, "not the next in order"),
            None => {
                assert_eq!(world.outside[to].naive.state, State::Ejected, "nobody to take over");
            }
        }
    }
    world.watch.last = Some(*to);
    world.watch.is_pinned = world.controller.role.as_ref().is_some_and(|role| role.is_pinned());
}

/// One is active while one is usable, and nobody else gets a connection.
pub(crate) fn hot_standby(world: &mut World) {
    if !world.controller.settings.failover.has_hooks {
        world.watch.failed_hooks.clear();
    }
    let usable: Vec<_> = order(world).into_iter().filter(|id| is_usable(world, *id)).collect();
    let mut failed = std::mem::take(&mut world.watch.failed_hooks);
    failed.retain(|id| usable.contains(id) || is_on_trial(world, *id));
    world.watch.failed_hooks = failed;
    let failed = &world.watch.failed_hooks;
    let is_left = |id: &Id| !failed.contains(id);
    match world.role().expect("it is a hot standby") {
        Role::Active(id) | Role::Preparing(id) if usable.contains(&id) => {}
        Role::Active(id) | Role::Preparing(id) => {
            assert!(!usable.iter().any(is_left), "{id} is active, others are usable");
            assert!(is_on_trial(world, id), "{id} is active and down");
        }
        Role::Vacant => assert!(!usable.iter().any(is_left), "nobody is active, {usable:?} usable"),
    }
    let chosen = &world.controller.choice.chosen;
    let ids: Vec<_> = chosen.iter().map(|c| world.controller.nodes[c.index].id).collect();
    let active = world.controller.role.as_ref().and_then(|role| role.active());
    assert_eq!(active, world.watch.holder, "who was told to be active");
    assert_eq!(ids, active.into_iter().collect::<Vec<_>>(), "who gets connections");
}
