//! `/projects/:project/trust`: the keys that nodes of the organisation believe, and what the bundle keys released.

use super::ask::{Ask, is_about_the_form};
use super::resources::{at, said};
use super::view::Flash;
use super::view::trust::{Exported, ReleaseLine, RoleView, TrustView, page};
use crate::problem::{Outcome, Refusal};
use actors::command::{CommandError, Done};
use actors::commands::trust::{KeyInfo, RoleChange, TrustChange};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bundle::keys::{PublicKey, Role};
use bundle::trust::{Envelope, Release, RoleKeys};
use domain::access::KeyScope;
use domain::project::Project;
use store::Page;
use warp::reply::Response;

/// Release statements on the page, newest first.
const RELEASES: u32 = 20;

async fn view(ask: &Ask, project: &Project) -> Outcome<TrustView> {
    let state = ask.plane().trust_state(project.org).await?;
    let roles = &state.doc.roles;
    let view = |role: Role, listed: &RoleKeys| RoleView {
        role,
        threshold: listed.threshold,
        keys: state.keys.iter().filter(|k| k.role == role).cloned().collect::<Vec<KeyInfo>>(),
    };
    let releases = ask.store().releases(project.id, Page::first(RELEASES)).await?;
    Ok(TrustView {
        slug: project.slug.clone(),
        org: project.org.to_string(),
        version: state.doc.version,
        expires_at: state.doc.expires_at,
        roles: vec![
            view(Role::Root, &roles.root),
            view(Role::Bundle, &roles.bundle),
            view(Role::Metadata, &roles.metadata),
        ],
        origins: state.doc.artifact_origins.clone(),
        releases_required: state.doc.releases_required,
        releases: releases.rows.iter().filter_map(release).collect(),
        may_admin: ask.caller().may(KeyScope::ApiKeysAdmin, project.org, None),
        exported: None,
        error: None,
        errors: Vec::new(),
    })
}

/// A statement of another version of the format is left out.
fn release(row: &store::ReleaseRow) -> Option<ReleaseLine> {
    let envelope: Envelope = serde_json::from_value(row.body.clone()).ok()?;
    let said: Release = envelope.decode().ok()?;
    Some(ReleaseLine {
        bundle: row.bundle,
        content: said.bundle_id.to_string(),
        sequence: said.sequence,
        floor: said.floor,
        revoked: said.revoked.len(),
        expires_at: said.expires_at,
    })
}

pub async fn show(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ProjectsRead).await?;
    ask.ok(page(&frame, &view(ask, &project).await?))
}

/// The page again, with what was wrong.
async fn refused(ask: &Ask, project: &Project, frame: &super::view::Frame, why: CommandError) -> Outcome<Response> {
    if !is_about_the_form(&why) {
        return Err(why.into());
    }
    let refusal = Refusal::from(why);
    let mut view = view(ask, project).await?;
    (view.error, view.errors) = said(&refusal);
    Ok(ask.html(refusal.status(), page(frame, &view)))
}

/// Which keys shall count, and how many of each role: the next version of the trust document.
pub async fn change(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ApiKeysAdmin).await?;
    let chosen: Vec<String> = ask.form.keyed("key").into_iter().map(|(id, _)| id).collect();
    let state = ask.plane().trust_state(project.org).await?;
    let of = |role: Role, listed: &RoleKeys| -> Result<Option<RoleChange>, CommandError> {
        let keys: Vec<String> = state
            .keys
            .iter()
            .filter(|k| k.role == role && chosen.contains(&k.key_id))
            .map(|k| k.key_id.clone())
            .collect();
        let threshold = threshold(role, ask.field(&format!("threshold_{}", role.as_str())))?;
        let mut before: Vec<String> = listed.keys.iter().map(PublicKey::key_id).collect();
        before.sort();
        let mut now = keys.clone();
        now.sort();
        let differs = before != now || threshold.is_some_and(|t| t != listed.threshold);
        Ok(differs.then_some(RoleChange { keys: Some(keys), threshold }))
    };
    let roles = &state.doc.roles;
    let read = of(Role::Root, &roles.root).and_then(|root| {
        let (bundle, metadata) = (of(Role::Bundle, &roles.bundle)?, of(Role::Metadata, &roles.metadata)?);
        Ok(TrustChange { root, bundle, metadata, ..TrustChange::default() })
    });
    let change = match read {
        Ok(change) => change,
        Err(e) => return refused(ask, &project, &frame, e).await,
    };
    if change.root.is_none() && change.bundle.is_none() && change.metadata.is_none() {
        return ask.redirect(&at(&project, "trust"), Some(Flash::Unchanged));
    }
    match ask.plane().change_trust(ask.caller(), project.org, change).await {
        Ok(_) => ask.redirect(&at(&project, "trust"), Some(Flash::TrustChanged)),
        Err(e) => refused(ask, &project, &frame, e).await,
    }
}

/// How many keys of a role have to sign, as the form says it. `None`: it says nothing, and what counts now stays.
pub(super) fn threshold(role: Role, text: Option<&str>) -> Result<Option<u32>, CommandError> {
    let wrong = |_| CommandError::invalid(&format!("{}.threshold", role.as_str()), "must be a whole number");
    text.map(|t| t.parse::<u32>().map_err(wrong)).transpose()
}

pub async fn make_key(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ApiKeysAdmin).await?;
    let made = async {
        let role = Role::parse(ask.field("role").unwrap_or_default());
        let role = role.ok_or_else(|| CommandError::invalid("role", "must be root, bundle or metadata"))?;
        let public = ask.field("public_key").map(|text| {
            PublicKey::parse_base64(text)
                .ok_or_else(|| CommandError::invalid("public_key", "must be base64 of 32 bytes"))
        });
        ask.plane().create_key(ask.caller(), project.org, role, public.transpose()?).await
    };
    match made.await {
        Ok(_) => ask.redirect(&at(&project, "trust"), Some(Flash::SigningKeyMade)),
        Err(e) => refused(ask, &project, &frame, e).await,
    }
}

/// The private half is on the answer itself and nowhere else.
pub async fn export(ask: &Ask, project: &str, key_id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ApiKeysAdmin).await?;
    match ask.plane().export_key(ask.caller(), project.org, key_id).await {
        Ok(secret) => {
            let exported = Exported { key_id: key_id.to_string(), private_key: BASE64.encode(secret) };
            let view = TrustView { exported: Some(exported), ..view(ask, &project).await? };
            ask.ok(page(&frame, &view))
        }
        Err(e) => refused(ask, &project, &frame, e).await,
    }
}

pub async fn remove(ask: &Ask, project: &str, key_id: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ApiKeysAdmin).await?;
    match ask.plane().remove_private_key(ask.caller(), project.org, key_id).await {
        Ok(Done::Changed) => ask.redirect(&at(&project, "trust"), Some(Flash::PrivateKeyRemoved)),
        Ok(Done::Already) => ask.redirect(&at(&project, "trust"), Some(Flash::Unchanged)),
        Err(e) => refused(ask, &project, &frame, e).await,
    }
}
