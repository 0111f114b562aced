//! The instance itself: health, readiness, metrics, the API's description.

use crate::auth::bearer;
use crate::call::Call;
use crate::openapi::document;
use crate::problem::{Outcome, Refusal};
use crate::reply;
use domain::Digest;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use maud::{DOCTYPE, html};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};
use serde_json::{Value, json};
use std::sync::LazyLock;
use std::time::Duration;
use warp::reply::Response;

/// A part that does not answer by then is not ready.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

pub async fn health(_call: Call) -> Outcome<Response> {
    Ok(reply::ok(&json!({"status": "ok"})))
}

pub async fn ready(call: Call) -> Outcome<Response> {
    let plane = &call.app.plane;
    let (database, storage) = futures_util::future::join(
        tokio::time::timeout(CHECK_TIMEOUT, plane.store().ready()),
        tokio::time::timeout(CHECK_TIMEOUT, plane.artifacts().ready()),
    )
    .await;
    let mut good = !call.app.is_draining();
    // Why is for the log; strangers are only told which part.
    let mut told = |part: &str, failed: Option<String>| match failed {
        None => "ok",
        Some(why) => {
            tracing::warn!(part, why, "not ready");
            good = false;
            "failed"
        }
    };
    let flat = |r: Result<Result<(), String>, _>| match r {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why),
        Err(_) => Some("no answer in time".to_string()),
    };
    let database = told("database", flat(database.map(|r| r.map_err(|e| e.to_string()))));
    let storage = told("storage", flat(storage.map(|r| r.map_err(|e| e.to_string()))));
    let draining = call.app.is_draining();
    let status = if draining {
        "draining"
    } else if good {
        "ready"
    } else {
        "not_ready"
    };
    let body = json!({"status": status, "checks": {"database": database, "migrations": database, "storage": storage}});
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = reply::json(code, &body);
    if !good {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    Ok(response)
}

pub async fn metrics(call: Call) -> Outcome<Response> {
    if !call.app.settings.metrics_here {
        return Err(Refusal::not_found("metrics are served on another address: path"));
    }
    let token = call.app.settings.metrics_token.as_deref();
    check_token(&call.headers, token)?;
    metrics_text(call.app.plane.registry(), if token.is_some() { Told::Everything } else { Told::NoTenant })
}

/// Errors: 401 unless the bearer token is the one that is set.
pub fn check_token(headers: &HeaderMap, token: Option<&str>) -> Outcome<()> {
    let Some(token) = token else { return Ok(()) };
    let given = bearer(headers)?;
    // By hash, so the comparison takes the same time whatever is wrong.
    if given.is_some_and(|g| Digest::of(g.as_bytes()) == Digest::of(token.as_bytes())) {
        return Ok(());
    }
    Err(Refusal::unauthorized("the metrics token is missing or wrong"))
}

/// Whom metrics are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Whoever runs the installation: by a token, or on an address of its own.
    Everything,
    /// Anybody: gauges by tenant are summed up, other families by tenant left out.
    NoTenant,
}

/// Labels that name what is one tenant's.
const TENANT_LABELS: [&str; 2] = ["project", "org"];

/// Stands for all of them.
const ALL_TENANTS: &str = "all";

fn names_tenants(family: &MetricFamily) -> bool {
    family.get_metric().iter().any(|m| m.get_label().iter().any(|l| TENANT_LABELS.contains(&l.name())))
}

/// Adds up what differs only in the tenant. `false`: not a gauge, and not to be shown.
fn summed(family: &mut MetricFamily) -> bool {
    let mut sums: Vec<(Vec<LabelPair>, f64)> = Vec::new();
    for mut metric in family.take_metric() {
        let mut labels = metric.take_label();
        for label in labels.iter_mut().filter(|l| TENANT_LABELS.contains(&l.name())) {
            label.set_value(ALL_TENANTS.into());
        }
        let value = metric.get_gauge().get_value();
        match sums.iter_mut().find(|(l, _)| *l == labels) {
            Some((_, sum)) => *sum += value,
            None => sums.push((labels, value)),
        }
    }
    let metrics = sums.into_iter().map(|(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_gauge(gauge);
        metric.set_label(labels);
        metric
    });
    family.set_metric(metrics.collect());
    family.get_field_type() == MetricType::GAUGE
}

pub fn metrics_text(registry: &Registry, told: Told) -> Outcome<Response> {
    let mut families = registry.gather();
    if told == Told::NoTenant {
        families.retain_mut(|f| !names_tenants(f) || summed(f));
    }
    let text = TextEncoder::new().encode_to_string(&families).map_err(|e| Refusal::internal(e.to_string()))?;
    let mut response = Response::new(text.into());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

pub async fn openapi(_call: Call) -> Outcome<Response> {
    static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| serde_json::to_vec(document()).unwrap_or_default());
    Ok(reply::raw_json(StatusCode::OK, TEXT.clone()))
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1f24;background:#fff}\
code,pre{font:14px/1.5 ui-monospace,monospace}h2{margin-top:2.5rem;border-bottom:1px solid #d0d7de}details{margin:.4rem 0;padding:.3rem .6rem;border:1px solid #d0d7de;border-radius:6px}\
summary,p,td,li{overflow-wrap:anywhere}summary{cursor:pointer}.m{display:inline-block;min-width:4.5rem;font-weight:700}pre{overflow:auto;background:#f6f8fa;padding:.6rem}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}pre{background:#161b22}details,h2{border-color:#30363d}a{color:#58a6ff}}";

/// The document for people: one page, nothing fetched, no script.
pub async fn docs(_call: Call) -> Outcome<Response> {
    static PAGE: LazyLock<(String, HeaderValue)> = LazyLock::new(|| {
        use base64::Engine;
        let hash = base64::engine::general_purpose::STANDARD.encode(Digest::of(STYLE.as_bytes()).0);
        let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; frame-ancestors 'none'; base-uri 'none'");
        let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        (docs_page(document()), policy)
    });
    let mut response = Response::new(PAGE.0.clone().into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, PAGE.1.clone());
    Ok(response)
}

/// Method, path and description of an operation.
type Line<'a> = (String, String, &'a Value);

fn docs_page(document: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let mut tags: Vec<(String, Vec<Line<'_>>)> = Vec::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let tag = text(&operation["tags"][0]);
            let line = (method.to_uppercase(), path.clone(), operation);
            match tags.iter_mut().find(|(t, _)| *t == tag) {
                Some((_, lines)) => lines.push(line),
                None => tags.push((tag, vec![line])),
            }
        }
    }
    let pretty = |v: &Value| serde_json::to_string_pretty(v).unwrap_or_default();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (text(&document["info"]["title"])) " API" }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                h1 { (text(&document["info"]["title"])) " API" }
                p { (text(&document["info"]["description"])) " Machine-readable: " a href="/api/openapi.json" { "openapi.json" } "." }
                nav { @for (tag, _) in &tags { a href={"#" (tag)} { (tag) } " " } a href="#schemas" { "schemas" } }
                @for (tag, lines) in &tags {
                    h2 id=(tag) { (tag) }
                    @for (method, path, operation) in lines {
                        details {
                            summary { span.m { (method) } code { (path) } " - " (text(&operation["summary"])) }
                            @if operation["description"].is_string() { p { (text(&operation["description"])) } }
                            @if let Some(parameters) = operation["parameters"].as_array().filter(|p| !p.is_empty()) {
                                ul { @for p in parameters { li { code { (text(&p["name"])) } " in " (text(&p["in"])) } } }
                            }
                            @if operation["requestBody"].is_object() {
                                p { "Body: " (schema_link(&operation["requestBody"]["content"]["application/json"]["schema"])) }
                            }
                            p { "Answers:" }
                            ul {
                                @for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
                                    li { code { (status) } " " (text(&answer["description"])) " "
                                        @if answer["content"]["application/json"].is_object() {
                                            pre { (pretty(&answer["content"]["application/json"]["schema"])) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                h2 id="schemas" { "schemas" }
                @for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
                    details id={"schema-" (name)} { summary { code { (name) } } pre { (pretty(schema)) } }
                }
            }
        }
    }
    .into_string()
}

fn schema_link(schema: &Value) -> maud::Markup {
    let name = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()).unwrap_or("object");
    html! { a href={"#schema-" (name)} { code { (name) } } }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_metrics_token_is_asked_for_when_one_is_set() {
        let with = |v: &str| HeaderMap::from_iter([(header::AUTHORIZATION, v.parse().unwrap())]);
        assert!(check_token(&HeaderMap::new(), None).is_ok());
        assert!(check_token(&with("Bearer t"), Some("t")).is_ok());
        assert_eq!(check_token(&with("Bearer x"), Some("t")).unwrap_err().problem.status, 401);
        assert_eq!(check_token(&HeaderMap::new(), Some("t")).unwrap_err().problem.status, 401);
    }

    #[tokio::test]
    async fn who_is_not_asked_for_a_token_is_told_of_no_tenant() {
        use http_body_util::BodyExt;
        let registry = Registry::new();
        let gauge = |name, labels: &[&str]| {
            let made = prometheus::IntGaugeVec::new(prometheus::Opts::new(name, "x"), labels).unwrap();
            registry.register(Box::new(made.clone())).unwrap();
            made
        };
        let nodes = gauge("nodes", &["project", "status"]);
        nodes.with_label_values(&["edge-secret", "online"]).set(2);
        nodes.with_label_values(&["edge-other", "online"]).set(3);
        gauge("rollouts", &["state"]).with_label_values(&["running"]).set(1);
        let text = async |told| {
            let body = metrics_text(&registry, told).unwrap().into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        };
        let (all, some) = (text(Told::Everything).await, text(Told::NoTenant).await);
        assert!(all.contains("edge-secret") && all.contains("running"), "{all}");
        assert!(!some.contains("edge-") && some.contains("running"), "{some}");
        assert!(some.contains("nodes{project=\"all\",status=\"online\"} 5"), "{some}");
    }

    #[test]
    fn the_page_shows_every_path_and_fetches_nothing() {
        let page = docs_page(document());
        for path in document()["paths"].as_object().unwrap().keys() {
            assert!(page.contains(path.as_str()), "{path}");
        }
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
    }
}
