//! A control plane in 300 lines: signs, hands out, remembers what it was told, and forges whatever a test wants it to.

use bundle::archive::{BuildInputs, Rendered, assemble, render};
use bundle::keys::{KeyPair, Role};
use bundle::trust::{
    ASSIGNMENT_TYPE, Assignment, Envelope, RELEASE_TYPE, Release, RoleKeys, Roles, TrustDoc, sign_manifest,
};
use bundle::verdict::{Merged, ValidatorId, Verdict};
use bundle::{Sources, verdict::Facts};
use domain::bundle::Source;
use domain::{Digest, NodeId, ProjectId, Span, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

pub fn key(role: Role, n: u8) -> KeyPair {
    KeyPair::from_secret(role, &[n; 32])
}
pub fn project() -> ProjectId {
    "01900000-0000-7000-8000-000000000001".parse().unwrap()
}
pub fn node() -> NodeId {
    "01900000-0000-7000-8000-000000000002".parse().unwrap()
}

/// The keys of an honest control plane. Others are somebody else's.
pub fn root() -> KeyPair {
    key(Role::Root, 1)
}
pub fn bundle_key() -> KeyPair {
    key(Role::Bundle, 2)
}
pub fn metadata_key() -> KeyPair {
    key(Role::Metadata, 3)
}

fn host_now() -> Timestamp {
    let d = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(d.as_micros() as i64)
}

#[derive(Clone)]
pub struct Made {
    pub id: Digest,
    pub bytes: Vec<u8>,
}

pub fn config(address: &str, lines: &str) -> String {
    format!("{lines}\nlisteners {{\n    listener \"http\" {{\n        address \"{address}\"\n    }}\n}}\n")
}

/// A bundle of a configuration that says `lines` and listens on `address`, before it is packed. `// system X` is what no reload
/// brings.
pub fn recipe(address: &str, lines: &str) -> Rendered {
    let text = config(address, lines);
    let json = json!({"schema_version": "1.0", "listeners": [{"id": "http", "address": address, "protocol": "http", "tls": null}],
        "routes": [], "said": lines, "server": {"worker_threads": lines.lines().find_map(|l| l.strip_prefix("// system "))}, "observability": {"metrics": {"enabled": true, "address": "127.0.0.1:1"}}});
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
    let cert = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec();
    let extra = BTreeMap::from([
        ("plugins/padding.bin".to_string(), padding),
        ("certs/site.pem".to_string(), cert.clone()),
        ("trust/ca.pem".to_string(), cert),
    ]);
    let (source, sources) = (Source::default(), Sources::single(text));
    let inputs = BuildInputs {
        project: project(),
        created_at: Timestamp(1),
        source: &source,
        sources: &sources,
        verdict: &verdict,
        extra: &extra,
    };
    render(inputs).unwrap()
}

/// Packed and signed by `by`, whatever is in it.
pub fn pack(r: &Rendered, by: &KeyPair) -> Made {
    let archive = assemble(r, Some(&sign_manifest(&r.manifest_bytes, by))).unwrap();
    Made { id: r.content_id, bytes: archive.bytes }
}

pub fn make(address: &str, lines: &str) -> Made {
    pack(&recipe(address, lines), &bundle_key())
}

/// One poll answer, before it is sent.
pub struct Forge {
    pub assignment: Assignment,
    pub signer: KeyPair,
    /// Fields of the answer, over those that an honest one has; `null` takes one away.
    pub fields: Map<String, Value>,
}

impl Forge {
    pub fn say(&mut self, field: &str, value: Value) {
        self.fields.insert(field.into(), value);
    }
}

type Forger = Arc<dyn Fn(&mut Forge) + Send + Sync>;

/// What downloads bring.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Serve {
    #[default]
    Honest,
    /// The first byte is another.
    Damaged,
    /// More and more, without an end.
    Endless,
    /// A byte every 100 ms.
    Slow,
    Redirect,
}

#[derive(Default)]
pub struct Desk {
    /// Bundle and generation.
    pub order: Option<(Made, u64)>,
    /// Reports: kind, generation, body.
    pub reports: Vec<(String, u64, Value)>,
    pub beats: Vec<Value>,
    pub events: Vec<Value>,
    /// Poll answers as sent.
    pub answers: Vec<Value>,
    pub downloads: u32,
    pub ranges: u32,
    pub registered: u32,
    /// No answer to anything.
    pub down: bool,
    /// Every answer but downloads never ends.
    pub babble: bool,
    /// Break off so many downloads in the middle.
    pub cut: u32,
    pub withdraw: bool,
    pub serve: Serve,
    pub forge: Option<Forger>,
    /// How far the server's clock is ahead of this host's.
    pub ahead: i64,
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
        format!("sha256:{}", root().key_id())
    }

    pub fn now(&self) -> Timestamp {
        host_now() + Span::secs(self.desk.lock().unwrap().ahead)
    }

    pub fn order(&self, made: &Made, generation: u64) {
        self.desk.lock().unwrap().order = Some((made.clone(), generation));
    }

    pub fn forge(&self, how: impl Fn(&mut Forge) + Send + Sync + 'static) {
        self.desk.lock().unwrap().forge = Some(Arc::new(how));
    }

    pub fn honest(&self) {
        let mut desk = self.desk.lock().unwrap();
        (desk.forge, desk.serve) = (None, Serve::Honest);
    }

    pub fn serve(&self, how: Serve) {
        self.desk.lock().unwrap().serve = how;
    }

    /// The newest poll answer that named this generation, as it was sent.
    pub fn answered(&self, generation: u64) -> Value {
        let desk = self.desk.lock().unwrap();
        desk.answers.iter().rev().find(|a| a["generation"] == generation).cloned().unwrap()
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

    /// A trust document of this version, with these roots and this metadata key.
    pub fn trust_doc(&self, version: u64, roots: &[&KeyPair], metadata: &KeyPair) -> TrustDoc {
        let one = |k: &KeyPair| RoleKeys::one(k.public());
        let mut root = one(roots[0]);
        root.keys = roots.iter().map(|k| k.public()).collect();
        let roles = Roles { root, bundle: one(&bundle_key()), metadata: one(metadata) };
        TrustDoc::new(version, self.now() + Span::secs(86_400), roles, Vec::new())
    }

    /// A statement by the bundle key that this is a release.
    pub fn statement(&self, made: &Made, sequence: u64, floor: u64, revoked: &[&Made], by: &KeyPair) -> Value {
        let r = Release {
            kind: RELEASE_TYPE.into(),
            project: project(),
            environment: None,
            bundle_id: made.id,
            sequence,
            floor,
            revoked: revoked.iter().map(|m| m.id).collect(),
            expires_at: self.now() + Span::secs(86_400),
        };
        serde_json::to_value(Envelope::sign(&r, &[by]).unwrap()).unwrap()
    }

    pub async fn one<S: AsyncRead + AsyncWrite + Unpin>(&self, mut socket: S) {
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
        let (down, babble) = {
            let desk = self.desk.lock().unwrap();
            (desk.down, desk.babble)
        };
        if down {
            return;
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_string();
        if path.starts_with("/artifact") {
            return self.artifact(socket, header("range")).await;
        }
        if babble {
            return endless(
                socket,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"x\":\"",
            )
            .await;
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = self.answer(&path, said).await;
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            text.len()
        );
        let _ = socket.write_all((head + &text).as_bytes()).await;
        let _ = socket.shutdown().await;
    }

    async fn answer(&self, path: &str, said: Value) -> Value {
        if path.ends_with("/register") {
            self.desk.lock().unwrap().registered += 1;
            let doc = self.trust_doc(1, &[&root()], &metadata_key());
            let trust = Envelope::sign(&doc, &[&root()]).unwrap();
            return json!({"node_id": node(), "node_token": "k", "node_key": "k", "poll_interval_s": 1, "heartbeat_interval_s": 1, "trust": trust});
        }
        if path.ends_with("/heartbeat") {
            let now = self.now();
            self.desk.lock().unwrap().beats.push(said);
            return json!({"status": "ok", "node_id": node(), "last_seen_at": now, "heartbeat_after_s": 1, "poll_now": false});
        }
        if path.ends_with("/events") {
            let mut desk = self.desk.lock().unwrap();
            desk.events.extend(said["events"].as_array().cloned().unwrap_or_default());
            return json!({"status": "ok", "count": 1});
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
        let now = self.now();
        let mut desk = self.desk.lock().unwrap();
        let (made, generation) = desk.order.as_ref()?;
        let over = |r: &(String, u64, Value)| r.1 == *generation && matches!(r.0.as_str(), "verified" | "failed");
        if desk.reports.iter().any(over) {
            return None;
        }
        let assignment = Assignment {
            kind: ASSIGNMENT_TYPE.into(),
            node_id: node(),
            project_id: project(),
            bundle_id: Some(made.id),
            artifact_hash: Some(Digest::of(&made.bytes)),
            size_bytes: made.bytes.len() as u64,
            rollout_id: None,
            generation: *generation,
            traffic_weight: 100,
            issued_at: now,
            expires_at: now + Span::secs(86_400),
            audit_head: None,
        };
        let mut f = Forge { assignment, signer: metadata_key(), fields: Map::new() };
        if let Some(forge) = desk.forge.clone() {
            forge(&mut f);
        }
        let mut answer = json!({"bundle_id": made.id, "generation": f.assignment.generation, "artifact_url": "/artifact?sig=secret",
            "size_bytes": made.bytes.len(), "assignment": f.assignment.sign(&f.signer).unwrap(), "poll_after_s": 1, "newer_field": 1});
        for (k, v) in f.fields {
            answer[k] = v;
        }
        desk.answers.push(answer.clone());
        Some(answer)
    }

    async fn artifact<S: AsyncWrite + Unpin>(&self, mut socket: S, range: Option<String>) {
        let (mut bytes, cut, serve) = {
            let mut desk = self.desk.lock().unwrap();
            desk.downloads += 1;
            desk.ranges += u32::from(range.is_some());
            let cut = desk.cut > 0;
            desk.cut = desk.cut.saturating_sub(1);
            (desk.order.clone().unwrap().0.bytes, cut, desk.serve.clone())
        };
        match serve {
            Serve::Honest => {}
            Serve::Damaged => bytes[100] ^= 1,
            Serve::Endless => return endless(socket, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await,
            Serve::Slow => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
                let _ = socket.write_all(head.as_bytes()).await;
                for byte in bytes.chunks(1) {
                    if socket.write_all(byte).await.is_err() || socket.flush().await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                return;
            }
            Serve::Redirect => {
                let text = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = socket.write_all(text.as_bytes()).await;
                return;
            }
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
        let _ = socket.shutdown().await;
    }
}

/// Until the other side has enough of it. Never ends by itself before 1 GB.
async fn endless<S: AsyncWrite + Unpin>(mut socket: S, head: &str) {
    let _ = socket.write_all(head.as_bytes()).await;
    let chunk = vec![b'x'; 64 << 10];
    for _ in 0..16_384 {
        if socket.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
