//! The control plane of a history: one or two whole trees behind their front doors, which die and come back.
//!
//! Owns: the database, the instances, and what the network between nodes and them loses, doubles and delays.

use super::template::{self, Template};
use super::witness::Witness;
use crate::harness::*;
use actors::clock::Clock;
use actors::fresh::Fresh;
use actors::{Parts, PlaneConfig, Tree};
use artifacts::{ArtifactStore, DirStore, UrlSigner};
use bundle::child::ChildValidator;
use bundle::keys::MasterKey;
use bytes::Bytes;
use domain::{Span, Timestamp};
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use sim::dice::Dice;
use sim::wire::CallError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::Store;
use store::testing::{At, Backend, Faults, Opened, open};
use tokio::task::JoinHandle;

pub const STALE: Span = Span::secs(30);
/// Six nodes make a handful of calls each when something happens.
const MOST_AT_ONCE: u32 = 500;
const URL: &str = "http://control-plane";

/// What goes wrong in a history, as long as it is armed.
#[derive(Clone, Debug, Default)]
pub struct Chaos {
    /// The one commit, counted from when it is armed, at which something happens.
    pub at: Option<(u64, At)>,
    /// Deaths at random commits, at most so many.
    pub deaths: u32,
    /// Of 1,000 commits, how many are refused, and of how many the answer is lost.
    pub database: u64,
    /// Of 1,000 requests of nodes, how many are lost, lose their answer, come late, come twice (each).
    pub network: u64,
    /// How long a dead process stays dead, at most.
    pub outage: Duration,
}

struct Fate {
    chaos: Chaos,
    armed: bool,
    dice: Dice,
    commits: u64,
    deaths: u32,
    trace: Vec<&'static str>,
}

impl Fate {
    fn at_commit(&mut self, op: &'static str) -> At {
        if !self.armed {
            return At::Go;
        }
        self.commits += 1;
        self.trace.push(op);
        if let Some((n, what)) = self.chaos.at {
            return if n == self.commits { what } else { At::Go };
        }
        let (throw, side) = (self.dice.throw() % 1_000, self.dice.throw() % 2);
        // Deaths about 30 commits apart.
        if self.deaths < self.chaos.deaths && throw < 33 {
            self.deaths += 1;
            return if side == 0 { At::DieBefore } else { At::DieAfter };
        }
        match 999 - throw {
            t if t < self.chaos.database => At::Refused,
            t if t < 2 * self.chaos.database => At::AnswerLost,
            _ => At::Go,
        }
    }
}

/// A process that lives.
#[derive(Clone)]
struct Process {
    life: Faults,
    door: web::Inside,
    _tree: Arc<Tree>,
}

/// A place for one process after the other.
struct Seat {
    store: Store,
    process: Option<Process>,
}

pub struct Plant {
    /// Dropped last.
    _db: Option<Opened>,
    dir: tempfile::TempDir,
    clock: Clock,
    pub bundles: BTreeMap<&'static str, String>,
    seats: Mutex<Vec<Seat>>,
    turn: Mutex<usize>,
    fate: Arc<Mutex<Fate>>,
    net: Mutex<Dice>,
    /// Requests of nodes at one instant of virtual time.
    instant: Mutex<(Timestamp, u32)>,
    pub witness: Witness,
    virtual_time: bool,
    keepers: Mutex<Vec<JoinHandle<()>>>,
    /// Of dead processes nothing is tidied up.
    graveyard: Mutex<Vec<Process>>,
}

fn registry() -> prometheus::Registry {
    prometheus::Registry::new()
}

impl Plant {
    /// One process on SQLite, in virtual time.
    pub async fn on_sqlite(seed: u64, chaos: Chaos) -> Arc<Plant> {
        let template = Template::get();
        let dir = template.copy();
        let mut config = store::StoreConfig::sqlite(dir.path().join("sentinel.db"));
        config.in_caller = true;
        let store = Store::open(config, &registry()).await.unwrap();
        let clock = Clock::carried(template.later);
        Plant::build(None, dir, clock, template.bundles.clone(), vec![store], seed, chaos).await
    }

    /// Two processes on PostgreSQL, which has a clock of its own: in real time.
    pub async fn on_postgres(seed: u64, chaos: Chaos) -> Arc<Plant> {
        let db = open(Backend::Postgres).await;
        let dir = tempfile::tempdir().unwrap();
        let one = Instance::start(db.store.clone(), dir.path(), Options::default()).await;
        let op = one.operator();
        open_project(&op, "p").await;
        let bundles = template::bundles(&op).await;
        one.stop().await;
        let stores = vec![db.again().await.unwrap(), db.again().await.unwrap()];
        Plant::build(Some(db), dir, Clock::system(), bundles, stores, seed, chaos).await
    }

    async fn build(
        db: Option<Opened>,
        dir: tempfile::TempDir,
        clock: Clock,
        bundles: BTreeMap<&'static str, String>,
        stores: Vec<Store>,
        seed: u64,
        chaos: Chaos,
    ) -> Arc<Plant> {
        let fate = Fate { chaos, armed: false, dice: Dice::new(seed, 1), commits: 0, deaths: 0, trace: Vec::new() };
        let plant = Arc::new(Plant {
            virtual_time: db.is_none(),
            _db: db,
            dir,
            clock,
            bundles,
            seats: Mutex::new(stores.into_iter().map(|store| Seat { store, process: None }).collect()),
            turn: Mutex::new(0),
            fate: Arc::new(Mutex::new(fate)),
            net: Mutex::new(Dice::new(seed, 2)),
            instant: Mutex::new((Timestamp::ZERO, 0)),
            witness: Witness::default(),
            keepers: Mutex::default(),
            graveyard: Mutex::default(),
        });
        let seats = plant.seats.lock().unwrap().len();
        for seat in 0..seats {
            plant.start(seat, seed).await;
            let keeper = tokio::spawn(plant.clone().keep(seat, seed));
            plant.keepers.lock().unwrap().push(keeper);
        }
        plant
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn is_virtual(&self) -> bool {
        self.virtual_time
    }

    fn lease(&self) -> Span {
        // On SQLite a restart waits for nobody's lease, and fewer renewals are fewer commits that say nothing.
        if self.virtual_time { Span::secs(40) } else { Span::secs(1) }
    }

    /// One process: dead before it has started, perhaps.
    async fn start(&self, seat: usize, seed: u64) -> Faults {
        let fate = self.fate.clone();
        let life = Faults::planned(move |_, op| fate.lock().unwrap().at_commit(op));
        let store = self.seats.lock().unwrap()[seat].store.with_faults(life.clone());
        let master = MasterKey::new([7u8; 32]);
        let secret = actors::keys::derive(&master, "artifact-urls");
        let artifacts = DirStore::open(self.dir.path().join("artifacts"), UrlSigner::new(secret, URL)).unwrap();
        let parts = Parts {
            config: PlaneConfig {
                stale_after: STALE,
                lease: self.lease(),
                listen: format!("{URL}-{seat}"),
                public_url: URL.into(),
                master_key: master,
                validator: ChildValidator::new("/nowhere", ["nothing"]),
                compile_concurrency: 1,
                audit_keep: None,
                egress: Default::default(),
            },
            store,
            artifacts: ArtifactStore::dir(artifacts),
            clock: self.clock.clone(),
            fresh: Fresh::seeded(seed ^ self.clock.now().0 as u64 ^ ((seat as u64) << 60)),
            registry: registry(),
        };
        let tree = tokio::select! {
            biased;
            () = life.died() => return life,
            tree = Tree::start(parts) => tree,
        };
        match tree {
            Ok(tree) => {
                let settings = web::Settings {
                    https: false,
                    max_body_bytes: 4 << 20,
                    rate_limit_per_key: 0,
                    metrics_here: true,
                    metrics_token: None,
                    rate_limit_per_node: 0,
                    rate_limit_per_address: 0,
                    nodes_need_certificates: false,
                };
                let door = web::Inside::open(tree.plane.clone(), settings).unwrap();
                let process = Process { life: life.clone(), door, _tree: Arc::new(tree) };
                self.seats.lock().unwrap()[seat].process = Some(process);
            }
            // The database was away: the service manager starts the next one.
            Err(_) => life.kill(),
        }
        life
    }

    /// The service manager: whoever dies is started anew a while later, on what is stored.
    async fn keep(self: Arc<Plant>, seat: usize, seed: u64) {
        loop {
            let life = self.seats.lock().unwrap()[seat].process.as_ref().map(|p| p.life.clone());
            if let Some(life) = life {
                life.died().await;
            }
            // Thrown away as it stands: no goodbye, and whatever of it still waits for the database waits for ever.
            let dead = self.seats.lock().unwrap()[seat].process.take();
            self.graveyard.lock().unwrap().extend(dead);
            self.witness.disturbed(self.now());
            let outage = {
                let mut fate = self.fate.lock().unwrap();
                let most = fate.chaos.outage.as_millis() as u64 + 1;
                Duration::from_millis(fate.dice.throw() % most)
            };
            tokio::time::sleep(outage).await;
            self.start(seat, seed).await;
            self.witness.disturbed(self.now());
        }
    }

    /// From now on things go wrong, or no more.
    pub fn arm(&self, armed: bool) {
        self.fate.lock().unwrap().armed = armed;
    }

    /// The operations that came to their commit while it was armed.
    pub fn commits(&self) -> Vec<&'static str> {
        self.fate.lock().unwrap().trace.clone()
    }

    pub fn deaths(&self) -> u32 {
        let fate = self.fate.lock().unwrap();
        fate.deaths + u32::from(fate.chaos.at.is_some_and(|(n, _)| fate.commits >= n))
    }

    /// To the next process; `Err` when it is dead, or dies meanwhile.
    async fn carry(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, CallError> {
        let process = {
            let (seats, mut turn) = (self.seats.lock().unwrap(), self.turn.lock().unwrap());
            *turn += 1;
            seats[*turn % seats.len()].process.clone()
        };
        let Some(process) = process else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            return Err(CallError::Connection("refused".into()));
        };
        tokio::select! {
            biased;
            () = process.life.died() => Err(CallError::Connection("reset".into())),
            answer = process.door.call(request) => Ok(answer),
        }
    }

    /// A request of a node, over a bad network.
    pub async fn node_call(self: Arc<Plant>, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, CallError> {
        let (what, late) = {
            let (fate, mut dice) = (self.fate.lock().unwrap(), self.net.lock().unwrap());
            let (throw, late) = (dice.throw() % 1_000, Duration::from_millis(dice.throw() % 4_000));
            let share = if fate.armed { fate.chaos.network } else { 0 };
            (throw.checked_div(share).unwrap_or(4), late)
        };
        match what {
            0 => {
                tokio::time::sleep(late).await;
                Err(CallError::Timeout)
            }
            1 => {
                let _ = self.witnessed(request).await;
                Err(CallError::Connection("the answer was lost".into()))
            }
            2 => {
                tokio::time::sleep(late).await;
                self.witnessed(request).await
            }
            3 => {
                let (again, plant) = (request.clone(), self.clone());
                let second = tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    let _ = plant.witnessed(again).await;
                });
                self.keepers.lock().unwrap().push(second);
                self.witnessed(request).await
            }
            _ => self.witnessed(request).await,
        }
    }

    /// Virtual time stands still as long as somebody has something to do: a node that asks without end is told apart from one
    /// that asks often.
    async fn no_spinning(&self) {
        let now = self.now();
        let asked = {
            let mut i = self.instant.lock().unwrap();
            *i = if i.0 == now { (now, i.1 + 1) } else { (now, 1) };
            i.1
        };
        if self.virtual_time && asked > MOST_AT_ONCE {
            self.witness.complain(format!("{asked} requests of nodes at the instant {now}"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn witnessed(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, CallError> {
        self.no_spinning().await;
        let (path, said) = (request.uri().path().to_string(), request.body().clone());
        let answer = self.carry(request).await?;
        if answer.status() == 200 {
            self.witness.saw(&path, said, answer.body());
        }
        Ok(answer)
    }

    /// One request of the operator: `None` when there was no answer, or 503.
    pub async fn ask(&self, method: &str, path: &str, key: Option<&str>, body: &Value) -> Option<(u16, Value)> {
        let mut request = Request::builder().method(method).uri(format!("{URL}{path}"));
        request = request.header("authorization", format!("Bearer {KEY}"));
        request = request.header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = if method == "GET" { Bytes::new() } else { Bytes::from(body.to_string()) };
        let answer = self.carry(request.body(Full::new(body)).unwrap()).await.ok()?;
        let status = answer.status().as_u16();
        (status != 503).then(|| (status, serde_json::from_slice(answer.body()).unwrap_or_default()))
    }

    /// The same request until it is answered.
    pub async fn insist(&self, method: &str, path: &str, key: Option<&str>, body: &Value) -> (u16, Value) {
        for _ in 0..3_000 {
            if let Some(answer) = self.ask(method, path, key, body).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{method} {path} was not answered");
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.insist("GET", path, None, &Value::Null).await;
        assert_eq!(status, 200, "GET {path}: {body:#}");
        body
    }
}

impl Plant {
    /// Everything of it ends where it stands.
    pub fn abandon(&self) {
        for k in self.keepers.lock().unwrap().drain(..) {
            k.abort();
        }
        for seat in self.seats.lock().unwrap().iter_mut() {
            if let Some(p) = &seat.process {
                p.life.kill();
            }
        }
    }
}
