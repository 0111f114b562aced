//! Objects as files below one directory.
//!
//! Invariant: a file outside `.tmp` is complete and fsynced; it got its name by a rename that cannot overwrite.
//! Power loss may leave files in `.tmp`, which no key can name and [`clean`](DirStore::clean) removes.

use crate::{Entry, Error, Head, Key, Object, Put, Result, UrlSigner, blocking};
use bytes::{Bytes, BytesMut};
use domain::{Span, Timestamp};
use futures_util::StreamExt;
use futures_util::stream;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Unfinished files older than this belong to no running put: a put may take `ATTEMPTS` x `TRANSFER_TIMEOUT` = 6 min.
pub const LEFTOVER_AGE: Span = Span::secs(3600);

const TMP: &str = ".tmp";
/// One piece of a streamed object.
const PIECE: usize = 64 << 10;

/// A directory of objects, and the signer of the URLs that lead to them.
#[derive(Debug, Clone)]
pub struct DirStore {
    root: PathBuf,
    signer: UrlSigner,
}

impl DirStore {
    /// Creates `root` if needed. Errors: `Unavailable` when it cannot be created.
    pub fn open(root: impl Into<PathBuf>, signer: UrlSigner) -> Result<DirStore> {
        let root = root.into();
        fs::create_dir_all(root.join(TMP)).map_err(|e| fault("open", &root, &e))?;
        Ok(DirStore { root, signer })
    }

    pub(crate) fn signer(&self) -> &UrlSigner {
        &self.signer
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    pub(crate) async fn put(&self, key: &Key, bytes: Bytes) -> Result<Put> {
        let (root, target) = (self.root.clone(), self.path(key));
        blocking(move || {
            let put = || -> io::Result<Put> {
                let parent = target.parent().unwrap_or(&root);
                fs::create_dir_all(parent)?;
                let put = if target.try_exists()? {
                    Put::Existed
                } else {
                    let mut file = tempfile::Builder::new().prefix("put-").tempfile_in(root.join(TMP))?;
                    file.write_all(&bytes)?;
                    file.as_file().sync_all()?;
                    match file.persist_noclobber(&target) {
                        Ok(_) => Put::Created,
                        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Put::Existed,
                        Err(e) => return Err(e.error),
                    }
                };
                // Also when it existed: the winner of a race may not have come this far yet.
                for dir in parent.ancestors().take_while(|d| d.starts_with(&root)) {
                    File::open(dir)?.sync_all()?;
                }
                Ok(put)
            };
            put().map_err(|e| fault("put", &target, &e))
        })
        .await
    }

    pub(crate) async fn head(&self, key: &Key) -> Result<Option<Head>> {
        let path = self.path(key);
        blocking(move || match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => head(&meta).map(Some).map_err(|e| fault("head", &path, &e)),
            Ok(_) => Ok(None),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(fault("head", &path, &e)),
        })
        .await
    }

    pub(crate) async fn open_for_read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object> {
        let path = self.path(key);
        let broken = |e: io::Error| {
            if is_absent(&e) { Error::NotFound } else { fault("open", &path, &e) }
        };
        let mut file = tokio::fs::File::open(&path).await.map_err(broken)?;
        let meta = file.metadata().await.map_err(broken)?;
        if !meta.is_file() {
            return Err(Error::NotFound);
        }
        let head = head(&meta).map_err(broken)?;
        let range = range.unwrap_or(0..head.size);
        if range.end > head.size {
            return Err(Error::Invalid(format!("range {range:?} of an object of {} bytes", head.size)));
        }
        if range.start > 0 {
            file.seek(io::SeekFrom::Start(range.start)).await.map_err(broken)?;
        }
        let left = range.end - range.start;
        let body = stream::try_unfold((file, left, path), |(mut file, left, path)| async move {
            if left == 0 {
                return Ok(None);
            }
            let mut piece = BytesMut::with_capacity(PIECE.min(left as usize));
            let n = (&mut file).take(left).read_buf(&mut piece).await.map_err(|e| fault("read", &path, &e))?;
            if n == 0 {
                return Err(Error::Corrupt(format!("{} was cut short while it was read", path.display())));
            }
            Ok(Some((piece.freeze(), (file, left - n as u64, path))))
        });
        Ok(Object { head, range, body: body.boxed() })
    }

    pub(crate) async fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(e) if is_absent(&e) => Ok(()),
            Err(e) => Err(fault("delete", &path, &e)),
        })
        .await
    }

    /// Reads all names: fine for some 100,000 objects, which is more than retention leaves.
    pub(crate) async fn list(&self, prefix: &str, after: Option<&Key>, max: usize) -> Result<Vec<Entry>> {
        let (root, prefix, after) = (self.root.clone(), prefix.to_owned(), after.cloned());
        blocking(move || {
            let mut keys = Vec::new();
            walk(&root, "", &prefix, &mut keys).map_err(|e| fault("list", &root, &e))?;
            keys.retain(|key| after.as_ref().is_none_or(|after| key > after));
            keys.sort_unstable();
            let mut entries = Vec::new();
            for key in keys {
                if entries.len() == max {
                    break;
                }
                let path = root.join(key.as_str());
                match fs::metadata(&path).and_then(|meta| head(&meta)) {
                    Ok(Head { size, modified, .. }) => entries.push(Entry { key, size, modified }),
                    Err(e) if is_absent(&e) => {} // deleted meanwhile
                    Err(e) => return Err(fault("list", &path, &e)),
                }
            }
            Ok(entries)
        })
        .await
    }

    /// Writes, syncs and removes a file: a full or read-only disk is not ready.
    pub(crate) async fn ready(&self) -> Result<()> {
        let root = self.root.clone();
        blocking(move || {
            let probe = || -> io::Result<()> {
                let mut file = tempfile::Builder::new().prefix("ready-").tempfile_in(root.join(TMP))?;
                file.write_all(b"ready")?;
                file.as_file().sync_all()?;
                file.close()
            };
            probe().map_err(|e| fault("ready", &root, &e))
        })
        .await
    }

    pub(crate) async fn clean(&self, now: Timestamp) -> Result<usize> {
        let tmp = self.root.join(TMP);
        blocking(move || {
            let mut removed = 0;
            let mut clean = || -> io::Result<()> {
                for entry in fs::read_dir(&tmp)? {
                    let path = entry?.path();
                    let old = match fs::metadata(&path).and_then(|meta| head(&meta)) {
                        Ok(head) => now.since(head.modified) > LEFTOVER_AGE,
                        Err(e) if is_absent(&e) => false,
                        Err(e) => return Err(e),
                    };
                    if old {
                        fs::remove_file(&path)?;
                        removed += 1;
                    }
                }
                Ok(())
            };
            clean().map_err(|e| fault("clean", &tmp, &e))?;
            Ok(removed)
        })
        .await
    }
}

/// Collects the keys below `dir` that begin with `prefix`; `name` is the key of `dir` itself with a slash, or empty.
/// Names that are no key (also `.tmp`) are skipped.
fn walk(dir: &Path, name: &str, prefix: &str, keys: &mut Vec<Key>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some(key) = entry.file_name().to_str().and_then(|f| Key::parse(&format!("{name}{f}")).ok()) else {
            continue;
        };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let below = format!("{key}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(&entry.path(), &below, prefix, keys)?;
            }
        } else if kind.is_file() && key.as_str().starts_with(prefix) {
            keys.push(key);
        }
    }
    Ok(())
}

fn head(meta: &Metadata) -> io::Result<Head> {
    let age = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (size, micros) = (meta.len(), age.as_micros() as i64);
    // Objects are written once: size and time of writing tell two apart as well as a hash, without reading them.
    Ok(Head { size, etag: format!("\"{size:x}-{micros:x}\""), modified: Timestamp(micros) })
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn fault(op: &str, path: &Path, e: &io::Error) -> Error {
    Error::Unavailable(format!("{op} {}: {e}", path.display()))
}
