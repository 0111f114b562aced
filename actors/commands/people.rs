//! People: made, disabled and let back in by the instance's administrators; passwords, changed by oneself or through a link.

use super::access::check_email;
use super::orgs::must_administer;
use super::password::check_password;
use super::write::*;
use crate::command::*;
use crate::plane::ControlPlane;
use domain::access::{Invitation, Purpose, User};
use domain::*;
use serde_json::{Value, json};
use std::net::IpAddr;
use store::{Accepted, ChangeKind, Write};

/// What nobody's password hashes to: such an account is opened by a link only.
const NO_PASSWORD: &str = "!";

/// A person, and the token of the link by which the password is set when none was given. It is answered once; empty when the
/// request was repeated.
#[derive(Clone, Debug)]
pub struct NewUser {
    pub user: User,
    pub link: Option<(Invitation, String)>,
}

impl ControlPlane {
    pub async fn create_user(&self, caller: &Caller, email: &str, password: Option<&str>) -> CommandResult<NewUser> {
        let first = Box::pin(self.create_user_first(caller, email, password));
        let again = |id| async move { Ok(NewUser { user: self.user_by_id(UserId(id)).await?, link: None }) };
        self.once(caller, again, first).await
    }

    async fn create_user_first(&self, caller: &Caller, email: &str, password: Option<&str>) -> CommandResult<NewUser> {
        must_administer(caller)?;
        let email = email.trim().to_lowercase();
        let mut faults = Faults::default();
        faults.check("email", check_email(&email));
        if let Some(password) = password {
            faults.check("password", check_password(password));
        }
        faults.done()?;
        let password_hash = match password {
            Some(password) => self.inner.keys.doorman().passwords.hash(self.fresh(), password).await?,
            None => NO_PASSWORD.into(),
        };
        let now = self.now();
        let user = User {
            id: self.fresh().id(now),
            email,
            password_hash,
            instance_admin: false,
            disabled_at: None,
            inserted_at: now,
        };
        let changes = json!({"email": user.email, "has_password": password.is_some()});
        let write = self.write_at(now, &caller.ctx, user_said("user.created", user.id, changes));
        let write = write.idem(idem(caller, now, 201, ChangeKind::User, user.id.0));
        match self.inner.store.insert_user(user.clone(), write).await {
            Err(store::Error::Conflict("email")) => {
                return Err(CommandError::Conflict { code: "email_taken", detail: "the address is somebody's".into() });
            }
            done => done?,
        }
        let link = match password {
            Some(_) => None,
            // Lost in a crash right here, another is made by a reset.
            None => Some(self.password_link(caller, &user, Write::at(now)).await?),
        };
        Ok(NewUser { user, link })
    }

    /// The password is void, the person's sessions end, and a link sets the next one.
    pub async fn reset_password(&self, caller: &Caller, id: UserId) -> CommandResult<NewUser> {
        let first = Box::pin(self.reset_password_first(caller, id));
        let again = |id| async move { Ok(NewUser { user: self.user_by_id(UserId(id)).await?, link: None }) };
        self.once(caller, again, first).await
    }

    async fn reset_password_first(&self, caller: &Caller, id: UserId) -> CommandResult<NewUser> {
        must_administer(caller)?;
        let user = self.user_by_id(id).await?;
        let now = self.now();
        let write = self.write_at(now, &caller.ctx, user_said("user.password_reset", id, json!({"email": user.email})));
        let write = write.idem(idem(caller, now, 200, ChangeKind::User, id.0));
        self.inner.store.set_password(id, NO_PASSWORD.into(), None, write).await.map_err(missing("user"))?;
        // Lost in a crash right here, another reset makes another.
        let link = self.password_link(caller, &user, Write::at(now)).await?;
        Ok(NewUser { user, link: Some(link) })
    }

    async fn password_link(&self, caller: &Caller, user: &User, write: Write) -> CommandResult<(Invitation, String)> {
        let purpose = Purpose::Password { user: user.id };
        let (invitation, token) = self.invitation(caller, user.email.clone(), purpose, write.at);
        self.inner.store.insert_invitation(invitation.clone(), write).await?;
        Ok((invitation, token))
    }

    pub async fn disable_user(&self, caller: &Caller, id: UserId) -> CommandResult<Done> {
        self.set_user_disabled(caller, id, true).await
    }

    pub async fn enable_user(&self, caller: &Caller, id: UserId) -> CommandResult<Done> {
        self.set_user_disabled(caller, id, false).await
    }

    async fn set_user_disabled(&self, caller: &Caller, id: UserId, disabled: bool) -> CommandResult<Done> {
        let first = Box::pin(self.set_user_disabled_first(caller, id, disabled));
        self.once(caller, |_| std::future::ready(Ok(Done::Changed)), first).await
    }

    async fn set_user_disabled_first(&self, caller: &Caller, id: UserId, disabled: bool) -> CommandResult<Done> {
        must_administer(caller)?;
        let now = self.now();
        let action = if disabled { "user.disabled" } else { "user.enabled" };
        let write = self.write_at(now, &caller.ctx, user_said(action, id, json!({})));
        let write = write.idem(idem(caller, now, 200, ChangeKind::User, id.0));
        match self.inner.store.set_disabled(id, disabled.then_some(now), write).await {
            Ok(true) => Ok(Done::Changed),
            Ok(false) => Ok(Done::Already),
            Err(store::Error::Conflict("last_admin")) => Err(CommandError::Conflict {
                code: "last_admin",
                detail: "the installation must keep an administrator".into(),
            }),
            Err(e) => Err(missing("user")(e)),
        }
    }

    /// One's own password. The session stays, the person's other sessions end. Errors: `Forbidden` when the present one is
    /// wrong.
    pub async fn change_password(
        &self,
        caller: &Caller,
        session_token: &str,
        present: &str,
        next: &str,
    ) -> CommandResult<()> {
        check_password(next).map_err(|why| CommandError::invalid("new_password", why))?;
        let found = self.inner.store.session_by_hash(secret_hash(session_token)).await.map_err(missing("session"))?;
        let passwords = &self.inner.keys.doorman().passwords;
        if !passwords.verify(Some(found.user.password_hash), present).await? {
            return Err(CommandError::Forbidden("the present password is wrong".into()));
        }
        let hash = passwords.hash(self.fresh(), next).await?;
        let now = self.now();
        let write = self.write_at(now, &caller.ctx, user_said("user.password_changed", found.user.id, json!({})));
        let store = &self.inner.store;
        store.set_password(found.user.id, hash, Some(found.session.id), write).await.map_err(missing("user"))
    }

    /// What a link is for, while it can be used. The token is 256 random bits, so whoever has it may know.
    pub async fn open_invitation(&self, token: &str) -> CommandResult<Invitation> {
        let found = self.inner.store.invitation_by_hash(secret_hash(token)).await.map_err(missing("invitation"))?;
        if found.is_open(self.now()) { Ok(found) } else { Err(CommandError::NotFound("invitation")) }
    }

    /// Sets the password and, where the link is to join, makes the person a member. Whoever has an account already proves it
    /// with its password. `Forbidden` when that is wrong.
    pub async fn accept_invitation(
        &self,
        token: &str,
        password: &str,
        request: RequestId,
        address: Option<IpAddr>,
    ) -> CommandResult<User> {
        let invitation = self.open_invitation(token).await?;
        let now = self.now();
        let person = self.person_of(&invitation, password, now).await?;
        let ctx = Ctx { actor: Actor::User(person.id), request_id: Some(request), address };
        let changes = match invitation.purpose {
            Purpose::Join { org, role } => json!({"invitation_id": invitation.id, "org_id": org, "role": role}),
            Purpose::Password { .. } => json!({"invitation_id": invitation.id, "password": "set"}),
        };
        let write = self.write_at(now, &ctx, user_said("invitation.accepted", person.id, changes));
        match self.inner.store.accept_invitation(invitation.id, person, write).await {
            Ok(Accepted::Made(user) | Accepted::Known(user)) => Ok(user),
            Err(store::Error::Conflict("token")) => Err(CommandError::NotFound("invitation")),
            Err(e) => Err(e.into()),
        }
    }

    async fn person_of(&self, invitation: &Invitation, password: &str, now: Timestamp) -> CommandResult<User> {
        let passwords = &self.inner.keys.doorman().passwords;
        let known = match invitation.purpose {
            Purpose::Password { user } => {
                check_password(password).map_err(|why| CommandError::invalid("password", why))?;
                let user = self.user_by_id(user).await?;
                let password_hash = passwords.hash(self.fresh(), password).await?;
                return Ok(User { password_hash, ..user });
            }
            Purpose::Join { .. } => self.inner.store.user_by_email(&invitation.email).await,
        };
        match known {
            Ok(user) => {
                let right = passwords.verify(Some(user.password_hash.clone()), password).await?;
                match right && user.disabled_at.is_none() {
                    true => Ok(user),
                    false => Err(CommandError::Forbidden("this address has an account: its password is needed".into())),
                }
            }
            Err(store::Error::NotFound) => {
                check_password(password).map_err(|why| CommandError::invalid("password", why))?;
                Ok(User {
                    id: self.fresh().id(now),
                    email: invitation.email.clone(),
                    password_hash: passwords.hash(self.fresh(), password).await?,
                    instance_admin: false,
                    disabled_at: None,
                    inserted_at: now,
                })
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn user_by_id(&self, id: UserId) -> CommandResult<User> {
        self.inner.store.user(id).await.map_err(missing("user"))
    }
}

fn user_said(action: &'static str, user: UserId, changes: Value) -> Said {
    Said { action, kind: ChangeKind::User, id: user.0, project: None, changes }
}
