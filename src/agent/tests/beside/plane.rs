//! A control plane in 200 lines: signs, hands out, remembers what it was told, and lies when a test wants it to.

use bundle::archive::{BuildInputs, assemble, render};
use bundle::keys::{KeyPair, Role};
use bundle::trust::{ASSIGNMENT_TYPE, Assignment, Envelope, RoleKeys, Roles, TrustDoc, sign_manifest};
use bundle::verdict::{Merged, ValidatorId, Verdict};
use bundle::{Sources, verdict::Facts};
use domain::bundle::Source;
use domain::{Digest, NodeId, ProjectId, Span, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub fn key(role: Role, n: u8) -> KeyPair {
    KeyPair::from_secret(role, &[n; 32])
}
pub fn project() -> ProjectId {
    "01900000-0000-7000-8000-000000000001".parse().unwrap()
}
pub fn node() -> NodeId {
    "01900000-0000-7000-8000-000000000002".parse().unwrap()
}
pub fn now() -> Timestamp {
    let d = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(d.as_micros() as i64)
}

/// A bundle of a configuration that says `lines` and listens on `address`.
#[derive(Clone)]
pub struct Made {
    pub id: Digest,
    pub bytes: Vec<u8>,
}

pub fn config(address: &str, lines: &str) -> String {
    format!("{lines}\nlisteners {{\n    listener \"http\" {{\n        address \"{address}\"\n    }}\n}}\n")
}

pub fn make(address: &str, lines: &str) -> Made {
    let text = config(address, lines);
    let json = json!({"schema_version": "1.0", "listeners": [{"id": "http", "address": address, "protocol": "http", "tls": null}],
        "routes": [], "said": lines, "observability": {"metrics": {"enabled": true, "address": "127.0.0.1:1"}}});
    let merged = Merged { text: text.clone(), segments: Vec::new(), files: vec!["config.kdl".into()] };
    let verdict = Verdict {
        ok: true,
        validator: ValidatorId::built_in(),
        errors: Vec::new(),
        warnings: Vec::new(),
        infos: Vec::new(),
        config_json: Some(json),
        merged: Some(merged),
        facts: Facts::default(),
    };
    // Enough that a download can be cut in two.
    let padding: Vec<u8> = (0..200_000u32).flat_map(|i| Digest::of(&i.to_le_bytes()).0[..1].to_vec()).collect();
    let extra = BTreeMap::from([("plugins/padding.bin".to_string(), padding)]);
    let (source, sources) = (Source::default(), Sources::single(text));
    let inputs = BuildInputs {
        project: project(),
        created_at: Timestamp(1),
        source: &source,
        sources: &sources,
        verdict: &verdict,
        extra: &extra,
    };
    let r = render(inputs).unwrap();
    let archive = assemble(&r, Some(&sign_manifest(&r.manifest_bytes, &key(Role::Bundle, 2)))).unwrap();
    Made { id: r.content_id, bytes: archive.bytes }
}

#[derive(Default)]
pub struct Desk {
    /// What `register` names as the node's, `None` before.
    pub order: Option<(Made, u64)>,
    /// Reports of the current generation, in order: `activated`, ...
    pub reports: Vec<(String, u64, Value)>,
    pub beats: Vec<Value>,
    pub downloads: u32,
    pub ranges: u32,
    pub registered: u32,
    /// No answer to anything.
    pub down: bool,
    /// Break off so many downloads in the middle.
    pub cut: u32,
    pub withdraw: bool,
    pub lie: Option<Lie>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    Signature,
    OtherNode,
    OtherProject,
    OldGeneration,
    Expired,
    OtherBytes,
    MoreBytes,
    Redirect,
    Origin,
    OtherBundle,
    Unsigned,
}

#[derive(Clone)]
pub struct Plane {
    pub desk: Arc<Mutex<Desk>>,
    pub url: String,
}

impl Plane {
    pub async fn start() -> Plane {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plane = Plane { desk: Arc::default(), url: format!("http://{}", listener.local_addr().unwrap()) };
        let p = plane.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let p = p.clone();
                tokio::spawn(async move { p.one(socket).await });
            }
        });
        plane
    }

    pub fn root(&self) -> String {
        format!("sha256:{}", key(Role::Root, 1).key_id())
    }

    pub fn order(&self, made: &Made, generation: u64) {
        self.desk.lock().unwrap().order = Some((made.clone(), generation));
    }

    /// What was reported for the generation.
    pub fn said(&self, generation: u64) -> Vec<String> {
        let desk = self.desk.lock().unwrap();
        desk.reports.iter().filter(|r| r.1 == generation).map(|r| r.0.clone()).collect()
    }

    /// The reason of the newest failure of the generation.
    pub fn failure(&self, generation: u64) -> Option<String> {
        let desk = self.desk.lock().unwrap();
        let last = desk.reports.iter().rev().find(|r| r.1 == generation && r.0 == "failed")?;
        Some(last.2["error"].as_str().unwrap().to_string())
    }

    pub fn last_beat(&self) -> Value {
        self.desk.lock().unwrap().beats.last().cloned().unwrap_or_default()
    }

    async fn one(&self, mut socket: TcpStream) {
        let mut bytes = Vec::new();
        let (head, mut body) = loop {
            let mut buffer = [0; 4096];
            match socket.read(&mut buffer).await {
                Ok(n) if n > 0 => bytes.extend(&buffer[..n]),
                _ => return,
            }
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break (String::from_utf8_lossy(&bytes[..at]).to_ascii_lowercase(), bytes[at + 4..].to_vec());
            }
        };
        let header = |name: &str| head.lines().find_map(|l| l.strip_prefix(&format!("{name}: "))).map(str::to_string);
        let length: usize = header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        while body.len() < length {
            let mut buffer = [0; 4096];
            match socket.read(&mut buffer).await {
                Ok(n) if n > 0 => body.extend(&buffer[..n]),
                _ => return,
            }
        }
        if self.desk.lock().unwrap().down {
            return;
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_string();
        if path.starts_with("/artifact") {
            return self.artifact(socket, header("range")).await;
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = self.answer(&path, said).await;
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            text.len()
        );
        let _ = socket.write_all((head + &text).as_bytes()).await;
    }

    async fn answer(&self, path: &str, said: Value) -> Value {
        if path.ends_with("/register") {
            self.desk.lock().unwrap().registered += 1;
            let one = |k: KeyPair| RoleKeys::one(k.public());
            let roles = Roles {
                root: one(key(Role::Root, 1)),
                bundle: one(key(Role::Bundle, 2)),
                metadata: one(key(Role::Metadata, 3)),
            };
            let doc = TrustDoc::new(1, now() + Span::secs(86_400), roles, Vec::new());
            let trust = Envelope::sign(&doc, &[&key(Role::Root, 1)]).unwrap();
            return json!({"node_id": node(), "node_token": "k", "node_key": "k", "poll_interval_s": 1, "heartbeat_interval_s": 1, "trust": trust});
        }
        if path.ends_with("/heartbeat") {
            self.desk.lock().unwrap().beats.push(said);
            return json!({"status": "ok", "node_id": node(), "last_seen_at": now(), "heartbeat_after_s": 1, "poll_now": false});
        }
        if path.contains("/bundles/latest") {
            let wait = path.split("wait=").nth(1).and_then(|w| w.parse().ok()).unwrap_or(0);
            let until = Instant::now() + Duration::from_secs(wait);
            loop {
                if let Some(update) = self.update() {
                    return update;
                }
                if Instant::now() >= until {
                    return json!({"no_update": true, "poll_after_s": 1});
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let what = path.rsplit('/').next().unwrap().to_string();
        let mut desk = self.desk.lock().unwrap();
        let generation = said["generation"].as_u64().unwrap_or(0);
        desk.reports.push((what.clone(), generation, said));
        json!({"state": what, "proceed": !desk.withdraw, "heartbeat_now": true})
    }

    fn update(&self) -> Option<Value> {
        let desk = self.desk.lock().unwrap();
        let (made, generation) = desk.order.as_ref()?;
        let over = |r: &(String, u64, Value)| r.1 == *generation && matches!(r.0.as_str(), "verified" | "failed");
        if desk.reports.iter().any(over) {
            return None;
        }
        let mut a = Assignment {
            kind: ASSIGNMENT_TYPE.into(),
            node_id: node(),
            project_id: project(),
            bundle_id: Some(made.id),
            artifact_hash: Some(Digest::of(&made.bytes)),
            size_bytes: made.bytes.len() as u64,
            rollout_id: None,
            generation: *generation,
            traffic_weight: 100,
            issued_at: now(),
            expires_at: now() + Span::secs(86_400),
            audit_head: None,
        };
        let mut signer = key(Role::Metadata, 3);
        let mut url = "/artifact?sig=secret".to_string();
        match desk.lie {
            Some(Lie::Signature) => signer = key(Role::Metadata, 77),
            Some(Lie::OtherNode) => a.node_id = NodeId::NIL,
            Some(Lie::OtherProject) => a.project_id = ProjectId::NIL,
            Some(Lie::OldGeneration) => a.generation = 1,
            Some(Lie::Expired) => a.expires_at = now() - Span::secs(3_600),
            Some(Lie::Origin) => url = "https://evil.example.org/x".into(),
            Some(Lie::OtherBundle) => a.bundle_id = Some(Digest([7; 32])),
            Some(Lie::OtherBytes | Lie::MoreBytes | Lie::Redirect | Lie::Unsigned) | None => {}
        }
        let mut assignment = serde_json::to_value(a.sign(&signer).unwrap()).unwrap();
        if desk.lie == Some(Lie::Unsigned) {
            assignment = Value::Null;
        }
        Some(
            json!({"bundle_id": made.id, "generation": a.generation, "artifact_url": url, "size_bytes": made.bytes.len(),
            "assignment": assignment, "poll_after_s": 1, "newer_field": 1}),
        )
    }

    async fn artifact(&self, mut socket: TcpStream, range: Option<String>) {
        let (bytes, cut, lie) = {
            let mut desk = self.desk.lock().unwrap();
            desk.downloads += 1;
            desk.ranges += u32::from(range.is_some());
            let cut = desk.cut > 0;
            desk.cut = desk.cut.saturating_sub(1);
            (desk.order.clone().unwrap().0.bytes, cut, desk.lie)
        };
        let mut bytes = bytes;
        match lie {
            Some(Lie::OtherBytes) => bytes[100] ^= 1,
            Some(Lie::MoreBytes) => bytes.extend([0; 1000]),
            Some(Lie::Redirect) => {
                let text = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = socket.write_all(text.as_bytes()).await;
                return;
            }
            _ => {}
        }
        let from: usize = range.and_then(|r| r.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok()).unwrap_or(0);
        let rest = &bytes[from.min(bytes.len())..];
        let mut head = format!(
            "HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\n",
            if from > 0 { "206 Partial Content" } else { "200 OK" },
            rest.len()
        );
        if from > 0 {
            head += &format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        }
        let _ = socket.write_all((head + "\r\n").as_bytes()).await;
        let sent = if cut { &rest[..rest.len() / 2] } else { rest };
        let _ = socket.write_all(sent).await;
    }
}
