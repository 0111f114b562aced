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
    let certificate = is_der_certificate(content);
    if path.starts_with("plugins/") {
        // No plugin is one DER sequence from end to end; keys and key stores are.
        return match !certificate && whole_sequence(content).is_some() {
            true => Err("looks like a private key in DER; refer to it as \"secrets/NAME\" instead".into()),
            false => Ok(()),
        };
    }
    if !is_public_pem(content) && !certificate {
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

/// One sequence and nothing behind it, which begins with a sequence that begins with a version or a serial number. Keys (PKCS 1,
/// PKCS 8, SEC 1) and key stores (PKCS 12) begin with a number, encrypted keys (PKCS 8) with a sequence that names an algorithm.
fn is_der_certificate(content: &[u8]) -> bool {
    let signed = whole_sequence(content).and_then(sequence);
    signed.is_some_and(|(fields, _)| matches!(fields.first(), Some(0xa0 | 0x02)))
}

/// The inside of a sequence that is all there is.
fn whole_sequence(der: &[u8]) -> Option<&[u8]> {
    sequence(der).filter(|(_, behind)| behind.is_empty()).map(|(inside, _)| inside)
}

/// The inside of the DER sequence at the beginning, and what lies behind it.
fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x30, length, rest @ ..] = der else { return None };
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
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
        let certificate = [0x30, 0x81, 7, 0x30, 3, 0xa0, 1, 2, 0x30, 0];
        good("trust/a.der", &certificate);
        good("plugins/a.der", &certificate);
        good("plugins/a.wasm", b"\0asm");
        bad("certs/a.key", b"-----BEGIN EC PRIVATE KEY-----");
        bad("plugins/a.wasm", b"\0asm -----BEGIN RSA PRIVATE KEY-----");
        bad("certs/both.pem", &[&pem[..], b"-----BEGIN ENCRYPTED PRIVATE KEY-----"].concat());
        let (plain, encrypted) = ([0x30, 3, 0x02, 0x01, 0x00], [0x30, 7, 0x30, 3, 0x06, 1, 9, 0x04, 0]);
        for folder in ["certs", "trust", "plugins"] {
            bad(&format!("{folder}/a.p8"), &plain);
            bad(&format!("{folder}/a-encrypted.p8"), &encrypted);
            bad(&format!("{folder}/a.p12"), &[0x30, 0x82, 0, 3, 0x02, 0x01, 0x03]);
        }
        bad("certs/a.der", &[&certificate[..], &plain].concat());
        bad("certs/a.pem", b"hello");
        bad("certs/a.pem", b"");
    }
}
