//! Finds the place in the submitted files that a message without a position speaks of.
//!
//! The library's semantic errors only name things (`Route 'api' references ...`); people want a line.

use super::merge::Parsed;
use crate::guard::{Subject, line_column};
use crate::verdict::{Message, MessageKind};
use kdl::KdlNode;
use regex::Regex;
use std::collections::HashMap;

/// Where something stands. Line and column start at 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub column: u32,
}

/// An index over all nodes of all files, in the order of the text.
pub struct Places<'a> {
    nodes: Vec<Entry<'a>>,
    by_name: HashMap<&'a str, Vec<usize>>,
}

struct Entry<'a> {
    file: &'a Parsed<'a>,
    node: &'a KdlNode,
    parent: Option<usize>,
}

/// Kinds of things that messages name, with the block they are defined in (a `route` holds a node
/// `upstream` too, which is only a reference).
const NAMED: &[(&str, Option<&str>)] = &[
    ("route", Some("routes")),
    ("upstream", Some("upstreams")),
    ("listener", None),
    ("agent", Some("agents")),
    ("filter", Some("filters")),
    ("namespace", None),
    ("service", None),
];

impl<'a> Places<'a> {
    pub fn new(files: &'a [Parsed<'a>]) -> Places<'a> {
        let mut p = Places { nodes: Vec::new(), by_name: HashMap::new() };
        for file in files {
            for node in file.doc.nodes() {
                p.add(file, node, None);
            }
        }
        p
    }

    /// Recursion is bounded by the depth cap of the guard.
    fn add(&mut self, file: &'a Parsed<'a>, node: &'a KdlNode, parent: Option<usize>) {
        let at = self.nodes.len();
        self.nodes.push(Entry { file, node, parent });
        self.by_name.entry(node.name().value()).or_default().push(at);
        if let Some(children) = node.children() {
            for child in children.nodes() {
                self.add(file, child, Some(at));
            }
        }
    }

    fn place(&self, at: usize) -> Place {
        let e = &self.nodes[at];
        let (line, column) = line_column(e.file.text, e.node.span().offset());
        Place { file: e.file.name.to_string(), line, column }
    }

    fn named(&self, name: &str) -> &[usize] {
        self.by_name.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn parent_name(&self, at: usize) -> Option<&str> {
        self.nodes[at].parent.map(|p| self.nodes[p].node.name().value())
    }

    fn first_arg(&self, at: usize) -> Option<&str> {
        self.nodes[at].node.entries().iter().find(|e| e.name().is_none()).and_then(|e| e.value().as_string())
    }

    fn definition(&self, kind: &str, id: &str) -> Option<usize> {
        let within = NAMED.iter().find(|(k, _)| *k == kind)?.1;
        let mut all = self.named(kind).iter().copied().filter(|i| self.first_arg(*i) == Some(id));
        all.find(|i| within.is_none() || self.parent_name(*i) == within)
    }

    fn is_within(&self, at: usize, ancestor: usize) -> bool {
        let mut up = Some(at);
        while let Some(i) = up {
            if i == ancestor {
                return true;
            }
            up = self.nodes[i].parent;
        }
        false
    }

    /// The place of a guard's subject: the node beneath it with the offending value, else itself.
    pub fn by_subject(&self, s: &Subject) -> Option<Place> {
        let owner = match s.kind {
            "metrics" | "schema-version" => self.named(s.kind).first().copied(),
            kind => self.definition(kind, &s.id),
        }?;
        let exact = s.value.as_deref().and_then(|v| {
            (owner..self.nodes.len())
                .take_while(|i| self.is_within(*i, owner))
                .find(|i| self.nodes[*i].node.entries().iter().any(|e| e.value().as_string() == Some(v)))
        });
        Some(self.place(exact.unwrap_or(owner)))
    }

    /// The place of the first thing that a message names, with its quoted value beneath it if there.
    pub fn by_text(&self, text: &str) -> Option<Place> {
        let first = text.lines().next().unwrap_or_default();
        let quoted: Vec<&str> = first.split('\'').skip(1).step_by(2).collect();
        for (kind, id) in subjects(first) {
            if let Some(at) = self.definition(&kind, &id) {
                let others: Vec<&str> = quoted.iter().copied().filter(|q| *q != id).collect();
                let exact = (at..self.nodes.len()).take_while(|i| self.is_within(*i, at)).skip(1).find(|i| {
                    self.nodes[*i]
                        .node
                        .entries()
                        .iter()
                        .any(|e| e.value().as_string().is_some_and(|v| others.contains(&v)))
                });
                return Some(self.place(exact.unwrap_or(at)));
            }
        }
        // `Unknown top-level configuration block: 'server2'`, `unknown key 'x'`: a node of that name.
        quoted.iter().find_map(|q| self.named(q).first()).map(|at| self.place(*at))
    }

    /// Unknown keys, each at its own occurrence: the library reports them in the order of the text.
    pub fn unknown_keys(&self, texts: Vec<String>) -> Vec<Message> {
        let mut used: HashMap<(String, String), usize> = HashMap::new();
        texts
            .into_iter()
            .map(|text| {
                let quoted: Vec<&str> = text.split('\'').skip(1).step_by(2).take(3).collect();
                let key = *quoted.first().unwrap_or(&"");
                let run_together = text.contains("is being read as an argument to");
                let block = *quoted.get(if run_together { 2 } else { 1 }).unwrap_or(&"");
                let n = used.entry((key.to_string(), block.to_string())).or_default();
                let name = if run_together { *quoted.get(1).unwrap_or(&"") } else { key };
                let candidates: Vec<usize> = self
                    .named(name)
                    .iter()
                    .copied()
                    .filter(|i| text.contains("is a setting of") || self.parent_name(*i) == Some(block))
                    .filter(|i| {
                        !run_together
                            || self.nodes[*i].node.entries().iter().skip(1).any(|e| e.value().as_string() == Some(key))
                    })
                    .collect();
                let place = candidates.get(*n).or(candidates.last()).map(|at| self.place(*at));
                *n += 1;
                super::place_message(Message::new(MessageKind::UnknownKey, text), place)
            })
            .collect()
    }
}

/// `Route 'a' ... upstream 'b'` -> (route, a), (upstream, b).
fn subjects(text: &str) -> Vec<(String, String)> {
    let Ok(re) = Regex::new(r"(?i)\b(route|upstream|listener|agent|filter|namespace|service)(?: ID)? '([^']*)'") else {
        return Vec::new();
    };
    re.captures_iter(text).map(|c| (c[1].to_lowercase(), c[2].to_string())).collect()
}

/// `at line 3, column 7` in a message.
pub fn stated_position(text: &str) -> Option<(u32, u32)> {
    let re = Regex::new(r"at line (\d+), column (\d+)").ok()?;
    let c = re.captures(text)?;
    Some((c[1].parse().ok()?, c[2].parse().ok()?))
}
