//! Broadcast of what changed: `{kind, id, version, project}` and nothing else. A receiver that lags must fetch everything again.

use domain::ProjectId;
use tokio::sync::broadcast;

/// How many notices a slow receiver may be behind before it lags.
pub const BUS_CAPACITY: usize = 4_096;

/// Something has a new version. `kind` is a noun: `rollout`, `node`, `bundle`, `project`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Position in the change feed, for `Last-Event-ID`; 0 when it is not a stored change.
    pub seq: i64,
    pub kind: &'static str,
    pub id: uuid::Uuid,
    pub version: u64,
    pub project: Option<ProjectId>,
}

#[derive(Clone, Debug)]
pub struct Bus {
    sender: broadcast::Sender<Notice>,
}

impl Default for Bus {
    fn default() -> Self {
        Bus { sender: broadcast::channel(BUS_CAPACITY).0 }
    }
}

impl Bus {
    /// Nobody listening is fine.
    pub fn publish(&self, notice: Notice) {
        let _ = self.sender.send(notice);
    }
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.sender.subscribe()
    }
}
