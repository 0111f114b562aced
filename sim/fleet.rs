//! A fleet of simulated nodes: started, watched, disturbed, stopped.
//!
//! ```no_run
//! # async fn f(transport: sim::Transport) -> Result<(), sim::SimError> {
//! let fleet = sim::Fleet::start(sim::FleetConfig { nodes: 10, ..Default::default() }, transport).await?;
//! fleet.until_all(|n| n.active.is_some()).await?;
//! fleet.go_offline("sim-node-7")?;
//! println!("{}", fleet.stop().await?.to_table());
//! # Ok(()) }
//! ```

use crate::SimError;
use crate::agent::{Agent, Control, NodeStatus, Profile};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::library::{Library, LibraryArgs, LibraryMsg};
use crate::node::{NodeActor, NodeArgs, NodeMsg, Surroundings};
use crate::recorder::{Recorder, RecorderMsg, Sample};
use crate::report::FleetReport;
use crate::scenario::{Behaviour, Scenario};
use crate::transport::Transport;
use domain::node::Labels;
use domain::{ContentId, Span};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Up to here every node is an actor of its own (11 kB with its parked poll and its timer, so 220 MB); beyond, an
/// actor drives [`COHORT`] nodes (3.2 kB a node).
pub const ACTOR_PER_NODE: u32 = 20_000;
/// Small enough that one actor's work is spread over the cores, large enough that the actor's own memory is lost in it.
pub const COHORT: u32 = 64;
/// 2 million at 3.2 kB are 6.4 GB: more than that is a mistake in a flag.
pub const MAX_NODES: u32 = 2_000_000;
/// Actors answer questions within this, or the process is beyond use.
const QUESTION_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct FleetConfig {
    pub project: String,
    /// Enrolment token; not needed where registration is open.
    pub token: Option<String>,
    pub nodes: u32,
    /// Nodes are called prefix + number, counting from `first_number`.
    pub name_prefix: String,
    pub first_number: u32,
    /// `{i}` in a value is the node's number, `{i%3}` the rest of its division.
    pub labels: Labels,
    pub behaviour: Behaviour,
    pub scenario: Scenario,
    pub profile: Profile,
    pub seed: u64,
    /// The first calls of all nodes are spread evenly over this.
    pub ramp: Span,
    /// One download per archive and process; `None`: above 100 nodes.
    pub share_downloads: Option<bool>,
    /// `None`: 1 up to [`ACTOR_PER_NODE`] nodes, else [`COHORT`].
    pub nodes_per_actor: Option<u32>,
    /// `None`: the system's.
    pub clock: Option<Clock>,
}

impl Default for FleetConfig {
    fn default() -> Self {
        FleetConfig {
            project: "demo".into(),
            token: None,
            nodes: 10,
            name_prefix: "sim-node-".into(),
            first_number: 1,
            labels: Labels::new(),
            behaviour: Behaviour::default(),
            scenario: Scenario::default(),
            profile: Profile::default(),
            seed: 1,
            ramp: Span::ZERO,
            share_downloads: None,
            nodes_per_actor: None,
            clock: None,
        }
    }
}

impl FleetConfig {
    fn name(&self, index: u32) -> String {
        format!("{}{}", self.name_prefix, u64::from(self.first_number) + u64::from(index))
    }

    fn labels_of(&self, index: u32) -> Labels {
        let number = u64::from(self.first_number) + u64::from(index);
        self.labels.iter().map(|(k, v)| (k.clone(), fill(v, number))).collect()
    }
}

/// `{i}` and `{i%m}` in a label's value.
fn fill(template: &str, number: u64) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find("{i") {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 2..];
        let Some(end) = tail.find('}') else {
            return out + &rest[at..];
        };
        match (&tail[..end], tail[..end].strip_prefix('%').and_then(|m| m.parse::<u64>().ok())) {
            ("", _) => out.push_str(&number.to_string()),
            (_, Some(m)) if m > 0 => out.push_str(&(number % m).to_string()),
            _ => out.push_str(&rest[at..at + 3 + end]),
        }
        rest = &tail[end + 1..];
    }
    out + rest
}

/// The supervisor of all actors of a fleet. A node's actor that breaks is counted and stays down: it is a fault of ours.
struct Root;

impl Actor for Root {
    type Msg = ();
    type State = Option<ActorRef<RecorderMsg>>;
    type Arguments = (u32, domain::Timestamp, oneshot::Sender<ActorRef<RecorderMsg>>);

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        (nodes, now, reply): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let (recorder, _) = Actor::spawn_linked(None, Recorder, (nodes, now), myself.get_cell()).await?;
        let _ = reply.send(recorder.clone());
        Ok(Some(recorder))
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        recorder: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // The default would stop the whole fleet with any child, even one that ended as it should.
        if let SupervisionEvent::ActorFailed(who, why) = event {
            tracing::error!(actor = %who.get_id(), error = %why, "an actor of the simulated fleet broke");
            if let Some(r) = recorder {
                let _ = r.cast(RecorderMsg::Sample(Sample::Crashed));
            }
        }
        Ok(())
    }
}

/// A running fleet. Dropping it stops it; [`Fleet::stop`] also waits and reports.
pub struct Fleet {
    config: Arc<FleetConfig>,
    clock: Clock,
    root: ActorCell,
    recorder: ActorRef<RecorderMsg>,
    actors: Vec<ActorRef<NodeMsg>>,
    per_actor: u32,
}

fn gone(e: impl std::fmt::Display) -> SimError {
    SimError::Gone(e.to_string())
}

impl Fleet {
    /// Starts all nodes; returns when their actors run, not when they have registered.
    pub async fn start(config: FleetConfig, transport: Transport) -> Result<Fleet, SimError> {
        if config.nodes == 0 || config.nodes > MAX_NODES {
            return Err(SimError::Bad(format!("{} nodes: 1 to {MAX_NODES}", config.nodes)));
        }
        let longest = config.name(config.nodes - 1);
        domain::node::check_node_name(&longest).map_err(|e| SimError::Bad(format!("node name {longest:?} {e}")))?;
        let config = Arc::new(config);
        let clock = config.clock.unwrap_or_else(Clock::system);
        let started = clock.now();
        let (tx, rx) = oneshot::channel();
        let (root, _) = Actor::spawn(None, Root, (config.nodes, started, tx)).await.map_err(gone)?;
        let recorder = rx.await.map_err(gone)?;
        let args = LibraryArgs {
            share: config.share_downloads.unwrap_or(config.nodes > 100),
            transport: transport.clone(),
            recorder: recorder.clone(),
            clock,
        };
        let (library, _): (ActorRef<LibraryMsg>, _) =
            Actor::spawn_linked(None, Library, args, root.get_cell()).await.map_err(gone)?;
        let around = Arc::new(Surroundings {
            clock,
            transport,
            project: config.project.as_str().into(),
            token: config.token.as_deref().map(Into::into),
            recorder: recorder.clone(),
            library,
        });
        let per_actor =
            config.nodes_per_actor.unwrap_or(if config.nodes <= ACTOR_PER_NODE { 1 } else { COHORT }).max(1);
        let mut fleet =
            Fleet { config: config.clone(), clock, root: root.get_cell(), recorder, actors: Vec::new(), per_actor };
        let mut maker = Maker { profile: Arc::new(config.profile.clone()), known: HashMap::new(), config };
        for first in (0..maker.config.nodes).step_by(per_actor as usize) {
            let last = first.saturating_add(per_actor).min(maker.config.nodes);
            let agents = (first..last).map(|i| maker.agent(i, started)).collect();
            let args = NodeArgs { around: around.clone(), first, agents };
            let (actor, _) = Actor::spawn_linked(None, NodeActor, args, fleet.root.clone()).await.map_err(gone)?;
            fleet.actors.push(actor);
        }
        Ok(fleet)
    }

    pub fn config(&self) -> &FleetConfig {
        &self.config
    }

    /// Names and states of all nodes, by name.
    pub async fn status(&self) -> Result<BTreeMap<String, NodeStatus>, SimError> {
        let board = self.ask(RecorderMsg::Board).await?;
        let named = |(i, s): (usize, Option<NodeStatus>)| s.map(|s| (self.config.name(i as u32), s));
        Ok(board.into_iter().enumerate().filter_map(named).collect())
    }

    /// One node. Errors: no such node.
    pub async fn node(&self, name: &str) -> Result<NodeStatus, SimError> {
        let index = self.index(name)? as usize;
        let board = self.ask(RecorderMsg::Board).await?;
        board.get(index).copied().flatten().ok_or_else(|| gone("the node has not started yet"))
    }

    /// Waits, without a deadline of its own, until every node satisfies `holds`.
    pub async fn until_all(&self, holds: impl Fn(&NodeStatus) -> bool + Send + 'static) -> Result<(), SimError> {
        let (reply, done) = oneshot::channel();
        self.recorder.cast(RecorderMsg::UntilAll { holds: Box::new(holds), reply }).map_err(gone)?;
        done.await.map_err(gone)
    }

    /// Waits until some node is told to run the version, then until every node that can be reached runs it or
    /// failed on it. Answers with the bundle; `None` is the baseline.
    pub async fn until_version(&self, version: &str) -> Result<Option<ContentId>, SimError> {
        let (reply, known) = oneshot::channel();
        self.recorder.cast(RecorderMsg::Version { version: version.to_owned(), reply }).map_err(gone)?;
        let bundle = known.await.map_err(gone)?;
        self.until_all(move |n| n.is_settled_on(bundle)).await?;
        Ok(bundle)
    }

    /// From now on wake-ups are measured from this instant.
    pub fn mark(&self) {
        let _ = self.recorder.cast(RecorderMsg::Mark(self.clock.now()));
    }

    pub async fn report(&self) -> Result<FleetReport, SimError> {
        let now = self.clock.now();
        self.ask(|reply| RecorderMsg::Report { now, reply }).await
    }

    /// The net of this node is gone until [`Fleet::come_back`]. Errors: no such node.
    pub fn go_offline(&self, name: &str) -> Result<(), SimError> {
        self.control(name, Control::GoOffline)
    }

    /// Back on the net; a dead one is started again.
    pub fn come_back(&self, name: &str) -> Result<(), SimError> {
        self.control(name, Control::ComeBack)
    }

    /// The node's process ends and starts again.
    pub fn restart(&self, name: &str) -> Result<(), SimError> {
        self.control(name, Control::Restart)
    }

    pub fn set_behaviour(&self, name: &str, behaviour: Behaviour) -> Result<(), SimError> {
        self.control(name, Control::Behave(Arc::new(behaviour)))
    }

    /// Errors: no such node.
    pub fn control(&self, name: &str, control: Control) -> Result<(), SimError> {
        self.control_index(self.index(name)?, control)
    }

    /// The same for every node.
    pub fn control_all(&self, control: &Control) -> Result<(), SimError> {
        (0..self.config.nodes).try_for_each(|i| self.control_index(i, control.clone()))
    }

    fn control_index(&self, index: u32, control: Control) -> Result<(), SimError> {
        let actor = self.actors.get((index / self.per_actor) as usize).ok_or_else(|| gone("no such actor"))?;
        actor.cast(NodeMsg::Control { slot: index % self.per_actor, control }).map_err(gone)
    }

    fn index(&self, name: &str) -> Result<u32, SimError> {
        let number = name.strip_prefix(&self.config.name_prefix).and_then(|n| n.parse::<u32>().ok());
        number
            .and_then(|n| n.checked_sub(self.config.first_number))
            .filter(|&i| i < self.config.nodes && self.config.name(i) == name)
            .ok_or_else(|| SimError::Bad(format!("no node is called {name:?}")))
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> RecorderMsg) -> Result<T, SimError> {
        let (reply, answer) = oneshot::channel();
        self.recorder.cast(question(reply)).map_err(gone)?;
        tokio::time::timeout(QUESTION_DEADLINE, answer).await.map_err(gone)?.map_err(gone)
    }

    /// Ends every node at once (calls in flight are broken) and reports.
    pub async fn stop(self) -> Result<FleetReport, SimError> {
        let report = self.report().await;
        for a in &self.actors {
            a.stop(None);
        }
        // Every node's calls are broken when this returns: connections and in-process callers are free.
        for a in &self.actors {
            let _ = a.wait(Some(QUESTION_DEADLINE)).await;
        }
        report
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for a in &self.actors {
            a.stop(None);
        }
        self.root.stop_children(None);
        self.root.stop(None);
    }
}

/// Makes agents; nodes that behave alike share one behaviour.
struct Maker {
    config: Arc<FleetConfig>,
    profile: Arc<Profile>,
    known: HashMap<String, Arc<Behaviour>>,
}

/// Different behaviours shared; a script gives a handful.
const MAX_SHARED: usize = 1_000;

impl Maker {
    fn agent(&mut self, index: u32, started: domain::Timestamp) -> Agent {
        let c = &self.config;
        let (name, labels) = (c.name(index), c.labels_of(index));
        let behaviour = c.scenario.behaviour(&c.behaviour, c.seed, &name, &labels);
        // Without rules all are alike; a million texts to find that out would cost seconds.
        let key = if c.scenario.rules.is_empty() { String::new() } else { format!("{behaviour:?}") };
        let behaviour = match self.known.get(&key) {
            Some(b) => b.clone(),
            None => {
                let b = Arc::new(behaviour);
                if self.known.len() < MAX_SHARED {
                    self.known.insert(key, b.clone());
                }
                b
            }
        };
        let wait = Span((c.ramp.0 as f64 * f64::from(index) / f64::from(c.nodes)) as i64);
        let dice = Dice::new(c.seed, u64::from(index));
        Agent::new(self.profile.clone(), behaviour, &name, labels, started + wait, dice)
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn label_values_are_numbered() {
        assert_eq!(fill("z{i%3}", 7), "z1");
        assert_eq!(fill("{i}-{i%2}", 4), "4-0");
        for plain in ["eu", "{x}", "{i", "{i%0}", "{i%a}b"] {
            assert_eq!(fill(plain, 4), plain);
        }
    }
}
