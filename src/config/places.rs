//! Where the values of a configuration are in its file, for what is said of them later.

use super::model::Config;
use super::problem::{Path, Problem, Problems};
use super::tree::{Kind, Node};

/// A configuration and where its values are.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where its values are.
    pub places: Places,
}

/// Where the values of a configuration are in its file. What comes from `defaults` is there.
#[derive(Clone, Debug)]
pub struct Places {
    root: Node<'static>,
}

/// A step on the way to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'s> {
    /// The value of this key of a section or a map of names.
    Key(&'s str),
    /// This item of a list, counted from 0.
    Item(usize),
}

impl Places {
    pub(super) fn new(root: Node<'_>) -> Self {
        Self { root: root.into_owned() }
    }

    /// Whether the file, or its `defaults`, says something at this place.
    #[must_use]
    pub fn has(&self, steps: &[Step<'_>]) -> bool {
        steps.iter().try_fold(&self.root, |node, step| below(node, *step)).is_some()
    }

    /// The text that stands at this place, where it is one piece of text.
    #[must_use]
    pub fn text(&self, steps: &[Step<'_>]) -> Option<&str> {
        steps.iter().try_fold(&self.root, |node, step| below(node, *step))?.text()
    }

    /// Something to say of the value at a place; where the file says nothing there, it is told at
    /// the section that would hold it. Looks at every key on the way.
    #[must_use]
    pub fn problem(&self, steps: &[Step<'_>], message: String) -> Problem {
        let mut node = &self.root;
        for step in steps {
            let Some(next) = below(node, *step) else { break };
            node = next;
        }
        let mut problems = Problems::default();
        with_path(&Path::Root, steps, &mut |path| {
            problems.push(node.pos, path, || message.clone());
        });
        problems.into_list().remove(0)
    }
}

fn below<'n>(node: &'n Node<'static>, step: Step<'_>) -> Option<&'n Node<'static>> {
    match (step, &node.kind) {
        (Step::Key(key), Kind::Map(_)) => node.get(key),
        (Step::Item(index), Kind::List(items)) => items.get(index),
        // One of a list may stand for it.
        (Step::Item(0), Kind::Scalar(_)) => Some(node),
        _ => None,
    }
}

fn with_path(path: &Path<'_>, steps: &[Step<'_>], tell: &mut dyn FnMut(&Path<'_>)) {
    match steps {
        [] => tell(path),
        [Step::Key(key), rest @ ..] => with_path(&path.key(key), rest, tell),
        [Step::Item(index), rest @ ..] => with_path(&path.index(*index), rest, tell),
    }
}
