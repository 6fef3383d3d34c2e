//! Choice of the port on which the ranks of a job meet.

use std::collections::BTreeSet;

use crate::fnv;

/// First port that may be chosen. Below the range from which kernels hand out ephemeral ports (32768 on).
pub const FIRST: u16 = 20_000;
/// Last port that may be chosen.
pub const LAST: u16 = 29_999;

/// A free port for the job of this uid: always the same one for the same job while it is free.
#[must_use]
pub fn choose(uid: &str, busy: &BTreeSet<u16>) -> Option<u16> {
    let span = u64::from(LAST - FIRST) + 1;
    let start = fnv::text(uid) % span;
    (0..span)
        .map(|step| FIRST + u16::try_from((start + step) % span).expect("a remainder below 10,000 fits into 16 bits"))
        .find(|port| !busy.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_job_gets_the_same_port_and_never_a_busy_one() {
        let first = choose("uid-1", &BTreeSet::new()).unwrap();
        assert!((FIRST..=LAST).contains(&first));
        assert_eq!(choose("uid-1", &BTreeSet::from([1])), Some(first));
        let second = choose("uid-1", &BTreeSet::from([first])).unwrap();
        assert_ne!(first, second);
        let all_but_one: BTreeSet<u16> = (FIRST..=LAST).filter(|port| *port != 23_456).collect();
        assert_eq!(choose("uid-1", &all_but_one), Some(23_456));
        assert_eq!(choose("uid-1", &(FIRST..=LAST).collect()), None);
    }
}
