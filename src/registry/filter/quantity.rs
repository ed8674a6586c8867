//! Numbers, lengths of time and dates, as people write them.

/// `0.85`, `1e-4`, `1_000`, `85%`, `25M` (k, M, G, and B for G). `None` where it is none, or not finite.
pub(super) fn number(text: &str) -> Option<f64> {
    let (digits, unit, percent) = match text.char_indices().next_back()? {
        (at, 'k') => (&text[..at], 1e3, false),
        (at, 'M') => (&text[..at], 1e6, false),
        (at, 'G' | 'B') => (&text[..at], 1e9, false),
        (at, '%') => (&text[..at], 1., true),
        _ => (text, 1., false),
    };
    let value: f64 = plain(digits)?.parse().ok()?;
    // A division of 85 by 100 is rounded once, and so is 0.85.
    let value = if percent { value / 100. } else { value * unit };
    value.is_finite().then_some(value)
}

/// A whole number that SQLite's integers hold exactly.
pub(super) fn integer(text: &str) -> Option<i64> {
    plain(text)?.parse().ok()
}

/// Digits without the underscores between them; `None` of what only Rust takes for a number.
fn plain(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_digit() || ".eE+-_".contains(c);
    let underscore = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (text.chars().all(fits) && !underscore).then(|| text.replace('_', ""))
}

/// Seconds of `90s`, `2h30m`, `1.5d`, `2w`, `250ms`. `None` where it is none.
pub(super) fn duration(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut seconds = 0.;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let value: f64 = rest[..digits].parse().ok()?;
        let end = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |at| digits + at);
        seconds += value
            * match &rest[digits..end] {
                "ms" => 1e-3,
                "s" | "sec" => 1.,
                "m" | "min" => 60.,
                "h" => 3_600.,
                "d" => 86_400.,
                "w" => 604_800.,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(seconds)
}

/// From when to before when, in milliseconds since 1970: `2026`, `2026-11`, `2026-11-25`, with `T10:00` or ` 10:00`,
/// seconds and thousandths of them, with or without `Z`. All times are UTC.
pub(super) fn period(text: &str) -> Option<(i64, i64)> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let digits = |text: &str, length: usize| -> Option<i64> {
        (text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let mut parts = date.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = parts.next().map(|part| digits(part, 2));
    let day = parts.next().map(|part| digits(part, 2));
    if parts.next().is_some() {
        return None;
    }
    let (from, to) = match (month, day) {
        (None, _) => (days(year, 1, 1)?, days(year + 1, 1, 1)?),
        (Some(month), None) => {
            let month = month?;
            let next = if month == 12 { days(year + 1, 1, 1)? } else { days(year, month + 1, 1)? };
            (days(year, month, 1)?, next)
        }
        (Some(month), Some(day)) => {
            let from = days(year, month?, day?)?;
            (from, from + 1)
        }
    };
    let (from, to) = (from * 86_400_000, to * 86_400_000);
    let Some(time) = time else { return Some((from, to)) };
    day?;
    let mut parts = time.split(':');
    let hour = digits(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = digits(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let minute = from + hour * 3_600_000 + minute * 60_000;
    let (from, length) = match parts.next() {
        None => (minute, 60_000),
        Some(seconds) => match seconds.split_once('.') {
            None => (minute + digits(seconds, 2).filter(|seconds| *seconds < 60)? * 1000, 1000),
            Some((seconds, thousandths)) => {
                let seconds = digits(seconds, 2).filter(|seconds| *seconds < 60)?;
                (minute + seconds * 1000 + digits(thousandths, 3)?, 1)
            }
        },
    };
    parts.next().is_none().then_some((from, from + length))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None` of a date that there is not.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // A year that begins in March has its leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, expected) in
            [("0.85", 0.85), ("85%", 0.85), ("1e-4", 1e-4), ("25M", 25e6), ("1_000", 1e3), ("-.5", -0.5), ("7B", 7e9)]
        {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "x", "1e999", "1__0", "_1", "nan", "inf", "0x10", "%", "1h", "1.2.3"] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!((integer("9007199254740993"), integer("1.5")), (Some(9_007_199_254_740_993), None));
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(duration("2h30m"), Some(9000.));
        assert_eq!(duration("1.5d"), Some(129_600.));
        assert_eq!(duration("250ms"), Some(0.25));
        for text in ["", "2", "h", "2x", "-2h", "2h3"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn dates_are_periods() {
        let day = 86_400_000;
        assert_eq!(period("1970-01-01"), Some((0, day)));
        assert_eq!(period("2000-02-29"), Some((11_016 * day, 11_017 * day)));
        assert_eq!(period("2026-11"), Some((20_758 * day, 20_788 * day)));
        assert_eq!(period("2026"), Some((20_454 * day, 20_819 * day)));
        assert_eq!(period("1970-01-02T10:30"), Some((day + 37_800_000, day + 37_860_000)));
        assert_eq!(period("1970-01-01 00:00:01Z"), Some((1000, 2000)));
        assert_eq!(period("1970-01-01T00:00:01.250Z"), Some((1250, 1251)));
        for text in
            ["", "2026-13-01", "2026-02-29", "1900-02-29", "26-01-01", "2026-1-1", "2026-01-01T25:00", "2026-01T10:00"]
        {
            assert_eq!(period(text), None, "{text}");
        }
    }
}
