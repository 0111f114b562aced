//! Organisations, their members, and the invitations to them.
//!
//! Invariant: nobody hands out a role that holds more than the caller does, and nobody takes one away that does: a key that may
//! write projects but not, say, rollouts makes no operators.

use super::access::check_email;
use super::write::*;
use crate::command::*;
use crate::plane::ControlPlane;
use domain::access::{Invitation, Org, Purpose, User};
use domain::project::{check_slug, slug_of};
use domain::*;
use serde_json::{Map, Value, json};
use store::ChangeKind;

/// How long an invitation can be accepted.
pub const INVITATION_LIFE: Span = Span::secs(7 * 24 * 3600);

#[derive(Clone, Debug, Default)]
pub struct OrgPatch {
    pub name: Option<String>,
    pub slug: Option<String>,
}

/// A person in an organisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub user: User,
    pub role: Role,
    pub since: Timestamp,
}

/// What adding an address led to.
#[derive(Clone, Debug)]
pub enum Added {
    /// The address is a member's with this role already.
    Already(Member),
    /// The token is answered once; empty when the request was repeated.
    Invited(Invitation, String),
}

impl ControlPlane {
    /// By the instance's administrators. Whoever makes it is its first administrator.
    pub async fn create_org(&self, caller: &Caller, name: String, slug: Option<String>) -> CommandResult<Org> {
        let first = Box::pin(self.create_org_first(caller, name, slug));
        self.once(caller, |id| self.org_by_id(OrgId(id)), first).await
    }

    async fn create_org_first(&self, caller: &Caller, name: String, slug: Option<String>) -> CommandResult<Org> {
        let founder = must_administer(caller)?;
        let slug = slug.unwrap_or_else(|| slug_of(&name));
        let mut faults = Faults::default();
        faults.name("name", &name);
        faults.check("slug", check_slug(&slug));
        faults.done()?;
        let now = self.now();
        let org = Org { id: self.fresh().id(now), name, slug, inserted_at: now };
        let changes = json!({"name": org.name, "slug": org.slug, "admin": founder});
        let write = self.write_at(now, &caller.ctx, org_said("org.created", org.id, changes));
        let write = write.idem(idem(caller, now, 201, ChangeKind::Org, org.id.0));
        self.inner.store.found_org(org.clone(), founder, write).await?;
        Ok(org)
    }

    pub async fn update_org(&self, caller: &Caller, id: OrgId, patch: OrgPatch) -> CommandResult<Org> {
        let first = Box::pin(self.update_org_first(caller, id, patch));
        self.once(caller, |id| self.org_by_id(OrgId(id)), first).await
    }

    async fn update_org_first(&self, caller: &Caller, id: OrgId, patch: OrgPatch) -> CommandResult<Org> {
        let old = self.org_by_id(id).await?;
        let mut new = old.clone();
        let (mut faults, mut changes) = (Faults::default(), Map::new());
        if let Some(name) = patch.name.filter(|n| *n != old.name) {
            faults.name("name", &name);
            changes.insert("name".into(), json!({"from": old.name, "to": name}));
            new.name = name;
        }
        if let Some(slug) = patch.slug.filter(|s| *s != old.slug) {
            faults.check("slug", check_slug(&slug));
            changes.insert("slug".into(), json!({"from": old.slug, "to": slug}));
            new.slug = slug;
        }
        faults.done()?;
        if changes.is_empty() {
            return Ok(old);
        }
        let now = self.now();
        let write = self.write_at(now, &caller.ctx, org_said("org.updated", id, Value::Object(changes)));
        let write = write.idem(idem(caller, now, 200, ChangeKind::Org, id.0));
        self.inner.store.update_org(new.clone(), write).await.map_err(missing("organisation"))?;
        Ok(new)
    }

    /// Soft; its keys are revoked with it. 409 `org_in_use` while it has projects.
    pub async fn delete_org(&self, caller: &Caller, id: OrgId) -> CommandResult<()> {
        let first = Box::pin(self.delete_org_first(caller, id));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn delete_org_first(&self, caller: &Caller, id: OrgId) -> CommandResult<()> {
        let org = self.org_by_id(id).await?;
        let now = self.now();
        let said = org_said("org.deleted", id, json!({"name": org.name, "slug": org.slug}));
        let write = self.write_at(now, &caller.ctx, said).idem(idem(caller, now, 204, ChangeKind::Org, id.0));
        match self.inner.store.delete_org(id, write).await {
            Err(store::Error::Conflict("state")) => Err(CommandError::Conflict {
                code: "org_in_use",
                detail: "the organisation has projects: delete them first".into(),
            }),
            done => done.map_err(missing("organisation")),
        }
    }

    pub async fn members(&self, org: OrgId) -> CommandResult<Vec<Member>> {
        let rows = self.inner.store.members(org).await?;
        Ok(rows.into_iter().map(|(user, role, since)| Member { user, role, since }).collect())
    }

    /// Always by an invitation, also where the address has an account: nobody joins without accepting it with a password of
    /// their own, and an account that somebody else made in their name is found out by that. So the answer does not tell
    /// either whether a stranger has an account.
    pub async fn add_member(&self, caller: &Caller, org: OrgId, email: &str, role: Role) -> CommandResult<Added> {
        let first = Box::pin(self.add_member_first(caller, org, email, role));
        self.once(caller, |id| self.invited_again(org, InvitationId(id)), first).await
    }

    async fn add_member_first(&self, caller: &Caller, org: OrgId, email: &str, role: Role) -> CommandResult<Added> {
        may_hand_out(caller, org, role)?;
        let email = email.trim().to_lowercase();
        check_email(&email).map_err(|why| CommandError::invalid("email", why))?;
        if let Some(member) = self.members(org).await?.into_iter().find(|m| m.user.email == email) {
            if member.role == role {
                return Ok(Added::Already(member));
            }
            let detail = format!("is a member already, as {}: change the role instead", member.role);
            return Err(CommandError::Conflict { code: "already_member", detail });
        }
        let now = self.now();
        let (invitation, token) = self.invitation(caller, email, Purpose::Join { org, role }, now);
        let changes = json!({"email": invitation.email, "role": role, "invitation_id": invitation.id});
        let write = self.write_at(now, &caller.ctx, member_said("member.invited", org, None, changes));
        let write = write.idem(idem(caller, now, 201, ChangeKind::Member, invitation.id.0));
        self.inner.store.insert_invitation(invitation.clone(), write).await?;
        Ok(Added::Invited(invitation, token))
    }

    pub async fn change_member(&self, caller: &Caller, org: OrgId, user: UserId, role: Role) -> CommandResult<Member> {
        let first = Box::pin(self.change_member_first(caller, org, user, role));
        self.once(caller, |id| self.member(org, UserId(id)), first).await
    }

    async fn change_member_first(
        &self,
        caller: &Caller,
        org: OrgId,
        user: UserId,
        role: Role,
    ) -> CommandResult<Member> {
        let member = self.member(org, user).await?;
        may_hand_out(caller, org, member.role.max(role))?;
        if member.role == role {
            return Ok(member);
        }
        let now = self.now();
        let changes = json!({"role": {"from": member.role, "to": role}});
        let write = self.write_at(now, &caller.ctx, member_said("member.updated", org, Some(user), changes));
        let write = write.idem(idem(caller, now, 200, ChangeKind::Member, user.0));
        self.inner.store.set_member(user, org, role, write).await.map_err(last_admin)?;
        Ok(Member { role, ..member })
    }

    pub async fn remove_member(&self, caller: &Caller, org: OrgId, user: UserId) -> CommandResult<()> {
        let first = Box::pin(self.remove_member_first(caller, org, user));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn remove_member_first(&self, caller: &Caller, org: OrgId, user: UserId) -> CommandResult<()> {
        let member = self.member(org, user).await?;
        may_hand_out(caller, org, member.role)?;
        let now = self.now();
        let changes = json!({"email": member.user.email, "role": member.role});
        let write = self.write_at(now, &caller.ctx, member_said("member.removed", org, Some(user), changes));
        let write = write.idem(idem(caller, now, 204, ChangeKind::Member, user.0));
        self.inner.store.remove_member(user, org, write).await.map_err(last_admin)
    }

    pub async fn delete_invitation(&self, caller: &Caller, org: OrgId, id: InvitationId) -> CommandResult<()> {
        let first = Box::pin(self.delete_invitation_first(caller, org, id));
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    async fn delete_invitation_first(&self, caller: &Caller, org: OrgId, id: InvitationId) -> CommandResult<()> {
        let now = self.now();
        let said = member_said("member.uninvited", org, None, json!({"invitation_id": id}));
        let write = self.write_at(now, &caller.ctx, said).idem(idem(caller, now, 204, ChangeKind::Member, id.0));
        self.inner.store.delete_invitation(org, id, write).await.map_err(missing("invitation"))
    }

    /// A link for somebody, with its token in clear.
    pub(super) fn invitation(
        &self,
        caller: &Caller,
        email: String,
        purpose: Purpose,
        now: Timestamp,
    ) -> (Invitation, String) {
        let token = secret_text(self.fresh(), "inv_");
        let invitation = Invitation {
            id: self.fresh().id(now),
            token_hash: secret_hash(&token),
            email,
            purpose,
            created_by: caller.user,
            expires_at: now + INVITATION_LIFE,
            used_at: None,
            inserted_at: now,
        };
        (invitation, token)
    }

    /// Where a token is accepted: a page that asks for a password.
    pub fn invitation_link(&self, token: &str) -> String {
        format!("{}/invitation?token={token}", self.config().public_url)
    }

    async fn org_by_id(&self, id: OrgId) -> CommandResult<Org> {
        self.inner.store.org(id).await.map_err(missing("organisation"))
    }

    async fn member(&self, org: OrgId, user: UserId) -> CommandResult<Member> {
        let found = self.members(org).await?.into_iter().find(|m| m.user.id == user);
        found.ok_or(CommandError::NotFound("member"))
    }

    /// Gone when it was accepted or withdrawn meanwhile.
    async fn invited_again(&self, org: OrgId, id: InvitationId) -> CommandResult<Added> {
        let invited = self.inner.store.invitations(org).await?.into_iter().find(|i| i.id == id);
        invited.map(|i| Added::Invited(i, String::new())).ok_or(CommandError::NotFound("invitation"))
    }
}

/// The person behind an administrator of the whole instance; for the bootstrap key, who counts as its maker.
pub(super) fn must_administer(caller: &Caller) -> CommandResult<UserId> {
    match (caller.instance_admin, caller.user) {
        (true, Some(user)) => Ok(user),
        (true, None) => Err(CommandError::Forbidden("this key has no person behind it".into())),
        (false, _) => Err(CommandError::Forbidden("this needs the instance administrator".into())),
    }
}

fn may_hand_out(caller: &Caller, org: OrgId, role: Role) -> CommandResult<()> {
    must(caller, KeyScope::ProjectsWrite, org, None, "organisation")?;
    match KeyScope::of_role(role).find(|s| !caller.may(*s, org, None)) {
        None => Ok(()),
        Some(scope) => {
            Err(CommandError::Forbidden(format!("the role {role} has the scope {scope}, which the caller has not")))
        }
    }
}

fn last_admin(e: store::Error) -> CommandError {
    match e {
        store::Error::Conflict("last_admin") => CommandError::Conflict {
            code: "last_admin",
            detail: "the organisation must keep an administrator: make somebody else one first".into(),
        },
        other => missing("member")(other),
    }
}

fn org_said(action: &'static str, org: OrgId, changes: Value) -> Said {
    Said { action, kind: ChangeKind::Org, id: org.0, project: None, changes }
}

/// About a person of an organisation; without one, about the organisation.
fn member_said(action: &'static str, org: OrgId, user: Option<UserId>, changes: Value) -> Said {
    let mut changes = changes;
    changes["org_id"] = json!(org);
    Said { action, kind: ChangeKind::Member, id: user.map_or(org.0, |u| u.0), project: None, changes }
}
