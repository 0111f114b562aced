//! Pages for people. Everything that is not under `/api`, `/artifacts`, `/health`, `/ready` and `/metrics` comes here.

use crate::app::App;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection};

/// The hook of the pages: filters that reject what they do not know.
///
/// [`crate::identify`] tells who is signed in, `App::plane` is asked, [`crate::Refusal`] becomes an error answer.
pub fn routes(_app: App) -> BoxedFilter<(Response,)> {
    warp::any().and_then(|| async { Err::<Response, Rejection>(warp::reject::not_found()) }).boxed()
}
