//! From the parser's events to a tree of [`Node`]s, within limits: a hostile file costs a diagnostic, not the memory.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span as ParserSpan, options};

use crate::domain::diagnostic::{Code, Diagnostic};
use crate::domain::source::Span;
use crate::domain::yaml::syntax::{syntax, too_deep, unknown_alias};
use crate::domain::yaml::{Entry, Key, Node, NodeKind, scalar};

/// Collections in collections. A DAG file needs about six; what a person can follow ends far below this.
pub(super) const DEEPEST: usize = 64;

/// What anchors and aliases may add to a file in all, each of which keeps or brings a copy: in values and in pieces of
/// [`TEXT_PER_VALUE`] bytes, about 100 MB at the most.
const MOST_ALIASED: usize = 500_000;

/// So much text weighs as one value.
const TEXT_PER_VALUE: usize = 64;

/// A file as it was read.
#[derive(Debug, Default)]
pub(in crate::domain) struct Document {
    /// The value of the file, unless it is empty or could not be read to its end.
    pub(in crate::domain) root: Option<Node>,
    /// What was wrong with it.
    pub(in crate::domain) problems: Vec<Diagnostic>,
    /// Keys that stood twice in one mapping, with the way to it.
    pub(in crate::domain) duplicates: Vec<Duplicate>,
    /// Whether the reader gave up before the end.
    pub(in crate::domain) broken: bool,
}

/// A key that its mapping already had; the first one counts.
#[derive(Debug)]
pub(in crate::domain) struct Duplicate {
    pub(in crate::domain) key: Key,
    pub(in crate::domain) first: Span,
    /// The keys from the top down to the mapping.
    pub(in crate::domain) path: Vec<String>,
}

/// Reads a whole file.
pub(in crate::domain) fn read(text: &str) -> Document {
    let mut reader = Reader { text, ..Reader::default() };
    let parser = Parser::new_from_str_with_options(
        text,
        options! { flow_nesting_limit: DEEPEST, block_nesting_limit: DEEPEST, emit_unresolved_aliases: true },
    );
    for event in parser {
        let step = match event {
            Ok((event, span)) => reader.take(event, place(&span)),
            Err(error) => Err(syntax(text, &error)),
        };
        if let Err(problem) = step {
            reader.document.problems.push(problem);
            reader.document.broken = true;
            break;
        }
    }
    reader.document
}

#[derive(Default)]
struct Reader<'a> {
    text: &'a str,
    open: Vec<Open>,
    anchors: HashMap<usize, Built>,
    aliased: usize,
    documents: usize,
    document: Document,
}

/// A node with what it weighs, for the limits.
#[derive(Clone)]
struct Built {
    node: Node,
    weight: usize,
    depth: usize,
}

/// A collection that is not closed yet.
struct Open {
    start: usize,
    anchor: usize,
    weight: usize,
    depth: usize,
    contents: Contents,
}

enum Contents {
    List(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        places: HashMap<String, Span>,
        merges: Vec<Node>,
        key: PendingKey,
        is_template: bool,
    },
}

/// What a mapping's next node is.
enum PendingKey {
    /// A key.
    Expected,
    /// The value of this key.
    Read(Key),
    /// The value of `<<`.
    Merge,
    /// The value of a key that was refused or stood there before.
    Refused,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Diagnostic::error(
                        Code::SeveralDocuments,
                        span,
                        "a DAG file holds one YAML document, here starts another",
                    )
                    .help("put the DAGs of both under different keys of one document, or in two files"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = match tag {
                    None if style == ScalarStyle::Plain => scalar::resolve(&text),
                    None => NodeKind::Text(text.clone().into_owned()),
                    Some(tag) => self.tagged(tag.core_suffix(), &text, span, &tag.original()),
                };
                let is_merge = style == ScalarStyle::Plain && text == "<<";
                self.finish(Node { span, kind }, &text, is_merge, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_custom(tag.as_deref().map(|tag| (tag.core_suffix(), tag.original())), span);
                self.start(span, anchor, Contents::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_custom(tag.as_deref().map(|tag| (tag.core_suffix(), tag.original())), span);
                let (entries, places, merges) = (Vec::new(), HashMap::new(), Vec::new());
                self.start(
                    span,
                    anchor,
                    Contents::Mapping { entries, places, merges, key: PendingKey::Expected, is_template: false },
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            Event::Alias(id) => {
                let Some(mut built) = self.anchors.get(&id).cloned() else {
                    return Err(Diagnostic::error(Code::UnknownAlias, span, "an alias within what it stands for")
                        .help("a value cannot contain itself"));
                };
                self.weigh(built.weight, span)?;
                built.node.span = span;
                let text = built.node.as_text().unwrap_or_default().to_owned();
                self.place(built, &text, false)?;
            }
            Event::UnresolvedAlias(name) => {
                // What it would have been, nobody knows: further checks would only guess.
                self.document.broken = true;
                self.document.problems.push(unknown_alias(self.text, span, &name));
                self.finish(Node { span, kind: NodeKind::Null }, &name, false, 0)?;
            }
            // Comments, anchors' names and the stream's ends carry nothing; the enum may grow.
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, span: Span, anchor: usize, contents: Contents) -> Result<(), Diagnostic> {
        if self.open.len() >= DEEPEST {
            return Err(too_deep(span));
        }
        self.open.push(Open { start: span.start, anchor, weight: 1, depth: 0, contents });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Diagnostic> {
        let open = self.open.pop().expect("the parser pairs starts and ends");
        // A block collection ends where the next token starts: the blank lines before that are not its own.
        let typed = self.text[open.start..span.end.max(open.start)].trim_end();
        let end = open.start + typed.len();
        let kind = match open.contents {
            Contents::List(items) => NodeKind::List(items),
            // An unquoted `{{ … }}`: said already; as text it draws no further complaints.
            Contents::Mapping { is_template: true, .. } => NodeKind::Text(typed.to_owned()),
            Contents::Mapping { entries, places, merges, .. } => {
                NodeKind::Mapping(self.merged(entries, &places, merges))
            }
        };
        let (weight, depth) = (open.weight, open.depth + 1);
        let built = Built { node: Node { span: Span::new(open.start, end), kind }, weight, depth };
        self.remember(open.anchor, &built)?;
        self.place(built, "", false)
    }

    fn finish(&mut self, node: Node, text: &str, is_merge: bool, anchor: usize) -> Result<(), Diagnostic> {
        let built = Built { node, weight: 1 + text.len() / TEXT_PER_VALUE, depth: 0 };
        self.remember(anchor, &built)?;
        self.place(built, text, is_merge)
    }

    /// Keeps a copy of what has an anchor (0 is none), for its aliases.
    fn remember(&mut self, anchor: usize, built: &Built) -> Result<(), Diagnostic> {
        if anchor > 0 {
            // Anchors within anchors multiply as aliases do: each keeps all that is inside it.
            self.weigh(built.weight, built.node.span)?;
            self.anchors.insert(anchor, built.clone());
        }
        Ok(())
    }

    fn weigh(&mut self, weight: usize, span: Span) -> Result<(), Diagnostic> {
        self.aliased += weight;
        if self.aliased <= MOST_ALIASED {
            return Ok(());
        }
        let message = format!("the anchors and aliases of this file stand for more than {MOST_ALIASED} values");
        Err(Diagnostic::error(Code::AliasBomb, span, message)
            .help("aliases of aliases, and anchors in anchors, multiply; write out what is meant"))
    }

    /// Puts a finished node where it belongs: into the innermost open collection, or at the top.
    fn place(&mut self, built: Built, text: &str, is_merge: bool) -> Result<(), Diagnostic> {
        if self.open.len() + built.depth > DEEPEST {
            return Err(too_deep(built.node.span));
        }
        let Built { node, weight, depth } = built;
        let Some(open) = self.open.last_mut() else {
            self.document.root = Some(node);
            return Ok(());
        };
        open.weight += weight;
        open.depth = open.depth.max(depth);
        match &mut open.contents {
            Contents::List(items) => items.push(node),
            Contents::Mapping { entries, places, merges, key, is_template } => {
                match std::mem::replace(key, PendingKey::Expected) {
                    PendingKey::Expected if is_merge => *key = PendingKey::Merge,
                    PendingKey::Expected => match key_of(self.text, &node, text) {
                        Err(problem) => {
                            *is_template |= self.text[..node.span.start].ends_with('{');
                            self.document.problems.push(problem);
                            *key = PendingKey::Refused;
                        }
                        Ok(read) => match places.get(&read.text) {
                            Some(first) => {
                                let first = *first;
                                *key = PendingKey::Refused;
                                let path = self.path();
                                self.document.duplicates.push(Duplicate { key: read, first, path });
                            }
                            None => {
                                places.insert(read.text.clone(), read.span);
                                *key = PendingKey::Read(read);
                            }
                        },
                    },
                    PendingKey::Read(key) => entries.push(Entry { key, value: node }),
                    PendingKey::Merge => merges.push(node),
                    PendingKey::Refused => {}
                }
            }
        }
        Ok(())
    }

    /// The keys that lead to the innermost open mapping.
    fn path(&self) -> Vec<String> {
        let outer = &self.open[..self.open.len().saturating_sub(1)];
        outer
            .iter()
            .map(|open| match &open.contents {
                Contents::List(items) => items.len().to_string(),
                Contents::Mapping { key: PendingKey::Read(key), .. } => key.text.clone(),
                Contents::Mapping { .. } => String::new(),
            })
            .collect()
    }

    /// A mapping's own entries, then those that `<<` brings and it does not have.
    fn merged(&mut self, mut entries: Vec<Entry>, places: &HashMap<String, Span>, merges: Vec<Node>) -> Vec<Entry> {
        if merges.is_empty() {
            return entries;
        }
        let mut have: HashMap<String, Span> = places.clone();
        for merge in merges {
            let sources = match merge.kind {
                NodeKind::List(items) => items,
                kind => vec![Node { span: merge.span, kind }],
            };
            for source in sources {
                let NodeKind::Mapping(brought) = source.kind else {
                    let message = format!("`<<` merges mappings, but this is {}", source.describe());
                    self.document.problems.push(
                        Diagnostic::error(Code::BadMerge, source.span, message)
                            .help("give it an alias of a mapping (`<<: *defaults`) or a list of them"),
                    );
                    continue;
                };
                for entry in brought {
                    if !have.contains_key(&entry.key.text) {
                        have.insert(entry.key.text.clone(), entry.key.span);
                        entries.push(entry);
                    }
                }
            }
        }
        entries
    }

    fn tagged(&mut self, core: Option<&str>, text: &str, span: Span, written: &str) -> NodeKind {
        match core {
            Some("str") => NodeKind::Text(text.to_owned()),
            Some("int" | "float" | "bool" | "null") => scalar::resolve(text),
            _ => {
                self.refuse_custom(Some((core, written.to_owned())), span);
                NodeKind::Text(text.to_owned())
            }
        }
    }

    fn refuse_custom(&mut self, tag: Option<(Option<&str>, String)>, span: Span) {
        if let Some((None, written)) = tag {
            self.document.problems.push(
                Diagnostic::error(Code::UnsupportedTag, span, format!("the YAML tag `{written}` means nothing here"))
                    .help("write the value itself; a DAG file is data, nothing in it is run while it is read"),
            );
        }
    }
}

fn place(span: &ParserSpan) -> Span {
    let byte = |offset: Option<usize>| offset.expect("the parser reads from a string and so knows byte offsets");
    Span::new(byte(span.start.byte_offset()), byte(span.end.byte_offset()))
}

fn key_of(text: &str, node: &Node, typed: &str) -> Result<Key, Diagnostic> {
    match &node.kind {
        NodeKind::List(_) | NodeKind::Mapping(_) => {
            let problem = Diagnostic::error(Code::BadKey, node.span, format!("{} cannot be a key", node.describe()));
            // `{{ x }}` without quotes is, to YAML, a mapping whose key is a mapping.
            let is_template = text[..node.span.start].ends_with('{');
            Err(if is_template {
                problem.help("a template has to be quoted: \"{{ … }}\"")
            } else {
                problem.help("a key is plain text")
            })
        }
        NodeKind::Null if typed.is_empty() => {
            Err(Diagnostic::error(Code::BadKey, node.span, "a key is missing before this `:`"))
        }
        NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => {
            Ok(Key { text: typed.to_owned(), span: node.span })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::yaml::entries_to_json;

    /// Every key and scalar with what the source has at its span.
    fn slices(text: &str) -> Vec<String> {
        fn walk(text: &str, node: &Node, found: &mut Vec<String>) {
            match &node.kind {
                NodeKind::List(items) => items.iter().for_each(|item| walk(text, item, found)),
                NodeKind::Mapping(entries) => {
                    for entry in entries {
                        found.push(text[entry.key.span.start..entry.key.span.end].to_owned());
                        walk(text, &entry.value, found);
                    }
                }
                NodeKind::Null | NodeKind::Bool(_) | NodeKind::Number(_) | NodeKind::Text(_) => {
                    found.push(text[node.span.start..node.span.end].to_owned());
                }
            }
        }
        let document = read(text);
        assert!(!document.broken, "{:?}", document.problems);
        let mut found = Vec::new();
        walk(text, &document.root.unwrap(), &mut found);
        found
    }

    #[test]
    fn spans_cover_exactly_what_was_typed() {
        let text = "\u{feff}ä: plain text   # c\r\n\"k\": 'it''s'\r\nz: [1, \"two\", {x: ~}]\r\nt: |\r\n  a\r\n  b\r\n";
        assert_eq!(
            slices(text),
            ["ä", "plain text", "\"k\"", "'it''s'", "z", "1", "\"two\"", "x", "~", "t", "a\r\n  b\r\n"]
        );
    }

    #[test]
    fn merge_keys_bring_what_is_not_there() {
        let document = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\n");
        let json = entries_to_json(document.root.unwrap().as_mapping().unwrap());
        assert_eq!(json["b"], serde_json::json!({"y": 3, "x": 1}));
        assert_eq!(json["c"], serde_json::json!({"x": 1, "y": 2, "z": 4}));
    }

    #[test]
    fn duplicates_are_kept_apart_with_the_way_to_them() {
        let document = read("d:\n  tasks:\n    a: 1\n    a: 2\n");
        let duplicate = &document.duplicates[0];
        assert_eq!((duplicate.key.text.as_str(), duplicate.path.join("/")), ("a", "d/tasks".to_owned()));
    }
}
