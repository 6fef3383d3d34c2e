//! How long to wait before what failed is tried again: at once after the first failure, then 10 s, doubled with each
//! further failure in a row, as Kubernetes does it for containers and for the pods of Jobs.

/// The wait after the second failure in a row.
pub(crate) const FIRST_MS: i64 = 10_000;
/// The longest wait before a pod of a job or a ReplicaSet is made again.
pub(crate) const LONGEST_MS: i64 = 300_000;
/// What has lived for so long begins a new row with its failure.
pub(crate) const FORGET_MS: i64 = 600_000;

/// [`FIRST_MS`], doubled so many times, and at most `longest_ms`.
pub(crate) fn doubled_ms(times: u32, longest_ms: i64) -> i64 {
    // 10 s doubled ten times are hours: more would only overflow.
    (FIRST_MS << times.min(10)).min(longest_ms)
}

/// The wait before a pod is made again after this many failures in a row.
pub(crate) fn delay_ms(failures: u32) -> i64 {
    match failures {
        0 | 1 => 0,
        more => doubled_ms(more - 2, LONGEST_MS),
    }
}

/// Whether a wait until then is over. A time further off than any wait is one of a clock that went back.
pub(crate) const fn is_over(until_ms: i64, now_ms: i64) -> bool {
    now_ms >= until_ms || until_ms.saturating_sub(now_ms) > LONGEST_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_none_to_the_longest() {
        let waits: Vec<i64> = (0..10).map(|failures| delay_ms(failures) / 1000).collect();
        assert_eq!(waits, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(delay_ms(u32::MAX), LONGEST_MS);
    }

    #[test]
    fn a_clock_that_went_back_makes_nobody_wait_longer() {
        assert!(!is_over(1_000, 999));
        assert!(is_over(1_000, 1_000));
        assert!(!is_over(LONGEST_MS, 0));
        assert!(is_over(LONGEST_MS + 1, 0));
    }
}
