//! A PostgreSQL server of one test's own, on TCP: killed, restarted, followed by a replica, looked into past the product.
//!
//! Owns: a directory in /tmp. A guardian process holds a pipe of ours: however we end, it stops every server in the directory and
//! removes it.

use crate::harness::eventually;
use crate::kill9::free_port;
use sim::dice::Dice;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store::testing::programs;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const GUARDIAN: &str = r#"dir="$1"; trap '' INT TERM HUP; cat >/dev/null
for f in "$dir"/*/postmaster.pid; do [ -f "$f" ] && kill -QUIT "$(head -1 "$f")" 2>/dev/null; done
sleep 1; [ -d "$dir/small" ] && umount -l "$dir/small"; rm -rf "$dir""#;

struct Place {
    dir: PathBuf,
    guardian: Child,
}

impl Place {
    fn new() -> Place {
        use std::os::unix::process::CommandExt as _;
        let dir = tempfile::Builder::new().prefix("ha").tempdir_in("/tmp").unwrap().keep();
        programs::give(&dir);
        let mut guardian = Command::new("sh");
        guardian.args(["-c", GUARDIAN, "sh"]).arg(&dir).process_group(0).stdin(Stdio::piped());
        let guardian = guardian.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Place { dir, guardian }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

fn run(program: &str, args: &[&str], last: &Path) {
    let out = programs::command(program).args(args).arg(last).current_dir("/tmp").output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

pub struct Postgres {
    place: Arc<Place>,
    data: PathBuf,
    pub port: u16,
    server: Option<Child>,
}

impl Postgres {
    /// A new, empty server.
    pub async fn start(dice: &mut Dice) -> Postgres {
        let place = Arc::new(Place::new());
        let data = place.dir.join("one");
        run("initdb", &["-A", "trust", "--no-sync", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"], &data);
        // For processes in network namespaces of their own.
        let hba = data.join("pg_hba.conf");
        let mut rules = std::fs::read_to_string(&hba).unwrap();
        rules.push_str("\nhost all all 10.0.0.0/8 trust\n");
        std::fs::write(&hba, rules).unwrap();
        let mut server = Postgres { place, data, port: free_port(dice), server: None };
        server.up().await;
        server
    }

    fn spawn(&self) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.data.with_extension("log")).unwrap();
        let mut server = programs::command("postgres");
        server.arg("-D").arg(&self.data).arg("-k").arg(&self.place.dir).arg("-p").arg(self.port.to_string());
        // What dies here is processes, never the machine: fsync proves nothing. Commits wait for the log, as they do in production.
        for setting in ["listen_addresses=*", "fsync=off", "shared_buffers=64MB", "autovacuum=off"] {
            server.args(["-c", setting]);
        }
        let server = server.current_dir("/tmp").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        server.spawn().unwrap()
    }

    /// Start, or start again; returns when it answers.
    pub async fn up(&mut self) {
        eventually("PostgreSQL is up", async || {
            // Right after a kill the old one's memory may still be in use: then the new one ends, and is started again.
            if self.server.as_mut().is_none_or(|s| s.try_wait().unwrap().is_some()) {
                self.server = Some(self.spawn());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
            Sql::connect(&self.url("postgres")).await.ok().map(drop)
        })
        .await;
    }

    /// SIGKILL of the postmaster; what it started ends by itself.
    pub fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Connections are broken off at once, everything is written, and it ends.
    pub fn shut_down(&mut self) {
        let mut server = self.server.take().unwrap();
        super::process::signal(server.id(), libc::SIGINT);
        server.wait().unwrap();
    }

    pub fn url(&self, database: &str) -> String {
        self.url_at("127.0.0.1", database)
    }

    pub fn url_at(&self, host: &str, database: &str) -> String {
        format!("postgres://postgres@{host}:{}/{database}", self.port)
    }

    pub async fn sql(&self, database: &str) -> Sql {
        Sql::connect(&self.url(database)).await.unwrap()
    }

    /// A streaming replica that every commit waits for from now on: what was acknowledged is on both.
    pub async fn replica(&self, dice: &mut Dice) -> Postgres {
        let data = self.place.dir.join("two");
        let port = self.port.to_string();
        let args =
            ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-X", "stream", "-c", "fast", "--no-sync", "-R", "-D"];
        run("pg_basebackup", &args, &data);
        let mut replica = Postgres { place: self.place.clone(), data, port: free_port(dice), server: None };
        replica.up().await;
        let here = self.sql("postgres").await;
        here.rows("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        here.rows("SELECT pg_reload_conf()").await;
        eventually("the replica is waited for", async || {
            let rows = here.rows("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").await;
            (rows[0][0] == "1").then_some(())
        })
        .await;
        replica
    }

    /// Whatever is created from now on is kept on a disk of so many megabytes. The log of what is committed stays where it was: a server
    /// that cannot write it ends, which is another fault. Errors: a tmpfs cannot be mounted here.
    pub async fn on_small_disk(&self, megabytes: u32) -> Result<SmallDisk, String> {
        let dir = self.place.dir.join("small");
        std::fs::create_dir(&dir).unwrap();
        let size = format!("size={megabytes}m");
        let out = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).output();
        let out = out.map_err(|e| format!("mount: {e}"))?;
        if !out.status.success() {
            return Err(format!("mount: {}", String::from_utf8_lossy(&out.stderr).trim()));
        }
        let tables = dir.join("tables");
        std::fs::create_dir(&tables).unwrap();
        programs::give(&tables);
        let sql = self.sql("postgres").await;
        sql.rows(&format!("CREATE TABLESPACE small LOCATION '{}'", tables.display())).await;
        sql.rows("ALTER SYSTEM SET default_tablespace = 'small'").await;
        sql.rows("SELECT pg_reload_conf()").await;
        Ok(SmallDisk { ballast: dir.join("ballast") })
    }

    /// The whole database by `pg_dump`, as README says.
    pub async fn dump(&self, database: &str) -> PathBuf {
        let to = self.place.dir.join("dump");
        run("pg_dump", &["-Fc", "-d", &self.url(database), "-f"], &to);
        to
    }

    /// The database as it was dumped, in place of the one that is there.
    pub async fn put_back(&self, database: &str, dump: &Path) {
        let admin = self.sql("template1").await;
        admin.rows(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
        admin.rows(&format!("CREATE DATABASE {database}")).await;
        run("pg_restore", &["-d", &self.url(database)], dump);
    }

    /// The replica becomes the server.
    pub async fn promote(&self) {
        self.sql("postgres").await.rows("SELECT pg_promote(true, 20)").await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            super::process::signal(server.id(), libc::SIGQUIT);
            let _ = server.wait();
        }
    }
}

/// Unmounted by the guardian.
pub struct SmallDisk {
    ballast: PathBuf,
}

impl SmallDisk {
    /// Not a byte is left.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(&self.ballast).unwrap();
        let block = [0u8; 4096];
        let full = loop {
            if let Err(e) = file.write_all(&block) {
                break e;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    pub fn clear(&self) {
        std::fs::remove_file(&self.ballast).unwrap();
    }
}

/// A connection of the test's own, past the product.
pub struct Sql {
    client: Client,
    _link: tokio::task::JoinHandle<()>,
}

impl Sql {
    pub async fn connect(url: &str) -> Result<Sql, tokio_postgres::Error> {
        let (client, link) = tokio_postgres::connect(url, NoTls).await?;
        let link = tokio::spawn(async move {
            let _ = link.await;
        });
        Ok(Sql { client, _link: link })
    }

    /// Every value as text, NULL as nothing.
    pub async fn try_rows(&self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_string()).collect());
            }
        }
        Ok(rows)
    }

    pub async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.rows(sql).await[0][0].parse().unwrap_or(0)
    }
}
