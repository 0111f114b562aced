//! The node API as the simulator reads it: what a poll answer orders, and why a call brought nothing.

use api::node::PollAnswer;
use domain::{ContentId, Digest, RolloutId, Span};

/// What a poll answer tells the node to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Order {
    /// `None`: back to the baseline, and then there is nothing to download.
    pub bundle: Option<ContentId>,
    pub rollout: Option<RolloutId>,
    pub version: Option<String>,
    pub generation: u64,
    pub artifact_url: Option<String>,
    pub artifact_hash: Option<Digest>,
    pub size_bytes: u64,
    pub traffic_weight: Option<u8>,
    /// The signed envelope, as it came.
    pub assignment: Option<serde_json::Value>,
}

impl Order {
    /// `None`: no update. Accepts the older names beside the newer ones.
    ///
    /// Errors: `Malformed` when an update names no generation, or its bundle or hash is no SHA-256.
    pub fn read(answer: PollAnswer) -> Result<Option<Order>, CallError> {
        if answer.no_update {
            return Ok(None);
        }
        let digest = |what: &str, s: Option<String>| match s {
            None => Ok(None),
            Some(s) => Digest::parse(&s)
                .map(Some)
                .ok_or_else(|| CallError::Malformed(format!("{what} {s:?} is not a SHA-256 in hex"))),
        };
        let generation = answer.generation.filter(|&g| g > 0);
        // 0 is "nothing was ever assigned": it names no order.
        let generation = generation.ok_or_else(|| CallError::Malformed("an update without generation".into()))?;
        let bundle = answer.bundle_id.ok_or_else(|| CallError::Malformed("an update without bundle_id".into()))?;
        Ok(Some(Order {
            bundle: digest("bundle_id", bundle)?,
            rollout: answer.rollout_id,
            version: answer.version,
            generation,
            artifact_url: answer.artifact_url.or(answer.download_url),
            artifact_hash: digest("artifact_hash", answer.artifact_hash.or(answer.checksum))?,
            size_bytes: answer.size_bytes.unwrap_or(0),
            traffic_weight: answer.traffic_weight,
            assignment: answer.assignment,
        }))
    }
}

/// The five report calls; the name is the last part of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Downloaded,
    Staged,
    Activated,
    Verified,
    Failed,
}

impl Report {
    pub fn path(self) -> &'static str {
        match self {
            Report::Downloaded => "downloaded",
            Report::Staged => "staged",
            Report::Activated => "activated",
            Report::Verified => "verified",
            Report::Failed => "failed",
        }
    }
}

/// Why a call brought no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("no answer in time")]
    Timeout,
    /// Nothing listens, or the connection broke.
    #[error("connection: {0}")]
    Connection(String),
    #[error("HTTP {code}: {error}")]
    Status { code: u16, retry_after: Option<Span>, error: String },
    /// The answer is not what the contract says.
    #[error("answer not understood: {0}")]
    Malformed(String),
}

impl CallError {
    /// An answer with `code`, for transports that have no HTTP under them.
    pub fn status(code: u16, error: impl Into<String>) -> CallError {
        CallError::Status { code, retry_after: None, error: error.into() }
    }

    /// A refusal that no repetition changes: 4xx other than 408, 425 and 429.
    pub fn is_final(&self) -> bool {
        match self {
            CallError::Status { code, .. } => (400..500).contains(code) && !matches!(code, 408 | 425 | 429),
            CallError::Timeout | CallError::Connection(_) | CallError::Malformed(_) => false,
        }
    }

    /// The credential is void: the node was revoked, deleted or replaced.
    pub fn is_dismissal(&self) -> bool {
        matches!(self, CallError::Status { code: 401 | 403, .. })
    }

    pub fn retry_after(&self) -> Option<Span> {
        match self {
            CallError::Status { retry_after, .. } => *retry_after,
            CallError::Timeout | CallError::Connection(_) | CallError::Malformed(_) => None,
        }
    }

    /// A short name to count by.
    pub fn label(&self) -> String {
        match self {
            CallError::Timeout => "timeout".into(),
            CallError::Connection(_) => "connection".into(),
            CallError::Status { code, .. } => code.to_string(),
            CallError::Malformed(_) => "malformed".into(),
        }
    }
}

/// A bundle as the node names it.
pub fn bundle_name(bundle: Option<ContentId>) -> String {
    bundle.map_or_else(|| "baseline".to_owned(), |d| d.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Option<Order>, CallError> {
        Order::read(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_poll_answer_is_read_in_both_spellings() {
        let h = "ab".repeat(32);
        for (url, key, hash) in
            [("artifact_url", "artifact_hash", format!("sha256:{h}")), ("download_url", "checksum", h.clone())]
        {
            let text = format!(
                r#"{{"bundle_id":"{h}","generation":3,"{url}":"http://x/y","{key}":"{hash}","poll_after_s":1}}"#
            );
            let order = read(&text).unwrap().unwrap();
            assert_eq!(order.artifact_url.as_deref(), Some("http://x/y"));
            assert_eq!(order.artifact_hash, Digest::parse(&h));
        }
    }

    #[test]
    fn null_is_the_baseline_and_no_update_is_nothing() {
        assert_eq!(read(r#"{"bundle_id":null,"generation":4}"#).unwrap().unwrap().bundle, None);
        assert_eq!(read(r#"{"no_update":true,"poll_after_s":15}"#), Ok(None));
    }

    #[test]
    fn an_update_without_bundle_or_generation_is_malformed() {
        for text in [
            r#"{"bundle_id":null}"#,
            r#"{"generation":1}"#,
            r#"{"bundle_id":null,"generation":0}"#,
            r#"{"bundle_id":"x","generation":1}"#,
        ] {
            assert!(matches!(read(text), Err(CallError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn only_refusals_that_cannot_change_are_final() {
        for (code, want) in [(400, true), (404, true), (409, true), (408, false), (429, false), (503, false)] {
            assert_eq!(CallError::status(code, "").is_final(), want, "{code}");
        }
        assert!(!CallError::Timeout.is_final());
    }
}
