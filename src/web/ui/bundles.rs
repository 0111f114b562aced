//! `/projects/:project/bundles`

use super::ask::{Ask, ROWS, is_about_the_form};
use super::rollouts::row;
use super::view::bundle::{self as show_bundle, BundleView};
use super::view::bundles::{BundlesView, NewBundleView, new_page, page, region};
use super::view::{Flash, parts};
use crate::page::listing;
use crate::problem::{Outcome, Refusal};
use actors::command::{CommandResult, Done};
use actors::commands::bundles::Compiled;
use domain::Scope;
use domain::access::KeyScope;
use domain::bundle::{Bundle, BundleStatus, Diagnostic, Source};
use domain::project::Project;
use http::StatusCode;
use std::collections::BTreeMap;
use std::time::Duration;
use store::{BundleFilter, BundleRef, Page, RolloutFilter};
use warp::reply::Response;

/// How long the form waits for its bundle; after that the page of the bundle shows how it goes on.
const COMPILE_WAIT: Duration = Duration::from_secs(20);
/// Rollouts shown on the page of a bundle.
const ROLLOUTS: u32 = 10;
/// A percent-encoded byte has three characters: what fits the body in any case.
const ENCODED: usize = 3;
/// Longest reason of a revocation, as in the API.
const MAX_REASON: usize = 1_000;

pub async fn list(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesRead).await?;
    let status = ask.given("status");
    let filter = BundleFilter { status: BundleStatus::parse(&status) };
    let asked = ask.page(ROWS)?;
    let found = listing(asked.cursor.is_some(), ask.store().bundles(Scope::Project(project.id), filter, asked).await)?;
    let links = ask.links(&[("status", Some(&status))], found.next_cursor.as_deref());
    let view = BundlesView {
        slug: project.slug,
        bundles: found.rows,
        total: found.total,
        status,
        next: links.next,
        first: links.first,
        src: links.here,
    };
    match ask.fragment() {
        Some(_) => ask.ok(region(&frame, &view)),
        None => ask.ok(page(&frame, &view)),
    }
}

pub async fn named(ask: &Ask, project: &Project, name: &str) -> Outcome<Bundle> {
    match ask.store().bundle(Scope::Project(project.id), project.id, BundleRef::parse(name)).await {
        Ok(bundle) => Ok(bundle),
        Err(store::Error::NotFound | store::Error::Invalid(_)) => {
            Err(Refusal::not_found("There is no such bundle in this project."))
        }
        Err(e) => Err(e.into()),
    }
}

pub async fn show(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesRead).await?;
    let bundle = named(ask, &project, id).await?;
    let scope = Scope::Project(project.id);
    let used = ask.store().bundle_use(bundle.id).await?;
    let filter = RolloutFilter { bundle: Some(bundle.id), ..RolloutFilter::default() };
    let mut rollouts = Vec::new();
    for rollout in ask.store().rollouts(scope, filter, Page::first(ROLLOUTS)).await?.rows {
        rollouts.push(row(ask, rollout).await?);
    }
    let files = match (ask.fragment(), bundle.desired_config) {
        (None, Some(id)) => match ask.store().desired_config(project.id, id).await {
            Ok(desired) => desired.files.into_iter().collect(),
            Err(store::Error::NotFound) => Vec::new(),
            Err(e) => return Err(e.into()),
        },
        (Some(_), _) | (None, None) => Vec::new(),
    };
    let view = BundleView {
        src: format!("/projects/{}/bundles/{}", parts::query(&project.slug), bundle.id),
        slug: project.slug,
        files,
        running_on: used.running_on,
        desired_on: used.desired_on,
        rollouts,
        bundle,
    };
    match ask.fragment() {
        Some(_) => ask.ok(show_bundle::region(&frame, &view)),
        None => ask.ok(show_bundle::page(&frame, &view)),
    }
}

fn empty(ask: &Ask, project: &Project) -> NewBundleView {
    NewBundleView {
        slug: project.slug.clone(),
        max_bytes: ask.app.settings.max_body_bytes / ENCODED,
        ..NewBundleView::default()
    }
}

pub async fn form(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesWrite).await?;
    ask.ok(new_page(&frame, &empty(ask, &project)))
}

pub async fn compile(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesWrite).await?;
    let version = ask.field("version").map(str::to_string);
    // Forms send line ends as networks do; the same text by the API must be the same content.
    let config = ask.form.text("config").unwrap_or_default().replace("\r\n", "\n");
    let mut view = empty(ask, &project);
    view.version = version.clone().unwrap_or_default();
    view.config.clone_from(&config);
    let done = match submit(ask, &project, version, config).await {
        Ok(done) => done,
        Err(e) if is_about_the_form(&e) => {
            let refusal = Refusal::from(e);
            view.messages = refusal.problem.errors.get("config").into_iter().flatten().map(|m| placed(m)).collect();
            if view.messages.is_empty() {
                view.error = Some(refusal.problem.detail.clone());
            }
            return Ok(ask.html(refusal.status(), new_page(&frame, &view)));
        }
        Err(e) => return Err(e.into()),
    };
    if done.bundle.status == BundleStatus::Failed {
        view.messages = done.bundle.errors;
        return Ok(ask.html(StatusCode::UNPROCESSABLE_ENTITY, new_page(&frame, &view)));
    }
    let flash = match (done.bundle.status, done.created) {
        (BundleStatus::Compiling, _) => Flash::BundleCompiling,
        (_, true) => Flash::BundleCompiled,
        (_, false) => Flash::BundleExisted,
    };
    ask.redirect(&path(&project, &done.bundle), Some(flash))
}

/// A message of the compiler with its place, which it begins with: `config.kdl:3:7: text`.
pub fn placed(message: &str) -> Diagnostic {
    let plain = || Diagnostic { text: message.to_string(), file: None, line: None, column: None };
    let Some((place, text)) = message.split_once(": ") else { return plain() };
    let mut parts = place.rsplitn(3, ':');
    let (last, middle, first) = (parts.next(), parts.next(), parts.next());
    let number = |s: Option<&str>| s.and_then(|s| s.parse::<u32>().ok());
    let at = |file: &str, line, column| Diagnostic { text: text.into(), file: Some(file.into()), line, column };
    match (first, middle, number(middle), number(last)) {
        (Some(file), _, line @ Some(_), column @ Some(_)) if !file.is_empty() => at(file, line, column),
        (None, Some(file), None, line @ Some(_)) if !file.is_empty() => at(file, line, None),
        _ => plain(),
    }
}

async fn submit(ask: &Ask, project: &Project, version: Option<String>, config: String) -> CommandResult<Compiled> {
    let files = BTreeMap::from([("config.kdl".to_string(), config)]);
    let source = Source { kind: "ui".into(), reference: None };
    let desired = ask.plane().submit_config(ask.caller(), project.id, files, source).await?;
    ask.plane().compile(ask.caller(), project.id, Some(desired.id), version, COMPILE_WAIT).await
}

pub async fn revoke(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::BundlesWrite).await?;
    let bundle = named(ask, &project, id).await?;
    let reason = ask.field("reason").map(|r| r.chars().take(MAX_REASON).collect());
    let (done, _) = ask.plane().revoke_bundle(ask.caller(), project.id, bundle.id, reason).await?;
    ask.redirect(&path(&project, &bundle), Some(flash(done, Flash::BundleRevoked)))
}

pub async fn deprecate(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::BundlesWrite).await?;
    let bundle = named(ask, &project, id).await?;
    let done = ask.plane().deprecate_bundle(ask.caller(), project.id, bundle.id).await?;
    ask.redirect(&path(&project, &bundle), Some(flash(done, Flash::BundleDeprecated)))
}

fn flash(done: Done, changed: Flash) -> Flash {
    match done {
        Done::Changed => changed,
        Done::Already => Flash::Unchanged,
    }
}

fn path(project: &Project, bundle: &Bundle) -> String {
    format!("/projects/{}/bundles/{}", parts::query(&project.slug), bundle.id)
}
