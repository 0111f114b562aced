//! What is seen of a server that was told to go (INTERFACE.md section 1).

use crate::ha::drills::within;
use crate::harness::*;
use crate::program::Program;
use bytes::Bytes;
use serde_json::json;
use std::time::{Duration, Instant};

const KEY_SETTING: (&str, &str) = ("SENTINEL_CP_BOOTSTRAP_API_KEY", KEY);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_says_so_to_new_connections_answers_its_polls_and_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(dir.path(), &[KEY_SETTING]).await;
    let op = Client::new(&program.url, Some(KEY));
    let settings = json!({"open_registration": true, "adopt_on_registration": true});
    op.post("/api/v1/projects", json!({"name": "p", "slug": "p", "settings": settings})).await.expect(201);
    let node = Hand::register(&program.url, "p", "waits").await;
    let begun = Instant::now();
    let parked = tokio::spawn(async move { node.poll(60).await });
    // It is held: not answered although there was time for it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!parked.is_finished());
    program.terminate();
    eventually("/ready is 503 on a connection of its own", async || {
        let fresh = Client::new(&program.url, None);
        let answer = fresh.try_raw("GET", "/ready", &[], Bytes::new()).await;
        answer.is_ok_and(|a| a.status == 503).then_some(())
    })
    .await;
    assert_eq!(parked.await.unwrap()["no_update"], true);
    program.stop();
    assert!(begun.elapsed() < within(Duration::from_secs(15)), "it took {:?}", begun.elapsed());
}
