//! Sizes: `1.5 GiB` for people, `64M` from people.

/// Names of the powers of 1,024.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes with a unit and three significant digits at most: `0 B`, `999 B`, `1.5 KiB`, `64.0 MiB`.
pub(crate) fn human(bytes: u64) -> String {
    let mut unit = 0;
    let mut scale = 1_u64;
    // Rounded to one decimal, 1,023.95 of a unit would read `1024.0`: the next unit says it better.
    while unit + 1 < UNITS.len() && bytes / scale >= 1000 {
        scale = scale.saturating_mul(1024);
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(scale) / 2) / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Bytes in `nanoseconds` as a rate.
pub(crate) fn rate(bytes: u64, nanoseconds: u64) -> String {
    let per_second = u128::from(bytes) * 1_000_000_000 / u128::from(nanoseconds.max(1));
    format!("{}/s", human(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size as a person types it: a number and, optionally, `K M G T P E`, with or without `iB` or `B`. All are powers of 1,024.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expectation(text))?;
    let suffix = suffix.trim().to_ascii_lowercase();
    let power = match suffix.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "e" => 6,
        _ => return Err(expectation(text)),
    };
    number
        .checked_mul(1 << (10 * power))
        .ok_or_else(|| format!("`{text}` is 16 EiB or more, which no file can have"))
}

fn expectation(text: &str) -> String {
    format!("`{text}` is no size; write for example 4096, 64K, 10M or 2GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("4k", 4096), ("1MiB", 1 << 20), ("2 GB", 2 << 30), ("3T", 3 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1.5M", "1Q", "99999999999999999999", "99999999999E", "1ibb k"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// 16 EiB itself was "more than 16 EiB".
    #[test]
    fn what_is_too_large_is_said_as_it_is() {
        assert!(parse("16EiB").is_err_and(|said| said.contains("16 EiB or more")));
        assert_eq!(parse("15EiB"), Ok(15 << 60));
    }

    #[test]
    fn rates_and_groups() {
        assert_eq!(rate(1 << 20, 500_000_000), "2.0 MiB/s");
        assert_eq!(rate(5, 0), "4.7 GiB/s");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
