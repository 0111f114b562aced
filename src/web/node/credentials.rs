//! `POST /nodes/:id/token` and `/nodes/:id/rotate-key`: what a node proves itself with, renewed by its key.

use crate::auth::{NodeCredential, node_credential};
use crate::call::Call;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use api::credential::{NodeKeyAnswer, NodeTokenAnswer};
use domain::access::{Actor, Ctx};
use warp::reply::Response;

pub async fn token(call: Call) -> Outcome<Response> {
    let made = call.app.plane.mint_node_token(call.node()?).await?;
    Ok(reply::ok(&NodeTokenAnswer {
        token: made.token,
        token_type: "Bearer".into(),
        expires_at: made.expires_at,
        expires_in: made.expires_in,
    }))
}

pub async fn rotate(call: Call) -> Outcome<Response> {
    let auth = call.node()?;
    let Some(NodeCredential::Key(used)) = node_credential(&call.headers) else {
        return Err(Refusal::forbidden("a token does not do here: send the node key"));
    };
    let actor = Actor::Node(auth.node);
    let ctx = Ctx { actor, request_id: Some(call.meta.request_id), address: Some(call.address) };
    let new = call.app.plane.rotate_own_key(auth, used, &ctx).await?;
    let answer = NodeKeyAnswer { node_id: auth.node, node_key: new.key, previous_valid_until: new.previous_until };
    Ok(reply::ok(&answer))
}
