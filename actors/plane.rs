//! The control plane as one handle: what `web`, the demo and the in-process fleet call.

use crate::bus::Bus;
use crate::command::CommandResult;
use crate::node_api::*;
use domain::*;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub struct ControlPlane {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: store::Store,
    pub(crate) bus: Bus,
}

impl ControlPlane {
    /// Reads only: every write goes through a command or a node call.
    pub fn store(&self) -> &store::Store {
        &self.inner.store
    }
    pub fn bus(&self) -> &Bus {
        &self.inner.bus
    }
    /// The one clock.
    pub fn now(&self) -> Timestamp {
        todo!()
    }
    /// A fresh UUIDv7 for a request.
    pub fn request_id(&self) -> RequestId {
        todo!()
    }

    /// By the SHA-256 of the node key. `None`: unknown or revoked. From memory when known.
    pub async fn node_auth(&self, _key_hash: &Digest) -> CommandResult<Option<NodeAuth>> {
        todo!()
    }
    pub async fn heartbeat(&self, _auth: NodeAuth, _beat: Heartbeat) -> CommandResult<HeartbeatAnswer> {
        todo!()
    }
    /// `wait`: how long to hold the poll when there is nothing new (at most 60 s).
    pub async fn poll(&self, _auth: NodeAuth, _wait: Duration) -> CommandResult<PollAnswer> {
        todo!()
    }
    pub async fn report(&self, _auth: NodeAuth, _bundle: BundleRef, _kind: ReportKind, _body: ReportBody) -> CommandResult<ReportAnswer> {
        todo!()
    }
}
