use domain::audit::NewEntry;
use domain::{AuditId, OrgId, Scope, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;
use store::testing::{self, seed};
use store::{AuditFilter, Page, Write};
use uuid::Uuid;

#[tokio::test]
async fn concurrent_writers_do_not_fork_the_chain() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let (project, other) = (Some(w.project.id), None);
        futures_util::future::join_all((0..32).map(|i| {
            let s = s.store.clone();
            async move {
                // In both orders, so that two writers meet in two chains.
                let (a, b) = if i % 2 == 0 { (project, other) } else { (other, project) };
                let write = [a, b, a].into_iter().fold(Write::at(Timestamp(i)), |w, p| {
                    let (id, entry) = seed::entry(p, "rollout.paused");
                    w.audit(id, entry)
                });
                s.append_audit(write).await.unwrap();
            }
        }))
        .await;
        let (a, b) = (s.audit_verify(project).await.unwrap(), s.audit_verify(other).await.unwrap());
        assert!(a.valid && b.valid, "{a:?} {b:?}");
        assert_eq!(a.entries + b.entries, 96);
        assert_eq!(s.audit_chains().await.unwrap().len(), 2);
        assert_eq!(s.audit_head(project).await.unwrap().seq, a.entries);
    })
    .await;
}

#[tokio::test]
async fn entries_that_no_head_tells_of_are_found() {
    testing::for_each_backend(|s| async move {
        for at in 0..3 {
            let (id, entry) = seed::entry(None, "session.created");
            s.append_audit(Write::at(Timestamp(at)).audit(id, entry)).await.unwrap();
        }
        assert!(s.audit_verify(None).await.unwrap().valid);
        // Whoever may write to the database takes the head away: nothing there would be followed.
        testing::remove_audit_head(&s, None).await.unwrap();
        assert_eq!(s.audit_chains().await.unwrap(), []);
        assert_eq!(s.audit_chain_names().await.unwrap(), [None]);
        let verdict = s.audit_verify(None).await.unwrap();
        assert_eq!((verdict.valid, verdict.first_bad_seq), (false, Some(1)), "{verdict:?}");
    })
    .await;
}

#[tokio::test]
async fn a_refused_command_leaves_no_entry() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let mut twin = seed::project(w.org.id);
        twin.slug = w.project.slug.clone();
        let (id, entry) = seed::entry(None, "project.created");
        s.insert_project(twin, seed::write().audit(id, entry)).await.unwrap_err();
        assert_eq!(s.audit_head(None).await.unwrap().seq, 0);
    })
    .await;
}

#[tokio::test]
async fn entries_are_searched_paged_and_kept_apart() {
    testing::for_each_backend(|s| async move {
        let (a, b) = (seed::world(&s, 0).await, seed::world(&s, 0).await);
        for i in 0..10 {
            let action = if i % 2 == 0 { "rollout.paused" } else { "rollouts_x.made" };
            let (id, entry) = seed::entry(Some(a.project.id), action);
            s.append_audit(Write::at(Timestamp(i)).audit(id, entry)).await.unwrap();
        }
        let (id, entry) = seed::entry(Some(b.project.id), "rollout.paused");
        s.append_audit(Write::at(Timestamp(100)).audit(id, entry)).await.unwrap();
        let scope = Scope::Project(a.project.id);
        let all = s.audit_entries(scope, AuditFilter::default(), Page::first(4)).await.unwrap();
        assert_eq!((all.total, all.rows.len(), all.rows[0].at), (10, 4, Timestamp(9)));
        let mut seen = all.rows;
        let mut cursor = all.next_cursor;
        while let Some(c) = cursor {
            let next =
                s.audit_entries(scope, AuditFilter::default(), Page { limit: 4, cursor: Some(c) }).await.unwrap();
            seen.extend(next.rows);
            cursor = next.next_cursor;
        }
        assert_eq!(seen.iter().map(|e| e.at.0).collect::<Vec<_>>(), (0..10).rev().collect::<Vec<_>>());
        let count = async |scope, filter| s.audit_entries(scope, filter, Page::first(50)).await.unwrap().total;
        let action = |a: &str| AuditFilter { action: Some(a.into()), ..AuditFilter::default() };
        assert_eq!(count(scope, action("rollout.")).await, 5);
        assert_eq!(count(scope, action("rollout.paused")).await, 5);
        assert_eq!(count(scope, action("rollout")).await, 0);
        assert_eq!(count(Scope::Org(b.org.id), AuditFilter::default()).await, 1);
        assert_eq!(count(Scope::System("test"), AuditFilter::default()).await, 11);
        let window = AuditFilter { since: Some(Timestamp(2)), until: Some(Timestamp(4)), ..AuditFilter::default() };
        assert_eq!(count(scope, window).await, 2);
        let resource = AuditFilter { resource: seen[0].resource_id, ..AuditFilter::default() };
        assert_eq!(count(scope, resource).await, 1);
    })
    .await;
}

#[tokio::test]
async fn entries_of_one_moment_are_listed_in_the_order_of_their_chain() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let project = Some(w.project.id);
        let mut ids: Vec<_> = (0..9).map(|_| seed::entry(project, "rollout.paused")).collect();
        // Ids say nothing of the order: here they fall while the numbers rise.
        ids.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        let write = ids.into_iter().fold(Write::at(Timestamp(5)), |w, (id, entry)| w.audit(id, entry));
        s.append_audit(write).await.unwrap();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = Page { limit: 2, cursor };
            let found = s.audit_entries(Scope::System("test"), AuditFilter::default(), page).await.unwrap();
            seen.extend(found.rows.iter().map(|e| e.seq));
            match found.next_cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, (1..=9).rev().collect::<Vec<i64>>());
    })
    .await;
}

#[tokio::test]
async fn what_the_system_tells_of_an_organisation_is_listed_for_it_alone() {
    testing::for_each_backend(|s| async move {
        let (a, b) = (seed::world(&s, 0).await, seed::world(&s, 0).await);
        let entry = |project, resource, org: Option<OrgId>| {
            let (id, entry) = seed::entry(project, "member.updated");
            let changes = match org {
                Some(org) => json!({"org_id": org, "role": "admin"}),
                None => json!({"role": "admin"}),
            };
            (id, NewEntry { resource_id: Some(resource), changes, ..entry })
        };
        let somebody: Uuid = seed::id();
        let mine = [
            entry(Some(a.project.id), somebody, None),
            entry(None, a.org.id.0, None),
            entry(None, somebody, Some(a.org.id)),
        ];
        let others = [
            // Whatever is written into a project's chain, it is the project's.
            entry(Some(b.project.id), a.org.id.0, Some(a.org.id)),
            entry(None, b.org.id.0, None),
            entry(None, somebody, Some(b.org.id)),
        ];
        let nobodys = [entry(None, somebody, None)];
        for (id, entry) in mine.iter().chain(&others).chain(&nobodys).cloned() {
            s.append_audit(seed::write().audit(id, entry)).await.unwrap();
        }
        let ids = |entries: &[(AuditId, NewEntry)]| entries.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>();
        let listed = async |scope, org_itself| {
            let filter = AuditFilter { org_itself, ..AuditFilter::default() };
            let found = s.audit_entries(scope, filter, Page::first(50)).await.unwrap();
            assert_eq!(found.total as usize, found.rows.len());
            found.rows.iter().map(|e| e.id).collect::<BTreeSet<_>>()
        };
        assert_eq!(listed(Scope::Org(a.org.id), true).await, ids(&mine[..]));
        assert_eq!(listed(Scope::Org(a.org.id), false).await, ids(&mine[..1]), "who is none of its administrators");
        assert_eq!(listed(Scope::Org(b.org.id), true).await, ids(&others[..]));
        assert_eq!(listed(Scope::Project(a.project.id), true).await, ids(&mine[..1]));
        assert_eq!(listed(Scope::Org(seed::id()), true).await, BTreeSet::new());
    })
    .await;
}

#[tokio::test]
async fn retention_keeps_what_is_behind_an_entry_that_is_not_old() {
    testing::for_each_backend(|s| async move {
        let at = |second: i64| Timestamp(seed::now().0 + second * 1_000_000);
        // The clock of another instance was behind when it wrote the third.
        for second in [0, 50, 1, 60] {
            let (id, entry) = seed::entry(None, "rollout.paused");
            s.append_audit(store::Write::at(at(second)).audit(id, entry)).await.unwrap();
        }
        assert_eq!(s.audit_prune(None, at(10), 100, seed::id(), at(70)).await.unwrap(), 1);
        assert_eq!(s.audit_after(None, 0, 100).await.unwrap()[0].seq, 2);
        assert!(s.audit_verify(None).await.unwrap().valid);
    })
    .await;
}

#[tokio::test]
async fn retention_removes_old_entries_and_the_chain_holds_on() {
    testing::for_each_backend(|s| async move {
        let at = |second: i64| Timestamp(seed::now().0 + second * 1_000_000);
        for second in 0..10 {
            let (id, entry) = seed::entry(None, "rollout.paused");
            s.append_audit(store::Write::at(at(second)).audit(id, entry)).await.unwrap();
        }
        let seen = s.audit_after(None, 0, 100).await.unwrap();
        let witness = |i: usize| domain::audit::Witness {
            chain: None,
            head: domain::audit::Head { seq: seen[i].seq, hash: seen[i].hash },
        };
        assert_eq!(s.audit_prune(None, at(-1), 100, seed::id(), at(20)).await.unwrap(), 0, "nothing is that old");
        assert_eq!(s.audit_prune(None, at(6), 4, seed::id(), at(20)).await.unwrap(), 4);
        assert_eq!(s.audit_prune(None, at(6), 100, seed::id(), at(21)).await.unwrap(), 2);
        let left = s.audit_after(None, 0, 100).await.unwrap();
        assert_eq!(left.iter().map(|e| e.seq).collect::<Vec<_>>(), [7, 8, 9, 10, 11, 12]);
        let verdict = s.audit_verify_against(None, vec![witness(1), witness(8)]).await.unwrap();
        assert_eq!((verdict.valid, verdict.uncompared), (true, 1));
        assert!(s.audit_verify_against(None, vec![witness(5)]).await.unwrap().valid, "the last one removed");
        assert!(!s.audit_verify_against(None, vec![witness(1)]).await.unwrap().valid, "nothing is left to compare");
        let mut forged = witness(8);
        forged.head.hash = domain::Digest::of(b"other");
        let verdict = s.audit_verify_against(None, vec![forged]).await.unwrap();
        assert_eq!((verdict.valid, verdict.first_bad_seq), (false, Some(9)));
        // However old it is, the newest stays.
        s.audit_prune(None, at(1_000), 100, seed::id(), at(22)).await.unwrap();
        assert!(s.audit_verify(None).await.unwrap().valid);
        assert_eq!(s.audit_prune(None, at(1_000), 100, seed::id(), at(23)).await.unwrap(), 1);
        assert!(s.audit_verify(None).await.unwrap().valid);
    })
    .await;
}
