use domain::node::Standing;
use domain::rollout::{Change, Phase};
use domain::{NodeId, Scope};
use store::Error;
use store::testing::{self, Opened, seed};

const SYSTEM: Scope = Scope::System("test");

/// A running rollout that has assigned its bundle to every node, as generation 1.
async fn running(s: &Opened, nodes: usize) -> (seed::World, domain::RolloutId) {
    let w = seed::world(s, nodes).await;
    let r = seed::new_rollout(&w);
    let id = r.planned.id;
    s.insert_rollout(r, seed::write()).await.unwrap();
    commit(s, &w, id, 0, Phase::Running, true).await.unwrap();
    (w, id)
}

async fn commit(
    s: &Opened,
    w: &seed::World,
    id: domain::RolloutId,
    version: u64,
    phase: Phase,
    assign: bool,
) -> store::Result<()> {
    let mut head = seed::head(phase);
    head.version = version + 1;
    let mut changes = vec![Change::Head { head }];
    if assign {
        let bundle = Some(w.bundle.id);
        changes.extend(w.nodes.iter().map(|n| Change::Desire {
            node: n.id,
            expect: 0,
            generation: 1,
            bundle,
            weight: 100,
        }));
    }
    let c = seed::commit(w.project.id, id, (version, 0), changes);
    s.commit_rollout(c, seed::write()).await.map(drop)
}

async fn ask(s: &store::Store, id: NodeId, epoch: u32) -> store::AssignmentAnswer {
    s.assign_and_hand_over(vec![(id, epoch)]).await.unwrap().remove(0).unwrap()
}

#[tokio::test]
async fn an_assignment_is_handed_over_before_it_is_answered() {
    testing::for_each_backend(|s| async move {
        let (w, id) = running(&s, 3).await;
        let asked = w.nodes.iter().map(|n| (n.id, 1)).chain([(seed::id(), 1)]).collect();
        let answers = s.assign_and_hand_over(asked).await.unwrap();
        assert!(answers[3].is_none());
        for (a, n) in answers[..3].iter().zip(&w.nodes) {
            let a = a.as_ref().unwrap();
            assert_eq!((a.node, a.generation, a.handed_over, a.withheld, a.epoch_ok), (n.id, 1, 1, false, true));
            assert_eq!((a.rollout, a.rollout_phase, a.weight), (Some(id), Some(Phase::Running), 100));
            assert_eq!(a.bundle.as_ref().unwrap().size_bytes, 4_096);
            assert_eq!(s.node(SYSTEM, n.id).await.unwrap().handed_over, 1);
        }
        let before = s.statements();
        assert_eq!(ask(&s, w.nodes[0].id, 1).await.handed_over, 1);
        assert_eq!(s.statements() - before, 1, "the second answer writes nothing");
    })
    .await;
}

#[tokio::test]
async fn a_paused_rollout_hands_nothing_over_for_the_first_time() {
    testing::for_each_backend(|s| async move {
        let (w, id) = running(&s, 2).await;
        ask(&s, w.nodes[0].id, 1).await;
        commit(&s, &w, id, 1, Phase::Paused, false).await.unwrap();
        assert!(!ask(&s, w.nodes[0].id, 1).await.withheld, "what was handed over may finish");
        let held = ask(&s, w.nodes[1].id, 1).await;
        assert_eq!((held.withheld, held.handed_over), (true, 0));
        commit(&s, &w, id, 2, Phase::Running, false).await.unwrap();
        assert_eq!(ask(&s, w.nodes[1].id, 1).await.handed_over, 1);
    })
    .await;
}

#[tokio::test]
async fn a_revoked_bundle_a_void_credential_or_an_unadopted_node_gets_nothing() {
    testing::for_each_backend(|s| async move {
        let (w, _) = running(&s, 2).await;
        let other = ask(&s, w.nodes[0].id, 7).await;
        assert_eq!((other.epoch_ok, other.withheld, other.handed_over), (false, true, 0));
        ask(&s, w.nodes[0].id, 1).await;
        s.revoke_bundle(SYSTEM, w.bundle.id, None, seed::write()).await.unwrap();
        assert!(ask(&s, w.nodes[0].id, 1).await.withheld, "handed over before, and still not named again");
        assert_eq!(ask(&s, w.nodes[1].id, 1).await.handed_over, 0);
        let mut quarantined = seed::node(&w.project, "q");
        quarantined.standing = Standing::Quarantined;
        s.register_node(None, quarantined.clone(), seed::write()).await.unwrap();
        assert!(ask(&s, quarantined.id, 1).await.withheld);
    })
    .await;
}

#[tokio::test]
async fn no_first_hand_over_commits_after_a_pause() {
    testing::for_each_backend(|s| async move {
        let (w, id) = running(&s, 24).await;
        let polls = futures_util::future::join_all(w.nodes.iter().map(|n| {
            let (s, id) = (s.store.clone(), n.id);
            async move {
                let a = ask(&s, id, 1).await;
                (a.handed_over == 1, a.withheld)
            }
        }));
        let pause = commit(&s, &w, id, 1, Phase::Paused, false);
        let (polls, paused) = tokio::join!(polls, pause);
        paused.unwrap();
        assert!(polls.iter().all(|(handed, withheld)| handed != withheld));
        // From here on the set is fixed.
        for (n, (handed, _)) in w.nodes.iter().zip(&polls) {
            let now = ask(&s, n.id, 1).await;
            assert_eq!((now.handed_over == 1, now.withheld), (*handed, !*handed));
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_starts_from_one_view() {
    testing::for_each_backend(|s| async move {
        let (w, id) = running(&s, 1).await;
        let v = s.session_view(w.nodes[0].id).await.unwrap();
        let r = v.rollout.unwrap();
        assert_eq!((v.node.generation, v.bundle.unwrap().id), (1, w.bundle.id));
        assert_eq!((r.id, r.phase, r.owner, r.member.unwrap().position), (id, Phase::Running, None, 0));
        assert_eq!(s.session_view(seed::id()).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn who_only_looks_hands_nothing_over() {
    testing::for_each_backend(|s| async move {
        let (w, _) = running(&s, 1).await;
        let node = w.nodes[0].id;
        let looked = s.assignments(vec![(node, 1), (seed::id(), 1)]).await.unwrap();
        let a = looked[0].as_ref().unwrap();
        assert_eq!((a.generation, a.handed_over, a.withheld), (1, 0, false));
        assert!(looked[1].is_none());
        assert_eq!(s.node(SYSTEM, node).await.unwrap().handed_over, 0);
    })
    .await;
}
