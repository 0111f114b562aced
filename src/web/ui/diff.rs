//! `/projects/:project/bundles/:id/diff`: what changes from one bundle to another.

use super::ask::Ask;
use super::bundles::named;
use super::lines::changed;
use super::view::bundles::name;
use super::view::diff::{DiffView, FileDiff, page};
use crate::problem::Outcome;
use domain::Scope;
use domain::access::KeyScope;
use domain::bundle::{Bundle, BundleStatus};
use domain::project::Project;
use std::collections::BTreeMap;
use store::{BundleFilter, Page};
use warp::reply::Response;

/// Bundles to compare with.
const OTHERS: u32 = 100;

pub async fn show(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::BundlesRead).await?;
    let to = named(ask, &project, id).await?;
    let all = ask.store().bundles(Scope::Project(project.id), BundleFilter::default(), Page::first(OTHERS)).await?.rows;
    // Rows of a list come without their configurations: these are the ones that have one.
    let usable = |b: &&Bundle| b.id != to.id && b.content_id.is_some();
    let others: Vec<(String, String)> = all.iter().filter(usable).map(|b| (b.id.to_string(), name(b))).collect();
    let from = match ask.query.text("against").filter(|a| !a.is_empty()) {
        Some(against) => Some(named(ask, &project, against).await?),
        None => match before(&all, &to) {
            Some(before) => Some(named(ask, &project, &before.id.to_string()).await?),
            None => None,
        },
    };
    let mut view =
        DiffView { slug: project.slug.clone(), others, difference: None, risk: None, files: Vec::new(), to, from };
    if let Some(from) = &view.from {
        let (old, new) = (texts(ask, &project, from).await?, texts(ask, &project, &view.to).await?);
        view.files = files(&old, &new);
        if let (Some(old), Some(new)) = (&from.config, &view.to.config) {
            view.difference = Some(bundle::risk::diff(old, new));
            let unknown = u32::try_from(view.to.warnings.len()).unwrap_or(u32::MAX);
            let risk = bundle::risk::assess(Some(old), new, unknown);
            view.risk = Some((risk.level, risk.reasons));
        }
    }
    ask.ok(page(&frame, &view))
}

/// The newest usable one that was there before `to`. `all` is newest first.
fn before<'a>(all: &'a [Bundle], to: &Bundle) -> Option<&'a Bundle> {
    all.iter().find(|b| b.status == BundleStatus::Compiled && b.id != to.id && b.created_at <= to.created_at)
}

async fn texts(ask: &Ask, project: &Project, bundle: &Bundle) -> Outcome<BTreeMap<String, String>> {
    match bundle.desired_config {
        None => Ok(BTreeMap::new()),
        Some(id) => match ask.store().desired_config(project.id, id).await {
            Ok(desired) => Ok(desired.files.into_iter().collect()),
            Err(store::Error::NotFound) => Ok(BTreeMap::new()),
            Err(e) => Err(e.into()),
        },
    }
}

/// Files that differ.
fn files(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<FileDiff> {
    let paths: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let text = |of: &BTreeMap<String, String>, path: &String| of.get(path).cloned().unwrap_or_default();
    let differ = paths.into_iter().filter(|p| old.get(*p) != new.get(*p));
    differ.map(|p| FileDiff { path: p.clone(), lines: changed(&text(old, p), &text(new, p)) }).collect()
}
