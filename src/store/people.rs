//! Members, passwords and the links that bring people in.
//!
//! Invariants: an organisation that has had an administrator keeps one, and so does the installation; a new password ends the
//! sessions that were opened with the old one; a link is used once.

use crate::Store;
use crate::access::{USER, put_member, put_org, put_user, read_user};
use crate::conn::Conn;
use crate::error::{Fail, Q, Result};
use crate::value::{Cells, p};
use crate::write::{Write, finish};
use domain::access::{Invitation, Org, Purpose, User};
use domain::{Digest, InvitationId, OrgId, Role, SessionId, Timestamp, UserId};

/// What became of an invitation.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// The person did not exist.
    Made(User),
    /// The person was there already.
    Known(User),
}

const INVITATION: &str =
    "i.id, i.token_hash, i.email, i.org_id, i.role, i.user_id, i.created_by, i.expires_at, i.used_at, i.inserted_at";

fn read_invitation(r: &mut Cells) -> Q<Invitation> {
    let (id, token_hash, email) = (r.get()?, r.get()?, r.get()?);
    let purpose = match (r.get::<Option<OrgId>>()?, r.get::<Option<Role>>()?, r.get::<Option<UserId>>()?) {
        (Some(org), Some(role), None) => Purpose::Join { org, role },
        (None, None, Some(user)) => Purpose::Password { user },
        _ => return Err(Fail::invalid("an invitation without a purpose")),
    };
    Ok(Invitation {
        id,
        token_hash,
        email,
        purpose,
        created_by: r.get()?,
        expires_at: r.get()?,
        used_at: r.get()?,
        inserted_at: r.get()?,
    })
}

/// Held to the end of the transaction: two who demote each other would otherwise leave nobody.
async fn lock_org(c: &mut Conn, org: OrgId) -> Q<()> {
    c.one("SELECT id FROM orgs WHERE id = ? AND deleted_at IS NULL {update}", p![org], |r| r.get::<OrgId>())
        .await
        .map(drop)
}

async fn still_administered(c: &mut Conn, org: OrgId) -> Q<()> {
    let sql = "SELECT count(*) FROM memberships m JOIN users u ON u.id = m.user_id \
               WHERE m.org_id = ? AND m.role = 'admin' AND u.disabled_at IS NULL";
    match c.one(sql, p![org], |r| r.get::<i64>()).await? {
        0 => Err(Fail::conflict("last_admin")),
        _ => Ok(()),
    }
}

async fn new_password(c: &mut Conn, user: UserId, hash: &str, keep: Option<SessionId>, at: Timestamp) -> Q<()> {
    c.exec_one("UPDATE users SET password_hash = ?, updated_at = ? WHERE id = ?", p![hash, at, user]).await?;
    let keep = keep.unwrap_or(SessionId::NIL);
    c.exec("DELETE FROM user_sessions WHERE user_id = ? AND id <> ?", p![user, keep]).await?;
    // Links sent for the old one are of no use any more.
    c.exec("UPDATE invitations SET used_at = ? WHERE user_id = ? AND used_at IS NULL", p![at, user]).await.map(drop)
}

impl Store {
    /// `hash` is in PHC form. Ends all sessions of the person but `keep`.
    pub async fn set_password(&self, id: UserId, hash: String, keep: Option<SessionId>, w: Write) -> Result<()> {
        self.write("user.password", (id, hash, keep, w), |c, (id, hash, keep, w)| {
            Box::pin(async move {
                new_password(c, *id, hash, *keep, w.at).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// `None`: enabled again. Disabling ends the person's sessions too. `false`: it was so already, and nothing was written.
    /// Errors: `Conflict("last_admin")` for the last administrator of the installation.
    pub async fn set_disabled(&self, id: UserId, at: Option<Timestamp>, w: Write) -> Result<bool> {
        self.write("user.disable", (id, at, w), |c, (id, at, w)| {
            Box::pin(async move {
                // All administrators are locked, in one order: two who disable each other must not both succeed.
                c.rows("SELECT id FROM users WHERE instance_admin = ? ORDER BY id {update}", p![true], |_| Ok(()))
                    .await?;
                let sql = "SELECT disabled_at, instance_admin FROM users WHERE id = ?";
                let (before, admin): (Option<Timestamp>, bool) =
                    c.one(sql, p![*id], |r| Ok((r.get()?, r.get()?))).await?;
                if before.is_some() == at.is_some() {
                    return Ok(false);
                }
                c.exec_one("UPDATE users SET disabled_at = ?, updated_at = ? WHERE id = ?", p![*at, w.at, *id]).await?;
                if at.is_some() {
                    let sql = "SELECT count(*) FROM users WHERE instance_admin = ? AND disabled_at IS NULL";
                    if admin && c.one(sql, p![true], |r| r.get::<i64>()).await? == 0 {
                        return Err(Fail::conflict("last_admin"));
                    }
                    c.exec("DELETE FROM user_sessions WHERE user_id = ?", p![*id]).await?;
                }
                finish(c, w).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Adds the member or changes the role. Errors: `NotFound` for the organisation, `Conflict("last_admin")`.
    pub async fn set_member(&self, user: UserId, org: OrgId, role: Role, w: Write) -> Result<()> {
        self.write("member.set", (user, org, role, w), |c, (user, org, role, w)| {
            Box::pin(async move {
                lock_org(c, *org).await?;
                let sql = "SELECT role FROM memberships WHERE user_id = ? AND org_id = ?";
                let before: Option<Role> = c.maybe(sql, p![*user, *org], |r| r.get()).await?;
                put_member(c, *user, *org, *role, w.at).await?;
                if before == Some(Role::Admin) {
                    still_administered(c, *org).await?;
                }
                finish(c, w).await
            })
        })
        .await
    }

    /// Errors: `NotFound`, `Conflict("last_admin")`.
    pub async fn remove_member(&self, user: UserId, org: OrgId, w: Write) -> Result<()> {
        self.write("member.remove", (user, org, w), |c, (user, org, w)| {
            Box::pin(async move {
                lock_org(c, *org).await?;
                let sql = "SELECT role FROM memberships WHERE user_id = ? AND org_id = ?";
                let before: Role = c.one(sql, p![*user, *org], |r| r.get()).await?;
                c.exec_one("DELETE FROM memberships WHERE user_id = ? AND org_id = ?", p![*user, *org]).await?;
                if before == Role::Admin {
                    still_administered(c, *org).await?;
                }
                finish(c, w).await
            })
        })
        .await
    }

    /// The organisation with its first administrator. Errors: `Conflict("slug")`.
    pub async fn found_org(&self, org: Org, founder: UserId, w: Write) -> Result<()> {
        self.write("org.found", (org, founder, w), |c, (org, founder, w)| {
            Box::pin(async move {
                put_org(c, org).await?;
                put_member(c, *founder, org.id, Role::Admin, w.at).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Takes the place of unused ones for the same address and purpose.
    pub async fn insert_invitation(&self, invitation: Invitation, w: Write) -> Result<()> {
        self.write("invitation.insert", (invitation, w), |c, (i, w)| {
            Box::pin(async move {
                let (org, role, user) = match i.purpose {
                    Purpose::Join { org, role } => (Some(org), Some(role.as_str()), None),
                    Purpose::Password { user } => (None, None, Some(user)),
                };
                match i.purpose {
                    Purpose::Join { org, .. } => {
                        let sql = "DELETE FROM invitations WHERE org_id = ? AND email = ? AND used_at IS NULL";
                        c.exec(sql, p![org, &i.email]).await?
                    }
                    Purpose::Password { user } => {
                        c.exec("DELETE FROM invitations WHERE user_id = ? AND used_at IS NULL", p![user]).await?
                    }
                };
                c.exec(
                    "INSERT INTO invitations (id, token_hash, email, org_id, role, user_id, created_by, expires_at, used_at, inserted_at) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    p![i.id, i.token_hash, &i.email, org, role, user, i.created_by, i.expires_at, i.used_at, i.inserted_at],
                )
                .await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Whether it is still open is the caller's to judge.
    pub async fn invitation_by_hash(&self, token_hash: Digest) -> Result<Invitation> {
        self.read("invitation.by_hash", token_hash, |c, hash| {
            Box::pin(async move {
                let sql = format!("SELECT {INVITATION} FROM invitations i WHERE i.token_hash = ?");
                c.one(sql, p![*hash], read_invitation).await
            })
        })
        .await
    }

    /// Those to this organisation that were not used, newest first.
    pub async fn invitations(&self, org: OrgId) -> Result<Vec<Invitation>> {
        self.read("invitation.list", org, |c, org| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {INVITATION} FROM invitations i WHERE i.org_id = ? AND i.used_at IS NULL ORDER BY i.id DESC"
                );
                c.rows(sql, p![*org], read_invitation).await
            })
        })
        .await
    }

    /// Of this organisation, unused.
    pub async fn delete_invitation(&self, org: OrgId, id: InvitationId, w: Write) -> Result<()> {
        self.write("invitation.delete", (org, id, w), |c, (org, id, w)| {
            Box::pin(async move {
                let sql = "DELETE FROM invitations WHERE id = ? AND org_id = ? AND used_at IS NULL";
                c.exec_one(sql, p![*id, *org]).await?;
                finish(c, w).await
            })
        })
        .await
    }

    /// Uses the link up. To join: `person` becomes a member, and is made when the address is nobody's yet (whoever is there
    /// already keeps the password, which the caller has checked). To set a password: `person.password_hash` is the new one.
    ///
    /// Errors: `Conflict("token")` when it is used, expired, or its organisation is gone; `Conflict("email")` when the address
    /// became somebody's since the caller looked.
    pub async fn accept_invitation(&self, id: InvitationId, person: User, w: Write) -> Result<Accepted> {
        self.write("invitation.accept", (id, person, w), |c, (id, person, w)| {
            Box::pin(async move {
                let used = "UPDATE invitations SET used_at = ? WHERE id = ? AND used_at IS NULL AND expires_at > ?";
                if c.exec(used, p![w.at, *id, w.at]).await? == 0 {
                    return Err(Fail::conflict("token"));
                }
                let sql = format!("SELECT {INVITATION} FROM invitations i WHERE i.id = ?");
                let invitation = c.one(sql, p![*id], read_invitation).await?;
                let accepted = match invitation.purpose {
                    Purpose::Password { user } => {
                        new_password(c, user, &person.password_hash, None, w.at).await?;
                        let sql = format!("SELECT {USER} FROM users u WHERE u.id = ?");
                        Accepted::Known(c.one(sql, p![user], read_user).await?)
                    }
                    Purpose::Join { org, role } => join(c, person, org, role, w.at).await?,
                };
                finish(c, w).await?;
                Ok(accepted)
            })
        })
        .await
    }
}

async fn join(c: &mut Conn, person: &User, org: OrgId, role: Role, at: Timestamp) -> Q<Accepted> {
    match lock_org(c, org).await {
        Err(e) if e.is_not_found() => return Err(Fail::conflict("token")),
        locked => locked?,
    }
    let sql = format!("SELECT {USER} FROM users u WHERE u.email = ?");
    let accepted = match c.maybe(sql, p![&person.email], read_user).await? {
        // The caller checked the password of the person it found, and of nobody else.
        Some(known) if known.id == person.id => Accepted::Known(known),
        Some(_) => return Err(Fail::conflict("email")),
        None => {
            put_user(c, person).await?;
            Accepted::Made(person.clone())
        }
    };
    // An invitation never takes a role away.
    let sql = "SELECT role FROM memberships WHERE user_id = ? AND org_id = ?";
    let before: Option<Role> = c.maybe(sql, p![person.id, org], |r| r.get()).await?;
    if before.is_none_or(|b| b < role) {
        put_member(c, person.id, org, role, at).await?;
    }
    Ok(accepted)
}
