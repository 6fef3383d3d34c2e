//! A table from hashes to numbers with a fixed order of everything: the standard library's differs from run to run.

use std::hash::{Hash, Hasher};

/// Open addressing; at most half full.
#[derive(Debug)]
pub(super) struct Table {
    /// A hash, and one more than the number; zero where nothing was entered.
    cells: Vec<(u64, u32)>,
}

impl Table {
    pub(super) fn for_up_to(entries: usize) -> Self {
        Self { cells: vec![(0, 0); (entries * 2 + 2).next_power_of_two()] }
    }

    /// The number that was entered for a key with `same`; else what `make` gives is entered.
    pub(super) fn get_or_enter(&mut self, key: u64, same: impl Fn(u32) -> bool, make: impl FnOnce() -> u32) -> u32 {
        let mask = self.cells.len() - 1;
        let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut at = usize::try_from(spread).unwrap_or(0) & mask;
        loop {
            match self.cells[at] {
                (_, 0) => {
                    let value = make();
                    self.cells[at] = (key, value + 1);
                    return value;
                }
                (known, value) if known == key && same(value - 1) => return value - 1,
                _ => at = (at + 1) & mask,
            }
        }
    }
}

/// A quick hash with a fixed key.
pub(super) fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut mix = Mix::default();
    value.hash(&mut mix);
    mix.finish()
}

#[derive(Default)]
struct Mix(u64);

impl Mix {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(word.try_into().map_or(0, u64::from_le_bytes));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.mix(word ^ (rest.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, hash};

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut table = Table::for_up_to(3);
        assert_eq!(table.get_or_enter(7, |_| true, || 1), 1);
        assert_eq!(table.get_or_enter(7, |value| value == 2, || 2), 2);
        assert_eq!(table.get_or_enter(7, |value| value == 1, || 9), 1);
        assert_eq!(table.get_or_enter(7, |value| value == 2, || 9), 2);
    }

    #[test]
    fn what_differs_has_another_hash() {
        let texts = ["", "a", "b", "ab", "a\0", "aaaaaaaa", "aaaaaaaaa", "aaaaaaaab", "baaaaaaaa"];
        let mut hashes: Vec<u64> = texts.iter().map(|text| hash(*text)).collect();
        hashes.extend([hash(&1_u32), hash(&2_u32), hash(&-1_i64), hash(&[1_u16, 2]), hash(&[2_u16, 1])]);
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }
}
