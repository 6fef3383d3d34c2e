//! Times as people read them.

use jiff::Timestamp;

/// `45s`, `3m20s`, `5h`, `12d`: as kubectl shows ages.
pub(crate) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with_rest = |whole: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match (minutes, hours, days) {
        (0..2, ..) => format!("{seconds}s"),
        (2..10, ..) => with_rest(minutes, "m", seconds % 60, "s"),
        (10..180, ..) => format!("{minutes}m"),
        (_, 3..8, _) => with_rest(hours, "h", minutes % 60, "m"),
        (_, 8..48, _) => format!("{hours}h"),
        (_, _, 2..8) => with_rest(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

/// `0.4 s`, `12.3 s`, `3 min 20 s`, `5 h 3 min`: how long something took.
pub(crate) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    #[expect(clippy::cast_possible_truncation, reason = "durations of jobs fit")]
    let whole = seconds.round() as i64;
    if whole < 3600 {
        format!("{} min {} s", whole / 60, whole % 60)
    } else {
        format!("{} h {} min", whole / 3600, whole % 3600 / 60)
    }
}

/// `0:07`, `12:30`, `3:05:09`: a countdown of steady width.
pub(crate) fn clock(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "durations of jobs fit")]
    let whole = seconds.max(0.0).round() as i64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Seconds since an RFC 3339 time; `None` if it is none.
pub(crate) fn since(time: &str) -> Option<i64> {
    let then: Timestamp = time.parse().ok()?;
    Some(Timestamp::now().as_second() - then.as_second())
}

/// The age of an RFC 3339 time, or `<unknown>` as kubectl says it.
pub(crate) fn age_of(time: Option<&str>) -> String {
    time.and_then(since).map_or_else(|| "<unknown>".to_owned(), age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (700, "11m"),
            (3 * 3600 + 120, "3h2m"),
            (9 * 3600, "9h"),
            (3 * 86_400, "3d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn spans_and_clocks() {
        assert_eq!(span(12.34), "12.3 s");
        assert_eq!(span(200.0), "3 min 20 s");
        assert_eq!(clock(7.2), "0:07");
        assert_eq!(clock(11_109.0), "3:05:09");
    }
}
