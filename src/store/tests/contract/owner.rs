use domain::rollout::{Change, Phase};
use domain::{InstanceId, ProjectId, RolloutId, Span, Timestamp};
use store::testing::{self, seed};
use store::{Error, Store};

async fn set_phase(
    s: &Store,
    project: ProjectId,
    id: RolloutId,
    version: u64,
    fence: i64,
    phase: Phase,
) -> store::Result<()> {
    let mut head = seed::head(phase);
    head.version = version + 1;
    let c = seed::commit(project, id, (version, fence), vec![Change::Head { head }]);
    s.commit_rollout(c, seed::write()).await.map(drop)
}

#[tokio::test]
async fn a_rollout_with_work_has_one_owner_and_a_dead_ones_fence_is_void() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let (a, b): (InstanceId, InstanceId) = (seed::id(), seed::id());
        let first = s.register_instance(a, "a:1".into(), Span::secs(60)).await.unwrap();
        let second = s.register_instance(b, "b:1".into(), Span::secs(60)).await.unwrap();
        assert!(second > first);
        let mut r = seed::new_rollout(&w);
        r.planned.spec.scheduled_at = Some(Timestamp(100));
        let id = r.planned.id;
        s.insert_rollout(r, seed::write()).await.unwrap();
        let mut waits = seed::new_rollout(&w);
        waits.planned.spec.start = false;
        let waits_id = waits.planned.id;
        s.insert_rollout(waits, seed::write()).await.unwrap();
        assert_eq!(s.acquire_rollouts(a, Timestamp(99), 10).await.unwrap(), vec![], "not due yet");
        let got = s.acquire_rollouts(a, Timestamp(100), 10).await.unwrap();
        assert_eq!(got.iter().map(|g| (g.id, g.fence)).collect::<Vec<_>>(), vec![(id, 1)]);
        assert_eq!(s.acquire_rollouts(b, Timestamp(100), 10).await.unwrap(), vec![]);
        assert_eq!(s.acquire_rollout(b, id).await.unwrap(), None);
        assert_eq!(s.acquire_rollout(a, id).await.unwrap().unwrap().fence, 1);
        assert_eq!(s.owner_of(id).await.unwrap().unwrap().listen, "a:1");
        set_phase(&s, w.project.id, id, 0, 1, Phase::Running).await.unwrap();
        // The lease of a runs out by the database's clock.
        s.renew_instance(a, Span::secs(-1)).await.unwrap();
        assert_eq!(s.owner_of(id).await.unwrap(), None);
        let taken = s.acquire_rollouts(b, Timestamp(0), 10).await.unwrap();
        assert_eq!(taken.iter().map(|g| (g.id, g.fence)).collect::<Vec<_>>(), vec![(id, 2)]);
        let late = set_phase(&s, w.project.id, id, 1, 1, Phase::Paused).await;
        assert_eq!(late, Err(Error::Conflict("rollout")));
        set_phase(&s, w.project.id, id, 1, 2, Phase::Paused).await.unwrap();
        assert_eq!(s.expire_instances().await.unwrap(), vec![a]);
        assert_eq!(s.renew_instance(a, Span::secs(5)).await, Err(Error::NotFound));
        assert_eq!(s.live_instances().await.unwrap().len(), 1);
        // A command on one that waits for its start.
        assert_eq!(s.acquire_rollout(b, waits_id).await.unwrap().unwrap().fence, 1);
        s.release_rollout(b, id, 1).await.unwrap();
        assert!(s.owner_of(id).await.unwrap().is_some(), "another fence releases nothing");
        s.release_rollout(b, id, 2).await.unwrap();
        assert_eq!(s.owner_of(id).await.unwrap(), None);
        assert_eq!(s.release_all(b, seed::now()).await.unwrap(), 1);
        assert_eq!(s.acquire_rollout(b, seed::id()).await, Err(Error::NotFound));
    })
    .await;
}

/// However many the dead one had: a second look would come only after a part of the lease.
#[tokio::test]
async fn all_that_nobody_owns_is_taken_over_some_at_once() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        for _ in 0..5 {
            s.insert_rollout(seed::new_rollout(&w), seed::write()).await.unwrap();
        }
        let me: InstanceId = seed::id();
        s.register_instance(me, String::new(), Span::secs(60)).await.unwrap();
        let before = s.operations().get("rollout.acquire").copied().unwrap_or(0);
        assert_eq!(s.acquire_rollouts(me, Timestamp(0), 2).await.unwrap().len(), 5);
        assert_eq!(s.owned_rollouts(me, Timestamp(0)).await.unwrap().len(), 5);
        assert_eq!(s.operations()["rollout.acquire"] - before, 3, "two, two and one");
    })
    .await;
}

#[tokio::test]
async fn rivals_never_acquire_the_same_rollout() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        for _ in 0..12 {
            s.insert_rollout(seed::new_rollout(&w), seed::write()).await.unwrap();
        }
        let got = futures_util::future::join_all((0..4).map(|_| {
            let s = s.store.clone();
            async move {
                let me: InstanceId = seed::id();
                s.register_instance(me, String::new(), Span::secs(60)).await.unwrap();
                s.acquire_rollouts(me, Timestamp(0), 100).await.unwrap()
            }
        }))
        .await;
        let mut ids: Vec<_> = got.into_iter().flatten().map(|g| g.id).collect();
        let n = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!((ids.len(), n), (12, 12));
    })
    .await;
}

#[tokio::test]
async fn an_ended_rollout_is_taken_up_again_for_its_debts_and_its_inbox() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let r = seed::new_rollout(&w);
        let id = r.planned.id;
        s.insert_rollout(r, seed::write()).await.unwrap();
        set_phase(&s, w.project.id, id, 0, 0, Phase::Completed).await.unwrap();
        let me: InstanceId = seed::id();
        s.register_instance(me, String::new(), Span::secs(60)).await.unwrap();
        assert_eq!(s.acquire_rollouts(me, Timestamp(0), 9).await.unwrap(), vec![]);
        s.put_inbox(id, vec![store::InboxItem { id: seed::id(), at: seed::now(), payload: serde_json::json!({}) }])
            .await
            .unwrap();
        assert_eq!(s.rollouts_with_inbox(9).await.unwrap(), vec![id]);
        assert_eq!(s.acquire_rollouts(me, Timestamp(0), 9).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn one_that_drains_hands_over_at_once_and_takes_nothing_back() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let r = seed::new_rollout(&w);
        let id = r.planned.id;
        s.insert_rollout(r, seed::write()).await.unwrap();
        let (a, b): (InstanceId, InstanceId) = (seed::id(), seed::id());
        for i in [a, b] {
            s.register_instance(i, String::new(), Span::secs(60)).await.unwrap();
        }
        assert_eq!(s.acquire_rollouts(a, Timestamp(0), 9).await.unwrap()[0].fence, 1);
        s.drain_instance(a).await.unwrap();
        let before = s.changes_head().await.unwrap();
        assert_eq!(s.release_all(a, seed::now()).await.unwrap(), 1);
        let told = s.changes_after(before, 9).await.unwrap();
        assert_eq!(told.iter().map(|c| (c.kind, c.id)).collect::<Vec<_>>(), vec![(store::ChangeKind::Instance, a.0)]);
        assert_eq!(s.acquire_rollouts(a, Timestamp(0), 9).await.unwrap(), vec![]);
        assert_eq!(s.acquire_rollout(a, id).await.unwrap(), None);
        let late = set_phase(&s, w.project.id, id, 0, 1, Phase::Running).await;
        assert_eq!(late, Err(Error::Conflict("rollout")), "the fence of one that handed over is void");
        assert_eq!(s.acquire_rollouts(b, Timestamp(0), 9).await.unwrap()[0].fence, 3);
    })
    .await;
}

/// Rivals that take the rollout from each other (a lease is made to run out), load it, dawdle, and commit what they decided long ago.
#[tokio::test]
async fn there_are_never_two_committers_however_late_they_are() {
    const RIVALS: u64 = 5;
    const ROUNDS: u64 = 40;
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let project = w.project.id;
        let r = seed::new_rollout(&w);
        let id = r.planned.id;
        s.insert_rollout(r, seed::write()).await.unwrap();
        let rivals: Vec<InstanceId> = (0..RIVALS).map(|_| seed::id()).collect();
        for i in &rivals {
            s.register_instance(*i, String::new(), Span::secs(60)).await.unwrap();
        }
        let races = (0..RIVALS).map(|n| {
            let (s, rivals) = (s.store.clone(), rivals.clone());
            async move {
                let me = rivals[n as usize];
                // A fixed walk per rival: SplitMix64.
                let mut state = n;
                let mut dice = move |most: u64| {
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    (z ^ (z >> 27)) % most
                };
                let (mut done, mut refused) = (Vec::new(), 0);
                for _ in 0..ROUNDS {
                    let victim = rivals[dice(RIVALS) as usize];
                    s.renew_instance(victim, Span::secs(-1)).await.unwrap();
                    s.renew_instance(me, Span::secs(60)).await.unwrap();
                    let Some(mine) = s.acquire_rollout(me, id).await.unwrap() else { continue };
                    let version = s.load_rollout(id).await.unwrap().version;
                    tokio::time::sleep(std::time::Duration::from_millis(dice(4))).await;
                    match set_phase(&s, project, id, version, mine.fence, Phase::Running).await {
                        Ok(()) => done.push((version + 1, mine.fence)),
                        Err(Error::Conflict("rollout")) => refused += 1,
                        Err(e) => panic!("{e}"),
                    }
                }
                (done, refused)
            }
        });
        let all = futures_util::future::join_all(races).await;
        let refused: u64 = all.iter().map(|a| a.1).sum();
        let mut done: Vec<(u64, i64)> = all.into_iter().flat_map(|a| a.0).collect();
        done.sort_unstable();
        let versions: Vec<u64> = done.iter().map(|d| d.0).collect();
        assert_eq!(versions, (1..=done.len() as u64).collect::<Vec<_>>(), "every version was committed once");
        assert!(done.windows(2).all(|d| d[0].1 <= d[1].1), "an older fence committed after a newer one: {done:?}");
        // How many get through depends on the machine.
        assert!(done.len() >= 5 && refused >= 5, "{} commits, {refused} refused: nothing was tried", done.len());
    })
    .await;
}
