//! Shapes that several nouns share: pages, what a scope admits, the facts of a bundle.

use crate::error::{Fail, Q};
use crate::value::{Bind, Cells, V};
use domain::bundle::BundleStatus;
use domain::{BundleId, ContentId, Digest, Scope};

/// Lists answer at most this many rows.
pub(crate) const MAX_PAGE: u32 = 500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub limit: u32,
    /// What the page before answered as `next_cursor`.
    pub cursor: Option<String>,
}

impl Page {
    pub fn first(limit: u32) -> Page {
        Page { limit, cursor: None }
    }
    pub(crate) fn limit(&self) -> usize {
        self.limit.clamp(1, MAX_PAGE) as usize
    }
    /// The cursor as an id. Errors: `Invalid`.
    pub(crate) fn after<T: std::str::FromStr>(&self) -> Q<Option<T>> {
        match &self.cursor {
            None => Ok(None),
            Some(c) => c.parse().map(Some).map_err(|_| Fail::invalid("the cursor is not one of this list")),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    pub rows: Vec<T>,
    /// Of the whole list, not of this page.
    pub total: i64,
    pub next_cursor: Option<String>,
}

impl<T> Listing<T> {
    /// `rows` were asked for with one more than `page` allows: its presence tells that there is a next page.
    pub(crate) fn cut(mut rows: Vec<T>, total: i64, page: &Page, cursor: impl Fn(&T) -> String) -> Listing<T> {
        let next_cursor = match rows.len() > page.limit() {
            true => {
                rows.truncate(page.limit());
                rows.last().map(cursor)
            }
            false => None,
        };
        Listing { rows, total, next_cursor }
    }
}

/// Answer of a command that may find its goal already holding; then nothing was written, no audit entry either.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed<T> {
    pub row: T,
    pub changed: bool,
}

/// A condition being put together: SQL text and its parameters, in order.
#[derive(Default)]
pub(crate) struct Where {
    pub(crate) sql: String,
    pub(crate) params: Vec<V>,
}

impl Where {
    pub(crate) fn new(sql: &str) -> Where {
        Where { sql: sql.to_string(), params: Vec::new() }
    }
    pub(crate) fn and(&mut self, sql: &str, params: impl IntoIterator<Item = V>) {
        if !self.sql.is_empty() {
            self.sql.push_str(" AND ");
        }
        self.sql.push_str(sql);
        self.params.extend(params);
    }
    pub(crate) fn and_if<T: Bind>(&mut self, sql: &str, value: Option<T>) {
        if let Some(v) = value {
            self.and(sql, [v.v()]);
        }
    }
    /// Rows of this tenant only; `table` is the alias with `org_id` and `project_id`.
    pub(crate) fn scope(&mut self, table: &str, scope: Scope) {
        match scope {
            Scope::Org(org) => self.and(&format!("{table}.org_id = ?"), [org.v()]),
            Scope::Project(p) => self.and(&format!("{table}.project_id = ?"), [p.v()]),
            Scope::System(_) => {}
        }
    }
}

/// What an answer that names a bundle needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFacts {
    pub id: BundleId,
    pub content_id: Option<ContentId>,
    pub artifact_hash: Option<Digest>,
    pub size_bytes: u64,
    pub signature: Option<String>,
    pub key_id: Option<String>,
    pub version: Option<String>,
    pub status: BundleStatus,
}

/// For a left join: the facts are absent when the id is.
pub(crate) const FACTS: &str =
    "b.id, b.content_id, b.artifact_hash, b.size_bytes, b.signature, b.key_id, b.version, b.status";

pub(crate) fn read_facts(r: &mut Cells) -> Q<Option<BundleFacts>> {
    let id: Option<BundleId> = r.get()?;
    let (content_id, artifact_hash) = (r.get()?, r.get()?);
    let size: Option<u64> = r.get()?;
    let (signature, key_id, version) = (r.get()?, r.get()?, r.get()?);
    let status: Option<BundleStatus> = r.get()?;
    Ok(match (id, status) {
        (Some(id), Some(status)) => Some(BundleFacts {
            id,
            content_id,
            artifact_hash,
            size_bytes: size.unwrap_or(0),
            signature,
            key_id,
            version,
            status,
        }),
        _ => None,
    })
}

macro_rules! kinds {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// What a row of the change feed is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ChangeKind { $($variant),+ }
        impl ChangeKind {
            pub const ALL: &'static [ChangeKind] = &[$(ChangeKind::$variant),+];
            pub fn as_str(&self) -> &'static str { match self { $(ChangeKind::$variant => $text),+ } }
            pub fn parse(s: &str) -> Option<ChangeKind> { match s { $($text => Some(ChangeKind::$variant),)+ _ => None } }
        }
    };
}
kinds! {
    Org = "org", User = "user", Member = "member", Project = "project", EnrolmentToken = "enrolment_token", Node = "node",
    NodeState = "node_state",
    Assignment = "assignment", Group = "group", Bundle = "bundle", Rollout = "rollout", Debt = "debt", Inbox = "inbox",
    ApiKey = "api_key", Session = "session", Freeze = "freeze", Environment = "environment", Template = "template",
    Drift = "drift", Key = "key", Setting = "setting", Instance = "instance", Audit = "audit",
}
