//! What a node's session believes, against what is stored and what the clock does.

use super::*;
use crate::node_api::{BundleRef, Heartbeat, KeyAge, PollAnswer, ReportBody, ReportKind, Update};
use crate::node_session::{MAX_WAIT, NEVER, SessionMsg};
use crate::periodic::{renew_lease, staleness};
use domain::node::busy::MAX_BUSY;
use domain::node::{Generation, HealthClass};
use domain::rollout::{NodeStateKind, Spec};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use store::testing::{At, Faults};

impl World {
    /// The session has dealt with everything before this, its timers included.
    async fn look_for_silence(&self, node: NodeAuth) {
        self.plane.inner.sessions.tell(node.node, SessionMsg::CheckSilence);
        self.plane.poll(node, Duration::ZERO, None).await.unwrap();
    }

    /// What was committed before this call was told to everybody here.
    async fn feed_has_told(&self) {
        let looks = || self.plane.store().operations().get("change.after").copied().unwrap_or(0);
        // One look may be under way already, the second has seen it, and with the third it has been told.
        let looked = looks();
        self.eventually("the feed has told", async || (looks() >= looked + 3).then_some(())).await;
    }

    /// What it is told first.
    async fn told(&self, node: NodeAuth) -> Box<Update> {
        self.eventually("the node is told", async || {
            match self.plane.poll(node, Duration::ZERO, None).await.unwrap().answer {
                PollAnswer::Update(u) => Some(u),
                PollAnswer::NoUpdate { .. } => None,
            }
        })
        .await
    }

    /// A newer assignment that the session has not heard of: stored by another instance a moment ago. Answers its generation.
    async fn assigned_elsewhere(&self, node: NodeAuth, told: &Update, bundle: Option<BundleId>) -> Generation {
        let newer = told.generation + 1;
        let rollout = self.plane.store().load_rollout(told.rollout.unwrap()).await.unwrap();
        let mut head = rollout.planned.head.clone();
        head.version += 1;
        let change = domain::rollout::Change::Desire {
            node: node.node,
            expect: told.generation,
            generation: newer,
            bundle,
            weight: 100,
        };
        let commit = seed::commit(
            self.project.id,
            rollout.planned.id,
            (rollout.version, rollout.fence),
            vec![domain::rollout::Change::Head { head }, change],
        );
        self.plane.store().commit_rollout(commit, Write::at(START)).await.unwrap();
        newer
    }
}

impl World {
    /// The node, which has activated what it was `told`, is given another weight, as a shift of traffic does it. Answers the generation.
    async fn weight_elsewhere(&self, node: NodeAuth, told: &Update, weight: u8) -> Generation {
        let (newer, id) = (told.generation + 1, told.rollout.unwrap());
        self.eventually("another instance has stored the weight", async || {
            let rollout = self.plane.store().load_rollout(id).await.unwrap();
            let mut member = rollout.planned.members[0].clone();
            if member.state.kind() != NodeStateKind::Activated {
                return None;
            }
            (member.generation, member.weight, member.weighed) = (newer, weight, false);
            let mut head = rollout.planned.head.clone();
            head.version += 1;
            let bundle = Some(rollout.planned.spec.bundle);
            let (expect, generation) = (told.generation, newer);
            let desire = domain::rollout::Change::Desire { node: node.node, expect, generation, bundle, weight };
            let commit = seed::commit(
                self.project.id,
                id,
                (rollout.version, rollout.fence),
                vec![domain::rollout::Change::Head { head }, domain::rollout::Change::Member { member }, desire],
            );
            // Its actor here may have been faster.
            self.plane.store().commit_rollout(commit, Write::at(START)).await.ok().map(|_| newer)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_stale_before_a_full_stale_time_in_which_it_could_be_heard() {
    on_both(|w| async move {
        let node = w.node("n1").await;
        w.plane.heartbeat(node, Heartbeat::default()).await.unwrap();
        // The process was suspended, or the clock was set: an hour in which nobody listened.
        w.hand.advance(Span::secs(3_600));
        w.look_for_silence(node).await;
        assert_eq!(w.stored(node).await.presence, Presence::Online, "it was we who were away");
        for _ in 0..11 {
            w.hand.advance(Span::secs(10));
            w.plane.attended();
            w.look_for_silence(node).await;
            assert_eq!(w.stored(node).await.presence, Presence::Online);
        }
        w.hand.advance(Span::secs(10));
        w.eventually("offline: 120 s without a gap, and nothing heard", async || {
            (w.stored(node).await.presence == Presence::Offline).then_some(())
        })
        .await;
        w.end().await;
    })
    .await;
}

/// Its session lives on another instance, which hears it and cannot store that it does.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_stale_while_the_database_takes_no_word_of_whom_it_hears() {
    for_each_backend(|mut opened| async move {
        let away = Arc::new(AtomicBool::new(false));
        let is_away = away.clone();
        opened.store = opened.store.with_faults(Faults::planned(move |_, op| {
            if op == "instance.renew" && is_away.load(Ordering::Acquire) { At::Refused } else { At::Go }
        }));
        let w = World::new(opened).await;
        let node = w.node("n1").await;
        w.plane.heartbeat(node, Heartbeat::default()).await.unwrap();
        w.plane.inner.sessions.family.stop_child(&node.node).await.unwrap();
        let presence = async || w.stored(node).await.presence;
        let pass = |seconds: i64| {
            for _ in 0..seconds / 10 {
                w.hand.advance(Span::secs(10));
                w.plane.attended();
            }
        };
        away.store(true, Ordering::Release);
        renew_lease(w.plane.clone()).await.unwrap_err();
        pass(170);
        staleness(w.plane.clone()).await.unwrap();
        assert_eq!(presence().await, Presence::Online, "nobody can say that it was heard");
        away.store(false, Ordering::Release);
        w.eventually("the lease is renewed", async || renew_lease(w.plane.clone()).await.ok()).await;
        staleness(w.plane.clone()).await.unwrap();
        assert_eq!(presence().await, Presence::Online, "whoever heard it is about to store that");
        // Nobody did: 120 s, and the 30 s that a stored time may be behind.
        pass(160);
        w.eventually("it is offline", async || {
            pass(10);
            staleness(w.plane.clone()).await.unwrap();
            (presence().await == Presence::Offline).then_some(())
        })
        .await;
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_again_what_another_instance_stored_of_its_node() {
    on_both(|w| async move {
        let node = w.node("n1").await;
        let healthy = Heartbeat { health: Some(HealthClass::Healthy), ..Heartbeat::default() };
        w.plane.heartbeat(node, healthy.clone()).await.unwrap();
        assert_eq!(w.stored(node).await.health, HealthClass::Healthy);
        // Meanwhile it talked to another instance.
        let mut foreign = store::NodeChange::of(node.node, node.project);
        foreign.health = Some(HealthClass::Unhealthy);
        w.plane.store().observe(vec![foreign], Write::at(START)).await.unwrap();
        // And is back here, with what it said here before.
        w.eventually("what it says here is stored again", async || {
            w.plane.heartbeat(node, healthy.clone()).await.unwrap();
            (w.stored(node).await.health == HealthClass::Healthy).then_some(())
        })
        .await;
        w.end().await;
    })
    .await;
}

/// The session has read its node and cannot be found yet, while the node is assigned something and the feed tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn news_of_a_node_whose_session_is_being_started_reach_it() {
    for_each_backend(|mut opened| async move {
        let faults = Faults::none();
        opened.store = opened.store.with_faults(faults.clone());
        let w = World::new(opened).await;
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        w.plane.heartbeat(node, Heartbeat::default()).await.unwrap();
        w.plane.inner.sessions.family.stop_child(&node.node).await.unwrap();
        faults.hold(&["node.session_view"]);
        // The clock stands still: what is held is answered when there are news, or never.
        let polled = async { w.plane.poll(node, MAX_WAIT, None).await.unwrap().answer };
        let assigned = async {
            faults.until_held().await;
            w.plane.create_rollout(&w.caller, w.project.id, Spec::new(bundle)).await.unwrap();
            w.eventually("it is assigned", async || (w.stored(node).await.generation > 0).then_some(())).await;
            w.feed_has_told().await;
            faults.let_go();
        };
        let both = async { tokio::join!(polled, assigned) };
        let (answer, ()) = tokio::time::timeout(WAIT, both).await.unwrap();
        assert!(matches!(answer, PollAnswer::Update(_)), "{answer:?}");
        w.end().await;
    })
    .await;
}

/// Many nodes at once are read for the first time while others change: each change is of its node alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_changes_keeps_no_other_from_being_remembered() {
    on_both(|w| async move {
        // Of nodes and a project that the feed never names, once it has told of what was made here.
        w.feed_has_told().await;
        let project: ProjectId = w.plane.fresh().id(START);
        let node = || NodeAuth { node: w.plane.fresh().id(START), project, org: w.org, epoch: 1, key: KeyAge::Present };
        let nodes = [node(), node(), node()];
        let sessions = &w.plane.inner.sessions;
        let remembered = |k: u8| sessions.recall(&Digest([k; 32]), || w.plane.now()).is_some();
        // All are being read, and one of them changes meanwhile.
        let seen = sessions.forgotten();
        sessions.forget_credentials(nodes[0].node);
        for (k, node) in (0..).zip(nodes) {
            sessions.remember(Digest([k; 32]), node, NEVER, seen);
        }
        assert_eq!([0, 1, 2].map(remembered), [false, true, true], "what was read of it may be from before");
        sessions.remember(Digest([0; 32]), nodes[0], NEVER, sessions.forgotten());
        assert_eq!([0, 1, 2].map(remembered), [true; 3]);
        // A project is forgotten, or all: whoever was being read is not remembered either.
        let seen = sessions.forgotten();
        sessions.forget_project(project);
        assert_eq!([0, 1, 2].map(remembered), [false; 3]);
        sessions.remember(Digest([1; 32]), nodes[1], NEVER, seen);
        assert!(!remembered(1));
        // More than it can tell apart: none of those that were being read.
        let seen = sessions.forgotten();
        (0..5_000).for_each(|_| sessions.forget_credentials(NodeId(w.plane.fresh().uuid(START))));
        sessions.remember(Digest([2; 32]), nodes[2], NEVER, seen);
        assert!(!remembered(2));
        sessions.remember(Digest([2; 32]), nodes[2], NEVER, sessions.forgotten());
        assert!(remembered(2));
        w.end().await;
    })
    .await;
}

/// Whatever was committed before a reader of the feed has its place in it is told by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_feed_that_begins_trusts_nothing_that_was_remembered_before() {
    on_both(|w| async move {
        let token = w.token(NewEnrolmentToken::default()).await;
        let key = secret_hash(&w.register(Some(&token), "n1", &[]).await.unwrap().key);
        let remembered = || w.plane.inner.sessions.recall(&key, || w.plane.now()).is_some();
        // The feed of the tree is still telling of the registration.
        w.feed_has_told().await;
        w.eventually("it is remembered", async || {
            w.plane.node_auth(&key).await.unwrap().unwrap();
            remembered().then_some(())
        })
        .await;
        let forgotten = w.eventually("it is forgotten", async || (!remembered()).then_some(()));
        tokio::select! {
            () = crate::feed::run(w.plane.clone()) => unreachable!("it reads for ever"),
            () = forgotten => {}
        }
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_names_nothing_hands_nothing_over() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        let spec = Spec::new(bundle);
        w.plane.create_rollout(&w.caller, w.project.id, spec).await.unwrap();
        let told = w.told(node).await;
        assert_eq!(w.stored(node).await.handed_over, told.generation);
        w.assigned_elsewhere(node, &told, None).await;
        let body = ReportBody { generation: Some(told.generation), ..ReportBody::default() };
        let staged = w.plane.report(node, BundleRef::Row(bundle), ReportKind::Staged, body).await.unwrap();
        assert!(!staged.proceed, "it was withdrawn");
        assert_eq!(w.stored(node).await.handed_over, told.generation, "the newer one was not named");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_whose_answer_was_lost_is_named_again() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        w.roll_out(Spec::new(bundle)).await;
        let told = w.told(node).await;
        let body = ReportBody { generation: Some(told.generation), ..ReportBody::default() };
        w.plane.report(node, BundleRef::Row(bundle), ReportKind::Activated, body).await.unwrap();
        let newer = w.weight_elsewhere(node, &told, 20).await;
        let named = async || match w.plane.poll(node, Duration::ZERO, None).await.unwrap().answer {
            PollAnswer::Update(u) => Some((u.generation, u.traffic_weight)),
            PollAnswer::NoUpdate { .. } => None,
        };
        assert_eq!(w.eventually("it is named its weight", async || named().await).await, (newer, 20));
        assert_eq!(named().await, None, "once, if the answer arrived");
        w.hand.advance(Span::secs(10));
        assert_eq!(named().await, Some((newer, 20)), "it has not said that it serves it");
        assert_eq!(named().await, None);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_about_what_another_instance_has_just_told_is_not_stale() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        w.plane.create_rollout(&w.caller, w.project.id, Spec::new(bundle)).await.unwrap();
        let told = w.told(node).await;
        let newer = w.assigned_elsewhere(node, &told, Some(bundle)).await;
        let body = ReportBody { generation: Some(newer), ..ReportBody::default() };
        let staged = w.plane.report(node, BundleRef::Row(bundle), ReportKind::Staged, body).await.unwrap();
        assert!(staged.proceed && !staged.stale, "{staged:?}");
        let body = ReportBody { generation: Some(newer + 1), ..ReportBody::default() };
        let unknown = w.plane.report(node, BundleRef::Row(bundle), ReportKind::Staged, body).await.unwrap();
        assert!(!unknown.proceed && unknown.stale, "{unknown:?}");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_about_another_rollout_is_stale_and_changes_nothing() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        let id = w.roll_out(Spec::new(bundle)).await;
        let told = w.told(node).await;
        assert_eq!(told.rollout, Some(id));
        let says = async |kind: ReportKind, rollout: RolloutId| {
            let generation = Some(told.generation);
            let body = ReportBody { generation, rollout: Some(rollout), ..ReportBody::default() };
            w.plane.report(node, BundleRef::Row(bundle), kind, body).await.unwrap()
        };
        let state = async || w.plane.store().load_rollout(id).await.unwrap().planned.members[0].state.kind();
        let foreign = seed::id();
        // It comes back with it, so that there is something to store.
        let away = w.plane.store().set_presence_offline(vec![node.node], START, Write::at(START)).await.unwrap();
        assert_eq!(away.len(), 1);
        w.plane.inner.sessions.tell(node.node, SessionMsg::Reload);
        let answer = says(ReportKind::Failed { error: "of old".into(), logs: None }, foreign).await;
        assert!(answer.stale, "{answer:?}");
        let stored = w.stored(node).await;
        assert_eq!((stored.presence, stored.last_error), (Presence::Online, None));
        assert_eq!(state().await, NodeStateKind::Assigned);
        let answer = says(ReportKind::Staged, foreign).await;
        assert!(answer.stale && !answer.proceed, "{answer:?}");
        assert_eq!(state().await, NodeStateKind::Assigned);
        let answer = says(ReportKind::Staged, id).await;
        assert!(!answer.stale && answer.proceed, "{answer:?}");
        w.eventually("it is staged", async || (state().await == NodeStateKind::Staged).then_some(())).await;
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_not_now_is_owed_until_it_is_free_or_its_time_is_used_up() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        // Its clock is a day behind ours, and it wants a week.
        let says = async |left: Option<Span>| {
            let sent = w.plane.now() - Span::secs(86_400);
            let beat = Heartbeat { sent_at: Some(sent), busy_until: left.map(|l| sent + l), ..Heartbeat::default() };
            w.plane.heartbeat(node, beat).await.unwrap();
        };
        let week = Some(Span::secs(7 * 86_400));
        says(week).await;
        let granted = w.stored(node).await.busy.unwrap();
        assert_eq!((granted.since, granted.until), (START, START + MAX_BUSY));

        let id = w.roll_out(Spec::new(bundle)).await;
        let becomes = async |kind: NodeStateKind| {
            w.eventually(kind.as_str(), async || {
                let rows = w.plane.store().load_rollout(id).await.unwrap().planned;
                (rows.members[0].state.kind() == kind).then_some(())
            })
            .await;
        };
        becomes(NodeStateKind::Owed).await;
        let polled = async || w.plane.poll(node, Duration::ZERO, None).await.unwrap().answer;
        let told = async || matches!(polled().await, PollAnswer::Update(_));
        assert!(!told().await, "it is named nothing");

        // It is free for a moment; what it is not told of in that moment is taken back again.
        says(None).await;
        becomes(NodeStateKind::Assigned).await;
        says(week).await;
        becomes(NodeStateKind::Owed).await;
        let granted = w.stored(node).await.busy.unwrap();

        // It goes on saying so, hour after hour.
        while w.plane.now() + Span::secs(3_600) < granted.until {
            w.hand.advance(Span::secs(3_600));
            says(week).await;
            becomes(NodeStateKind::Owed).await;
        }
        w.hand.advance(Span::secs(3_600));
        says(week).await;
        becomes(NodeStateKind::Assigned).await;
        w.eventually("its time is used up", async || told().await.then_some(())).await;
        // Named: now it goes on.
        says(None).await;
        says(week).await;
        assert!(w.stored(node).await.busy.unwrap().holds(w.plane.now()));
        let body = ReportBody::default();
        let staged = w.plane.report(node, BundleRef::Row(bundle), ReportKind::Staged, body).await.unwrap();
        assert!(staged.proceed);
        w.end().await;
    })
    .await;
}
