//! Nodes that keep to one instance and go to the next when it fails them, as behind a list of addresses; and what they were promised.

use crate::harness::{Client, PATIENCE, eventually, online};
use crate::kill9::rank;
use domain::NodeId;
use sim::agent::Profile;
use sim::transport::{Http, HttpOptions, Request, Response};
use sim::wire::CallError;
use sim::{Behaviour, Fleet, FleetConfig, Scenario, Transport};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Seconds that polls ask to be held: short, so that nodes whose instance froze are elsewhere before its lease has run out, and whoever
/// takes over has something to decide. Of many nodes some are elsewhere anyhow, and as many polls would be a load.
const POLL_S: u32 = 1;
const POLL_OF_MANY_S: u32 = 3;
const MANY: u32 = 100;
/// An instance that has not answered by then is left.
const PATIENT: Duration = Duration::from_secs(2);

/// The last report of each node that was answered with 2xx and was not stale: its generation, and how far it says the node is.
pub type Promised = HashMap<NodeId, (u64, &'static str)>;

#[derive(Default)]
pub struct Witness {
    promised: Mutex<Promised>,
    pub answered: AtomicUsize,
    pub moved: AtomicUsize,
    /// Who was told that its key is void, and how.
    pub dismissed: Mutex<Vec<String>>,
}

impl Witness {
    pub fn promised(&self) -> Promised {
        self.promised.lock().unwrap().clone()
    }
}

/// Every node begins at one of `urls`, evenly, and goes to the next after a call that failed, hung or was not served.
pub fn spread(urls: &[String], witness: Arc<Witness>) -> Transport {
    let options = HttpOptions { max_connections: 4_000, http2: false };
    let ways: Arc<Vec<Http>> = Arc::new(urls.iter().map(|u| Http::new(u, options).unwrap()).collect());
    let homes: Arc<Mutex<HashMap<NodeId, usize>>> = Arc::default();
    let turn = Arc::new(AtomicUsize::new(0));
    Transport::in_process(move |request| {
        let (ways, homes, turn, witness) = (ways.clone(), homes.clone(), turn.clone(), witness.clone());
        async move {
            let (node, limit) = match &request {
                Request::Register { .. } => (None, PATIENT * 5),
                Request::Heartbeat { node, .. } | Request::Report { node, .. } => (Some(node.node), PATIENT),
                Request::Poll { node, wait_s } => (Some(node.node), PATIENT + Duration::from_secs((*wait_s).into())),
                Request::Download { .. } => (None, PATIENT * 2),
            };
            let next = || turn.fetch_add(1, Ordering::Relaxed);
            let home = match node {
                Some(node) => *homes.lock().unwrap().entry(node).or_insert_with(next),
                None => next(),
            };
            let said = match &request {
                Request::Report { node, report, body, .. } => Some((node.node, report.path(), body.generation)),
                _ => None,
            };
            let call = Transport::Http(ways[home % ways.len()].clone()).send(request);
            let answer = tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::Timeout));
            match &answer {
                // A node that is sent away never comes again: in these tests always a fault.
                Err(e) if e.is_final() && node.is_some() => {
                    witness
                        .dismissed
                        .lock()
                        .unwrap()
                        .push(format!("{node:?} after {said:?} at {}: {e}", home % ways.len()));
                }
                Err(e) if !e.is_final() => {
                    if let Some(node) = node {
                        homes.lock().unwrap().insert(node, home + 1);
                        witness.moved.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(Response::Report(a)) if !a.stale => {
                    witness.answered.fetch_add(1, Ordering::Relaxed);
                    if let Some((node, what, Some(generation))) = said {
                        witness.promised.lock().unwrap().insert(node, (generation, what));
                    }
                }
                _ => {}
            }
            answer
        }
    })
}

/// `n-1` ... on project `p`. `share`: what one has fetched serves all.
pub async fn fleet(
    op: &Client,
    urls: &[String],
    nodes: u32,
    script: &str,
    share: bool,
    witness: &Arc<Witness>,
) -> Fleet {
    let config = FleetConfig {
        project: "p".into(),
        nodes,
        name_prefix: "n-".into(),
        behaviour: Behaviour::default(),
        scenario: Scenario::parse(script).unwrap(),
        profile: Profile { long_poll_s: if nodes > MANY { POLL_OF_MANY_S } else { POLL_S }, ..Profile::default() },
        share_downloads: Some(share),
        ..FleetConfig::default()
    };
    let fleet = Fleet::start(config, spread(urls, witness.clone())).await.unwrap();
    online(op, "p", nodes.into()).await;
    fleet
}

/// Of a rollout, past the product: what is stored of every promise, in its member's row or in the mail that waits.
pub async fn promises_hold(sql: &super::postgres::Sql, rollout: &str, promised: &Promised, when: &str) {
    // The mail first: what is taken out of it in between is in the rows that are read after it.
    let mail = sql.rows(&format!("SELECT payload FROM rollout_inbox WHERE rollout_id = '{rollout}'")).await;
    let mail: String = mail.into_iter().map(|mut r| r.remove(0)).collect();
    let members = format!(
        "SELECT m.node_id, m.generation, m.state, n.generation FROM rollout_nodes m JOIN nodes n ON n.id = m.node_id \
         WHERE m.rollout_id = '{rollout}'"
    );
    for row in sql.rows(&members).await {
        let node: NodeId = row[0].parse().unwrap();
        let (stored, state, current): (u64, &str, u64) = (row[1].parse().unwrap(), &row[2], row[3].parse().unwrap());
        let Some((generation, what)) = promised.get(&node) else { continue };
        assert!(
            current >= *generation,
            "{when}: generation {generation} was acknowledged to {node}, stored is {current}"
        );
        // Not assigned yet by this rollout: the promise was made to an older one.
        let kept = state == "pending" || stored > *generation || rank(state) >= rank(what) || mail.contains(&row[0]);
        assert!(
            kept,
            "{when}: {what} of generation {generation} was acknowledged to {node}, and stored is {state} of {stored}"
        );
    }
}

/// Waits until the operator's question is answered by any of them.
pub async fn asked(op: &Client, path: &str) -> serde_json::Value {
    eventually(&format!("GET {path} is answered within {PATIENCE:?}"), async || {
        let call = op.try_raw("GET", path, &[], bytes::Bytes::new());
        let answer = tokio::time::timeout(PATIENT, call).await.ok()?.ok()?;
        (answer.status == 200).then_some(answer.body)
    })
    .await
}
