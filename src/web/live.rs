//! `GET /events/stream`: what changed, as server-sent events, from the change feed of the database.
//!
//! The bus only wakes the stream; what is sent is read from the feed, so that every event has a number, nothing is sent before
//! it is committed, and a client that comes back with `Last-Event-ID` misses nothing. A client that is too far behind is told
//! `resync`: fetch everything again.

use crate::app::App;
use crate::artifact::Shared;
use crate::auth::identify;
use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use actors::command::Caller;
use api::stream::StreamEvent;
use bytes::Bytes;
use domain::access::KeyScope;
use domain::{OrgId, ProjectId, RequestId};
use futures_util::StreamExt;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;
use store::{ChangeCursor, ChangeKind, ChangeRow};
use tokio::sync::broadcast::Receiver;
use tokio::time::Instant;
use warp::reply::{Reply, Response};

/// Rows of the feed read at once.
const READ: u32 = 500;
/// A client that is more rows behind than this is told to fetch everything: 4 x 500.
const MAX_BEHIND: usize = 4;
/// After a wake-up, how long more of them are gathered: at most four reads a second for each client.
const GATHER: Duration = Duration::from_millis(250);
/// Wake-ups may be lost, and come from this instance only.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Proxies close what is silent for long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After this the client connects anew.
const LIFE: Duration = Duration::from_secs(600);
/// How long a browser waits before it connects again, in milliseconds.
const RETRY_MS: u32 = 2_000;

struct Feed {
    app: App,
    caller: Caller,
    /// With the credential, which is looked at again before anything is told.
    headers: HeaderMap,
    request: RequestId,
    address: IpAddr,
    only: Option<ProjectId>,
    /// `None`: deleted.
    orgs: HashMap<ProjectId, Option<OrgId>>,
    cursor: ChangeCursor,
    notices: Receiver<actors::bus::Notice>,
    said: Instant,
    ends: Instant,
    /// What is to be sent before anything is waited for.
    first: Option<String>,
}

pub async fn stream(call: Call) -> Outcome<Response> {
    let only = match call.query.text("project") {
        Some(name) => Some(call.project_named(name).await?.id),
        None => None,
    };
    let store = call.app.plane.store();
    let notices = call.app.plane.bus().subscribe();
    let head = store.changes_head().await?;
    let mut first = format!("retry: {RETRY_MS}\n\n");
    let last = call.headers.get("last-event-id").map(|v| v.to_str().ok().and_then(|v| v.parse::<ChangeCursor>().ok()));
    let cursor = match last {
        None => {
            // So that a client that saw nothing yet can come back to this place.
            first.push_str(&format!("id: {head}\n\n"));
            head
        }
        Some(Some(cursor)) if is_kept(store.changes_kept().await?, cursor) => cursor,
        // Nothing of ours, or what came after it is no longer known.
        Some(_) => {
            first.push_str(&resync(head)?);
            head
        }
    };
    let now = Instant::now();
    let feed = Feed {
        caller: call.caller()?.clone(),
        request: call.meta.request_id,
        address: call.address,
        headers: call.headers,
        app: call.app,
        only,
        orgs: HashMap::new(),
        cursor,
        notices,
        said: now,
        ends: now + LIFE,
        first: Some(first),
    };
    let events = futures_util::stream::unfold(feed, |mut feed| async move {
        let text = feed.next().await?;
        Some((Ok::<Bytes, Infallible>(Bytes::from(text)), feed))
    });
    let mut response = warp::reply::stream(Shared(Mutex::new(events.boxed()))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    // nginx would gather the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Is everything after this place still there? `kept`: the oldest and the newest row.
fn is_kept(kept: Option<(ChangeCursor, ChangeCursor)>, cursor: ChangeCursor) -> bool {
    kept.is_some_and(|(oldest, newest)| (oldest..=newest).contains(&cursor))
}

fn resync(at: ChangeCursor) -> Outcome<String> {
    event(at, &StreamEvent { kind: "resync".into(), id: None, version: 0, project_id: None })
}

fn event(at: ChangeCursor, event: &StreamEvent) -> Outcome<String> {
    let data = serde_json::to_string(event).map_err(|e| Refusal::internal(e.to_string()))?;
    Ok(format!("id: {at}\ndata: {data}\n\n"))
}

/// What a client must be allowed to read to be told of such a change; `None` is the instances' own business.
fn needed(kind: ChangeKind) -> Option<KeyScope> {
    match kind {
        ChangeKind::Assignment
        | ChangeKind::NodeState
        | ChangeKind::Inbox
        | ChangeKind::Session
        | ChangeKind::Key
        | ChangeKind::Setting
        | ChangeKind::Instance => None,
        ChangeKind::Org | ChangeKind::User | ChangeKind::Member | ChangeKind::Project => Some(KeyScope::ProjectsRead),
        ChangeKind::Node | ChangeKind::EnrolmentToken | ChangeKind::Group | ChangeKind::Drift => {
            Some(KeyScope::NodesRead)
        }
        ChangeKind::Bundle => Some(KeyScope::BundlesRead),
        ChangeKind::Rollout
        | ChangeKind::Debt
        | ChangeKind::Freeze
        | ChangeKind::Environment
        | ChangeKind::Template => Some(KeyScope::RolloutsRead),
        ChangeKind::ApiKey => Some(KeyScope::ApiKeysRead),
        ChangeKind::Audit => Some(KeyScope::AuditRead),
    }
}

impl Feed {
    /// The next piece of text; `None` ends the stream, and the client comes back by itself.
    async fn next(&mut self) -> Option<String> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            if Instant::now() >= self.ends || self.app.is_draining() {
                return None;
            }
            // The database is away: end, and let the client try again.
            let text = self.read().await.ok()?;
            if !text.is_empty() {
                self.said = Instant::now();
                return Some(text);
            }
            if self.said.elapsed() >= KEEP_ALIVE {
                self.said = Instant::now();
                return Some(": still here\n\n".into());
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let until = (Instant::now() + LOOK_AGAIN).min(self.said + KEEP_ALIVE).min(self.ends);
        let app = self.app.clone();
        tokio::select! {
            woken = self.notices.recv() => {
                // Lagged or not makes no difference: the feed has everything.
                if matches!(woken, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
                    tokio::time::sleep_until(until).await;
                }
                tokio::time::sleep(GATHER).await;
                self.notices = self.notices.resubscribe();
            }
            () = tokio::time::sleep_until(until) => {}
            () = app.drained() => {}
        }
    }

    /// Who listens may have been shut out, or may read less, since the last time.
    async fn recognise(&mut self) -> Outcome<()> {
        let (request, address) = (self.request, self.address);
        let found = identify(&self.app, &Method::GET, &self.headers, request, address).await?;
        self.caller = found.caller;
        Ok(())
    }

    /// Everything up to now, as text.
    async fn read(&mut self) -> Outcome<String> {
        self.recognise().await?;
        let mut text = String::new();
        for _ in 0..MAX_BEHIND {
            let rows = self.app.plane.store().changes_after(self.cursor, READ).await?;
            let all = rows.len() < READ as usize;
            if let Some(last) = rows.last() {
                self.cursor = last.cursor;
            }
            self.find_orgs(&rows).await?;
            for row in rows.iter().filter(|r| self.may_see(r)) {
                let version = u64::try_from(row.version).unwrap_or(0);
                let shown =
                    StreamEvent { kind: row.kind.as_str().into(), id: Some(row.id), version, project_id: row.project };
                text.push_str(&event(row.cursor, &shown)?);
            }
            if all {
                return Ok(text);
            }
        }
        self.cursor = self.app.plane.store().changes_head().await?;
        resync(self.cursor)
    }

    /// Learns whose projects these rows are about.
    async fn find_orgs(&mut self, rows: &[ChangeRow]) -> Outcome<()> {
        let new: Vec<ProjectId> =
            rows.iter().filter_map(|r| r.project).filter(|p| !self.orgs.contains_key(p)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let projects = self.app.plane.store().all_projects().await?;
        self.orgs = projects.into_iter().map(|p| (p.id, Some(p.org))).collect();
        for deleted in new {
            self.orgs.entry(deleted).or_insert(None);
        }
        Ok(())
    }

    fn may_see(&self, row: &ChangeRow) -> bool {
        let Some(scope) = needed(row.kind) else { return false };
        if self.only.is_some_and(|only| row.project != Some(only)) {
            return false;
        }
        match row.project {
            // Deleted ones are seen by nobody.
            Some(project) => {
                self.orgs.get(&project).copied().flatten().is_some_and(|org| {
                    self.caller.sees(org, Some(project)) && self.caller.may(scope, org, Some(project))
                })
            }
            None => self.caller.instance_admin,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_client_goes_on_where_it_was_while_all_that_came_after_is_kept() {
        let at = |seq| ChangeCursor { xid: 7, seq };
        let known = |cursor| is_kept(Some((at(3), at(5))), cursor);
        assert!(known(at(3)) && known(at(4)) && known(at(5)));
        assert!(!known(at(2)), "pruned since");
        assert!(!known(at(6)), "the database was restored");
        assert!(!is_kept(None, ChangeCursor::default()), "nothing is known of an empty feed");
    }

    #[test]
    fn an_event_has_its_place_and_its_data_on_one_line() {
        let at: ChangeCursor = "7-42".parse().unwrap();
        let shown = StreamEvent { kind: "rollout".into(), id: Some(uuid::Uuid::nil()), version: 3, project_id: None };
        assert_eq!(
            event(at, &shown).unwrap(),
            "id: 7-42\ndata: {\"kind\":\"rollout\",\"id\":\"00000000-0000-0000-0000-000000000000\",\"version\":3,\"project_id\":null}\n\n"
        );
        assert!(resync(at).unwrap().contains("\"kind\":\"resync\""));
    }
}
