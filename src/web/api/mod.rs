//! What operators call: one file per noun. Handlers read the request, ask the plane or the store, and show the answer.

pub mod audit;
pub mod bundles;
pub mod compile;
pub mod drift;
pub mod explain;
pub mod groups;
pub mod history;
pub mod instances;
pub mod keys;
pub mod nodes;
pub mod orgs;
pub mod people;
pub mod plans;
pub mod projects;
pub mod resources;
pub mod rollout_spec;
pub mod rollouts;
pub mod session;
pub mod show;
pub mod tokens;
pub mod trust;

use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use actors::command::{Caller, Done, Grant};
use domain::bundle::Bundle;
use domain::project::Project;
use domain::{BundleId, OrgId, Scope};
use warp::reply::Response;

/// The organisation that is meant when none is named: the key's, or the person's first.
fn own_org(caller: &Caller) -> Outcome<OrgId> {
    match &caller.grant {
        Grant::Key { org, .. } => Ok(*org),
        Grant::Roles(roles) => {
            roles.first().map(|(org, _)| *org).ok_or_else(|| Refusal::forbidden("you are in no organisation"))
        }
    }
}

/// What was to be deleted is not there: as it should be where this very request deleted it before.
async fn gone(call: &Call, caller: &Caller, refusal: Refusal) -> Outcome<Response> {
    if refusal.problem.status == 404 && call.app.plane.was_answered(caller).await? {
        return Ok(reply::no_content());
    }
    Err(refusal)
}

fn is_change(done: Done) -> bool {
    match done {
        Done::Changed => true,
        Done::Already => false,
    }
}

/// A bundle of the project by content id, row id or version. Errors: 404.
async fn bundle(call: &Call, project: &Project, name: &str) -> Outcome<Bundle> {
    let wanted = store::BundleRef::parse(name);
    match call.app.plane.store().bundle(Scope::Project(project.id), project.id, wanted).await {
        Ok(bundle) => Ok(bundle),
        Err(store::Error::NotFound | store::Error::Invalid(_)) => Err(Refusal::not_found("bundle")),
        Err(e) => Err(e.into()),
    }
}

/// A bundle that a field of the body names. Errors: 422 with the field.
async fn bundle_field(call: &Call, project: &Project, field: &str, name: &str) -> Outcome<BundleId> {
    match bundle(call, project, name).await {
        Ok(bundle) => Ok(bundle.id),
        Err(refusal) if refusal.problem.status == 404 => {
            Err(Refusal::invalid(field, "there is no such bundle in this project"))
        }
        Err(refusal) => Err(refusal),
    }
}
