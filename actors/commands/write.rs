//! What every command shares: the write with its audit entry and change row, the answer to a repeated request, checks.
//!
//! Invariant: secrets never get into `changes` or into a stored answer.

use crate::command::*;
use crate::keys::mac;
use crate::plane::ControlPlane;
use domain::audit::NewEntry;
use domain::project::check_name;
use domain::*;
use serde_json::{Value, json};
use store::{ChangeKind, IdemRecord, NewChange, Write};
use uuid::Uuid;

/// How long a repeated `Idempotency-Key` gets the first answer.
pub(crate) const IDEMPOTENCY_KEPT: Span = Span::secs(24 * 3600);
/// Characters of a free text that goes with a command (a reason, a description).
pub(crate) const MAX_TEXT: usize = 2_000;

/// What a command did, for the audit log and the change feed.
pub(crate) struct Said {
    /// `noun.verb`
    pub action: &'static str,
    pub kind: ChangeKind,
    pub id: Uuid,
    /// Whose chain; `None` is the system's.
    pub project: Option<ProjectId>,
    pub changes: Value,
}

impl Said {
    pub(crate) fn entry(self, ctx: &Ctx) -> NewEntry {
        NewEntry {
            actor: ctx.actor,
            action: self.action,
            resource_type: self.kind.as_str(),
            resource_id: Some(self.id),
            project: self.project,
            changes: self.changes,
            request_id: ctx.request_id,
            ip: ctx.address.map(|a| a.to_string()),
        }
    }
}

impl ControlPlane {
    /// One audit entry and one change row, at this moment. The row's version is the time: later ones are higher.
    pub(crate) fn write(&self, ctx: &Ctx, said: Said) -> Write {
        self.write_at(self.now(), ctx, said)
    }

    pub(crate) fn write_at(&self, at: Timestamp, ctx: &Ctx, said: Said) -> Write {
        let change = NewChange { kind: said.kind, id: said.id, project: said.project, version: at.0 };
        Write::at(at).audit(self.fresh().id(at), said.entry(ctx)).change(change)
    }
}

impl ControlPlane {
    /// Carries `first` out unless the same request was carried out before; then `again` makes the answer anew from the id
    /// of what it made or changed. A secret that the first answer had is then an empty text.
    ///
    /// Two of the same at once: one fails on what the other stored, looks again, and answers the same.
    pub(crate) async fn once<T, A: Future<Output = CommandResult<T>>>(
        &self,
        caller: &Caller,
        again: impl FnOnce(Uuid) -> A,
        first: impl Future<Output = CommandResult<T>>,
    ) -> CommandResult<T> {
        if let Some(id) = self.answered(caller).await?.and_then(|r| id_in(&r)) {
            return again(id).await;
        }
        match first.await {
            Err(why) if caller.idempotency.is_some() => match self.answered(caller).await?.and_then(|r| id_in(&r)) {
                Some(id) => again(id).await,
                None => Err(why),
            },
            done => done,
        }
    }

    /// Errors: the Idempotency-Key of `caller` was used with another body.
    pub async fn check_repeat(&self, caller: &Caller) -> CommandResult<()> {
        self.answered(caller).await.map(drop)
    }

    /// Was the same request carried out before? Errors: its Idempotency-Key was used with another body.
    pub async fn was_answered(&self, caller: &Caller) -> CommandResult<bool> {
        Ok(self.answered(caller).await?.is_some())
    }

    /// By what a request is known again that came with an `Idempotency-Key`. A body may hold a password, which a bare hash would
    /// give away to whoever reads the database and guesses; this one asks for the master key too. It is the same on every
    /// instance with that key, and after a restart.
    pub fn request_hash(&self, body: &[u8]) -> Digest {
        use hmac::Mac as _;
        Digest(mac(&self.inner.keys.derive("idempotency/v1"), body).finalize().into_bytes().into())
    }

    /// What was stored for the same request. Errors: `Invalid` when the key was used with another body.
    pub(crate) async fn answered(&self, caller: &Caller) -> CommandResult<Option<Value>> {
        let Some(i) = &caller.idempotency else { return Ok(None) };
        match self.inner.store.idempotent(&i.credential, &i.route, &i.key, self.now()).await? {
            Some(r) if r.body_hash == i.body_hash => Ok(Some(r.response)),
            Some(_) => Err(CommandError::invalid("Idempotency-Key", "was used before with another body")),
            None => Ok(None),
        }
    }
}

fn id_in(response: &Value) -> Option<Uuid> {
    response.get("id")?.as_str()?.parse().ok()
}

/// The answer to be repeated: `{"kind": <noun>, "id": <uuid>}` and the status it had.
pub(crate) fn idem(caller: &Caller, at: Timestamp, status: u16, kind: ChangeKind, id: Uuid) -> Option<IdemRecord> {
    caller.idempotency.as_ref().map(|i| idem_record(i, kind.as_str(), id, status, at))
}

/// The same for a command that carries its idempotency without its caller.
pub(crate) fn idem_record(i: &Idempotency, kind: &str, id: Uuid, status: u16, at: Timestamp) -> IdemRecord {
    IdemRecord {
        credential: i.credential.clone(),
        route: i.route.clone(),
        key: i.key.clone(),
        body_hash: i.body_hash,
        status,
        response: json!({"kind": kind, "id": id}),
        expires_at: at + IDEMPOTENCY_KEPT,
    }
}

/// Gathers what is wrong, field by field, so that one answer names everything.
#[derive(Default)]
pub(crate) struct Faults(Vec<(String, String)>);

impl Faults {
    pub(crate) fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push((field.to_string(), message.into()));
    }
    pub(crate) fn check<E: Into<String>>(&mut self, field: &str, checked: Result<(), E>) {
        if let Err(message) = checked {
            self.add(field, message);
        }
    }
    pub(crate) fn name(&mut self, field: &str, text: &str) {
        self.check(field, check_name(text));
    }
    /// Free text: no more than `most` characters, no control characters but line ends and tabs.
    pub(crate) fn text(&mut self, field: &str, text: &str, most: usize) {
        if text.chars().count() > most {
            self.add(field, format!("must have at most {most} characters"));
        } else if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            self.add(field, "must not have control characters");
        }
    }
    pub(crate) fn future(&mut self, field: &str, at: Option<Timestamp>, now: Timestamp) {
        if at.is_some_and(|at| at <= now) {
            self.add(field, "must be in the future");
        }
    }
    pub(crate) fn done(self) -> CommandResult<()> {
        if self.0.is_empty() { Ok(()) } else { Err(CommandError::Invalid(self.0)) }
    }
}

/// `NotFound` of the store, with the noun that is missing.
pub(crate) fn missing(noun: &'static str) -> impl Fn(store::Error) -> CommandError {
    move |e| match e {
        store::Error::NotFound => CommandError::NotFound(noun),
        other => other.into(),
    }
}

/// 404 when the caller cannot see the tenant, 403 when it can and may not.
pub(crate) fn must(
    caller: &Caller,
    wanted: KeyScope,
    org: OrgId,
    project: Option<ProjectId>,
    noun: &'static str,
) -> CommandResult<()> {
    if caller.may(wanted, org, project) {
        return Ok(());
    }
    if !caller.sees(org, project) {
        return Err(CommandError::NotFound(noun));
    }
    Err(CommandError::Forbidden(format!("this needs the scope {wanted}")))
}

/// 256 random bits as text behind `prefix`: 43 characters of base64 for URLs. Its SHA-256 is what is stored.
pub(crate) fn secret_text(fresh: &crate::fresh::Fresh, prefix: &str) -> String {
    use base64::Engine as _;
    let bytes: [u8; 32] = fresh.bytes();
    format!("{prefix}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// How a secret made by [`secret_text`] is kept and looked up.
pub(crate) fn secret_hash(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}
