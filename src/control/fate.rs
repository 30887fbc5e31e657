//! Why a backend is in rotation, or is not: in words, for who asks what would be chosen.

use super::keeper::Node;
use super::pool::Controlled;
use crate::failover::{Failover, Role};
use crate::health::State;
use crate::state::Rotation;

/// Why those that are not usable are used.
pub(super) const PANIC: &str = "fewer are usable than panic_threshold says";

/// Why a backend could get the connection, or why not; `evidence` is that of its state.
pub(super) fn fate(
    pool: &Controlled,
    rotation: &Rotation,
    (node, evidence): (&Node, &str),
) -> String {
    let state = node.health.state().as_str();
    if !pool.is_in_rotation(node.id) {
        return why_not(pool, node, evidence);
    }
    if rotation.full().any(|id| id == node.id) {
        return "in rotation, but at its max_connections".to_owned();
    }
    if pool.keeper.choice.is_panic {
        return format!("in rotation, because {PANIC}: {state}: {evidence}");
    }
    if node.health.trial().is_some() {
        return format!("in rotation for one connection at a time, its trial: {state}: {evidence}");
    }
    format!("in rotation: {state}: {evidence}")
}

fn why_not(pool: &Controlled, node: &Node, evidence: &str) -> String {
    let state = node.health.state();
    if !state.is_usable() {
        return format!("{}: {evidence}", state.as_str());
    }
    if node.weight.value() == 0 {
        return "its weight is 0".to_owned();
    }
    if let Some(role) = &pool.keeper.role {
        return standby(pool, role, node);
    }
    let level = pool.keeper.levels.level();
    match level.filter(|level| *level != node.priority) {
        Some(level) => {
            format!("priority {level} is in use, it has priority {}", node.priority)
        }
        None if state == State::Unknown => {
            format!("unknown, and its priority has a healthy one: {evidence}")
        }
        None => "not in rotation yet".to_owned(),
    }
}

/// Why a backend of a hot standby that could have the active role has it not.
fn standby(pool: &Controlled, role: &Failover, node: &Node) -> String {
    let name = |id| pool.name_of(id).unwrap_or_else(|| "another one".into());
    match role.role() {
        Role::Active(active) => format!("standby: {} is active", name(active)),
        Role::Preparing(next) if next == node.id => {
            "about to be active: its actions before traffic run, connections wait".to_owned()
        }
        Role::Preparing(next) => format!("standby: {} is about to be active", name(next)),
        Role::Vacant if role.barred().contains(&node.id) => {
            "its actions before traffic have failed".to_owned()
        }
        Role::Vacant => "standby: nobody is active".to_owned(),
    }
}

/// Why nobody is in rotation.
pub(super) fn nobody(pool: &Controlled) -> String {
    match pool.preparing().and_then(|id| pool.name_of(id)) {
        Some(next) => format!("connections wait: the actions before traffic of {next} run"),
        None => "no backend is in rotation".to_owned(),
    }
}
