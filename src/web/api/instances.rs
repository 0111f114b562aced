//! `GET /instances`: the processes that share one database, and what each owns.

use crate::call::Call;
use crate::page::{listed, page, slice};
use crate::problem::{Outcome, Refusal};
use crate::reply;
use api::instance::Instance;
use warp::reply::Response;

pub async fn list(call: Call) -> Outcome<Response> {
    if !call.caller()?.instance_admin {
        return Err(Refusal::forbidden("this needs the instance administrator"));
    }
    let (asked, plane) = (page(&call.query)?, &call.app.plane);
    let mut rows = Vec::new();
    for i in plane.store().live_instances().await? {
        rows.push(Instance {
            rollout_ids: plane.store().owned_rollouts(i.id, plane.now()).await?,
            this: i.id == plane.instance(),
            id: i.id,
            listen: i.listen,
            epoch: i.epoch,
            started_at: i.started_at,
            expires_at: i.expires_at,
            draining: i.draining,
        });
    }
    let found = slice(rows, &asked, |i| i.epoch)?;
    Ok(reply::ok(&listed(found, |i| i).under("instances")))
}
