//! The commands against both databases, a real artifact directory and the real validator in a child process.
#![allow(clippy::unwrap_used)]

mod bundles;
mod pins;
mod plans;
mod rollouts;
mod sessions;
mod token_keys;

use super::access::{FirstStart, NewApiKey};
use super::nodes::NodePatch;
use super::projects::{NewEnrolmentToken, NewProject, ProjectPatch};
use super::trust::TrustChange;
use super::write::secret_hash;
use crate::clock::{Clock, ManualClock};
use crate::command::*;
use crate::fresh::Fresh;
use crate::keys::{Keyring, derive};
use crate::node_api::{NodeAuth, Registration};
use crate::plane::{ControlPlane, PlaneConfig};
use crate::tree::{Parts, Tree};
use ::bundle::child::{ChildValidator, run_child_main};
use ::bundle::keys::MasterKey;
use ::bundle::samples;
use ::bundle::trust::{Envelope, TrustDoc};
use artifacts::{ArtifactStore, DirStore, Key, UrlSigner};
use domain::bundle::{BundleStatus, Source};
use domain::node::{Labels, Presence, Standing};
use domain::project::{Project, Settings};
use domain::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use store::testing::{Opened, for_each_backend, seed};
use store::{AuditFilter, Page, Write};

const START: Timestamp = Timestamp(1_800_000_000_000_000);
const SYSTEM: Scope = Scope::System("tests look everywhere");
const CHILD: &str = "ACTORS_TEST_VALIDATOR_CHILD";
const BOOTSTRAP: &str = "scp_bootstrap-key-of-the-tests";
const PASSWORD: &str = "correct horse";
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Not a test: what the validator child of the others runs. Its verdict is the line that begins with `VERDICT`.
#[test]
fn validator_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut verdict = Vec::new();
    let code = run_child_main(std::io::stdin().lock(), &mut verdict);
    println!("\nVERDICT {}", String::from_utf8(verdict).unwrap());
    std::process::exit(code);
}

/// This test program around [`validator_child`], without what the test harness prints.
fn validator() -> ChildValidator {
    validator_after("")
}

/// The same, after the shell has done something first.
pub(crate) fn validator_after(first: &str) -> ChildValidator {
    let real = "\"$0\" --exact commands::tests::validator_child --nocapture 2>/dev/null | sed -n 's/^VERDICT //p'";
    let exe = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let mut child = ChildValidator::new("/bin/sh", ["-c".to_string(), format!("{first}\n{real}"), exe]);
    child.env = vec![(CHILD.into(), "1".into())];
    child
}

pub(crate) struct World {
    tree: Option<Tree>,
    pub plane: ControlPlane,
    pub hand: ManualClock,
    pub caller: Caller,
    org: OrgId,
    pub project: Project,
    _dir: tempfile::TempDir,
    _opened: Opened,
}

fn config(master: u8) -> PlaneConfig {
    PlaneConfig {
        stale_after: Span::secs(120),
        lease: Span::secs(5),
        listen: "127.0.0.1:0".into(),
        public_url: "http://127.0.0.1:4000".into(),
        master_key: MasterKey::new([master; 32]),
        validator: validator(),
        compile_concurrency: 2,
        audit_keep: None,
        egress: Default::default(),
    }
}

fn artifacts(dir: &tempfile::TempDir) -> ArtifactStore {
    let secret = derive(&MasterKey::new([7; 32]), "artifact urls/v1");
    ArtifactStore::dir(DirStore::open(dir.path(), UrlSigner::new(secret, "http://127.0.0.1:4000")).unwrap())
}

/// A process on this database and directory, at [`START`].
async fn start(opened: &Opened, dir: &tempfile::TempDir, validator: ChildValidator) -> (Tree, ManualClock) {
    let (clock, hand) = Clock::manual(START);
    let parts = Parts {
        config: PlaneConfig { validator, ..config(7) },
        store: opened.store.clone(),
        artifacts: artifacts(dir),
        clock,
        fresh: Fresh::system(),
        registry: prometheus::Registry::new(),
    };
    (Tree::start(parts).await.unwrap(), hand)
}

impl World {
    async fn new(opened: Opened) -> World {
        World::with(opened, validator()).await
    }

    pub async fn with(opened: Opened, validator: ChildValidator) -> World {
        let dir = tempfile::tempdir().unwrap();
        let (tree, hand) = start(&opened, &dir, validator).await;
        let plane = tree.plane.clone();
        let first = FirstStart {
            admin_email: " Admin@Example.com".into(),
            admin_password: Some(PASSWORD.into()),
            bootstrap_api_key: Some(BOOTSTRAP.into()),
        };
        let done = plane.first_start(first).await.unwrap().unwrap();
        let caller = Caller {
            ctx: Ctx { actor: Actor::User(done.admin), request_id: Some(plane.request_id()), address: None },
            user: Some(done.admin),
            instance_admin: true,
            grant: Grant::Roles(vec![(done.org, Role::Admin)]),
            idempotency: None,
        };
        let new = NewProject { name: "Edge EU".into(), ..NewProject::default() };
        let project = plane.create_project(&caller, new).await.unwrap();
        World { tree: Some(tree), plane, hand, caller, org: done.org, project, _dir: dir, _opened: opened }
    }

    /// Everything ends in order and begins again, with another validator.
    pub async fn restarted(mut self, validator: ChildValidator) -> World {
        self.tree.take().unwrap().stop().await.unwrap();
        self.started(validator).await
    }

    /// Everything ends in order, the database is an older one, and everything begins again.
    pub async fn restored(mut self) -> World {
        self.tree.take().unwrap().stop().await.unwrap();
        self._opened.store.mark_restored(Write::at(START)).await.unwrap();
        self.started(validator()).await
    }

    async fn started(self, validator: ChildValidator) -> World {
        let (tree, hand) = start(&self._opened, &self._dir, validator).await;
        World { plane: tree.plane.clone(), tree: Some(tree), hand, ..self }
    }

    pub async fn settings(&self, settings: serde_json::Value) {
        let patch = ProjectPatch { settings: settings.as_object().cloned(), ..ProjectPatch::default() };
        self.plane.update_project(&self.caller, self.project.id, patch).await.unwrap();
    }

    pub fn dir(&self) -> &std::path::Path {
        self._dir.path()
    }

    async fn token(&self, new: NewEnrolmentToken) -> String {
        let new = NewEnrolmentToken { name: "token".into(), ..new };
        self.plane.create_enrolment_token(&self.caller, self.project.id, new).await.unwrap().1
    }

    async fn register(
        &self,
        token: Option<&str>,
        name: &str,
        labels: &[(&str, &str)],
    ) -> CommandResult<crate::node_api::Registered> {
        let registration = Registration { name: name.into(), labels: map(labels), ..Registration::default() };
        self.plane.register_node(self.project.id, token, registration, &Ctx::system()).await
    }

    pub async fn submit(&self, text: &str) -> DesiredConfigId {
        let files = BTreeMap::from([("config.kdl".to_string(), text.to_string())]);
        self.plane.submit_config(&self.caller, self.project.id, files, Source::default()).await.unwrap().id
    }

    pub async fn compile(&self, config: DesiredConfigId, version: &str) -> CommandResult<super::bundles::Compiled> {
        self.plane.compile(&self.caller, self.project.id, Some(config), Some(version.into()), WAIT).await
    }

    /// A bundle of its own content.
    pub async fn bundle(&self, version: &str) -> BundleId {
        let config = self.submit(&format!("{}\n// {version}\n", samples::DEMO_V1)).await;
        self.compile(config, version).await.unwrap().bundle.id
    }

    /// An adopted node that has just registered.
    pub async fn node(&self, name: &str) -> NodeAuth {
        let token = self.token(NewEnrolmentToken::default()).await;
        let key = self.register(Some(&token), name, &[]).await.unwrap().key;
        self.plane.node_auth(&secret_hash(&key)).await.unwrap().unwrap()
    }

    pub async fn stored(&self, node: NodeAuth) -> domain::node::Node {
        self.plane.store().node(SYSTEM, node.node).await.unwrap()
    }

    /// Waits until `look` answers.
    pub async fn eventually<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WAIT, found).await.unwrap_or_else(|_| panic!("did not happen: {what}"))
    }

    /// How many audit entries there are, in all chains.
    async fn entries(&self) -> i64 {
        let all = self.plane.store().audit_entries(SYSTEM, AuditFilter::default(), Page::first(1)).await.unwrap();
        all.total
    }

    /// Also when it is another task that writes them. One too many is a failure of its own.
    async fn eventually_entries(&self, count: i64) {
        let all_there = async {
            while self.entries().await < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WAIT, all_there).await.unwrap();
        assert_eq!(self.entries().await, count);
    }

    /// `command` leaves exactly one entry, of this action.
    async fn audited<T>(&self, action: &str, command: impl Future<Output = CommandResult<T>>) -> T {
        let before = self.entries().await;
        let answer = command.await.unwrap_or_else(|e| panic!("{action}: {e:?}"));
        assert_eq!(self.entries().await, before + 1, "{action}: one entry for one command");
        let filter = AuditFilter { action: Some(action.into()), ..AuditFilter::default() };
        let entry = self.plane.store().audit_entries(SYSTEM, filter, Page::first(1)).await.unwrap();
        assert!(!entry.rows.is_empty(), "an entry {action}");
        answer
    }

    pub async fn end(mut self) {
        self.tree.take().unwrap().stop().await.unwrap();
    }
}

fn map(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn code<T: std::fmt::Debug>(answer: CommandResult<T>) -> &'static str {
    match answer {
        Err(CommandError::Conflict { code, .. }) => code,
        other => panic!("a conflict was expected: {other:?}"),
    }
}

pub(crate) async fn on_both<F, Fut>(test: F)
where
    F: Fn(World) -> Fut,
    Fut: Future<Output = ()>,
{
    for_each_backend(|opened| async { test(World::new(opened).await).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_happens_once_and_its_key_reaches_every_organisation() {
    on_both(|w| async move {
        assert!(w.plane.first_start(FirstStart::default()).await.unwrap().is_none());
        let (key, every_org) = w.plane.api_key(BOOTSTRAP, None).await.unwrap().unwrap();
        assert!(every_org && key.scopes.len() == KeyScope::ALL.len());
        assert_eq!(key.created_by, w.caller.user);
        assert!(w.plane.api_key("scp_no-such-key", None).await.unwrap().is_none());
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_follows_its_token_or_the_project() {
    on_both(|w| async move {
        assert!(matches!(w.register(None, "n1", &[]).await, Err(CommandError::Forbidden(_))));
        assert!(matches!(w.register(Some("set_unknown"), "n1", &[]).await, Err(CommandError::Forbidden(_))));
        let limited = NewEnrolmentToken {
            max_uses: Some(1),
            labels: map(&[("region", "eu")]),
            allowed_label_keys: Some(vec!["rack".into(), "region".into()]),
            ..NewEnrolmentToken::default()
        };
        let token = w.token(limited).await;
        for bad in ["", "-n", "a b"] {
            let refused = w.register(Some(&token), bad, &[]).await;
            assert!(matches!(&refused, Err(CommandError::Invalid(f)) if f[0].0 == "name"), "{bad:?}: {refused:?}");
        }
        let own = [("region", "us"), ("rack", "7"), ("role", "admin")];
        let done = w.register(Some(&token), "n1", &own).await.unwrap();
        assert!(!done.replaced && done.key.starts_with("snk_"));
        assert!(done.heartbeat_interval_s <= 40 && done.poll_interval_s >= 1);
        let node = w.plane.store().node(SYSTEM, done.node).await.unwrap();
        assert_eq!(
            node.labels,
            map(&[("region", "eu"), ("rack", "7")]),
            "the token wins and lets only its keys through"
        );
        assert_eq!((node.standing, node.presence), (Standing::Adopted, Presence::Online));
        assert_eq!(node.last_seen, Some(START), "registration counts as being heard");
        let envelope: Envelope = serde_json::from_value(done.trust).unwrap();
        let doc: TrustDoc = envelope.decode().unwrap();
        assert_eq!((doc.problem(), doc.version), (None, 1));
        assert_eq!(doc.artifact_origins, ["http://127.0.0.1:4000"]);
        assert_eq!(envelope.key_id, w.plane.inner.keys.root_key_id(w.org).await.unwrap());

        assert!(matches!(w.register(Some(&token), "n2", &[]).await, Err(CommandError::Forbidden(_))), "used up");
        let short = NewEnrolmentToken { expires_at: Some(START + Span::secs(10)), ..NewEnrolmentToken::default() };
        let short = w.token(short).await;
        w.hand.advance(Span::secs(10));
        assert!(matches!(w.register(Some(&short), "n2", &[]).await, Err(CommandError::Forbidden(_))), "expired");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_registration_quarantines_until_somebody_adopts() {
    on_both(|w| async move {
        w.settings(json!({"open_registration": true})).await;
        let done = w.register(None, "n1", &[("a", "b")]).await.unwrap();
        let standing = |w: &World| {
            let (store, node) = (w.plane.store().clone(), done.node);
            async move { store.node(SYSTEM, node).await.unwrap().standing }
        };
        assert_eq!(standing(&w).await, Standing::Quarantined);
        assert_eq!(w.plane.adopt_node(&w.caller, w.project.id, done.node).await, Ok(Done::Changed));
        assert_eq!(w.plane.adopt_node(&w.caller, w.project.id, done.node).await, Ok(Done::Already));
        assert_eq!(standing(&w).await, Standing::Adopted);
        w.settings(json!({"adopt_on_registration": true})).await;
        let demo = w.register(None, "n2", &[]).await.unwrap();
        assert_eq!(w.plane.store().node(SYSTEM, demo.node).await.unwrap().standing, Standing::Adopted);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_offline_node_is_replaced_and_its_old_key_is_void() {
    on_both(|w| async move {
        let plain = w.token(NewEnrolmentToken::default()).await;
        let replacing = w.token(NewEnrolmentToken { allow_replace: true, ..NewEnrolmentToken::default() }).await;
        let old = w.register(Some(&plain), "n1", &[]).await.unwrap();
        assert_eq!(code(w.register(Some(&plain), "n1", &[]).await), "name_taken");
        assert_eq!(code(w.register(Some(&replacing), "n1", &[]).await), "name_taken", "it is online");
        let moved = w.plane.store().set_presence_offline(vec![old.node], START, Write::at(START)).await.unwrap();
        assert_eq!(moved.len(), 1);
        assert_eq!(code(w.register(Some(&plain), "n1", &[]).await), "name_taken", "the token does not allow it");
        let new = w.register(Some(&replacing), "n1", &[]).await.unwrap();
        assert!(new.replaced && new.node == old.node && new.key != old.key);
        let store = w.plane.store();
        assert_eq!(store.node_credential(secret_hash(&new.key)).await.unwrap().node, old.node);
        assert_eq!(store.node_credential(secret_hash(&old.key)).await.unwrap_err(), store::Error::NotFound);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_leaves_exactly_one_audit_entry_without_its_secret() {
    on_both(|w| async move {
        let (plane, caller, project) = (&w.plane, &w.caller, w.project.id);
        let new = NewEnrolmentToken { name: "t".into(), ..NewEnrolmentToken::default() };
        let (shown, token) =
            w.audited("enrolment_token.created", plane.create_enrolment_token(caller, project, new)).await;
        let node = w.audited("node.registered", w.register(Some(&token), "n1", &[("a", "1"), ("b", "2")])).await;
        let patch = |a: &str| NodePatch {
            labels: Some(BTreeMap::from([("a".into(), Some(a.to_string())), ("b".into(), None)])),
            pinned_bundle: None,
        };
        let patched = w.audited("node.updated", plane.patch_node(caller, project, node.node, patch("3"))).await;
        assert_eq!(patched.labels, map(&[("a", "3")]));
        let before = w.entries().await;
        plane.patch_node(caller, project, node.node, patch("3")).await.unwrap();
        assert_eq!(w.entries().await, before, "nothing changed, nothing to say");
        let key = w.audited("node.key_rotated", plane.rotate_node_key(caller, project, node.node, Span::ZERO)).await;
        assert_eq!(plane.store().node_credential(secret_hash(&key)).await.unwrap().epoch, 2);
        assert_eq!(w.audited("node.revoked", plane.revoke_node(caller, project, node.node)).await, Done::Changed);
        assert_eq!(code(plane.adopt_node(caller, project, node.node).await), "node_revoked");
        w.audited("node.deleted", plane.delete_node(caller, project, node.node)).await;
        w.audited("enrolment_token.deleted", plane.delete_enrolment_token(caller, project, shown.id)).await;
        let rename = ProjectPatch { name: Some("Edge".into()), ..ProjectPatch::default() };
        w.audited("project.updated", plane.update_project(caller, project, rename)).await;
        let new = NewApiKey { name: "k".into(), scopes: vec![KeyScope::NodesRead], project: None, expires_at: None };
        let (api_key, text) = w.audited("api_key.created", plane.create_api_key(caller, w.org, new)).await;
        assert_eq!(w.audited("api_key.revoked", plane.revoke_api_key(caller, api_key.id)).await, Done::Changed);
        w.audited("api_key.deleted", plane.delete_api_key(caller, api_key.id)).await;
        w.audited("project.deleted", plane.delete_project(caller, project)).await;
        let all = plane.store().audit_entries(SYSTEM, AuditFilter::default(), Page::first(500)).await.unwrap();
        let log = serde_json::to_string(&all.rows).unwrap();
        for secret in [&token, &node.key, &key, &text, &PASSWORD.to_string(), &BOOTSTRAP.to_string()] {
            assert!(!log.contains(secret.as_str()), "a secret is in the log");
        }
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_carried_out_once() {
    on_both(|w| async move {
        let once = Idempotency {
            credential: "user:1".into(),
            route: "POST /projects".into(),
            key: "abc".into(),
            body_hash: Digest::of(b"body"),
        };
        let caller = Caller { idempotency: Some(once), ..w.caller.clone() };
        let new = |slug: &str| NewProject { name: "Other".into(), slug: Some(slug.into()), ..NewProject::default() };
        let made = w.plane.create_project(&caller, new("other")).await.unwrap();
        let kept = w.plane.store().idempotent("user:1", "POST /projects", "abc", START).await.unwrap().unwrap();
        assert_eq!((kept.status, kept.response), (201, json!({"kind": "project", "id": made.id})));
        let entries = w.entries().await;
        assert_eq!(w.plane.create_project(&caller, new("other")).await.unwrap(), made);
        assert_eq!(w.entries().await, entries, "the answer is repeated, not the deed");
        let mut other = caller.clone();
        other.idempotency.as_mut().unwrap().body_hash = Digest::of(b"another body");
        let refused = w.plane.create_project(&other, new("another")).await;
        assert!(matches!(refused, Err(CommandError::Invalid(f)) if f[0].0 == "Idempotency-Key"));
        assert_eq!(w.plane.store().projects(SYSTEM, Page::first(10)).await.unwrap().total, 2);
        assert_eq!(code(w.plane.create_project(&w.caller, new("other")).await), "slug_taken");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_known_again_by_a_hash_that_nobody_makes_without_the_master_key() {
    on_both(|w| async move {
        let hash = w.plane.request_hash(b"body");
        assert_ne!(hash, Digest::of(b"body"), "a password in it would be guessed");
        assert_ne!(hash, w.plane.request_hash(b"another body"));
        let w = w.restarted(validator()).await;
        assert_eq!(w.plane.request_hash(b"body"), hash, "it is the same request after a restart");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_many_times_at_once_is_carried_out_once() {
    on_both(|w| async move {
        let caller = |route: &str| {
            let (credential, key, body_hash) = ("key:1".into(), "k".into(), Digest::of(b"b"));
            let idempotency = Some(Idempotency { credential, route: route.into(), key, body_hash });
            Caller { idempotency, ..w.caller.clone() }
        };
        let (create, mint, build) = (caller("POST /projects"), caller("POST /api-keys"), caller("POST /compile"));
        let new = || NewProject { name: "Many".into(), ..NewProject::default() };
        let made = futures_util::future::join_all((0..8).map(|_| w.plane.create_project(&create, new()))).await;
        assert!(made.iter().all(|m| m.is_ok() && *m == made[0]), "{made:?}");
        let new = || NewApiKey { name: "k".into(), scopes: vec![], project: None, expires_at: None };
        let minted = futures_util::future::join_all((0..8).map(|_| w.plane.create_api_key(&mint, w.org, new()))).await;
        let minted: Vec<_> = minted.into_iter().map(Result::unwrap).collect();
        assert!(minted.iter().all(|(key, _)| key.id == minted[0].0.id));
        assert_eq!(minted.iter().filter(|(_, text)| !text.is_empty()).count(), 1, "the secret is answered once");
        let config = w.submit(samples::DEMO_V1).await;
        let compile = || w.plane.compile(&build, w.project.id, Some(config), Some("1".into()), WAIT);
        let built = futures_util::future::join_all((0..4).map(|_| compile())).await;
        let built: Vec<_> = built.into_iter().map(Result::unwrap).collect();
        assert!(built.iter().all(|b| b.created && b.bundle == built[0].bundle));
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_an_active_rollout_is_not_deleted() {
    on_both(|w| async move {
        let bundle = seed::compiled_bundle(w.plane.store(), w.project.id, Some("1")).await;
        let rollout = store::NewRollout {
            origin: None,
            planned: seed::planned(w.project.id, bundle.id, &[]),
            org: w.org,
            created_by: None,
            created_by_key: None,
            options: json!({}),
        };
        w.plane.store().insert_rollout(rollout, Write::at(START)).await.unwrap();
        assert_eq!(code(w.plane.delete_project(&w.caller, w.project.id).await), "project_in_use");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_tells_nothing_and_sessions_end() {
    on_both(|w| async move {
        let text = |answer: CommandResult<_>| match answer {
            Err(CommandError::Forbidden(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(super::access::SignedIn { .. }) => panic!("signed in"),
        };
        let before = w.entries().await;
        let wrong = text(w.plane.sign_in("admin@example.com", "wrong horse", None, None).await);
        let unknown = text(w.plane.sign_in("nobody@example.com", PASSWORD, None, None).await);
        assert_eq!(wrong, unknown);
        assert_eq!(w.entries().await, before + 2);
        for _ in 0..3 {
            text(w.plane.sign_in("admin@example.com", "wrong horse", None, None).await);
        }
        assert_eq!(w.entries().await, before + 2, "joined");
        w.hand.advance(Span::secs(61));
        // The sweep may be at it already.
        w.plane.flush_api_key_uses().await;
        w.eventually_entries(before + 3).await;

        let me = w.audited("session.created", w.plane.sign_in("ADMIN@example.com ", PASSWORD, None, None)).await;
        let found = w.plane.session(&me.session_token).await.unwrap().unwrap();
        assert_eq!(found.roles, [(w.org, Role::Admin)]);
        assert_eq!(found.csrf_hash, secret_hash(&me.csrf_token));
        assert_eq!(w.plane.csrf_token(&me.session_token), me.csrf_token, "every open page stays valid");
        // Used every eleven hours it lives until its absolute end.
        for _ in 0..15 {
            w.hand.advance(Span::secs(11 * 3600));
            assert!(w.plane.session(&me.session_token).await.unwrap().is_some());
        }
        w.hand.advance(Span::secs(11 * 3600));
        assert!(w.plane.session(&me.session_token).await.unwrap().is_none(), "seven days are over");
        let me = w.plane.sign_in("admin@example.com", PASSWORD, None, None).await.unwrap();
        w.hand.advance(Span::secs(12 * 3600));
        assert!(w.plane.session(&me.session_token).await.unwrap().is_none(), "idle");
        let me = w.plane.sign_in("admin@example.com", PASSWORD, None, None).await.unwrap();
        w.audited("session.deleted", w.plane.sign_out(&me.session_token, None, None)).await;
        assert!(w.plane.session(&me.session_token).await.unwrap().is_none());
        w.plane.sign_out(&me.session_token, None, None).await.unwrap();
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_keeps_nobody_out_who_came_before() {
    on_both(|w| async move {
        let home = Some("2001:db8:1:2::7".parse().unwrap());
        let (same_network, elsewhere) = ("2001:db8:1:2::8".parse().ok(), "2001:db8:1:3::7".parse().ok());
        let sign_in = async |w: &World, from| w.plane.sign_in("admin@example.com", PASSWORD, None, from).await;
        sign_in(&w, home).await.unwrap();
        // Another process: it remembers by the database.
        let w = w.restarted(validator()).await;
        let passwords = &w.plane.inner.keys.doorman().passwords;
        let flood: Vec<_> = std::iter::from_fn(|| passwords.place()).collect();
        assert!(flood.len() > 10);
        assert!(matches!(sign_in(&w, elsewhere).await, Err(CommandError::Unavailable(_))));
        sign_in(&w, same_network).await.unwrap();
        let wrong = w.plane.sign_in("admin@example.com", "a wrong password", None, home).await;
        assert!(matches!(wrong, Err(CommandError::Forbidden(_))));
        drop(flood);
        sign_in(&w, elsewhere).await.unwrap();
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_never_mints_more_than_it_has_and_ends_at_once() {
    on_both(|w| async move {
        let new = |scopes: &[KeyScope], project| NewApiKey {
            name: "k".into(),
            scopes: scopes.to_vec(),
            project,
            expires_at: Some(START + Span::secs(3600)),
        };
        let bound = Some(w.project.id);
        let scopes = [KeyScope::ApiKeysAdmin, KeyScope::NodesWrite];
        let (key, text) = w.plane.create_api_key(&w.caller, w.org, new(&scopes, bound)).await.unwrap();
        assert!(text.starts_with("scp_") && text.starts_with(&key.prefix) && !key.prefix.is_empty());
        assert_eq!(key.key_hash, secret_hash(&text));
        let grant =
            Grant::Key { org: w.org, project: bound, scopes: key.scopes.clone(), every_org: false, expires_at: None };
        let caller = Caller { grant, ..w.caller.clone() };
        w.plane.create_api_key(&caller, w.org, new(&[KeyScope::NodesRead], bound)).await.unwrap();
        let more = w.plane.create_api_key(&caller, w.org, new(&[KeyScope::BundlesRead], bound)).await;
        assert!(matches!(more, Err(CommandError::Forbidden(why)) if why.contains("bundles:read")));
        let wider = w.plane.create_api_key(&caller, w.org, new(&[KeyScope::NodesRead], None)).await;
        assert!(matches!(wider, Err(CommandError::Forbidden(_))), "{wider:?}");
        let stranger = Caller { grant: Grant::Roles(vec![(OrgId::NIL, Role::Admin)]), ..w.caller.clone() };
        let foreign = w.plane.revoke_api_key(&stranger, key.id).await;
        assert_eq!(foreign, Err(CommandError::NotFound("api key")));

        assert!(w.plane.api_key(&text, None).await.unwrap().is_some_and(|(_, every)| !every));
        w.plane.flush_api_key_uses().await;
        assert_eq!(w.plane.store().api_key(SYSTEM, key.id).await.unwrap().last_used_at, Some(START));
        // However often it is used, that is written when uses are flushed, and not at all when there were none.
        let written = || w.plane.store().operations().get("api_key.touch").copied().unwrap_or(0);
        w.hand.advance(Span::secs(1));
        let before = written();
        for _ in 0..100 {
            assert!(w.plane.api_key(&text, None).await.unwrap().is_some());
        }
        assert_eq!(written(), before, "not one statement for each use");
        let first = w.plane.store().operations()["api_key.first_use"];
        assert_eq!(w.plane.store().api_key(SYSTEM, key.id).await.unwrap().last_used_at, Some(START));
        for _ in 0..3 {
            w.plane.flush_api_key_uses().await;
        }
        assert_eq!(written(), before + 1, "one for all of them");
        let used = w.plane.store().api_key(SYSTEM, key.id).await.unwrap().last_used_at;
        assert_eq!(used, Some(START + Span::secs(1)));
        assert_eq!(w.plane.store().operations()["api_key.first_use"], first);

        assert_eq!(w.plane.revoke_api_key(&w.caller, key.id).await, Ok(Done::Changed));
        assert!(w.plane.api_key(&text, None).await.unwrap().is_none(), "at once, where it was revoked");
        let (_, short) = w.plane.create_api_key(&w.caller, w.org, new(&[], None)).await.unwrap();
        assert!(w.plane.api_key(&short, None).await.unwrap().is_some());
        w.hand.advance(Span::secs(3600));
        assert!(w.plane.api_key(&short, None).await.unwrap().is_none(), "expired");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyring_outlives_its_process_and_refuses_another_master_key() {
    on_both(|w| async move {
        let artifacts = artifacts(&w._dir);
        let load = |config: PlaneConfig| {
            let (store, fresh, clock) = (w.plane.store().clone(), Fresh::system(), w.plane.clock().clone());
            let artifacts = artifacts.clone();
            async move { Keyring::load_or_create(&store, &artifacts, &config, &fresh, &clock).await }
        };
        let again = load(config(7)).await.unwrap();
        let keys = &w.plane.inner.keys;
        assert_eq!(again.root_key_id(w.org).await, keys.root_key_id(w.org).await);
        assert_eq!(again.sign_manifest(w.org, b"m").await, keys.sign_manifest(w.org, b"m").await);
        assert_eq!(again.derive("x"), keys.derive("x"));
        let why = load(config(8)).await.err().unwrap();
        assert!(why.contains("MASTER_KEY"), "{why}");
        // Another origin is a new version of the document, signed by the same root.
        let moved = PlaneConfig { public_url: "https://cp.example.com/base".into(), ..config(7) };
        let moved = load(moved).await.unwrap();
        let envelope: Envelope = serde_json::from_value(moved.trust(w.org).await.unwrap()).unwrap();
        let doc: TrustDoc = envelope.decode().unwrap();
        assert_eq!(doc.version, 2);
        assert_eq!(doc.artifact_origins, ["http://127.0.0.1:4000", "https://cp.example.com"]);
        assert_eq!(envelope.key_id, keys.root_key_id(w.org).await.unwrap());
        assert!(w.plane.store().signing_keys(Some(w.org), None).await.unwrap().len() == 3);
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_trust_documents_there_were_the_newest_is_in_use() {
    on_both(|w| async move {
        let (keys, store) = (&w.plane.inner.keys, w.plane.store());
        let first = keys.trust(w.org).await.unwrap();
        // Those in between are passed on as they are; here the first stands for each.
        for version in 2..=1_000 {
            store.insert_trust(Some(w.org), version, first.clone(), Write::at(START)).await.unwrap();
        }
        let rows = store.signing_keys(Some(w.org), Some("root")).await.unwrap();
        let root = keys.unsealed(&rows[0]).unwrap().unwrap();
        let doc = TrustDoc { version: 1_001, ..keys.trust_doc(w.org).await.unwrap() };
        let newest = serde_json::to_value(Envelope::sign(&doc, &[&root]).unwrap()).unwrap();
        store.insert_trust(Some(w.org), 1_001, newest, Write::at(START)).await.unwrap();
        keys.forget(w.org);
        assert_eq!(keys.trust_doc(w.org).await.unwrap(), doc);
        assert_eq!(keys.trust_after(w.org, 0).await.unwrap().len(), 1_001);
        let change = TrustChange { expires_at: Some(START + Span::secs(90 * 86_400)), ..TrustChange::default() };
        let published = w.plane.change_trust(&w.caller, w.org, change).await.unwrap();
        assert_eq!(published.doc.version, 1_002, "and another one follows it");
        w.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_checked_field_by_field() {
    on_both(|w| async move {
        let settings = Settings { approvals_needed: 0, ..Settings::default() };
        let bad = NewProject { name: " x".into(), slug: Some("-".into()), settings, ..NewProject::default() };
        let Err(CommandError::Invalid(faults)) = w.plane.create_project(&w.caller, bad).await else {
            panic!("it is bad")
        };
        let fields: Vec<&str> = faults.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(fields, ["name", "slug", "settings.approvals_needed"]);
        let reader = Caller { grant: Grant::Roles(vec![(w.org, Role::Reader)]), ..w.caller.clone() };
        let new = NewProject { name: "A".into(), ..NewProject::default() };
        let refused = w.plane.create_project(&reader, new).await;
        assert!(matches!(refused, Err(CommandError::Forbidden(why)) if why.contains("projects:write")));
        w.end().await;
    })
    .await;
}
