//! Times as text, fast: the heartbeat answer carries one, and a calendar library takes half a microsecond for it.

use domain::Timestamp;

/// Appends what [`Timestamp::to_rfc3339`] gives. The calendar is Howard Hinnant's `civil_from_days`.
pub fn write(out: &mut Vec<u8>, at: Timestamp) {
    let micros = at.0.rem_euclid(1_000_000) as u32;
    let seconds = at.0.div_euclid(1_000_000);
    let day_second = seconds.rem_euclid(86_400) as u32;
    let z = seconds.div_euclid(86_400) + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = (if shifted < 10 { shifted + 3 } else { shifted - 9 }) as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(0..=9_999).contains(&year) {
        out.extend_from_slice(at.to_rfc3339().as_bytes());
        return;
    }
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |from: usize, digits: usize, value: u32| {
        let mut value = value;
        for place in (from..from + digits).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year as u32);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, day_second / 3_600);
    put(14, 2, day_second / 60 % 60);
    put(17, 2, day_second % 60);
    put(20, 6, micros);
    out.extend_from_slice(&text);
}

/// Appends a decimal number.
pub fn number(out: &mut Vec<u8>, value: u32) {
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    let mut value = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_library_writes_them() {
        let day = 86_400_000_000i64;
        let mut cases =
            vec![0, -1, 1, 951_782_399_999_999, 951_782_400_000_000, 1_795_296_900_123_456, 253_402_300_799_999_999];
        // Every day of 130 years, at an odd time of day.
        cases.extend((-18_262..29_220).map(|d| d * day + 45_296_000_007));
        for t in cases {
            let mut out = Vec::new();
            write(&mut out, Timestamp(t));
            assert_eq!(String::from_utf8(out).unwrap(), Timestamp(t).to_rfc3339());
        }
    }

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 10, 65_535, u32::MAX] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(String::from_utf8(out).unwrap(), n.to_string());
        }
    }
}
