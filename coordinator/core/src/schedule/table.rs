//! A table from hashes to numbers with a fixed order of everything: the standard library's differs from run to run.

/// Open addressing; at most half full.
#[derive(Debug)]
pub(super) struct Table {
    cells: Vec<Option<(u64, u32)>>,
}

impl Table {
    pub(super) fn for_up_to(entries: usize) -> Self {
        Self { cells: vec![None; (entries * 2 + 2).next_power_of_two()] }
    }

    /// The number that was entered for a key with `same`; else what `make` gives is entered.
    pub(super) fn get_or_enter(&mut self, key: u64, same: impl Fn(u32) -> bool, make: impl FnOnce() -> u32) -> u32 {
        let mask = self.cells.len() - 1;
        let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut at = usize::try_from(spread).unwrap_or(0) & mask;
        loop {
            match self.cells[at] {
                Some((known, value)) if known == key && same(value) => return value,
                Some(_) => at = (at + 1) & mask,
                None => {
                    let value = make();
                    self.cells[at] = Some((key, value));
                    return value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut table = Table::for_up_to(3);
        assert_eq!(table.get_or_enter(7, |_| true, || 1), 1);
        assert_eq!(table.get_or_enter(7, |value| value == 2, || 2), 2);
        assert_eq!(table.get_or_enter(7, |value| value == 1, || 9), 1);
        assert_eq!(table.get_or_enter(7, |value| value == 2, || 9), 2);
    }
}
