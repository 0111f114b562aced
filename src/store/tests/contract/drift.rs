use domain::bundle::BundleStatus;
use domain::node::drift::{Compared, Drift, Resolution, Severity};
use domain::node::{HistoryOutcome, Presence, Standing};
use domain::rollout::{Change, RolloutKind};
use domain::{BundleId, NodeId, RolloutId, Scope, Span, Timestamp, UserId};
use store::testing::{self, seed};
use store::{AuditFilter, ChangeCursor, ChangeKind, DriftFilter, Error, NodeChange, Page, Store, Write};

const SYSTEM: Scope = Scope::System("test");
/// Later than every row of the test.
fn later() -> Timestamp {
    seed::now() + Span::secs(3_600)
}

/// A node that was told `desired`, heard of it, and runs `active`.
async fn node_running(
    s: &Store,
    w: &seed::World,
    name: &str,
    desired: Option<BundleId>,
    active: Option<BundleId>,
) -> NodeId {
    let mut n = seed::node(&w.project, name);
    (n.generation, n.handed_over, n.desired_bundle, n.active_bundle) = (3, 3, desired, active);
    s.register_node(None, n.clone(), seed::write()).await.unwrap();
    n.id
}

fn drift(w: &seed::World, c: &Compared) -> Drift {
    Drift {
        id: seed::id(),
        project: w.project.id,
        node: c.node,
        expected: c.expected,
        found: c.found,
        severity: c.severity(),
        detected_at: seed::now(),
        resolved_at: None,
        resolved_by: None,
        resolution: None,
    }
}

/// The first commit of a rollout.
async fn commit(s: &Store, w: &seed::World, id: RolloutId, changes: Vec<Change>) {
    let commit = seed::commit(w.project.id, id, (0, 0), changes);
    s.commit_rollout(commit, seed::write()).await.unwrap();
}

/// As an ended rollout leaves it: the node was told `bundle`, and it failed there.
async fn failed_on(s: &Store, w: &seed::World, node: NodeId, bundle: BundleId) {
    let r = seed::new_rollout(w);
    let id = r.planned.id;
    s.insert_rollout(r, seed::write()).await.unwrap();
    let mut head = seed::head(domain::rollout::Phase::Failed);
    head.version = 1;
    let ended = Change::HistoryEnded { node, bundle, generation: 2, how: HistoryOutcome::Failed, detail: None };
    commit(s, w, id, vec![Change::Head { head }, ended]).await;
}

#[tokio::test]
async fn idle_nodes_that_run_something_else_are_found_and_no_others() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let (told, other) = (Some(w.bundle.id), Some(seed::compiled_bundle(&s, w.project.id, None).await.id));
        node_running(&s, &w, "right", told, told).await;
        let differs = node_running(&s, &w, "differs", told, other).await;
        let bare = node_running(&s, &w, "bare", told, None).await;
        let failed = node_running(&s, &w, "failed", told, other).await;
        failed_on(&s, &w, failed, other.unwrap()).await;
        let away = node_running(&s, &w, "away", told, other).await;
        s.set_presence_offline(vec![away], later(), seed::write()).await.unwrap();
        let revoked = node_running(&s, &w, "revoked", told, other).await;
        s.revoke_node(SYSTEM, revoked, seed::write()).await.unwrap();
        let owed = node_running(&s, &w, "owed", told, other).await;
        let held = node_running(&s, &w, "held", told, other).await;
        hold(&s, &w, held, owed).await;

        let found = s.drifting(later(), 10).await.unwrap();
        let nodes: Vec<NodeId> = found.iter().map(|(_, c)| c.node).collect();
        assert_eq!(nodes, [differs, bare, failed]);
        assert!(found.iter().all(|(p, c)| *p == w.project.id && c.expected == told));
        let said: Vec<_> = found.iter().map(|(_, c)| (c.found, c.found_status, c.found_failed)).collect();
        let compiled = Some(BundleStatus::Compiled);
        assert_eq!(said, [(other, compiled, false), (None, None, false), (other, compiled, true)]);
        assert_eq!(s.drifting(later(), 1).await.unwrap().len(), 1);
        assert_eq!(s.drifting(seed::now() - Span::secs(1), 10).await.unwrap(), [], "they have changed since");
    })
    .await;
}

/// As a command leaves it that pins a node and dies.
async fn pinned(s: &Store, w: &seed::World, name: &str, to: BundleId, told: Option<BundleId>) -> NodeId {
    let node = node_running(s, w, name, told, told).await;
    let pin = store::NodePatch { pinned_bundle: Some(Some(to)), ..Default::default() };
    s.patch_node(SYSTEM, node, pin, seed::write()).await.unwrap();
    node
}

/// A rollout that names the node, made `at`.
async fn named(s: &Store, w: &seed::World, node: NodeId, kind: RolloutKind, at: Timestamp) -> RolloutId {
    let mut r = seed::new_rollout(w);
    r.planned = seed::planned(w.project.id, w.bundle.id, &[node]);
    r.planned.spec.kind = kind;
    let id = r.planned.id;
    s.insert_rollout(r, Write::at(at)).await.unwrap();
    id
}

#[tokio::test]
async fn pins_that_no_rollout_was_made_for_are_found_and_no_others() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let pin = w.bundle.id;
        let other = Some(seed::compiled_bundle(&s, w.project.id, None).await.id);
        let lost = pinned(&s, &w, "lost", pin, other).await;
        let bare = pinned(&s, &w, "bare", pin, None).await;
        pinned(&s, &w, "told", pin, Some(pin)).await;
        node_running(&s, &w, "free", other, other).await;
        let held = pinned(&s, &w, "held", pin, other).await;
        let owed = node_running(&s, &w, "owed", other, other).await;
        hold(&s, &w, held, owed).await;
        let gone = pinned(&s, &w, "gone", pin, other).await;
        s.revoke_node(SYSTEM, gone, seed::write()).await.unwrap();
        let bad = seed::compiled_bundle(&s, w.project.id, None).await.id;
        pinned(&s, &w, "to what is revoked", bad, other).await;
        s.revoke_bundle(SYSTEM, bad, None, seed::write()).await.unwrap();
        // A rollout of its own was made, whatever became of it; another one of the same bundle is not the pin's.
        let tried = pinned(&s, &w, "tried", pin, other).await;
        named(&s, &w, tried, RolloutKind::Pin, seed::now()).await;
        let ordinary = pinned(&s, &w, "ordinary", pin, other).await;
        named(&s, &w, ordinary, RolloutKind::Rollout, seed::now()).await;
        // Pinned to it once before, given something else since, and pinned again.
        let mut again = seed::node(&w.project, "again");
        let given = named(&s, &w, again.id, RolloutKind::Rollout, later()).await;
        (again.generation, again.desired_bundle, again.desired_rollout) = (2, other, Some(given));
        again.pinned_bundle = Some(pin);
        s.register_node(None, again.clone(), seed::write()).await.unwrap();
        named(&s, &w, again.id, RolloutKind::Pin, seed::now()).await;

        let found = s.unfollowed_pins(later(), 10).await.unwrap();
        assert_eq!(found.iter().map(|p| p.node).collect::<Vec<_>>(), [lost, bare, ordinary, again.id]);
        assert!(found.iter().all(|p| (p.project, p.org, p.bundle) == (w.project.id, w.org.id, pin)));
        assert_eq!((found[0].generation, found[3].generation), (3, 2));
        assert_eq!(s.unfollowed_pins(later(), 1).await.unwrap().len(), 1);
        let before = seed::now() - Span::secs(1);
        assert_eq!(s.unfollowed_pins(before, 10).await.unwrap(), [], "they have been pinned since");
    })
    .await;
}

/// `held` is claimed by a rollout that runs, and `owed` by a debt of it.
async fn hold(s: &Store, w: &seed::World, held: NodeId, owed: NodeId) {
    let mut r = seed::new_rollout(w);
    r.planned = seed::planned(w.project.id, w.bundle.id, &[held]);
    let id = r.planned.id;
    s.insert_rollout(r, seed::write()).await.unwrap();
    let mut head = seed::head(domain::rollout::Phase::Running);
    head.version = 1;
    let debt = Change::DebtAdded { node: owed, restore: false, bundle: Some(w.bundle.id) };
    commit(s, w, id, vec![Change::Head { head }, Change::Claim { node: held }, debt]).await;
}

#[tokio::test]
async fn a_node_has_one_open_drift_until_it_is_resolved_or_ends() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let (told, other) = (Some(w.bundle.id), Some(seed::compiled_bundle(&s, w.project.id, None).await.id));
        let a = node_running(&s, &w, "a", told, other).await;
        let b = node_running(&s, &w, "b", told, other).await;
        let found: Vec<Drift> = s.drifting(later(), 9).await.unwrap().iter().map(|(_, c)| drift(&w, c)).collect();
        assert_eq!(s.put_drifts(found.clone(), seed::write()).await.unwrap(), 2);
        let again: Vec<Drift> = found.iter().map(|d| Drift { id: seed::id(), ..d.clone() }).collect();
        assert_eq!(s.put_drifts(again, seed::write()).await.unwrap(), 0, "it is open already");
        assert_eq!(s.drifting(later(), 9).await.unwrap(), []);
        let open = DriftFilter { open: Some(true), node: None };
        let page = s.drifts(w.project.id, open, Page::first(1)).await.unwrap();
        assert_eq!((page.total, &page.rows), (2, &vec![found[1].clone()]), "newest first");
        let cursor = page.next_cursor;
        assert!(cursor.is_some());
        let rest = s.drifts(w.project.id, open, Page { limit: 9, cursor }).await.unwrap();
        assert_eq!((rest.rows, rest.next_cursor), (vec![found[0].clone()], None));
        assert_eq!(s.drift_stats(w.project.id).await.unwrap(), (vec![(Severity::Medium, 2)], 0));

        let by: Option<UserId> = Some(seed::id());
        let resolve = |id| s.resolve_drift(w.project.id, id, Resolution::Acknowledged, by, seed::write());
        assert!(resolve(found[0].id).await.unwrap());
        assert!(!resolve(found[0].id).await.unwrap(), "once");
        assert_eq!(resolve(seed::id()).await, Err(Error::NotFound));
        let done = s.drift(w.project.id, found[0].id).await.unwrap();
        assert_eq!(
            (done.resolved_at, done.resolved_by, done.resolution),
            (Some(seed::now()), by, Some(Resolution::Acknowledged))
        );
        assert_eq!(s.drift(seed::id(), found[0].id).await, Err(Error::NotFound), "another project's");
        assert_eq!(s.drift_stats(w.project.id).await.unwrap(), (vec![(Severity::Medium, 1)], 1));
        let of_a = DriftFilter { open: Some(false), node: Some(a) };
        assert_eq!(s.drifts(w.project.id, of_a, Page::first(9)).await.unwrap().total, 1);
        let repairable = async || {
            let all = s.repairable_drifts(w.project.id, 9).await.unwrap();
            all.iter().map(|d| d.node).collect::<Vec<_>>()
        };
        assert_eq!((repairable().await, s.drifting_projects().await.unwrap()), (vec![b], vec![w.project.id]));
        // It still differs: after the resolution it is a new one.
        assert_eq!(s.drifting(later(), 9).await.unwrap().iter().map(|(_, c)| c.node).collect::<Vec<_>>(), [a]);

        let newer: Vec<Drift> = s.drifting(later(), 9).await.unwrap().iter().map(|(_, c)| drift(&w, c)).collect();
        s.put_drifts(newer.clone(), seed::write()).await.unwrap();
        assert_eq!(repairable().await, [b, a], "what a person has seen may be repaired");
        s.resolve_drift(w.project.id, newer[0].id, Resolution::Reassigned, None, seed::write()).await.unwrap();
        let newest: Vec<Drift> = s.drifting(later(), 9).await.unwrap().iter().map(|(_, c)| drift(&w, c)).collect();
        s.put_drifts(newest, seed::write()).await.unwrap();
        assert_eq!(repairable().await, [b], "what was repaired without asking is not repaired so again");
        assert_eq!(s.drift_ended(9).await.unwrap(), []);
        let mut right = NodeChange::of(b, w.project.id);
        right.active_bundle = Some(told);
        s.observe(vec![right], seed::write()).await.unwrap();
        assert_eq!(s.drift_ended(9).await.unwrap(), [(found[1].clone(), Resolution::Converged)]);
        s.delete_node(SYSTEM, b, seed::write()).await.unwrap();
        assert_eq!(s.drift_ended(9).await.unwrap(), [(found[1].clone(), Resolution::Gone)]);
    })
    .await;
}

#[tokio::test]
async fn an_enrolled_node_has_not_drifted() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let n = s.node(SYSTEM, w.nodes[0].id).await.unwrap();
        assert_eq!((n.standing, n.presence, n.generation), (Standing::Adopted, Presence::Online, 0));
        assert_eq!(s.drifting(later(), 9).await.unwrap(), [], "nothing was ever assigned");
    })
    .await;
}

/// As a sweep stores what it found: each drift with an entry of its own.
fn swept(drifts: &[Drift]) -> Write {
    drifts.iter().fold(seed::write(), |w, d| {
        let (id, entry) = seed::entry(Some(d.project), "drift.detected");
        w.audit(id, domain::audit::NewEntry { resource_id: Some(d.id), ..entry })
    })
}

#[tokio::test]
async fn of_sweeps_that_find_the_same_at_once_one_tells_of_it() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let (told, other) = (Some(w.bundle.id), Some(seed::compiled_bundle(&s, w.project.id, None).await.id));
        for name in ["a", "b", "c"] {
            node_running(&s, &w, name, told, other).await;
        }
        let found = s.drifting(later(), 9).await.unwrap();
        // What one sweep has seen, and what a later one sees besides.
        let early: Vec<Drift> = found[..1].iter().map(|(_, c)| drift(&w, c)).collect();
        assert_eq!(s.put_drifts(early.clone(), swept(&early)).await.unwrap(), 1);
        let stored = futures_util::future::join_all((0..8).map(|_| {
            let (s, mine) = (s.store.clone(), found.iter().map(|(_, c)| drift(&w, c)).collect::<Vec<_>>());
            async move {
                let write = swept(&mine);
                s.put_drifts(mine, write).await.unwrap()
            }
        }))
        .await;
        assert_eq!(stored.iter().sum::<u64>(), 2, "{stored:?}");

        let rows = s.drifts(w.project.id, DriftFilter::default(), Page::first(9)).await.unwrap().rows;
        let mut rows: Vec<_> = rows.iter().map(|d| d.id).collect();
        rows.sort_unstable();
        let detected = AuditFilter { action: Some("drift.detected".into()), ..AuditFilter::default() };
        let entries = s.audit_entries(Scope::Project(w.project.id), detected, Page::first(99)).await.unwrap().rows;
        let mut told_of: Vec<_> = entries.iter().filter_map(|e| e.resource_id).collect();
        told_of.sort_unstable();
        assert_eq!((rows.len(), &told_of), (3, &rows), "each row has one entry, and no entry is without its row");
        let changes = s.changes_after(ChangeCursor::default(), 999).await.unwrap();
        let mut rang: Vec<_> = changes.iter().filter(|c| c.kind == ChangeKind::Drift).map(|c| c.id).collect();
        rang.sort_unstable();
        assert_eq!(rang, rows);
    })
    .await;
}
