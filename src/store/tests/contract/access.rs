use domain::{Digest, Role, Scope, Timestamp};
use store::testing::{self, seed};
use store::{Bootstrap, Error, Page};

#[tokio::test]
async fn the_first_start_happens_once() {
    testing::for_each_backend(|s| async move {
        let make = || {
            let org = seed::org();
            let key = seed::api_key(org.id, None);
            let project = Some(seed::project(org.id));
            Bootstrap { admin: seed::user(&format!("{}@example.org", org.id)), key: Some(key), project, org }
        };
        let first = make();
        let results = futures_util::future::join_all((0..4).map(|i| {
            let (b, s) = (if i == 0 { first.clone() } else { make() }, s.store.clone());
            async move { s.bootstrap(b, seed::write()).await.unwrap() }
        }))
        .await;
        assert_eq!(results.iter().filter(|made| **made).count(), 1);
        assert_eq!(s.users(Page::first(50)).await.unwrap().total, 1);
        assert_eq!(s.orgs(None, Page::first(50)).await.unwrap().total, 1);
    })
    .await;
}

#[tokio::test]
async fn people_sessions_and_memberships_come_back_as_stored() {
    testing::for_each_backend(|s| async move {
        let (org, user) = (seed::org(), seed::user("a@example.org"));
        s.insert_org(org.clone(), seed::write()).await.unwrap();
        s.insert_user(user.clone(), seed::write()).await.unwrap();
        assert_eq!(s.insert_user(seed::user("a@example.org"), seed::write()).await, Err(Error::Conflict("email")));
        s.set_member(user.id, org.id, Role::Reader, seed::write()).await.unwrap();
        s.set_member(user.id, org.id, Role::Admin, seed::write()).await.unwrap();
        let m = s.memberships(user.id).await.unwrap();
        assert_eq!((m.len(), m[0].role, &m[0].org), (1, Role::Admin, &org));
        let session = domain::access::UserSession {
            id: seed::id(),
            user: user.id,
            token_hash: Digest::of(b"t"),
            csrf_hash: Digest::of(b"c"),
            created_at: seed::now(),
            last_used_at: seed::now(),
            expires_at: Timestamp(seed::now().0 + 10),
        };
        s.insert_session(session.clone(), seed::write()).await.unwrap();
        let found = s.session_by_hash(session.token_hash).await.unwrap();
        assert_eq!((found.session, found.user, found.memberships.len()), (session.clone(), user.clone(), 1));
        s.set_disabled(user.id, Some(seed::now()), seed::write()).await.unwrap();
        assert_eq!(s.session_by_hash(session.token_hash).await, Err(Error::NotFound));
        assert_eq!(s.members(org.id).await.unwrap().len(), 1);
        assert_eq!(s.remove_member(user.id, org.id, seed::write()).await, Err(Error::Conflict("last_admin")));
    })
    .await;
}

#[tokio::test]
async fn api_keys_are_found_by_hash_and_revoked_once() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let key = seed::api_key(w.org.id, Some(w.project.id));
        s.insert_api_key(key.clone(), seed::write()).await.unwrap();
        assert_eq!(s.api_key_by_hash(key.key_hash).await.unwrap(), key);
        s.touch_api_keys(vec![(key.id, Timestamp(9)), (seed::id(), Timestamp(9))]).await.unwrap();
        s.touch_api_keys(vec![(key.id, Timestamp(5))]).await.unwrap();
        assert_eq!(s.api_key_by_hash(key.key_hash).await.unwrap().last_used_at, Some(Timestamp(9)));
        let scope = Scope::Org(w.org.id);
        let write = || {
            let (id, entry) = seed::entry(None, "api_key.revoked");
            seed::write().audit(id, entry)
        };
        assert!(s.revoke_api_key(scope, key.id, write()).await.unwrap().changed);
        assert!(!s.revoke_api_key(scope, key.id, write()).await.unwrap().changed);
        assert_eq!(s.audit_head(None).await.unwrap().seq, 1, "a command that changes nothing writes nothing");
        assert_eq!(s.api_key(Scope::Org(seed::id()), key.id).await, Err(Error::NotFound));
    })
    .await;
}

#[tokio::test]
async fn one_tenant_never_sees_another() {
    testing::for_each_backend(|s| async move {
        let (a, b) = (seed::world(&s, 2).await, seed::world(&s, 1).await);
        for scope in [Scope::Org(b.org.id), Scope::Project(b.project.id)] {
            assert_eq!(s.node(scope, a.nodes[0].id).await, Err(Error::NotFound));
            assert_eq!(s.project(scope, &a.project.slug).await, Err(Error::NotFound));
            assert_eq!(s.project(scope, &a.project.id.to_string()).await, Err(Error::NotFound));
            assert_eq!(s.bundle_by_id(scope, a.bundle.id).await, Err(Error::NotFound));
            assert_eq!(s.nodes(scope, Default::default(), Page::first(10)).await.unwrap().total, 1);
            assert_eq!(s.projects(scope, Page::first(10)).await.unwrap().total, 1);
            assert_eq!(s.bundles(scope, Default::default(), Page::first(10)).await.unwrap().total, 1);
            let w = seed::write();
            assert_eq!(s.revoke_node(scope, a.nodes[0].id, w.clone()).await, Err(Error::NotFound));
            assert_eq!(s.patch_node(scope, a.nodes[0].id, Default::default(), w.clone()).await, Err(Error::NotFound));
            assert_eq!(s.delete_node(scope, a.nodes[0].id, w.clone()).await, Err(Error::NotFound));
            assert_eq!(s.revoke_bundle(scope, a.bundle.id, None, w.clone()).await, Err(Error::NotFound));
            assert_eq!(s.update_project(scope, a.project.clone(), w.clone()).await, Err(Error::NotFound));
            assert_eq!(s.delete_project(scope, a.project.id, w.clone()).await, Err(Error::NotFound));
        }
        let r = seed::new_rollout(&a);
        let id = r.planned.id;
        s.insert_rollout(r, seed::write()).await.unwrap();
        assert_eq!(s.rollout(Scope::Org(b.org.id), id).await, Err(Error::NotFound));
        assert_eq!(
            s.rollouts(Scope::Project(b.project.id), Default::default(), Page::first(10)).await.unwrap().total,
            0
        );
        let members = s.rollout_members(Scope::Org(b.org.id), id, Default::default(), Page::first(10)).await;
        assert_eq!(members, Err(Error::NotFound));
        assert_eq!(s.rollout(Scope::Org(a.org.id), id).await.unwrap().id, id);
    })
    .await;
}

#[tokio::test]
async fn slugs_are_unique_among_living_projects() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 1).await;
        let mut twin = seed::project(w.org.id);
        twin.slug = w.project.slug.clone();
        assert_eq!(s.insert_project(twin.clone(), seed::write()).await, Err(Error::Conflict("slug")));
        let scope = Scope::Org(w.org.id);
        s.delete_project(scope, w.project.id, seed::write()).await.unwrap();
        assert_eq!(s.project(scope, &w.project.slug).await, Err(Error::NotFound));
        assert_eq!(s.node_credential(w.nodes[0].key_hash).await, Err(Error::NotFound));
        s.insert_project(twin.clone(), seed::write()).await.unwrap();
        assert_eq!(s.project(scope, &twin.slug).await.unwrap(), twin);
    })
    .await;
}

#[tokio::test]
async fn an_idempotency_key_is_taken_once_until_it_expires() {
    testing::for_each_backend(|s| async move {
        let record = |expires: i64| store::IdemRecord {
            credential: "k1".into(),
            route: "POST rollouts".into(),
            key: "abc".into(),
            body_hash: Digest::of(b"body"),
            status: 201,
            response: serde_json::json!({"x": 1.5}),
            expires_at: Timestamp(seed::now().0 + expires),
        };
        let (org, again) = (seed::org(), seed::org());
        s.insert_org(org.clone(), seed::write().idem(Some(record(10)))).await.unwrap();
        let found = s.idempotent("k1", "POST rollouts", "abc", seed::now()).await.unwrap();
        assert_eq!(found, Some(record(10)));
        let second = s.insert_org(again.clone(), seed::write().idem(Some(record(10)))).await;
        assert_eq!(second, Err(Error::Conflict("idempotency")));
        assert_eq!(s.org(again.id).await, Err(Error::NotFound), "the command is undone with its key");
        assert_eq!(s.idempotent("k2", "POST rollouts", "abc", seed::now()).await.unwrap(), None);
        let mut later = seed::write();
        later.at = Timestamp(seed::now().0 + 11);
        assert_eq!(s.idempotent("k1", "POST rollouts", "abc", later.at).await.unwrap(), None);
        s.insert_org(again, later.idem(Some(record(99)))).await.unwrap();
        assert_eq!(s.prune_idempotency(Timestamp(seed::now().0 + 100)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_first_value_of_a_setting_wins() {
    testing::for_each_backend(|s| async move {
        let values = futures_util::future::join_all((0..8).map(|i| {
            let s = s.store.clone();
            async move { s.setting_or_put("cookie", serde_json::json!(i)).await.unwrap() }
        }))
        .await;
        assert!(values.iter().all(|v| *v == values[0]));
        s.put_setting("cookie", serde_json::json!("x"), seed::write()).await.unwrap();
        assert_eq!(s.setting("cookie").await.unwrap(), Some(serde_json::json!("x")));
        assert_eq!(s.setting("none").await.unwrap(), None);
    })
    .await;
}
