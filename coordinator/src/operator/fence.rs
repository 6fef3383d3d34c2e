//! What keeps a process that does not lead from writing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds on a clock that never goes back and goes on while the machine sleeps.
pub(super) fn uptime_ms() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    time.tv_sec().saturating_mul(1000).saturating_add(time.tv_nsec() / 1_000_000)
}

/// Until when this process may write. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    /// On the clock of [`uptime_ms`]; 0: not at all.
    until_ms: Arc<AtomicI64>,
}

impl Fence {
    pub(super) fn set(&self, until_ms: Option<i64>) {
        self.until_ms.store(until_ms.unwrap_or(0), Ordering::SeqCst);
    }

    /// How much longer; `None`: no more.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let left = self.until_ms.load(Ordering::SeqCst).saturating_sub(uptime_ms());
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_shut_before_it_is_opened_and_after_its_time() {
        let fence = Fence::default();
        assert_eq!(fence.remaining(), None);
        fence.set(Some(uptime_ms() + 60_000));
        assert!(fence.remaining().is_some());
        fence.set(Some(uptime_ms() - 1));
        assert_eq!(fence.remaining(), None);
        fence.set(None);
        assert_eq!(fence.remaining(), None);
    }
}
