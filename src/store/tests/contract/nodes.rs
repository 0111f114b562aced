use domain::node::{Busy, HealthClass, Labels, Presence, SampleKind, Standing};
use domain::{Digest, Scope, Span, Timestamp};
use store::testing::{self, seed};
use store::{
    EnrolmentToken, Error, NodeChange, NodeConfig, NodeEvent, NodeFilter, NodePatch, Page, ReplaceNode, Sample, Seen,
    StoreConfig,
};

const SYSTEM: Scope = Scope::System("test");

fn token(project: domain::ProjectId, max_uses: Option<u32>) -> EnrolmentToken {
    let id: domain::EnrolmentTokenId = seed::id();
    EnrolmentToken {
        id,
        project,
        name: "rack 7".into(),
        token_hash: Digest::of(id.0.as_bytes()),
        max_uses,
        uses: 0,
        labels: Labels::from([("dc".into(), "x".into())]),
        allowed_label_keys: vec!["*".into()],
        allow_replace: true,
        expires_at: Some(Timestamp(seed::now().0 + 10)),
        revoked_at: None,
        created_by: None,
        inserted_at: seed::now(),
    }
}

#[tokio::test]
async fn a_token_is_never_used_more_often_than_it_allows() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let t = token(w.project.id, Some(3));
        s.insert_enrolment_token(t.clone(), seed::write()).await.unwrap();
        assert_eq!(s.enrolment_token_by_hash(t.token_hash).await.unwrap(), t);
        let results = futures_util::future::join_all((0..8).map(|i| {
            let (s, n) = (s.store.clone(), seed::node(&w.project, &format!("n{i}")));
            async move { s.register_node(Some(t.id), n, seed::write()).await }
        }))
        .await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 3);
        assert!(results.iter().all(|r| matches!(r, Ok(()) | Err(Error::Conflict("token")))));
        let listed = s.enrolment_tokens(w.project.id, Page::first(5)).await.unwrap();
        assert_eq!(listed.rows[0].uses, 3);
        let late = token(w.project.id, None);
        s.insert_enrolment_token(late.clone(), seed::write()).await.unwrap();
        let mut write = seed::write();
        write.at = Timestamp(seed::now().0 + 10);
        assert_eq!(
            s.register_node(Some(late.id), seed::node(&w.project, "late"), write).await,
            Err(Error::Conflict("token"))
        );
        s.delete_enrolment_token(w.project.id, late.id, seed::write()).await.unwrap();
        assert_eq!(s.enrolment_token_by_hash(late.token_hash).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn a_name_is_taken_until_its_node_is_deleted_and_a_refusal_costs_no_use() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let t = token(w.project.id, Some(1));
        s.insert_enrolment_token(t.clone(), seed::write()).await.unwrap();
        let twin = seed::node(&w.project, "node-00000");
        assert_eq!(s.register_node(Some(t.id), twin.clone(), seed::write()).await, Err(Error::Conflict("name")));
        s.delete_node(SYSTEM, w.nodes[0].id, seed::write()).await.unwrap();
        s.register_node(Some(t.id), twin.clone(), seed::write()).await.unwrap();
        assert_eq!(s.node(SYSTEM, twin.id).await.unwrap(), twin);
        assert_eq!(s.node_by_name(w.project.id, "node-00000").await.unwrap().id, twin.id);
        assert_eq!(s.node_credential(w.nodes[0].key_hash).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn only_an_offline_node_is_replaced_and_its_generation_goes_on() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let t = token(w.project.id, None);
        s.insert_enrolment_token(t.clone(), seed::write()).await.unwrap();
        let new = ReplaceNode {
            project: w.project.id,
            name: "node-00000".into(),
            key_hash: Digest::of(b"new"),
            labels: Labels::new(),
            capabilities: vec![],
            version: None,
            ip: None,
            hostname: None,
            metadata: serde_json::json!({}),
        };
        assert_eq!(s.replace_node(t.id, new.clone(), seed::write()).await, Err(Error::Conflict("name")));
        s.set_presence_offline(vec![w.nodes[0].id], seed::now(), seed::write()).await.unwrap();
        let n = s.replace_node(t.id, new, seed::write()).await.unwrap();
        assert_eq!((n.id, n.credential_epoch, n.presence), (w.nodes[0].id, 2, Presence::Online));
        assert_eq!(s.node_credential(w.nodes[0].key_hash).await, Err(Error::NotFound));
        assert_eq!(s.node_credential(Digest::of(b"new")).await.unwrap().epoch, 2);
    })
    .await;
}

#[tokio::test]
async fn nodes_are_listed_by_every_filter_and_page_by_page() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 7).await;
        let scope = Scope::Project(w.project.id);
        let patch = NodePatch {
            labels: Some(Labels::from([("a.b/c-d".into(), "x\"'%".into())])),
            pinned_bundle: Some(Some(w.bundle.id)),
        };
        let patched = s.patch_node(scope, w.nodes[3].id, patch, seed::write()).await.unwrap();
        assert_eq!(patched.pinned_bundle, Some(w.bundle.id));
        s.set_presence_offline(vec![w.nodes[1].id], seed::now(), seed::write()).await.unwrap();
        let mut change = NodeChange::of(w.nodes[2].id, w.project.id);
        change.active_bundle = Some(Some(w.bundle.id));
        s.observe(vec![change], seed::write()).await.unwrap();
        let ids = async |f: NodeFilter| -> Vec<usize> {
            let found = s.nodes(scope, f, Page::first(50)).await.unwrap();
            assert_eq!(found.total, found.rows.len() as i64);
            found.rows.iter().map(|r| w.nodes.iter().position(|n| n.id == r.id).unwrap()).collect()
        };
        let f = NodeFilter::default;
        assert_eq!(ids(NodeFilter { presence: Some(Presence::Offline), ..f() }).await, vec![1]);
        assert_eq!(ids(NodeFilter { bundle: Some(w.bundle.id), ..f() }).await, vec![2]);
        assert_eq!(ids(NodeFilter { labels: vec![("a.b/c-d".into(), "x\"'%".into())], ..f() }).await, vec![3]);
        assert_eq!(ids(NodeFilter { labels: vec![("env".into(), "prod".into())], ..f() }).await.len(), 6);
        assert_eq!(ids(NodeFilter { q: Some("DE-00004".into()), ..f() }).await, vec![4]);
        assert_eq!(ids(NodeFilter { q: Some("%".into()), ..f() }).await, Vec::<usize>::new());
        assert_eq!(ids(NodeFilter { standing: Some(Standing::Revoked), ..f() }).await, Vec::<usize>::new());
        let mut page = Page::first(3);
        let mut seen = Vec::new();
        loop {
            let l = s.nodes(scope, f(), page.clone()).await.unwrap();
            assert_eq!(l.total, 7);
            seen.extend(l.rows.iter().map(|n| n.id));
            match l.next_cursor {
                Some(c) => page.cursor = Some(c),
                None => break,
            }
        }
        assert_eq!(seen, w.nodes.iter().map(|n| n.id).collect::<Vec<_>>());
        let bad = Page { limit: 3, cursor: Some("x".into()) };
        assert!(matches!(s.nodes(scope, f(), bad).await, Err(Error::Invalid(_))));
        let stats = s.node_stats(w.project.id).await.unwrap();
        assert_eq!((stats.total, stats.online, stats.offline, stats.adopted), (7, 6, 1, 7));
        assert_eq!(stats.by_bundle, vec![(None, 6), (Some(w.bundle.id), 1)]);
        assert_eq!(s.project_nodes(w.project.id).await.unwrap().len(), 7);
        assert_eq!(s.fleet_nodes(vec![w.nodes[5].id, seed::id()]).await.unwrap().len(), 1);
        let names: Vec<String> = s.candidates(w.project.id).await.unwrap().into_iter().map(|c| c.name).collect();
        assert!(names.is_sorted() && names.len() == 7);
        assert_eq!(s.candidates_of(vec![w.nodes[0].id]).await.unwrap()[0].id, w.nodes[0].id);
    })
    .await;
}

#[tokio::test]
async fn a_conflicted_node_is_handed_nothing_until_it_is_adopted_again() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let id = w.nodes[0].id;
        assert!(s.node_conflicted(id, seed::write()).await.unwrap());
        assert!(!s.node_conflicted(id, seed::write()).await.unwrap(), "only an adopted node can fall out with itself");
        assert_eq!(s.node_credential_of(id).await.unwrap().standing, Standing::Conflicted);
        assert_eq!(s.node_stats(w.project.id).await.unwrap().quarantined, 1);
        assert!(s.adopt_node(SYSTEM, id, seed::write()).await.unwrap().changed);
        s.revoke_node(SYSTEM, id, seed::write()).await.unwrap();
        assert!(!s.node_conflicted(id, seed::write()).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn credentials_change_their_epoch_and_void_what_was_issued() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let id = w.nodes[0].id;
        assert_eq!(s.rotate_node_key(SYSTEM, id, Digest::of(b"k2"), None, seed::write()).await.unwrap(), 2);
        let mut stale = NodeChange::of(id, w.project.id);
        stale.expect_epoch = Some(1);
        stale.health = Some(HealthClass::Degraded);
        assert_eq!(s.observe(vec![stale], seed::write()).await, Err(Error::Conflict("epoch")));
        let revoked = s.revoke_node(SYSTEM, id, seed::write()).await.unwrap();
        assert_eq!((revoked.changed, revoked.row.standing, revoked.row.credential_epoch), (true, Standing::Revoked, 3));
        assert!(!s.revoke_node(SYSTEM, id, seed::write()).await.unwrap().changed);
        assert_eq!(s.adopt_node(SYSTEM, id, seed::write()).await, Err(Error::Conflict("state")));
        assert!(!s.adopt_node(SYSTEM, w.nodes[1].id, seed::write()).await.unwrap().changed);
        assert_eq!(s.node_credential_of(id).await.unwrap().standing, Standing::Revoked);
    })
    .await;
}

#[tokio::test]
async fn an_observation_writes_the_columns_it_names_and_no_others() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let before = s.node(SYSTEM, w.nodes[0].id).await.unwrap();
        let mut plain = NodeChange::of(w.nodes[0].id, w.project.id);
        plain.health = Some(HealthClass::Degraded);
        plain.last_error = Some(Some("boom".into()));
        plain.last_seen = Some(Timestamp(seed::now().0 - 5));
        plain.events = vec![NodeEvent {
            node: plain.node,
            project: w.project.id,
            at: seed::now(),
            kind: "bundle_switch".into(),
            detail: serde_json::json!({"x": 0.1}),
            rollout: None,
        }];
        let mut wide = NodeChange::of(w.nodes[1].id, w.project.id);
        wide.version = Some(Some("27".into()));
        wide.ip = Some(None);
        wide.instance = Some(Some("boot-2".into()));
        wide.active_bundle = Some(Some(w.bundle.id));
        s.observe(vec![wide, plain.clone()], seed::write()).await.unwrap();
        let after = s.node(SYSTEM, w.nodes[0].id).await.unwrap();
        let expected =
            domain::node::Node { health: HealthClass::Degraded, last_error: Some("boom".into()), ..before.clone() };
        assert_eq!(after, expected, "last_seen never goes back");
        let other = s.node(SYSTEM, w.nodes[1].id).await.unwrap();
        assert_eq!(
            (other.version.as_deref(), other.instance.as_deref(), other.active_bundle),
            (Some("27"), Some("boot-2"), Some(w.bundle.id))
        );
        let mut clear = NodeChange::of(w.nodes[1].id, w.project.id);
        clear.active_bundle = Some(None);
        s.observe(vec![clear], seed::write()).await.unwrap();
        assert_eq!(s.node(SYSTEM, w.nodes[1].id).await.unwrap().active_bundle, None);
        let events = s.node_events(SYSTEM, w.nodes[0].id, Page::first(5)).await.unwrap();
        assert_eq!((events.total, &events.rows[0].event), (1, &plain.events[0]));
        let gone = NodeChange::of(seed::id(), w.project.id);
        let mut gone = gone;
        gone.health = Some(HealthClass::Healthy);
        assert_eq!(s.observe(vec![gone], seed::write()).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn last_seen_only_ever_goes_up() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 3).await;
        let at = |n: i64| Timestamp(seed::now().0 + n);
        let seen = |node, at, skew: Option<i64>| Seen { node, at, clock_skew: skew.map(Span::secs) };
        let (one, two) = (w.nodes[0].id, w.nodes[1].id);
        let batch = [(one, at(5)), (two, at(-5)), (one, at(3)), (seed::id(), at(9))];
        let batch = batch.map(|(node, at)| seen(node, at, None)).to_vec();
        assert_eq!(s.flush_last_seen(batch).await.unwrap(), 1);
        assert_eq!(s.node(SYSTEM, w.nodes[0].id).await.unwrap().last_seen, Some(at(5)));
        assert_eq!(s.node(SYSTEM, w.nodes[1].id).await.unwrap().last_seen, Some(at(0)));
        assert_eq!(s.flush_last_seen(vec![]).await.unwrap(), 0);

        // The skew of a clock goes with it: newer words replace it, no word leaves it.
        let skew = async || s.node(SYSTEM, one).await.unwrap().clock_skew;
        assert_eq!(skew().await, None);
        for (n, said, stored) in [(10, Some(-7), -7), (11, None, -7), (9, Some(99), -7), (12, Some(3), 3)] {
            s.flush_last_seen(vec![seen(one, at(n), said)]).await.unwrap();
            assert_eq!(skew().await, Some(Span::secs(stored)));
        }
    })
    .await;
}

#[tokio::test]
async fn presence_moves_only_where_the_stored_time_still_holds() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 3).await;
        let at = |n: i64| Timestamp(seed::now().0 + n);
        s.flush_last_seen(vec![Seen { node: w.nodes[1].id, at: at(50), clock_skew: None }]).await.unwrap();
        assert_eq!(s.stale_candidates(at(10), 10).await.unwrap().len(), 2);
        let head = s.changes_head().await.unwrap();
        let all: Vec<_> = w.nodes.iter().map(|n| n.id).collect();
        let moved = s.set_presence_offline(all.clone(), at(10), seed::write()).await.unwrap();
        let mut ids: Vec<_> = moved.iter().map(|m| m.node).collect();
        ids.sort();
        assert_eq!(ids, vec![w.nodes[0].id, w.nodes[2].id]);
        assert!(moved.iter().all(|m| m.project == w.project.id && m.generation == 0));
        assert_eq!(s.set_presence_offline(all, at(10), seed::write()).await.unwrap(), vec![]);
        assert_eq!(s.stale_candidates(at(10), 10).await.unwrap(), vec![]);
        let back = s.set_online(vec![(w.nodes[0].id, at(60)), (w.nodes[1].id, at(60))], seed::write()).await.unwrap();
        assert_eq!((back.len(), back[0].node, back[0].last_seen), (1, w.nodes[0].id, Some(at(60))));
        assert_eq!(s.changes_after(head, 10).await.unwrap().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_zero_byte_from_a_node_is_refused_as_invalid_or_kept() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let mut c = NodeChange::of(w.nodes[0].id, w.project.id);
        c.version = Some(Some("a\0b".into()));
        match s.observe(vec![c], seed::write()).await {
            Ok(()) => assert!(!s.is_postgres()),
            Err(e) => assert!(matches!(e, Error::Invalid(_)), "{e:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn the_settings_have_sensible_defaults() {
    let c = StoreConfig::sqlite("x");
    assert!(c.readers >= 2 && c.retries >= 3 && c.statement_cache);
}

#[tokio::test]
async fn of_what_a_node_says_of_itself_the_newest_lines_stay() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let line = |n: &domain::node::Node, text: &str| NodeEvent {
            node: n.id,
            project: w.project.id,
            at: seed::now(),
            kind: "info".into(),
            detail: serde_json::json!({"message": text}),
            rollout: None,
        };
        let (a, b) = (&w.nodes[0], &w.nodes[1]);
        s.log_of_node(b.id, vec![line(b, "other")], 3, seed::write()).await.unwrap();
        for part in [["1", "2"], ["3", "4"]] {
            s.log_of_node(a.id, part.iter().map(|t| line(a, t)).collect(), 3, seed::write()).await.unwrap();
        }
        let listed = s.node_events(SYSTEM, a.id, Page::first(10)).await.unwrap();
        let said: Vec<_> = listed.rows.iter().map(|e| e.event.detail["message"].as_str().unwrap()).collect();
        assert_eq!((said, listed.total), (vec!["4", "3", "2"], 3));
        assert_eq!(s.node_events(SYSTEM, b.id, Page::first(10)).await.unwrap().total, 1);
    })
    .await;
}

#[tokio::test]
async fn that_a_node_says_not_now_is_stored_and_taken_back() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let id = w.nodes[0].id;
        let busy = Busy { since: seed::now(), until: Timestamp(seed::now().0 + 7) };
        for said in [Some(busy), None] {
            let mut change = NodeChange::of(id, w.project.id);
            change.busy = Some(said);
            s.observe(vec![change], seed::write()).await.unwrap();
            assert_eq!(s.node(SYSTEM, id).await.unwrap().busy, said);
            let until = said.map(|b| b.until);
            let fleet = s.fleet_nodes(vec![id]).await.unwrap();
            let candidates = s.candidates_of(vec![id]).await.unwrap();
            assert_eq!((fleet[0].busy_until, candidates[0].busy_until), (until, until));
        }
        assert_eq!(s.node(SYSTEM, w.nodes[1].id).await.unwrap().busy, None);
    })
    .await;
}

#[tokio::test]
async fn of_what_a_node_counts_and_sees_the_newest_of_each_kind_stay() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 2).await;
        let (a, b, p) = (w.nodes[0].id, w.nodes[1].id, w.project.id);
        let sample = |kind, n: u32| Sample { kind, detail: serde_json::json!({"n": n}) };
        let kept = async |node, kind| -> (Vec<u64>, i64) {
            let l = s.samples(SYSTEM, node, kind, Page::first(10)).await.unwrap();
            (l.rows.iter().map(|r| r.detail["n"].as_u64().unwrap()).collect(), l.total)
        };
        s.put_samples(b, p, vec![sample(SampleKind::Waf, 9)], 3, seed::write()).await.unwrap();
        s.put_samples(a, p, vec![sample(SampleKind::Request, 7)], 3, seed::write()).await.unwrap();
        for part in [[1, 2], [3, 4]] {
            let all = part.map(|n| sample(SampleKind::Waf, n)).to_vec();
            s.put_samples(a, p, all, 3, seed::write()).await.unwrap();
        }
        assert_eq!(kept(a, SampleKind::Waf).await, (vec![4, 3, 2], 3));
        assert_eq!(kept(a, SampleKind::Request).await, (vec![7], 1));
        assert_eq!(kept(b, SampleKind::Waf).await, (vec![9], 1));
        assert_eq!(kept(b, SampleKind::Metrics).await, (vec![], 0));
    })
    .await;
}

#[tokio::test]
async fn of_the_configurations_of_a_node_the_last_is_kept_until_it_is_deleted() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let (node, p) = (w.nodes[0].id, w.project.id);
        assert_eq!(s.node_config(SYSTEM, node).await, Err(Error::NotFound));
        let mut later = seed::write();
        later.at = Timestamp(seed::now().0 + 5);
        for (text, write, changed) in
            [("a", seed::write(), true), ("a", later.clone(), false), ("b", seed::write(), true), ("b", later, false)]
        {
            let hash = Digest::of(text.as_bytes());
            assert_eq!(s.put_node_config(node, p, hash, text.into(), write).await.unwrap(), changed, "{text}");
        }
        let kept = NodeConfig { hash: Digest::of(b"b"), config: "b".into(), at: seed::now() };
        assert_eq!(s.node_config(SYSTEM, node).await.unwrap(), kept);
        assert_eq!(s.node_config(Scope::Project(seed::id()), node).await, Err(Error::NotFound));
        s.delete_node(SYSTEM, node, seed::write()).await.unwrap();
        assert_eq!(s.node_config(SYSTEM, node).await, Err(Error::NotFound));
    })
    .await;
}
