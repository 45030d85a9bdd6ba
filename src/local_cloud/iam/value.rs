//! The typed values of conditions: numbers, dates, addresses.
//!
//! Owns their text forms. Promises that a text which is not of the type gives `None`, never a guess.

use std::net::IpAddr;

/// A number, whole or with decimals. Infinities and NaN are no numbers.
pub(super) fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    let number: f64 = if plain { text.parse().ok()? } else { return None };
    number.is_finite().then_some(number)
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// A point in time in nanoseconds since 1970: epoch seconds, or one of the ISO 8601 forms that the W3C's note lists
/// (`2026`, `2026-11`, `2026-11-30`, `2026-11-30T12:00Z`, `…:00.5+01:00`).
pub(super) fn date(text: &str) -> Option<i128> {
    // Four digits are a year; more are epoch seconds.
    let whole_number = text.strip_prefix('-').unwrap_or(text);
    if whole_number.len() != 4 && !whole_number.is_empty() && whole_number.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse::<i64>().ok().map(|seconds| i128::from(seconds) * 1_000_000_000);
    }
    let (day, time) = match text.split_once(['T', 't']) {
        Some((day, time)) => (day, Some(time)),
        None => (text, None),
    };
    let mut parts = day.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = parts.next().map_or(Some(1), |part| digits(part, 2))?;
    let day_of_month = parts.next().map_or(Some(1), |part| digits(part, 2))?;
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day_of_month)
    {
        return None;
    }
    let midnight = i128::from(days_since_epoch(year, month, day_of_month)) * 86_400 * 1_000_000_000;
    match time {
        None => Some(midnight),
        Some(time) if day.len() == 10 => Some(midnight + time_of_day(time)?),
        Some(_) => None,
    }
}

/// An address or a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IpRange {
    address: IpAddr,
    prefix_bits: u8,
}

impl IpRange {
    /// `203.0.113.0/24`, `2001:db8::/32`, or one address.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let all_bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => all_bits,
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => prefix.parse().ok()?,
            Some(_) => return None,
        };
        (prefix_bits <= all_bits).then_some(Self { address, prefix_bits })
    }

    /// True where the address is in the range; a v4 address is in no v6 range and the other way round.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let shared = |width: u32, left: u128, right: u128| {
            let ignored = width - u32::from(self.prefix_bits);
            ignored == width || (left >> ignored) == (right >> ignored)
        };
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(one)) => shared(32, u32::from(range).into(), u32::from(one).into()),
            (IpAddr::V6(range), IpAddr::V6(one)) => shared(128, range.into(), one.into()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, counting years from March so that a leap day ends one.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let months_since_march = (month + 9) % 12;
    let days_in_past_years =
        shifted_year * 365 + shifted_year.div_euclid(4) - shifted_year.div_euclid(100) + shifted_year.div_euclid(400);
    let day_of_year = (153 * months_since_march + 2) / 5 + day - 1;
    days_in_past_years + day_of_year - 719_468
}

/// Nanoseconds since midnight UTC of a time that says its zone.
fn time_of_day(text: &str) -> Option<i128> {
    let (clock, offset_minutes) = if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        (clock, 0)
    } else {
        let at = text.rfind(['+', '-'])?;
        let (hours, minutes) = text[at + 1..].split_once(':')?;
        let minutes = digits(hours, 2).filter(|h| *h < 24)? * 60 + digits(minutes, 2).filter(|m| *m < 60)?;
        (&text[..at], if text[at..].starts_with('-') { -minutes } else { minutes })
    };
    let mut parts = clock.splitn(3, ':');
    let hour = digits(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = digits(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let (second, nanoseconds) = match parts.next() {
        None => (0, 0),
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
            let nine = format!("{fraction:0<9}");
            (digits(whole, 2).filter(|second| *second <= 60)?, digits(nine.get(..9)?, 9)?)
        }
    };
    let seconds = (hour * 60 + minute - offset_minutes) * 60 + second;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_every_documented_form() {
        let second = 1_000_000_000_i128;
        for (text, seconds) in [
            ("1970", 0),
            ("1970-01", 0),
            ("1970-01-02", 86_400),
            ("2024-02-29T00:00Z", 1_709_164_800),
            ("2026-11-30T12:34:56Z", 1_796_042_096),
            ("2026-11-30T13:34:56+01:00", 1_796_042_096),
            ("2026-11-30T02:34:56-10:00", 1_796_042_096),
            ("1796042096", 1_796_042_096),
            ("-1", -1),
            ("0", 0),
        ] {
            assert_eq!(date(text), Some(seconds * second), "{text}");
        }
        assert_eq!(date("1970-01-01T00:00:00.25Z"), Some(second / 4));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "-",
            "soon",
            "2026-13",
            "2026-02-29",
            "2026-11-31",
            "2026-1-1",
            "2026-11-30T12:00",
            "2026-11-30T12Z",
            "2026-11T12:00Z",
            "2026-11-30T24:00Z",
            "2026-11-30T12:60Z",
            "2026-11-30 12:00Z",
            "99999999999999999999999",
            "2026-11-30T12:00:00.Z1",
            "2026-11-30-01",
        ] {
            assert_eq!(date(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_of_addresses() {
        let contains = |range: &str, address: &str| {
            IpRange::parse(range).zip(address.parse().ok()).is_some_and(|(range, address)| range.contains(address))
        };
        assert!(contains("203.0.113.0/24", "203.0.113.255"));
        assert!(!contains("203.0.113.0/24", "203.0.114.0"));
        assert!(contains("0.0.0.0/0", "255.255.255.255"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(!contains("::/0", "10.0.0.1"));
        assert!(contains("10.0.0.1", "10.0.0.1"));
        assert!(contains("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!contains("2001:db8::/33", "2001:db8:8000::1"));
        for bad in ["10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "::/129", "x"] {
            assert_eq!(IpRange::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!(number("10"), Some(10.0));
        assert_eq!(number("-1.5e3"), Some(-1500.0));
        for bad in ["", "inf", "NaN", "1e999", "0x10", "ten", "1_000", " 1"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
