//! What validation says: plain data that crosses the pipe between the control plane and its child.

use domain::bundle::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the validator as recorded in every manifest.
pub const VALIDATOR_NAME: &str = "zentinel-config";
/// Its version: the pin in the workspace's Cargo.toml (a test compares the two).
pub const VALIDATOR_VERSION: &str = "0.6.45";
/// The oldest proxy that reads the language of this validator.
pub const SENTINEL_MIN_VERSION: &str = "0.6.45";

/// Messages of one kind kept in a verdict: the rest would not be read, and a hostile file can cause 10,000.
pub const MAX_MESSAGES: usize = 50;
/// Bytes of one message.
pub const MAX_MESSAGE_BYTES: usize = 2_000;

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// The files themselves: names, sizes, includes.
    Source,
    /// Our own guards, before or after parsing.
    Guard,
    /// The KDL parser.
    Syntax,
    /// The proxy's rules.
    Semantic,
    /// A key that this release of the proxy ignores.
    UnknownKey,
    /// Other advice.
    Lint,
    /// The validator itself was stopped.
    Validator,
}

/// A message with its place in a submitted file, where that is known. Lines and columns start at 1;
/// columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Message {
    pub kind: MessageKind,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

impl Message {
    pub fn new(kind: MessageKind, text: impl Into<String>) -> Message {
        let mut text: String = text.into();
        if text.len() > MAX_MESSAGE_BYTES {
            let cut = (0..=MAX_MESSAGE_BYTES).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(cut);
            text.push('…');
        }
        Message { kind, text, file: None, line: None, column: None }
    }

    pub fn at(mut self, file: &str, line: u32, column: u32) -> Message {
        self.file = Some(file.to_string());
        self.line = Some(line);
        self.column = Some(column);
        self
    }

    pub fn in_file(mut self, file: &str) -> Message {
        self.file = Some(file.to_string());
        self
    }

    /// The form in which the control plane keeps it.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic { text: self.text.clone(), file: self.file.clone(), line: self.line, column: self.column }
    }
}

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}")?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": ")?;
        }
        f.write_str(&self.text)
    }
}

/// Name and version of what judged a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorId {
    pub name: String,
    pub version: String,
}

impl ValidatorId {
    /// The library built into this program.
    pub fn built_in() -> ValidatorId {
        ValidatorId { name: VALIDATOR_NAME.into(), version: VALIDATOR_VERSION.into() }
    }
}

/// From this merged line on, up to the next segment, text comes from `file`, starting at `line` and `column`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub merged_line: u32,
    pub file: String,
    pub line: u32,
    /// Characters cut off in front of the segment's first line.
    pub column: u32,
}

/// One KDL text without includes, and where its lines come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    pub text: String,
    /// Ordered by `merged_line`.
    pub segments: Vec<Segment>,
    /// The files that were used, sorted. One entry means there were no includes.
    pub files: Vec<String>,
}

impl Merged {
    /// File, line and column that a position in the merged text stands for (all from 1).
    pub fn origin(&self, line: u32, column: u32) -> Option<(&str, u32, u32)> {
        let at = self.segments.partition_point(|s| s.merged_line <= line).checked_sub(1)?;
        let s = &self.segments[at];
        let offset = line - s.merged_line;
        Some((&s.file, s.line + offset, if offset == 0 { column + s.column } else { column }))
    }
}

/// Counts and names that callers need without walking the config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub routes: u32,
    pub upstreams: u32,
    pub listeners: u32,
    pub agents: u32,
    pub filters: u32,
    pub namespaces: u32,
    pub unknown_keys: u32,
    /// Paths on the node that the config names: the node checks them, we never look.
    #[serde(default)]
    pub host_paths: Vec<String>,
}

/// The outcome of validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub ok: bool,
    pub validator: ValidatorId,
    pub errors: Vec<Message>,
    /// Unknown keys and the like: kept with the bundle, and its risk is at least medium.
    pub warnings: Vec<Message>,
    /// Best practices. Noisy.
    #[serde(default)]
    pub infos: Vec<Message>,
    /// The parsed config with every default filled in. Present when it parsed.
    pub config_json: Option<Value>,
    pub merged: Option<Merged>,
    pub facts: Facts,
}

impl Verdict {
    /// A verdict without a config, for what failed before or instead of parsing.
    pub fn refused(errors: Vec<Message>) -> Verdict {
        Verdict {
            ok: false,
            validator: ValidatorId::built_in(),
            errors,
            warnings: Vec::new(),
            infos: Vec::new(),
            config_json: None,
            merged: None,
            facts: Facts::default(),
        }
        .capped()
    }

    /// For a project with `strict_config`: unknown keys are errors.
    pub fn into_strict(mut self) -> Verdict {
        let (unknown, rest): (Vec<_>, Vec<_>) =
            self.warnings.into_iter().partition(|m| m.kind == MessageKind::UnknownKey);
        self.warnings = rest;
        self.ok = self.ok && unknown.is_empty();
        self.errors.extend(unknown);
        self
    }

    pub(crate) fn capped(mut self) -> Verdict {
        for list in [&mut self.errors, &mut self.warnings, &mut self.infos] {
            if list.len() > MAX_MESSAGES {
                let more = list.len() - MAX_MESSAGES;
                list.truncate(MAX_MESSAGES);
                list.push(Message::new(MessageKind::Validator, format!("{more} more messages of this kind")));
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_strict_project_turns_unknown_keys_into_errors() {
        let mut v = Verdict::refused(vec![]);
        v.ok = true;
        v.warnings = vec![Message::new(MessageKind::Lint, "a"), Message::new(MessageKind::UnknownKey, "b")];
        let strict = v.into_strict();
        assert!(!strict.ok);
        assert_eq!(strict.errors.len(), 1);
        assert_eq!(strict.warnings.len(), 1);
    }

    #[test]
    fn messages_are_capped_in_number_and_length() {
        let long = Message::new(MessageKind::Syntax, "ä".repeat(MAX_MESSAGE_BYTES));
        assert!(long.text.len() <= MAX_MESSAGE_BYTES + 3);
        let v = Verdict::refused(vec![long; MAX_MESSAGES + 7]);
        assert_eq!(v.errors.len(), MAX_MESSAGES + 1);
        assert!(v.errors[MAX_MESSAGES].text.starts_with("7 more"));
    }

    #[test]
    fn the_recorded_validator_version_is_the_pinned_one() {
        let manifest = include_str!("../../Cargo.toml");
        for name in ["zentinel-config", "zentinel-common"] {
            let line = manifest.lines().find(|l| l.starts_with(&format!("{name} ="))).unwrap();
            assert!(line.contains(&format!("\"={VALIDATOR_VERSION}\"")), "{line}");
        }
    }
}
