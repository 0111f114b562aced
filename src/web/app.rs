//! What every handler can reach: the control plane, the settings of the front door, limits and metrics.
//!
//! Owns: limits, metrics, names of bundles. Rebuilt from: nothing, all of it may be lost.

use crate::limit::{Buckets, MAX_NODE_BUCKETS, SignIns};
use crate::metrics::HttpMetrics;
use crate::names::Names;
use crate::routes;
use actors::ControlPlane;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

pub struct Inner {
    pub plane: ControlPlane,
    pub settings: Settings,
    /// Operators' calls, by key or user.
    pub limits: Buckets<Uuid>,
    /// Nodes' calls, by node.
    pub nodes: Buckets<Uuid>,
    /// Calls without a credential, by address.
    pub anonymous: Buckets<IpAddr>,
    pub sign_ins: SignIns,
    pub metrics: HttpMetrics,
    pub names: Names,
    draining: watch::Receiver<bool>,
}

/// What of [`crate::WebConfig`] the handlers need.
#[derive(Clone, Debug)]
pub struct Settings {
    pub https: bool,
    pub max_body_bytes: usize,
    pub rate_limit_per_key: u32,
    pub rate_limit_per_node: u32,
    pub rate_limit_per_address: u32,
    /// There is an authority for clients: nodes come with a certificate.
    pub nodes_need_certificates: bool,
    /// `/metrics` is served here; else only on its own address.
    pub metrics_here: bool,
    pub metrics_token: Option<String>,
}

impl App {
    /// Errors: the registry has our metric already.
    pub fn new(plane: ControlPlane, settings: Settings, draining: watch::Receiver<bool>) -> prometheus::Result<App> {
        let metrics = HttpMetrics::new(plane.registry(), routes::table())?;
        Ok(App(Arc::new(Inner {
            limits: Buckets::new(settings.rate_limit_per_key),
            nodes: Buckets::keeping(settings.rate_limit_per_node, MAX_NODE_BUCKETS),
            anonymous: Buckets::new(settings.rate_limit_per_address),
            sign_ins: SignIns::default(),
            names: Names::default(),
            plane,
            settings,
            metrics,
            draining,
        })))
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Ends when the instance begins to shut down: what is held must be answered now.
    pub async fn drained(&self) {
        let mut draining = self.draining.clone();
        // An error means that the server is gone, which is as good a reason to stop waiting.
        let _ = draining.wait_for(|d| *d).await;
    }
}
