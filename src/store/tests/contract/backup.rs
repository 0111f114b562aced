use domain::{InstanceId, Span, Timestamp};
use store::backup::{LIFT, copy_sqlite};
use store::testing::{self, Backend, seed};
use store::{Error, Store, StoreConfig};

#[tokio::test]
async fn after_a_restore_nothing_is_assigned_until_somebody_assigns_anew() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let me: InstanceId = seed::id();
        s.register_instance(me, String::new(), Span::secs(60)).await.unwrap();
        let id = seed::new_rollout(&w);
        let rollout = id.planned.id;
        s.insert_rollout(id, seed::write()).await.unwrap();
        assert_eq!(s.acquire_rollout(me, rollout).await.unwrap().unwrap().fence, 1);
        assert_eq!(s.restored_at().await.unwrap(), None);

        assert_eq!(s.mark_restored(store::Write::at(Timestamp(7))).await.unwrap(), 2);
        assert_eq!(s.restored_at().await.unwrap(), Some(Timestamp(7)));
        assert_eq!(s.live_instances().await.unwrap(), vec![]);
        assert_eq!(s.unfinished_rollouts().await.unwrap(), vec![rollout]);
        assert_eq!(s.broken_logs().await.unwrap(), vec![]);
        let node = w.nodes[0].id;
        let answer = s.assign_and_hand_over(vec![(node, 1)]).await.unwrap().remove(0).unwrap();
        assert!(answer.withheld, "{answer:?}");
        assert_eq!(answer.generation, LIFT as u64, "a new assignment goes above it");
        assert_eq!(
            s.session_view(node).await.unwrap().node.generation,
            0,
            "a session believes that nothing is assigned"
        );
        assert_eq!(s.candidates(w.project.id).await.unwrap()[0].generation, LIFT as u64);
        let other: InstanceId = seed::id();
        s.register_instance(other, String::new(), Span::secs(60)).await.unwrap();
        assert_eq!(s.acquire_rollout(other, rollout).await.unwrap().unwrap().fence, 3, "fences go on upward");
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_taken_beside_the_server_and_holds_what_was_committed() {
    let s = testing::open(Backend::Sqlite).await;
    let w = seed::world(&s, 3).await;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("it's a copy.db");
    let (config, target) = (s.config.clone(), to.clone());
    tokio::task::spawn_blocking(move || copy_sqlite(&config, &target)).await.unwrap().unwrap();
    let copy = Store::open(StoreConfig::sqlite(&to), &prometheus::Registry::new()).await.unwrap();
    copy.ready().await.unwrap();
    assert_eq!(copy.node_stats(w.project.id).await.unwrap().total, 3);
    let again = copy_sqlite(&s.config, &to);
    assert!(matches!(again, Err(Error::Unavailable(_))), "{again:?}: an older copy is not overwritten");
    assert!(matches!(copy_sqlite(&StoreConfig::postgres("postgres://x/y"), &to), Err(Error::Invalid(_))));
}
