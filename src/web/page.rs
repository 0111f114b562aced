//! Pages of lists: `?limit=` and `?cursor=` in, `{"<nouns>": [...], "total", "next_cursor"}` out.

use crate::problem::{Outcome, Refusal};
use crate::query::Query;
use api::Listed;
use api::wire::{DEFAULT_LIMIT, MAX_LIMIT};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Listing, Page};

/// Longest cursor that is looked at. Ours have under 700 characters: a name of 100 (400 bytes) and an id, as JSON in base64.
const MAX_CURSOR_CHARS: usize = 1_024;

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

/// A page of rows that are all in memory, in ascending order of `key`: of something that stays, and that no two rows share.
///
/// The cursor is the key of the last row shown, so the list goes on after its place also when that row is deleted meanwhile.
pub fn slice<R, K>(mut rows: Vec<R>, page: &Page, key: impl Fn(&R) -> K) -> Outcome<Listing<R>>
where
    K: Ord + Serialize + DeserializeOwned,
{
    let total = rows.len() as i64;
    // Also where the database has ordered them: two databases collate texts differently, and a place is looked for in ours.
    rows.sort_by_cached_key(&key);
    if let Some(cursor) = &page.cursor {
        let last: K = place(cursor).ok_or_else(|| Refusal::invalid("cursor", "is not a cursor of this list"))?;
        rows.retain(|r| key(r) > last);
    }
    let more = rows.len() > page.limit as usize;
    rows.truncate(page.limit as usize);
    let next_cursor = match rows.last().filter(|_| more) {
        Some(last) => Some(
            URL_SAFE_NO_PAD
                .encode(serde_json::to_vec(&key(last)).map_err(|e| Refusal::internal(format!("a cursor: {e}")))?),
        ),
        None => None,
    };
    Ok(Listing { rows, total, next_cursor })
}

fn place<K: DeserializeOwned>(cursor: &str) -> Option<K> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
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
        let names = ["e", "d", "c", "b", "a"];
        let at = |cursor: Option<String>| Page { limit: 2, cursor };
        let by_name = |rows: &[&'static str], cursor| slice(rows.to_vec(), &at(cursor), |n| n.to_string());
        let first = by_name(&names, None).unwrap();
        assert_eq!((first.rows, first.total), (vec!["a", "b"], 5));
        assert!(first.next_cursor.is_some());
        let second = by_name(&names, first.next_cursor.clone()).unwrap();
        assert_eq!(second.rows, ["c", "d"]);
        let last = by_name(&names, second.next_cursor).unwrap();
        assert_eq!((last.rows, last.next_cursor), (vec!["e"], None));
        // The last one shown is deleted before the next page is asked for.
        let rest = by_name(&["e", "d", "c", "a"], first.next_cursor).unwrap();
        assert_eq!(rest.rows, ["c", "d"]);
        for bad in ["nonsense", "!", &URL_SAFE_NO_PAD.encode("7")] {
            assert!(by_name(&names, Some(bad.to_string())).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_key_makes_a_cursor_that_is_looked_at() {
        let long = |n: u8| ("\u{1F980}".repeat(100), n);
        let found = slice(vec![long(0), long(1)], &Page { limit: 1, cursor: None }, Clone::clone).unwrap();
        assert!(found.next_cursor.unwrap().len() + 60 < MAX_CURSOR_CHARS, "with an id beside the name");
    }
}
