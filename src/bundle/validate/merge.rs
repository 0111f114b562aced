//! Parses every file and inlines `include`, from the submitted files only.
//!
//! Why ourselves: the library refuses `include` in a string, and its file loader expands absolute and
//! climbing globs on the validating host and quotes what it finds in error messages.

use crate::guard::line_column;
use crate::source::{self, ENTRY, Sources};
use crate::verdict::{Merged, Message, MessageKind, Segment};
use kdl::{KdlDocument, KdlNode};
use std::collections::BTreeMap;

/// One parsed file.
pub struct Parsed<'a> {
    pub name: &'a str,
    pub text: &'a str,
    pub doc: KdlDocument,
}

pub struct Tree<'a> {
    pub merged: Merged,
    /// The files that were used, in the order of their first inclusion.
    pub files: Vec<Parsed<'a>>,
}

/// Start and end of an `include` node in its text, and what it names.
type Include<'a> = (usize, usize, Result<Vec<&'a str>, String>);

struct Merge<'a> {
    sources: &'a Sources,
    docs: BTreeMap<&'a str, KdlDocument>,
    order: Vec<&'a str>,
    /// Files being included right now, from the entry on.
    stack: Vec<&'a str>,
    out: String,
    out_line: u32,
    segments: Vec<Segment>,
    errors: Vec<Message>,
}

/// Parses and merges. On failure every message there is.
pub fn merge(sources: &Sources) -> Result<Tree<'_>, Vec<Message>> {
    let mut m = Merge {
        sources,
        docs: BTreeMap::new(),
        order: Vec::new(),
        stack: Vec::new(),
        out: String::with_capacity(sources.bytes() + 2 * sources.0.len()),
        out_line: 1,
        segments: Vec::new(),
        errors: Vec::new(),
    };
    m.file(ENTRY);
    if !m.errors.is_empty() {
        return Err(m.errors);
    }
    let mut files: Vec<String> = m.order.iter().map(|s| s.to_string()).collect();
    files.sort_unstable();
    let merged = Merged { text: m.out, segments: m.segments, files };
    let mut docs = m.docs;
    let parsed = m
        .order
        .iter()
        .filter_map(|name| {
            let doc = docs.remove(name)?;
            Some(Parsed { name, text: sources.get(name)?, doc })
        })
        .collect();
    Ok(Tree { merged, files: parsed })
}

/// The messages of the parser with their places. `text` is what was parsed.
fn syntax_errors(file: &str, text: &str, e: &kdl::KdlError) -> Vec<Message> {
    e.diagnostics
        .iter()
        .map(|d| {
            let (line, column) = line_column(text, d.span.offset());
            let what = d.message.as_deref().or(d.label.as_deref()).unwrap_or("unexpected text");
            let mut say = format!("KDL: {what}");
            if let (Some(_), Some(label)) = (&d.message, &d.label) {
                say.push_str(&format!(" ({label})"));
            }
            if let Some(help) = &d.help {
                say.push_str(&format!("; {help}"));
            }
            say.push_str(&format!(" at line {line}, column {column}"));
            if let Some(excerpt) = text.lines().nth(line as usize - 1) {
                say.push_str(&format!(": {}", excerpt.trim().chars().take(120).collect::<String>()));
            }
            Message::new(MessageKind::Syntax, say).at(file, line, column)
        })
        .collect()
}

impl<'a> Merge<'a> {
    /// Appends the merged text of `name`, which is one of the sources.
    fn file(&mut self, name: &'a str) {
        let Some(text) = self.sources.get(name) else { return };
        let doc = match text.parse::<KdlDocument>() {
            Ok(doc) => doc,
            Err(e) => {
                self.errors.extend(syntax_errors(name, text, &e));
                return;
            }
        };
        self.order.push(name);
        self.stack.push(name);
        let includes: Vec<Include<'a>> = doc
            .nodes()
            .iter()
            .filter(|n| n.name().value() == "include")
            .map(|n| (n.span().offset(), n.span().offset() + n.span().len(), self.resolve(name, n)))
            .collect();
        self.docs.insert(name, doc);
        // A byte order mark is only allowed at the very start.
        let mut from = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        for (start, end, files) in includes {
            self.push(name, text, from, start);
            match files {
                Ok(files) => files.into_iter().for_each(|f| self.include(name, text, start, f)),
                Err(why) => self.error(name, text, start, why),
            }
            from = end;
            let rest = text[end..].trim_start_matches([' ', '\t']);
            if rest.starts_with(';') {
                from = text.len() - rest.len() + 1;
            }
        }
        self.push(name, text, from, text.len());
        self.stack.pop();
    }

    fn include(&mut self, by: &'a str, text: &str, at: usize, file: &'a str) {
        if self.stack.contains(&file) {
            let way = self.stack.iter().skip_while(|f| **f != file).copied().collect::<Vec<_>>().join(" -> ");
            self.error(by, text, at, format!("'{file}' includes itself: {way} -> {file}"));
        } else if self.order.contains(&file) {
            self.error(by, text, at, format!("'{file}' is included a second time"));
        } else {
            self.file(file);
        }
    }

    fn error(&mut self, file: &str, text: &str, at: usize, why: String) {
        let (line, column) = line_column(text, at);
        self.errors.push(Message::new(MessageKind::Source, why).at(file, line, column));
    }

    /// Which submitted files an `include` node names, relative to the folder of the including file.
    fn resolve(&self, by: &str, node: &KdlNode) -> Result<Vec<&'a str>, String> {
        let mut args = node.entries().iter().filter(|e| e.name().is_none());
        let Some(pattern) = args.next().and_then(|e| e.value().as_string()) else {
            return Err("include needs one path in quotes, such as include \"routes/*.kdl\"".into());
        };
        if node.entries().len() > 1 || node.children().is_some() {
            return Err("include takes exactly one path and nothing else".into());
        }
        let relative = pattern.strip_prefix("./").unwrap_or(pattern);
        if relative.starts_with('/') || relative.contains('\\') || relative.get(1..2) == Some(":") {
            return Err(format!("include {pattern:?}: only submitted files can be included, not absolute paths"));
        }
        if relative.split('/').any(|s| s == "..") {
            return Err(format!("include {pattern:?}: a path may not climb with '..'"));
        }
        if relative.contains(['[', ']', '{', '}', '!', '$', '~']) {
            return Err(format!("include {pattern:?}: only '*', '**' and '?' may stand for other characters"));
        }
        let full = match by.rsplit_once('/') {
            Some((dir, _)) => format!("{dir}/{relative}"),
            None => relative.to_string(),
        };
        let found = if full.contains(['*', '?']) {
            source::glob(&full, self.sources.0.keys())
        } else {
            self.sources.0.keys().filter(|k| **k == full).cloned().collect()
        };
        if found.is_empty() {
            return Err(format!("include {pattern:?}: no submitted file is named so (looked for {full:?})"));
        }
        Ok(self.sources.0.keys().filter(|k| found.contains(*k)).map(String::as_str).collect())
    }

    /// Appends `text[from..to]` as a segment that starts on a line of its own.
    fn push(&mut self, file: &str, text: &str, from: usize, to: usize) {
        if from >= to {
            return;
        }
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
            self.out_line += 1;
        }
        let (line, column) = line_column(text, from);
        self.segments.push(Segment { merged_line: self.out_line, file: file.to_string(), line, column: column - 1 });
        let piece = &text[from..to];
        self.out.push_str(piece);
        self.out_line += piece.matches('\n').count() as u32;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn error(files: &[(&str, &str)]) -> Message {
        let sources = Sources::from_files(files.iter().copied());
        let mut errors = merge(&sources).map(|t| t.merged.text).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    }

    #[test]
    fn includes_are_inlined_and_every_line_knows_where_it_came_from() {
        let sources = Sources::from_files([
            ("config.kdl", "// ü\nsystem { }\ninclude \"r/*.kdl\"; upstreams { }\ninclude \"last.kdl\" // why\nend"),
            ("r/a.kdl", "a 1\na 2"),
            ("r/b.kdl", "\u{feff}b 1\ninclude \"deep/c.kdl\"\nb 2\n"),
            ("r/deep/c.kdl", "c 1\n"),
            ("last.kdl", "last"),
        ]);
        let tree = merge(&sources).unwrap();
        let text = &tree.merged.text;
        assert!(!text.contains("include") && !text.contains('\u{feff}'), "{text}");
        text.parse::<KdlDocument>().unwrap();
        for (want, file, line) in [
            ("system", "config.kdl", 2),
            ("a 2", "r/a.kdl", 2),
            ("b 1", "r/b.kdl", 1),
            ("c 1", "r/deep/c.kdl", 1),
            ("b 2", "r/b.kdl", 3),
            ("upstreams", "config.kdl", 3),
            ("last", "last.kdl", 1),
            ("end", "config.kdl", 5),
        ] {
            let at = text.lines().position(|l| l.trim_start().starts_with(want)).unwrap() as u32 + 1;
            let (f, l, _) = tree.merged.origin(at, 1).unwrap();
            assert_eq!((f, l), (file, line), "{want} in\n{text}");
        }
        let at = text.lines().position(|l| l.contains("upstreams")).unwrap() as u32 + 1;
        assert_eq!(tree.merged.origin(at, 2).unwrap().2, "include \"r/*.kdl\"; u".len() as u32);
        assert_eq!(tree.merged.files, ["config.kdl", "last.kdl", "r/a.kdl", "r/b.kdl", "r/deep/c.kdl"]);
    }

    #[test]
    fn cycles_missing_files_and_repeated_files_are_explained_at_their_place() {
        let e = error(&[
            ("config.kdl", "a\n  include \"b.kdl\""),
            ("b.kdl", "include \"c.kdl\""),
            ("c.kdl", "include \"b.kdl\""),
        ]);
        assert!(e.text.contains("b.kdl -> c.kdl -> b.kdl"), "{e}");
        let e = error(&[("config.kdl", "a\n  include \"b.kdl\"")]);
        assert_eq!((e.file.as_deref(), e.line, e.column), (Some("config.kdl"), Some(2), Some(3)));
        assert!(e.text.contains("no submitted file"), "{e}");
        let e = error(&[("config.kdl", "include \"*.kdl\"")]);
        assert!(e.text.contains("includes itself"), "{e}");
        let e = error(&[("config.kdl", "include \"b.kdl\"\ninclude \"b.kdl\""), ("b.kdl", "b")]);
        assert!(e.text.contains("second time"), "{e}");
        let e = error(&[("config.kdl", "include b=1")]);
        assert!(e.text.contains("needs one path"), "{e}");
    }

    #[test]
    fn absolute_and_climbing_includes_are_refused_even_when_such_a_file_exists_here() {
        for path in ["/etc/passwd", "../x.kdl", "a/../../x.kdl", "/etc/*", "C:\\x", "~/x", "[a]*"] {
            let e = error(&[("config.kdl", &format!("include #\"{path}\"#"))]);
            assert!(e.text.starts_with("include "), "{e}");
            assert!(!e.text.contains("root:"), "{e}");
        }
    }

    #[test]
    fn an_include_that_is_commented_out_is_not_followed() {
        let text = "/- include \"/etc/passwd\"\n// include \"b\"\n/* include \"c\" */ a";
        assert_eq!(merge(&Sources::single(text)).unwrap_or_else(|e| panic!("{e:?}")).merged.text, text);
    }

    #[test]
    fn syntax_errors_name_line_and_column_in_their_own_file_counting_characters() {
        let e = error(&[("config.kdl", "include \"b.kdl\""), ("b.kdl", "// äöü\nübung \"ä\" 1x")]);
        assert_eq!((e.file.as_deref(), e.line, e.column), (Some("b.kdl"), Some(2), Some(11)), "{e}");
        assert!(e.text.contains("at line 2, column 11"), "{e}");
    }
}
