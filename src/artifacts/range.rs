//! The HTTP `Range` header, as far as downloads need it: one range of bytes (RFC 9110, section 14).

use std::ops::Range;

/// What a `Range` header asks of an object of known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// No header, or one that a server may ignore (another unit, several ranges, bad syntax): answer 200 with everything.
    Whole,
    /// Answer 206 with these bytes (not empty, inside the object).
    Part(Range<u64>),
    /// Answer 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

/// Reads a `Range` header against an object of `size` bytes.
pub fn parse_range(header: Option<&str>, size: u64) -> Asked {
    let Some((first, last)) = header.and_then(|h| h.trim().strip_prefix("bytes=")).and_then(|r| r.split_once('-'))
    else {
        return Asked::Whole;
    };
    let number = |s: &str| -> Option<u64> {
        // `u64::from_str` takes "+5", the header's grammar does not.
        s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten()
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Asked::Whole,
        (true, false) => match number(last) {
            Some(n) => size.saturating_sub(n)..size,
            None => return Asked::Whole,
        },
        (false, true) => match number(first) {
            Some(a) => a..size,
            None => return Asked::Whole,
        },
        (false, false) => match (number(first), number(last)) {
            (Some(a), Some(b)) if a <= b => a..b.saturating_add(1).min(size),
            _ => return Asked::Whole,
        },
    };
    if range.start >= range.end { Asked::Unsatisfiable } else { Asked::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_header_is_read_as_the_rfc_says() {
        let check =
            |header: &str, size: u64, expect: Asked| assert_eq!(parse_range(Some(header), size), expect, "{header}");
        check("bytes=0-0", 10, Asked::Part(0..1));
        check("bytes=2-5", 10, Asked::Part(2..6));
        check("bytes=2-", 10, Asked::Part(2..10));
        check("bytes=-3", 10, Asked::Part(7..10));
        check("bytes=-30", 10, Asked::Part(0..10));
        check("bytes=5-99", 10, Asked::Part(5..10));
        check("bytes=5-18446744073709551615", 10, Asked::Part(5..10));
        check("bytes=10-", 10, Asked::Unsatisfiable);
        check("bytes=10-11", 10, Asked::Unsatisfiable);
        check("bytes=-0", 10, Asked::Unsatisfiable);
        check("bytes=0-", 0, Asked::Unsatisfiable);
        check("bytes=5-2", 10, Asked::Whole);
        check("bytes=0-1,3-4", 10, Asked::Whole);
        check("bytes=+1-2", 10, Asked::Whole);
        check("bytes=-", 10, Asked::Whole);
        check("items=0-1", 10, Asked::Whole);
        check("", 10, Asked::Whole);
        assert_eq!(parse_range(None, 10), Asked::Whole);
    }
}
