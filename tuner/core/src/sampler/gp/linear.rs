//! Cholesky factors that grow by rows.
//!
//! Each entry is a dot product whose terms are always added in the same order, so that a factor that grew row by row is, bit for bit,
//! the one that is made of the whole matrix at once. No library is used for that reason: theirs cut a matrix into blocks by its size, and
//! choose instructions by the processor, and either changes the last bits.

/// How many sums a dot product has, which the processor adds up side by side.
const LANES: usize = 4;

/// The dot products of one vector with some others, over its length. What each one comes to does not depend on the others.
pub(super) fn dots<const N: usize>(one: &[f64], others: [&[f64]; N]) -> [f64; N] {
    let length = one.len();
    let others = others.map(|other| &other[..length]);
    let mut sums = [[0.0; LANES]; N];
    let whole = length - length % LANES;
    let mut at = 0;
    while at < whole {
        let left = &one[at..at + LANES];
        for (sum, other) in sums.iter_mut().zip(others) {
            let right = &other[at..at + LANES];
            for lane in 0..LANES {
                sum[lane] += left[lane] * right[lane];
            }
        }
        at += LANES;
    }
    let mut products = sums.map(|[a, b, c, d]| (a + b) + (c + d));
    for at in whole..length {
        for (product, other) in products.iter_mut().zip(others) {
            *product += one[at] * other[at];
        }
    }
    products
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    let [product] = dots(one, [other]);
    product
}

/// A lower triangular matrix L, of which L Lᵀ is a covariance.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Factor {
    /// Row by row, each up to its diagonal.
    entries: Vec<f64>,
    size: usize,
}

/// A row that is, within rounding, a combination of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Singular;

impl Factor {
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn row(&self, at: usize) -> &[f64] {
        let start = at * (at + 1) / 2;
        &self.entries[start..=start + at]
    }

    fn diagonal(&self, at: usize) -> f64 {
        self.entries[at * (at + 1) / 2 + at]
    }

    /// Adds a row: its covariance with each row there is, then its own. A singular one changes nothing.
    pub(super) fn push(&mut self, mut row: Vec<f64>) -> Result<(), Singular> {
        for at in 0..self.size {
            let known = self.row(at);
            row[at] = (row[at] - dot(&row[..at], &known[..at])) / known[at];
        }
        self.finish(row)
    }

    /// The last entry of a row whose others are done.
    fn finish(&mut self, mut row: Vec<f64>) -> Result<(), Singular> {
        let last = self.size;
        let own = row[last];
        let left = own - dot(&row[..last], &row[..last]);
        // What is left of the own variance is then rounding alone.
        if !(left.is_finite() && left > own * 1e-14) {
            return Err(Singular);
        }
        row[last] = left.sqrt();
        self.entries.extend_from_slice(&row[..=last]);
        self.size += 1;
        Ok(())
    }

    /// Adds four rows, as [`push`](Self::push) of each would: what they have in common is read once.
    fn push_four(&mut self, mut rows: [Vec<f64>; 4]) -> Result<(), Singular> {
        for at in 0..self.size {
            let known = self.row(at);
            let products = dots(&known[..at], [&rows[0], &rows[1], &rows[2], &rows[3]]);
            for (row, product) in rows.iter_mut().zip(products) {
                row[at] = (row[at] - product) / known[at];
            }
        }
        let common = self.size;
        for mut row in rows {
            for at in common..self.size {
                let known = self.row(at);
                row[at] = (row[at] - dot(&row[..at], &known[..at])) / known[at];
            }
            self.finish(row)?;
        }
        Ok(())
    }

    /// Adds rows, each given by its position as in [`push`](Self::push). After an error some of them have been added.
    pub(super) fn extend(&mut self, rows: usize, row: &dyn Fn(usize) -> Vec<f64>) -> Result<(), Singular> {
        let end = self.size + rows;
        while self.size + 4 <= end {
            let at = self.size;
            self.push_four([row(at), row(at + 1), row(at + 2), row(at + 3)])?;
        }
        while self.size < end {
            self.push(row(self.size))?;
        }
        Ok(())
    }

    /// Solves L x = b, for some b at once.
    pub(super) fn forward<const N: usize>(&self, mut columns: [&mut [f64]; N]) {
        for at in 0..self.size {
            let row = self.row(at);
            let products = dots(&row[..at], columns.each_ref().map(|column| &column[..at]));
            for (column, product) in columns.iter_mut().zip(products) {
                column[at] = (column[at] - product) / row[at];
            }
        }
    }

    /// Solves Lᵀ x = b.
    pub(super) fn backward(&self, column: &mut [f64]) {
        for at in (0..self.size).rev() {
            let row = self.row(at);
            let value = column[at] / row[at];
            column[at] = value;
            column[..at].iter_mut().zip(row).for_each(|(left, entry)| *left -= value * entry);
        }
    }

    /// Solves L Lᵀ x = b.
    pub(super) fn solve(&self, column: &mut [f64]) {
        self.forward([column]);
        self.backward(column);
    }

    /// Half the logarithm of the determinant of L Lᵀ.
    pub(super) fn half_log_determinant(&self) -> f64 {
        (0..self.size).map(|at| self.diagonal(at).ln()).sum()
    }

    /// The inverse of L Lᵀ, row by row, each up to its diagonal.
    pub(super) fn inverse(&self) -> Vec<f64> {
        let size = self.size;
        // The columns of the inverse of L, each with zeros before its diagonal, padded to fours.
        let padded = size.next_multiple_of(4);
        let mut columns = vec![0.0; padded * size];
        for at in 0..size {
            let row = self.row(at);
            for four in (0..=at).step_by(4) {
                let column = |lane: usize| &columns[(four + lane) * size + four..(four + lane) * size + at];
                let products = dots(&row[four..at], [column(0), column(1), column(2), column(3)]);
                for (lane, product) in products.into_iter().enumerate().take_while(|(lane, _)| four + lane < at) {
                    columns[(four + lane) * size + at] = -product / row[at];
                }
            }
            columns[at * size + at] = 1.0 / row[at];
        }
        let mut inverse = Vec::with_capacity(size * (size + 1) / 2);
        for at in 0..size {
            let own = &columns[at * size + at..(at + 1) * size];
            for four in (0..=at).step_by(4) {
                let column = |lane: usize| &columns[(four + lane) * size + at..(four + lane + 1) * size];
                let products = dots(own, [column(0), column(1), column(2), column(3)]);
                inverse.extend(products.into_iter().take(at + 1 - four));
            }
        }
        inverse
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Purpose, Stream};

    /// A covariance of full rank: that of random vectors, and some more on the diagonal.
    fn covariance(size: usize, seed: u64) -> Vec<Vec<f64>> {
        let mut stream = Stream::new(seed, 0, Purpose::Prior, 0);
        let vectors: Vec<Vec<f64>> = (0..size).map(|_| (0..size).map(|_| stream.normal()).collect()).collect();
        let entry = |i: usize, j: usize| dot(&vectors[i], &vectors[j]) + if i == j { 0.5 } else { 0.0 };
        (0..size).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect()
    }

    fn factor(rows: &[Vec<f64>]) -> Factor {
        let mut factor = Factor::default();
        factor.extend(rows.len(), &|at| rows[at].clone()).expect("of full rank");
        factor
    }

    #[test]
    fn the_factor_solves_and_inverts() {
        for size in [0, 1, 2, 3, 4, 5, 8, 13, 37] {
            let rows = covariance(size, size as u64);
            let factor = factor(&rows);
            let whole = |i: usize, j: usize| rows[i.max(j)][i.min(j)];
            let scale = rows.iter().map(|row| row[row.len() - 1]).fold(1.0, f64::max);
            for (i, row) in rows.iter().enumerate() {
                for (j, wanted) in row.iter().enumerate() {
                    let product = dot(&factor.row(i)[..=j], factor.row(j));
                    assert!((product - wanted).abs() < 1e-13 * scale, "{size}: {i} {j}");
                }
            }
            let wanted: Vec<f64> = (0..size).map(|at| at as f64 - 3.0).collect();
            let mut column: Vec<f64> = (0..size).map(|i| (0..size).map(|j| whole(i, j) * wanted[j]).sum()).collect();
            factor.solve(&mut column);
            assert!(column.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-9), "{column:?}");
            let inverse = factor.inverse();
            let inverted = |i: usize, j: usize| inverse[i.max(j) * (i.max(j) + 1) / 2 + i.min(j)];
            for i in 0..size {
                for j in 0..size {
                    let product: f64 = (0..size).map(|k| whole(i, k) * inverted(k, j)).sum();
                    assert!((product - f64::from(i == j)).abs() < 1e-9, "{size}: {i} {j} {product}");
                }
            }
        }
        // det [[4, 2], [2, 10]] = 36.
        let known = factor(&[vec![4.0], vec![2.0, 10.0]]);
        assert!((known.half_log_determinant() - 6.0_f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn a_factor_that_grew_has_the_bits_of_one_made_at_once() {
        let rows = covariance(41, 7);
        let whole = factor(&rows);
        for first in [0, 1, 3, 6, 17, 40] {
            let mut grown = factor(&rows[..first]);
            while grown.size() < rows.len() {
                let more = (rows.len() - grown.size()).min(1 + grown.size() % 6);
                grown.extend(more, &|at| rows[at].clone()).expect("of full rank");
            }
            assert_eq!(grown, whole);
        }
        let mut columns: [Vec<f64>; 3] = [1.0, 2.0, 3.0].map(|value| vec![value; 41]);
        let mut one = columns[1].clone();
        let [a, b, c] = &mut columns;
        whole.forward([a, b, c]);
        whole.forward([&mut one]);
        assert_eq!(one, columns[1], "whatever is solved beside it");
    }

    #[test]
    fn a_singular_row_is_refused_and_changes_nothing() {
        let mut factor = factor(&[vec![4.0], vec![2.0, 10.0]]);
        let before = factor.clone();
        for row in [vec![2.0, 10.0, 10.0], vec![0.0, 0.0, 0.0], vec![0.0, 0.0, -1.0], vec![f64::NAN, 0.0, 1.0]] {
            assert_eq!(factor.push(row), Err(Singular));
            assert_eq!(factor, before);
        }
        assert_eq!(factor.push(vec![f64::MAX, f64::MAX, 1.0]), Err(Singular));
    }
}
