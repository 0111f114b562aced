use domain::node::{HistoryOutcome, Selector};
use domain::rollout::*;
use domain::{BundleId, Digest, NodeId, RolloutId, Scope, Span, Timestamp};
use std::collections::BTreeSet;
use store::testing::{self, seed};
use store::{BudgetMove, Error, MemberFilter, NodeChange, Page, RolloutCommit, RolloutFilter};

const SYSTEM: Scope = Scope::System("test");

fn commit(w: &seed::World, id: RolloutId, version: u64, changes: Vec<Change>) -> RolloutCommit {
    let mut head = seed::head(Phase::Running);
    head.version = version + 1;
    let mut all = vec![Change::Head { head }];
    all.extend(changes);
    seed::commit(w.project.id, id, (version, 0), all)
}

fn desire(node: NodeId, expect: u64, bundle: Option<BundleId>) -> Change {
    Change::Desire { node, expect, generation: expect + 1, bundle, weight: 100 }
}

async fn rollout(s: &store::Store, w: &seed::World) -> RolloutId {
    let r = seed::new_rollout(w);
    let id = r.planned.id;
    s.insert_rollout(r, seed::write()).await.unwrap();
    id
}

#[tokio::test]
async fn a_rollout_comes_back_as_it_was_stored_with_every_state_of_a_node() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let at = Timestamp(7);
        let b: BundleId = seed::id();
        let states = vec![
            NodeState::Pending,
            NodeState::Assigned,
            NodeState::Downloaded,
            NodeState::Staged,
            NodeState::Activated { at, soaks_until: Some(Span::secs(7)) },
            NodeState::Verified { at, no_traffic: true },
            NodeState::Failed { reason: FailReason::Flapping, at, error: Some("ä\"".into()) },
            NodeState::Owed,
            NodeState::Skipped { reason: SkipReason::IdentityConflict },
            NodeState::RollingBack { to: Some(b), activated: Some(at), owed: false },
            NodeState::RollingBack { to: None, activated: None, owed: true },
            NodeState::RolledBack { at },
            NodeState::RollbackFailed { at, error: None },
        ];
        let kinds: BTreeSet<_> = states.iter().map(NodeState::kind).collect();
        assert_eq!(kinds.len(), NodeStateKind::ALL.len(), "every kind is tried");
        let mut r = seed::new_rollout(&w);
        let p = &mut r.planned;
        p.spec.selector = Selector::Labels { labels: [("a".to_string(), "b".to_string())].into() };
        p.spec.ramp = Some(1.1);
        p.spec.judge.gates.max_error_rate = Some(0.1 + 0.2);
        p.head.causes = BTreeSet::from([PauseCause::Gate, PauseCause::Freeze]);
        p.head.silent_window = Some((at, 3));
        p.head.wake_at = Some(Timestamp(99));
        p.steps[0].error = Some("x".into());
        p.members = states
            .into_iter()
            .enumerate()
            .map(|(i, state)| {
                let i = i as u32;
                let mut m = seed::member(seed::id(), i);
                m.state = state;
                m.generation = (1 << 40) + u64::from(i);
                m.told = [Told::Nothing, Told::Target, Told::Back(Some(b)), Told::Back(None)][i as usize % 4];
                m.previous = vec![b; i as usize % 3];
                m.moved = Span::millis(i64::from(i));
                m.silent_since = i.is_multiple_of(2).then_some(at);
                (m.online, m.handed_over, m.accepted, m.first_config) =
                    (i.is_multiple_of(2), i.is_multiple_of(3), i.is_multiple_of(5), i.is_multiple_of(7));
                m
            })
            .collect();
        let mut lane = seed::member(seed::id(), 0);
        lane.step = None;
        p.members.push(lane);
        let planned = r.planned.clone();
        s.insert_rollout(r, seed::write()).await.unwrap();
        let loaded = s.load_rollout(planned.id).await.unwrap();
        assert_eq!(loaded.planned, planned);
        assert_eq!((loaded.version, loaded.fence, loaded.last_seq, loaded.owner), (0, 0, 0, None));
        for m in &planned.members {
            assert_eq!(&s.rollout_member(planned.id, m.node).await.unwrap(), m);
        }
        assert_eq!(s.rollout_steps(planned.id).await.unwrap(), planned.steps);
        assert_eq!(s.rollout_step_nodes(planned.id, Some(0)).await.unwrap().len(), 13);
        let summary = s.rollout(SYSTEM, planned.id).await.unwrap();
        assert_eq!((summary.spec, summary.head, summary.steps), (planned.spec, planned.head, 1));
        assert_eq!(summary.bundle.unwrap().id, w.bundle.id);
        let failed = MemberFilter { state: Some(NodeStateKind::Failed), step: Some(0) };
        let page = s.rollout_members(SYSTEM, planned.id, failed, Page::first(5)).await.unwrap();
        assert_eq!((page.total, page.rows[0].member.position), (1, 6));
        assert_eq!(s.due_rollouts(Timestamp(99), 5).await.unwrap(), vec![planned.id]);
        assert_eq!(s.due_rollouts(Timestamp(98), 5).await.unwrap(), vec![]);
    })
    .await;
}

/// Whoever decides under the lock of a rollout is never beaten to it; who commits on what was read before is.
#[tokio::test(flavor = "multi_thread")]
async fn rivals_that_decide_on_what_is_stored_are_all_heard() {
    const RIVALS: u64 = 6;
    const TIMES: u64 = 10;
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let (a, b, project) = (rollout(&s, &w).await, rollout(&s, &w).await, w.project.id);
        let decided = async |k: u64| {
            for _ in 0..TIMES {
                let decide = move |all: Vec<store::Loaded>| {
                    let moved = |now: store::Loaded| {
                        let head = Head { version: now.version + 1, ..now.planned.head };
                        let at = (now.version, now.fence);
                        (seed::commit(project, now.planned.id, at, vec![Change::Head { head }]), seed::write())
                    };
                    (all.into_iter().map(moved).collect(), ())
                };
                // Two at once, and in either order.
                let ids = if k.is_multiple_of(2) { vec![a, b] } else { vec![b, a] };
                s.decide_rollouts(ids, decide).await.unwrap();
            }
        };
        futures_util::future::join_all((0..RIVALS).map(decided)).await;
        for id in [a, b] {
            assert_eq!(s.load_rollout(id).await.unwrap().version, RIVALS * TIMES);
        }
        let (said, done) = s.decide_rollouts(vec![b, a], |now| (vec![], now[0].planned.id)).await.unwrap();
        assert_eq!((said, done), (b, store::Committed::default()), "in the order asked for; nothing to write");
        assert_eq!(s.load_rollout(a).await.unwrap().version, RIVALS * TIMES);
        assert_eq!(s.decide_rollouts(vec![a, seed::id()], |_| (vec![], ())).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn a_commit_on_another_version_or_fence_writes_nothing() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let id = rollout(&s, &w).await;
        let changes = vec![desire(w.nodes[0].id, 0, Some(w.bundle.id))];
        let mut fenced = commit(&w, id, 0, changes.clone());
        fenced.fence = 1;
        assert_eq!(s.commit_rollout(fenced, seed::write()).await, Err(Error::Conflict("rollout")));
        assert_eq!(
            s.commit_rollout(commit(&w, id, 3, changes.clone()), seed::write()).await,
            Err(Error::Conflict("rollout"))
        );
        assert_eq!(s.node(SYSTEM, w.nodes[0].id).await.unwrap().generation, 0);
        let results = futures_util::future::join_all((0..4).map(|_| {
            let (s, c) = (s.store.clone(), commit(&w, id, 0, changes.clone()));
            async move { s.commit_rollout(c, seed::write()).await }
        }))
        .await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
        assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::Conflict("rollout")))));
        assert_eq!(s.node(SYSTEM, w.nodes[0].id).await.unwrap().generation, 1);
    })
    .await;
}

#[tokio::test]
async fn a_generation_that_moved_on_undoes_the_whole_commit() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let id = rollout(&s, &w).await;
        let changes = vec![desire(w.nodes[0].id, 0, None), desire(w.nodes[1].id, 5, None)];
        let (audit_id, entry) = seed::entry(Some(w.project.id), "rollout.started");
        let result = s.commit_rollout(commit(&w, id, 0, changes), seed::write().audit(audit_id, entry)).await;
        assert_eq!(result, Err(Error::Conflict("generation")));
        assert_eq!(s.node(SYSTEM, w.nodes[0].id).await.unwrap().generation, 0);
        assert_eq!(s.load_rollout(id).await.unwrap().version, 0);
        assert_eq!(s.audit_head(Some(w.project.id)).await.unwrap().seq, 0);
        // Two in one commit: back, and forward again.
        let twice = vec![desire(w.nodes[0].id, 0, None), desire(w.nodes[0].id, 1, Some(w.bundle.id))];
        s.commit_rollout(commit(&w, id, 0, twice), seed::write()).await.unwrap();
        let n = s.node(SYSTEM, w.nodes[0].id).await.unwrap();
        assert_eq!((n.generation, n.desired_bundle, n.desired_rollout), (2, Some(w.bundle.id), Some(id)));
    })
    .await;
}

#[tokio::test]
async fn a_node_is_held_by_one_active_rollout() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 3).await;
        let (a, b) = (rollout(&s, &w).await, rollout(&s, &w).await);
        let claim = |nodes: &[usize]| nodes.iter().map(|i| Change::Claim { node: w.nodes[*i].id }).collect::<Vec<_>>();
        s.commit_rollout(commit(&w, a, 0, claim(&[0, 1])), seed::write()).await.unwrap();
        let clash = s.commit_rollout(commit(&w, b, 0, claim(&[1, 2])), seed::write()).await;
        assert_eq!(clash, Err(Error::Claimed(vec![(w.nodes[1].id, a)])));
        assert_eq!(s.load_rollout(b).await.unwrap().claims, vec![], "nothing of it was written");
        assert_eq!(s.candidates_of(vec![w.nodes[0].id]).await.unwrap()[0].claimed_by, Some(a));
        // Claiming what one holds is no clash; releasing frees it.
        s.commit_rollout(commit(&w, a, 1, claim(&[0, 2])), seed::write()).await.unwrap();
        assert_eq!(s.holder_of(w.nodes[2].id).await.unwrap(), Some(a));
        let keep = vec![Change::ReleaseAll { keep: vec![w.nodes[0].id] }];
        s.commit_rollout(commit(&w, a, 2, keep), seed::write()).await.unwrap();
        assert_eq!(s.load_rollout(a).await.unwrap().claims, vec![w.nodes[0].id]);
        s.commit_rollout(commit(&w, b, 0, claim(&[1, 2])), seed::write()).await.unwrap();
        s.commit_rollout(commit(&w, a, 3, vec![Change::Release { node: w.nodes[0].id }]), seed::write()).await.unwrap();
        assert_eq!(s.holders(w.nodes.iter().map(|n| n.id).collect()).await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn one_commit_carries_events_history_debts_reports_and_the_feed() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 3).await;
        let (a, b) = (rollout(&s, &w).await, rollout(&s, &w).await);
        let [n0, n1, n2] = [w.nodes[0].id, w.nodes[1].id, w.nodes[2].id];
        let head = s.changes_head().await.unwrap();
        let mut member = seed::member(n0, 0);
        member.state = NodeState::Verified { at: Timestamp(1), no_traffic: false };
        let mut c = commit(
            &w,
            a,
            0,
            vec![
                desire(n0, 0, Some(w.bundle.id)),
                Change::Member { member: member.clone() },
                Change::HistoryVerified { node: n0, bundle: Some(w.bundle.id), generation: 1 },
                Change::HistoryEnded {
                    node: n1,
                    bundle: w.bundle.id,
                    generation: 4,
                    how: HistoryOutcome::Failed,
                    detail: Some("gate".into()),
                },
                Change::DebtAdded { node: n1, restore: false, bundle: Some(w.bundle.id) },
                Change::DebtAdded { node: n2, restore: true, bundle: None },
            ],
        );
        let event = Event::Pause { note: Some("why".into()) };
        let logged = |seq| LoggedEvent {
            seq,
            at: Timestamp(3),
            engine_version: ENGINE_VERSION,
            event: event.clone(),
            decision_hash: Digest::of(b"d"),
        };
        c.events = vec![logged(1), logged(2)];
        let mut report = NodeChange::of(n0, w.project.id);
        report.active_bundle = Some(Some(w.bundle.id));
        c.reports = vec![report];
        c.budget = Some(BudgetMove { delta: 2, limit: Some(2) });
        let item = store::InboxItem { id: seed::id(), at: Timestamp(2), payload: serde_json::json!([1]) };
        s.put_inbox(a, vec![item.clone()]).await.unwrap();
        s.put_inbox(a, vec![item.clone()]).await.unwrap();
        assert_eq!(s.inbox(a, 10).await.unwrap(), vec![item.clone()]);
        c.consumed_inbox = vec![item.id];
        let done = s.commit_rollout(c, seed::write()).await.unwrap();
        assert_eq!(done.displaced_debts, vec![]);
        assert_eq!(s.inbox(a, 10).await.unwrap(), vec![]);
        let n = s.node(SYSTEM, n0).await.unwrap();
        assert_eq!((n.generation, n.verified_bundle, n.active_bundle), (1, Some(w.bundle.id), Some(w.bundle.id)));
        assert_eq!(s.node_history(n0, 5).await.unwrap()[0].outcome, HistoryOutcome::Verified);
        assert_eq!(s.failed_on(w.project.id, w.bundle.id).await.unwrap(), vec![n1]);
        let failures = s.rollout_failures(w.project.id, a, w.bundle.id, 5).await.unwrap();
        assert_eq!(
            failures.iter().map(|(_, h)| (h.node, h.detail.as_deref())).collect::<Vec<_>>(),
            [(n1, Some("gate"))]
        );
        assert_eq!(s.rollout_failures(w.project.id, b, w.bundle.id, 5).await.unwrap(), vec![]);
        assert_eq!(s.histories(vec![n0, n1, n2]).await.unwrap().len(), 2);
        assert_eq!(s.rollout_events(a, 1, 10).await.unwrap(), vec![logged(2)]);
        let loaded = s.load_rollout(a).await.unwrap();
        assert_eq!((loaded.last_seq, loaded.version, loaded.debts.len()), (2, 1, 2));
        let feed: Vec<_> = s.changes_after(head, 50).await.unwrap().iter().map(|c| (c.kind.as_str(), c.id)).collect();
        assert!(feed.contains(&("rollout", a.0)) && feed.contains(&("assignment", n0.0)), "{feed:?}");
        // Another rollout covers n1 by an assignment and n2 by a debt: the older debts end, and their rollout is named.
        let c =
            commit(&w, b, 0, vec![desire(n1, 0, None), Change::DebtAdded { node: n2, restore: false, bundle: None }]);
        let mut displaced = s.commit_rollout(c, seed::write()).await.unwrap().displaced_debts;
        displaced.sort();
        assert_eq!(displaced, vec![(a, n1), (a, n2)]);
        assert_eq!(s.debt_of_node(n1).await.unwrap(), None);
        assert_eq!(s.debt_of_node(n2).await.unwrap().unwrap().rollout, b);
        s.commit_rollout(commit(&w, b, 1, vec![Change::DebtEnded { node: n2 }]), seed::write()).await.unwrap();
        assert_eq!(s.debts_of_rollout(b).await.unwrap(), vec![]);
        // The project's budget is used up; freeing never fails.
        let mut c = commit(&w, b, 2, vec![]);
        c.budget = Some(BudgetMove { delta: 1, limit: Some(2) });
        assert_eq!(s.commit_rollout(c.clone(), seed::write()).await, Err(Error::Conflict("budget")));
        c.budget = Some(BudgetMove { delta: -5, limit: Some(0) });
        s.commit_rollout(c, seed::write()).await.unwrap();
        assert_eq!(s.rollouts_of_node(n0, 5).await.unwrap().len(), 2);
        assert_eq!(s.rollouts_of_node(n0, 5).await.unwrap()[1].1, member);
    })
    .await;
}

#[tokio::test]
async fn late_joiners_find_the_newest_completed_rollout() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let mut ids = vec![];
        for (i, phase) in
            [Phase::Completed, Phase::Completed, Phase::RolledBack, Phase::Running].into_iter().enumerate()
        {
            let id = rollout(&s, &w).await;
            let mut c = commit(&w, id, 0, vec![]);
            let mut head = seed::head(phase);
            (head.version, head.ended_at, head.auto_rollback) =
                (1, phase.is_end().then_some(Timestamp(i as i64)), i == 2);
            c.changes = vec![Change::Head { head }];
            s.commit_rollout(c, seed::write()).await.unwrap();
            ids.push(id);
        }
        let found = s.newest_completed_for(w.project.id).await.unwrap();
        assert_eq!(found.iter().map(|r| r.id).collect::<Vec<_>>(), vec![ids[1], ids[0]]);
        assert_eq!(found[0].selector, Selector::All);
        assert!(s.was_rolled_back(w.project.id, w.bundle.id).await.unwrap());
        assert_eq!(s.active_rollouts().await.unwrap(), vec![ids[3]]);
        let filter = RolloutFilter { phases: vec![Phase::Running, Phase::RolledBack], bundle: Some(w.bundle.id) };
        let list = s.rollouts(Scope::Project(w.project.id), filter, Page::first(1)).await.unwrap();
        assert_eq!((list.total, list.rows[0].id), (2, ids[3]));
        s.revoke_bundle(SYSTEM, w.bundle.id, None, seed::write()).await.unwrap();
        assert_eq!(s.newest_completed_for(w.project.id).await.unwrap(), vec![]);
    })
    .await;
}

#[tokio::test]
async fn several_commits_are_one_and_what_one_lets_go_another_may_claim() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let (n0, n1) = (w.nodes[0].id, w.nodes[1].id);
        let (old, new) = (rollout(&s, &w).await, rollout(&s, &w).await);
        let mut c = commit(&w, old, 0, vec![Change::Claim { node: n0 }, desire(n0, 0, Some(w.bundle.id))]);
        c.budget = Some(BudgetMove { delta: 1, limit: Some(1) });
        s.commit_rollout(c, seed::write()).await.unwrap();
        let takes = |version, expect| {
            commit(
                &w,
                new,
                version,
                vec![Change::Claim { node: n0 }, Change::Claim { node: n1 }, desire(n0, expect, None)],
            )
        };
        // The other way round the claim comes before the release: nothing at all is written.
        let mut lets_go = commit(&w, old, 1, vec![Change::Release { node: n0 }]);
        lets_go.budget = Some(BudgetMove { delta: -1, limit: None });
        let wrong = vec![(takes(0, 1), seed::write()), (lets_go.clone(), seed::write())];
        assert!(matches!(s.commit_rollouts(wrong).await, Err(Error::Claimed(_))));
        // A commit on another version takes the others with it.
        let wrong = vec![(lets_go.clone(), seed::write()), (takes(7, 1), seed::write())];
        assert_eq!(s.commit_rollouts(wrong).await, Err(Error::Conflict("rollout")));
        assert_eq!((s.holder_of(n0).await.unwrap(), s.holder_of(n1).await.unwrap()), (Some(old), None));
        assert_eq!(s.budget_reserved(w.project.id).await.unwrap(), 1);

        s.commit_rollouts(vec![(lets_go, seed::write()), (takes(0, 1), seed::write())]).await.unwrap();
        assert_eq!((s.holder_of(n0).await.unwrap(), s.holder_of(n1).await.unwrap()), (Some(new), Some(new)));
        assert_eq!(s.node(SYSTEM, n0).await.unwrap().generation, 2);
        assert_eq!(s.budget_reserved(w.project.id).await.unwrap(), 0);
        assert_eq!(s.budget_reserved(seed::id()).await.unwrap(), 0, "a project that never updated anything");
    })
    .await;
}

#[tokio::test]
async fn the_origin_of_a_rollout_is_the_first_entry_of_its_log() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let candidates: Vec<Candidate> = w
            .nodes
            .iter()
            .map(|n| Candidate { facts: Facts::online(n.id), name: n.name.clone(), spread: None, first: false })
            .collect();
        let mut spec = Spec::new(w.bundle.id);
        spec.ramp = Some(0.1 + 1.0);
        let origin = originate(seed::id(), w.project.id, spec, &candidates);
        let mut r = seed::new_rollout(&w);
        (r.planned, r.origin) = (origin.clone().planned(), Some(origin.clone()));
        s.insert_rollout(r, seed::write()).await.unwrap();
        assert_eq!(s.rollout_origin(origin.id).await.unwrap(), origin);
        assert_eq!(s.load_rollout(origin.id).await.unwrap().planned, origin.clone().planned());
        assert_eq!(s.rollout_origin(rollout(&s, &w).await).await, Err(Error::NotFound), "made without one");
    })
    .await;
}

#[tokio::test]
async fn steps_of_the_newest_completed_rollouts_tell_how_long_they_took() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let mut ids = vec![];
        for (i, phase) in [Phase::Completed, Phase::Completed, Phase::RolledBack].into_iter().enumerate() {
            let id = rollout(&s, &w).await;
            let mut step = s.rollout_steps(id).await.unwrap().remove(0);
            (step.state, step.handed_over) = (StepState::Completed, true);
            (step.started_at, step.completed_at) = (Some(Timestamp(0)), Some(Timestamp(i as i64)));
            let mut c = commit(&w, id, 0, vec![]);
            let mut head = seed::head(phase);
            (head.version, head.ended_at) = (1, Some(Timestamp(i as i64)));
            c.changes = vec![Change::Head { head }, Change::Step { step: step.clone() }];
            s.commit_rollout(c, seed::write()).await.unwrap();
            ids.push((s.rollout(SYSTEM, id).await.unwrap().spec, step));
        }
        assert_eq!(s.recent_steps(w.project.id, 1).await.unwrap(), vec![ids[1].clone()]);
        assert_eq!(s.recent_steps(w.project.id, 9).await.unwrap().len(), 2, "only what was completed");
        assert_eq!(s.recent_steps(seed::id(), 9).await.unwrap(), vec![]);
    })
    .await;
}
