//! The host: a proxy that somebody else runs, a full disk, a read-only tree, a proxy on the way to the control plane, and what people
//! ask the agent for.

use crate::world::{World, eq, eventually};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command as Run;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What systemd would do: `restart` ends the proxy and, once it is gone with its sockets, starts another, whose number it leaves
/// in `proxy.pid`.
fn unit(w: &World) -> String {
    let dir = w.dir.path().display();
    let me = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\ncd /\nold=/proc/$(cat {dir}/proxy.pid 2>/dev/null || echo none)\nkill -9 ${{old#/proc/}} 2>/dev/null\n\
         while [ -e $old ] && ! grep -q '^State:.Z' $old/status 2>/dev/null; do sleep 0.01; done\n\
         BESIDE_FAKE=1 RUST_MIN_STACK=33554432 setsid {} run -c {dir}/state/current/proxy.kdl >>{dir}/proxy.log 2>&1 </dev/null &\n\
         echo $! >{dir}/proxy.pid\n",
        me.display()
    );
    std::fs::write(w.dir.path().join("restart"), script).unwrap();
    format!("sh {dir}/restart")
}

fn unit_pid(w: &World) -> i64 {
    std::fs::read_to_string(w.dir.path().join("proxy.pid")).unwrap().trim().parse().unwrap()
}

pub async fn a_proxy_that_a_service_manager_runs_is_driven_by_signal_and_pid_file() {
    let mut w = World::idle().await;
    let restart = unit(&w);
    let (pid, log) = (w.dir.path().join("proxy.pid"), w.dir.path().join("proxy.log"));
    let (pid, log) = (pid.to_str().unwrap().to_string(), log.to_str().unwrap().to_string());
    let flags = ["--pid-file", &pid, "--restart-command", &restart, "--proxy-log", &log];
    w.start(&flags);
    let current = w.state().join("current/proxy.kdl");
    eventually("the baseline lies ready for the unit", async || current.is_file().then_some(())).await;
    assert!(w.ask().await.is_none(), "starting the proxy is the unit's affair");
    assert!(Run::new("sh").args(["-c", &restart]).status().unwrap().success());
    w.serves("old").await;
    // From a baseline, which nobody has parsed, by a restart; then a signal is enough.
    w.plane.order(&w.bundle("// answer zero"), 0);
    w.said(0, "verified").await;
    w.serves("zero").await;
    let first = unit_pid(&w);
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.serves("one").await;
    eq(unit_pid(&w), first, &w);
    // A refusal is found in its log.
    w.plane.order(&w.bundle("// answer bad\n// refused"), 2);
    w.said(2, "failed").await;
    assert!(w.plane.failure(2).unwrap().contains("Configuration reload failed: because"));
    w.serves("one").await;
    eq(unit_pid(&w), first, &w);
    // What no reload brings: by the unit's own command.
    w.plane.order(&w.bundle("// answer two\n// system 2"), 3);
    w.said(3, "verified").await;
    w.serves("two").await;
    let second = unit_pid(&w);
    assert_ne!(second, first);
    // The unit fails: the agent says so, and leaves the starting to the service manager.
    w.signal(second, "-9");
    eventually("a heartbeat says unhealthy", async || {
        (w.plane.last_beat()["health"]["status"] == "unhealthy").then_some(())
    })
    .await;
    eq(unit_pid(&w), second, &w);
    assert!(Run::new("sh").args(["-c", &restart]).status().unwrap().success());
    eventually("a heartbeat says healthy", async || {
        (w.plane.last_beat()["health"]["status"] == "healthy").then_some(())
    })
    .await;
    // An agent killed in the middle finds it by the file.
    w.kill_agent().await;
    w.start(&flags);
    w.plane.order(&w.bundle("// answer three\n// system 2"), 4);
    w.said(4, "verified").await;
    w.serves("three").await;
    // Without a command, what needs a restart is refused and nothing changes.
    w.kill_agent().await;
    w.start(&["--pid-file", &pid, "--proxy-log", &log]);
    w.plane.order(&w.bundle("// answer four\n// system 3"), 5);
    w.said(5, "failed").await;
    assert!(w.plane.failure(5).unwrap().contains("--restart-command"), "{:?}", w.plane.failure(5));
    w.serves("three").await;
    // An orderly end of the agent leaves the unit alone.
    w.signal(i64::from(w.agent.as_ref().unwrap().id().unwrap()), "-TERM");
    w.agent.take().unwrap().wait().await.unwrap();
    eq(w.ask().await.as_deref(), Some("three"), &w);
    w.signal(unit_pid(&w), "-9");
}

pub async fn a_stale_pid_file_never_makes_a_stranger_suffer() {
    let mut w = World::idle().await;
    let mut stranger = Run::new("sleep").arg("600").spawn().unwrap();
    let pid = w.dir.path().join("proxy.pid");
    std::fs::write(&pid, stranger.id().to_string()).unwrap();
    w.start(&["--pid-file", pid.to_str().unwrap()]);
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "failed").await;
    assert!(stranger.try_wait().unwrap().is_none(), "a SIGHUP would have ended it\n{}", w.log());
    eventually("a heartbeat says unhealthy", async || {
        (w.plane.last_beat()["health"]["status"] == "unhealthy").then_some(())
    })
    .await;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// Also with everything else read-only, where the machine lets us make it so.
pub async fn nothing_outside_its_directory_is_written() {
    let mut w = World::idle().await;
    let around = |dir: &Path| {
        let mut all: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap())
            .filter(|e| e.file_name() != "state" && e.file_name() != "agent.log")
            .map(|e| (e.path(), e.metadata().unwrap().mtime_nsec(), e.metadata().unwrap().len()))
            .collect();
        all.sort();
        all
    };
    let (state, log) = (w.state(), w.dir.path().join("agent.log"));
    std::fs::create_dir(&state).unwrap();
    std::fs::write(&log, "").unwrap();
    let before = around(w.dir.path());
    let usual = w.command(&[]);
    let usual = usual.as_std();
    // Every file system but the state directory becomes read-only for the agent and the proxy that it starts.
    let script = "for m in $(awk '{print $2}' /proc/self/mounts | sort -u); do \
                  case $m in /proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro \"$m\" 2>/dev/null ;; esac; done; \
                  touch \"$0.x\" 2>/dev/null && { echo writable; exit 9; }; shift; exec \"$@\"";
    let sealed = Run::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(
            format!("mount --bind '{0}' '{0}' && {{ {script}; }}", state.display())
                .replace("case $m in /proc*", &format!("case $m in {}|/proc*", state.display())),
        )
        .arg(w.dir.path().join("probe"))
        .arg("-")
        .args(["true"])
        .status();
    let can_seal = sealed.is_ok_and(|s| s.success());
    if can_seal {
        let mut c = tokio::process::Command::new("unshare");
        c.args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(
                format!("mount --bind '{0}' '{0}' && {{ {script}; }}", state.display())
                    .replace("case $m in /proc*", &format!("case $m in {}|/proc*", state.display())),
            )
            .arg(w.dir.path().join("probe"))
            .arg("-")
            .arg(usual.get_program())
            .args(usual.get_args())
            .envs(usual.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .kill_on_drop(true);
        let out = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        w.agent = Some(c.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap());
    } else {
        eprintln!(
            "nothing_outside_its_directory_is_written: no mount namespace of one's own here; only the folder around is compared"
        );
        w.start(&[]);
    }
    w.serves("old").await;
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.plane.order(&w.bundle("// answer bad\n// dies"), 2);
    w.said(2, "failed").await;
    w.serves("one").await;
    eq(around(w.dir.path()), before, &w);
    println!("    everything else read-only: {can_seal}");
}

/// A file system of 2 MB of its own, where the machine lets us make one.
pub async fn a_full_disk_fails_the_bundle_and_not_the_proxy() {
    let mut w = World::idle().await;
    let state = w.state();
    std::fs::create_dir(&state).unwrap();
    let mounted = Run::new("mount").args(["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"]).arg(&state).status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!(
            "SKIPPED a_full_disk_fails_the_bundle_and_not_the_proxy: mount(8) of a tmpfs is not allowed here; run it as root"
        );
        return;
    }
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Run::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let _unmount = Unmount(state.clone());
    w.start(&[]);
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.serves("one").await;
    let (mut serves, mut failures) = ("one".to_string(), 0);
    // At every stage: no room for the download, for the unpacked files, for the state.
    for (n, room) in (2..).zip([0, 4 << 10, 100 << 10, 250 << 10, 400 << 10]) {
        let ballast = state.join("ballast");
        let free = {
            let out = Run::new("df").args(["--output=avail", "-B1"]).arg(&state).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            text.lines().nth(1).unwrap().trim().parse::<usize>().unwrap()
        };
        let _ = std::fs::write(&ballast, vec![0; free.saturating_sub(room)]);
        w.plane.order(&w.bundle(&format!("// answer full {n}")), n);
        let end = eventually("it fails, or there was room enough", async || {
            w.plane.said(n).into_iter().find(|s| matches!(s.as_str(), "failed" | "verified"))
        })
        .await;
        if end == "verified" {
            serves = format!("full {n}");
        } else {
            let why = w.plane.failure(n).unwrap();
            assert!(why.contains("disk") || why.contains("No space"), "{room} bytes free: {why}");
            println!("    {room} bytes free: {why}");
            failures += 1;
        }
        eq(w.ask().await, Some(serves.clone()), &w);
        // Killed in this state it comes back on what serves.
        w.kill_agent().await;
        w.start(&[]);
        let beats = w.plane.desk.lock().unwrap().beats.len();
        eventually("it beats again", async || (w.plane.desk.lock().unwrap().beats.len() > beats).then_some(())).await;
        eq(w.ask().await, Some(serves.clone()), &w);
        std::fs::remove_file(&ballast).unwrap();
    }
    assert!(failures >= 3, "{failures}");
    w.believes("two", 20).await;
}

/// TLS in front of the control plane, and a proxy that is the only way to it.
pub async fn the_control_plane_is_reached_through_the_proxy_of_the_environment() {
    let mut w = World::idle().await;
    let dir = w.dir.path().to_path_buf();
    let extensions = "subjectAltName=DNS:cp.test\nbasicConstraints=critical,CA:FALSE\n";
    let settings = format!("[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n{extensions}");
    std::fs::write(dir.join("openssl.cnf"), settings).unwrap();
    let made = Run::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cp.test"])
        .args(["-config", "openssl.cnf", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pem = |f: &str| std::fs::read(dir.join(f)).unwrap();
    let (cert, private) = (der(&pem("cert.pem")), der(&pem("key.pem")));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.into()], tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer::from(private).into())
        .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front_at = front.local_addr().unwrap();
    let plane = w.plane.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = front.accept().await {
            let (tls, plane) = (tls.clone(), plane.clone());
            tokio::spawn(async move {
                if let Ok(socket) = tls.accept(socket).await {
                    plane.one(socket).await;
                }
            });
        }
    });
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_at = proxy.local_addr().unwrap();
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = proxy.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(b) => head.push(b),
                        Err(_) => return,
                    }
                }
                seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let mut on = TcpStream::connect(front_at).await.unwrap();
                socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut on).await;
            });
        }
    });
    w.env = vec![
        ("HTTPS_PROXY".into(), format!("http://me:secret@{proxy_at}")),
        ("NO_PROXY".into(), "internal.test".into()),
        ("SSL_CERT_FILE".into(), dir.join("cert.pem").display().to_string()),
    ];
    w.plane.url = "https://cp.test".into();
    w.start(&[]);
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.serves("one").await;
    let heads = heads.lock().unwrap().clone();
    let through = |h: &String| h.starts_with("CONNECT cp.test:443 HTTP/1.1\r\n") && h.contains("Basic bWU6c2VjcmV0");
    assert!(!heads.is_empty() && heads.iter().all(through), "{heads:?}");
    assert!(!heads.iter().any(|h| h.contains("artifact") || h.contains("sentinel-node-key")), "only a name and a port");
    assert!(!w.log().contains("secret@"), "{}", w.log());
}

/// The bytes between the lines of a PEM file.
fn der(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pem);
    let body: String = text.lines().filter(|l| !l.starts_with("-----")).collect();
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let body = body.trim_end_matches('=').as_bytes().to_vec();
    let bits = body.iter().fold((Vec::new(), 0u32, 0u32), |(mut out, acc, have), c| {
        let (acc, have) = ((acc << 6) | u32::from(digit(*c)), have + 6);
        if have >= 8 {
            out.push((acc >> (have - 8)) as u8);
            return (out, acc & ((1 << (have - 8)) - 1), have - 8);
        }
        (out, acc, have)
    });
    bits.0
}

pub async fn once_does_one_round_and_status_says_what_runs_since_when_and_why() {
    let w = World::idle().await;
    let one = w.bundle("// answer one");
    w.plane.order(&one, 1);
    let out = w.command(&["--once"]).status().await.unwrap();
    assert!(out.success(), "{}", w.log());
    eq(w.plane.said(1).last().map(String::as_str), Some("verified"), &w);
    eq(w.ask().await.as_deref(), Some("one"), &w);
    let status = |more: &[&str]| {
        let out = Run::new(std::env::current_exe().unwrap())
            .args(["agent", "status", "--state-dir"])
            .arg(w.state())
            .args(more)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let text = status(&[]);
    for part in [&one.id.to_string(), "since: ", "assigned as generation 1", "running, process", "n-1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A failure is told by both, and the exit code of a refused round is not 0.
    w.plane.order(&w.bundle("// answer x\n// invalid"), 2);
    assert!(w.command(&["--once"]).status().await.unwrap().success());
    let facts: serde_json::Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert!(facts["failed"].as_str().unwrap().contains("no such upstream"), "{facts:#}");
    eq(facts["active"].as_str(), Some(one.id.to_string().as_str()), &w);
    w.plane.forge(|f| f.signer = crate::plane::bundle_key());
    w.plane.order(&w.bundle("// answer evil"), 3);
    assert!(!w.command(&["--once"]).status().await.unwrap().success());
    // The operator's notes stay in the heartbeat until their time.
    let until = w.plane.now() + domain::Span::secs(600);
    std::fs::write(w.state().join("busy_until"), serde_json::to_value(until).unwrap().as_str().unwrap()).unwrap();
    w.plane.honest();
    w.command(&["--once"]).status().await.unwrap();
    eq(w.plane.last_beat()["busy_until"].clone(), serde_json::to_value(until).unwrap(), &w);
}

pub async fn a_proxy_of_another_user_may_read_what_it_needs_and_no_more() {
    let mut w = World::idle().await;
    let own = std::fs::metadata(w.dir.path()).unwrap();
    // Root may give to any group; others only to their own.
    let group = if own.uid() == 0 { 65_534 } else { own.gid() };
    w.start(&["--proxy-group", &group.to_string()]);
    w.plane.order(&w.bundle("// answer one"), 1);
    w.said(1, "verified").await;
    w.serves("one").await;
    let look = |f: &str| {
        let m = std::fs::metadata(w.state().join(f)).unwrap();
        (m.permissions().mode() & 0o7777, m.gid() == group)
    };
    for (f, mode) in [
        ("", 0o750),
        ("releases", 0o750),
        ("current/", 0o750),
        ("current/proxy.kdl", 0o640),
        ("current/bundle/certs/site.pem", 0o640),
        ("current/bundle/plugins/padding.bin", 0o750),
        ("releases/baseline/proxy.kdl", 0o640),
    ] {
        eq((f, look(f)), (f, (mode, true)), &w);
    }
    for f in ["identity.json", "state.json", "proxy.log"] {
        eq((f, look(f).0), (f, 0o600), &w);
    }
    eq(look("download").0, 0o700, &w);
}
