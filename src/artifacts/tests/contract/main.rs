//! One contract, held over the directory store and over a real S3 server; then the faults of each.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod faults;
// The tests of the whole product use the rest of it.
#[allow(dead_code)]
mod peer;
mod urls;

use artifacts::{ArtifactStore, DirStore, Error, Key, Put, UrlSigner};
use bytes::Bytes;
use domain::{ContentId, Digest, ProjectId, Timestamp};
use futures_util::StreamExt;
use std::path::PathBuf;
use std::time::SystemTime;

/// A store and what keeps it alive.
pub struct Place {
    pub name: &'static str,
    pub store: ArtifactStore,
    peer: Option<peer::Peer>,
    root: tempfile::TempDir,
}

impl Place {
    pub fn dir() -> Place {
        let root = tempfile::tempdir().unwrap();
        let signer = UrlSigner::new([7; 32], "http://cp.test");
        let store = ArtifactStore::dir(DirStore::open(root.path(), signer).unwrap());
        Place { name: "dir", store, peer: None, root }
    }

    pub async fn s3() -> Place {
        let peer = peer::Peer::start().await;
        Place { name: "s3", store: peer.store(), peer: Some(peer), root: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, key: &Key) -> PathBuf {
        match &self.peer {
            Some(peer) => peer.path(key.as_str()),
            None => self.root.path().join(key.as_str()),
        }
    }
}

pub async fn both() -> [Place; 2] {
    [Place::dir(), Place::s3().await]
}

pub fn key(n: u8) -> Key {
    Key::bundle(ProjectId::NIL, ContentId::of(&[n]))
}

pub fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64)
}

/// Longer than one piece of a stream, and no piece like another.
pub fn long() -> Bytes {
    (0..300_000u32).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn what_was_put_can_be_got_headed_listed_and_deleted() {
    for Place { name, store, .. } in &both().await {
        let (key, bytes) = (key(1), long());
        assert_eq!(store.head(&key).await.unwrap(), None, "{name}");
        assert_eq!(store.get(&key, 1 << 20).await, Err(Error::NotFound), "{name}");
        assert!(matches!(store.open(&key, None).await, Err(Error::NotFound)), "{name}");
        assert_eq!(store.put_if_absent(&key, bytes.clone(), None).await.unwrap(), Put::Created, "{name}");

        let head = store.head(&key).await.unwrap().unwrap();
        assert_eq!(head.size, bytes.len() as u64, "{name}");
        assert!(head.etag.starts_with('"') && head.etag.ends_with('"') && head.etag.len() > 2, "{name}: {}", head.etag);
        assert!(now().since(head.modified).as_secs() < 60 && head.modified.0 > 0, "{name}: {:?}", head.modified);
        assert_eq!(store.get(&key, bytes.len() as u64).await.unwrap(), bytes, "{name}");
        assert_eq!(store.get_verified(&key, 1 << 20, Digest::of(&bytes)).await.unwrap(), bytes, "{name}");
        let listed = store.list("bundles/", None, 10).await.unwrap();
        assert_eq!(listed.iter().map(|e| (&e.key, e.size)).collect::<Vec<_>>(), [(&key, head.size)], "{name}");

        store.delete(&key).await.unwrap();
        store.delete(&key).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap(), None, "{name}");
        assert_eq!(store.list("", None, 10).await.unwrap(), [], "{name}");
        assert_eq!(store.put_if_absent(&key, bytes, None).await.unwrap(), Put::Created, "{name}: after a delete");
    }
}

#[tokio::test]
async fn an_empty_object_is_an_object() {
    for Place { name, store, .. } in &both().await {
        assert_eq!(store.put_if_absent(&key(1), Bytes::new(), None).await.unwrap(), Put::Created, "{name}");
        assert_eq!(store.get(&key(1), 0).await.unwrap(), Bytes::new(), "{name}");
        assert_eq!(store.head(&key(1)).await.unwrap().unwrap().size, 0, "{name}");
    }
}

#[tokio::test]
async fn an_existing_object_is_never_overwritten() {
    for Place { name, store, .. } in &both().await {
        let (old, new) = (Bytes::from_static(b"old"), Bytes::from_static(b"new"));
        store.put_if_absent(&key(1), old.clone(), None).await.unwrap();
        assert_eq!(store.put_if_absent(&key(1), new, None).await.unwrap(), Put::Existed, "{name}");
        assert_eq!(store.get(&key(1), 9).await.unwrap(), old, "{name}");
    }
}

#[tokio::test]
async fn a_put_with_a_digest_checks_the_object_that_exists() {
    for Place { name, store, .. } in &both().await {
        let key1 = key(1);
        let put = |bytes: &'static [u8]| store.put_if_absent(&key1, Bytes::from(bytes), Some(Digest::of(bytes)));
        assert_eq!(put(b"old").await.unwrap(), Put::Created, "{name}");
        assert_eq!(put(b"old").await.unwrap(), Put::Existed, "{name}");
        assert!(matches!(put(b"new").await, Err(Error::Corrupt(_))), "{name}: same length");
        assert!(matches!(put(b"longer").await, Err(Error::Corrupt(_))), "{name}: other length");
        let lie = store.put_if_absent(&key(2), Bytes::from_static(b"x"), Some(Digest::of(b"y"))).await;
        assert!(matches!(lie, Err(Error::Invalid(_))), "{name}: bytes that are not what the caller says");
        assert_eq!(store.head(&key(2)).await.unwrap(), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_puts_one_creates_and_the_object_is_its() {
    for Place { name, store, .. } in &both().await {
        for round in 0..10 {
            let racers = (0..8u8).map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    let bytes = Bytes::from(vec![n; 100_000]);
                    (n, store.put_if_absent(&key(round), bytes, None).await.unwrap())
                })
            });
            let mut winners = Vec::new();
            for racer in racers.collect::<Vec<_>>() {
                let (n, put) = racer.await.unwrap();
                winners.extend(put.is_created().then_some(n));
            }
            assert_eq!(winners.len(), 1, "{name}: {winners:?}");
            let bytes = store.get(&key(round), 1 << 20).await.unwrap();
            assert_eq!(bytes, vec![winners[0]; 100_000], "{name}");
        }
    }
}

#[tokio::test]
async fn ranges_give_exactly_their_bytes() {
    for Place { name, store, .. } in &both().await {
        let bytes = long();
        let size = bytes.len() as u64;
        store.put_if_absent(&key(1), bytes.clone(), None).await.unwrap();
        for range in [0..1, 0..size, 1..2, 65_535..65_537, 100_000..size, size - 1..size] {
            let part = store.get_range(&key(1), range.clone()).await.unwrap();
            assert_eq!(part, bytes[range.start as usize..range.end as usize], "{name} {range:?}");
        }
        for range in [size..size + 1, 0..size + 1, 5..5, u64::MAX - 1..u64::MAX] {
            let part = store.get_range(&key(1), range.clone()).await;
            assert!(matches!(part, Err(Error::Invalid(_))), "{name} {range:?}: {part:?}");
        }
        assert_eq!(store.get_range(&key(2), 0..1).await, Err(Error::NotFound), "{name}");
    }
}

#[tokio::test]
async fn a_stream_tells_its_size_first_and_then_gives_all_pieces() {
    for Place { name, store, .. } in &both().await {
        let bytes = long();
        store.put_if_absent(&key(1), bytes.clone(), None).await.unwrap();
        let head = store.head(&key(1)).await.unwrap().unwrap();
        for range in [None, Some(7..200_000)] {
            let object = store.open(&key(1), range.clone()).await.unwrap();
            let want = range.unwrap_or(0..head.size);
            assert_eq!(
                (&object.head.size, &object.head.etag, &object.range),
                (&head.size, &head.etag, &want),
                "{name}"
            );
            let pieces: Vec<Bytes> = object.body.map(Result::unwrap).collect().await;
            assert_eq!(pieces.concat(), bytes[want.start as usize..want.end as usize], "{name}");
        }
    }
}

#[tokio::test]
async fn nothing_longer_than_the_callers_limit_is_read() {
    for Place { name, store, .. } in &both().await {
        store.put_if_absent(&key(1), Bytes::from_static(b"12345"), None).await.unwrap();
        assert!(matches!(store.get(&key(1), 4).await, Err(Error::Invalid(_))), "{name}");
        assert_eq!(store.get(&key(1), 5).await.unwrap(), "12345", "{name}");
    }
}

#[tokio::test]
async fn listing_goes_on_where_it_stopped_in_byte_order() {
    for Place { name, store, .. } in &both().await {
        // '-' < '.' < '/': a walk of directories by name would give another order.
        let mut keys: Vec<Key> =
            ["a-b/1", "a.b", "a/1", "a/2", "a/2x/3", "b/1"].iter().map(|k| Key::parse(k).unwrap()).collect();
        keys.sort();
        for key in keys.iter().rev() {
            store.put_if_absent(key, Bytes::from_static(b"x"), None).await.unwrap();
        }
        for max in [1, 2, 5, 6, 7] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store.list("", after.as_ref(), max).await.unwrap();
                seen.extend(page.iter().map(|e| e.key.clone()));
                after = seen.last().cloned();
                if page.len() < max {
                    break;
                }
            }
            assert_eq!(seen, keys, "{name}, pages of {max}");
        }
        let names = |prefix: &'static str| async move {
            let page = store.list(prefix, None, 100).await.unwrap();
            page.iter().map(|e| e.key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names("a/").await, ["a/1", "a/2", "a/2x/3"], "{name}");
        assert_eq!(names("a/2").await, ["a/2", "a/2x/3"], "{name}: also half a segment");
        assert_eq!(names("a/2x/").await, ["a/2x/3"], "{name}");
        assert_eq!(names("c/").await, [""; 0], "{name}");
        assert!(matches!(store.list("../", None, 9).await, Err(Error::Invalid(_))), "{name}");
    }
}

#[tokio::test]
async fn a_store_that_works_is_ready() {
    for Place { name, store, .. } in &both().await {
        store.ready().await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(store.clean(now()).await.unwrap(), 0, "{name}");
        assert_eq!(store.list("", None, 9).await.unwrap(), [], "{name}: being asked leaves nothing behind");
    }
}

#[tokio::test]
async fn bytes_changed_behind_our_back_are_found_corrupt() {
    for place in &both().await {
        let (name, store) = (place.name, &place.store);
        let bytes = long();
        store.put_if_absent(&key(1), bytes.clone(), None).await.unwrap();
        let mut bad = bytes.to_vec();
        bad[1234] ^= 1;
        std::fs::write(place.path(&key(1)), &bad).unwrap();
        let got = store.get_verified(&key(1), 1 << 20, Digest::of(&bytes)).await;
        assert!(matches!(got, Err(Error::Corrupt(_))), "{name}: a flipped bit: {got:?}");
        let put = store.put_if_absent(&key(1), bytes.clone(), Some(Digest::of(&bytes))).await;
        assert!(matches!(put, Err(Error::Corrupt(_))), "{name}: {put:?}");
        std::fs::write(place.path(&key(1)), &bytes[..99]).unwrap();
        let got = store.get_verified(&key(1), 1 << 20, Digest::of(&bytes)).await;
        assert!(matches!(got, Err(Error::Corrupt(_))), "{name}: cut short: {got:?}");
        store.delete(&key(1)).await.unwrap();
        assert_eq!(
            store.put_if_absent(&key(1), bytes.clone(), Some(Digest::of(&bytes))).await.unwrap(),
            Put::Created,
            "{name}: deleting and putting again heals it"
        );
    }
}
