//! A configuration as a tree of text, each piece with its place in the file.
//!
//! Scalars stay text: what `off`, `017` or `1e3` means is decided by whoever knows what is expected
//! at their place, so no flavour of YAML can turn one into something else.

use std::borrow::Cow;

/// A place in a file, counted from 1; columns in characters. Line 0: not from a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pos {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node<'a> {
    pub(super) pos: Pos,
    /// Where an alias put this copy.
    pub(super) alias: Option<Pos>,
    pub(super) kind: Kind<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    /// No value, `~` or `null`.
    Nothing,
    Scalar(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
    /// Something whose problem is reported already: to be passed over in silence.
    Broken,
}

/// A key of a map and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) key_pos: Pos,
    /// The map has the key already; what is wrong in this value is still told.
    pub(super) is_double: bool,
    pub(super) value: Node<'a>,
}

impl<'a> Node<'a> {
    /// The same, borrowing nothing.
    pub(super) fn into_owned(self) -> Node<'static> {
        let kind = match self.kind {
            Kind::Nothing => Kind::Nothing,
            Kind::Broken => Kind::Broken,
            Kind::Scalar(text) => Kind::Scalar(Cow::Owned(text.into_owned())),
            Kind::List(items) => Kind::List(items.into_iter().map(Node::into_owned).collect()),
            Kind::Map(entries) => {
                let owned = |entry: Entry<'a>| Entry {
                    key: Cow::Owned(entry.key.into_owned()),
                    key_pos: entry.key_pos,
                    is_double: entry.is_double,
                    value: entry.value.into_owned(),
                };
                Kind::Map(entries.into_iter().map(owned).collect())
            }
        };
        Node { pos: self.pos, alias: self.alias, kind }
    }

    pub(super) fn new(pos: Pos, kind: Kind<'a>) -> Self {
        Self { pos, alias: None, kind }
    }

    /// Where it is used, for what is wrong with its being there and not with itself.
    pub(super) fn place(&self) -> Pos {
        self.alias.unwrap_or(self.pos)
    }

    /// The value of a key; nothing where this is no map. Looks at every key before it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The entries of a map; none of anything else.
    pub(super) fn entries(&self) -> &[Entry<'a>] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// What a copy of it costs: its nodes, and its text.
    pub(super) fn cost(&self) -> usize {
        match &self.kind {
            Kind::Nothing | Kind::Broken => 1,
            Kind::Scalar(text) => 1 + text.len() / 32,
            Kind::List(items) => 1 + items.iter().map(Node::cost).sum::<usize>(),
            Kind::Map(entries) => {
                let cost = |entry: &Entry<'_>| entry.key.len() / 32 + entry.value.cost();
                1 + entries.iter().map(cost).sum::<usize>()
            }
        }
    }

    /// How deep it is: 1 for a scalar.
    pub(super) fn depth(&self) -> usize {
        let below = match &self.kind {
            Kind::List(items) => items.iter().map(Node::depth).max(),
            Kind::Map(entries) => entries.iter().map(|entry| entry.value.depth()).max(),
            _ => None,
        };
        1 + below.unwrap_or(0)
    }
}
