//! Approvals, freezes, schedules, environments and templates, as rollouts meet them.

use super::rollouts::RESUME;
use super::*;
use crate::commands::plans::{EnvironmentWish, FreezeWish};
use crate::commands::rollouts::RolloutCommand;
use crate::node_api::{BundleRef, PollAnswer, ReportBody, ReportKind};
use domain::approval::Standing as Approval;
use domain::environment::EnvironmentSettings;
use domain::node::Selector;
use domain::rollout::{OnFailure, PauseCause, Phase, Spec};

impl World {
    /// Another person, of this role, a member since the beginning.
    async fn person(&self, email: &str, role: Role) -> Caller {
        let user = seed::user(email);
        let store = self.plane.store();
        store.insert_user(user.clone(), Write::at(START)).await.unwrap();
        store.set_member(user.id, self.org, role, Write::at(START)).await.unwrap();
        Caller {
            ctx: Ctx { actor: Actor::User(user.id), request_id: None, address: None },
            user: Some(user.id),
            instance_admin: false,
            grant: Grant::Roles(vec![(self.org, role)]),
            idempotency: None,
        }
    }

    async fn primary(&self, id: RolloutId) -> String {
        self.plane.rollout_view(id).await.unwrap().primary.code
    }

    async fn freeze(&self, wish: FreezeWish) -> FreezeId {
        self.plane.create_freeze(&self.caller, self.project.id, wish).await.unwrap().id
    }

    /// The sweeps have had their turn, as often as it takes.
    async fn passing_time<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        self.eventually(what, async || {
            self.hand.advance(Span::millis(250));
            look().await
        })
        .await
    }
}

fn hold() -> FreezeWish {
    FreezeWish { name: "hold".into(), reason: "incident".into(), starts_at: None, ends_at: None, environment: None }
}

fn forbidden<T: std::fmt::Debug>(answer: CommandResult<T>) -> String {
    match answer {
        Err(CommandError::Forbidden(why)) => why,
        other => panic!("403 was expected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_starts_when_enough_people_who_did_not_make_it_agree() {
    on_both(|w| async move {
        w.node("n1").await;
        w.settings(json!({"approval_required": true, "approvals_needed": 2})).await;
        let (anna, berta) = (w.person("anna@x.org", Role::Operator).await, w.person("berta@x.org", Role::Admin).await);
        let reader = w.person("reader@x.org", Role::Reader).await;
        let id = w.roll_out(Spec::new(w.bundle("1").await)).await;
        assert_eq!((w.phase(id).await, w.primary(id).await.as_str()), (Phase::Pending, "awaiting_approval"));
        let start = w.command(id, RolloutCommand::Start).await;
        assert_eq!(code(start), "approval_needed");
        forbidden(w.plane.vote_on_rollout(&w.caller, id, true, None).await);
        forbidden(w.plane.vote_on_rollout(&reader, id, true, None).await);
        let mut key = anna.clone();
        key.ctx.actor = Actor::ApiKey(seed::id());
        forbidden(w.plane.vote_on_rollout(&key, id, true, None).await);
        let bare = w.plane.vote_on_rollout(&anna, id, false, None).await;
        assert!(matches!(bare, Err(CommandError::Invalid(f)) if f[0].0 == "comment"));
        let said = w.audited("rollout.rejected", w.plane.vote_on_rollout(&anna, id, false, Some("no".into()))).await;
        assert_eq!(said.0.primary.code, "rejected");
        w.audited("rollout.approved", w.plane.vote_on_rollout(&anna, id, true, None)).await;
        assert_eq!(w.plane.vote_on_rollout(&anna, id, true, None).await.unwrap().1, Done::Already);
        assert_eq!(w.plane.approvals_of(id).await.unwrap().standing, Approval::Waiting { have: 1, need: 2 });
        w.plane.vote_on_rollout(&berta, id, true, Some("good".into())).await.unwrap();
        w.reaches(id, Phase::Running).await;
        assert_eq!(code(w.plane.vote_on_rollout(&berta, id, true, None).await), "invalid_state");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_lapse_and_speak_of_the_nodes_that_were_planned() {
    on_both(|w| async move {
        w.node("n1").await;
        w.settings(json!({"approval_required": true})).await;
        let anna = w.person("anna@x.org", Role::Operator).await;
        let mut spec = Spec::new(w.bundle("1").await);
        spec.start = false;
        let id = w.roll_out(spec).await;
        let approve = async || w.plane.vote_on_rollout(&anna, id, true, None).await.unwrap().1;
        let standing = async || w.plane.approvals_of(id).await.unwrap().standing;
        assert_eq!((approve().await, standing().await), (Done::Changed, Approval::Approved));
        // Six more nodes than the one that was planned: people are asked again.
        for n in 2..8 {
            w.node(&format!("n{n}")).await;
        }
        assert_eq!(standing().await, Approval::Waiting { have: 0, need: 1 });
        assert_eq!(code(w.command(id, RolloutCommand::Start).await), "approval_needed");
        assert_eq!((approve().await, standing().await), (Done::Changed, Approval::Approved));
        w.hand.advance(Span::secs(7 * 86_400));
        assert_eq!(standing().await, Approval::Waiting { have: 0, need: 1 });
        assert_eq!((approve().await, standing().await), (Done::Changed, Approval::Approved), "given again");
        w.command(id, RolloutCommand::Start).await.unwrap();
        assert_eq!(w.phase(id).await, Phase::Running);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loosening_a_rule_of_approval_needs_a_second_person() {
    on_both(|w| async move {
        w.settings(json!({"approval_required": true, "approvals_needed": 2})).await;
        let other = w.person("anna@x.org", Role::Admin).await;
        let loosen = async |who: &Caller, needed: u32| {
            let settings = json!({"approvals_needed": needed}).as_object().cloned();
            w.plane.update_project(who, w.project.id, ProjectPatch { settings, ..ProjectPatch::default() }).await
        };
        assert_eq!(code(loosen(&w.caller, 1).await), "second_person_needed");
        assert_eq!(code(loosen(&w.caller, 1).await), "second_person_needed", "one person asking twice is one person");
        assert_eq!(loosen(&other, 1).await.unwrap().settings.approvals_needed, 1);
        loosen(&w.caller, 3).await.unwrap();
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_stops_what_runs_and_what_would_start_until_it_ends() {
    on_both(|w| async move {
        w.node("n1").await;
        let bundle = w.bundle("1").await;
        let running = w.roll_out(Spec::new(bundle)).await;
        w.reaches(running, Phase::Running).await;
        let freeze = w.audited_freeze(hold()).await;
        w.passing_time("it is paused", async || (w.phase(running).await == Phase::Paused).then_some(())).await;
        let causes = w.plane.rollout_view(running).await.unwrap().head.causes;
        assert_eq!(causes, [PauseCause::Freeze].into());
        assert_eq!(code(w.command(running, RESUME).await), "invalid_state", "a freeze is not resumed away");
        w.plane.delete_freeze(&w.caller, w.project.id, freeze).await.unwrap();
        w.passing_time("it goes on", async || (w.phase(running).await == Phase::Running).then_some(())).await;
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_rollout_starts_when_the_window_is_over_or_is_overridden() {
    on_both(|w| async move {
        w.node("n1").await;
        let ends_at = Some(w.plane.now() + Span::secs(20));
        w.freeze(FreezeWish { ends_at, ..hold() }).await;
        let bundle = w.bundle("1").await;
        let id = w.roll_out(Spec::new(bundle)).await;
        assert_eq!((w.phase(id).await, w.primary(id).await.as_str()), (Phase::Pending, "freeze"));
        assert_eq!(code(w.command(id, RolloutCommand::Start).await), "frozen");
        let empty = w.plane.override_freezes(&w.caller, id, " ").await;
        assert!(matches!(empty, Err(CommandError::Invalid(f)) if f[0].0 == "reason"));
        let began = w.plane.now();
        w.passing_time("the window is over", async || (w.phase(id).await == Phase::Running).then_some(())).await;
        assert!(w.plane.now().since(began) >= Span::secs(19), "not before");
        w.command(id, RolloutCommand::Cancel { note: None }).await.unwrap();
        // The red button; a person sets it aside for one rollout, with a reason, and it is audited.
        w.freeze(hold()).await;
        let id = w.roll_out(Spec::new(bundle)).await;
        assert_eq!(w.primary(id).await, "freeze");
        let done = w.audited_override(id, "the fix for the incident").await;
        assert_eq!(done, Done::Changed);
        w.passing_time("it starts", async || (w.phase(id).await == Phase::Running).then_some(())).await;
        // A later freeze holds it all the same.
        w.freeze(FreezeWish { name: "again".into(), ..hold() }).await;
        w.passing_time("it is held", async || (w.phase(id).await == Phase::Paused).then_some(())).await;
        w.end().await;
    })
    .await;
}

impl World {
    async fn audited_freeze(&self, wish: FreezeWish) -> FreezeId {
        let made = self.plane.create_freeze(&self.caller, self.project.id, wish).await.unwrap().id;
        self.says("freeze.created").await;
        made
    }

    async fn audited_override(&self, id: RolloutId, reason: &str) -> Done {
        let done = self.plane.override_freezes(&self.caller, id, reason).await.unwrap();
        self.says("rollout.freeze_overridden").await;
        done
    }

    /// There is exactly one entry of this action.
    async fn says(&self, action: &str) {
        let filter = AuditFilter { action: Some(action.into()), ..AuditFilter::default() };
        let found = self.plane.store().audit_entries(SYSTEM, filter, Page::first(5)).await.unwrap();
        assert_eq!(found.total, 1, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_binds_every_rollout_with_a_target_in_it() {
    on_both(|w| async move {
        let prod = NewEnrolmentToken { labels: map(&[("env", "prod")]), ..NewEnrolmentToken::default() };
        let token = w.token(prod).await;
        w.register(Some(&token), "n1", &[]).await.unwrap();
        let test = w.node("n2").await;
        let wish = EnvironmentWish {
            name: "Production".into(),
            slug: "prod".into(),
            ordinal: 1,
            selector: Selector::Labels { labels: map(&[("env", "prod")]) },
            settings: EnvironmentSettings { approval_required: true, approvals_needed: 1 },
        };
        let environment = w.plane.create_environment(&w.caller, w.project.id, wish.clone()).await.unwrap();
        assert_eq!(
            code(
                w.plane
                    .create_environment(
                        &w.caller,
                        w.project.id,
                        EnvironmentWish { name: "Other".into(), ..wish.clone() }
                    )
                    .await
            ),
            "slug_taken"
        );
        let bundle = w.bundle("1").await;
        let all = w.roll_out(Spec::new(bundle)).await;
        assert_eq!(w.primary(all).await, "awaiting_approval");
        w.command(all, RolloutCommand::Cancel { note: None }).await.unwrap();
        let mut outside = Spec::new(bundle);
        outside.selector = Selector::NodeIds { node_ids: [test.node].into() };
        let outside = w.roll_out(outside).await;
        w.reaches(outside, Phase::Running).await;
        // Its freeze binds whoever reaches into it, and nobody else.
        w.freeze(FreezeWish { environment: Some(environment.id), ..hold() }).await;
        let mut inside = Spec::new(bundle);
        inside.selector = wish.selector.clone();
        let inside = w.roll_out(inside).await;
        w.plane.override_freezes(&w.caller, inside, "checked by hand").await.unwrap();
        assert_eq!(w.primary(inside).await, "awaiting_approval");
        for _ in 0..20 {
            w.hand.advance(Span::millis(250));
            assert_eq!(w.phase(outside).await, Phase::Running);
        }
        let looser = EnvironmentWish { settings: EnvironmentSettings::default(), ..wish };
        let refused = w.plane.update_environment(&w.caller, w.project.id, environment.id, looser).await;
        assert_eq!(code(refused), "second_person_needed");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_could_not_start_within_its_window_stays_and_says_so() {
    on_both(|w| async move {
        w.node("n1").await;
        let mut spec = Spec::new(w.bundle("1").await);
        (spec.scheduled_at, spec.start_window) = (Some(w.plane.now() + Span::secs(10)), Span::secs(60));
        let id = w.roll_out(spec).await;
        assert_eq!(w.primary(id).await, "scheduled");
        let freeze = w.freeze(hold()).await;
        w.passing_time("its window is over", async || (w.primary(id).await == "schedule_missed").then_some(())).await;
        w.plane.delete_freeze(&w.caller, w.project.id, freeze).await.unwrap();
        for _ in 0..20 {
            w.hand.advance(Span::millis(250));
            assert_eq!(w.phase(id).await, Phase::Pending);
        }
        w.command(id, RolloutCommand::Start).await.unwrap();
        assert_eq!(w.phase(id).await, Phase::Running);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_rollout_is_not_retried_into_a_freeze() {
    on_both(|w| async move {
        let (node, bundle) = (w.node("n1").await, w.bundle("1").await);
        let id = w.roll_out(Spec { on_failure: OnFailure::Fail, ..Spec::new(bundle) }).await;
        let told =
            async || matches!(w.plane.poll(node, Duration::ZERO, None).await.unwrap().answer, PollAnswer::Update(_));
        w.eventually("the node is told", async || told().await.then_some(())).await;
        let failed = ReportKind::Failed { error: "it does not start".into(), logs: None };
        w.plane.report(node, BundleRef::Row(bundle), failed, ReportBody::default()).await.unwrap();
        w.reaches(id, Phase::Failed).await;
        let generation = w.stored(node).await.generation;
        let freeze = w.freeze(hold()).await;
        let retry = || w.command(id, RolloutCommand::Retry { nodes: None });
        assert_eq!(code(retry().await), "frozen");
        assert_eq!((w.phase(id).await, w.stored(node).await.generation), (Phase::Failed, generation), "nothing moved");
        w.plane.delete_freeze(&w.caller, w.project.id, freeze).await.unwrap();
        // Set aside by a person, another one does not hold it either.
        w.freeze(FreezeWish { name: "another".into(), ..hold() }).await;
        w.plane.override_freezes(&w.caller, id, "the cause is mended").await.unwrap();
        retry().await.unwrap();
        w.reaches(id, Phase::Running).await;
        assert!(w.stored(node).await.generation > generation);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_a_freeze_aside_is_part_of_what_people_agree_to() {
    on_both(|w| async move {
        w.node("n1").await;
        w.settings(json!({"approval_required": true})).await;
        let anna = w.person("anna@x.org", Role::Operator).await;
        let id = w.roll_out(Spec { start: false, ..Spec::new(w.bundle("1").await) }).await;
        let approve = async || w.plane.vote_on_rollout(&anna, id, true, None).await.unwrap();
        let standing = async || w.plane.approvals_of(id).await.unwrap().standing;
        approve().await;
        assert_eq!(standing().await, Approval::Approved);
        w.freeze(hold()).await;
        w.plane.override_freezes(&w.caller, id, "it cannot wait").await.unwrap();
        assert_eq!(standing().await, Approval::Waiting { have: 0, need: 1 }, "nobody has agreed to that");
        assert_eq!(code(w.command(id, RolloutCommand::Start).await), "approval_needed");
        approve().await;
        w.command(id, RolloutCommand::Start).await.unwrap();
        w.reaches(id, Phase::Running).await;
        w.end().await;
    })
    .await;
}
