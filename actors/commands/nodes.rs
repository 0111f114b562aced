//! What operators do to nodes. What nodes do themselves is in `node_session`.

use super::node_keys::MAX_GRACE;
use super::write::*;
use crate::command::*;
use crate::node_api::{LogLine, NodeAuth, Registered, Registration};
use crate::plane::ControlPlane;
use domain::bundle::BundleStatus;
use domain::node::{HealthClass, Labels, Node, Presence, Standing, check_labels, check_node_name};
use domain::project::Project;
use domain::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use store::{ChangeKind, EnrolmentToken, Write};

/// Capabilities a node may name, and characters of each.
const MAX_CAPABILITIES: usize = 64;
/// Characters of version, address and host name.
const MAX_FACT: usize = 255;
/// Bytes of a node's metadata as JSON.
const MAX_METADATA: usize = 16 * 1024;
/// Polls of a node that has nothing to do, before a session tells it better: 10,000 nodes make 333 a second.
const POLL_INTERVAL_S: i64 = 30;
/// Heartbeats likewise; never more than a third of the stale time, so that one may be lost.
const HEARTBEAT_INTERVAL_S: i64 = 30;

/// Lines of a node's log that are kept: half a kilobyte each.
const KEPT_LINES: u32 = 1_000;
/// Samples of each kind that are kept of a node: half a kilobyte each.
const KEPT_SAMPLES: u32 = 500;

#[derive(Clone, Debug, Default)]
pub struct NodePatch {
    /// Merged; `None` deletes.
    pub labels: Option<BTreeMap<String, Option<String>>>,
    pub pinned_bundle: Option<Option<BundleId>>,
}

impl ControlPlane {
    /// What a node says of itself, kept beside what we saw of it. Whose it is comes from the credential.
    pub async fn log_of_node(&self, auth: NodeAuth, lines: Vec<LogLine>) -> CommandResult<()> {
        let now = self.now();
        let event = |l: LogLine| store::NodeEvent {
            node: auth.node,
            project: auth.project,
            at: now,
            kind: l.kind.into(),
            detail: l.detail,
            rollout: None,
        };
        let events: Vec<_> = lines.into_iter().map(event).collect();
        if events.is_empty() {
            return Ok(());
        }
        Ok(self.store().log_of_node(auth.node, events, KEPT_LINES, Write::at(now)).await?)
    }

    /// What a node counted and saw, beside its heartbeats.
    pub async fn keep_samples(&self, auth: NodeAuth, samples: Vec<store::Sample>) -> CommandResult<()> {
        if samples.is_empty() {
            return Ok(());
        }
        let write = Write::at(self.now());
        Ok(self.store().put_samples(auth.node, auth.project, samples, KEPT_SAMPLES, write).await?)
    }

    /// The configuration that a node says it runs, under its hash. Answers whether it is another one than before.
    pub async fn keep_config(&self, auth: NodeAuth, hash: Digest, config: String) -> CommandResult<bool> {
        let write = Write::at(self.now());
        Ok(self.store().put_node_config(auth.node, auth.project, hash, config, write).await?)
    }

    /// `token`: the enrolment token's text; without one only where the project allows open registration. `Forbidden` is
    /// always about the token: it is missing, unknown, of another project, expired or used up.
    pub async fn register_node(
        &self,
        project: ProjectId,
        token: Option<&str>,
        registration: Registration,
        ctx: &Ctx,
    ) -> CommandResult<Registered> {
        let project = self.project_by_id(project).await?;
        let token = self.enrolment(&project, token).await?;
        let r = checked(registration)?;
        let labels = labels_of(token.as_ref(), r.labels);
        if let Err(why) = check_labels(&labels) {
            return Err(CommandError::invalid("labels", why));
        }
        // Before anything is written: a registration that cannot be answered must not use up the token.
        let trust_chain = self.inner.keys.trust_after(project.org, 0).await?;
        let trust = trust_chain.last().cloned().unwrap_or_default();
        let key = secret_text(self.fresh(), "snk_");
        let now = self.now();
        let standing = match &token {
            Some(_) => Standing::Adopted,
            None if project.settings.adopt_on_registration => Standing::Adopted,
            None => Standing::Quarantined,
        };
        let node = Node {
            id: self.fresh().id(now),
            org: project.org,
            project: project.id,
            name: r.name,
            standing,
            key_hash: secret_hash(&key),
            credential_epoch: 1,
            labels,
            capabilities: r.capabilities,
            version: r.version,
            ip: r.ip,
            hostname: r.hostname,
            metadata: r.metadata,
            presence: Presence::Online,
            health: HealthClass::Absent,
            last_seen: Some(now),
            instance: None,
            generation: 0,
            handed_over: 0,
            desired_bundle: None,
            desired_rollout: None,
            traffic_weight: 100,
            busy: None,
            clock_skew: None,
            active_bundle: None,
            staged_bundle: None,
            verified_bundle: None,
            pinned_bundle: None,
            last_error: None,
            inserted_at: now,
            updated_at: now,
        };
        let write = self.registered_write(ctx, "node.registered", &node, token.as_ref());
        let (id, replaced) =
            match self.inner.store.register_node(token.as_ref().map(|t| t.id), node.clone(), write).await {
                Ok(()) => (node.id, false),
                Err(store::Error::Conflict("name")) => (self.replace_node(ctx, token.as_ref(), node).await?, true),
                Err(store::Error::Conflict("token")) => {
                    return Err(no_enrolment("the enrolment token is used up or expired"));
                }
                Err(e) => return Err(e.into()),
            };
        match replaced {
            true => {
                Box::pin(self.node_changed(project.id, id)).await;
                // Replacing stored it as online; whoever holds or owes it must hear that it is back.
                self.presence_changed(id, project.id, None, true, 0).await;
            }
            false => Box::pin(self.node_registered(project.id, id)).await,
        }
        let third = self.inner.config.stale_after.as_secs() / 3;
        Ok(Registered {
            node: id,
            key,
            replaced,
            poll_interval_s: POLL_INTERVAL_S.min(third).max(1) as u32,
            heartbeat_interval_s: HEARTBEAT_INTERVAL_S.min(third).max(1) as u32,
            trust,
            trust_chain,
        })
    }

    pub async fn patch_node(
        &self,
        caller: &Caller,
        project: ProjectId,
        node: NodeId,
        patch: NodePatch,
    ) -> CommandResult<Node> {
        let first = Box::pin(self.patch_node_first(caller, project, node, patch));
        self.once(caller, |_| self.node_by_id(project, node), first).await
    }

    async fn patch_node_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        node: NodeId,
        patch: NodePatch,
    ) -> CommandResult<Node> {
        let old = self.node_by_id(project, node).await?;
        let labels = patch.labels.map(|changes| {
            let mut labels = old.labels.clone();
            for (key, value) in changes {
                match value {
                    Some(value) => labels.insert(key, value),
                    None => labels.remove(&key),
                };
            }
            labels
        });
        let mut faults = Faults::default();
        if let Some(labels) = &labels {
            faults.check("labels", check_labels(labels));
        }
        let mut pinned = patch.pinned_bundle;
        if let Some(Some(wanted)) = &mut pinned {
            match self.inner.store.bundle_by_id(Scope::Project(project), *wanted).await {
                Ok(b) if matches!(b.status, BundleStatus::Compiled | BundleStatus::Deprecated) => *wanted = b.id,
                Ok(b) if b.status == BundleStatus::Revoked => {
                    let detail = "the bundle is revoked: nothing can be pinned to it".into();
                    return Err(CommandError::Conflict { code: "bundle_revoked", detail });
                }
                Ok(b) => {
                    faults.add("pinned_bundle_id", format!("is {}: only a compiled bundle can be pinned", b.status))
                }
                Err(store::Error::NotFound) => faults.add("pinned_bundle_id", "is not a bundle of this project"),
                Err(e) => return Err(e.into()),
            }
        }
        faults.done()?;
        let labels = labels.filter(|l| *l != old.labels);
        let wanted = pinned.flatten();
        let pinned = pinned.filter(|p| *p != old.pinned_bundle);
        // Said again: perhaps the process ended between the pin and its rollout, or that was refused.
        if let Some(bundle) = wanted
            && pinned.is_none()
            && old.standing == Standing::Adopted
            && old.desired_bundle != Some(bundle)
            && !self.pin_is_followed(project, node, bundle).await?
        {
            let caller = Caller { idempotency: None, ..caller.clone() };
            self.follow_pin(&caller, project, node, bundle).await;
        }
        if labels.is_none() && pinned.is_none() {
            return Ok(old);
        }
        let mut changes = serde_json::Map::new();
        if let Some(labels) = &labels {
            changes.insert("labels".into(), json!({"from": old.labels, "to": labels}));
        }
        if let Some(pinned) = pinned {
            changes.insert("pinned_bundle_id".into(), json!({"from": old.pinned_bundle, "to": pinned}));
        }
        let write = self.node_write(caller, "node.updated", &old, Value::Object(changes), 200);
        let patch = store::NodePatch { labels, pinned_bundle: pinned };
        let new =
            self.inner.store.patch_node(Scope::Project(project), node, patch, write).await.map_err(missing("node"))?;
        Box::pin(self.node_changed(project, node)).await;
        if let Some(Some(bundle)) = pinned
            && (new.traffic_weight != domain::rollout::FULL_WEIGHT
                || [new.desired_bundle, new.active_bundle, new.verified_bundle].iter().any(|b| *b != Some(bundle)))
        {
            let caller = Caller { idempotency: None, ..caller.clone() };
            self.follow_pin(&caller, project, node, bundle).await;
        }
        Ok(new)
    }

    /// The new key is answered once (empty when the request was repeated). The old one is void at once, or with a `grace` when
    /// the new one is used first, and at the latest after it.
    pub async fn rotate_node_key(
        &self,
        caller: &Caller,
        project: ProjectId,
        node: NodeId,
        grace: Span,
    ) -> CommandResult<String> {
        let first = Box::pin(self.rotate_node_key_first(caller, project, node, grace));
        self.once(caller, |_| std::future::ready(Ok(String::new())), first).await
    }

    async fn rotate_node_key_first(
        &self,
        caller: &Caller,
        project: ProjectId,
        node: NodeId,
        grace: Span,
    ) -> CommandResult<String> {
        if !(Span::ZERO..=MAX_GRACE).contains(&grace) {
            let most = MAX_GRACE.as_secs();
            return Err(CommandError::invalid("grace_seconds", format!("must be 0 to {most}")));
        }
        let old = self.node_by_id(project, node).await?;
        if old.standing == Standing::Revoked {
            return Err(CommandError::Conflict {
                code: "node_revoked",
                detail: "the node is revoked: it has to register again".into(),
            });
        }
        let key = secret_text(self.fresh(), "snk_");
        let changes = json!({"credential_epoch": {"from": old.credential_epoch, "to": old.credential_epoch + 1}});
        let write = self.node_write(caller, "node.key_rotated", &old, changes, 200);
        let hash = secret_hash(&key);
        let keep = (grace > Span::ZERO).then(|| store::PreviousKey {
            hash: old.key_hash,
            until: self.now() + grace,
            own: false,
        });
        let store = &self.inner.store;
        store.rotate_node_key(Scope::Project(project), node, hash, keep, write).await.map_err(missing("node"))?;
        Box::pin(self.node_changed(project, node)).await;
        Ok(key)
    }

    pub async fn revoke_node(&self, caller: &Caller, project: ProjectId, node: NodeId) -> CommandResult<Done> {
        let first = Box::pin(self.revoke_node_first(caller, project, node));
        self.once(caller, |_| std::future::ready(Ok(Done::Changed)), first).await
    }

    async fn revoke_node_first(&self, caller: &Caller, project: ProjectId, node: NodeId) -> CommandResult<Done> {
        let old = self.node_by_id(project, node).await?;
        let changes = json!({"standing": {"from": old.standing, "to": Standing::Revoked}});
        let write = self.node_write(caller, "node.revoked", &old, changes, 200);
        let done = self.inner.store.revoke_node(Scope::Project(project), node, write).await.map_err(missing("node"))?;
        // Also when it was revoked already: the command before may have ended in between.
        Box::pin(self.node_changed(project, node)).await;
        Ok(if done.changed { Done::Changed } else { Done::Already })
    }

    pub async fn adopt_node(&self, caller: &Caller, project: ProjectId, node: NodeId) -> CommandResult<Done> {
        let first = Box::pin(self.adopt_node_first(caller, project, node));
        self.once(caller, |_| std::future::ready(Ok(Done::Changed)), first).await
    }

    async fn adopt_node_first(&self, caller: &Caller, project: ProjectId, node: NodeId) -> CommandResult<Done> {
        let old = self.node_by_id(project, node).await?;
        if old.standing == Standing::Revoked {
            return Err(CommandError::Conflict {
                code: "node_revoked",
                detail: "the node is revoked: it has to register again".into(),
            });
        }
        let changes = json!({"standing": {"from": old.standing, "to": Standing::Adopted}});
        let write = self.node_write(caller, "node.adopted", &old, changes, 200);
        let done = self.inner.store.adopt_node(Scope::Project(project), node, write).await.map_err(missing("node"))?;
        if done.changed {
            Box::pin(self.node_changed(project, node)).await;
        }
        Ok(if done.changed { Done::Changed } else { Done::Already })
    }

    pub async fn delete_node(&self, caller: &Caller, project: ProjectId, node: NodeId) -> CommandResult<()> {
        let first = Box::pin(self.delete_node_first(caller, project, node));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn delete_node_first(&self, caller: &Caller, project: ProjectId, node: NodeId) -> CommandResult<()> {
        let old = self.node_by_id(project, node).await?;
        let write = self.node_write(caller, "node.deleted", &old, json!({"name": old.name}), 204);
        self.inner.store.delete_node(Scope::Project(project), node, write).await.map_err(missing("node"))?;
        Box::pin(self.node_changed(project, node)).await;
        Ok(())
    }

    async fn node_by_id(&self, project: ProjectId, node: NodeId) -> CommandResult<Node> {
        self.inner.store.node(Scope::Project(project), node).await.map_err(missing("node"))
    }

    /// The token, if it is good here. `None`: open registration.
    async fn enrolment(&self, project: &Project, token: Option<&str>) -> CommandResult<Option<EnrolmentToken>> {
        let Some(text) = token else {
            return match project.settings.open_registration {
                true => Ok(None),
                false => Err(no_enrolment("an enrolment token is required")),
            };
        };
        let token = match self.inner.store.enrolment_token_by_hash(secret_hash(text)).await {
            Ok(token) if token.project == project.id => token,
            // Of another project: no more is said than about one that does not exist.
            Ok(_) | Err(store::Error::NotFound) => return Err(no_enrolment("the enrolment token is not valid here")),
            Err(e) => return Err(e.into()),
        };
        let now = self.now();
        if token.revoked_at.is_some() || token.expires_at.is_some_and(|at| at <= now) {
            return Err(no_enrolment("the enrolment token is expired"));
        }
        if token.max_uses.is_some_and(|most| token.uses >= most) {
            return Err(no_enrolment("the enrolment token is used up"));
        }
        Ok(Some(token))
    }

    /// The place of an offline node of the same name, where the token allows it.
    async fn replace_node(&self, ctx: &Ctx, token: Option<&EnrolmentToken>, new: Node) -> CommandResult<NodeId> {
        let taken = |detail: String| CommandError::Conflict { code: "name_taken", detail };
        let Some(token) = token.filter(|t| t.allow_replace) else {
            return Err(taken(format!("there is a node {:?} in this project", new.name)));
        };
        let old = match self.inner.store.node_by_name(new.project, &new.name).await {
            Ok(old) => old,
            Err(store::Error::NotFound) => return Err(taken("the name was taken a moment ago: try again".into())),
            Err(e) => return Err(e.into()),
        };
        let write = self.registered_write(ctx, "node.replaced", &Node { id: old.id, ..new.clone() }, Some(token));
        let replace = store::ReplaceNode {
            project: new.project,
            name: new.name,
            key_hash: new.key_hash,
            labels: new.labels,
            capabilities: new.capabilities,
            version: new.version,
            ip: new.ip,
            hostname: new.hostname,
            metadata: new.metadata,
        };
        match self.inner.store.replace_node(token.id, replace, write).await {
            Ok(node) => Ok(node.id),
            Err(store::Error::Conflict("name")) => {
                Err(taken(format!("the node {:?} is not offline: only an offline node is replaced", old.name)))
            }
            Err(store::Error::Conflict("token")) => Err(no_enrolment("the enrolment token is used up or expired")),
            Err(e) => Err(e.into()),
        }
    }

    fn registered_write(&self, ctx: &Ctx, action: &'static str, node: &Node, token: Option<&EnrolmentToken>) -> Write {
        // Nobody is signed in at this call: the one who acts is the node.
        let ctx = match ctx.actor {
            Actor::System => Ctx { actor: Actor::Node(node.id), ..ctx.clone() },
            Actor::User(_) | Actor::ApiKey(_) | Actor::Node(_) => ctx.clone(),
        };
        let changes = json!({
            "name": node.name, "labels": node.labels, "standing": node.standing, "enrolment_token_id": token.map(|t| t.id),
        });
        let (kind, project) = (ChangeKind::Node, Some(node.project));
        self.write(&ctx, Said { action, kind, id: node.id.0, project, changes })
    }

    fn node_write(&self, caller: &Caller, action: &'static str, node: &Node, changes: Value, status: u16) -> Write {
        let (kind, project, now) = (ChangeKind::Node, Some(node.project), self.now());
        let idem = idem(caller, now, status, kind, node.id.0);
        self.write_at(now, &caller.ctx, Said { action, kind, id: node.id.0, project, changes }).idem(idem)
    }
}

fn no_enrolment(why: &str) -> CommandError {
    CommandError::Forbidden(why.into())
}

/// What the token gives, over those of the node's own that the token lets through.
fn labels_of(token: Option<&EnrolmentToken>, own: Labels) -> Labels {
    let Some(token) = token else { return own };
    let allowed = |key: &String| token.allowed_label_keys.iter().any(|a| a == "*" || a == key);
    let mut labels: Labels = own.into_iter().filter(|(key, _)| allowed(key)).collect();
    labels.extend(token.labels.clone());
    labels
}

/// All faults at once. Labels are checked as sent, so that a node learns of a bad one that would not even count.
fn checked(r: Registration) -> CommandResult<Registration> {
    let mut faults = Faults::default();
    faults.check("name", check_node_name(&r.name));
    faults.check("labels", check_labels(&r.labels));
    if r.capabilities.len() > MAX_CAPABILITIES {
        faults.add("capabilities", format!("at most {MAX_CAPABILITIES}"));
    }
    for capability in r.capabilities.iter().take(MAX_CAPABILITIES) {
        faults.text("capabilities", capability, MAX_CAPABILITIES);
    }
    for (field, text) in [("version", &r.version), ("ip", &r.ip), ("hostname", &r.hostname)] {
        faults.text(field, text.as_deref().unwrap_or_default(), MAX_FACT);
    }
    if !r.metadata.is_object() && !r.metadata.is_null() {
        faults.add("metadata", "must be an object");
    } else if r.metadata.to_string().len() > MAX_METADATA {
        faults.add("metadata", format!("must have at most {MAX_METADATA} bytes as JSON"));
    }
    faults.done()?;
    let metadata = if r.metadata.is_null() { json!({}) } else { r.metadata };
    Ok(Registration { metadata, ..r })
}
