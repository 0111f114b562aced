//! Behind pgbouncer in transaction mode, where every transaction may be another session's, with the switch that says so.
//!
//! Skips itself, aloud, where pgbouncer is not installed; with `POOLER_TESTS=required` that is a failure.

use super::drills::{Several, seeded, standing};
use super::postgres::Postgres;
use crate::harness::*;
use crate::kill9::free_port;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use store::testing::programs;

const NODES: u32 = 30;

struct Pooler {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = places.map(|p| p.join("pgbouncer")).find(|p| p.is_file());
    if found.is_none() {
        let why = "PGBOUNCER IS NOT INSTALLED: the test behind a transaction-mode pooler skips itself (apt-get install pgbouncer)";
        assert_ne!(std::env::var("POOLER_TESTS").as_deref(), Ok("required"), "{why}");
        println!("{why}");
    }
    found
}

impl Pooler {
    /// Six sessions for everybody: sixteen connections of each process share them.
    async fn start(program: &Path, database: u16, port: u16) -> Pooler {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        programs::give(dir.path());
        let users = dir.path().join("users");
        std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let config = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={database} dbname=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 6\nmax_client_conn = 200\nadmin_users = postgres\n",
            users.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut c = programs::by_nobody(program);
        let child = c.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pooler = Pooler { child, port, _dir: dir };
        let url = pooler.url();
        eventually("pgbouncer answers", async || super::postgres::Sql::connect(&url).await.ok().map(drop)).await;
        pooler
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_behind_a_transaction_mode_pooler_complete_a_rollout_and_take_over() {
    let Some(program) = program() else { return };
    let mut dice = seeded(51);
    let pg = Postgres::start(&mut dice).await;
    let pooler = Pooler::start(&program, pg.port, free_port(&mut dice)).await;
    let switch = |plan: &mut super::process::Plan| plan.more = vec!["--database-pooler=true".into()];
    let mut w = Several::start_on(pg, &pooler.url(), 2, NODES, switch, &mut dice).await;
    let id = w.roll_out("v1", 3).await;
    eventually("the rollout is under way", async || {
        (rollout(&w.op, &id).await["progress"]["verified"].as_u64() >= Some(1)).then_some(())
    })
    .await;
    // Nobody, for a moment, where one was held up for longer than its lease.
    let (before, owner) = eventually("somebody owns it", async || {
        let now = standing(&w.sql, &id).await;
        w.owner(&now).map(|owner| (now, owner))
    })
    .await;
    w.all[owner].kill();
    w.completed(&id).await;
    assert!(standing(&w.sql, &id).await.fence > before.fence, "nobody took over");
    w.all[owner].up().await;
    w.sound(&id, NODES).await;
    // Many statements by then, of two processes over six sessions: none was refused for being known, or not known.
    for p in &w.all {
        assert!(!p.log().contains("prepared statement"), "{}", p.log());
    }
    w.end().await;
}
