//! Numbers as people read them, with units.

/// `2026-11-25T14:03:07Z` of milliseconds since 1970.
pub(super) use crate::registry::clock::rfc3339 as timestamp;

/// `84.12 %` of 0.8412.
pub(super) fn percent(rate: f64) -> String {
    format!("{:.2} %", 100.0 * rate)
}

/// `21.8 M` of 21,797,672.
pub(super) fn count(number: u64) -> String {
    let scaled = |unit: f64, suffix| {
        format!("{:.*} {suffix}", if number as f64 / unit < 10.0 { 2 } else { 1 }, number as f64 / unit)
    };
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => scaled(1e3, "k"),
        1_000_000..1_000_000_000 => scaled(1e6, "M"),
        _ => scaled(1e9, "G"),
    }
}

/// `87.3 MB` of 87,319,819.
pub(super) fn bytes(number: u64) -> String {
    match number {
        0..1_000 => format!("{number} B"),
        _ => format!("{}B", count(number)),
    }
}

/// `3 min 12 s`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {:02} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// `2 h ago`; a clock that went back makes it `now`.
pub(super) fn age(now_ms: i64, then_ms: i64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        ..5 => "now".to_owned(),
        5..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A metric's value with its unit: accuracies in per cent, everything else as it is.
pub(super) fn metric(name: &str, value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if name.starts_with("system.") && name.ends_with("_bytes") => bytes(value as u64),
        Some(value) if name.starts_with("system.") && name.ends_with("percent") => format!("{value:.0} %"),
        Some(value) if is_rate(name) => percent(value),
        Some(value) if value != 0.0 && !(1e-3..1e5).contains(&value.abs()) => format!("{value:.3e}"),
        Some(value) => format!("{value:.4}"),
    }
}

/// All digits that tell the value from any other: `0.1`, `1e-7`, `NaN`.
pub(super) fn exact(value: f64) -> String {
    format!("{value:?}")
}

/// A difference of two values of a metric, with its sign; of accuracies in points.
pub(super) fn difference(name: &str, value: Option<f64>) -> String {
    match value {
        Some(value) if value > 0. => format!("+{}", metric(name, Some(value))),
        value => metric(name, value),
    }
}

/// Whether a metric lies between 0 and 1.
pub(super) fn is_rate(name: &str) -> bool {
    name == "system.data_wait" || name.rsplit('.').next().is_some_and(|name| name.starts_with("top"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(percent(0.8412), "84.12 %");
        assert_eq!(count(999), "999");
        assert_eq!(count(21_797_672), "21.8 M");
        assert_eq!(count(3_670_000_000), "3.67 G");
        assert_eq!(bytes(87_319_819), "87.3 MB");
        assert_eq!(duration(3.21), "3.2 s");
        assert_eq!(duration(192.0), "3 min 12 s");
        assert_eq!(duration(7_260.0), "2 h 01 min");
        assert_eq!(age(10_000, 20_000), "now");
        assert_eq!(age(7_200_000, 0), "2 h ago");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_827_696_789), "2000-02-29T12:34:56Z");
        assert_eq!(timestamp(-1), "1969-12-31T23:59:59Z");
        assert_eq!(metric("val.top1", Some(0.5)), "50.00 %");
        assert_eq!(metric("optim.lr", Some(1e-5)), "1.000e-5");
        assert_eq!(metric("train.loss", Some(2.7e21)), "2.700e21");
        assert_eq!(metric("val.loss", Some(f64::NAN)), "NaN");
        assert_eq!(metric("val.loss", None), "-");
        assert_eq!(metric("system.rss_bytes", Some(412_000_000.)), "412.0 MB");
        assert_eq!(metric("system.cpu_percent", Some(193.4)), "193 %");
        assert_eq!(metric("system.gpu0.percent", Some(87.)), "87 %");
        assert_eq!(metric("system.gpu12.memory_bytes", Some(41.2e9)), "41.2 GB");
        assert_eq!(metric("system.data_wait", Some(0.031)), "3.10 %");
    }
}
