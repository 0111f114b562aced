//! The OpenAPI 3.1 document, made from the route table and the schemas of `api`.

use crate::routes::{Answer, Auth, Route, table};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// The document, made once.
pub fn openapi() -> Value {
    document().clone()
}

pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
    &DOCUMENT
}

fn build() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in table() {
        let entry = paths.entry(template(route.path)).or_insert_with(|| json!({}));
        if let Value::Object(methods) = entry {
            methods.insert(route.method.name().to_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sentinel Control Plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Declarative configuration for a fleet of Zentinel proxies: bundles, rollouts, and the nodes they reach.",
        },
        "paths": paths,
        "components": {
            "schemas": api::schema::schemas(),
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key."},
                "session": {"type": "apiKey", "in": "cookie", "name": crate::auth::SESSION_COOKIE,
                    "description": "A signed-in person; writes need the X-CSRF-Token header as well."},
                "nodeKey": {"type": "apiKey", "in": "header", "name": "X-Sentinel-Node-Key",
                    "description": "A node's key; X-Zentinel-Node-Key is the same."},
                "nodeToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "A token that the node got for its key (EdDSA)."},
            },
        },
    })
}

/// `/nodes/:id` as `/nodes/{id}`
fn template(path: &str) -> String {
    let part = |s: &str| s.strip_prefix(':').map_or_else(|| s.to_string(), |name| format!("{{{name}}}"));
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn answer_schema(answer: Answer) -> Option<Value> {
    let object = |properties: Value, required: Vec<&str>| json!({"type": "object", "properties": properties, "required": required});
    Some(match answer {
        Answer::Nothing | Answer::Bytes(_) => return None,
        Answer::Bare(schema) => reference(schema),
        Answer::One(noun, schema) => object(json!({noun: reference(schema)}), vec![noun]),
        Answer::Changed(noun, schema) => {
            object(json!({noun: reference(schema), "changed": {"type": "boolean"}}), vec![noun, "changed"])
        }
        Answer::List(noun, schema) => object(
            json!({noun: {"type": "array", "items": reference(schema)}, "total": {"type": "integer"},
                "next_cursor": {"type": ["string", "null"]}}),
            vec![noun, "total", "next_cursor"],
        ),
        Answer::Object => json!({"type": "object"}),
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|s| s.strip_prefix(':'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let paged: &[&str] = if matches!(route.answer, Answer::List(..)) { &["limit", "cursor"] } else { &[] };
    for name in route.query.iter().chain(paged) {
        let schema = match *name {
            "limit" => json!({"type": "integer", "minimum": 1, "maximum": api::wire::MAX_LIMIT}),
            "wait" => json!({"type": "number", "minimum": 0}),
            "format" => json!({"type": "string", "enum": ["json", "csv"]}),
            _ => json!({"type": "string"}),
        };
        parameters.push(json!({"name": name, "in": "query", "required": false, "schema": schema}));
    }
    let writes = !matches!(route.method, crate::routes::Method::Get);
    let operator = matches!(route.auth, Auth::Key(_) | Auth::Caller);
    if writes && operator {
        parameters.push(json!({"name": "Idempotency-Key", "in": "header", "required": false,
            "schema": {"type": "string", "maxLength": 255}}));
    }
    let mut content = Map::new();
    if let Some(schema) = answer_schema(route.answer) {
        content.insert("application/json".into(), json!({"schema": schema}));
    }
    if let Answer::Bytes(kinds) = route.answer {
        for kind in kinds.split(',') {
            let schema = if kind == "application/json" { json!({}) } else { json!({"type": "string"}) };
            content.insert(kind.into(), json!({"schema": schema}));
        }
    }
    let mut good = json!({"description": "As asked."});
    if !content.is_empty() {
        good["content"] = Value::Object(content);
    }
    let mut responses = Map::new();
    // Found to be so already, replaced, or ready in time.
    if matches!(route.status, 201 | 202) {
        responses.insert("200".into(), good.clone());
    }
    responses.insert(route.status.to_string(), good);
    for (status, text) in refusals(route) {
        responses.insert(
            status.to_string(),
            json!({"description": text, "content": {"application/problem+json": {"schema": reference("Problem")}}}),
        );
    }
    let id = format!(
        "{}_{}",
        route.method.name().to_lowercase(),
        route.path.trim_start_matches("/api/v1").replace(['/', ':', '-', '.'], "_")
    );
    let mut out = json!({
        "operationId": id, "summary": route.summary, "tags": [tag(route.path)],
        "parameters": parameters, "responses": responses,
    });
    match route.auth {
        Auth::Open => out["security"] = json!([]),
        Auth::Node => out["security"] = json!([{"nodeKey": []}, {"nodeToken": []}]),
        Auth::NodeKey => out["security"] = json!([{"nodeKey": []}]),
        Auth::Caller => out["security"] = json!([{"apiKey": []}, {"session": []}]),
        Auth::Key(scope) => {
            out["security"] = json!([{"apiKey": []}, {"session": []}]);
            out["description"] = format!("Scope `{scope}`, or the role {}.", scope.least_role()).into();
            out["x-scope"] = scope.as_str().into();
        }
    }
    if let Some(request) = route.request {
        let required = !matches!(request, "HeartbeatRequest" | "ReportRequest" | "CompileRequest" | "RevokeRequest")
            && !matches!(
                request,
                "NoteRequest"
                    | "ResumeRequest"
                    | "RollbackRequest"
                    | "RetryRequest"
                    | "ResolveRequest"
                    | "RotateKeyRequest"
            );
        out["requestBody"] =
            json!({"required": required, "content": {"application/json": {"schema": reference(request)}}});
    }
    out
}

fn tag(path: &str) -> &str {
    let known = [
        "rollouts",
        "bundles",
        "compile",
        "desired_config",
        "nodes",
        "enrolment-tokens",
        "audit",
        "audit_logs",
        "api-keys",
    ];
    let mut parts = path.split('/').filter(|s| !s.is_empty() && !s.starts_with(':'));
    let found = parts.clone().find(|s| known.contains(s));
    found.or_else(|| parts.find(|s| *s != "api" && *s != "v1")).unwrap_or("instance")
}

fn refusals(route: &Route) -> Vec<(u16, &'static str)> {
    let mut out = vec![
        (400, "Malformed."),
        (429, "Too many requests; see Retry-After."),
        (503, "Not available; see Retry-After."),
    ];
    let named = route.path.contains(':') || route.query.contains(&"project") || route.path.ends_with("/accept");
    if named {
        out.push((404, "Not found, or of another tenant."));
    }
    if route.auth != Auth::Open
        || route.path.ends_with("/register")
        || route.path.ends_with("/session")
        || route.path.ends_with("/accept")
    {
        out.extend([(401, "No valid credential."), (403, "Not allowed; names the scope.")]);
    }
    if route.method != crate::routes::Method::Get {
        out.extend([
            (409, "The state does not allow it; names the state and what is allowed."),
            (413, "The body is too large."),
            (415, "The body is not JSON."),
        ]);
    }
    if route.path.contains("/bundles/:id/") && route.method == crate::routes::Method::Get {
        out.push((409, "The bundle has no archive."));
    }
    out.push((422, "Fields or parameters are wrong; `errors` names them."));
    if matches!(route.answer, Answer::Bytes("application/zstd")) {
        out.extend([
            (403, "The URL is not valid."),
            (410, "The URL has expired."),
            (416, "The range is outside of the archive."),
        ]);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        let document = openapi();
        let mut count = 0;
        for route in table() {
            let operation = &document["paths"][template(route.path)][route.method.name().to_lowercase()];
            assert_eq!(operation["summary"], route.summary, "{}", route.path);
            assert!(operation["responses"][route.status.to_string()].is_object(), "{}", route.path);
            count += 1;
        }
        let operations: usize =
            document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(operations, count);
    }

    #[test]
    fn every_schema_that_is_named_exists() {
        let document = openapi();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for route in table() {
            let mut names: Vec<&str> = route.request.into_iter().collect();
            match route.answer {
                Answer::Bare(s) | Answer::One(_, s) | Answer::Changed(_, s) | Answer::List(_, s) => names.push(s),
                Answer::Nothing | Answer::Object | Answer::Bytes(_) => {}
            }
            for name in names {
                assert!(schemas.contains_key(name), "{}: {name}", route.path);
            }
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = openapi();
        let mut ids: Vec<&str> = Vec::new();
        for path in document["paths"].as_object().unwrap().values() {
            ids.extend(path.as_object().unwrap().values().map(|o| o["operationId"].as_str().unwrap()));
        }
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
