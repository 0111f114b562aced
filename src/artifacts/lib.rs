//! WHERE BUNDLES LIE: one contract for objects in a directory and in S3.
//!
//! Owns: the names of objects ([`Key`]), the bytes under them, and the URLs nodes fetch them by.
//!
//! Invariants: an object is whole or absent, never half; an object that exists is never overwritten; a put that was
//! acknowledged is on disk (fsync) or with the bucket; every operation ends within `ATTEMPTS` times its time limit.
//! This is the only crate that knows `aws-sdk-s3`. It reads no clock: time is an argument.

mod dir;
mod error;
mod key;
mod range;
mod s3;
mod url;

pub use dir::{DirStore, LEFTOVER_AGE};
pub use error::{Error, Result};
pub use key::{Key, MAX_KEY_BYTES};
pub use range::{Asked, parse_range};
pub use s3::{S3Config, S3Store};
pub use url::{Grant, MAX_URL_TTL, UrlError, UrlParts, UrlSigner};

use bytes::{Bytes, BytesMut};
use domain::{ContentId, Digest, NodeId, ProjectId, Span, Timestamp};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prometheus::{HistogramOpts, HistogramVec, Registry};
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

/// Largest object that is stored. Objects pass through memory when put; a bundle is some 100 kB, with plugins a few MB.
pub const MAX_OBJECT_BYTES: u64 = 256 << 20;
/// Most entries one [`ArtifactStore::list`] returns: what S3 returns at most.
pub const MAX_LIST: usize = 1000;

/// Tries of one operation while the answer is `Unavailable`.
const ATTEMPTS: u32 = 3;
/// Pause before the second try; four times as long before each further one: 0.1 + 0.4 = 0.5 s at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// One try of an operation that moves no content.
const META_TIMEOUT: Duration = Duration::from_secs(5);
/// One try of moving a whole object: `MAX_OBJECT_BYTES` at 2.2 MB/s.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest silence between two pieces of a streamed object.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The store chosen in the settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    place: Place,
    /// How long operations took, all tries together.
    seconds: Option<HistogramVec>,
}

#[derive(Debug, Clone)]
enum Place {
    Dir(DirStore),
    S3(S3Store),
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Created,
    /// There already; also the answer to a repeated try whose first one did arrive.
    Existed,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub size: u64,
    /// With its double quotes, ready for an `ETag` header. Opaque; not comparable between stores.
    pub etag: String,
    pub modified: Timestamp,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub size: u64,
    /// So that a collector can spare what was put a moment ago and has no row yet.
    pub modified: Timestamp,
}

/// An object being read in pieces. An error ends the stream; what came before is true but not the whole.
pub struct Object {
    pub head: Head,
    /// The bytes that will come; `0..size` when all of them.
    pub range: Range<u64>,
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl ArtifactStore {
    pub fn dir(dir: DirStore) -> ArtifactStore {
        ArtifactStore { place: Place::Dir(dir), seconds: None }
    }

    pub fn s3(s3: S3Store) -> ArtifactStore {
        ArtifactStore { place: Place::S3(s3), seconds: None }
    }

    /// From here on every operation is timed, as `sentinel_cp_storage_op_seconds{op}`. Errors: the name is taken.
    pub fn measured(mut self, registry: &Registry) -> std::result::Result<ArtifactStore, prometheus::Error> {
        let about = "Operations on the artifact store, from the first try to the last answer.";
        let buckets = vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
        let options = HistogramOpts::new("sentinel_cp_storage_op_seconds", about).buckets(buckets);
        let seconds = HistogramVec::new(options, &["op"])?;
        registry.register(Box::new(seconds.clone()))?;
        self.seconds = Some(seconds);
        Ok(self)
    }

    /// Stores `bytes` under `key` unless there is an object already, which is then left as it is.
    ///
    /// With `expected`, the SHA-256 of the bytes, an existing object is read back and must be the same.
    /// Errors: `Corrupt` when it is not, `Invalid` when `bytes` are not `expected` or too long, `Unavailable`.
    pub async fn put_if_absent(&self, key: &Key, bytes: Bytes, expected: Option<Digest>) -> Result<Put> {
        let size = bytes.len() as u64;
        if size > MAX_OBJECT_BYTES {
            return Err(Error::Invalid(format!("object of {size} bytes, at most {MAX_OBJECT_BYTES} are stored")));
        }
        let digest = digest_of(bytes.clone()).await?;
        if expected.is_some_and(|e| e != digest) {
            return Err(Error::Invalid(format!("the bytes for {key} are not the expected ones")));
        }
        let put = self
            .retrying("put", TRANSFER_TIMEOUT, || async {
                match &self.place {
                    Place::Dir(dir) => dir.put(key, bytes.clone()).await,
                    Place::S3(s3) => s3.put(key, bytes.clone(), digest).await,
                }
            })
            .await?;
        if put == Put::Existed && expected.is_some() {
            let head = self.head(key).await?.ok_or_else(|| Error::unavailable("put", "the object vanished"))?;
            if head.size != size {
                return Err(Error::Corrupt(format!("{key} has {} bytes, expected {size}", head.size)));
            }
            self.get_verified(key, size, digest).await?;
        }
        Ok(put)
    }

    /// The whole object. Errors: `NotFound`, `Invalid` when it is longer than `limit` bytes, `Corrupt` when it is
    /// shorter than the store says, `Unavailable`.
    pub async fn get(&self, key: &Key, limit: u64) -> Result<Bytes> {
        self.retrying("get", TRANSFER_TIMEOUT, || async {
            let object = self.open_once(key, None).await?;
            if object.head.size > limit {
                return Err(Error::Invalid(format!("{key} has {} bytes, the limit is {limit}", object.head.size)));
            }
            collect(object, key).await
        })
        .await
    }

    /// [`get`](Self::get), and `Corrupt` unless the SHA-256 is `digest`.
    pub async fn get_verified(&self, key: &Key, limit: u64, digest: Digest) -> Result<Bytes> {
        let bytes = self.get(key, limit).await?;
        let found = digest_of(bytes.clone()).await?;
        if found != digest {
            return Err(Error::Corrupt(format!("{key} has hash {found}, expected {digest}")));
        }
        Ok(bytes)
    }

    /// Some bytes of an object. Errors: as [`open`](Self::open).
    pub async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.retrying("get_range", TRANSFER_TIMEOUT, || async {
            collect(self.open_once(key, Some(range.clone())).await?, key).await
        })
        .await
    }

    /// The object as a stream, for serving. Errors: `NotFound`, `Invalid` when `range` is empty or not inside the
    /// object (use [`head`](Self::head) and [`parse_range`] before), `Unavailable`. Only the opening is tried again.
    pub async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object> {
        self.retrying("open", META_TIMEOUT, || self.open_once(key, range.clone())).await
    }

    async fn open_once(&self, key: &Key, range: Option<Range<u64>>) -> Result<Object> {
        if range.as_ref().is_some_and(|r| r.start >= r.end || r.end > MAX_OBJECT_BYTES) {
            return Err(Error::Invalid(format!("range {range:?} of {key}")));
        }
        let mut object = match &self.place {
            Place::Dir(dir) => dir.open_for_read(key, range).await?,
            Place::S3(s3) => s3.open(key, range).await?,
        };
        object.body = guard_stalls(object.body);
        Ok(object)
    }

    /// Size and ETag, `None` when there is no object. Errors: `Unavailable`.
    pub async fn head(&self, key: &Key) -> Result<Option<Head>> {
        self.retrying("head", META_TIMEOUT, || async {
            match &self.place {
                Place::Dir(dir) => dir.head(key).await,
                Place::S3(s3) => s3.head(key).await,
            }
        })
        .await
    }

    /// Removes the object; that there is none is not an error. Errors: `Unavailable`.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        self.retrying("delete", META_TIMEOUT, || async {
            match &self.place {
                Place::Dir(dir) => dir.delete(key).await,
                Place::S3(s3) => s3.delete(key).await,
            }
        })
        .await
    }

    /// The first `max` (at most [`MAX_LIST`]) objects whose key begins with `prefix` and sorts after `after`, in byte
    /// order; fewer than `max` means that these were the last, else go on after the last key. Foreign objects whose
    /// names are no [`Key`] are left out. Errors: `Invalid`, `Unavailable`.
    pub async fn list(&self, prefix: &str, after: Option<&Key>, max: usize) -> Result<Vec<Entry>> {
        key::check_prefix(prefix)?;
        let max = max.clamp(1, MAX_LIST);
        self.retrying("list", META_TIMEOUT, || async {
            match &self.place {
                Place::Dir(dir) => dir.list(prefix, after, max).await,
                Place::S3(s3) => s3.list(prefix, after, max).await,
            }
        })
        .await
    }

    /// Can objects be written (directory) or the bucket be reached (S3) now? One try, for `/ready`.
    pub async fn ready(&self) -> Result<()> {
        self.timed(
            "ready",
            within("ready", META_TIMEOUT, async {
                match &self.place {
                    Place::Dir(dir) => dir.ready().await,
                    Place::S3(s3) => s3.ready().await,
                }
            }),
        )
        .await
    }

    /// Removes what crashed puts left behind (directory only, older than [`LEFTOVER_AGE`] at `now`); how many.
    pub async fn clean(&self, now: Timestamp) -> Result<usize> {
        match &self.place {
            Place::Dir(dir) => within("clean", TRANSFER_TIMEOUT, dir.clean(now)).await,
            // Single puts only: a bucket never shows an unfinished one.
            Place::S3(_) => Ok(0),
        }
    }

    /// A URL by which `node` can fetch the bundle with a plain GET (also ranges) until `now + ttl`.
    /// Says nothing about whether the object exists. Errors: `Invalid` for a `ttl` outside (0, [`MAX_URL_TTL`]].
    pub async fn download_url(
        &self,
        node: NodeId,
        project: ProjectId,
        bundle: ContentId,
        now: Timestamp,
        ttl: Span,
    ) -> Result<String> {
        match &self.place {
            Place::Dir(dir) => dir.signer().sign(node, project, bundle, now, ttl),
            Place::S3(s3) => s3.presign_get(&Key::bundle(project, bundle), now, ttl).await,
        }
    }

    /// Checks the URLs that come back to us; `None` when S3 serves the downloads itself.
    pub fn url_signer(&self) -> Option<&UrlSigner> {
        match &self.place {
            Place::Dir(dir) => Some(dir.signer()),
            Place::S3(_) => None,
        }
    }
}

impl Put {
    pub fn is_created(self) -> bool {
        self == Put::Created
    }
}

impl ArtifactStore {
    async fn retrying<T, F: Future<Output = Result<T>>>(
        &self,
        op: &'static str,
        limit: Duration,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        self.timed(op, retrying(op, limit, attempt)).await
    }

    async fn timed<T>(&self, op: &'static str, work: impl Future<Output = T>) -> T {
        let _timer = self.seconds.as_ref().map(|s| s.with_label_values(&[op]).start_timer());
        work.await
    }
}

/// The one place of retries: the SDK's own are off.
async fn retrying<T, F: Future<Output = Result<T>>>(op: &str, limit: Duration, attempt: impl Fn() -> F) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    let mut tries = 1;
    loop {
        match within(op, limit, attempt()).await {
            Err(Error::Unavailable(why)) if tries < ATTEMPTS => {
                tracing::warn!(op, tries, why, "artifact store unavailable, trying again");
                tokio::time::sleep(pause).await;
                pause *= 4;
                tries += 1;
            }
            done => return done,
        }
    }
}

async fn within<T>(op: &str, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::unavailable(op, format_args!("no answer within {} s", limit.as_secs()))),
    }
}

/// File work and long hashing run where they may block. A dropped future leaves the work to end by itself: every one
/// of these is harmless when it completes unseen.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(why) => Err(Error::unavailable("worker thread", why)),
    }
}

async fn digest_of(bytes: Bytes) -> Result<Digest> {
    // 64 kB take 0.1 ms: not worth a thread.
    if bytes.len() <= 64 << 10 {
        return Ok(Digest::of(&bytes));
    }
    blocking(move || Ok(Digest::of(&bytes))).await
}

async fn collect(mut object: Object, key: &Key) -> Result<Bytes> {
    let want = object.range.end - object.range.start;
    let mut out = BytesMut::with_capacity(want.min(MAX_OBJECT_BYTES) as usize);
    while let Some(piece) = object.body.next().await {
        let piece = piece?;
        if (out.len() + piece.len()) as u64 > want {
            return Err(Error::Corrupt(format!("{key} is longer than its {want} bytes")));
        }
        out.extend_from_slice(&piece);
    }
    if (out.len() as u64) < want {
        return Err(Error::Corrupt(format!("{key} ended after {} of {want} bytes", out.len())));
    }
    Ok(out.freeze())
}

fn guard_stalls(body: BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<Bytes>> {
    futures_util::stream::unfold(Some(body), |body| async {
        let mut body = body?;
        match tokio::time::timeout(STALL_TIMEOUT, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(why))) => Some((Err(why), None)),
            Err(_) => Some((Err(Error::unavailable("read", "the stream stalled")), None)),
        }
    })
    .boxed()
}
