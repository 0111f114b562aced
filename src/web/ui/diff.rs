//! `/projects/:project/bundles/:id/diff`: what changes from one bundle to another.

use super::ask::Ask;
use super::bundles::named;
use super::lines::changed;
use super::view::bundles::name;
use super::view::diff::{DiffView, FileDiff, page};
use crate::compare::{Against, compare};
use crate::problem::{Outcome, Refusal};
use actors::command::CommandError;
use domain::Scope;
use domain::access::KeyScope;
use domain::bundle::Bundle;
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
    let (against, from) = other(ask, &project, &to).await?;
    let mut view = DiffView {
        slug: project.slug.clone(),
        others,
        against,
        compared: None,
        as_text: ask.given("view") == "text",
        files: Vec::new(),
        to,
        from,
    };
    if let Some(from) = &view.from {
        let (old, new) = (texts(ask, &project, from).await?, texts(ask, &project, &view.to).await?);
        view.files = files(&old, &new);
        if from.config.is_some() && view.to.config.is_some() {
            view.compared = Some(compare(from, &view.to).await?);
        }
    }
    ask.ok(page(&frame, &view))
}

/// What it is compared with: as asked; else what the fleet runs, unless that is this very bundle, or else the one before.
async fn other(ask: &Ask, project: &Project, to: &Bundle) -> Outcome<(String, Option<Bundle>)> {
    let asked = ask.given("against");
    let order: &[(&str, Against)] = match Against::parse(&asked) {
        Some(Against::Fleet) => &[("fleet", Against::Fleet)],
        Some(Against::Parent) => &[("parent", Against::Parent)],
        None if asked.is_empty() => &[("fleet", Against::Fleet), ("parent", Against::Parent)],
        None => return Ok((asked.clone(), Some(named(ask, project, &asked).await?))),
    };
    for (word, which) in order {
        match which.bundle(&ask.app, project.id, to).await {
            Ok(found) if found.id == to.id && order.len() > 1 => {}
            Ok(found) => return Ok((word.to_string(), Some(found))),
            Err(CommandError::Conflict { .. }) => {}
            Err(e) => return Err(Refusal::from(e)),
        }
    }
    Ok((order[0].0.to_string(), None))
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
