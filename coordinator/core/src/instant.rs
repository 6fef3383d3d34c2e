//! Times of the Kubernetes API in milliseconds, and back.

use jiff::{Timestamp, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Milliseconds since the epoch.
#[must_use]
pub fn ms(time: &Time) -> i64 {
    time.0.as_millisecond()
}

/// The time in whole seconds, as API objects keep it. Times beyond the calendar become the epoch.
#[must_use]
pub fn time(ms: i64) -> Time {
    let stamp = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    Time(Timestamp::from_second(stamp.as_second()).unwrap_or(stamp))
}

/// The time in whole seconds as text: `2026-01-31T12:00:00Z`.
#[must_use]
pub fn text(ms: i64) -> String {
    time(ms).0.round(Unit::Second).map_or_else(|_| String::new(), |stamp| stamp.to_string())
}

/// The time of an RFC 3339 text.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}
