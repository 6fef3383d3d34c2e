//! A random forest over the points of a space: regression trees, of which each has seen a sample of the trials.
//!
//! A tree cuts the space into boxes with a value each, so that its mean over any of the parameters is a sum over boxes and needs no
//! sampling. A coordinate that is not used has no influence; each tree sees another random one in its place, so that it learns that.

use crate::space::{Dimension, drawn};
use crate::stream::{Purpose, Stream};

/// So many trees.
const TREES: u64 = 64;
/// Each tree sees so many trials at most: the time that it takes grows a little faster than their number.
const SEEN: usize = 512;
/// A box with fewer trials is not cut.
const CUT: usize = 4;
/// No box is cut more often, so that nothing is nested deeper than this.
const DEEPEST: u32 = 40;
/// Where there are more parameters, a cut is looked for among a third of them, but no fewer than these.
const COLUMNS: usize = 24;

/// Where a tree goes on to the left.
#[derive(Clone, Debug)]
enum Test {
    Below(f64),
    Among(Vec<bool>),
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(f64),
    Cut { column: usize, test: Test, left: usize, right: usize },
}

/// The part of a dimension that a box covers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Side {
    Range(f64, f64),
    Among(Vec<bool>),
}

impl Side {
    fn whole(dimension: Dimension) -> Self {
        match dimension {
            Dimension::Continuous | Dimension::Cells(_) => Self::Range(0.0, 1.0),
            Dimension::Categories(count) => Self::Among(vec![true; count as usize]),
        }
    }

    /// Which part of the dimension it is.
    pub(super) fn share(&self) -> f64 {
        match self {
            Self::Range(low, high) => high - low,
            Self::Among(among) => among.iter().filter(|is_in| **is_in).count() as f64 / among.len() as f64,
        }
    }

    /// Which part of a cell it covers, where the dimension has so many of them: one for each category.
    pub(super) fn part(&self, cell: usize, cells: usize) -> f64 {
        match self {
            Self::Range(low, high) => {
                let (from, to) = (cell as f64 / cells as f64, (cell + 1) as f64 / cells as f64);
                ((high.min(to) - low.max(from)) * cells as f64).clamp(0.0, 1.0)
            }
            Self::Among(among) => f64::from(u8::from(among.get(cell) == Some(&true))),
        }
    }
}

#[derive(Clone, Debug)]
struct Tree(Vec<Node>);

impl Tree {
    fn predict(&self, point: &[f64]) -> f64 {
        let mut at = 0;
        loop {
            match &self.0[at] {
                Node::Leaf(value) => return *value,
                Node::Cut { column, test, left, right } => {
                    at = if goes_left(test, point[*column]) { *left } else { *right };
                }
            }
        }
    }
}

fn goes_left(test: &Test, coordinate: f64) -> bool {
    match test {
        Test::Below(edge) => coordinate < *edge,
        Test::Among(among) => among.get(coordinate as usize) == Some(&true),
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Forest {
    pub(super) dimensions: Vec<Dimension>,
    trees: Vec<Tree>,
}

impl Forest {
    /// A forest of points with their values, and what part of the variance of the values is explained by trees that have not seen them.
    /// Coordinates that are not used are NaN.
    pub(super) fn grow(dimensions: Vec<Dimension>, points: &[&[f64]], values: &[f64], seed: u64) -> (Self, f64) {
        let count = points.len() as u64;
        let mut trees = Vec::new();
        let mut unseen = vec![(0.0, 0.0); points.len()];
        for tree in 0..TREES {
            let mut stream = Stream::new(seed, tree, Purpose::Analysis, 0);
            let filled: Vec<Vec<f64>> = points.iter().map(|point| fill(&dimensions, point, &mut stream)).collect();
            let mut is_seen = vec![false; points.len()];
            let sample: Vec<usize> = (0..points.len().min(SEEN)).map(|_| stream.below(count) as usize).collect();
            sample.iter().for_each(|at| is_seen[*at] = true);
            let grown = Grower { dimensions: &dimensions, points: &filled, values, stream: &mut stream }.grow(sample);
            let tree = Tree(grown);
            for (at, (sum, times)) in unseen.iter_mut().enumerate().filter(|(at, _)| !is_seen[*at]) {
                *sum += tree.predict(&filled[at]);
                *times += 1.0;
            }
            trees.push(tree);
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let (mut missed, mut all) = (0.0, 0.0);
        for (value, (sum, times)) in values.iter().zip(unseen).filter(|(_, (_, times))| *times > 0.0) {
            missed += (value - sum / times).powi(2);
            all += (value - mean).powi(2);
        }
        (Self { dimensions, trees }, if all > 0.0 { 1.0 - missed / all } else { 0.0 })
    }

    /// What it expects of a point all of whose coordinates are there.
    pub(super) fn predict(&self, point: &[f64]) -> f64 {
        self.trees.iter().map(|tree| tree.predict(point)).sum::<f64>() / self.trees.len() as f64
    }

    /// Shows all boxes of all trees: the value of each, in parts of the forest's, and its sides.
    pub(super) fn boxes(&self, mut show: impl FnMut(f64, &[Side])) {
        let part = 1.0 / self.trees.len() as f64;
        for tree in &self.trees {
            let mut sides: Vec<Side> = self.dimensions.iter().map(|dimension| Side::whole(*dimension)).collect();
            walk(tree, 0, &mut sides, &mut |value, sides| show(value * part, sides));
        }
    }
}

/// Goes through the boxes below a node. A tree is at most [`DEEPEST`] deep.
fn walk(tree: &Tree, at: usize, sides: &mut Vec<Side>, show: &mut impl FnMut(f64, &[Side])) {
    match &tree.0[at] {
        Node::Leaf(value) => show(*value, sides),
        Node::Cut { column, test, left, right } => {
            let whole = sides[*column].clone();
            let (one, other) = match (&whole, test) {
                (Side::Range(low, high), Test::Below(edge)) => (Side::Range(*low, *edge), Side::Range(*edge, *high)),
                (Side::Among(all), Test::Among(left)) => {
                    let both = |wanted: bool| {
                        Side::Among(all.iter().zip(left).map(|(all, left)| *all && *left == wanted).collect())
                    };
                    (both(true), both(false))
                }
                // A dimension has one kind of cuts.
                (Side::Range(..), Test::Among(_)) | (Side::Among(_), Test::Below(_)) => (whole.clone(), whole.clone()),
            };
            for (side, next) in [(one, *left), (other, *right)] {
                sides[*column] = side;
                walk(tree, next, sides, show);
            }
            sides[*column] = whole;
        }
    }
}

/// The point with random coordinates where it has none.
fn fill(dimensions: &[Dimension], point: &[f64], stream: &mut Stream) -> Vec<f64> {
    let pairs = point.iter().zip(dimensions);
    pairs
        .map(|(coordinate, dimension)| if coordinate.is_nan() { drawn(*dimension, stream) } else { *coordinate })
        .collect()
}

struct Grower<'data> {
    dimensions: &'data [Dimension],
    points: &'data [Vec<f64>],
    values: &'data [f64],
    stream: &'data mut Stream,
}

/// A cut, and how far the sum of squares goes down with it.
struct Best {
    gain: f64,
    column: usize,
    test: Test,
}

impl Grower<'_> {
    fn grow(mut self, sample: Vec<usize>) -> Vec<Node> {
        let mut nodes = vec![Node::Leaf(0.0)];
        let mut open = vec![(0, sample, 0_u32)];
        while let Some((at, members, depth)) = open.pop() {
            let mean = members.iter().map(|member| self.values[*member]).sum::<f64>() / members.len() as f64;
            let is_cut = members.len() >= CUT && depth < DEEPEST;
            let Some(best) = is_cut.then(|| self.best(&members)).flatten() else {
                nodes[at] = Node::Leaf(mean);
                continue;
            };
            let goes = |member: &usize| goes_left(&best.test, self.points[*member][best.column]);
            let (one, other): (Vec<usize>, Vec<usize>) = members.into_iter().partition(goes);
            let (left, right) = (nodes.len(), nodes.len() + 1);
            nodes.extend([Node::Leaf(mean), Node::Leaf(mean)]);
            open.extend([(left, one, depth + 1), (right, other, depth + 1)]);
            nodes[at] = Node::Cut { column: best.column, test: best.test, left, right };
        }
        nodes
    }

    /// The cut after which the values of both sides differ least from their means.
    fn best(&mut self, members: &[usize]) -> Option<Best> {
        let mut columns: Vec<usize> = (0..self.dimensions.len()).collect();
        let looked_at = columns.len().min(COLUMNS.max(columns.len() / 3));
        for at in 0..looked_at {
            let other = at + self.stream.below((columns.len() - at) as u64) as usize;
            columns.swap(at, other);
        }
        let mut best: Option<Best> = None;
        for column in columns.into_iter().take(looked_at) {
            let found = match self.dimensions[column] {
                Dimension::Continuous | Dimension::Cells(_) => self.between(column, members),
                Dimension::Categories(count) => self.among(column, count as usize, members),
            };
            if let Some(found) = found
                && best.as_ref().is_none_or(|best| found.gain > best.gain)
            {
                best = Some(found);
            }
        }
        best
    }

    /// A cut between two neighbouring coordinates, anywhere between them: trees differ, and their mean is smooth.
    fn between(&mut self, column: usize, members: &[usize]) -> Option<Best> {
        let mut pairs: Vec<(f64, f64)> =
            members.iter().map(|member| (self.points[*member][column], self.values[*member])).collect();
        pairs.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
        let (gain, at) = split(&pairs)?;
        let (low, high) = (pairs[at - 1].0, pairs[at].0);
        let edge = match self.dimensions[column] {
            Dimension::Cells(count) => {
                let count = count as f64;
                // Cells are not cut, only told from each other.
                let (first, last) = ((low * count).floor() + 1.0, (high * count).floor());
                (first + self.stream.below((last - first).max(0.0) as u64 + 1) as f64) / count
            }
            Dimension::Continuous | Dimension::Categories(_) => low + (high - low) * self.stream.uniform(),
        };
        // An edge at the lower one would leave it on the wrong side.
        Some(Best { gain, column, test: Test::Below(if edge > low { edge.min(high) } else { high }) })
    }

    /// A cut between categories in the order of their means, which is the best of all (Breiman et al. 1984). Those of which there is no
    /// trial go to either side.
    fn among(&mut self, column: usize, count: usize, members: &[usize]) -> Option<Best> {
        let mut sums = vec![(0.0, 0.0); count];
        for member in members {
            let (sum, times) = &mut sums[(self.points[*member][column] as usize).min(count - 1)];
            *sum += self.values[*member];
            *times += 1.0;
        }
        let mut order: Vec<usize> = (0..count).filter(|category| sums[*category].1 > 0.0).collect();
        let mean = |category: &usize| sums[*category].0 / sums[*category].1;
        order.sort_by(|one, other| mean(one).total_cmp(&mean(other)).then(one.cmp(other)));
        let rank = |category: usize| order.iter().position(|other| *other == category).unwrap_or(0) as f64;
        let mut pairs: Vec<(f64, f64)> = members
            .iter()
            .map(|member| (rank((self.points[*member][column] as usize).min(count - 1)), self.values[*member]))
            .collect();
        pairs.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (gain, at) = split(&pairs)?;
        let last = pairs[at - 1].0 as usize;
        let mut among: Vec<bool> = (0..count).map(|_| self.stream.below(2) == 0).collect();
        order.iter().enumerate().for_each(|(rank, category)| among[*category] = rank <= last);
        Some(Best { gain, column, test: Test::Among(among) })
    }
}

/// Where sorted pairs are best cut in two, by their second numbers; the first ones differ there.
fn split(pairs: &[(f64, f64)]) -> Option<(f64, usize)> {
    let all: f64 = pairs.iter().map(|(_, value)| value).sum();
    let count = pairs.len() as f64;
    let (mut sum, mut best) = (0.0, None);
    for at in 1..pairs.len() {
        sum += pairs[at - 1].1;
        if pairs[at - 1].0 >= pairs[at].0 {
            continue;
        }
        let left = at as f64;
        let gain = sum * sum / left + (all - sum) * (all - sum) / (count - left) - all * all / count;
        if gain > 1e-12 * all.abs().max(1e-300) && best.is_none_or(|(least, _)| gain > least) {
            best = Some((gain, at));
        }
    }
    best
}
