//! An assignment signed by the metadata key, and a release statement signed by the bundle key.
#![no_main]

use bundle::Role;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut node = fuzz::node();
    let envelope = fuzz::signed(data, Role::Metadata);
    if let Ok(accepted) = node.accept_assignment(&envelope, fuzz::NOW) {
        let a = accepted.assignment.clone();
        assert_eq!((a.node_id, a.project_id), (node.node_id, node.project_id));
        node.commit(&accepted);
        // The same again is a repetition, and nothing older follows.
        assert!(node.accept_assignment(&envelope, fuzz::NOW).expect("accepted before").repeated);
        if let Ok(state) = node.accept_release(&fuzz::signed(data, Role::Bundle), &a, fuzz::NOW) {
            assert!(a.bundle_id.is_some_and(|id| state.allows(&id).is_ok()));
        }
    }
    let any = bundle::trust::Assignment { bundle_id: Some(fuzz::GOOD.content_id), ..assignment() };
    let _ = node.accept_release(&fuzz::signed(data, Role::Bundle), &any, fuzz::NOW);
});

fn assignment() -> bundle::trust::Assignment {
    bundle::trust::Assignment {
        kind: bundle::trust::ASSIGNMENT_TYPE.into(),
        node_id: domain::NodeId::NIL,
        project_id: domain::ProjectId::NIL,
        bundle_id: None,
        artifact_hash: None,
        size_bytes: 0,
        rollout_id: None,
        generation: 1,
        traffic_weight: 100,
        issued_at: fuzz::NOW,
        expires_at: fuzz::NOW,
        audit_head: None,
    }
}
