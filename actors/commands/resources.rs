//! Resources of a project: certificates, trust stores and plugins that its bundles ship.
//!
//! Invariant: nothing private is ever stored: what could hold a private key is refused here, and again when a bundle is made.

use super::write::*;
use crate::command::*;
use crate::plane::ControlPlane;
use ::bundle::archive::resource_path_problem;
use ::bundle::guard::has_private_key;
use domain::audit::NewEntry;
use domain::*;
use serde_json::{Value, json};
use store::{ChangeKind, NewChange, Page, Resource, Write};
use uuid::Uuid;

/// Bytes of one resource: a plugin of some MB; certificates have some kB.
pub const MAX_RESOURCE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of all resources of a project: half of what an archive may unpack to.
const MAX_PROJECT_BYTES: u64 = 32 * 1024 * 1024;
/// Resources of one project.
const MAX_RESOURCES: i64 = 200;

impl ControlPlane {
    /// Puts `content` at `path`; what was there is replaced. Bundles that are compiled keep what they have.
    pub async fn put_resource(
        &self,
        caller: &Caller,
        project: ProjectId,
        path: String,
        content: Vec<u8>,
    ) -> CommandResult<(Done, Resource)> {
        self.project_by_id(project).await?;
        let mut faults = Faults::default();
        faults.check("path", resource_path_problem(&path));
        faults.check("content", check_content(&path, &content));
        faults.done()?;
        let store = &self.inner.store;
        let all = store.resources(project, Page::first(MAX_RESOURCES as u32)).await?;
        let others = all.rows.iter().filter(|r| r.path != path);
        let (count, bytes) = others.fold((1, content.len() as u64), |(n, b), r| (n + 1, b + r.size_bytes));
        if count > MAX_RESOURCES || bytes > MAX_PROJECT_BYTES {
            return Err(CommandError::Conflict {
                code: "too_many_resources",
                detail: format!(
                    "a project has at most {MAX_RESOURCES} resources of {MAX_PROJECT_BYTES} bytes together"
                ),
            });
        }
        let now = self.now();
        let row = Resource {
            id: self.fresh().uuid(now),
            project,
            path,
            hash: Digest::of(&content),
            size_bytes: content.len() as u64,
            inserted_at: now,
            updated_at: now,
        };
        let changes = json!({"path": row.path, "hash": row.hash, "size_bytes": row.size_bytes});
        let write = self.resource_write(caller, "resource.put", &row, changes);
        let done = store.put_resource(row, content, write).await.map_err(missing("project"))?;
        Ok((if done.changed { Done::Changed } else { Done::Already }, done.row))
    }

    /// Bundles that have it keep it.
    pub async fn delete_resource(&self, caller: &Caller, project: ProjectId, id: Uuid) -> CommandResult<()> {
        let first = Box::pin(async {
            let store = &self.inner.store;
            let row = store.resource(project, &id.to_string()).await.map_err(missing("resource"))?;
            let changes = json!({"path": row.path, "hash": row.hash});
            let write = self.resource_write(caller, "resource.deleted", &row, changes);
            let write = write.idem(idem(caller, self.now(), 204, ChangeKind::Project, row.id));
            store.delete_resource(project, id, write).await.map_err(missing("resource"))
        });
        self.once(caller, |_| std::future::ready(Ok(())), first).await
    }

    fn resource_write(&self, caller: &Caller, action: &'static str, row: &Resource, changes: Value) -> Write {
        let now = self.now();
        let entry = NewEntry {
            actor: caller.ctx.actor,
            action,
            resource_type: "resource",
            resource_id: Some(row.id),
            project: Some(row.project),
            changes,
            request_id: caller.ctx.request_id,
            ip: caller.ctx.address.map(|a| a.to_string()),
        };
        let project = row.project;
        let change = NewChange { kind: ChangeKind::Project, id: project.0, project: Some(project), version: now.0 };
        Write::at(now).audit(self.fresh().id(now), entry).change(change)
    }
}

/// Certificates are public, in PEM or DER; everything else in those folders may be private and is refused.
fn check_content(path: &str, content: &[u8]) -> Result<(), String> {
    if content.is_empty() {
        return Err("is empty".into());
    }
    if content.len() > MAX_RESOURCE_BYTES {
        return Err(format!("has more than {MAX_RESOURCE_BYTES} bytes"));
    }
    if has_private_key(&String::from_utf8_lossy(content)).is_some() {
        return Err("holds a private key; refer to it as \"secrets/NAME\" instead".into());
    }
    if !path.starts_with("plugins/") && !is_public_pem(content) && !is_der_certificate(content) {
        return Err("is neither certificates nor public keys in PEM, nor a certificate in DER".into());
    }
    Ok(())
}

fn is_public_pem(content: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(content) else { return false };
    let mut labels = text.match_indices("-----BEGIN ").map(|(at, begin)| {
        let rest = &text[at + begin.len()..];
        rest.split("-----").next().unwrap_or_default()
    });
    let public = ["CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CRL", "PUBLIC KEY"];
    let first = labels.next();
    first.is_some_and(|l| public.contains(&l)) && labels.all(|l| public.contains(&l))
}

/// A sequence that begins with a sequence. Keys (PKCS 1, PKCS 8, SEC 1) and key stores (PKCS 12) begin with a version number.
fn is_der_certificate(content: &[u8]) -> bool {
    let header = match content {
        [0x30, n, ..] if *n < 0x80 => 2,
        [0x30, 0x81, ..] => 3,
        [0x30, 0x82, ..] => 4,
        [0x30, 0x83, ..] => 5,
        _ => return false,
    };
    content.get(header) == Some(&0x30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_public_by_its_form_is_taken() {
        let good = |path: &str, content: &[u8]| assert_eq!(check_content(path, content), Ok(()), "{path}");
        let bad = |path: &str, content: &[u8]| assert!(check_content(path, content).is_err(), "{path} {content:?}");
        let pem = b"# ours\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        good("certs/a.pem", pem);
        good("trust/a.der", &[0x30, 0x82, 1, 2, 0x30, 0x82]);
        good("plugins/a.wasm", b"\0asm");
        bad("certs/a.key", b"-----BEGIN EC PRIVATE KEY-----");
        bad("plugins/a.wasm", b"\0asm -----BEGIN RSA PRIVATE KEY-----");
        bad("certs/both.pem", &[&pem[..], b"-----BEGIN ENCRYPTED PRIVATE KEY-----"].concat());
        bad("certs/a.p8", &[0x30, 0x2e, 0x02, 0x01, 0x00]);
        bad("trust/a.p12", &[0x30, 0x82, 9, 9, 0x02, 0x01, 0x03]);
        bad("certs/a.pem", b"hello");
        bad("certs/a.pem", b"");
    }
}
