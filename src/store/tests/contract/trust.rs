//! Keys, trust documents and release statements.

use domain::Timestamp;
use serde_json::json;
use store::testing::{self, seed};
use store::{Error, Page, ReleaseRow, SigningKey};

fn key(role: &str, key_id: &str) -> SigningKey {
    SigningKey {
        id: seed::id(),
        org: Some(seed::id()),
        role: role.into(),
        key_id: key_id.into(),
        public: vec![1; 32],
        private: Some(vec![0, 255]),
        status: "active".into(),
        exported_at: None,
        inserted_at: seed::now(),
    }
}

#[tokio::test]
async fn a_private_key_is_forgotten_only_after_somebody_was_shown_it() {
    testing::for_each_backend(|s| async move {
        let k = key("root", "ab");
        s.insert_signing_key(k.clone(), seed::write()).await.unwrap();
        assert_eq!(s.remove_private_key(k.id, seed::write()).await, Err(Error::Conflict("state")));
        s.set_key_exported(k.id, seed::write()).await.unwrap();
        assert_eq!(s.remove_private_key(k.id, seed::write()).await, Ok(true));
        assert_eq!(s.remove_private_key(k.id, seed::write()).await, Ok(false));
        assert_eq!(s.set_key_exported(k.id, seed::write()).await, Err(Error::NotFound), "there is nothing to show");
        let now = s.signing_keys(k.org, None).await.unwrap();
        assert_eq!((now[0].private.is_none(), now[0].exported_at), (true, Some(seed::write().at)));
    })
    .await;
}

#[tokio::test]
async fn keys_are_sealed_anew_all_or_none() {
    testing::for_each_backend(|s| async move {
        let (a, b) = (key("bundle", "a1"), SigningKey { private: None, ..key("bundle", "b1") });
        for k in [&a, &b] {
            s.insert_signing_key(k.clone(), seed::write()).await.unwrap();
        }
        let mine = |all: Vec<SigningKey>| all.into_iter().filter(|k| k.id == a.id).collect::<Vec<_>>();
        assert_eq!(s.reseal_keys(vec![(a.id, vec![9]), (b.id, vec![9])], seed::write()).await, Err(Error::NotFound));
        assert_eq!(mine(s.sealed_keys().await.unwrap())[0].private, a.private, "none");
        s.reseal_keys(vec![(a.id, vec![9])], seed::write()).await.unwrap();
        assert_eq!(mine(s.sealed_keys().await.unwrap())[0].private, Some(vec![9]));
        assert!(s.sealed_keys().await.unwrap().iter().all(|k| k.id != b.id));
    })
    .await;
}

#[tokio::test]
async fn trust_is_read_on_from_a_version() {
    testing::for_each_backend(|s| async move {
        let org = Some(seed::id());
        for v in 1..=4 {
            s.insert_trust(org, v, json!({"v": v}), seed::write()).await.unwrap();
        }
        let versions = |rows: Vec<(i64, serde_json::Value)>| rows.into_iter().map(|r| r.0).collect::<Vec<_>>();
        assert_eq!(versions(s.trust_after(org, 2, 10).await.unwrap()), [3, 4]);
        assert_eq!(versions(s.trust_after(org, 0, 2).await.unwrap()), [1, 2]);
    })
    .await;
}

#[tokio::test]
async fn releases_only_go_up_and_the_newest_of_each_bundle_is_found() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let (p, a) = (w.project.id, seed::compiled_bundle(&s, w.project.id, Some("1")).await.id);
        let b = seed::compiled_bundle(&s, p, Some("2")).await.id;
        let row = |bundle, sequence, body: &str| ReleaseRow {
            id: seed::id(),
            project: p,
            bundle,
            sequence,
            body: json!(body),
            inserted_at: Timestamp(5),
        };
        s.insert_release(row(a, 1, "a1"), seed::write()).await.unwrap();
        s.insert_release(row(b, 2, "b2"), seed::write()).await.unwrap();
        assert_eq!(s.insert_release(row(a, 2, "x"), seed::write()).await, Err(Error::Conflict("sequence")));
        assert_eq!(s.insert_release(row(a, 1, "x"), seed::write()).await, Err(Error::Conflict("sequence")));
        // The same place said anew: a later end, another floor.
        s.insert_release(row(b, 2, "b2 again"), seed::write()).await.unwrap();
        s.insert_release(row(a, 3, "a3"), seed::write()).await.unwrap();
        let newest = s.newest_releases(p).await.unwrap();
        let said = |bundle| newest.iter().find(|r| r.bundle == bundle).unwrap().body.clone();
        assert_eq!((newest.len(), said(a), said(b)), (2, json!("a3"), json!("b2 again")));
        let listed = s.releases(p, Page::first(2)).await.unwrap();
        assert_eq!((listed.total, listed.rows[0].sequence, listed.next_cursor.as_deref()), (3, 3, Some("2")));
        let rest = s.releases(p, Page { limit: 2, cursor: listed.next_cursor }).await.unwrap();
        assert_eq!(rest.rows.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_resource_lies_at_one_path_and_its_content_outlives_its_row_while_a_compile_may_need_it() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 0).await;
        let p = w.project.id;
        let row = |path: &str, content: &[u8]| store::Resource {
            id: seed::id(),
            project: p,
            path: path.into(),
            hash: domain::Digest::of(content),
            size_bytes: content.len() as u64,
            inserted_at: seed::now(),
            updated_at: seed::now(),
        };
        let put = async |path: &str, content: &[u8]| {
            s.put_resource(row(path, content), content.to_vec(), seed::write()).await.unwrap()
        };
        let first = put("certs/a.pem", b"one").await;
        assert!(first.changed && !put("certs/a.pem", b"one").await.changed);
        let second = put("certs/a.pem", b"two").await;
        assert_eq!((second.row.id, second.changed), (first.row.id, true), "one row for one path");
        put("certs/b.pem", b"two").await;
        let set = s.resource_set(p).await.unwrap();
        assert_eq!((set.len(), set["certs/a.pem"]), (2, domain::Digest::of(b"two")));
        let listed = s.resources(p, Page::first(1)).await.unwrap();
        assert_eq!((listed.total, listed.next_cursor.as_deref()), (2, Some("certs/a.pem")));
        assert_eq!(
            s.resource(p, "certs/a.pem").await.unwrap().id,
            s.resource(p, &first.row.id.to_string()).await.unwrap().id
        );
        let later = Timestamp(seed::write().at.0 + 1);
        let compiling = seed::bundle(p, None);
        s.enqueue_compile(compiling.clone(), domain::Digest::of(b"in"), seed::write()).await.unwrap();
        s.prune_resources(later).await.unwrap();
        assert_eq!(s.resource_content(p, first.row.hash).await.unwrap(), b"one", "a compile goes on");
        s.set_failed(compiling.id, vec![], seed::write()).await.unwrap();
        s.prune_resources(later).await.unwrap();
        assert_eq!(s.resource_content(p, first.row.hash).await, Err(Error::NotFound));
        assert_eq!(s.resource_content(p, second.row.hash).await.unwrap(), b"two");
        s.delete_resource(p, first.row.id, seed::write()).await.unwrap();
        assert_eq!(s.delete_resource(p, first.row.id, seed::write()).await, Err(Error::NotFound));
    })
    .await;
}
