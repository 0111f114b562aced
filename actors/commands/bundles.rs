//! Desired configurations, compilation, and the life of a bundle.

use crate::command::*;
use crate::plane::ControlPlane;
use domain::bundle::{Bundle, DesiredConfig, Source};
use domain::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// Whether a compile made something or found it.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub bundle: Bundle,
    /// `false`: the same content existed before.
    pub created: bool,
}

impl ControlPlane {
    pub async fn submit_config(
        &self,
        _caller: &Caller,
        _project: ProjectId,
        _files: BTreeMap<String, String>,
        _source: Source,
    ) -> CommandResult<DesiredConfig> {
        todo!()
    }
    /// `desired`: `None` is the project's newest. Waits for the result up to `wait`; else answers `compiling`.
    pub async fn compile(
        &self,
        _caller: &Caller,
        _project: ProjectId,
        _desired: Option<DesiredConfigId>,
        _version: Option<String>,
        _wait: Duration,
    ) -> CommandResult<Compiled> {
        todo!()
    }
    /// Distribution stops at once. Answers how many nodes run it.
    pub async fn revoke_bundle(&self, _caller: &Caller, _project: ProjectId, _id: BundleId, _reason: Option<String>) -> CommandResult<(Done, u64)> {
        todo!()
    }
    pub async fn deprecate_bundle(&self, _caller: &Caller, _project: ProjectId, _id: BundleId) -> CommandResult<Done> {
        todo!()
    }
}
