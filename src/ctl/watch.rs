//! `rollouts watch`: the event stream wakes, the rollout is fetched, a changed picture is printed. The stream may break off; the
//! look every few seconds does not need it.

use crate::Failure;
use crate::ask::segment;
use crate::client::{Client, Events};
use crate::view;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;
use tokio::time::Instant;

/// What is seen without any event.
const LOOK: Duration = Duration::from_secs(5);
/// However many events come, two looks are this far apart.
const GAP: Duration = Duration::from_millis(500);
/// Calls that may fail in a row while a control plane restarts: 24 x 5 s are two minutes.
const PATIENCE: u32 = 24;

/// States that nothing leaves by itself, and whether they are what the rollout was started for.
fn end(state: &str) -> Option<bool> {
    match state {
        "completed" => Some(true),
        "failed" | "cancelled" | "rolled_back" => Some(false),
        _ => None,
    }
}

pub async fn rollout(
    client: &Client,
    id: &str,
    timeout: Option<u64>,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let path = format!("/rollouts/{}", segment(id));
    let until = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut said = String::new();
    let mut missed = 0;
    let mut events: Option<Events> = None;
    loop {
        let looked = Instant::now();
        match client.get(&path).await {
            Ok(answer) => {
                missed = 0;
                let rollout = &answer["rollout"];
                let line = if json { picture(rollout).to_string() } else { view::progress(rollout) };
                if line != said {
                    writeln!(out, "{line}")?;
                    out.flush()?;
                    said = line;
                }
                let state = rollout["state"].as_str().unwrap_or_default();
                match end(state) {
                    Some(true) => return Ok(()),
                    Some(false) => return Err(Failure::Ended(format!("the rollout is {state}"))),
                    None => {}
                }
                if events.is_none() {
                    events = client.events(rollout["project_id"].as_str().unwrap_or_default()).await.ok();
                }
            }
            Err(why) if passes(&why) && missed < PATIENCE => {
                missed += 1;
                events = None;
                if missed == 1 {
                    eprintln!("{why}; trying on");
                }
            }
            Err(other) => return Err(other),
        }
        if until.is_some_and(|t| Instant::now() >= t) {
            return Err(Failure::Ended(format!("not at its end: {said}")));
        }
        let deadline = until.map_or(Instant::now() + LOOK, |t| t.min(Instant::now() + LOOK));
        wake(&mut events, id, deadline).await;
        tokio::time::sleep_until(deadline.min(looked + GAP)).await;
    }
}

/// Trouble that goes away by itself: nobody answers, too much is asked, or whoever answers cannot just now.
fn passes(why: &Failure) -> bool {
    match why {
        Failure::Connection(_) => true,
        Failure::Refused { status, .. } => matches!(*status, 408 | 429 | 500..=599),
        Failure::Usage(_) | Failure::Ended(_) | Failure::Output(_) => false,
    }
}

/// Returns at the deadline, or when something may have happened to the rollout.
async fn wake(events: &mut Option<Events>, id: &str, deadline: Instant) {
    let Some(stream) = events else { return tokio::time::sleep_until(deadline).await };
    let about_it = async {
        loop {
            match stream.next().await {
                Some(event) if event["kind"] == "resync" || event["id"] == id => return true,
                Some(_) => {}
                None => return false,
            }
        }
    };
    if tokio::time::timeout_at(deadline, about_it).await == Ok(false) {
        *events = None;
    }
}

/// What changes while one looks on, one line of JSON.
fn picture(rollout: &Value) -> Value {
    let keys = ["id", "state", "causes", "waits", "primary", "current_step", "step_count", "progress", "version"];
    Value::Object(keys.iter().map(|k| ((*k).to_string(), rollout[*k].clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_outlasts_what_passes_and_nothing_else() {
        let refused = |status| Failure::Refused { status, problem: Value::Null };
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(passes(&refused(status)), "{status}");
        }
        for status in [400, 401, 403, 404, 409, 422] {
            assert!(!passes(&refused(status)), "{status}");
        }
        assert!(passes(&Failure::Connection("reset".into())));
        assert!(!passes(&Failure::Ended("the rollout is failed".into())));
    }
}
