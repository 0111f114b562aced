//! One connection of either database, and statements written once for both.
//!
//! SQL has `?` for each parameter; the backend's own builder numbers them. What the dialects differ in is here and nowhere else:
//! `{v}` (the rows of a batch), `{share}`, `{update}` and `{lock_n}` (row locks, which SQLite's single writer makes needless), `{skip}`, `{now}`.

use crate::error::{Fail, Q};
use crate::value::{Cell, Cells, Col, RawJson, V};
use diesel::backend::Backend;
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::row::{Field, NamedRow};
use diesel::serialize::{IsNull, Output, ToSql};
use diesel::sql_types as st;
use diesel::sqlite::{Sqlite, SqliteType};
use diesel::{QueryResult, SqliteConnection};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use std::borrow::Cow;
use std::io::Write as _;

/// Rows of one batch statement. 1,000 rows of the widest batch (18 columns) bind under half a megabyte.
pub(crate) const MAX_BATCH: usize = 1_000;

pub(crate) type PgPooled = bb8::PooledConnection<'static, AsyncDieselConnectionManager<AsyncPgConnection>>;

// The large variant lives in one place for the life of an operation, so its size costs nothing.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Link {
    Pg(PgPooled),
    Lite(SqliteConnection),
}

pub(crate) struct Conn {
    pub(crate) link: Link,
    /// This transaction wrote to the change feed.
    pub(crate) rang: bool,
}

/// A statement with its parameters. Cached by its text, unlike `diesel::sql_query`.
pub(crate) struct Stmt {
    sql: Cow<'static, str>,
    params: Vec<V>,
}

impl Query for Stmt {
    type SqlType = st::Untyped;
}
impl QueryId for Stmt {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}
impl<C> diesel::RunQueryDsl<C> for Stmt {}

impl ToSql<st::Json, Pg> for RawJson {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> diesel::serialize::Result {
        out.write_all(self.0.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl Stmt {
    fn walk<'b, DB: Backend>(
        &'b self,
        mut out: AstPass<'_, 'b, DB>,
        bind: impl Fn(&mut AstPass<'_, 'b, DB>, &'b V) -> QueryResult<()>,
    ) -> QueryResult<()> {
        let mut params = self.params.iter();
        let mut parts = self.sql.split('?');
        out.push_sql(parts.next().unwrap_or(""));
        for part in parts {
            let v = params
                .next()
                .ok_or_else(|| diesel::result::Error::QueryBuilderError("a parameter is missing".into()))?;
            bind(&mut out, v)?;
            out.push_sql(part);
        }
        match params.next() {
            None => Ok(()),
            Some(_) => Err(diesel::result::Error::QueryBuilderError("a parameter too many".into())),
        }
    }
}

impl QueryFragment<Pg> for Stmt {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.walk(out, |out, v| match v {
            V::Uuid(x) => out.push_bind_param::<st::Nullable<st::Uuid>, _>(x),
            V::Int(x) => out.push_bind_param::<st::Nullable<st::BigInt>, _>(x),
            V::Text(x) => out.push_bind_param::<st::Nullable<st::Text>, _>(x),
            V::Json(x) => out.push_bind_param::<st::Nullable<st::Json>, _>(x),
            V::Bytes(x) => out.push_bind_param::<st::Nullable<st::Binary>, _>(x),
            V::Bool(x) => out.push_bind_param::<st::Nullable<st::Bool>, _>(x),
            V::Column(Col::Uuid(x)) => out.push_bind_param::<st::Array<st::Nullable<st::Uuid>>, _>(x),
            V::Column(Col::Int(x)) => out.push_bind_param::<st::Array<st::Nullable<st::BigInt>>, _>(x),
            V::Column(Col::Text(x)) => out.push_bind_param::<st::Array<st::Nullable<st::Text>>, _>(x),
            V::Column(Col::Json(x)) => out.push_bind_param::<st::Array<st::Nullable<st::Json>>, _>(x),
            V::Column(Col::Bytes(x)) => out.push_bind_param::<st::Array<st::Nullable<st::Binary>>, _>(x),
            V::Column(Col::Bool(x)) => out.push_bind_param::<st::Array<st::Nullable<st::Bool>>, _>(x),
        })
    }
}

impl QueryFragment<Sqlite> for Stmt {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        self.walk(out, |out, v| match v {
            V::Uuid(Some(x)) => out.push_bind_param::<st::Binary, [u8]>(x.as_bytes()),
            V::Uuid(None) => out.push_bind_param::<st::Nullable<st::Binary>, Option<Vec<u8>>>(&None),
            V::Int(x) => out.push_bind_param::<st::Nullable<st::BigInt>, _>(x),
            V::Text(x) => out.push_bind_param::<st::Nullable<st::Text>, _>(x),
            V::Json(Some(x)) => out.push_bind_param::<st::Text, str>(x.0.as_str()),
            V::Json(None) => out.push_bind_param::<st::Nullable<st::Text>, Option<String>>(&None),
            V::Bytes(x) => out.push_bind_param::<st::Nullable<st::Binary>, _>(x),
            V::Bool(x) => out.push_bind_param::<st::Nullable<st::Bool>, _>(x),
            V::Column(_) => Err(diesel::result::Error::QueryBuilderError("no column parameters on SQLite".into())),
        })
    }
}

/// A row as it comes, decoded by what the database says each value is.
struct Row(Vec<Cell>);

impl diesel::deserialize::QueryableByName<Pg> for Row {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> diesel::deserialize::Result<Self> {
        cells(row, |v: PgValue<'_>| pg_cell(v.get_oid().get(), v.as_bytes()))
    }
}

impl diesel::deserialize::QueryableByName<Sqlite> for Row {
    fn build<'a>(row: &impl NamedRow<'a, Sqlite>) -> diesel::deserialize::Result<Self> {
        cells(row, |mut v: diesel::sqlite::SqliteValue<'_, '_, '_>| {
            Ok(match v.value_type() {
                None => Cell::Null,
                Some(SqliteType::SmallInt | SqliteType::Integer | SqliteType::Long) => Cell::Int(v.read_long()),
                Some(SqliteType::Float | SqliteType::Double) => Cell::Int(v.read_double() as i64),
                Some(SqliteType::Text) => Cell::Text(v.read_text().to_string()),
                Some(SqliteType::Binary) => Cell::Bytes(v.read_blob().to_vec()),
            })
        })
    }
}

fn cells<'a, DB: Backend>(
    row: &impl NamedRow<'a, DB>,
    read: impl Fn(DB::RawValue<'_>) -> diesel::deserialize::Result<Cell>,
) -> diesel::deserialize::Result<Row> {
    let n = row.field_count();
    let mut out = Vec::with_capacity(n);
    for i in 0..n {
        let field = diesel::row::Row::get(row, i).ok_or("a field is missing")?;
        out.push(match field.value() {
            None => Cell::Null,
            Some(v) => read(v)?,
        });
    }
    Ok(Row(out))
}

/// The object ids of the few types the schema and its expressions use (`pg_type.dat`; they never change).
fn pg_cell(oid: u32, b: &[u8]) -> diesel::deserialize::Result<Cell> {
    const BOOL: u32 = 16;
    const BYTEA: u32 = 17;
    const INT8: u32 = 20;
    const INT4: u32 = 23;
    const TEXT: u32 = 25;
    const JSON: u32 = 114;
    const VARCHAR: u32 = 1043;
    const UUID: u32 = 2950;
    const VOID: u32 = 2278;
    Ok(match oid {
        BOOL => Cell::Int(i64::from(b.first() == Some(&1))),
        BYTEA => Cell::Bytes(b.to_vec()),
        INT8 => Cell::Int(i64::from_be_bytes(b.try_into()?)),
        INT4 => Cell::Int(i64::from(i32::from_be_bytes(b.try_into()?))),
        TEXT | VARCHAR | JSON => Cell::Text(std::str::from_utf8(b)?.to_string()),
        UUID => Cell::Uuid(uuid::Uuid::from_slice(b)?),
        VOID => Cell::Null,
        other => return Err(format!("a column has the unforeseen type {other}").into()),
    })
}

/// How one row becomes a value.
pub(crate) type ReadRow<T> = fn(&mut Cells) -> Q<T>;

impl Conn {
    pub(crate) fn new(link: Link) -> Conn {
        Conn { link, rang: false }
    }

    pub(crate) fn is_pg(&self) -> bool {
        matches!(self.link, Link::Pg(_))
    }

    /// The words the dialects differ in.
    fn dialect(&self, sql: Cow<'static, str>) -> Cow<'static, str> {
        if !sql.contains('{') {
            return sql;
        }
        let words = match &self.link {
            Link::Pg(_) => [
                ("{share}", "FOR SHARE"),
                ("{update}", "FOR UPDATE"),
                ("{lock_n}", "FOR UPDATE OF n"),
                ("{skip}", "FOR UPDATE SKIP LOCKED"),
                ("{now}", "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"),
            ],
            Link::Lite(_) => [
                ("{share}", ""),
                ("{update}", ""),
                ("{lock_n}", ""),
                ("{skip}", ""),
                ("{now}", "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"),
            ],
        };
        Cow::Owned(words.iter().fold(sql.into_owned(), |s, (from, to)| s.replace(from, to)))
    }

    /// Run a statement. Answers how many rows it touched.
    pub(crate) async fn exec(&mut self, sql: impl Into<Cow<'static, str>>, params: Vec<V>) -> Q<u64> {
        let stmt = Stmt { sql: self.dialect(sql.into()), params };
        let n = match &mut self.link {
            Link::Pg(c) => diesel_async::RunQueryDsl::execute(stmt, &mut **c).await?,
            Link::Lite(c) => diesel::RunQueryDsl::execute(stmt, c)?,
        };
        Ok(n as u64)
    }

    /// Run a statement that touches exactly one row, or fail with `NotFound`.
    pub(crate) async fn exec_one(&mut self, sql: impl Into<Cow<'static, str>>, params: Vec<V>) -> Q<()> {
        match self.exec(sql, params).await? {
            0 => Err(Fail::not_found()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn rows<T: Send>(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        params: Vec<V>,
        read: ReadRow<T>,
    ) -> Q<Vec<T>> {
        let stmt = Stmt { sql: self.dialect(sql.into()), params };
        let mut out = Vec::new();
        match &mut self.link {
            Link::Pg(c) => {
                use futures_util::TryStreamExt as _;
                let mut rows = diesel_async::RunQueryDsl::load_stream::<Row>(stmt, &mut **c).await?;
                while let Some(row) = rows.try_next().await? {
                    out.push(read(&mut Cells(row.0.into_iter()))?);
                }
            }
            Link::Lite(c) => lite_rows(c, stmt, read, &mut out)?,
        }
        Ok(out)
    }

    pub(crate) async fn maybe<T: Send>(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        params: Vec<V>,
        read: ReadRow<T>,
    ) -> Q<Option<T>> {
        Ok(self.rows(sql, params, read).await?.into_iter().next())
    }

    /// The first row, or `NotFound`.
    pub(crate) async fn one<T: Send>(
        &mut self,
        sql: impl Into<Cow<'static, str>>,
        params: Vec<V>,
        read: ReadRow<T>,
    ) -> Q<T> {
        self.maybe(sql, params, read).await?.ok_or_else(Fail::not_found)
    }

    /// A statement over many rows: `{v}` in `sql` stands for a table `v` with these columns. One round trip per 1,000 rows on
    /// PostgreSQL (`unnest` of arrays); on SQLite a loop over one prepared statement, where a trip costs nothing.
    /// `params` are those of the other `?`, in order.
    pub(crate) async fn batch(&mut self, sql: &str, params: Vec<V>, cols: Vec<(&'static str, Col)>) -> Q<u64> {
        let mut touched = 0;
        for (sql, params) in self.batches(sql, params, cols)? {
            touched += self.exec(sql, params).await?;
        }
        Ok(touched)
    }

    /// Like [`Conn::batch`], for statements that answer rows.
    pub(crate) async fn batch_rows<T: Send>(
        &mut self,
        sql: &str,
        params: Vec<V>,
        cols: Vec<(&'static str, Col)>,
        read: ReadRow<T>,
    ) -> Q<Vec<T>> {
        let mut out = Vec::new();
        for (sql, params) in self.batches(sql, params, cols)? {
            out.extend(self.rows(sql, params, read).await?);
        }
        Ok(out)
    }

    fn batches(
        &self,
        sql: &str,
        params: Vec<V>,
        mut cols: Vec<(&'static str, Col)>,
    ) -> Q<Vec<(Cow<'static, str>, Vec<V>)>> {
        let n = cols.first().map_or(0, |c| c.1.len());
        if cols.iter().any(|c| c.1.len() != n) {
            return Err(Fail::invalid("the columns of a batch differ in length"));
        }
        let (before, after) = sql.split_once("{v}").ok_or_else(|| Fail::invalid("a batch without {v}"))?;
        let lead = before.matches('?').count();
        let names: Vec<&str> = cols.iter().map(|c| c.0).collect();
        let table = if self.is_pg() {
            format!("unnest({}) AS v({})", vec!["?"; names.len()].join(", "), names.join(", "))
        } else {
            format!("(SELECT {}) AS v", names.iter().map(|n| format!("? AS {n}")).collect::<Vec<_>>().join(", "))
        };
        let text = format!("{before}{table}{after}");
        let step = if self.is_pg() { MAX_BATCH } else { 1 };
        let mut out = Vec::with_capacity(n.div_ceil(step));
        let mut from = 0;
        while from < n {
            let to = (from + step).min(n);
            let mut all: Vec<V> = params[..lead].to_vec();
            for (_, col) in &mut cols {
                all.push(if self.is_pg() { V::Column(col.slice(from, to)) } else { col.take(from) });
            }
            all.extend_from_slice(&params[lead..]);
            out.push((Cow::Owned(text.clone()), all));
            from = to;
        }
        Ok(out)
    }
}

/// Lock these nodes in the one order that everybody uses. Needless on SQLite.
pub(crate) async fn lock_nodes(c: &mut Conn, ids: impl IntoIterator<Item = domain::NodeId>) -> Q<()> {
    if c.is_pg() {
        let sql = "SELECT n.id FROM {v} JOIN nodes n ON n.id = v.id ORDER BY n.id {lock_n}";
        c.batch_rows(sql, vec![], vec![("id", Col::ids(ids))], |_| Ok(())).await?;
    }
    Ok(())
}

/// Apart from the async function, because SQLite's cursor is not `Send`; nothing awaits here.
fn lite_rows<T>(c: &mut SqliteConnection, stmt: Stmt, read: ReadRow<T>, out: &mut Vec<T>) -> Q<()> {
    for row in diesel::RunQueryDsl::load_iter::<Row, diesel::connection::DefaultLoadingMode>(stmt, c)? {
        out.push(read(&mut Cells(row?.0.into_iter()))?);
    }
    Ok(())
}
