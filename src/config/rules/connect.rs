//! What is between the keys of names.

use super::super::model::Resolve;
use super::super::problem::{Path, Problems};
use super::super::scalar::boolean;
use super::super::tree::Node;
use super::super::unit::print_duration;
use super::address_of;
use super::health::duration;

/// Checks a pool.
pub(super) fn check(pool: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    if let Some(resolve) = pool.get("resolve") {
        check_bounds(resolve, &path.key("resolve"), problems);
    }
    for (index, backend) in pool.get("backends").map_or(&[][..], Node::items).iter().enumerate() {
        let path = path.key("backends");
        check_service(backend, &path.index(index), problems);
    }
}

fn check_bounds(resolve: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let (min, max) = (resolve.get("min_interval"), resolve.get("max_interval"));
    let told = min.map(|node| ("min_interval", node)).or(max.map(|node| ("max_interval", node)));
    let Some((key, node)) = told else { return };
    let default = Resolve::default();
    let min = duration(resolve, "min_interval", default.min_interval);
    let max = duration(resolve, "max_interval", default.max_interval);
    let (Some(min), Some(max)) = (min, max) else { return };
    if min > max {
        problems.add(node.pos, &path.key(key), || {
            format!(
                "min_interval ({}) is longer than max_interval ({}); expected at most that",
                print_duration(min),
                print_duration(max)
            )
        });
    }
}

/// What a service says itself.
fn check_service(backend: &Node<'_>, path: &Path<'_>, problems: &mut Problems) {
    let address = address_of(backend).and_then(Node::text);
    if !address.is_some_and(|text| text.starts_with("srv+")) {
        return;
    }
    for (key, default) in [("weight", "1"), ("priority", "0"), ("backup", "false")] {
        // `backup: off` in any spelling says nothing.
        let says = |node: &&Node<'_>| {
            node.text().is_some_and(|t| t != default && boolean(t) != Some(false))
        };
        if let Some(node) = backend.get(key).filter(says) {
            problems.add(node.pos, &path.key(key), || {
                "a service (srv+) has weights and priorities of its own; leave it out".into()
            });
        }
    }
}
