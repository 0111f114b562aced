use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::testing::{self, Backend, seed};
use store::{ChangeCursor, ChangeKind, NewChange};
use uuid::Uuid;

fn change(id: Uuid) -> NewChange {
    NewChange { kind: ChangeKind::Setting, id, project: None, version: 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_never_skips_under_concurrent_commits() {
    testing::for_each_backend(|s| async move {
        let done = Arc::new(AtomicBool::new(false));
        let reader = {
            let (s, done) = (s.store.clone(), done.clone());
            async move {
                let mut at = ChangeCursor::default();
                let mut seen = Vec::new();
                loop {
                    let finished = done.load(Ordering::Acquire);
                    let rows = s.changes_after(at, 7).await.unwrap();
                    for r in &rows {
                        assert!(r.cursor > at, "in order, once");
                        at = r.cursor;
                        seen.push(r.id);
                    }
                    if finished && rows.is_empty() {
                        return seen;
                    }
                }
            }
        };
        let writers = async {
            let made = futures_util::future::join_all((0..8).map(|k| {
                let s = s.store.clone();
                async move {
                    let mut ids = Vec::new();
                    for i in 0..25 {
                        // Several in a transaction, and different amounts of work before the commit.
                        let mine: Vec<Uuid> = (0..1 + (k + i) % 4).map(|_| seed::id()).collect();
                        let mut w = seed::write();
                        w.changes = mine.iter().map(|id| change(*id)).collect();
                        s.put_setting(&format!("s{}", k % 3), serde_json::json!(i), w).await.unwrap();
                        ids.extend(mine);
                    }
                    ids
                }
            }))
            .await;
            done.store(true, Ordering::Release);
            made.into_iter().flatten().collect::<Vec<Uuid>>()
        };
        let (seen, written) = tokio::join!(reader, writers);
        assert_eq!(seen.len(), written.len());
        assert_eq!(seen.iter().collect::<BTreeSet<_>>(), written.iter().collect::<BTreeSet<_>>());
        let head = s.changes_head().await.unwrap();
        assert_eq!(s.changes_after(head, 9).await.unwrap(), vec![]);
        assert_eq!(head.to_string().parse(), Ok(head));
        assert_eq!(s.prune_changes(domain::Timestamp(seed::now().0 + 1)).await.unwrap(), written.len() as u64 - 1);
        assert_eq!(s.changes_head().await.unwrap(), head);
        assert_eq!(s.changes_kept().await.unwrap(), Some((head, head)));
    })
    .await;
}

#[tokio::test]
async fn an_open_transaction_holds_the_feed_back_and_loses_nothing() {
    let s = testing::open(Backend::Postgres).await;
    let (client, link) = tokio_postgres::connect(&s.url(), tokio_postgres::NoTls).await.unwrap();
    let slow = async {
        let insert = "INSERT INTO changes (kind, id, version, at) VALUES ('setting', '00000000-0000-0000-0000-00000000000a', 1, 1)";
        client.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();
        // A later transaction commits first, with a higher number.
        s.put_setting("x", serde_json::json!(1), seed::write().change(change(Uuid::from_u128(11)))).await.unwrap();
        assert_eq!(s.changes_after(ChangeCursor::default(), 9).await.unwrap(), vec![], "it waits for the older one");
        client.batch_execute("COMMIT").await.unwrap();
        let ids: Vec<_> =
            s.changes_after(ChangeCursor::default(), 9).await.unwrap().iter().map(|c| c.id.as_u128()).collect();
        assert_eq!(ids, vec![10, 11]);
    };
    tokio::select! { () = slow => {}, _ = link => unreachable!() };
}

#[tokio::test]
async fn somebody_elses_database_does_not_hold_the_feed_back() {
    let s = testing::open(Backend::Postgres).await;
    let (client, link) =
        tokio_postgres::connect(&testing::empty_postgres().await, tokio_postgres::NoTls).await.unwrap();
    let work = async {
        client.batch_execute("BEGIN; CREATE TABLE x (y BIGINT)").await.unwrap();
        s.put_setting("x", serde_json::json!(1), seed::write().change(change(Uuid::from_u128(12)))).await.unwrap();
        assert_eq!(s.changes_after(ChangeCursor::default(), 9).await.unwrap().len(), 1);
        client.batch_execute("ROLLBACK").await.unwrap();
    };
    tokio::select! { () = work => {}, _ = link => unreachable!() };
}

#[tokio::test]
async fn old_changes_are_forgotten_some_at_once_and_the_newest_stays() {
    testing::for_each_backend(|s| async move {
        let mut w = seed::write();
        w.changes = (0..1_500).map(|_| change(seed::id())).collect();
        s.put_setting("x", serde_json::json!(1), w).await.unwrap();
        let head = s.changes_head().await.unwrap();
        let later = domain::Timestamp(seed::now().0 + 1);
        assert_eq!(s.prune_changes(later).await.unwrap(), 1_499);
        assert_eq!(s.operations()["change.prune"], 2, "in transactions of a thousand");
        assert_eq!(s.changes_after(ChangeCursor::default(), 9).await.unwrap().len(), 1);
        assert_eq!(s.changes_head().await.unwrap(), head);
    })
    .await;
}

/// As one whose disk hangs, or that lost its power a moment ago: it takes connections, and says nothing.
async fn silent_host() -> tokio::net::TcpListener {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_first_host_keeps_neither_the_pool_nor_the_listener_from_the_second() {
    let s = testing::open(Backend::Postgres).await;
    let (silent, direct) = (silent_host().await, s.url());
    let port = silent.local_addr().unwrap().port();
    let both = direct.replacen('@', &format!("@127.0.0.1:{port},"), 1);
    let mut config = s.config.clone();
    config.database = store::Database::Postgres { url: format!("{both}?connect_timeout=2") };
    config.pool_size = 1;
    let mut tries = 0;
    let store = loop {
        tries += 1;
        match store::Store::open(config.clone(), &prometheus::Registry::new()).await {
            Ok(store) => break store,
            // The second host too has two seconds only.
            Err(e) => assert!(tries < 10, "{e}"),
        }
    };
    let mut listener = store.listen();
    // Each wait is shorter than the time that the silent host is given. A generous number: the listener hears at about the fifth.
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%LISTEN sentinel_changes%' \
                   AND pid <> pg_backend_pid()";
    for _ in 0..240 {
        listener.wait(Duration::from_millis(500)).await;
        if testing::rows(&direct, listens).await == [["1"]] {
            return;
        }
    }
    panic!("the listener does not listen");
}

/// The host of this session is gone without a word: the next operation must not wait for it as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_did_not_answer_in_time_is_not_used_again() {
    let s = testing::open_with(Backend::Postgres, |c| c.pool_size = 1).await;
    s.setting("x").await.unwrap();
    let ours = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT value FROM settings%'";
    let pids: Vec<String> = testing::rows(&s.url(), ours).await.concat();
    assert_eq!(pids.len(), 1, "{pids:?}");
    let frozen = Frozen::new(pids[0].clone());
    assert!(matches!(s.setting("x").await, Err(store::Error::Unavailable(_))));
    let mut answers = false;
    for _ in 0..20 {
        answers |= s.setting("x").await.is_ok();
        if answers {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(answers, "each operation was given the silent session");
    drop(frozen);
}

/// A process of the server that stands still until this is dropped.
struct Frozen(String);

impl Frozen {
    fn new(pid: String) -> Frozen {
        signal("STOP", &pid);
        Frozen(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("CONT", &self.0);
    }
}

fn signal(name: &str, pid: &str) {
    let sent = std::process::Command::new("kill").args([format!("-{name}").as_str(), pid]).status().unwrap();
    assert!(sent.success(), "{name} {pid}");
}

/// A listener that is connected, and has seen what there was.
async fn listening(s: &store::Store) -> store::Listener {
    let mut listener = s.listen();
    if !s.is_postgres() {
        return listener;
    }
    // Connecting counts as a wake-up, the only one there is; an attempt that failed is made again by another wait.
    for _ in 0..24 {
        let connected = listener.wait(Duration::from_secs(600));
        if tokio::time::timeout(Duration::from_secs(5), connected).await.is_ok() {
            break;
        }
    }
    listener
}

/// What wakes the listener up does so long before it would look by itself.
async fn wakes(listener: &mut store::Listener) -> bool {
    tokio::time::timeout(Duration::from_secs(20), listener.wait(Duration::from_secs(60))).await.is_ok()
}

async fn a_change(s: &store::Store) {
    s.put_setting("x", serde_json::json!(1), seed::write().change(change(seed::id()))).await.unwrap();
}

#[tokio::test]
async fn a_listener_wakes_up_after_a_commit_of_another_process() {
    testing::for_each_backend(|s| async move {
        // On SQLite there is no other process; the same store rings.
        let other = if s.is_postgres() { s.again().await.unwrap() } else { s.store.clone() };
        let (mut listener, mut others) = (listening(&s).await, listening(&other).await);
        let ((), told, woken) = tokio::join!(a_change(&other), wakes(&mut others), wakes(&mut listener));
        assert!(told && woken);
    })
    .await;
}

/// A wake-up for each of many commits would be statements that grow with the fleet: they are told to the others once.
#[tokio::test]
async fn many_commits_are_told_to_the_others_once() {
    let s = testing::open(Backend::Postgres).await;
    let mut listener = listening(&s).await;
    let (client, mut link) = tokio_postgres::connect(&s.url(), tokio_postgres::NoTls).await.unwrap();
    let mut heard = 0;
    let hearing = async {
        while let Some(message) = std::future::poll_fn(|cx| link.poll_message(cx)).await {
            heard += usize::from(matches!(message.unwrap(), tokio_postgres::AsyncMessage::Notification(_)));
        }
    };
    let work = async {
        client.batch_execute("LISTEN sentinel_changes").await.unwrap();
        for _ in 0..100 {
            a_change(&s).await;
        }
        // Nobody has waited so far; the listener tells of all of them now.
        assert!(wakes(&mut listener).await);
        // A session that hears its own voice has heard all that was said before.
        client.batch_execute("NOTIFY sentinel_changes").await.unwrap();
    };
    tokio::select! { () = work => {}, () = hearing => panic!("the connection ended") };
    assert!(heard <= 3, "{heard} notifications of 100 commits");
}
