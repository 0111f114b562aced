//! Judges submitted files by the proxy's own rules, in this process and without looking outside it.
//!
//! Invariant: never contacts the network and never reads a file; what `validate()` would look up on the
//! host's disk is neutralised first. Foreign input belongs into a child process: see [`crate::child`].

mod locate;
mod merge;
mod neutral;
mod types;

use crate::guard::{self, Finding};
use crate::source::Sources;
use crate::verdict::{Facts, Merged, Message, MessageKind, ValidatorId, Verdict};
use locate::Places;
use serde_json::Value;
use zentinel_config::Config;
use zentinel_config::validate::{ValidationResult, lint, unknown_keys};

/// Blocks that the parser reads with "the last one wins", with only a line in the proxy's log.
const SINGLETONS: &[&str] =
    &["schema-version", "system", "server", "waf", "limits", "observability", "rate-limits", "cache"];

/// The whole judgement. Needs a large stack for hostile input (see `child`), 100 bytes of memory per byte
/// of input and about 4 microseconds per byte in all (three passes of the parser).
pub fn validate_in_process(sources: &Sources) -> Verdict {
    if let Err(errors) = sources.check() {
        return Verdict::refused(errors.iter().map(|e| Message::new(MessageKind::Source, e.to_string())).collect());
    }
    let scanned: Vec<Message> = sources
        .0
        .iter()
        .flat_map(|(file, text)| guard::scan(text).into_iter().map(move |f| (file, f)))
        .map(|(file, f)| Message::new(MessageKind::Guard, f.text).at(file, f.line, f.column))
        .collect();
    if !scanned.is_empty() {
        return Verdict::refused(scanned);
    }
    let tree = match merge::merge(sources) {
        Ok(tree) => tree,
        Err(errors) => return Verdict::refused(errors),
    };
    let places = Places::new(&tree.files);
    judge(sources, tree.merged, &tree.files, &places)
}

fn judge(sources: &Sources, merged: Merged, files: &[merge::Parsed<'_>], places: &Places<'_>) -> Verdict {
    let mut config = match Config::from_kdl(&merged.text) {
        Ok(config) => config,
        Err(e) => {
            let mut errors = vec![from_parser(&e.to_string(), &merged, places)];
            errors.extend(types::check(files));
            let mut verdict = Verdict::refused(errors);
            verdict.merged = Some(merged);
            return verdict;
        }
    };
    let config_json = match serde_json::to_value(&config) {
        Ok(v) => v,
        Err(e) => {
            let text = format!("the config cannot be written as JSON: {e}");
            return Verdict::refused(vec![Message::new(MessageKind::Validator, text)]);
        }
    };

    neutral::neutralise(&mut config);
    let mut errors = semantic(&config, places);
    for finding in guard::check_config(&config_json) {
        if !already_said(&errors, &finding) {
            errors.push(place_finding(finding, places));
        }
    }
    errors.extend(types::check(files));

    let mut warnings = unused(sources, &merged);
    warnings.extend(duplicates(files));
    let mut ignored = ValidationResult::new();
    unknown_keys::check_unknown_keys(&merged.text, &mut ignored);
    let texts: Vec<String> = ignored.warnings.into_iter().map(|w| w.message).collect();
    let unknown = texts.len() as u32;
    warnings.extend(places.unknown_keys(texts));

    let mut infos: Vec<Message> =
        lint::lint_config(&config).warnings.into_iter().map(|w| Message::new(MessageKind::Lint, w.message)).collect();
    infos.sort();

    let mut verdict = Verdict {
        ok: errors.is_empty(),
        validator: ValidatorId::built_in(),
        errors,
        warnings,
        infos,
        facts: facts(&config, &config_json, unknown),
        config_json: Some(config_json),
        merged: Some(merged),
    };
    // Several passes walk hash maps: the order of their messages is not to be trusted.
    verdict.errors.sort_by(|a, b| (&a.file, a.line, a.column, &a.text).cmp(&(&b.file, b.line, b.column, &b.text)));
    verdict.errors.dedup();
    verdict.capped()
}

fn facts(config: &Config, json: &Value, unknown_keys: u32) -> Facts {
    let mut f = Facts {
        routes: config.routes.len() as u32,
        upstreams: config.upstreams.len() as u32,
        listeners: config.listeners.len() as u32,
        agents: config.agents.len() as u32,
        filters: config.filters.len() as u32,
        namespaces: config.namespaces.len() as u32,
        unknown_keys,
        host_paths: neutral::host_paths(json),
    };
    for ns in &config.namespaces {
        f.routes += ns.routes.len() as u32;
        f.upstreams += ns.upstreams.len() as u32;
        f.listeners += ns.listeners.len() as u32;
        f.agents += ns.agents.len() as u32;
        f.filters += ns.filters.len() as u32;
        for s in &ns.services {
            f.routes += s.routes.len() as u32;
            f.upstreams += s.upstreams.len() as u32;
            f.listeners += u32::from(s.listener.is_some());
            f.agents += s.agents.len() as u32;
            f.filters += s.filters.len() as u32;
        }
    }
    f
}

/// The proxy's semantic rules: all of them at once where the library collects them, else the first.
fn semantic(config: &Config, places: &Places<'_>) -> Vec<Message> {
    let collected = zentinel_config::validation::validate_config_semantics(config)
        .err()
        .map(|e| e.message.map_or_else(|| e.code.to_string(), |m| m.into_owned()));
    let text = match collected {
        Some(text) => text,
        None => match config.validate() {
            Ok(()) => return Vec::new(),
            Err(e) => {
                let text = e.to_string();
                let text = text.strip_prefix("Configuration error: ").unwrap_or(&text);
                text.strip_prefix("Configuration validation failed: ").unwrap_or(text).to_string()
            }
        },
    };
    split_issues(&text)
        .into_iter()
        .map(|t| {
            let t = sort_lists(&t);
            let place = places.by_text(&t);
            place_message(Message::new(MessageKind::Semantic, t), place)
        })
        .collect()
}

/// The library numbers several issues in one string.
fn split_issues(text: &str) -> Vec<String> {
    let Some(body) = text.strip_prefix("Configuration has ").and_then(|t| t.split_once("\n\n").map(|(_, b)| b)) else {
        return vec![text.to_string()];
    };
    let mut issues: Vec<String> = Vec::new();
    for part in body.split("\n\n") {
        let number = format!("{}. ", issues.len() + 1);
        match (part.strip_prefix(&number), issues.last_mut()) {
            (Some(rest), _) => issues.push(rest.to_string()),
            (None, Some(last)) => {
                last.push_str("\n\n");
                last.push_str(part);
            }
            (None, None) => issues.push(part.to_string()),
        }
    }
    issues
}

/// `Available upstreams: 'b', 'a'` comes out of a hash set: sorted, the same file gives the same text.
fn sort_lists(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.split_once(": ") {
            Some((head, names)) if head.trim_start().starts_with("Available ") => {
                let mut names: Vec<&str> = names.split(", ").collect();
                names.sort_unstable();
                format!("{head}: {}", names.join(", "))
            }
            _ => line.to_string(),
        })
        .collect();
    lines.join("\n")
}

/// An error of `from_kdl` beyond syntax, which has been checked file by file before.
fn from_parser(text: &str, merged: &Merged, places: &Places<'_>) -> Message {
    let message = Message::new(MessageKind::Semantic, text.trim());
    // Should a syntax error appear only in the merged text: its place, mapped back.
    if let Some((line, column)) = locate::stated_position(text)
        && let Some((file, line, column)) = merged.origin(line, column)
    {
        return message.at(file, line, column);
    }
    place_message(message, places.by_text(text))
}

fn place_message(message: Message, place: Option<locate::Place>) -> Message {
    match place {
        Some(p) => message.at(&p.file, p.line, p.column),
        None => message,
    }
}

fn place_finding(finding: Finding, places: &Places<'_>) -> Message {
    let place = finding.subject.as_ref().and_then(|s| places.by_subject(s));
    place_message(Message::new(MessageKind::Guard, finding.text), place)
}

/// Whether the proxy's own rules already complained about the same value of the same thing.
fn already_said(errors: &[Message], finding: &Finding) -> bool {
    let Some(s) = &finding.subject else { return false };
    let Some(value) = &s.value else { return false };
    let id = format!("'{}'", s.id);
    errors.iter().any(|e| e.text.contains(value.as_str()) && (s.id.is_empty() || e.text.contains(&id)))
}

fn unused(sources: &Sources, merged: &Merged) -> Vec<Message> {
    sources
        .0
        .keys()
        .filter(|f| merged.files.binary_search(f).is_err())
        .map(|f| {
            Message::new(MessageKind::Source, "this file is not included from config.kdl and is left out").in_file(f)
        })
        .collect()
}

fn duplicates(files: &[merge::Parsed<'_>]) -> Vec<Message> {
    let mut seen: Vec<&str> = Vec::new();
    let mut out = Vec::new();
    for file in files {
        for node in file.doc.nodes() {
            // `server` is the older spelling of `system`; either overrides the other.
            let name = if node.name().value() == "server" { "system" } else { node.name().value() };
            if !SINGLETONS.contains(&name) {
                continue;
            }
            if seen.contains(&name) {
                let (line, column) = guard::line_column(file.text, node.span().offset());
                let text = format!("a second '{name}' block: only the last one counts");
                out.push(Message::new(MessageKind::Lint, text).at(file.name, line, column));
            }
            seen.push(name);
        }
    }
    out
}

#[cfg(test)]
mod tests;
