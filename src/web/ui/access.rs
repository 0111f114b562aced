//! `/projects/:project/tokens` and `/keys`

use super::ask::Ask;
use super::view::access::{
    KeysView, Made, TokenLine, TokensView, keys as keys_page, parse_labels, tokens as tokens_page,
};
use super::view::{Flash, parts};
use crate::problem::{Outcome, Refusal};
use actors::command::{CommandError, Done};
use actors::commands::access::NewApiKey;
use actors::commands::projects::NewEnrolmentToken;
use domain::access::KeyScope;
use domain::project::Project;
use domain::{ApiKeyId, EnrolmentTokenId, Scope, Span, Timestamp};
use store::Page;
use warp::reply::Response;

/// Keys on the page; who has more of them should delete some.
const MAX_KEYS: u32 = 200;
/// Ten years: longer is for ever, which is said by leaving the field empty.
const MAX_HOURS: i64 = 10 * 365 * 24;

async fn tokens_view(ask: &Ask, project: &Project, made: Option<Made>) -> Outcome<TokensView> {
    let all = ask.plane().list_enrolment_tokens(project.id).await?;
    Ok(TokensView {
        slug: project.slug.clone(),
        tokens: all
            .into_iter()
            .map(|t| TokenLine {
                id: t.id.to_string(),
                name: t.name,
                uses: t.uses,
                max_uses: t.max_uses,
                labels: t.labels,
                allow_replace: t.allow_replace,
                expires_at: t.expires_at,
                inserted_at: t.inserted_at,
            })
            .collect(),
        made,
        public_url: ask.plane().config().public_url.clone(),
    })
}

pub async fn tokens(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::NodesRead).await?;
    ask.ok(tokens_page(&frame, &tokens_view(ask, &project, None).await?))
}

/// A number of hours from now. Errors: 422 with the field.
fn expiry(ask: &Ask, field: &str, hours_each: i64) -> Outcome<Option<Timestamp>> {
    let Some(text) = ask.field(field) else { return Ok(None) };
    let number = text.parse::<i64>().ok().filter(|n| *n > 0 && n.saturating_mul(hours_each) <= MAX_HOURS);
    let number = number.ok_or_else(|| Refusal::invalid(field, "must be a whole number, at least 1"))?;
    Ok(Some(ask.plane().now() + Span::secs(number * hours_each * 3_600)))
}

/// The token's text is on the answer itself and nowhere else: there is no page to be sent to that could show it.
pub async fn make_token(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::NodesWrite).await?;
    let max_uses = match ask.field("max_uses") {
        None => None,
        Some(text) => Some(text.parse::<u32>().map_err(|_| Refusal::invalid("max_uses", "must be a number"))?),
    };
    let new = NewEnrolmentToken {
        name: ask.field("name").unwrap_or_default().to_string(),
        max_uses,
        expires_at: expiry(ask, "hours", 1)?,
        labels: parse_labels(ask.field("labels").unwrap_or_default()).map_err(|why| Refusal::invalid("labels", why))?,
        allowed_label_keys: None,
        allow_replace: ask.field("allow_replace").is_some(),
    };
    let (token, text) = ask.plane().create_enrolment_token(ask.caller(), project.id, new).await?;
    let made = Made { name: token.name, text };
    ask.ok(tokens_page(&frame, &tokens_view(ask, &project, Some(made)).await?))
}

pub async fn delete_token(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::NodesWrite).await?;
    let id: EnrolmentTokenId = id.parse().map_err(|_| Refusal::not_found("There is no such token."))?;
    let flash = match ask.plane().delete_enrolment_token(ask.caller(), project.id, id).await {
        Ok(()) => Flash::TokenDeleted,
        Err(CommandError::NotFound(_)) => Flash::Unchanged,
        Err(e) => return Err(e.into()),
    };
    ask.redirect(&format!("/projects/{}/tokens", parts::query(&project.slug)), Some(flash))
}

async fn keys_view(ask: &Ask, project: &Project, made: Option<Made>) -> Outcome<KeysView> {
    let scope = Scope::Project(project.id);
    let keys = ask.store().api_keys(scope, Page::first(MAX_KEYS)).await?.rows;
    Ok(KeysView { slug: project.slug.clone(), keys, made })
}

pub async fn keys(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ApiKeysRead).await?;
    ask.ok(keys_page(&frame, &keys_view(ask, &project, None).await?))
}

pub async fn make_key(ask: &Ask, project: &str) -> Outcome<Response> {
    let (project, frame) = ask.project(project, KeyScope::ApiKeysAdmin).await?;
    let chosen = ask.form.keyed("scope");
    let new = NewApiKey {
        name: ask.field("name").unwrap_or_default().to_string(),
        scopes: chosen.iter().filter_map(|(name, _)| KeyScope::parse(name)).collect(),
        project: Some(project.id),
        expires_at: expiry(ask, "days", 24)?,
    };
    let (key, text) = ask.plane().create_api_key(ask.caller(), project.org, new).await?;
    let made = Made { name: key.name, text };
    ask.ok(keys_page(&frame, &keys_view(ask, &project, Some(made)).await?))
}

pub async fn revoke_key(ask: &Ask, project: &str, id: &str) -> Outcome<Response> {
    let (project, _) = ask.project(project, KeyScope::ApiKeysAdmin).await?;
    let missing = || Refusal::not_found("There is no such key.");
    let id: ApiKeyId = id.parse().map_err(|_| missing())?;
    // Of this project, and not merely of one that the caller administers too.
    match ask.store().api_key(Scope::Project(project.id), id).await {
        Ok(_) => {}
        Err(store::Error::NotFound) => return Err(missing()),
        Err(e) => return Err(e.into()),
    }
    let flash = match ask.plane().revoke_api_key(ask.caller(), id).await? {
        Done::Changed => Flash::KeyRevoked,
        Done::Already => Flash::Unchanged,
    };
    ask.redirect(&format!("/projects/{}/keys", parts::query(&project.slug)), Some(flash))
}
