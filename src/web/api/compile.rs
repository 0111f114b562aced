//! `/projects/:project/desired_config`, `/compile`, and `POST /bundles`, which is both.

use super::show;
use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::commands::bundles::Compiled;
use api::bundle::{BundleRequest, CompileRequest, DesiredConfigRequest};
use domain::bundle::{BundleStatus, Source};
use domain::project::check_name;
use http::StatusCode;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use warp::reply::Response;

/// The entry file of a configuration.
const ENTRY: &str = "config.kdl";

pub async fn submit(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: DesiredConfigRequest = call.json()?;
    let files = files(&[("config", said.config), ("config_kdl", said.config_kdl)], said.files)?;
    let caller = call.commander()?;
    let source = said.source.unwrap_or_default();
    let desired = call.app.plane.submit_config(&caller, project.id, files, source).await?;
    Ok(reply::json(StatusCode::CREATED, &json!({"desired_config_id": desired.id})))
}

pub async fn compile(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: CompileRequest = call.json_or_empty()?;
    check_version(said.version.as_deref())?;
    let wait = call.query.wait()?;
    let caller = call.commander()?;
    let done = call.app.plane.compile(&caller, project.id, said.desired_config_id, said.version, wait).await?;
    answer(done, wait, StatusCode::ACCEPTED, StatusCode::OK)
}

pub async fn both(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: BundleRequest = call.json()?;
    check_version(said.version.as_deref())?;
    let texts = [("config_source", said.config_source), ("config", said.config), ("config_kdl", said.config_kdl)];
    let files = files(&texts, said.files)?;
    let wait = call.query.wait()?;
    let caller = call.commander()?;
    // One command to the client, two to the plane. The first is found again by its content, so only the second, which
    // completes the call, is remembered under the Idempotency-Key.
    // What that key was used for before, with another body, is refused before anything is stored.
    call.app.plane.check_repeat(&caller).await?;
    let mut first = caller.clone();
    first.idempotency = None;
    let source: Source = said.source.unwrap_or_default();
    let desired = call.app.plane.submit_config(&first, project.id, files, source).await?;
    let done = call.app.plane.compile(&caller, project.id, Some(desired.id), said.version, wait).await?;
    answer(done, wait, StatusCode::CREATED, StatusCode::CREATED)
}

/// `running`: the status while it compiles. `made`: when there is a new bundle; one that existed before is 200.
fn answer(done: Compiled, wait: Duration, running: StatusCode, made: StatusCode) -> Outcome<Response> {
    let status = match (done.bundle.status, done.created) {
        (BundleStatus::Failed, _) if !wait.is_zero() => {
            let errors = done.bundle.errors.iter().map(|d| ("config".to_string(), show::line(d)));
            return Err(Refusal::all_invalid(errors));
        }
        (BundleStatus::Compiling, true) => running,
        (BundleStatus::Compiling, false) if running == StatusCode::ACCEPTED => running,
        (_, true) => made,
        (_, false) => StatusCode::OK,
    };
    let mut body = json!({"bundle": show::bundle(done.bundle.clone(), false), "status": done.bundle.status});
    if !done.bundle.warnings.is_empty() {
        body["warnings"] = json!(done.bundle.warnings.iter().map(show::line).collect::<Vec<_>>());
    }
    Ok(reply::json(status, &body))
}

fn check_version(version: Option<&str>) -> Outcome<()> {
    match version.map(check_name) {
        Some(Err(why)) => Err(Refusal::invalid("version", why)),
        Some(Ok(())) if version.is_some_and(looks_like_an_id) => {
            Err(Refusal::invalid("version", "must not look like an id of a bundle"))
        }
        Some(Ok(())) | None => Ok(()),
    }
}

/// A bundle is looked up by id or version under one name, so the two must not be confused.
fn looks_like_an_id(version: &str) -> bool {
    uuid::Uuid::parse_str(version).is_ok() || domain::ContentId::parse(version).is_some() || version == "baseline"
}

/// Exactly one way of giving the configuration.
fn files(
    texts: &[(&str, Option<String>)],
    files: Option<BTreeMap<String, String>>,
) -> Outcome<BTreeMap<String, String>> {
    let given: Vec<&(&str, Option<String>)> = texts.iter().filter(|(_, text)| text.is_some()).collect();
    match (given.as_slice(), files) {
        ([], Some(files)) if files.is_empty() => Err(Refusal::invalid("files", "must have at least one file")),
        ([], Some(files)) => Ok(files),
        ([(_, Some(text))], None) => Ok(BTreeMap::from([(ENTRY.to_string(), text.clone())])),
        ([], None) => Err(Refusal::invalid(texts.first().map_or("config", |t| t.0), "is required (or `files`)")),
        ([first, ..], _) => Err(Refusal::invalid(first.0, "give the configuration in one field only")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_comes_in_exactly_one_way() {
        let text = |s: &str| Some(s.to_string());
        let one = files(&[("config", None), ("config_kdl", text("x"))], None).unwrap();
        assert_eq!(one[ENTRY], "x");
        let many = BTreeMap::from([("config.kdl".to_string(), "a".to_string())]);
        assert_eq!(files(&[("config", None)], Some(many.clone())).unwrap(), many);
        for (texts, given) in [
            (vec![("config", text("a")), ("config_kdl", text("b"))], None),
            (vec![("config", text("a"))], Some(many)),
            (vec![("config", None)], None),
            (vec![("config", None)], Some(BTreeMap::new())),
        ] {
            assert_eq!(files(&texts, given).unwrap_err().problem.status, 422);
        }
    }

    #[test]
    fn a_version_is_never_taken_for_an_id() {
        assert!(check_version(Some("v1.2")).is_ok() && check_version(None).is_ok());
        for bad in ["0190b5a0-6bfa-7cc0-9d4c-1b2f3a4d5e6f", &"a".repeat(64), "baseline", "", " x"] {
            assert!(check_version(Some(bad)).is_err(), "{bad:?}");
        }
    }
}
