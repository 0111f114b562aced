//! `/projects/:project/enrolment-tokens`

use super::show;
use crate::call::Call;
use crate::page::{listed, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::commands::projects::NewEnrolmentToken;
use api::project::EnrolmentTokenRequest;
use domain::node::check_labels;
use domain::project::check_name;
use domain::{EnrolmentTokenId, Span, Timestamp};
use http::StatusCode;
use warp::reply::Response;

/// Most keys that `allowed_label_keys` may name.
const MAX_LABEL_KEYS: usize = 64;

pub async fn list(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let asked = page(&call.query)?;
    let rows = call.app.plane.list_enrolment_tokens(project.id).await?;
    let found = slice(rows, &asked, |t| t.id)?;
    Ok(reply::ok(&listed(found, show::enrolment_token).under("enrolment_tokens")))
}

pub async fn create(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let new = check(call.json()?, call.app.plane.now())?;
    let caller = call.commander()?;
    let (token, text) = call.app.plane.create_enrolment_token(&caller, project.id, new).await?;
    let body = serde_json::json!({"enrolment_token": show::enrolment_token(token), "token": text});
    Ok(reply::json(StatusCode::CREATED, &body))
}

fn check(said: EnrolmentTokenRequest, now: Timestamp) -> Outcome<NewEnrolmentToken> {
    check_name(&said.name).map_err(|why| Refusal::invalid("name", why))?;
    let expires_at = match (said.expires_at, said.expires_in_seconds) {
        (Some(_), Some(_)) => return Err(Refusal::invalid("expires_in_seconds", "give this or expires_at, not both")),
        (at, None) => at,
        (None, Some(seconds)) => Some(now + Span::secs(i64::from(seconds))),
    };
    if expires_at.is_some_and(|at| at <= now) {
        let field = if said.expires_at.is_some() { "expires_at" } else { "expires_in_seconds" };
        return Err(Refusal::invalid(field, "must be in the future"));
    }
    if said.max_uses == Some(0) {
        return Err(Refusal::invalid("max_uses", "must be at least 1"));
    }
    let labels = said.labels.unwrap_or_default();
    check_labels(&labels).map_err(|why| Refusal::invalid("labels", why))?;
    if said.allowed_label_keys.as_ref().is_some_and(|k| k.len() > MAX_LABEL_KEYS) {
        return Err(Refusal::invalid("allowed_label_keys", format!("at most {MAX_LABEL_KEYS}")));
    }
    Ok(NewEnrolmentToken {
        name: said.name,
        max_uses: said.max_uses,
        expires_at,
        labels,
        allowed_label_keys: said.allowed_label_keys,
        allow_replace: said.allow_replace.unwrap_or(false),
    })
}

pub async fn delete(call: Call) -> Outcome<Response> {
    let project = call.project().await?;
    let id: EnrolmentTokenId = call.id("id", "enrolment token not found")?;
    let caller = call.commander()?;
    call.app.plane.delete_enrolment_token(&caller, project.id, id).await?;
    Ok(reply::no_content())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_296_900_000_000);

    fn read(body: serde_json::Value) -> Outcome<NewEnrolmentToken> {
        check(crate::body::json(body.to_string().as_bytes())?, NOW)
    }

    #[test]
    fn a_life_in_seconds_becomes_a_time() {
        let token = read(serde_json::json!({"name": "edge", "expires_in_seconds": 60})).unwrap();
        assert_eq!(token.expires_at, Some(NOW + Span::secs(60)));
        assert!(token.allowed_label_keys.is_none() && !token.allow_replace);
    }

    #[test]
    fn contradictions_and_the_past_are_refused() {
        for (body, field) in [
            (
                serde_json::json!({"name": "a", "expires_in_seconds": 1, "expires_at": "2030-01-01T00:00:00Z"}),
                "expires_in_seconds",
            ),
            (serde_json::json!({"name": "a", "expires_in_seconds": 0}), "expires_in_seconds"),
            (serde_json::json!({"name": "a", "expires_at": "2001-01-01T00:00:00Z"}), "expires_at"),
            (serde_json::json!({"name": "a", "max_uses": 0}), "max_uses"),
            (serde_json::json!({"name": "", "max_uses": 1}), "name"),
        ] {
            let refusal = read(body.clone()).unwrap_err();
            assert_eq!(refusal.problem.errors.keys().next().unwrap(), field, "{body}");
        }
    }
}
