//! Projects and enrolment tokens.

use crate::command::*;
use crate::plane::ControlPlane;
use domain::node::Labels;
use domain::project::{Project, Settings};
use domain::*;

#[derive(Clone, Debug, Default)]
pub struct NewProject {
    pub name: String,
    pub slug: Option<String>,
    pub description: String,
    pub settings: Settings,
    /// `None`: the caller's only (or first) organisation.
    pub org: Option<OrgId>,
}

#[derive(Clone, Debug, Default)]
pub struct ProjectPatch {
    pub name: Option<String>,
    pub description: Option<String>,
    /// Merged over the present settings; checked field by field.
    pub settings: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Default)]
pub struct NewEnrolmentToken {
    pub name: String,
    pub max_uses: Option<u32>,
    pub expires_at: Option<Timestamp>,
    pub labels: Labels,
    /// Default `["*"]`: any.
    pub allowed_label_keys: Option<Vec<String>>,
    pub allow_replace: bool,
}

#[derive(Clone, Debug)]
pub struct EnrolmentToken {
    pub id: EnrolmentTokenId,
    pub project: ProjectId,
    pub name: String,
    pub max_uses: Option<u32>,
    pub uses: u32,
    pub expires_at: Option<Timestamp>,
    pub labels: Labels,
    pub allowed_label_keys: Vec<String>,
    pub allow_replace: bool,
    pub inserted_at: Timestamp,
}

impl ControlPlane {
    pub async fn create_project(&self, _caller: &Caller, _new: NewProject) -> CommandResult<Project> {
        todo!()
    }
    pub async fn update_project(&self, _caller: &Caller, _id: ProjectId, _patch: ProjectPatch) -> CommandResult<Project> {
        todo!()
    }
    /// Soft: refused (409 `project_in_use`) while a rollout is active.
    pub async fn delete_project(&self, _caller: &Caller, _id: ProjectId) -> CommandResult<()> {
        todo!()
    }
    /// The token's text is answered once.
    pub async fn create_enrolment_token(
        &self,
        _caller: &Caller,
        _project: ProjectId,
        _new: NewEnrolmentToken,
    ) -> CommandResult<(EnrolmentToken, String)> {
        todo!()
    }
    pub async fn list_enrolment_tokens(&self, _project: ProjectId) -> CommandResult<Vec<EnrolmentToken>> {
        todo!()
    }
    pub async fn delete_enrolment_token(&self, _caller: &Caller, _project: ProjectId, _id: EnrolmentTokenId) -> CommandResult<()> {
        todo!()
    }
}
