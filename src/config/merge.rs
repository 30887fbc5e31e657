//! `defaults` under listeners and pools, before there are values.
//!
//! The keys of sections are merged one by one; values, lists and choices are replaced as a whole.

use super::problem::{Path, Problems};
use super::read::{MAX_NODES, Read};
use super::shape::{Section, Shape};
use super::tree::{Entry, Kind, Node};

/// Puts `defaults.listener` under every listener and `defaults.pool` under every pool.
///
/// `None` when that is more than the budget of nodes allows.
pub(super) fn merge_defaults(
    read: &mut Read<'_>,
    shape: &Shape,
    problems: &mut Problems,
) -> Option<()> {
    let Shape::Section(file) = shape else { return Some(()) };
    let Kind::Map(root) = &mut read.root.kind else { return Some(()) };
    let Some(at) = root.iter().position(|entry| entry.key == "defaults") else { return Some(()) };
    let defaults = root.swap_remove(at);
    let merged = merge_all(read, &defaults.value, file, problems);
    if let Kind::Map(root) = &mut read.root.kind {
        root.push(defaults);
    }
    merged
}

fn merge_all<'a>(
    read: &mut Read<'a>,
    defaults: &Node<'a>,
    file: &Section,
    problems: &mut Problems,
) -> Option<()> {
    for (one, all) in [("listener", "listeners"), ("pool", "pools")] {
        let Some(Shape::Named { value, .. }) = file.key(all).map(|key| &key.shape) else {
            continue;
        };
        let (Some(defaults), Shape::Section(section)) = (defaults.get(one), &**value) else {
            continue;
        };
        let Kind::Map(root) = &mut read.root.kind else { continue };
        let Some(named) = root.iter_mut().find(|entry| entry.key == all) else { continue };
        let Kind::Map(named) = &mut named.value.kind else { continue };
        for entry in named {
            if merge(&mut entry.value, defaults, section, &mut read.nodes_left).is_none() {
                problems.add(entry.key_pos, &Path::Root.key(all).key(&entry.key), || {
                    format!(
                        "more than {MAX_NODES} keys and values, counting what \"defaults\" repeats"
                    )
                });
                return None;
            }
        }
    }
    Some(())
}

/// Puts `under` below the keys of `over`, where both are maps. `None` = over budget.
fn merge<'a>(
    over: &mut Node<'a>,
    under: &Node<'a>,
    section: &Section,
    nodes_left: &mut usize,
) -> Option<()> {
    let Kind::Map(entries) = &mut over.kind else { return Some(()) };
    let is_one_of = |key: &str| section.one_of.iter().any(|one| one == key);
    let is_said = entries.iter().any(|own| is_one_of(&own.key));
    // Unknown and double keys are reported; they would only cost time here.
    let known = under.entries().iter().filter(|entry| !entry.is_double);
    for default in known.filter(|entry| section.key(&entry.key).is_some()) {
        match entries.iter_mut().find(|entry| entry.key == default.key) {
            Some(own) => {
                let shape = section.key(&own.key).and_then(|key| key.shape.section());
                if let Some(section) = shape {
                    merge(&mut own.value, &default.value, section, nodes_left)?;
                }
            }
            // What the section says in other words is not said again.
            None if is_said && is_one_of(&default.key) => {}
            None => {
                *nodes_left = nodes_left.checked_sub(1 + default.value.cost())?;
                entries.push(Entry::clone(default));
            }
        }
    }
    Some(())
}
