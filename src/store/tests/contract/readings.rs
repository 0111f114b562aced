use domain::node::Metrics;
use domain::rollout::analysis::Reading;
use domain::rollout::{Change, Phase, StrategyKind};
use domain::{NodeId, Span};
use store::Served;
use store::testing::{self, seed};

fn reading(node: NodeId, requests: u64, p99_us: Option<u64>) -> Reading {
    Reading { node, generation: 1 << 40, requests, errors: requests / 10, p99_us }
}

fn lately(error_rate: f64) -> Metrics {
    Metrics { error_rate: Some(error_rate), request_count: Some(1 << 40), ..Metrics::default() }
}

fn served(reading: Reading) -> Served {
    Served { reading, recent: lately(reading.requests as f64 / 4.0) }
}

#[tokio::test]
async fn the_newest_counts_of_a_node_replace_those_before_and_old_ones_are_left_out() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 3).await;
        let n: Vec<NodeId> = w.nodes.iter().map(|n| n.id).collect();
        let (before, now) = (seed::now() - Span::secs(10), seed::now());
        s.put_readings(vec![], now).await.unwrap();
        let first = [reading(n[1], 5, None), reading(n[0], 10, Some(7)), reading(n[2], 1, None)];
        s.put_readings(first.map(served).to_vec(), before).await.unwrap();
        let then = [reading(n[0], u64::from(u32::MAX), None), reading(n[1], 20, Some(9))];
        s.put_readings(then.map(served).to_vec(), now).await.unwrap();
        let newest = vec![reading(n[0], u64::from(u32::MAX), None), reading(n[1], 20, Some(9))];
        assert_eq!(s.readings(n.clone(), now).await.unwrap(), newest, "by node, the third is older");
        assert_eq!(s.readings(n.clone(), before).await.unwrap().len(), 3);
        assert_eq!(s.readings(vec![n[1], seed::id()], before).await.unwrap(), newest[1..]);
        assert_eq!(s.readings(vec![], before).await.unwrap(), []);

        let recent = s.recent_readings(vec![n[2], n[1]], before).await.unwrap();
        assert_eq!(recent, [(n[1], lately(5.0)), (n[2], lately(0.25))].into());
        let recent = s.recent_readings(n, now).await.unwrap();
        assert!(recent.keys().copied().eq(newest.iter().map(|r| r.node)), "the third is older");
    })
    .await;
}

#[tokio::test]
async fn a_project_is_measured_while_its_rollouts_are_under_way_and_written_for_canaries_and_questions() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        for strategy in [StrategyKind::Rolling, StrategyKind::Canary] {
            let mut r = seed::new_rollout(&w);
            r.planned.spec.strategy = strategy;
            let id = r.planned.id;
            s.insert_rollout(r, seed::write()).await.unwrap();
            let heads =
                [(Phase::Running, false), (Phase::Running, true), (Phase::Paused, false), (Phase::Completed, false)];
            for (version, (phase, asked)) in (0..).zip(heads) {
                let mut head = seed::head(phase);
                head.asked = asked.then(seed::now);
                head.version = version + 1;
                let commit = seed::commit(w.project.id, id, (version, 0), vec![Change::Head { head }]);
                s.commit_rollout(commit, seed::write()).await.unwrap();
                let written = asked || (strategy == StrategyKind::Canary && phase == Phase::Running);
                let expected = if phase.is_active() { vec![(w.project.id, written)] } else { vec![] };
                assert_eq!(s.measured_projects().await.unwrap(), expected, "{strategy} {phase}");
            }
        }
    })
    .await;
}
