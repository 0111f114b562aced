//! What the targets share: a node that trusts three known keys, and one good bundle to begin from.

use bundle::archive::{BuildInputs, Rendered, render};
use bundle::keys::{KeyPair, Role};
use bundle::trust::{Envelope, RoleKeys, Roles, TrustDoc};
use bundle::verify::NodeTrust;
use bundle::{Sources, samples, validate_in_process};
use domain::{Digest, NodeId, ProjectId, Span, Timestamp};
use std::collections::BTreeMap;
use std::sync::LazyLock;

pub const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

pub fn key(role: Role) -> KeyPair {
    let n = match role {
        Role::Root => 1,
        Role::Bundle => 2,
        Role::Metadata => 3,
    };
    KeyPair::from_secret(role, &[n; 32])
}

pub fn bundle_keys() -> RoleKeys {
    RoleKeys::one(key(Role::Bundle).public())
}

pub fn trust_doc() -> TrustDoc {
    let one = |role| RoleKeys::one(key(role).public());
    let roles = Roles { root: one(Role::Root), bundle: one(Role::Bundle), metadata: one(Role::Metadata) };
    TrustDoc::new(1, NOW + Span::secs(90 * 24 * 3600), roles, vec![])
}

pub fn node() -> NodeTrust {
    let root = key(Role::Root);
    let pinned = Digest::parse(&root.key_id()).expect("a key id");
    let document = Envelope::sign(&trust_doc(), &[&root]).expect("JSON");
    NodeTrust::pin(pinned, &[document], NodeId::NIL, ProjectId::NIL, NOW).expect("a good document")
}

/// A bundle of the demo's configuration.
pub static GOOD: LazyLock<Rendered> = LazyLock::new(|| {
    let sources = Sources::single(samples::DEMO_V1);
    let verdict = validate_in_process(&sources);
    let (source, extra) = (Default::default(), BTreeMap::new());
    let inputs = BuildInputs {
        project: ProjectId::NIL,
        created_at: NOW,
        source: &source,
        sources: &sources,
        verdict: &verdict,
        extra: &extra,
    };
    render(inputs).expect("the demo is valid")
});

/// An envelope whose signature holds, whatever is in it.
pub fn signed(payload: &[u8], role: Role) -> Envelope {
    Envelope::unsigned(payload).also_signed_by(&key(role)).expect("base64 of our own")
}
