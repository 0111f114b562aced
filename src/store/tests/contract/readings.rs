use domain::rollout::analysis::Reading;
use domain::rollout::{Change, Phase, StrategyKind};
use domain::{NodeId, Span};
use store::RolloutCommit;
use store::testing::{self, seed};

fn reading(node: NodeId, requests: u64, p99_us: Option<u64>) -> Reading {
    Reading { node, generation: 1 << 40, requests, errors: requests / 10, p99_us }
}

#[tokio::test]
async fn the_newest_counts_of_a_node_replace_those_before_and_old_ones_are_left_out() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 3).await;
        let n: Vec<NodeId> = w.nodes.iter().map(|n| n.id).collect();
        let (before, now) = (seed::now() - Span::secs(10), seed::now());
        s.put_readings(vec![], now).await.unwrap();
        s.put_readings(vec![reading(n[1], 5, None), reading(n[0], 10, Some(7)), reading(n[2], 1, None)], before)
            .await
            .unwrap();
        s.put_readings(vec![reading(n[0], u64::from(u32::MAX), None), reading(n[1], 20, Some(9))], now).await.unwrap();
        let newest = vec![reading(n[0], u64::from(u32::MAX), None), reading(n[1], 20, Some(9))];
        assert_eq!(s.readings(n.clone(), now).await.unwrap(), newest, "by node, the third is older");
        assert_eq!(s.readings(n.clone(), before).await.unwrap().len(), 3);
        assert_eq!(s.readings(vec![n[1], seed::id()], before).await.unwrap(), newest[1..]);
        assert_eq!(s.readings(vec![], before).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_project_is_measured_while_one_of_its_canaries_runs() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        for strategy in [StrategyKind::Rolling, StrategyKind::Canary] {
            let mut r = seed::new_rollout(&w);
            r.planned.spec.strategy = strategy;
            let id = r.planned.id;
            s.insert_rollout(r, seed::write()).await.unwrap();
            for (version, phase) in [(0, Phase::Running), (1, Phase::Completed)] {
                let mut head = seed::head(phase);
                head.version = version + 1;
                let commit = RolloutCommit {
                    id,
                    project: w.project.id,
                    expect_version: version,
                    fence: 0,
                    events: vec![],
                    changes: vec![Change::Head { head }],
                    node_events: vec![],
                    consumed_inbox: vec![],
                    reports: vec![],
                    budget: None,
                };
                s.commit_rollout(commit, seed::write()).await.unwrap();
                let measured = strategy == StrategyKind::Canary && phase == Phase::Running;
                let expected = if measured { vec![w.project.id] } else { vec![] };
                assert_eq!(s.measured_projects().await.unwrap(), expected, "{strategy} {phase}");
            }
        }
    })
    .await;
}
