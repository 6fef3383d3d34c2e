//! Packing pods onto nodes whose accelerators are shared in parts.
//!
//! A pod may ask for whole accelerators, or for a part of one, which then has to come from a single device. Which pod
//! goes where is chosen by a [`Rule`]; [`Fragments`] is the engine's. Nothing here is part of
//! [`decide`](super::decide): Kubernetes, and the workers, know whole devices only, and a view does not say which
//! device a pod is on.

use std::collections::BTreeMap;

use super::view::Amounts;

/// Parts of a device.
pub const WHOLE_MILLI: u32 = 1_000;
/// Kinds of pods that are looked at, at most: the commonest.
const KINDS: usize = 16;
/// Kinds that are tried on what another kind leaves: the commonest of all.
const SECOND: usize = 2;

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// Accelerators that it uses.
    pub devices: u32,
    /// The part of each that it uses, in thousandths.
    pub share_milli: u32,
    /// Everything else, by position.
    pub amounts: Amounts,
}

/// What is free on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Room {
    /// Of each accelerator, in thousandths.
    pub devices: Vec<u32>,
    /// Of everything else, by position.
    pub amounts: Amounts,
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Position of the node.
    pub node: usize,
    /// Positions of its accelerators.
    pub devices: Vec<usize>,
}

/// Which of the places where a pod fits is the best: where the waste grows least; then where it is the tightest.
pub trait Rule {
    /// A pod came that asks for this. Whether the waste of rooms is another from now on.
    fn came(&mut self, _: &Ask) -> bool {
        false
    }

    /// How much of what is free is of no use.
    fn waste(&self, _: &Room) -> i64 {
        0
    }

    /// How bad it is that the waste grows by so much, where that is not told apart as finely as it is known.
    fn cost(&self, growth: i64) -> i64 {
        growth
    }

    /// How much is free, whatever it is good for.
    fn slack(&self, _: &Room) -> i64 {
        0
    }
}

impl Ask {
    /// Thousandths of accelerators in all.
    #[must_use]
    pub fn milli(&self) -> i64 {
        i64::from(self.devices) * i64::from(self.share_milli)
    }
}

impl Room {
    /// Thousandths of accelerators that are free.
    #[must_use]
    pub fn milli(&self) -> i64 {
        self.devices.iter().map(|free| i64::from(*free)).sum()
    }

    /// Whether a pod fits.
    #[must_use]
    pub fn fits(&self, ask: &Ask) -> bool {
        self.pods_by_amounts(ask) > 0 && self.fitting(ask).count() >= ask.devices as usize
    }

    /// Takes a pod in (`sign` 1), or gives back what it took (-1).
    pub fn shift(&mut self, ask: &Ask, devices: &[usize], sign: i64) {
        for (free, amount) in self.amounts.iter_mut().zip(&ask.amounts) {
            *free -= amount * sign;
        }
        for device in devices {
            let free = &mut self.devices[*device];
            *free = if sign > 0 { free.saturating_sub(ask.share_milli) } else { *free + ask.share_milli };
        }
    }

    fn pods_by_amounts(&self, ask: &Ask) -> i64 {
        let asked = self.amounts.iter().zip(&ask.amounts).filter(|(_, amount)| **amount > 0);
        asked.map(|(free, amount)| free.max(&0) / amount).min().unwrap_or(i64::MAX)
    }

    /// The devices that have enough free.
    fn fitting(&self, ask: &Ask) -> impl Iterator<Item = usize> {
        (0..self.devices.len()).filter(|device| self.devices[*device] >= ask.share_milli)
    }

    /// Sets of devices that differ in what would be left.
    fn choices(&self, ask: &Ask) -> Vec<Vec<usize>> {
        if ask.devices == 1 {
            let mut seen: Vec<u32> = Vec::new();
            let fresh = |device: &usize| {
                let known = seen.contains(&self.devices[*device]);
                seen.push(self.devices[*device]);
                !known
            };
            return self.fitting(ask).filter(fresh).map(|device| vec![device]).collect();
        }
        vec![self.tightest(ask)]
    }

    fn tightest(&self, ask: &Ask) -> Vec<usize> {
        let mut devices: Vec<usize> = self.fitting(ask).collect();
        devices.sort_by_key(|device| self.devices[*device]);
        devices.truncate(ask.devices as usize);
        devices
    }

    /// Takes as many pods in as fit, each on the tightest devices.
    fn fill(&mut self, ask: &Ask) {
        if ask.milli() == 0 {
            return;
        }
        let most = self.pods_by_amounts(ask);
        let mut pods = 0;
        self.devices.sort_unstable();
        if ask.devices == 1 {
            for free in &mut self.devices {
                let here = i64::from(*free / ask.share_milli).min(most - pods);
                *free -= u32::try_from(here).unwrap_or(0) * ask.share_milli;
                pods += here;
            }
        } else {
            while pods < most && self.fitting(ask).count() >= ask.devices as usize {
                let fitting = self.devices.iter_mut().filter(|free| **free >= ask.share_milli);
                fitting.take(ask.devices as usize).for_each(|free| *free -= ask.share_milli);
                self.devices.sort_unstable();
                pods += 1;
            }
        }
        self.amounts.iter_mut().zip(&ask.amounts).for_each(|(free, amount)| *free -= amount * pods);
    }

    /// Thousandths of accelerators that as many pods as fit would use.
    fn usable(&self, ask: &Ask) -> i64 {
        let pods = self.pods_by_amounts(ask);
        if pods == 0 || ask.milli() == 0 {
            return 0;
        }
        let slots: i64 = self.devices.iter().map(|free| i64::from(free / ask.share_milli)).sum();
        (pods.min(slots / i64::from(ask.devices))) * ask.milli()
    }
}

/// The engine's rule: what is free is wasted as far as pods of the kinds that came cannot use it.
///
/// After Weng et al., "Beware of Fragmentation" (ATC'23), with three differences. What is wasted, seen by one kind, is
/// what as many pods of that kind as fit would leave: so the other resources count by how much of them there is. What
/// they leave is looked at once more, with the commonest kinds. And nothing is known of kinds but what came so far.
#[derive(Clone, Debug)]
pub struct Fragments {
    largest: Room,
    came: BTreeMap<Ask, i64>,
    total: i64,
    /// How many had come when the kinds were chosen.
    chosen_at: i64,
    kinds: Vec<(Ask, i64)>,
}

impl Fragments {
    /// For these nodes.
    #[must_use]
    pub fn new(rooms: &[Room]) -> Self {
        Self { largest: largest(rooms), came: BTreeMap::new(), total: 0, chosen_at: 0, kinds: Vec::new() }
    }
}

impl Rule for Fragments {
    fn came(&mut self, ask: &Ask) -> bool {
        if ask.milli() == 0 {
            return false;
        }
        *self.came.entry(ask.clone()).or_default() += 1;
        self.total += 1;
        // What came since then changes little.
        if self.total <= self.chosen_at + self.chosen_at / 4 {
            return false;
        }
        self.chosen_at = self.total;
        let mut kinds: Vec<(Ask, i64)> = self.came.iter().map(|(ask, times)| (ask.clone(), *times)).collect();
        kinds.sort_by_key(|(_, times)| -times);
        kinds.truncate(KINDS);
        self.kinds = kinds;
        true
    }

    fn waste(&self, room: &Room) -> i64 {
        if room.milli() == 0 {
            return 0;
        }
        let mut rest = room.clone();
        let mut waste = |(ask, times): &(Ask, i64)| {
            rest.devices.clone_from(&room.devices);
            rest.amounts.clone_from(&room.amounts);
            rest.fill(ask);
            let left = rest.milli();
            let second = self.kinds.iter().take(SECOND);
            times * second.map(|(other, weight)| weight * (left - rest.usable(other))).sum::<i64>()
        };
        self.kinds.iter().map(&mut waste).sum()
    }

    fn slack(&self, room: &Room) -> i64 {
        slack(room, &self.largest)
    }
}

/// The most that a node has of each.
#[must_use]
pub fn largest(rooms: &[Room]) -> Room {
    let mut most = Room::default();
    for room in rooms {
        let width = most.amounts.len().max(room.amounts.len());
        most.amounts.resize(width, 0);
        most.amounts.iter_mut().zip(&room.amounts).for_each(|(most, amount)| *most = (*most).max(*amount));
        if room.milli() > most.milli() {
            most.devices.clone_from(&room.devices);
        }
    }
    most
}

/// The sum over the resources of what is free, each in millionths of the most that a node has.
#[must_use]
pub fn slack(room: &Room, largest: &Room) -> i64 {
    let part = |free: i64, most: i64| free * 1_000_000 / most.max(1);
    let amounts = room.amounts.iter().zip(&largest.amounts).map(|(free, most)| part(*free, *most));
    amounts.sum::<i64>() + part(room.milli(), largest.milli())
}

/// What is known of the best devices of a node for a kind of pod: cost, slack, what is left on the devices.
type Found = Option<((i64, i64, i64), Vec<usize>)>;

/// Nodes that are being filled.
#[derive(Clone, Debug)]
pub struct Packer<R> {
    rooms: Vec<Room>,
    rule: R,
    kinds: BTreeMap<Ask, usize>,
    /// By kind and node; none where it was not looked for since the node changed.
    found: Vec<Vec<Option<Found>>>,
    wastes: BTreeMap<Room, i64>,
}

impl<R: Rule> Packer<R> {
    /// Of nodes with this much room.
    pub const fn new(rooms: Vec<Room>, rule: R) -> Self {
        Self { rooms, rule, kinds: BTreeMap::new(), found: Vec::new(), wastes: BTreeMap::new() }
    }

    /// What is free, by node.
    #[must_use]
    pub fn rooms(&self) -> &[Room] {
        &self.rooms
    }

    /// Tells the rule of a pod that came.
    pub fn came(&mut self, ask: &Ask) {
        if self.rule.came(ask) {
            self.wastes.clear();
            self.found.iter_mut().flatten().for_each(|found| *found = None);
        }
    }

    /// Takes a pod in, on the best of the nodes that it may be on; where, if it fits on any.
    pub fn place(&mut self, ask: &Ask, may: impl Fn(usize) -> bool) -> Option<Spot> {
        let (_, spot) = self.best(ask, may)?;
        self.shift(ask, &spot, 1);
        Some(spot)
    }

    /// The best place of those where a pod may be, if it fits on any, and what its [cost](Rule::cost) is.
    pub fn best(&mut self, ask: &Ask, may: impl Fn(usize) -> bool) -> Option<(i64, Spot)> {
        let kind = self.kind(ask);
        let mut best: Option<((i64, i64, i64), usize)> = None;
        for node in (0..self.rooms.len()).filter(|node| may(*node)) {
            if self.found[kind][node].is_none() {
                self.found[kind][node] = Some(self.look(ask, node));
            }
            if let Some(Some((cost, _))) = &self.found[kind][node]
                && best.is_none_or(|(least, _)| *cost < least)
            {
                best = Some((*cost, node));
            }
        }
        let ((cost, ..), node) = best?;
        let (_, devices) = self.found[kind][node].clone().flatten()?;
        Some((cost, Spot { node, devices }))
    }

    /// Takes a pod in where it is told to go (`sign` 1), or gives back what it took (-1).
    pub fn shift(&mut self, ask: &Ask, spot: &Spot, sign: i64) {
        self.rooms[spot.node].shift(ask, &spot.devices, sign);
        self.found.iter_mut().for_each(|found| found[spot.node] = None);
    }

    fn kind(&mut self, ask: &Ask) -> usize {
        if let Some(kind) = self.kinds.get(ask) {
            return *kind;
        }
        self.kinds.insert(ask.clone(), self.found.len());
        self.found.push(vec![None; self.rooms.len()]);
        self.found.len() - 1
    }

    fn look(&mut self, ask: &Ask, node: usize) -> Found {
        let room = self.rooms[node].clone();
        if !room.fits(ask) {
            return None;
        }
        let before = self.waste(&room);
        let cost = |devices: Vec<usize>| {
            let mut after = room.clone();
            after.shift(ask, &devices, 1);
            let left = devices.iter().map(|device| i64::from(after.devices[*device])).sum();
            let growth = self.waste(&after) - before;
            ((self.rule.cost(growth), self.rule.slack(&after), left), devices)
        };
        room.choices(ask).into_iter().map(cost).min()
    }

    fn waste(&mut self, room: &Room) -> i64 {
        // Which device is which makes no difference.
        let mut known = room.clone();
        known.devices.sort_unstable();
        let rule = &self.rule;
        *self.wastes.entry(known).or_insert_with_key(|room| rule.waste(room))
    }
}

#[cfg(test)]
mod tests;
