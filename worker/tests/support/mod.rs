//! Waiting in tests: for a condition, never for a time. This is the only place that knows how often to look.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// A test that waits this long has failed: the slowest machine that builds and tests at once needs a third of it.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at what nobody tells of.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks until something is found. What a look says instead is told at the deadline.
pub(crate) async fn eventually<T, E, F>(what: &str, mut look: F) -> T
where
    E: Debug,
    F: AsyncFnMut() -> Result<Option<T>, E>,
{
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen = look().await;
        if let Ok(Some(found)) = seen {
            return found;
        }
        let said = seen.err();
        assert!(Instant::now() < deadline, "{what}: waited too long; {said:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The same where nothing is awaited.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: waited too long");
        std::thread::sleep(LOOK_AGAIN);
    }
}
