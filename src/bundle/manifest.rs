//! The manifest: what a bundle is, and the id that names its content.

use crate::canon;
use crate::verdict::ValidatorId;
use domain::{ContentId, Digest, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The only layout there is so far.
pub const SCHEMA_VERSION: &str = "1";

/// Where the config came from, as recorded at first compilation.
pub use domain::bundle::Source as SourceRef;

/// Which proxies understand the config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compat {
    pub sentinel_min_version: String,
}

/// `manifest.json`. Its canonical bytes are what is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema_version: String,
    pub bundle_id: ContentId,
    pub created_at: Timestamp,
    pub project_id: ProjectId,
    pub source: SourceRef,
    /// `sha256:<hex>` of every payload file, by path.
    pub payload_hashes: BTreeMap<String, String>,
    pub compat: Compat,
    pub validator: ValidatorId,
}

impl Manifest {
    /// Fills in the id from everything else.
    pub(crate) fn new(
        project_id: ProjectId,
        created_at: Timestamp,
        source: SourceRef,
        payload_hashes: BTreeMap<String, String>,
        validator: ValidatorId,
        sentinel_min_version: String,
    ) -> Result<Manifest, serde_json::Error> {
        let mut m = Manifest {
            schema_version: SCHEMA_VERSION.into(),
            bundle_id: Digest::ZERO,
            created_at,
            project_id,
            source,
            payload_hashes,
            compat: Compat { sentinel_min_version },
            validator,
        };
        m.bundle_id = content_id(&m)?;
        Ok(m)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        canon::to_vec(self)
    }
}

/// SHA-256 of the canonical manifest without `bundle_id`, `created_at` and `source`: it names the content.
pub fn content_id(manifest: &Manifest) -> Result<ContentId, serde_json::Error> {
    content_id_of(serde_json::to_value(manifest)?)
}

/// The same from JSON, so that fields of a later release, unknown here, still count.
pub fn content_id_of(mut manifest: Value) -> Result<ContentId, serde_json::Error> {
    if let Some(o) = manifest.as_object_mut() {
        for key in ["bundle_id", "created_at", "source"] {
            o.remove(key);
        }
    }
    Ok(Digest::of(&canon::to_vec(&manifest)?))
}
