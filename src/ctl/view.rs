//! How an answer looks on a terminal. Pure. Nothing a node or an operator wrote can send control characters there.

use serde_json::Value;

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Show {
    Projects,
    Nodes,
    Tokens,
    Bundles,
    Rollouts,
    Events,
    RolloutNodes,
    Freezes,
    Environments,
    Templates,
    Drift,
    Keys,
    Audit,
    /// The object under this noun, a line a field.
    One(&'static str),
    Rollout,
    Plan,
    Explanation,
    Checks,
    Verdict,
    /// This field alone: it is shown once and will be piped somewhere.
    Secret(&'static str),
    /// How much drift was resolved, and the rollouts that mend it.
    Resolved,
    Done(&'static str),
    Json,
    /// As it came.
    Bytes,
}

/// A column: its title and where its value is (a JSON pointer).
type Column = (&'static str, &'static str);

fn table_of(show: &Show) -> Option<(&'static str, &'static [Column])> {
    Some(match show {
        Show::Projects => ("projects", &[("SLUG", "/slug"), ("NAME", "/name"), ("ID", "/id")]),
        Show::Nodes => (
            "nodes",
            &[
                ("NAME", "/name"),
                ("STATUS", "/status"),
                ("HEALTH", "/health"),
                ("RUNS", "/active_bundle_id"),
                ("WANTED", "/desired_bundle_id"),
                ("LAST SEEN", "/last_seen_at"),
                ("ID", "/id"),
            ],
        ),
        Show::Tokens => (
            "enrolment_tokens",
            &[("NAME", "/name"), ("USES", "/uses"), ("OF", "/max_uses"), ("EXPIRES", "/expires_at"), ("ID", "/id")],
        ),
        Show::Bundles => (
            "bundles",
            &[
                ("VERSION", "/version"),
                ("STATUS", "/status"),
                ("RISK", "/risk"),
                ("MADE", "/created_at"),
                ("BUNDLE", "/bundle_id"),
            ],
        ),
        Show::Rollouts => (
            "rollouts",
            &[
                ("STATE", "/state"),
                ("VERSION", "/bundle/version"),
                ("STRATEGY", "/strategy"),
                ("VERIFIED", "/progress/verified"),
                ("FAILED", "/progress/failed"),
                ("TOTAL", "/progress/total"),
                ("MADE", "/inserted_at"),
                ("ID", "/id"),
            ],
        ),
        Show::Events => ("events", &[("SEQ", "/seq"), ("AT", "/at"), ("EVENT", "/kind"), ("WITH", "/event")]),
        Show::RolloutNodes => (
            "nodes",
            &[
                ("NAME", "/name"),
                ("STEP", "/step_index"),
                ("STATE", "/state"),
                ("WHY", "/reason"),
                ("ERROR", "/error"),
                ("SINCE", "/updated_at"),
            ],
        ),
        Show::Freezes => (
            "freeze_windows",
            &[
                ("NAME", "/name"),
                ("HOLDS", "/active"),
                ("FROM", "/starts_at"),
                ("UNTIL", "/ends_at"),
                ("WHY", "/reason"),
                ("ID", "/id"),
            ],
        ),
        Show::Environments => (
            "environments",
            &[
                ("SLUG", "/slug"),
                ("NAME", "/name"),
                ("NODES", "/selector"),
                ("APPROVALS", "/settings/approvals_needed"),
                ("ID", "/id"),
            ],
        ),
        Show::Templates => ("rollout_templates", &[("NAME", "/name"), ("SETTINGS", "/settings"), ("ID", "/id")]),
        Show::Drift => (
            "drift",
            &[
                ("NODE", "/node_name"),
                ("SEVERITY", "/severity"),
                ("RUNS", "/found_bundle_id"),
                ("EXPECTED", "/expected_bundle_id"),
                ("SINCE", "/detected_at"),
                ("RESOLVED", "/resolution"),
                ("ID", "/id"),
            ],
        ),
        Show::Keys => (
            "api_keys",
            &[
                ("NAME", "/name"),
                ("PREFIX", "/prefix"),
                ("SCOPES", "/scopes"),
                ("LAST USED", "/last_used_at"),
                ("EXPIRES", "/expires_at"),
                ("REVOKED", "/revoked_at"),
                ("ID", "/id"),
            ],
        ),
        Show::Audit => (
            "audit_logs",
            &[
                ("AT", "/at"),
                ("ACTION", "/action"),
                ("ACTOR", "/actor_type"),
                ("WHO", "/actor_id"),
                ("RESOURCE", "/resource_type"),
                ("WHICH", "/resource_id"),
                ("SEQ", "/seq"),
            ],
        ),
        _ => return None,
    })
}

/// Text with a newline at its end.
pub fn text(show: &Show, answer: &Value) -> String {
    if let Some((noun, columns)) = table_of(show) {
        return list(answer, noun, columns);
    }
    match show {
        Show::One(noun) => fields(&answer[*noun]),
        Show::Rollout => rollout(if answer["rollout"].is_object() { &answer["rollout"] } else { answer }),
        Show::Plan => plan(answer),
        Show::Explanation => explanation(answer),
        Show::Checks => {
            let rows = rows(answer, "checks", &[("CHECK", "/name"), ("OK", "/ok"), ("", "/detail")]);
            format!("{}valid: {}\n", align(rows), cell(&answer["valid"]))
        }
        Show::Verdict => fields(answer),
        Show::Secret(field) => format!("{}\n", cell(&answer[*field])),
        Show::Resolved => {
            let ids =
                answer["rollouts"].as_array().into_iter().flatten().map(|r| format!("rollout {}\n", cell(&r["id"])));
            format!(
                "{} resolved, {} left\n{}",
                cell(&answer["resolved"]),
                cell(&answer["left"]),
                ids.collect::<String>()
            )
        }
        Show::Done(word) => format!("{word}\n"),
        _ => format!("{answer:#}\n"),
    }
}

/// One line: where a rollout stands and why.
pub fn progress(r: &Value) -> String {
    let p = &r["progress"];
    let count = |name: &str| p[name].as_u64().unwrap_or(0);
    let (done, total) = (count("verified") + count("rolled_back"), count("total").max(1));
    let filled = usize::try_from(done * 20 / total).unwrap_or(0).min(20);
    let mut line = format!("{:<12} [{}{}] ", cell(&r["state"]), "#".repeat(filled), ".".repeat(20 - filled));
    let parts = [
        "verified",
        "assigned",
        "pending",
        "failed",
        "owed",
        "skipped",
        "rolling_back",
        "rolled_back",
        "rollback_failed",
    ];
    let parts = parts.iter().filter(|name| count(name) > 0).map(|name| format!("{} {name}", count(name)));
    line.push_str(&parts.collect::<Vec<_>>().join(", "));
    line.push_str(&format!(" of {}", count("total")));
    match r["primary"]["text"].as_str() {
        Some(why) => format!("{line}  {}", clean(why)),
        None => line,
    }
}

fn rollout(r: &Value) -> String {
    let steps = match r["steps"].as_array() {
        Some(steps) if !steps.is_empty() => align(rows(
            r,
            "steps",
            &[
                ("STEP", "/step_index"),
                ("STATE", "/state"),
                ("NODES", "/node_count"),
                ("STARTED", "/started_at"),
                ("ENDED", "/completed_at"),
                ("ERROR", "/error"),
            ],
        )),
        _ => String::new(),
    };
    format!("{}\n{}\n{steps}", cell(&r["id"]), progress(r))
}

fn plan(answer: &Value) -> String {
    let mut out = align(rows(answer, "steps", &[("STEP", "/step_index"), ("NODES", "/node_count")]));
    let d = &answer["diff_summary"];
    out.push_str(&format!(
        "{} nodes change, {} run it already; {} online, {} offline\n",
        cell(&d["changing"]),
        cell(&d["already"]),
        cell(&d["online"]),
        cell(&d["offline"])
    ));
    for e in answer["excluded"].as_array().into_iter().flatten() {
        out.push_str(&format!("excluded: {} ({})\n", cell(&e["node_id"]), cell(&e["reason"])));
    }
    for w in answer["warnings"].as_array().into_iter().flatten() {
        out.push_str(&format!("warning: {}\n", cell(w)));
    }
    out.push_str(&format!(
        "about {} s ({})\n",
        cell(&answer["estimated_duration_seconds"]),
        cell(&answer["estimate_basis"])
    ));
    out.push_str(&format!("plan {}\n", cell(&answer["plan_hash"])));
    out
}

fn explanation(answer: &Value) -> String {
    let mut out = format!("{}\n", cell(&answer["primary"]["text"]));
    for cause in answer["causes"].as_array().into_iter().flatten() {
        let at = cause["at"].as_str().map(|at| format!("  ({})", clean(at))).unwrap_or_default();
        out.push_str(&format!("  - {}{at}\n", cell(&cause["text"])));
    }
    out
}

fn fields(object: &Value) -> String {
    let pairs = object.as_object().into_iter().flatten();
    align(pairs.map(|(k, v)| vec![k.clone(), cell(v)]).collect())
}

fn list(answer: &Value, noun: &str, columns: &[Column]) -> String {
    let rows = rows(answer, noun, columns);
    let shown = rows.len() - 1;
    let mut out = if shown == 0 { String::from("none\n") } else { align(rows) };
    if let Some(cursor) = answer["next_cursor"].as_str() {
        out.push_str(&format!("{shown} of {}; more with --cursor {}\n", cell(&answer["total"]), clean(cursor)));
    }
    out
}

fn rows(answer: &Value, noun: &str, columns: &[Column]) -> Vec<Vec<String>> {
    let title = columns.iter().map(|(title, _)| (*title).to_string()).collect();
    let items = answer[noun].as_array().into_iter().flatten();
    let row = |item: &Value| columns.iter().map(|(_, at)| cell(item.pointer(at).unwrap_or(&Value::Null))).collect();
    std::iter::once(title).chain(items.map(row)).collect()
}

/// Columns as wide as their widest cell, two spaces between them.
fn align(rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (i, text) in row.iter().enumerate() {
            let width = text.chars().count();
            match widths.get_mut(i) {
                Some(w) => *w = (*w).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            line.push_str(text);
            line.push_str(&" ".repeat(width + 2 - text.chars().count()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => clean(text),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().map(cell).collect::<Vec<_>>().join(",")
        }
        other => clean(&other.to_string()),
    }
}

/// Without control characters: a node's error message must not drive the operator's terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_and_what_is_missing_is_a_dash() {
        let answer = json!({"projects": [{"slug": "a", "name": "A", "id": "1"}, {"slug": "longer", "id": "2"}],
            "next_cursor": "c", "total": 9});
        assert_eq!(
            text(&Show::Projects, &answer),
            "SLUG    NAME  ID\na       A     1\nlonger  -     2\n2 of 9; more with --cursor c\n"
        );
        assert_eq!(text(&Show::Projects, &json!({"projects": [], "next_cursor": null, "total": 0})), "none\n");
    }

    #[test]
    fn a_message_from_a_node_cannot_drive_the_terminal() {
        let shown = text(&Show::RolloutNodes, &json!({"nodes": [{"name": "n", "error": "\u{1b}[2Jgone\nline"}]}));
        assert!(!shown.contains('\u{1b}') && shown.lines().count() == 2, "{shown:?}");
    }

    #[test]
    fn progress_says_state_counts_and_why() {
        let r = json!({"state": "running", "progress": {"total": 4, "verified": 2, "assigned": 1, "pending": 1},
            "primary": {"code": "soak", "text": "waits for edge-1"}});
        assert_eq!(
            progress(&r),
            "running      [##########..........] 2 verified, 1 assigned, 1 pending of 4  waits for edge-1"
        );
    }

    #[test]
    fn a_secret_stands_alone() {
        assert_eq!(text(&Show::Secret("token"), &json!({"enrolment_token": {}, "token": "set_x"})), "set_x\n");
    }
}
