//! Pages of lists: `?limit=` and `?cursor=` in, `{"<nouns>": [...], "total", "next_cursor"}` out.

use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use api::Listed;
use api::wire::{DEFAULT_LIMIT, MAX_LIMIT};
use store::{Listing, Page};

/// Longest cursor that is looked at; ours have under 200 characters.
const MAX_CURSOR_CHARS: usize = 512;

/// What the query asks for. Errors: 422.
pub fn page(query: &Query) -> Outcome<Page> {
    let limit = query.parsed::<u32>("limit", "a number")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Refusal::invalid("limit", format!("must be between 1 and {MAX_LIMIT}")));
    }
    let cursor = query.text("cursor").map(str::to_string);
    if cursor.as_ref().is_some_and(|c| c.len() > MAX_CURSOR_CHARS) {
        return Err(Refusal::invalid("cursor", "is not a cursor of this list"));
    }
    Ok(Page { limit, cursor })
}

/// The store's answer to a page: a cursor that it cannot read is the client's.
pub fn listing<T>(asked: bool, answer: store::Result<Listing<T>>) -> Outcome<Listing<T>> {
    match answer {
        Err(store::Error::Invalid(_)) if asked => Err(Refusal::invalid("cursor", "is not a cursor of this list")),
        other => Ok(other?),
    }
}

pub fn listed<R, T>(listing: Listing<R>, show: impl FnMut(R) -> T) -> Listed<T> {
    Listed {
        total: u64::try_from(listing.total).unwrap_or(0),
        next_cursor: listing.next_cursor,
        items: listing.rows.into_iter().map(show).collect(),
    }
}

/// A page of rows that are all in memory, in order, whose cursor is the key of the last one shown.
pub fn slice<R>(rows: Vec<R>, page: &Page, key: impl Fn(&R) -> String) -> Outcome<Listing<R>> {
    let total = rows.len() as i64;
    let start = match &page.cursor {
        None => 0,
        Some(cursor) => match rows.iter().position(|r| key(r) == *cursor) {
            Some(at) => at + 1,
            None => return Err(Refusal::invalid("cursor", "is not a cursor of this list")),
        },
    };
    let more = rows.len() > start + page.limit as usize;
    let rows: Vec<R> = rows.into_iter().skip(start).take(page.limit as usize).collect();
    let next_cursor = if more { rows.last().map(&key) } else { None };
    Ok(Listing { rows, total, next_cursor })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_are_between_1_and_500() {
        let ask = |raw: &str| page(&Query::parse(raw).unwrap());
        assert_eq!(ask("").unwrap().limit, 50);
        assert_eq!(ask("limit=500").unwrap().limit, 500);
        for bad in ["limit=0", "limit=501", "limit=-1", "limit=ten"] {
            assert_eq!(ask(bad).unwrap_err().problem.errors.keys().next().unwrap(), "limit", "{bad}");
        }
    }

    #[test]
    fn pages_of_rows_in_memory_follow_each_other() {
        let rows = || (0..5).collect::<Vec<i32>>();
        let at = |cursor: Option<&str>| Page { limit: 2, cursor: cursor.map(str::to_string) };
        let first = slice(rows(), &at(None), i32::to_string).unwrap();
        assert_eq!((first.rows, first.total, first.next_cursor.as_deref()), (vec![0, 1], 5, Some("1")));
        let last = slice(rows(), &at(Some("3")), i32::to_string).unwrap();
        assert_eq!((last.rows, last.next_cursor), (vec![4], None));
        assert!(slice(rows(), &at(Some("nonsense")), i32::to_string).is_err());
    }
}
