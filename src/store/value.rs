//! Values that go into and come out of SQL, the same for both databases.
//!
//! Ids are native UUIDs on PostgreSQL and 16-byte blobs on SQLite; times are microseconds; JSON is text that keeps its bytes.

use domain::{Digest, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// JSON text as it is, not parsed and printed again.
#[derive(Clone, Debug)]
pub(crate) struct RawJson(pub(crate) String);

/// A parameter. Absence is typed too: PostgreSQL infers nothing from a bare NULL.
#[derive(Clone, Debug)]
pub(crate) enum V {
    Uuid(Option<Uuid>),
    Int(Option<i64>),
    Text(Option<String>),
    Json(Option<RawJson>),
    Bytes(Option<Vec<u8>>),
    Bool(Option<bool>),
    /// Columns of a batch on PostgreSQL; see `Conn::batch`.
    Column(Col),
}

/// One column of a batch, a value per row.
#[derive(Clone, Debug)]
pub(crate) enum Col {
    Uuid(Vec<Option<Uuid>>),
    Int(Vec<Option<i64>>),
    Text(Vec<Option<String>>),
    Json(Vec<Option<RawJson>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Bool(Vec<Option<bool>>),
}

impl Col {
    pub(crate) fn ids<T: Into<Uuid>>(ids: impl IntoIterator<Item = T>) -> Col {
        Col::Uuid(ids.into_iter().map(|i| Some(i.into())).collect())
    }
    pub(crate) fn opt_ids<T: Into<Uuid>>(ids: impl IntoIterator<Item = Option<T>>) -> Col {
        Col::Uuid(ids.into_iter().map(|i| i.map(Into::into)).collect())
    }
    pub(crate) fn ints(n: impl IntoIterator<Item = i64>) -> Col {
        Col::Int(n.into_iter().map(Some).collect())
    }
    pub(crate) fn times(n: impl IntoIterator<Item = Timestamp>) -> Col {
        Col::Int(n.into_iter().map(|t| Some(t.0)).collect())
    }
    pub(crate) fn texts<T: Into<String>>(t: impl IntoIterator<Item = T>) -> Col {
        Col::Text(t.into_iter().map(|t| Some(t.into())).collect())
    }
    pub(crate) fn json<'a, T: Serialize + 'a>(t: impl IntoIterator<Item = &'a T>) -> Col {
        Col::Json(t.into_iter().map(|t| Some(RawJson(to_json(t)))).collect())
    }
    pub(crate) fn bools(b: impl IntoIterator<Item = bool>) -> Col {
        Col::Bool(b.into_iter().map(Some).collect())
    }
    pub(crate) fn len(&self) -> usize {
        match self {
            Col::Uuid(v) => v.len(),
            Col::Int(v) => v.len(),
            Col::Text(v) => v.len(),
            Col::Json(v) => v.len(),
            Col::Bytes(v) => v.len(),
            Col::Bool(v) => v.len(),
        }
    }
    /// The value of row `i` by itself; taken, not copied.
    pub(crate) fn take(&mut self, i: usize) -> V {
        match self {
            Col::Uuid(v) => V::Uuid(v[i].take()),
            Col::Int(v) => V::Int(v[i].take()),
            Col::Text(v) => V::Text(v[i].take()),
            Col::Json(v) => V::Json(v[i].take()),
            Col::Bytes(v) => V::Bytes(v[i].take()),
            Col::Bool(v) => V::Bool(v[i].take()),
        }
    }
    /// Rows `from..to`, taken.
    pub(crate) fn slice(&mut self, from: usize, to: usize) -> Col {
        fn part<T>(v: &mut [Option<T>], from: usize, to: usize) -> Vec<Option<T>> {
            v[from..to].iter_mut().map(Option::take).collect()
        }
        match self {
            Col::Uuid(v) => Col::Uuid(part(v, from, to)),
            Col::Int(v) => Col::Int(part(v, from, to)),
            Col::Text(v) => Col::Text(part(v, from, to)),
            Col::Json(v) => Col::Json(part(v, from, to)),
            Col::Bytes(v) => Col::Bytes(part(v, from, to)),
            Col::Bool(v) => Col::Bool(part(v, from, to)),
        }
    }
}

pub(crate) fn to_json<T: Serialize + ?Sized>(t: &T) -> String {
    // Our own types only: their serialisation has no failing branch (string keys, finite recursion).
    serde_json::to_string(t).unwrap_or_else(|_| "null".into())
}

/// A parameter stored as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(t: &T) -> V {
    V::Json(Some(RawJson(to_json(t))))
}

pub(crate) fn opt_json<T: Serialize>(t: Option<&T>) -> V {
    V::Json(t.map(|t| RawJson(to_json(t))))
}

pub(crate) trait Bind {
    fn v(self) -> V;
}

macro_rules! bind_ids {
    ($($t:ty),+ $(,)?) => {$(
        impl Bind for $t { fn v(self) -> V { V::Uuid(Some(self.into())) } }
        impl Bind for Option<$t> { fn v(self) -> V { V::Uuid(self.map(Into::into)) } }
        impl Read for $t { fn read(c: Cell) -> Got<Self> { Uuid::read(c).map(<$t>::from) } }
    )+};
}
macro_rules! bind {
    ($($t:ty, $x:ident => $variant:ident($e:expr));+ $(;)?) => {$(
        impl Bind for $t { fn v(self) -> V { let $x = self; V::$variant(Some($e)) } }
        impl Bind for Option<$t> { fn v(self) -> V { V::$variant(self.map(|$x| $e)) } }
    )+};
}

bind_ids!(
    domain::OrgId,
    domain::ProjectId,
    domain::NodeId,
    domain::RolloutId,
    domain::UserId,
    domain::ApiKeyId,
    domain::EnrolmentTokenId,
    domain::DesiredConfigId,
    domain::BundleId,
    domain::SessionId,
    domain::InstanceId,
    domain::RequestId,
    domain::AuditId,
    domain::FreezeId,
    domain::SigningKeyId,
    domain::InvitationId,
);
bind! {
    Uuid, x => Uuid(x);
    Timestamp, x => Int(x.0);
    domain::Span, x => Int(x.0);
    i64, x => Int(x);
    u64, x => Int(x as i64);
    u32, x => Int(i64::from(x));
    u16, x => Int(i64::from(x));
    u8, x => Int(i64::from(x));
    usize, x => Int(x as i64);
    &str, x => Text(x.to_string());
    &String, x => Text(x.clone());
    String, x => Text(x);
    bool, x => Bool(x);
    Digest, x => Bytes(x.0.to_vec());
    Vec<u8>, x => Bytes(x);
}
impl Bind for V {
    fn v(self) -> V {
        self
    }
}

/// `p![a, b]`: the parameters of a statement, in order of their `?`.
macro_rules! p {
    ($($e:expr),* $(,)?) => { vec![$($crate::value::Bind::v($e)),*] };
}
pub(crate) use p;

/// A value as read.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
    Uuid(Uuid),
}

pub(crate) type Got<T> = Result<T, String>;

pub(crate) trait Read: Sized {
    fn read(c: Cell) -> Got<Self>;
}

fn wrong<T>(want: &str, c: &Cell) -> Got<T> {
    Err(format!("expected {want}, the column has {c:?}"))
}

impl Read for Uuid {
    fn read(c: Cell) -> Got<Self> {
        match c {
            Cell::Uuid(u) => Ok(u),
            Cell::Bytes(b) => Uuid::from_slice(&b).map_err(|e| e.to_string()),
            other => wrong("a UUID", &other),
        }
    }
}
impl Read for i64 {
    fn read(c: Cell) -> Got<Self> {
        match c {
            Cell::Int(i) => Ok(i),
            other => wrong("a number", &other),
        }
    }
}
impl Read for bool {
    fn read(c: Cell) -> Got<Self> {
        i64::read(c).map(|i| i != 0)
    }
}
impl Read for String {
    fn read(c: Cell) -> Got<Self> {
        match c {
            Cell::Text(t) => Ok(t),
            other => wrong("text", &other),
        }
    }
}
impl Read for Vec<u8> {
    fn read(c: Cell) -> Got<Self> {
        match c {
            Cell::Bytes(b) => Ok(b),
            other => wrong("bytes", &other),
        }
    }
}
impl Read for Digest {
    fn read(c: Cell) -> Got<Self> {
        let b = Vec::<u8>::read(c)?;
        b.try_into().map(Digest).map_err(|_| "a digest has 32 bytes".to_string())
    }
}
impl Read for Timestamp {
    fn read(c: Cell) -> Got<Self> {
        i64::read(c).map(Timestamp)
    }
}
impl Read for domain::Span {
    fn read(c: Cell) -> Got<Self> {
        i64::read(c).map(domain::Span)
    }
}
macro_rules! read_numbers {
    ($($t:ty),+) => {$( impl Read for $t {
        fn read(c: Cell) -> Got<Self> { <$t>::try_from(i64::read(c)?).map_err(|e| e.to_string()) }
    } )+};
}
read_numbers!(u64, u32, u16, u8);
impl<T: Read> Read for Option<T> {
    fn read(c: Cell) -> Got<Self> {
        match c {
            Cell::Null => Ok(None),
            other => T::read(other).map(Some),
        }
    }
}
macro_rules! read_enums {
    ($($t:ty),+ $(,)?) => {$( impl Read for $t {
        fn read(c: Cell) -> Got<Self> {
            let s = String::read(c)?;
            <$t>::parse(&s).ok_or_else(|| format!("{s:?} is no {}", stringify!($t)))
        }
    } )+};
}
read_enums!(
    domain::Role,
    domain::node::Presence,
    domain::node::Standing,
    domain::node::HealthClass,
    domain::node::HistoryOutcome,
    domain::bundle::BundleStatus,
    domain::bundle::RiskLevel,
    domain::rollout::Phase,
    domain::rollout::StepState,
    domain::node::drift::Severity,
    domain::node::drift::Resolution,
    crate::types::ChangeKind,
);

/// A value kept as JSON.
pub(crate) struct Json<T>(pub T);
impl<T: DeserializeOwned> Read for Json<T> {
    fn read(c: Cell) -> Got<Self> {
        match c {
            Cell::Text(t) => serde_json::from_str(&t).map(Json).map_err(|e| format!("stored JSON: {e}")),
            other => wrong("JSON", &other),
        }
    }
}

/// One row, read column by column in the order of the select list.
pub(crate) struct Cells(pub(crate) std::vec::IntoIter<Cell>);

impl Cells {
    pub(crate) fn get<T: Read>(&mut self) -> crate::error::Q<T> {
        let cell = self.0.next().ok_or_else(|| crate::error::Fail::invalid("the row has fewer columns"))?;
        T::read(cell).map_err(crate::error::Fail::invalid)
    }
    pub(crate) fn json<T: DeserializeOwned>(&mut self) -> crate::error::Q<T> {
        self.get::<Json<T>>().map(|j| j.0)
    }
    pub(crate) fn opt_json<T: DeserializeOwned>(&mut self) -> crate::error::Q<Option<T>> {
        self.get::<Option<Json<T>>>().map(|j| j.map(|j| j.0))
    }
}
