//! Not a benchmark: bounds so wide that only a wrong algorithm breaks them, on an unoptimised build and a busy machine. The figures are printed.

use domain::rollout::{Change, NodeState, Phase};
use domain::{NodeId, Timestamp};
use std::time::{Duration, Instant};
use store::Seen;
use store::testing::{self, seed};

const NODES: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_assignments_are_one_short_commit() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, NODES).await;
        let r = seed::new_rollout(&w);
        let id = r.planned.id;
        s.insert_rollout(r, seed::write()).await.unwrap();
        let mut best = Duration::MAX;
        for version in 0..4u64 {
            let mut head = seed::head(Phase::Running);
            head.version = version + 1;
            let mut changes = vec![Change::Head { head }];
            for (i, n) in w.nodes.iter().enumerate() {
                let mut member = seed::member(n.id, i as u32);
                (member.state, member.attempt, member.generation) = (NodeState::Assigned, version as u32 + 1, version + 1);
                changes.push(Change::Member { member });
                changes.push(Change::Desire { node: n.id, expect: version, generation: version + 1, bundle: Some(w.bundle.id), weight: 100 });
                if version == 0 {
                    changes.push(Change::Claim { node: n.id });
                }
            }
            let c = seed::commit(w.project.id, id, (version, 0), changes);
            let began = Instant::now();
            s.commit_rollout(c, seed::write()).await.unwrap();
            best = best.min(began.elapsed());
        }
        let began = Instant::now();
        let asked: Vec<(NodeId, u32)> = w.nodes.iter().map(|n| (n.id, 1)).collect();
        let answers = s.assign_and_hand_over(asked).await.unwrap();
        assert!(answers.iter().flatten().all(|a| a.handed_over == 4 && !a.withheld));
        let handed = began.elapsed();
        let began = Instant::now();
        let seen = w.nodes.iter().map(|n| Seen { node: n.id, at: Timestamp(seed::now().0 + 9), clock_skew: None }).collect();
        assert_eq!(s.flush_last_seen(seen).await.unwrap(), NODES as u64);
        let flushed = began.elapsed();
        let began = Instant::now();
        assert_eq!(s.candidates(w.project.id).await.unwrap().len(), NODES);
        let listed = began.elapsed();
        let began = Instant::now();
        assert_eq!(s.load_rollout(id).await.unwrap().planned.members.len(), NODES);
        println!(
            "{:?}: {NODES} nodes: commit {best:?}, hand-over {handed:?}, last-seen {flushed:?}, candidates {listed:?}, load {:?}",
            s.backend,
            began.elapsed()
        );
        assert!(best < Duration::from_secs(2), "{best:?}");
    })
    .await;
}
