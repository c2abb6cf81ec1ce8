//! Points in time as RFC 3339 in UTC, both ways, and durations. No clock is read here.

use wire::Timestamp;

const SECONDS_PER_DAY: i64 = 86_400;

/// `2026-11-22T18:14:27Z`; with `exact`, nanoseconds too.
pub(crate) fn utc(time: Timestamp, exact: bool) -> String {
    let seconds = time.0.div_euclid(1_000_000_000);
    let nanoseconds = time.0.rem_euclid(1_000_000_000);
    let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
    let rest = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let fraction = if exact { format!(".{nanoseconds:09}") } else { String::new() };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// A time as a person types it: seconds since 1970 (`@1700000000` or with a fraction), or RFC 3339 in UTC, the time of day
/// optional (`2026-11-22`, `2026-11-22T18:14:27Z`).
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    let parsed = match text.strip_prefix('@') {
        Some(seconds) => parse_seconds(seconds),
        None => parse_utc(text),
    };
    parsed.map(Timestamp).ok_or_else(|| {
        format!("`{text}` is no time; write for example 2026-11-22, 2026-11-22T18:14:27Z or @1700000000")
    })
}

/// `1.25 s`, `12 min 5 s`, `3 h 2 min`.
pub(crate) fn duration(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    match seconds {
        0 => format!("{} ms", nanoseconds / 1_000_000),
        1..=59 => format!("{seconds}.{:01} s", nanoseconds / 100_000_000 % 10),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn parse_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanoseconds = parse_fraction(fraction)?;
    let seconds: i64 = whole.parse().ok()?;
    let signed = if whole.starts_with('-') { -nanoseconds } else { nanoseconds };
    seconds.checked_mul(1_000_000_000)?.checked_add(signed)
}

/// Up to nine digits behind the point, as nanoseconds.
fn parse_fraction(text: &str) -> Option<i64> {
    let fits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| format!("{text:0<9}").parse().ok()).flatten()
}

fn parse_utc(text: &str) -> Option<i64> {
    let (date, clock) = match text.split_once(['T', 't', ' ']) {
        Some((date, clock)) => (date, clock.strip_suffix(['Z', 'z']).unwrap_or(clock)),
        None => (text, "00:00:00"),
    };
    let mut parts = date.split('-').map(parse_digits);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut times = clock.split(':').map(parse_digits);
    let (hour, minute, second) = (times.next()??, times.next()??, times.next().unwrap_or(Some(0))?);
    let complete = parts.next().is_none() && times.next().is_none();
    let days = days(year, month, day);
    let exists = civil(days) == (year, month, day) && hour < 24 && minute < 60 && second < 60;
    if !complete || !exists {
        return None;
    }
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    seconds.checked_mul(1_000_000_000)?.checked_add(parse_fraction(fraction)?)
}

/// One to four digits.
fn parse_digits(text: &str) -> Option<i64> {
    let fits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last: 146,097 days are 400 years, and a month's first day is
/// `(153 · month + 2) / 5` days after 1 March (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march = days + 719_468;
    let era = from_march.div_euclid(146_097);
    let day_of_era = from_march.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_index = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_index + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(utc(Timestamp(seconds * 1_000_000_000), false), text);
            assert_eq!(parse(text), Ok(Timestamp(seconds * 1_000_000_000)));
        }
        assert_eq!(utc(Timestamp(-1), true), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn every_day_of_eight_centuries_goes_both_ways() {
        for day in -146_097..146_097 {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
    }

    #[test]
    fn times_are_read() {
        for (text, nanoseconds) in [
            ("@0", 0),
            ("@1.5", 1_500_000_000),
            ("@-1.5", -1_500_000_000),
            ("1970-01-02", 86_400_000_000_000),
            ("1970-01-01 00:01", 60_000_000_000),
            ("1970-01-01T00:00:00.000000001Z", 1),
        ] {
            assert_eq!(parse(text), Ok(Timestamp(nanoseconds)), "{text}");
        }
        for text in
            ["", "@", "@x", "1970", "1970-13-01", "2023-02-29", "1970-01-01T24:00", "1970-01-01T1:1:1:1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("@9999999999999").is_err());
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(12_000_000), "12 ms");
        assert_eq!(duration(1_250_000_000), "1.2 s");
        assert_eq!(duration(725_000_000_000), "12 min 5 s");
        assert_eq!(duration(10_920_000_000_000), "3 h 2 min");
    }
}
