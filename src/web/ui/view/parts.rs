//! Small pieces that every page is made of: times, ids, badges, forms, pagers, live regions.

use super::Frame;
use domain::bundle::{BundleStatus, RiskLevel};
use domain::node::{Presence, Standing};
use domain::rollout::{Counts, NodeStateKind, Phase, StepState};
use domain::{BundleId, Span, Timestamp};
use maud::{Markup, PreEscaped, html};
use std::collections::BTreeMap;
use std::fmt::Display;

/// Characters of a shortened id.
const SHORT_ID: usize = 8;
/// Characters of a shortened hash.
const SHORT_HASH: usize = 12;

/// How a state feels. Text says it too: nothing is told by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Ok,
    Busy,
    Warn,
    Bad,
    Quiet,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::Ok => "badge ok",
            Tone::Busy => "badge busy",
            Tone::Warn => "badge warn",
            Tone::Bad => "badge bad",
            Tone::Quiet => "badge quiet",
        }
    }
}

pub fn badge(tone: Tone, text: impl Display) -> Markup {
    html! { span class=(tone.class()) { (words(&text.to_string())) } }
}

/// `rolling_back` as people write it.
pub fn words(s: &str) -> String {
    s.replace('_', " ")
}

/// With a capital letter.
pub fn sentence(s: &str) -> String {
    let mut chars = s.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

pub fn phase(p: Phase) -> Markup {
    let tone = match p {
        Phase::Pending | Phase::Cancelled | Phase::RolledBack => Tone::Quiet,
        Phase::Running => Tone::Busy,
        Phase::Paused | Phase::RollingBack => Tone::Warn,
        Phase::Completed => Tone::Ok,
        Phase::Failed => Tone::Bad,
    };
    badge(tone, p)
}

pub fn step_state(s: StepState) -> Markup {
    let tone = match s {
        StepState::Pending => Tone::Quiet,
        StepState::Running => Tone::Busy,
        StepState::Completed => Tone::Ok,
        StepState::Failed => Tone::Bad,
    };
    badge(tone, s)
}

pub fn node_state(s: NodeStateKind) -> Markup {
    let tone = match s {
        NodeStateKind::Pending | NodeStateKind::Skipped | NodeStateKind::RolledBack => Tone::Quiet,
        NodeStateKind::Assigned | NodeStateKind::Downloaded | NodeStateKind::Staged | NodeStateKind::Activated => {
            Tone::Busy
        }
        NodeStateKind::Verified => Tone::Ok,
        NodeStateKind::Owed | NodeStateKind::RollingBack => Tone::Warn,
        NodeStateKind::Failed | NodeStateKind::RollbackFailed => Tone::Bad,
    };
    badge(tone, s)
}

pub fn presence(p: Presence) -> Markup {
    let tone = match p {
        Presence::Online => Tone::Ok,
        Presence::Offline => Tone::Bad,
        Presence::Unknown => Tone::Quiet,
    };
    badge(tone, p)
}

pub fn standing(s: Standing) -> Markup {
    let tone = match s {
        Standing::Adopted => Tone::Quiet,
        Standing::Quarantined => Tone::Warn,
        Standing::Conflicted | Standing::Revoked => Tone::Bad,
    };
    badge(tone, s)
}

/// What a node says of itself, by its name in the API.
pub fn health(h: &str) -> Markup {
    let tone = match h {
        "healthy" => Tone::Ok,
        "degraded" => Tone::Warn,
        "unhealthy" => Tone::Bad,
        _ => Tone::Quiet,
    };
    badge(tone, h)
}

pub fn bundle_status(s: BundleStatus) -> Markup {
    let tone = match s {
        BundleStatus::Compiling => Tone::Busy,
        BundleStatus::AwaitingSignature | BundleStatus::Deprecated => Tone::Warn,
        BundleStatus::Compiled => Tone::Ok,
        BundleStatus::Failed | BundleStatus::Revoked => Tone::Bad,
    };
    badge(tone, s)
}

pub fn risk(r: RiskLevel) -> Markup {
    let tone = match r {
        RiskLevel::Low => Tone::Quiet,
        RiskLevel::Medium => Tone::Warn,
        RiskLevel::High => Tone::Bad,
    };
    badge(tone, format!("{r} risk"))
}

/// `2026-11-21 21:30:00 UTC`
pub fn exact(t: Timestamp) -> String {
    let text = t.to_rfc3339();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// How long ago, or until when, in one unit.
pub fn relative(t: Timestamp, now: Timestamp) -> String {
    let ago = now >= t;
    let span = if ago { now.since(t) } else { t.since(now) };
    let s = span.as_secs();
    let text = match s {
        0 if ago => return "just now".into(),
        0..=59 => format!("{s} s"),
        60..=3_599 => format!("{} min", s / 60),
        3_600..=172_799 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    };
    if ago { format!("{text} ago") } else { format!("in {text}") }
}

/// A length of time, two units at most.
pub fn length(span: Span) -> String {
    let s = span.as_secs();
    match s {
        0..=9 if span.0 % 1_000_000 != 0 => format!("{:.1} s", span.as_secs_f64()),
        0..=59 => format!("{s} s"),
        60..=3_599 => two((s / 60, "min"), (s % 60, "s")),
        3_600..=86_399 => two((s / 3_600, "h"), (s % 3_600 / 60, "min")),
        _ => two((s / 86_400, "d"), (s % 86_400 / 3_600, "h")),
    }
}

/// The smaller unit is left out where there is none of it.
fn two(big: (i64, &str), small: (i64, &str)) -> String {
    match small.0 {
        0 => format!("{} {}", big.0, big.1),
        n => format!("{} {} {n} {}", big.0, big.1, small.1),
    }
}

pub fn when(t: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(t.to_rfc3339()) title=(exact(t)) { (relative(t, now)) } }
}

pub fn when_or(t: Option<Timestamp>, now: Timestamp, none: &str) -> Markup {
    match t {
        Some(t) => when(t, now),
        None => html! { span .muted { (none) } },
    }
}

/// An id, shortened to its end: the beginning of a UUIDv7 is its time, which neighbours share.
pub fn id(full: impl Display) -> Markup {
    let full = full.to_string();
    html! { code .id title=(full) { (short(&full)) } }
}

pub fn short(full: &impl Display) -> String {
    let full = full.to_string();
    let from = full.char_indices().rev().nth(SHORT_ID - 1).map_or(0, |(i, _)| i);
    format!("…{}", &full[from..])
}

/// A hash, shortened to its beginning.
pub fn hash(full: impl Display) -> Markup {
    let full = full.to_string();
    html! { code .id title=(full) { (full.chars().take(SHORT_HASH).collect::<String>()) "…" } }
}

/// Text with the ids in it shortened: machines write them out, people compare their ends.
pub fn text(s: &str) -> Markup {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut parts: Vec<(&str, bool)> = Vec::new();
    let mut rest = s;
    while !rest.is_empty() {
        let word = rest.starts_with(is_word);
        let end = rest.find(|c| is_word(c) != word).unwrap_or(rest.len());
        parts.push((&rest[..end], word));
        rest = &rest[end..];
    }
    html! {
        @for (part, word) in parts {
            @if word && part.len() == 36 && uuid::Uuid::parse_str(part).is_ok() { (id(part)) }
            @else if word && part.len() == 64 && domain::Digest::parse(part).is_some() { (hash(part)) }
            @else { (part) }
        }
    }
}

/// Percent-encodes what goes into a path segment or a query value.
pub fn query(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for b in s.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// `?a=b&c=d` of those that are given; empty without any.
pub fn query_string(pairs: &[(&str, Option<&str>)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(&format!("{}={}", query(name), query(value)));
        }
    }
    out
}

pub fn csrf(frame: &Frame) -> Markup {
    html! { input type="hidden" name="_csrf" value=(frame.csrf); }
}

/// A region that is fetched again when something of `kinds` (and with `id`, only that) has a newer version.
pub struct Live<'a> {
    pub name: &'static str,
    /// Nouns of the stream, separated by blanks.
    pub kinds: &'static str,
    pub id: Option<String>,
    pub version: u64,
    /// Path of the page, with its query.
    pub src: &'a str,
    /// Milliseconds between two fetches, at least.
    pub every_ms: u32,
}

/// A region of one rollout, bundle or node: twice a second at most.
pub const LIVE_ONE_MS: u32 = 500;
/// A list changes more often than anybody reads it.
pub const LIVE_LIST_MS: u32 = 2_000;

pub fn live(l: &Live<'_>, body: &Markup) -> Markup {
    let join = if l.src.contains('?') { '&' } else { '?' };
    html! {
        div #{ "live-" (l.name) } data-live=(l.kinds) data-id=[l.id.as_deref()] data-version=(l.version)
            data-src={ (l.src) (join) "fragment=" (l.name) } data-every=(l.every_ms) { (body) }
    }
}

/// A link to the rest of a list.
pub fn pager(shown: usize, total: i64, noun: &str, next: Option<&str>, first: Option<&str>) -> Markup {
    html! {
        div .pager {
            span .muted { (shown) " of " (count(total, noun)) }
            @if let Some(first) = first { a href=(first) { "Back to the start" } }
            @if let Some(next) = next { a href=(next) rel="next" { "Next page" } }
        }
    }
}

/// A table that scrolls by itself where the page is too narrow.
pub fn table(label: &str, head: &[&str], rows: &Markup) -> Markup {
    html! {
        div .scroll tabindex="0" role="group" aria-label=(label) {
            table {
                thead { tr { @for h in head { th scope="col" { (h) } } } }
                tbody { (rows) }
            }
        }
    }
}

pub fn empty(text: &str) -> Markup {
    html! { p .empty { (text) } }
}

/// An empty place that says what fills it, to those who may.
pub fn empty_then(text: &str, may: bool, href: &str, label: &str) -> Markup {
    html! {
        div .empty {
            p { (text) }
            @if may { p { a .button href=(href) { (label) } } }
        }
    }
}

/// `word`, or more of it.
pub fn noun(n: i64, word: &str) -> String {
    match (n, word.strip_suffix('y')) {
        (1, _) => word.to_string(),
        (_, Some(stem)) => format!("{stem}ies"),
        (_, None) => format!("{word}s"),
    }
}

/// `1 node`, `2 nodes`
pub fn count(n: i64, word: &str) -> String {
    format!("{n} {}", noun(n, word))
}

/// A pretty-printed JSON document in a box that scrolls.
pub fn json(label: &str, value: &serde_json::Value) -> Markup {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    html! { pre .code tabindex="0" role="group" aria-label=(label) { code { (text) } } }
}

/// An option of a `select`.
pub fn choice(value: &str, label: &str, chosen: &str) -> Markup {
    html! { option value=(value) selected[value == chosen] { (label) } }
}

/// What bundles are called.
#[derive(Clone, Debug, Default)]
pub struct BundleNames(pub BTreeMap<BundleId, BundleName>);

#[derive(Clone, Debug, Default)]
pub struct BundleName {
    pub version: Option<String>,
    /// The content id, once there is one.
    pub content: Option<String>,
}

impl BundleNames {
    pub fn text(&self, id: BundleId) -> String {
        let name = self.0.get(&id);
        match name.map(|n| (&n.version, &n.content)) {
            Some((Some(version), _)) => version.clone(),
            Some((None, Some(content))) => content.chars().take(SHORT_HASH).collect(),
            Some((None, None)) | None => short(&id),
        }
    }

    /// `None` is the baseline: what the node had when it enrolled.
    pub fn link(&self, slug: &str, id: Option<BundleId>) -> Markup {
        let Some(id) = id else { return html! { span .muted { "baseline" } } };
        let full = self.0.get(&id).and_then(|n| n.content.clone()).unwrap_or_else(|| id.to_string());
        let versioned = self.0.get(&id).is_some_and(|n| n.version.is_some());
        let text = self.text(id);
        html! {
            a href={ "/projects/" (query(slug)) "/bundles/" (id) } title=(full) {
                @if versioned { (text) } @else { code .id { (text.chars().take(SHORT_HASH).collect::<String>()) } }
            }
        }
    }
}

/// The buckets in the order of the bar: done, on its way, to come, apart, in trouble.
pub fn buckets(c: &Counts) -> [(&'static str, &'static str, u32); 9] {
    [
        ("verified", "verified", c.verified),
        ("assigned", "in progress", c.assigned),
        ("pending", "pending", c.pending),
        ("owed", "owed", c.owed),
        ("skipped", "skipped", c.skipped),
        ("rolling_back", "rolling back", c.rolling_back),
        ("rolled_back", "rolled back", c.rolled_back),
        ("failed", "failed", c.failed),
        ("rollback_failed", "rollback failed", c.rollback_failed),
    ]
}

/// In one sentence.
pub fn progress_text(c: &Counts) -> String {
    let mut out = format!("{} of {} verified", c.verified, c.total);
    for (_, label, n) in buckets(c).into_iter().skip(1).filter(|(_, _, n)| *n > 0) {
        out.push_str(&format!(", {n} {label}"));
    }
    out
}

/// A bar of all buckets. Widths are attributes of the drawing: a page has no inline styles.
pub fn progress_bar(c: &Counts) -> Markup {
    let total = u64::from(c.sum().max(1));
    let mut x = 0u64;
    let mut drawn = Vec::new();
    for (name, _, n) in buckets(c) {
        let end = x + u64::from(n);
        let (from, to) = (x * 1_000 / total, end * 1_000 / total);
        x = end;
        if n > 0 {
            // What is there at all is seen: two thousandths at least.
            drawn.push((name, from, (to - from).max(2)));
        }
    }
    html! {
        svg .progress viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(progress_text(c)) {
            rect .b-none x="0" y="0" width="1000" height="10" {}
            @for (name, from, width) in drawn {
                rect class={ "b-" (name) } x=(from) y="0" width=(width) height="10" {}
            }
        }
    }
}

pub fn legend(c: &Counts) -> Markup {
    html! {
        ul .legend {
            @for (name, label, n) in buckets(c) {
                @if n > 0 || matches!(name, "verified" | "assigned" | "pending" | "failed") {
                    li {
                        svg .swatch viewBox="0 0 10 10" aria-hidden="true" { rect class={ "b-" (name) } width="10" height="10" rx="2" {} }
                        b { (n) } " " (label)
                    }
                }
            }
        }
    }
}

/// Percent of those that must do something which are done.
pub fn percent_done(c: &Counts) -> u32 {
    let targets = c.total - c.skipped.min(c.total);
    if targets == 0 { 0 } else { (u64::from(c.verified) * 100 / u64::from(targets)) as u32 }
}

/// Nothing at all.
pub fn nothing() -> Markup {
    PreEscaped(String::new())
}
