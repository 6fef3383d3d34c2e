//! Every number below a count once, in an order that looks like chance.

use crate::stream::Stream;

/// A walk through 0..count in strides that share no divisor with it.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    count: u64,
    at: u64,
    stride: u64,
    done: u64,
}

impl Walk {
    pub(crate) fn new(count: u64, stream: &mut Stream) -> Self {
        let at = stream.below(count);
        // Strides near the golden section of the count leave holes of similar size at all times.
        let golden = (count as f64 * 0.618_033_988_749_894_9) as u64;
        let stride = (golden.max(1)..).find(|stride| divisor(*stride, count) == 1).unwrap_or(1);
        Self { count, at, stride, done: 0 }
    }

    /// The next number of which this is true. Those before it do not come again.
    pub(crate) fn find(&mut self, mut wanted: impl FnMut(&u64) -> bool) -> Option<u64> {
        while self.done < self.count {
            let number = self.at;
            self.at = (self.at + self.stride) % self.count;
            self.done += 1;
            if wanted(&number) {
                return Some(number);
            }
        }
        None
    }
}

fn divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { divisor(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Purpose;

    #[test]
    fn every_number_comes_once() {
        for count in [1, 2, 3, 4, 12, 97, 1_024, 30_030] {
            let mut walk = Walk::new(count, &mut Stream::new(3, 0, Purpose::Order, 0));
            let mut all: Vec<u64> = std::iter::from_fn(|| walk.find(|_| true)).collect();
            assert_eq!(walk.find(|_| true), None);
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
