//! What nodes were answered, written down: the only truth a crash may not change.

use bytes::Bytes;
use domain::Timestamp;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A report that was answered 200 and not called stale.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub node: String,
    pub rollout: String,
    pub generation: u64,
    pub kind: String,
}

#[derive(Default)]
pub struct Witness(Mutex<Book>);

#[derive(Default)]
struct Book {
    acknowledged: Vec<Acknowledged>,
    /// (node, generation) -> (bundle, weight).
    named: BTreeMap<(String, u64), (Value, Value)>,
    /// The highest generation a look has shown, by name.
    highest: BTreeMap<String, u64>,
    disturbed: Option<Timestamp>,
    wrong: Vec<String>,
}

impl Witness {
    /// A node's request was answered 200.
    pub fn saw(&self, path: &str, said: Full<Bytes>, answer: &Bytes) {
        let mut parts = path.trim_start_matches("/api/v1/").split('/');
        let (Some("nodes"), Some(node), Some(what)) = (parts.next(), parts.next(), parts.next()) else { return };
        if what != "bundles" {
            return;
        }
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        match (parts.next(), parts.next()) {
            (Some("latest"), _) => self.named(node, &answer),
            (Some(_), Some(kind)) if answer["stale"] != true => {
                let body = futures_util::FutureExt::now_or_never(said.collect()).and_then(Result::ok);
                let said: Value = body.and_then(|b| serde_json::from_slice(&b.to_bytes()).ok()).unwrap_or_default();
                let (Some(generation), Some(rollout)) = (said["generation"].as_u64(), said["rollout_id"].as_str())
                else {
                    return;
                };
                let (node, rollout, kind) = (node.to_string(), rollout.to_string(), kind.to_string());
                self.0.lock().unwrap().acknowledged.push(Acknowledged { node, rollout, generation, kind });
            }
            _ => {}
        }
    }

    fn named(&self, node: &str, answer: &Value) {
        let Some(generation) = answer["generation"].as_u64().filter(|_| answer["no_update"] != true) else { return };
        let says = (answer["bundle_id"].clone(), answer["traffic_weight"].clone());
        let mut book = self.0.lock().unwrap();
        let before = book.named.entry((node.to_string(), generation)).or_insert_with(|| says.clone()).clone();
        if before != says {
            book.wrong.push(format!("generation {generation} of {node} named {before:?}, and then {says:?}"));
        }
    }

    /// A look at all nodes.
    pub fn looked(&self, nodes: &[Value]) {
        let mut book = self.0.lock().unwrap();
        for n in nodes {
            let (name, now) = (n["name"].as_str().unwrap().to_string(), n["generation"].as_u64().unwrap());
            let before = book.highest.insert(name.clone(), now).unwrap_or(0);
            if now < before {
                book.wrong.push(format!("the generation of {name} went down from {before} to {now}"));
            }
        }
    }

    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.0.lock().unwrap().acknowledged.clone()
    }

    /// Something broke, or was mended, now.
    pub fn disturbed(&self, now: Timestamp) {
        self.0.lock().unwrap().disturbed = Some(now);
    }

    pub fn last_disturbed(&self) -> Option<Timestamp> {
        self.0.lock().unwrap().disturbed
    }

    pub fn complain(&self, what: String) {
        self.0.lock().unwrap().wrong.push(what);
    }

    pub fn wrong(&self) -> Vec<String> {
        self.0.lock().unwrap().wrong.clone()
    }
}
