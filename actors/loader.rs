//! Joins the questions of many polls into one read: what may be named to these nodes, and (if it is) that it was.
//!
//! Owns: the questions of the last 2 ms. Invariant: an answer was read after its question was asked.

use crate::command::CommandError;
use crate::supervision::{TaskGuard, spawn_task};
use domain::NodeId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a question waits for company.
const JOIN: Duration = Duration::from_millis(2);
/// Questions answered by one transaction.
const MAX_JOINED: usize = 500;
/// Questions that may wait: twice what 19,000 connections can ask at once.
const QUEUE: usize = 40_000;

pub enum Answer {
    Row(Box<store::AssignmentAnswer>),
    /// The node was deleted.
    Gone,
    Failed(CommandError),
}

struct Question {
    node: NodeId,
    epoch: u32,
    names: bool,
    reply: oneshot::Sender<Answer>,
}

pub struct Loader {
    queue: mpsc::Sender<Question>,
    _task: TaskGuard,
}

impl Loader {
    pub fn start(store: store::Store) -> Loader {
        let (queue, questions) = mpsc::channel(QUEUE);
        Loader { queue, _task: spawn_task("assignment loader", run(store, questions)) }
    }

    /// For an answer that names what is assigned: the hand-over is stored before this returns.
    pub async fn load(&self, node: NodeId, epoch: u32) -> Answer {
        self.ask(node, epoch, true).await
    }

    /// The same for whoever names nothing: a node that dies now was told nothing.
    pub async fn look(&self, node: NodeId, epoch: u32) -> Answer {
        self.ask(node, epoch, false).await
    }

    async fn ask(&self, node: NodeId, epoch: u32, names: bool) -> Answer {
        let (reply, answer) = oneshot::channel();
        if self.queue.try_send(Question { node, epoch, names, reply }).is_err() {
            return Answer::Failed(CommandError::Unavailable("too many polls at once".into()));
        }
        answer.await.unwrap_or_else(|_| Answer::Failed(CommandError::Unavailable("shutting down".into())))
    }
}

async fn run(store: store::Store, mut questions: mpsc::Receiver<Question>) {
    while let Some(first) = questions.recv().await {
        let mut asked = vec![first];
        tokio::time::sleep(JOIN).await;
        while asked.len() < MAX_JOINED {
            match questions.try_recv() {
                Ok(q) => asked.push(q),
                Err(_) => break,
            }
        }
        let (naming, looking): (Vec<Question>, Vec<Question>) = asked.into_iter().partition(|q| q.names);
        answer(naming, |list| store.assign_and_hand_over(list)).await;
        answer(looking, |list| store.assignments(list)).await;
    }
}

type Rows = store::Result<Vec<Option<store::AssignmentAnswer>>>;

async fn answer<F: Future<Output = Rows>>(asked: Vec<Question>, read: impl FnOnce(Vec<(NodeId, u32)>) -> F) {
    if asked.is_empty() {
        return;
    }
    // One row per node, however often it asked.
    let mut nodes: HashMap<(NodeId, u32), usize> = HashMap::new();
    let mut list = Vec::with_capacity(asked.len());
    for q in &asked {
        nodes.entry((q.node, q.epoch)).or_insert_with(|| {
            list.push((q.node, q.epoch));
            list.len() - 1
        });
    }
    match read(list).await {
        Ok(rows) => {
            for q in asked {
                let row = nodes.get(&(q.node, q.epoch)).and_then(|i| rows.get(*i)).cloned().flatten();
                let _ = q.reply.send(row.map_or(Answer::Gone, |r| Answer::Row(Box::new(r))));
            }
        }
        Err(e) => {
            let e = CommandError::from(e);
            for q in asked {
                let _ = q.reply.send(Answer::Failed(e.clone()));
            }
        }
    }
}
