//! Stores that break: each fault gives its named error, soon, and leaves nothing behind.

use crate::peer::{self, Peer};
use crate::{Place, key, long, now};
use artifacts::{ArtifactStore, DirStore, Error, LEFTOVER_AGE, Put, S3Config, S3Store, UrlSigner};
use bytes::Bytes;
use domain::Span;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;

fn s3(config: S3Config) -> ArtifactStore {
    ArtifactStore::s3(S3Store::new(config).unwrap())
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Unavailable(why)) => why,
        other => panic!("expected Unavailable, got {other:?}"),
    }
}

#[tokio::test]
async fn leftovers_of_a_crashed_put_are_ignored_and_cleaned_once_old() {
    let place = Place::dir();
    let store = &place.store;
    let left = place.path(&key(1)).ancestors().nth(3).unwrap().join(".tmp/put-crashed");
    std::fs::write(&left, b"half an obj").unwrap();
    assert_eq!(store.list("", None, 9).await.unwrap(), []);
    assert_eq!(store.head(&key(1)).await.unwrap(), None);
    assert_eq!(store.put_if_absent(&key(1), long(), None).await.unwrap(), Put::Created);

    assert_eq!(store.clean(now()).await.unwrap(), 0, "it may belong to a put that is running");
    assert!(left.exists());
    assert_eq!(store.clean(now() + LEFTOVER_AGE + Span::secs(1)).await.unwrap(), 1);
    assert!(!left.exists());
    assert_eq!(store.get(&key(1), 1 << 20).await.unwrap(), long(), "objects are left alone");
}

#[tokio::test]
async fn a_put_leaves_no_temporary_file_whether_it_wins_or_loses() {
    let place = Place::dir();
    for _ in 0..2 {
        place.store.put_if_absent(&key(1), long(), None).await.unwrap();
    }
    let tmp = place.path(&key(1)).ancestors().nth(3).unwrap().join(".tmp");
    assert_eq!(std::fs::read_dir(tmp).unwrap().count(), 0);
}

/// Root may write anywhere, so permissions prove nothing in a container: a file in the way stops everyone.
#[tokio::test]
async fn a_directory_that_cannot_be_written_is_unavailable_and_not_ready() {
    let root = tempfile::tempdir().unwrap();
    let signer = UrlSigner::new([0; 32], "http://cp.test");
    let store = ArtifactStore::dir(DirStore::open(root.path(), signer.clone()).unwrap());
    std::fs::remove_dir(root.path().join(".tmp")).unwrap();
    std::fs::write(root.path().join(".tmp"), b"in the way").unwrap();
    unavailable(store.ready().await);
    unavailable(store.put_if_absent(&key(1), long(), None).await);
    assert_eq!(store.head(&key(1)).await.unwrap(), None, "nothing half-written shows");

    std::fs::write(root.path().join("bundles-file"), b"x").unwrap();
    unavailable(DirStore::open(root.path().join("bundles-file"), signer).map(|_| ()));
}

#[tokio::test]
async fn a_directory_where_an_object_should_be_is_no_object() {
    let place = Place::dir();
    std::fs::create_dir_all(place.path(&key(1))).unwrap();
    assert_eq!(place.store.head(&key(1)).await.unwrap(), None);
    assert_eq!(place.store.get(&key(1), 9).await, Err(Error::NotFound));
    assert_eq!(place.store.list("", None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_soon() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let store = s3(peer::config(addr));
    // Refused at once; the bound is 0.5 s of pauses and generous room for a busy machine.
    let all = async {
        unavailable(store.put_if_absent(&key(1), long(), None).await);
        unavailable(store.get(&key(1), 9).await);
        unavailable(store.head(&key(1)).await);
        unavailable(store.list("", None, 9).await);
        unavailable(store.delete(&key(1)).await);
        unavailable(store.ready().await);
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_unavailable_after_the_time_limits() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = s3(peer::config(silent.local_addr().unwrap()));
    let begun = tokio::time::Instant::now();
    unavailable(store.head(&key(1)).await);
    // Three tries of 5 s and pauses of 0.1 and 0.4 s, in paused time.
    assert!(begun.elapsed() <= Duration::from_millis(15_600), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_failing_server_is_asked_three_times_and_no_more() {
    let peer = Peer::start().await;
    let store = peer.store();
    peer.faults.fail_first.store(usize::MAX, Ordering::SeqCst);
    let why = unavailable(store.get(&key(1), 9).await);
    assert!(why.contains("503"), "{why}");
    assert_eq!(peer.faults.seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn two_failures_in_a_row_are_survived() {
    let peer = Peer::start().await;
    let store = peer.store();
    peer.faults.fail_first.store(2, Ordering::SeqCst);
    assert_eq!(store.put_if_absent(&key(1), long(), None).await.unwrap(), Put::Created);
    peer.faults.fail_first.store(2, Ordering::SeqCst);
    assert_eq!(store.get(&key(1), 1 << 20).await.unwrap(), long());
}

#[tokio::test]
async fn a_server_without_conditional_puts_does_not_make_us_overwrite() {
    let peer = Peer::start().await;
    let store = peer.store();
    peer.faults.ignore_if_none_match.store(true, Ordering::SeqCst);
    assert_eq!(store.put_if_absent(&key(1), Bytes::from_static(b"old"), None).await.unwrap(), Put::Created);
    assert_eq!(store.put_if_absent(&key(1), Bytes::from_static(b"new"), None).await.unwrap(), Put::Existed);
    assert_eq!(store.get(&key(1), 9).await.unwrap(), "old");
}

#[tokio::test]
async fn a_missing_bucket_or_wrong_key_is_unavailable_and_not_an_absent_object() {
    let peer = Peer::start().await;
    let wrong = s3(S3Config { secret_key: "wrong".into(), ..peer.config() });
    unavailable(wrong.ready().await);
    unavailable(wrong.head(&key(1)).await);
    unavailable(wrong.put_if_absent(&key(1), long(), None).await);
    // s3s-fs makes a missing bucket on the first put and calls a get in it NoSuchKey, so these two must do.
    let missing = s3(S3Config { bucket: "nowhere".into(), ..peer.config() });
    unavailable(missing.ready().await);
    unavailable(missing.list("", None, 9).await);
}
