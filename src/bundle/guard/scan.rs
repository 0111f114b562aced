//! The scan before parsing: nesting, unbalanced braces, comment shapes, literal private keys.
//!
//! Why so strict: the parser recurses. In a release build with the 2 MB stack of a tokio thread it dies
//! at 300-1,000 nested blocks, at the same depth of `/*` in `/*`, and, less known, at 3,000 characters
//! `*` or `/` within ONE block comment, because it steps into itself for each of them. Commented-out
//! blocks count like live ones. Unbalanced `}` make its error recovery quadratic.

use super::{Finding, has_private_key, line_column};

/// Nested blocks, live or commented out. Real configs nest 7 deep; the parser dies at 300 on a 2 MB stack.
pub const MAX_DEPTH: usize = 64;
/// Steps of recursion in one block comment: each `*`, each `/`, each run between them. 500 bytes of
/// stack each in a release build, so 0.5 MB of a thread's 2.
pub const MAX_COMMENT_STEPS: usize = 1_000;
/// Closing braces without an opening one. A handful is a typing error the parser explains better.
pub const MAX_UNBALANCED: usize = 8;
/// Opening braces in a text that does not even lex: a bound for what error recovery may recurse into.
const MAX_BLOCKS_AFTER_ERROR: usize = 1_000;

struct Scan<'a> {
    text: &'a str,
    b: &'a [u8],
    i: usize,
    depth: usize,
    unbalanced: usize,
    /// `/-` in a row without anything between them.
    slashdashes: usize,
    found: Vec<Finding>,
}

/// Judges `text` without parsing it. An empty answer means that the parser may have it. Linear.
pub fn scan(text: &str) -> Vec<Finding> {
    let mut s = Scan { text, b: text.as_bytes(), i: 0, depth: 0, unbalanced: 0, slashdashes: 0, found: Vec::new() };
    if let Some(at) = has_private_key(text) {
        s.find(at, "a private key may not be in a config: name a file on the node, or a secret, instead");
    }
    let end = s.run();
    if let End::Broken(at) = end {
        // The parser will refuse this text and say why. Its recovery reads on in some way of its own,
        // so everything that could nest counts.
        let rest = &s.b[at..];
        let blocks = rest.iter().filter(|c| **c == b'{').count();
        let comments = rest.windows(2).filter(|w| w == b"/*").count();
        let closers = rest.iter().filter(|c| **c == b'}').count();
        if s.depth + blocks + comments > MAX_BLOCKS_AFTER_ERROR || closers > blocks + s.depth + MAX_BLOCKS_AFTER_ERROR {
            s.find(at, "a string or comment starts here that does not end as it should");
        }
    }
    s.found
}

enum End {
    Clean,
    Stopped,
    /// Lexing failed at this offset.
    Broken(usize),
}

impl Scan<'_> {
    fn find(&mut self, at: usize, text: impl Into<String>) {
        let (line, column) = line_column(self.text, at);
        self.found.push(Finding { text: text.into(), line, column, subject: None });
    }

    fn starts(&self, what: &[u8]) -> bool {
        self.b[self.i..].starts_with(what)
    }

    /// Bytes of the KDL newline at `i`, 0 if there is none. KDL has eight of them, and a line comment
    /// that ends at one we did not know would hide blocks from us.
    fn newline_at(&self, i: usize) -> usize {
        match self.b.get(i) {
            Some(b'\n' | b'\r' | 0x0b | 0x0c) => 1,
            Some(0xc2) if self.b.get(i + 1) == Some(&0x85) => 2,
            Some(0xe2) if self.b.get(i + 1) == Some(&0x80) && matches!(self.b.get(i + 2), Some(0xa8 | 0xa9)) => 3,
            _ => 0,
        }
    }

    fn run(&mut self) -> End {
        while self.i < self.b.len() {
            let at = self.i;
            match self.b[at] {
                b'/' if self.starts(b"//") => {
                    while self.i < self.b.len() && self.newline_at(self.i) == 0 {
                        self.i += 1;
                    }
                }
                b'/' if self.starts(b"/*") => {
                    if let Some(end) = self.block_comment() {
                        return end;
                    }
                }
                b'/' if self.starts(b"/-") => {
                    self.i += 2;
                    self.slashdashes += 1;
                    if self.slashdashes > MAX_DEPTH {
                        self.find(at, format!("more than {MAX_DEPTH} '/-' in a row"));
                        return End::Stopped;
                    }
                }
                b'"' | b'#' => {
                    self.slashdashes = 0;
                    if let Some(end) = self.string_or_keyword() {
                        return end;
                    }
                }
                b'{' => {
                    self.i += 1;
                    self.slashdashes = 0;
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        self.find(at, format!("blocks nest more than {MAX_DEPTH} deep"));
                        return End::Stopped;
                    }
                }
                b'}' => {
                    self.i += 1;
                    self.slashdashes = 0;
                    if self.depth == 0 {
                        self.unbalanced += 1;
                        if self.unbalanced > MAX_UNBALANCED {
                            self.find(at, format!("more than {MAX_UNBALANCED} closing braces without an opening one"));
                            return End::Stopped;
                        }
                    } else {
                        self.depth -= 1;
                    }
                }
                b' ' | b'\t' | b'\n' | b'\r' => self.i += 1,
                _ => {
                    self.slashdashes = 0;
                    self.i += 1;
                }
            }
        }
        End::Clean
    }

    /// From `/*` to its `*/`. Blocks in a comment count as if they were live: they may be uncommented.
    fn block_comment(&mut self) -> Option<End> {
        let start = self.i;
        let (mut nested, mut steps, mut blocks, mut in_run) = (0usize, 0usize, 0usize, false);
        while self.i < self.b.len() {
            if self.starts(b"/*") {
                nested += 1;
                steps += 1;
                self.i += 2;
                in_run = false;
            } else if self.starts(b"*/") {
                nested -= 1;
                self.i += 2;
                in_run = false;
                if nested == 0 {
                    return None;
                }
            } else {
                match self.b[self.i] {
                    b'*' | b'/' => {
                        steps += 1;
                        in_run = false;
                    }
                    c => {
                        steps += usize::from(!in_run);
                        in_run = true;
                        match c {
                            b'{' => blocks += 1,
                            b'}' => blocks = blocks.saturating_sub(1),
                            _ => {}
                        }
                    }
                }
                self.i += 1;
            }
            if self.depth + nested + blocks > MAX_DEPTH {
                self.find(start, format!("comments or commented-out blocks nest more than {MAX_DEPTH} deep"));
                return Some(End::Stopped);
            }
            if steps > MAX_COMMENT_STEPS {
                self.find(
                    start,
                    format!(
                        "a block comment with more than {MAX_COMMENT_STEPS} '*', '/' and pieces between them: \
                         the proxy's parser recurses into each; use '//' lines"
                    ),
                );
                return Some(End::Stopped);
            }
        }
        Some(End::Broken(start))
    }

    /// A quoted or raw string, in one line or several, or a keyword such as `#true`.
    fn string_or_keyword(&mut self) -> Option<End> {
        let start = self.i;
        while self.b.get(self.i) == Some(&b'#') {
            self.i += 1;
        }
        let hashes = self.i - start;
        if self.b.get(self.i) != Some(&b'"') {
            return None;
        }
        let several = self.starts(b"\"\"\"") && (hashes == 0 || self.newline_at(self.i + 3) > 0);
        let mut close = vec![b'"'; if several { 3 } else { 1 }];
        close.extend(std::iter::repeat_n(b'#', hashes));
        self.i += if several { 3 } else { 1 };
        while self.i < self.b.len() {
            if self.b[self.i..].starts_with(&close) {
                self.i += close.len();
                return None;
            }
            if hashes == 0 && self.b[self.i] == b'\\' {
                // An escaped newline may be followed by more of them: all are whitespace here.
                self.i += 1;
                let space = self.i;
                while self.i < self.b.len() && (self.newline_at(self.i) > 0 || matches!(self.b[self.i], b' ' | b'\t')) {
                    self.i += self.newline_at(self.i).max(1);
                }
                if self.i == space {
                    self.i += 1;
                }
                continue;
            }
            if !several && self.newline_at(self.i) > 0 {
                return Some(End::Broken(start));
            }
            self.i += 1;
        }
        Some(End::Broken(start))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // real time is what one of them bounds
    use super::*;

    fn refused(text: &str) -> bool {
        !scan(text).is_empty()
    }

    fn nest(open: &str, close: &str, n: usize) -> String {
        format!("{}{}", open.repeat(n), close.repeat(n))
    }

    #[test]
    fn blocks_deeper_than_the_cap_are_refused_also_when_commented_out() {
        assert!(!refused(&nest("a {\n", "}\n", MAX_DEPTH)));
        assert!(refused(&nest("a {\n", "}\n", MAX_DEPTH + 1)));
        assert!(refused(&format!("/- {}", nest("a {\n", "}\n", 600))));
        assert!(refused(&format!("/* {} */", nest("a {\n", "}\n", 600))));
        assert!(!refused(&format!("// {}", nest("a {", "}", 600))));
        assert!(!refused(&format!("a \"{}\"", nest("{", "}", 600))));
    }

    #[test]
    fn nested_comments_and_comments_full_of_stars_are_refused() {
        assert!(!refused(&nest("/*", "*/", MAX_DEPTH)));
        assert!(refused(&nest("/*", "*/", MAX_DEPTH + 1)));
        assert!(refused(&format!("/*{}*/ a", "*".repeat(3_000))));
        assert!(refused(&format!("/* {} */ a", "http://x ".repeat(600))));
        let banner = format!("/{}\n{} {}/\nnode 1", "*".repeat(80), " * text\n".repeat(40), "*".repeat(80));
        assert!(!refused(&banner));
        assert!(refused(&"/- ".repeat(MAX_DEPTH + 1)));
    }

    #[test]
    fn a_flood_of_closing_braces_is_refused_and_a_few_are_left_to_the_parser() {
        let t = std::time::Instant::now();
        assert!(refused(&"}".repeat(20_000)));
        assert!(t.elapsed().as_millis() < 500);
        assert!(!refused("a {\n}\n}\n"));
    }

    #[test]
    fn strings_of_every_kind_hide_braces_and_nothing_else_does() {
        let deep = nest("{", "}", 100);
        for text in [
            format!("a \"x \\\" {deep}\" b"),
            format!("a #\"x \" {deep}\"# b"),
            format!("a ##\"x \"# {deep}\"## b"),
            format!("a \"\"\"\n x \" \"\" {deep}\n \"\"\" b"),
            format!("a #\"\"\"\n x \"\"\" {deep}\n \"\"\"# b"),
            format!("a #\"\"\"{deep}\"# b"),
            format!("a \"x \\\n   {deep}\" b"),
            format!("a \"\" // {deep}\nb"),
        ] {
            assert!(!refused(&text), "{text}");
        }
        for newline in ["\n", "\r", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}"] {
            assert!(refused(&format!("// x {newline} {}", nest("a {", "}", 100))), "{newline:?}");
        }
        assert!(refused(&format!("a \"\\\\\" {deep}")));
        assert!(refused(&format!("a #true {deep}")));
    }

    #[test]
    fn an_unfinished_string_is_left_to_the_parser_unless_much_follows() {
        assert!(!refused("a \"x\nb { }\n"));
        assert!(refused(&format!("a \"x\n{}", "b {\n".repeat(2_000))));
        assert!(refused(&format!("/* {}", "{}".repeat(2_000))));
    }

    #[test]
    fn a_private_key_is_refused_with_its_place_and_a_certificate_is_not() {
        let found = scan("system\nkey \"-----BEGIN EC PRIVATE KEY-----\nabc\"");
        assert_eq!((found[0].line, found[0].column), (2, 6));
        assert!(refused("a \"-----BEGIN PRIVATE KEY-----\""));
        assert!(refused("// -----BEGIN CERTIFICATE-----\n// -----BEGIN OPENSSH PRIVATE KEY-----"));
        assert!(!refused("a \"-----BEGIN CERTIFICATE-----\" // PRIVATE KEY"));
    }
}
