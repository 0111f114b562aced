use domain::Scope;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::testing::{self, Backend, seed};
use store::{Error, Page, Store};

const SYSTEM: Scope = Scope::System("test");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_future_leaves_all_or_nothing_and_a_working_store() {
    testing::for_each_backend(|s| async move {
        let w = seed::world(&s, 40).await;
        for (i, n) in w.nodes.iter().enumerate() {
            let (id, entry) = seed::entry(Some(w.project.id), "node.revoked");
            let call = s.revoke_node(SYSTEM, n.id, seed::write().audit(id, entry));
            // Dropped at ever other points: before it is sent, inside the transaction, after the commit.
            let _ = tokio::time::timeout(Duration::from_micros(60 * i as u64), call).await;
        }
        // Another link of the same chain after them all: whatever still ran has ended then.
        let (id, entry) = seed::entry(Some(w.project.id), "node.updated");
        s.append_audit(seed::write().audit(id, entry)).await.unwrap();
        let verdict = s.audit_verify(Some(w.project.id)).await.unwrap();
        assert!(verdict.valid, "{verdict:?}");
        let revoked = s.node_stats(w.project.id).await.unwrap().revoked;
        assert_eq!(revoked + 1, verdict.entries, "each revocation has its entry, and no entry is without one");
    })
    .await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_process_ends() {
    let s = testing::open(Backend::Sqlite).await;
    let w = seed::world(&s, 3).await;
    let dir = tempfile::tempdir().unwrap();
    // A copy of the files as a crash would leave them: with the log, without a checkpoint.
    for name in ["sentinel.db", "sentinel.db-wal"] {
        std::fs::copy(s.dir().unwrap().join(name), dir.path().join(name)).unwrap();
    }
    let config = store::StoreConfig::sqlite(dir.path().join("sentinel.db"));
    let again = Store::open(config, &prometheus::Registry::new()).await.unwrap();
    again.ready().await.unwrap();
    assert_eq!(again.nodes(Scope::Project(w.project.id), Default::default(), Page::first(9)).await.unwrap().total, 3);
}

#[tokio::test]
async fn a_lost_server_is_unavailable_and_the_pool_recovers() {
    let s = testing::open(Backend::Postgres).await;
    let w = seed::world(&s, 1).await;
    let (client, link) = tokio_postgres::connect(&s.url(), tokio_postgres::NoTls).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    tokio::select! { r = client.batch_execute(kill) => r.unwrap(), _ = link => unreachable!() };
    // Idle connections were cut: whatever answers, it is certain, and soon everything works again.
    for _ in 0..20 {
        match s.node(SYSTEM, w.nodes[0].id).await {
            Ok(_) => return,
            Err(e) => assert!(matches!(e, Error::Unavailable(_)), "{e:?}"),
        }
    }
    panic!("the pool did not recover");
}

#[tokio::test]
async fn a_lock_that_is_held_is_waited_for_tried_again_and_then_unavailable() {
    let s = testing::open_with(Backend::Postgres, |c| {
        c.op_timeout = Duration::from_millis(600);
        c.retries = 1;
    })
    .await;
    let w = seed::world(&s, 1).await;
    let (client, link) = tokio_postgres::connect(&s.url(), tokio_postgres::NoTls).await.unwrap();
    let work = async {
        client.batch_execute("BEGIN; SELECT * FROM nodes FOR UPDATE").await.unwrap();
        let refused = s.revoke_node(SYSTEM, w.nodes[0].id, seed::write()).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
        assert!(s.revoke_node(SYSTEM, w.nodes[0].id, seed::write()).await.unwrap().changed);
    };
    tokio::select! { () = work => {}, _ = link => unreachable!() };
}

/// After an outage every node asks at once, and the database is slow: what carries the fleet goes on.
#[tokio::test]
async fn a_crowd_of_nodes_leaves_connections_to_those_who_decide() {
    let s = testing::open(Backend::Postgres).await;
    let w = seed::world(&s, 1).await;
    let (client, link) = tokio_postgres::connect(&s.url(), tokio_postgres::NoTls).await.unwrap();
    let work = async {
        client.batch_execute("BEGIN; LOCK TABLE nodes IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let crowd: Vec<_> = (0..20 * s.config.pool_size)
            .map(|_| {
                let (store, id, over) = (s.store.clone(), w.nodes[0].id, over.clone());
                tokio::spawn(async move {
                    loop {
                        let answer = store.node_credential_of(id).await;
                        if over.load(Ordering::Acquire) {
                            return answer;
                        }
                        // Put off: it comes again.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                })
            })
            .collect();
        // As many of them as may be have a connection, and wait for the table with it.
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while testing::rows(&s.url(), waiting).await[0][0].parse::<u32>().unwrap() < s.config.pool_size / 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        s.put_setting("x", serde_json::json!(1), seed::write()).await.unwrap();
        over.store(true, Ordering::Release);
        client.batch_execute("ROLLBACK").await.unwrap();
        for one in crowd {
            // Answered, or put off: some of them waited longer than they may.
            let answer = one.await.unwrap();
            assert!(matches!(answer, Ok(_) | Err(Error::Unavailable(_))), "{answer:?}");
        }
        s.node_credential_of(w.nodes[0].id).await.unwrap();
    };
    tokio::select! { () = work => {}, _ = link => unreachable!() };
}

#[tokio::test]
async fn each_operation_is_counted_and_timed_by_name() {
    for backend in Backend::ALL {
        let registry = prometheus::Registry::new();
        let opened = testing::open(backend).await;
        let config = match backend {
            Backend::Postgres => opened.config.clone(),
            Backend::Sqlite => {
                opened.store.clone().close().await;
                opened.config.clone()
            }
        };
        let s = Store::open(config, &registry).await.unwrap();
        let before = s.statements();
        s.all_projects().await.unwrap();
        s.node(SYSTEM, seed::id()).await.unwrap_err();
        assert_eq!(s.statements() - before, 2);
        let families = registry.gather();
        let seconds = families.iter().find(|f| f.name() == "sentinel_cp_db_op_seconds").unwrap();
        let mut ops: Vec<&str> = seconds.get_metric().iter().map(|m| m.get_label()[0].value()).collect();
        ops.sort();
        assert_eq!(ops, vec!["node.get", "project.all"]);
    }
}
