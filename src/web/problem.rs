//! Refusals: the one place that knows status codes.

use actors::command::CommandError;
use api::Problem;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use warp::reply::Response;

/// Seconds after which a client may ask again when the store or the plane was not reachable.
const RETRY_AFTER_S: u32 = 2;

/// Why a request was not served; becomes `application/problem+json`.
#[derive(Debug)]
pub struct Refusal {
    pub problem: Box<Problem>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log only.
    pub internal: Option<String>,
}

pub type Outcome<T> = Result<T, Refusal>;

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Refusal {
        Refusal {
            problem: Box::new(Problem::new(status.as_u16(), status.canonical_reason().unwrap_or("Error"), detail)),
            headers: Vec::new(),
            internal: None,
        }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Refusal {
        self.headers.push((name, value));
        self
    }

    fn code(mut self, code: &str) -> Refusal {
        self.problem.code = Some(code.to_string());
        self
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub fn bad_request(detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn unauthorized(detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, detail)
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sentinel\""))
    }

    pub fn forbidden(detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, detail)
    }

    /// Also for what belongs to another tenant.
    pub fn not_found(what: &str) -> Refusal {
        let detail = if what.contains(' ') { what.to_string() } else { format!("{what} not found") };
        Refusal::new(StatusCode::NOT_FOUND, detail)
    }

    pub fn method_not_allowed(allowed: &[Method]) -> Refusal {
        let list = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {list}"));
        match HeaderValue::from_str(&list) {
            Ok(value) => refusal.with(header::ALLOW, value),
            Err(_) => refusal,
        }
    }

    pub fn conflict(code: &str, detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::CONFLICT, detail).code(code)
    }

    pub fn gone(detail: &str) -> Refusal {
        Refusal::new(StatusCode::GONE, detail)
    }

    pub fn too_large(limit: usize) -> Refusal {
        // The rest of the body may not have been read, so the connection cannot be used again.
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes"))
            .with(header::CONNECTION, HeaderValue::from_static("close"))
    }

    pub fn too_slow() -> Refusal {
        // As above.
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")
            .with(header::CONNECTION, HeaderValue::from_static("close"))
    }

    pub fn unsupported_media_type() -> Refusal {
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
    }

    pub fn range_not_satisfiable(size: u64) -> Refusal {
        let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the object has {size} bytes"));
        match HeaderValue::from_str(&format!("bytes */{size}")) {
            Ok(value) => refusal.with(header::CONTENT_RANGE, value),
            Err(_) => refusal,
        }
    }

    pub fn invalid(field: &str, message: impl Into<String>) -> Refusal {
        Refusal::all_invalid([(field.to_string(), message.into())])
    }

    pub fn all_invalid(errors: impl IntoIterator<Item = (String, String)>) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "");
        for (field, message) in errors {
            refusal.problem.errors.entry(field).or_default().push(message);
        }
        let mut told = refusal.problem.errors.iter().map(|(field, m)| format!("{field}: {}", m.join(", ")));
        let detail = match (told.next(), told.count()) {
            (Some(first), 0) => first,
            (Some(first), n) => format!("{first}; and {n} more"),
            (None, _) => "invalid".into(),
        };
        refusal.problem.error.clone_from(&detail);
        refusal.problem.detail = detail;
        refusal
    }

    pub fn too_many(detail: &str, retry_after_s: u32) -> Refusal {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, detail).with(header::RETRY_AFTER, retry_after_s.max(1).into())
    }

    pub fn unavailable(detail: &str, internal: impl Into<String>) -> Refusal {
        let mut refusal =
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(header::RETRY_AFTER, RETRY_AFTER_S.into());
        refusal.internal = Some(internal.into());
        refusal
    }

    /// Shows nothing of `internal`, which goes to the log under the request id.
    pub fn internal(internal: impl Into<String>) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here");
        refusal.internal = Some(internal.into());
        refusal
    }

    /// The answer. What is internal is logged here, once, with the request id that the client is shown.
    pub fn into_response(mut self, request_id: domain::RequestId) -> Response {
        let status = self.status();
        if let Some(why) = &self.internal {
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(request_id = %request_id, why, "request failed");
            } else {
                tracing::warn!(request_id = %request_id, why, "request could not be served");
            }
        }
        if status.is_server_error() {
            self.problem.request_id = Some(request_id.to_string());
        }
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(api::problem::CONTENT_TYPE));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl From<CommandError> for Refusal {
    fn from(e: CommandError) -> Refusal {
        match e {
            CommandError::NotFound(what) => Refusal::not_found(what),
            CommandError::Invalid(errors) => Refusal::all_invalid(errors),
            CommandError::Conflict { code, detail } => Refusal::conflict(code, detail),
            CommandError::Forbidden(detail) => Refusal::forbidden(detail),
            CommandError::Unavailable(why) => {
                Refusal::unavailable("not available at the moment; nothing was done", why)
            }
            CommandError::Unknown(why) => Refusal::unavailable(
                "it is not known whether this was done; ask again with the same Idempotency-Key",
                why,
            ),
        }
    }
}

/// Reads only. A stored value that cannot be read is our fault, not the client's.
impl From<store::Error> for Refusal {
    fn from(e: store::Error) -> Refusal {
        match e {
            store::Error::NotFound => Refusal::not_found("not found: no such object"),
            store::Error::Conflict(what) => Refusal::conflict(what, format!("conflict: {what}")),
            store::Error::Claimed(_) => Refusal::conflict("overlap", "nodes are held by another rollout"),
            store::Error::Unavailable(why) | store::Error::Unknown(why) => {
                Refusal::unavailable("the database is not available at the moment", why)
            }
            store::Error::Invalid(why) => Refusal::internal(why),
            newer @ store::Error::Newer { .. } => Refusal::internal(newer.to_string()),
        }
    }
}

impl From<artifacts::Error> for Refusal {
    fn from(e: artifacts::Error) -> Refusal {
        match e {
            artifacts::Error::NotFound => Refusal::not_found("artifact"),
            artifacts::Error::Unavailable(why) => {
                Refusal::unavailable("the artifact store is not available at the moment", why)
            }
            artifacts::Error::Corrupt(why) | artifacts::Error::Invalid(why) => Refusal::internal(why),
        }
    }
}

/// What warp refused by itself: with the groups of [`crate::router`] only paths that nothing is behind, but every kind is
/// mapped, because an unmapped one would become a 500.
pub fn of_rejection(rejection: &warp::Rejection) -> Refusal {
    if rejection.is_not_found() {
        Refusal::not_found("there is nothing at this path")
    } else if rejection.find::<warp::reject::UnsupportedMediaType>().is_some() {
        Refusal::unsupported_media_type()
    } else if rejection.find::<warp::reject::PayloadTooLarge>().is_some() {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")
    } else if rejection.find::<warp::reject::LengthRequired>().is_some() {
        Refusal::new(StatusCode::LENGTH_REQUIRED, "the body needs a Content-Length")
    } else if let Some(e) = rejection.find::<warp::filters::body::BodyDeserializeError>() {
        Refusal::bad_request(e.to_string())
    } else if rejection.find::<warp::reject::InvalidQuery>().is_some() {
        Refusal::bad_request("the query cannot be read")
    } else if let Some(e) = rejection.find::<warp::reject::MissingHeader>() {
        Refusal::bad_request(e.to_string())
    } else if let Some(e) = rejection.find::<warp::reject::InvalidHeader>() {
        Refusal::bad_request(e.to_string())
    } else if rejection.find::<warp::reject::MissingCookie>().is_some() {
        Refusal::unauthorized("sign in first")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
    } else {
        Refusal::internal(format!("{rejection:?}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt;
    use warp::Filter;

    async fn shown(refusal: Refusal) -> (StatusCode, http::HeaderMap, serde_json::Value) {
        let response = refusal.into_response(domain::RequestId::NIL);
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn every_refusal_is_a_problem_document() {
        let (status, headers, body) = shown(Refusal::conflict("name_taken", "the name is taken")).await;
        assert_eq!(status, 409);
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(body["detail"], "the name is taken");
        assert_eq!(body["error"], "the name is taken");
        assert_eq!(body["code"], "name_taken");
        assert_eq!(body["status"], 409);
        assert!(body["title"].is_string() && body["type"].is_string());
    }

    #[tokio::test]
    async fn a_500_shows_nothing_but_the_request_id() {
        let (status, _, body) = shown(Refusal::internal("secret table name")).await;
        assert_eq!(status, 500);
        assert_eq!(body["request_id"], domain::RequestId::NIL.to_string());
        assert!(!body.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn errors_of_commands_get_their_status() {
        for (error, expect) in [
            (CommandError::NotFound("node"), 404),
            (CommandError::invalid("name", "is required"), 422),
            (CommandError::Conflict { code: "x", detail: "y".into() }, 409),
            (CommandError::Forbidden("needs nodes:write".into()), 403),
            (CommandError::Unavailable("db".into()), 503),
            (CommandError::Unknown("db".into()), 503),
        ] {
            let (status, headers, body) = shown(error.into()).await;
            assert_eq!(status, expect);
            assert_eq!(headers.contains_key("retry-after"), expect == 503);
            assert!(!body["detail"].as_str().unwrap().contains("db"));
        }
    }

    #[tokio::test]
    async fn fields_are_listed_with_their_messages() {
        let errors = [("a".to_string(), "one".to_string()), ("a".into(), "two".into()), ("b".into(), "three".into())];
        let (_, _, body) = shown(Refusal::all_invalid(errors)).await;
        assert_eq!(body["errors"], serde_json::json!({"a": ["one", "two"], "b": ["three"]}));
        assert_eq!(body["detail"], "a: one, two; and 1 more");
    }

    #[tokio::test]
    async fn rejections_of_warp_keep_their_meaning() {
        let filter = warp::path("json")
            .and(warp::post())
            .and(warp::body::content_length_limit(8))
            .and(warp::body::json::<serde_json::Value>())
            .map(|_| "fine")
            .or(warp::path("header").and(warp::header::<u32>("x-count")).map(|_| "fine"))
            .or(warp::path("query").and(warp::query::<std::collections::BTreeMap<String, u8>>()).map(|_| "fine"));
        let request = |method: &str, path: &str| http::Request::builder().method(method).uri(path.to_string());
        let cases = [
            (request("GET", "/nowhere").body("").unwrap(), 404),
            (request("GET", "/json").body("").unwrap(), 405),
            (request("POST", "/json").body("").unwrap(), 411),
            (request("POST", "/json").header("content-length", "99").body("").unwrap(), 413),
            (
                request("POST", "/json")
                    .header("content-length", "2")
                    .header("content-type", "text/plain")
                    .body("{}")
                    .unwrap(),
                415,
            ),
            (request("POST", "/json").header("content-length", "1").body("{").unwrap(), 400),
            (request("GET", "/header").body("").unwrap(), 400),
            (request("GET", "/header").header("x-count", "many").body("").unwrap(), 400),
            (request("GET", "/query?a=b").body("").unwrap(), 400),
        ];
        let filter = filter.map(|r| Response::new(warp::Reply::into_response(r).into_body())).recover(
            |r: warp::Rejection| async move {
                Ok::<_, std::convert::Infallible>(of_rejection(&r).into_response(domain::RequestId::NIL))
            },
        );
        let mut service = warp::service(filter.map(warp::Reply::into_response));
        for (request, expect) in cases {
            let what = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
            let request = request.map(|b| http_body_util::Full::new(bytes::Bytes::from_static(b.as_bytes())));
            let response = tower_service::Service::call(&mut service, request).await.unwrap();
            assert_eq!(response.status(), expect, "{what}");
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        }
    }
}
