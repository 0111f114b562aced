//! Cheap checks around the parser: a scan of the text before it, and rules for the parsed config after it.
//!
//! Invariant: a text that [`scan`] lets through and that parses nests at most [`MAX_DEPTH`] deep, also in
//! what is commented out, so that it cannot overflow the stack of a running proxy at its next reload.
//! Needs no KDL parser: the node agent runs both again on what it has verified.

mod config;
mod refs;
mod scan;

pub use config::{Subject, check_config};
pub use refs::{References, SECRETS, SHIPPED};
pub use scan::{MAX_COMMENT_STEPS, MAX_DEPTH, MAX_UNBALANCED, scan};

/// Something a guard objects to. Lines and columns start at 1; 0 means that only the subject is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub text: String,
    pub line: u32,
    pub column: u32,
    /// What in the config it is about, to find its place in the text.
    pub subject: Option<Subject>,
}

/// Whether `text` holds a private key in PEM form. Public certificates and key references are fine.
pub fn has_private_key(text: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].find("-----BEGIN ") {
        let start = from + at;
        let rest = &text[start + "-----BEGIN ".len()..];
        // RFC 7468 labels are short; 64 bytes cover `ENCRYPTED PRIVATE KEY` and every OpenSSL variant.
        let label_end = rest.find("-----").unwrap_or(rest.len());
        if label_end <= 64 && rest[..label_end].contains("PRIVATE KEY") {
            return Some(start);
        }
        from = start + "-----BEGIN ".len();
    }
    None
}

/// Line and column (from 1, in characters) of a byte offset.
pub fn line_column(text: &str, offset: usize) -> (u32, u32) {
    let offset = (0..=offset.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() as u32 + 1, before[line_start..].chars().count() as u32 + 1)
}
