//! YAML text → a located tree, within budgets.
//!
//! The parser streams: it holds no more than one line's worth of a file, and nesting is bounded
//! within it. What it yields is charged against a budget of nodes, aliases with all they stand for.
//! So the time is linear in the size of the text and the memory is bounded, whatever the text is.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::expand::{MAX_EXPANDED, expand};
use super::problem::{Path, Problems, show};
use super::tree::{Entry, Kind, Node, Pos};

/// Bytes of a configuration.
pub const MAX_BYTES: usize = 16 << 20;
/// Values of a configuration, those that aliases and `defaults` repeat included.
pub const MAX_NODES: usize = 500_000;
/// How deep lists and maps may be nested.
pub const MAX_DEPTH: usize = 32;

/// The environment, as a function.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A tree, and how many nodes may still be added to it.
pub(super) struct Read<'a> {
    pub(super) root: Node<'a>,
    pub(super) nodes_left: usize,
}

/// Reads a text of at most [`MAX_BYTES`]; `None` when there is no tree, for a reason that is
/// reported. A tree may come with problems too.
pub(super) fn read<'a>(text: &'a str, env: Env<'_>, problems: &mut Problems) -> Option<Read<'a>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    // Directives: nothing that they say is of use here, and their number is not bounded.
    options.disallow_directives = true;
    let mut reader = Reader {
        env,
        problems,
        text,
        frames: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        nodes_left: MAX_NODES,
        bytes_left: MAX_EXPANDED,
        documents: 0,
    };
    for item in Parser::new_from_str_with_options(text, options) {
        let end = match item {
            Ok((event, span)) => reader.event(event, span.start, span.tag_start),
            Err(error) => reader.syntax(&error),
        };
        end?;
    }
    let root = reader.root.take();
    if root.is_none() {
        reader.problems.add(Pos { line: 1, column: 1 }, &Path::Root, || {
            "the file is empty; expected listeners and pools".to_owned()
        });
    }
    Some(Read { root: root?, nodes_left: reader.nodes_left })
}

struct Reader<'r, 'a> {
    env: Env<'r>,
    problems: &'r mut Problems,
    text: &'a str,
    frames: Vec<Frame<'a>>,
    root: Option<Node<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    nodes_left: usize,
    bytes_left: usize,
    documents: usize,
}

/// A list or map that has begun and not ended.
struct Frame<'a> {
    pos: Pos,
    anchor: usize,
    open: Open<'a>,
}

enum Open<'a> {
    List(Vec<Node<'a>>),
    Map { entries: Vec<Entry<'a>>, seen: HashMap<Cow<'a, str>, Pos>, key: Key<'a> },
}

/// What a map waits for.
enum Key<'a> {
    /// A key.
    None,
    /// The value of a key.
    Some { key: Cow<'a, str>, pos: Pos, is_double: bool },
    /// The value of a key that is wrong; it is thrown away.
    Wrong,
}

impl<'a> Reader<'_, 'a> {
    /// Takes one event; `None` = reading ends here.
    fn event(&mut self, event: Event<'a>, at: Marker, tag_at: Option<Marker>) -> Option<()> {
        let pos = pos_of(at);
        match event {
            Event::DocumentStart(..) => return self.document(pos),
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(tag.as_deref(), tag_at.map_or(pos, pos_of));
                let node = self.scalar(text, style, pos);
                if self.bytes_left == 0 {
                    return None;
                }
                self.remember(anchor, &node)?;
                return self.place(node, 1);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), tag_at.map_or(pos, pos_of));
                let pos = self.first_dash(at);
                self.frames.push(Frame { pos, anchor, open: Open::List(Vec::new()) });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), tag_at.map_or(pos, pos_of));
                let open = Open::Map { entries: Vec::new(), seen: HashMap::new(), key: Key::None };
                self.frames.push(Frame { pos, anchor, open });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.frames.pop() {
                    let kind = match frame.open {
                        Open::List(items) => Kind::List(items),
                        Open::Map { entries, .. } => Kind::Map(entries),
                    };
                    let node = Node::new(frame.pos, kind);
                    self.remember(frame.anchor, &node)?;
                    return self.place(node, 1);
                }
            }
            Event::Alias(anchor) => return self.alias(anchor, pos),
            _ => {}
        }
        if self.frames.len() > MAX_DEPTH {
            return self.stop(pos, too_deep);
        }
        Some(())
    }

    /// Where a list begins. The parser has a list that is no deeper than its key begin behind its
    /// first dash.
    fn first_dash(&self, at: Marker) -> Pos {
        let pos = pos_of(at);
        let before = at.byte_offset().and_then(|offset| self.text.get(..offset)).unwrap_or("");
        let is_at_item = !self.text[before.len()..].starts_with(['-', '[']);
        let gap = before.len() - before.trim_end_matches([' ', '\t']).len();
        let to_dash = u32::try_from(gap + 1).unwrap_or(u32::MAX);
        if is_at_item && before[..before.len() - gap].ends_with('-') && to_dash < pos.column {
            return Pos { column: pos.column - to_dash, ..pos };
        }
        pos
    }

    fn document(&mut self, pos: Pos) -> Option<()> {
        self.documents += 1;
        if self.documents > 1 {
            return self.stop(pos, || {
                "a second document begins here; a configuration is one YAML document".to_owned()
            });
        }
        Some(())
    }

    fn scalar(&mut self, text: Cow<'a, str>, style: ScalarStyle, pos: Pos) -> Node<'a> {
        let is_plain = style == ScalarStyle::Plain;
        if is_plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL") {
            return Node::new(pos, Kind::Nothing);
        }
        let kind = match expand(text, self.env, &mut self.bytes_left) {
            Ok(text) => Kind::Scalar(text),
            Err(messages) => {
                for message in messages {
                    self.problem(pos, || message);
                }
                Kind::Broken
            }
        };
        Node::new(pos, kind)
    }

    fn alias(&mut self, anchor: usize, pos: Pos) -> Option<()> {
        let Some(node) = self.anchors.get(&anchor) else {
            return self.stop(pos, || "this alias stands within what it stands for".to_owned());
        };
        let cost = node.cost();
        if self.frames.len() + node.depth() > MAX_DEPTH {
            return self.stop(pos, too_deep);
        }
        if cost > self.nodes_left {
            return self.stop(pos, too_many);
        }
        let node = Node { alias: Some(pos), ..node.clone() };
        self.place(node, cost)
    }

    /// Keeps a copy of what an anchor names.
    fn remember(&mut self, anchor: usize, node: &Node<'a>) -> Option<()> {
        if anchor == 0 {
            return Some(());
        }
        let cost = node.cost();
        if cost > self.nodes_left {
            return self.stop(node.pos, too_many);
        }
        self.nodes_left -= cost;
        self.anchors.insert(anchor, node.clone());
        Some(())
    }

    /// Puts a finished node where it belongs: as a key, as a value, as an item, as the root.
    fn place(&mut self, mut node: Node<'a>, cost: usize) -> Option<()> {
        let Some(left) = self.nodes_left.checked_sub(cost) else {
            return self.stop(node.pos, too_many);
        };
        self.nodes_left = left;
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut frame.open {
            Open::List(items) => items.push(node),
            Open::Map { entries, key, .. } => match std::mem::replace(key, Key::None) {
                Key::None => self.key(node),
                Key::Wrong => {}
                Key::Some { key, pos: key_pos, is_double } => {
                    if node.kind == Kind::Nothing {
                        // There is nothing to point at but its key.
                        node.pos = key_pos;
                    }
                    entries.push(Entry { key, key_pos, is_double, value: node });
                }
            },
        }
        Some(())
    }

    /// Takes a node as the next key of the innermost map.
    fn key(&mut self, node: Node<'a>) {
        let pos = node.pos;
        let next = match node.kind {
            Kind::Scalar(text) if text == "<<" => {
                self.problem(pos, || {
                    "merge keys are not supported; use \"defaults\", or an alias for a whole value"
                        .to_owned()
                });
                Key::Wrong
            }
            Kind::Scalar(key) => {
                let first = self.first_place(key.clone(), pos);
                let is_double = first != pos;
                if is_double {
                    let message =
                        || format!("duplicate key {}; line {} has it too", show(&key), first.line);
                    let problem = (pos, message);
                    report(self.problems, &self.frames, &Path::Root, Some(&key), problem);
                }
                Key::Some { key, pos, is_double }
            }
            Kind::Broken => Key::Wrong,
            Kind::Nothing => {
                self.problem(pos, || "expected a key, found nothing".to_owned());
                Key::Wrong
            }
            Kind::List(_) | Kind::Map(_) => {
                self.problem(pos, || {
                    "expected plain text as a key, found a list or map".to_owned()
                });
                Key::Wrong
            }
        };
        if let Some(Frame { open: Open::Map { key, .. }, .. }) = self.frames.last_mut() {
            *key = next;
        }
    }

    /// Where the innermost map has this key for the first time; it may be here.
    fn first_place(&mut self, key: Cow<'a, str>, pos: Pos) -> Pos {
        match self.frames.last_mut() {
            Some(Frame { open: Open::Map { seen, .. }, .. }) => *seen.entry(key).or_insert(pos),
            _ => pos,
        }
    }

    fn tag(&mut self, tag: Option<&Tag>, pos: Pos) {
        if let Some(tag) = tag {
            let tag = tag.to_string().replace("tag:yaml.org,2002:", "!!");
            self.problem(pos, || format!("tags are not supported; remove {}", show(&tag)));
        }
    }

    fn problem(&mut self, pos: Pos, message: impl FnOnce() -> String) {
        report(self.problems, &self.frames, &Path::Root, None, (pos, message));
    }

    /// Adds a last problem.
    fn stop(&mut self, pos: Pos, message: impl FnOnce() -> String) -> Option<()> {
        self.problem(pos, message);
        None
    }

    fn syntax(&mut self, error: &ScanError) -> Option<()> {
        let pos = pos_of(*error.marker());
        if *error.kind() == ErrorKind::RecursionLimitExceeded {
            return self.stop(pos, too_deep);
        }
        let line = self.text.lines().nth((pos.line as usize).saturating_sub(1)).unwrap_or("");
        let hint = hint(error.kind(), line);
        self.stop(pos, || format!("not valid YAML: {}{hint}", error.kind()))
    }
}

/// Adds a problem under the path of what is being read: the open keys, then `last`.
fn report(
    problems: &mut Problems,
    frames: &[Frame<'_>],
    path: &Path<'_>,
    last: Option<&str>,
    problem: (Pos, impl FnOnce() -> String),
) {
    match (frames.split_first(), last) {
        (Some((Frame { open: Open::List(items), .. }, inner)), _) => {
            report(problems, inner, &path.index(items.len()), last, problem);
        }
        (Some((Frame { open: Open::Map { key: Key::Some { key, .. }, .. }, .. }, inner)), _) => {
            report(problems, inner, &path.key(key), last, problem);
        }
        (Some((_, inner)), _) => report(problems, inner, path, last, problem),
        (None, Some(last)) => problems.push(problem.0, &path.key(last), problem.1),
        (None, None) => problems.push(problem.0, path, problem.1),
    }
}

fn too_deep() -> String {
    format!("lists and maps may be nested {MAX_DEPTH} deep, these are deeper")
}

fn too_many() -> String {
    format!("more than {MAX_NODES} keys and values, counting what aliases repeat")
}

fn pos_of(marker: Marker) -> Pos {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Pos { line: number(marker.line()), column: number(marker.col() + 1) }
}

/// What is behind the usual syntax errors of a configuration.
fn hint(kind: &ErrorKind, line: &str) -> &'static str {
    let in_flow = line.contains('{') || line.contains('[');
    if in_flow && line.contains("${") {
        "; within {…} and […], put ${…} in quotes"
    } else if line.contains("[:") || line.contains("]:") {
        "; put IPv6 addresses in quotes: \"[::]:443\""
    } else if line.contains('\t')
        || matches!(kind, ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation)
    {
        "; indent with spaces, not with tabs"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests;
