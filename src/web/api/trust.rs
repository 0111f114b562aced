//! `/orgs/:id/trust`, `/orgs/:id/keys`, `/projects/:project/releases` and signatures of bundles.

use super::{bundle, is_change, show};
use crate::call::Call;
use crate::page::{listed, listing, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use ::bundle::keys::Role;
use ::bundle::trust::{Envelope, Release, RoleKeys};
use ::bundle::{PublicKey, SignatureFile};
use actors::commands::trust::{KeyInfo, RoleChange, TrustChange, TrustState};
use api::trust::{
    ReleaseRequest, SignatureRequest, Trust, TrustKey, TrustKeyRequest, TrustRequest, TrustRole, TrustRoleRequest,
    TrustRoles,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::OrgId;
use http::StatusCode;
use serde_json::{Value, json};
use std::cmp::Reverse;
use store::ReleaseRow;
use warp::reply::Response;

async fn org(call: &Call) -> Outcome<OrgId> {
    let id: OrgId = call.id("id", "organisation")?;
    call.check(id, None, "organisation")?;
    match call.app.plane.store().org(id).await {
        Ok(org) => Ok(org.id),
        Err(store::Error::NotFound) => Err(Refusal::not_found("organisation")),
        Err(e) => Err(e.into()),
    }
}

pub async fn show(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let state = call.app.plane.trust_state(org).await?;
    Ok(reply::one(StatusCode::OK, "trust", &shown(state)))
}

/// The chain, as nodes take it: needs no secret, and proves every version from the one before.
pub async fn versions(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let after = call.query.parsed::<u64>("after", "a version")?.unwrap_or(0);
    let found = call.app.plane.trust_versions(org, after).await?;
    Ok(reply::ok(&json!({"versions": found})))
}

pub async fn draft(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let said: TrustRequest = call.json()?;
    if said.document.is_some() {
        return Err(Refusal::invalid("document", "a draft is made from changes"));
    }
    let caller = call.commander()?;
    let doc = call.app.plane.draft_trust(&caller, org, change(said)).await?;
    let bytes = ::bundle::canon::to_vec(&doc).map_err(|e| Refusal::internal(e.to_string()))?;
    Ok(reply::ok(&json!({"draft": Envelope::unsigned(&bytes), "version": doc.version, "reads": doc})))
}

pub async fn update(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let mut said: TrustRequest = call.json()?;
    let caller = call.commander()?;
    let plane = &call.app.plane;
    let state = match said.document.take() {
        Some(_) if said != TrustRequest::default() => {
            return Err(Refusal::invalid("document", "comes alone: what it changes is written in it"));
        }
        Some(document) => plane.publish_trust(&caller, org, parsed("document", document)?).await?,
        None if said == TrustRequest::default() => {
            return Err(Refusal::invalid("body", "says nothing that is to change"));
        }
        None => plane.change_trust(&caller, org, change(said)).await?,
    };
    Ok(reply::one(StatusCode::CREATED, "trust", &shown(state)))
}

pub async fn keys(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let asked = page(&call.query)?;
    let state = call.app.plane.trust_state(org).await?;
    let found = slice(state.keys, &asked, |k| (Reverse(k.inserted_at.0), Reverse(k.id)))?;
    Ok(reply::ok(&listed(found, key).under("keys")))
}

pub async fn create_key(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let said: TrustKeyRequest = call.json()?;
    let role = Role::parse(&said.role).ok_or_else(|| Refusal::invalid("role", "must be root, bundle or metadata"))?;
    let public = said.public_key.as_deref().map(|text| {
        PublicKey::parse_base64(text).ok_or_else(|| Refusal::invalid("public_key", "must be base64 of 32 bytes"))
    });
    let public = public.transpose()?;
    let caller = call.commander()?;
    let made = call.app.plane.create_key(&caller, org, role, public).await?;
    Ok(reply::one(StatusCode::CREATED, "key", &key(made)))
}

/// The one answer that carries a private key; it is neither logged nor kept for a repeated request.
pub async fn export_key(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let caller = call.commander()?;
    let secret = call.app.plane.export_key(&caller, org, call.param("key_id")).await?;
    let key = one_key(&call, org).await?;
    Ok(reply::ok(&json!({"key": key, "private_key": BASE64.encode(secret)})))
}

pub async fn remove_key(call: Call) -> Outcome<Response> {
    let org = org(&call).await?;
    let caller = call.commander()?;
    let done = call.app.plane.remove_private_key(&caller, org, call.param("key_id")).await?;
    Ok(reply::changed("key", &one_key(&call, org).await?, is_change(done)))
}

async fn one_key(call: &Call, org: OrgId) -> Outcome<TrustKey> {
    let state = call.app.plane.trust_state(org).await?;
    let found = state.keys.into_iter().find(|k| k.key_id == call.param("key_id"));
    found.map(key).ok_or_else(|| Refusal::not_found("key"))
}

pub async fn sign(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let found = bundle(&call, &project, call.param("id")).await?;
    let said: SignatureRequest = call.json_or_empty()?;
    let signature = match (said.key_id, said.signature) {
        (None, None) => None,
        (Some(key_id), Some(signature)) => Some(SignatureFile {
            key_id,
            algorithm: said.algorithm.unwrap_or_else(|| "ed25519".into()),
            signature,
            more: said.more.map(|m| parsed("more", m)).transpose()?.unwrap_or_default(),
        }),
        (None, Some(_)) => return Err(Refusal::invalid("key_id", "is required with a signature")),
        (Some(_), None) => return Err(Refusal::invalid("signature", "is required with a key_id")),
    };
    if signature.as_ref().is_some_and(|s| s.algorithm != "ed25519") {
        return Err(Refusal::invalid("algorithm", "must be ed25519"));
    }
    let caller = call.commander()?;
    let (done, now) = call.app.plane.sign_bundle(&caller, project.id, found.id, signature).await?;
    Ok(reply::changed("bundle", &show::bundle(now, false), is_change(done)))
}

pub async fn releases(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let asked = page(&call.query)?;
    let store = call.app.plane.store();
    let found = listing(asked.cursor.is_some(), store.releases(project.id, asked).await)?;
    let rows = found.rows.iter().map(release).collect::<Outcome<Vec<_>>>()?;
    let mut rows = rows.into_iter();
    Ok(reply::ok(&listed(found, |_| rows.next()).under("releases")))
}

pub async fn publish_release(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let said: ReleaseRequest = call.json()?;
    let envelope = Envelope {
        payload: said.payload,
        key_id: said.key_id,
        signature: said.signature,
        more: said.more.map(|m| parsed("more", m)).transpose()?.unwrap_or_default(),
    };
    let caller = call.commander()?;
    let row = call.app.plane.publish_release(&caller, project.id, envelope).await?;
    Ok(reply::one(StatusCode::CREATED, "release", &release(&row)?))
}

fn parsed<T: serde::de::DeserializeOwned>(field: &str, value: Value) -> Outcome<T> {
    serde_json::from_value(value).map_err(|e| Refusal::invalid(field, e.to_string()))
}

fn change(said: TrustRequest) -> TrustChange {
    let role = |r: TrustRoleRequest| RoleChange { keys: r.keys, threshold: r.threshold };
    TrustChange {
        root: said.root.map(role),
        bundle: said.bundle.map(role),
        metadata: said.metadata.map(role),
        artifact_origins: said.artifact_origins,
        expires_at: said.expires_at,
        releases_required: said.releases_required,
    }
}

fn key(k: KeyInfo) -> TrustKey {
    TrustKey {
        id: k.id,
        role: k.role.as_str().into(),
        key_id: k.key_id,
        public_key: k.public.to_base64(),
        listed: k.listed,
        on_server: k.on_server,
        exported_at: k.exported_at,
        inserted_at: k.inserted_at,
    }
}

fn shown(state: TrustState) -> Trust {
    let role =
        |r: &RoleKeys| TrustRole { threshold: r.threshold, keys: r.keys.iter().map(PublicKey::key_id).collect() };
    let roles = &state.doc.roles;
    Trust {
        version: state.doc.version,
        expires_at: state.doc.expires_at,
        root: roles.root.keys.first().map(|k| format!("sha256:{}", k.key_id())).unwrap_or_default(),
        roles: TrustRoles { root: role(&roles.root), bundle: role(&roles.bundle), metadata: role(&roles.metadata) },
        artifact_origins: state.doc.artifact_origins,
        releases_required: state.doc.releases_required,
        document: state.document,
    }
}

fn release(row: &ReleaseRow) -> Outcome<api::trust::Release> {
    let unreadable = |e: &dyn std::fmt::Display| Refusal::internal(format!("release {}: {e}", row.id));
    let envelope: Envelope = serde_json::from_value(row.body.clone()).map_err(|e| unreadable(&e))?;
    let said: Release = envelope.decode().map_err(|e| unreadable(&e))?;
    Ok(api::trust::Release {
        id: row.id,
        bundle_row_id: row.bundle,
        bundle_id: said.bundle_id.to_string(),
        sequence: said.sequence,
        floor: said.floor,
        revoked: said.revoked.iter().map(ToString::to_string).collect(),
        expires_at: said.expires_at,
        document: row.body.clone(),
        inserted_at: row.inserted_at,
    })
}
