//! Bundles as the control plane keeps them: the row beside the archive.

use crate::access::text_enum;
use crate::id::*;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

text_enum! {
    /// Where a bundle is in its life. Only `compiled` can be rolled out.
    BundleStatus {
        Compiling = "compiling", AwaitingSignature = "awaiting_signature", Compiled = "compiled",
        Failed = "failed", Deprecated = "deprecated", Revoked = "revoked",
    }
}

text_enum! { RiskLevel { Low = "low", Medium = "medium", High = "high" } }

/// Where the configuration came from, as recorded at first compilation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl Default for Source {
    fn default() -> Self {
        Source { kind: "api".into(), reference: None }
    }
}

/// A message of the validator, or of our own guards, about a place in a submitted file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

/// What the operator submitted, before compilation. Kept so that a compile can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredConfig {
    pub id: DesiredConfigId,
    pub project: ProjectId,
    pub source: Source,
    /// Path to text; `config.kdl` is the entry.
    pub files: std::collections::BTreeMap<String, String>,
    /// SHA-256 over the canonical files: what deduplicates compile jobs.
    pub input_hash: Digest,
    pub inserted_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    pub id: BundleId,
    pub project: ProjectId,
    pub version: Option<String>,
    pub status: BundleStatus,
    pub desired_config: Option<DesiredConfigId>,
    /// Known once rendered; unique in the project.
    pub content_id: Option<ContentId>,
    pub artifact_hash: Option<Digest>,
    pub size_bytes: Option<u64>,
    pub manifest: Option<serde_json::Value>,
    /// The normalised configuration, for diff, risk and preview.
    pub config: Option<serde_json::Value>,
    /// base64, over the bytes of manifest.json.
    pub signature: Option<String>,
    pub key_id: Option<String>,
    pub builder: String,
    pub source: Source,
    /// The project's resources as they were when the compile was asked for: path to content.
    pub resources: std::collections::BTreeMap<String, Digest>,
    pub risk: RiskLevel,
    pub risk_reasons: Vec<String>,
    pub warnings: Vec<Diagnostic>,
    /// Why a failed one failed.
    pub errors: Vec<Diagnostic>,
    /// What the manifest records, fixed at first compilation.
    pub created_at: Timestamp,
    pub created_by: Option<UserId>,
    pub revoked_reason: Option<String>,
    pub updated_at: Timestamp,
}

/// The storage key of a bundle's archive.
pub fn storage_key(project: ProjectId, content: &ContentId) -> String {
    format!("bundles/{project}/{content}.tar.zst")
}

/// Is `have` a proxy of an older version than `least`? The language changes between patch releases. What cannot be read is left to
/// the node's own judgement.
pub fn is_older(have: &str, least: &str) -> bool {
    let numbers = |v: &str| -> Option<Vec<u64>> {
        let plain = v.trim().trim_start_matches('v').split(['-', '+']).next().unwrap_or_default().to_string();
        plain.split('.').map(|n| n.parse().ok()).collect()
    };
    matches!((numbers(have), numbers(least)), (Some(have), Some(least)) if have < least)
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(is_older("0.6.9", "0.6.45") && is_older("v0.5", "0.6.45") && is_older("0.6.44-rc1", "0.6.45"));
        assert!(!is_older("0.6.45", "0.6.45") && !is_older("0.7.0", "0.6.45") && !is_older("sim", "0.6.45"));
    }
}
