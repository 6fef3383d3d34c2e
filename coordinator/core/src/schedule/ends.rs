//! When gangs end, the soonest first.
//!
//! Whoever starts when another has ended ends no sooner than that. So the next end is never before the last one that was taken, and a radix heap
//! does: an end lies in the bucket of the highest bit in which it differs from the last one, and is moved only when that bucket is next.

/// Ends, each with an amount.
#[derive(Debug)]
pub(super) struct Ends {
    last_ms: i64,
    /// Those that equal the last one, then those that differ from it in bit 0 at most, in bit 1 at most, and so on.
    buckets: Vec<Vec<(i64, i64)>>,
    /// Buckets that hold some, bit by bit, without the first.
    filled: u64,
}

impl Ends {
    /// None yet; none is before `now_ms`.
    pub(super) fn new(now_ms: i64) -> Self {
        Self { last_ms: now_ms, buckets: vec![Vec::new(); 65], filled: 0 }
    }

    /// One more end; what would be before the last one is with it.
    pub(super) fn push(&mut self, at_ms: i64, amount: i64) {
        let at_ms = at_ms.max(self.last_ms);
        let bucket = 64 - (at_ms ^ self.last_ms).leading_zeros();
        self.buckets[bucket as usize].push((at_ms, amount));
        if bucket > 0 {
            self.filled |= 1 << (bucket - 1);
        }
    }

    /// Takes one of the soonest.
    pub(super) fn pop(&mut self) -> Option<(i64, i64)> {
        if self.buckets[0].is_empty() && self.filled > 0 {
            let next = self.filled.trailing_zeros();
            self.filled &= !(1 << next);
            let mut moved = std::mem::take(&mut self.buckets[next as usize + 1]);
            self.last_ms = moved.iter().map(|(at_ms, _)| *at_ms).min().unwrap_or(self.last_ms);
            moved.drain(..).for_each(|(at_ms, amount)| self.push(at_ms, amount));
            self.buckets[next as usize + 1] = moved;
        }
        self.buckets[0].pop()
    }
}

#[cfg(test)]
mod tests {
    use super::Ends;

    #[test]
    fn the_soonest_comes_first_whatever_was_entered_in_between() {
        let mut state = 7_u64;
        let mut dice = |sides: i64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            i64::try_from(state >> 33).unwrap() % sides
        };
        for _ in 0..200 {
            let mut ends = Ends::new(1_000);
            let mut model: Vec<(i64, i64)> = Vec::new();
            for number in 0..100 {
                if dice(3) < 2 {
                    let bits = 1 + dice(40);
                    let at_ms = ends.last_ms - 5 + dice(1 << bits);
                    ends.push(at_ms, number);
                    model.push((at_ms.max(ends.last_ms), number));
                    continue;
                }
                let soonest = model.iter().map(|(at_ms, _)| *at_ms).min();
                let taken = ends.pop();
                assert_eq!(taken.map(|(at_ms, _)| at_ms), soonest);
                model.retain(|one| Some(*one) != taken);
            }
            let rest = model.len();
            assert_eq!(std::iter::from_fn(|| ends.pop()).count(), rest);
        }
    }

    #[test]
    fn ends_far_apart_are_told_apart() {
        let mut ends = Ends::new(i64::MIN);
        [i64::MAX, 0, i64::MIN, -1].into_iter().for_each(|at_ms| ends.push(at_ms, 1));
        let order: Vec<i64> = std::iter::from_fn(|| ends.pop()).map(|(at_ms, _)| at_ms).collect();
        assert_eq!(order, [i64::MIN, -1, 0, i64::MAX]);
    }
}
