//! A trust document signed by the root: what is accepted is one version on, and usable.
#![no_main]

use bundle::Role;
use domain::{Digest, NodeId, ProjectId};
use bundle::verify::NodeTrust;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let envelope = fuzz::signed(data, Role::Root);
    let node = fuzz::node();
    if let Ok(doc) = node.rotate(&envelope) {
        assert_eq!(doc.version, 2);
        assert_eq!(doc.problem(), None);
    }
    let root = Digest::parse(&fuzz::key(Role::Root).key_id()).expect("a key id");
    if let Ok(pinned) = NodeTrust::pin(root, &[envelope], NodeId::NIL, ProjectId::NIL, fuzz::NOW) {
        assert_eq!(pinned.trust.problem(), None);
    }
    // The envelope itself comes from outside too.
    if let Ok(envelope) = serde_json::from_slice(data) {
        let _ = node.rotate(&envelope);
    }
});
