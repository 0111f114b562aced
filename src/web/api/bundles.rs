//! `/projects/:project/bundles`

use super::{bundle, bundle_field, is_change, show};
use crate::artifact;
use crate::call::Call;
use crate::page::{listed, listing, page};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use ::bundle::archive::{MANIFEST, MAX_ARCHIVE_BYTES, SIGNATURE};
use ::bundle::trust::RoleKeys;
use ::bundle::verify::{VerifiedBundle, check_manifest, verify_offline};
use ::bundle::{PublicKey, Refusal as Doubt};
use actors::commands::rollouts::Replacement;
use api::bundle::{AssignRequest, Check, RevokeRequest, Verification};
use artifacts::Key;
use bytes::Bytes;
use domain::bundle::{Bundle, BundleStatus};
use domain::node::Selector;
use domain::project::Project;
use domain::rollout::RolloutKind;
use domain::{ContentId, Digest, Scope};
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;
use std::collections::HashMap;
use store::BundleFilter;
use warp::reply::Response;

/// Longest reason of a revocation.
const MAX_REASON: usize = 1_000;

/// The roadmap's `ready` is what is called `compiled` here.
fn status(s: &str) -> Option<BundleStatus> {
    if s == "ready" { Some(BundleStatus::Compiled) } else { BundleStatus::parse(s) }
}

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let names = "compiling, awaiting_signature, compiled, failed, deprecated or revoked";
    let filter = BundleFilter { status: call.query.read("status", names, status)? };
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.bundles(Scope::Project(project.id), filter, asked).await)?;
    Ok(reply::ok(&listed(found, |b| show::bundle(b, false)).under("bundles")))
}

pub async fn show(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    Ok(reply::one(StatusCode::OK, "bundle", &show::bundle(found, true)))
}

pub async fn manifest(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let manifest = found.manifest.ok_or_else(|| not_there(found.status))?;
    Ok(reply::ok(&manifest))
}

/// There is an archive only once a bundle is compiled.
fn not_there(status: BundleStatus) -> Refusal {
    Refusal::conflict("not_compiled", format!("the bundle is {status}: there is no archive"))
}

fn content(bundle: &Bundle) -> Outcome<ContentId> {
    match bundle.status {
        BundleStatus::Compiled | BundleStatus::Deprecated | BundleStatus::Revoked => {
            bundle.content_id.ok_or_else(|| not_there(bundle.status))
        }
        BundleStatus::Compiling | BundleStatus::AwaitingSignature | BundleStatus::Failed => {
            Err(not_there(bundle.status))
        }
    }
}

pub async fn download(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    if let (BundleStatus::AwaitingSignature, Some(content)) = (found.status, found.content_id) {
        // What the signer looks at, and builds again, before signing it.
        let waiting = call.app.plane.artifacts().get(&Key::unsigned(project.id, content), MAX_ARCHIVE_BYTES).await?;
        let mut response = Response::new(waiting.into());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
        return Ok(response);
    }
    artifact::send(call.app.plane.artifacts(), project.id, content(&found)?, &call.headers).await
}

async fn archive(call: &Call, project: &Project, content: ContentId) -> Outcome<Bytes> {
    Ok(call.app.plane.artifacts().get(&Key::bundle(project.id, content), MAX_ARCHIVE_BYTES).await?)
}

/// Every bundle key that the organisation ever had: an older bundle is whole also when its key no longer counts.
async fn bundle_keys(call: &Call, project: &Project) -> Outcome<RoleKeys> {
    let store = call.app.plane.store();
    let rows = store.signing_keys(Some(project.org), Some(::bundle::Role::Bundle.as_str())).await?;
    let raw = rows.iter().filter_map(|key| <[u8; 32]>::try_from(key.public.as_slice()).ok());
    Ok(RoleKeys { keys: raw.map(PublicKey).collect(), threshold: 1 })
}

/// Unpacking and hashing take milliseconds to seconds, so they run where they may block.
async fn check(bytes: Bytes, project: &Project, keys: RoleKeys) -> Outcome<Result<VerifiedBundle, Doubt>> {
    let id = project.id;
    let done = tokio::task::spawn_blocking(move || verify_offline(&bytes, id, &keys)).await;
    done.map_err(|e| Refusal::internal(format!("verification: {e}")))
}

pub async fn sbom(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let bytes = archive(&call, &project, content(&found)?).await?;
    let keys = bundle_keys(&call, &project).await?;
    let opened = check(bytes, &project, keys).await?;
    let opened = opened.map_err(|e| Refusal::internal(format!("bundle {}: {e}", found.id)))?;
    let text = opened.file("SBOM.json").ok_or_else(|| Refusal::not_found("SBOM"))?;
    let mut response = reply::raw_json(StatusCode::OK, text.to_vec());
    let kind = HeaderValue::from_static("application/vnd.cyclonedx+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

pub async fn verify(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let id = content(&found)?;
    let bytes = match archive(&call, &project, id).await {
        Ok(bytes) => bytes,
        Err(refusal) if refusal.problem.status == 404 => {
            let checks =
                vec![Check { name: "archive".into(), ok: false, detail: Some("it is not in the store".into()) }];
            return Ok(reply::ok(&Verification { valid: false, bundle_id: Some(id.to_string()), checks }));
        }
        Err(refusal) => return Err(refusal),
    };
    let hash = Digest::of(&bytes);
    let size = bytes.len() as u64;
    let keys = bundle_keys(&call, &project).await?;
    let opened = check(bytes, &project, keys).await?;
    let mut checks = vec![
        outcome("artifact_hash", found.artifact_hash == Some(hash), || format!("the archive has {}", hash.prefixed())),
        outcome("size_bytes", found.size_bytes == Some(size), || format!("the archive has {size} bytes")),
    ];
    match &opened {
        Ok(v) => {
            checks.push(outcome("contents", true, String::new));
            let counted = call.app.plane.trust_state(project.org).await?.doc.roles.bundle;
            checks.push(outcome("trust", signed_by(v, &counted), || {
                "the newest trust document does not accept its signatures: nodes refuse it until it is signed anew"
                    .into()
            }));
            checks.push(outcome("bundle_id", v.manifest.bundle_id == id, || {
                format!("the manifest has {}", v.manifest.bundle_id)
            }));
        }
        Err(e) => checks.push(Check { name: e.code().into(), ok: false, detail: Some(e.to_string()) }),
    }
    let valid = checks.iter().all(|c| c.ok);
    Ok(reply::ok(&Verification { valid, bundle_id: Some(id.to_string()), checks }))
}

/// Whether nodes that have this role's keys accept its signatures.
fn signed_by(v: &VerifiedBundle, keys: &RoleKeys) -> bool {
    let file = |name| v.file(name).unwrap_or_default();
    serde_json::from_slice(file(SIGNATURE)).is_ok_and(|s| check_manifest(keys, file(MANIFEST), &s).is_ok())
}

fn outcome(name: &str, ok: bool, otherwise: impl FnOnce() -> String) -> Check {
    Check { name: name.into(), ok, detail: (!ok).then(otherwise) }
}

pub async fn revoke(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let said: RevokeRequest = call.json_or_empty()?;
    if said.reason.as_ref().is_some_and(|r| r.chars().count() > MAX_REASON) {
        return Err(Refusal::invalid("reason", format!("has more than {MAX_REASON} characters")));
    }
    let replacement = match said.replace.as_deref() {
        None => None,
        Some("previous") => Some(Replacement::Previous),
        Some(name) => Some(Replacement::Bundle(bundle_field(&call, &project, "replace", name).await?)),
    };
    if replacement == Some(Replacement::Bundle(found.id)) {
        return Err(Refusal::invalid("replace", "is the bundle that is revoked"));
    }
    if let Some(Replacement::Bundle(new)) = replacement
        && found.status != BundleStatus::Revoked
    {
        // Before anything is done: whoever is refused must find the bundle as it was.
        call.app.plane.check_replacement(project.id, new).await?;
    }
    let caller = call.commander()?;
    let (done, running_on) = call.app.plane.revoke_bundle(&caller, project.id, found.id, said.reason).await?;
    let now = bundle(&call, &project, &found.id.to_string()).await?;
    let suspended = call.app.plane.store().pinned_to(found.id).await?;
    let mut answer = json!({
        "bundle": show::bundle(now, false), "changed": is_change(done), "running_on": running_on, "suspended_pins": suspended,
    });
    // Also when it was revoked before: the process may have died between the two.
    if let Some(with) = replacement {
        let replaced = call.app.plane.replace_bundle(&caller, project.id, found.id, with).await?;
        let names = call.app.names.of(call.app.plane.store(), replaced.left.iter().filter_map(|l| l.bundle)).await?;
        let left = replaced
            .left
            .iter()
            .map(|l| json!({"node_ids": l.nodes, "bundle_id": names.text(l.bundle), "reason": l.why}));
        answer["not_replaced"] = left.collect();
        answer["rollout_ids"] = json!(replaced.rollouts.iter().map(|r| r.id).collect::<Vec<_>>());
    }
    Ok(reply::ok(&answer))
}

pub async fn assign(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let said: AssignRequest = call.json()?;
    let selector = match (said.node_ids, said.target_selector) {
        (Some(node_ids), None) if !node_ids.is_empty() => Selector::NodeIds { node_ids },
        (None, Some(selector)) => selector,
        (_, _) => return Err(Refusal::invalid("node_ids", "name nodes, or give a target_selector")),
    };
    let caller = call.commander()?;
    let assign = RolloutKind::Assign;
    let view = call.app.plane.assign_bundle(&caller, project.id, found.id, selector, assign).await?;
    let rollout = show::rollout(view, None, HashMap::new());
    Ok(reply::one(StatusCode::CREATED, "rollout", &rollout))
}

pub async fn deprecate(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let caller = call.commander()?;
    let done = call.app.plane.deprecate_bundle(&caller, project.id, found.id).await?;
    let now = bundle(&call, &project, &found.id.to_string()).await?;
    Ok(reply::changed("bundle", &show::bundle(now, false), is_change(done)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_the_older_word_for_compiled() {
        assert_eq!(status("ready"), Some(BundleStatus::Compiled));
        assert_eq!(status("revoked"), Some(BundleStatus::Revoked));
        assert_eq!(status("lost"), None);
    }
}
