//! Pods in time, on nodes.
//!
//! A pod is on one node, and on one GPU if it uses a part of one. The order is the policy's, the place the engine's
//! [packing](Fragments); where a policy preempts, pods of a lower priority leave the node on which the fewest have to.

use trainyard_coordinator_core::schedule::Learned;
use trainyard_coordinator_core::schedule::pack::{Fragments, Packer, Room, Spot};

use super::openb::{Host, Pod};
use super::policy::{self, Known, Policy};
use super::report::Report;
use super::{Job, Options};

struct Live<'a> {
    pod: &'a Pod,
    left_ms: i64,
    done_ms: i64,
    since_ms: i64,
    priority: i32,
    /// Where it runs, if it does.
    spot: Option<Spot>,
}

struct Fleet<'a> {
    pods: &'a [Pod],
    hosts: &'a [Host],
    options: Options,
    packer: Packer<Fragments>,
    live: Vec<Live<'a>>,
    learned: Learned,
    report: Report,
    next: usize,
    now_ms: i64,
    busy_milli: i64,
}

/// Replays pods on nodes; of the options, the GPUs are not looked at, and `easy` is as `skip`.
#[must_use]
pub fn fleet(pods: &[Pod], hosts: &[Host], options: Options) -> Report {
    let rooms: Vec<Room> = hosts.iter().map(|host| host.room.clone()).collect();
    let gpus = rooms.iter().map(Room::milli).sum::<i64>() as f64 / 1_000.0;
    let rule = Fragments::new(&rooms);
    let mut fleet = Fleet {
        pods,
        hosts,
        options,
        packer: Packer::new(rooms, rule),
        live: Vec::new(),
        learned: Learned::default(),
        report: Report::new(options.policy, gpus),
        next: 0,
        now_ms: pods.first().map_or(0, |pod| pod.job.submit_ms),
        busy_milli: 0,
    };
    while fleet.step() {}
    fleet.report.finish()
}

impl Fleet<'_> {
    /// The next moment at which something happens; whether there is one.
    fn step(&mut self) -> bool {
        let waits = self.live.iter().any(|live| live.spot.is_none());
        let arrival = self.pods.get(self.next).map(|pod| pod.job.submit_ms);
        let end = self.live.iter().filter(|live| live.spot.is_some()).map(|live| live.since_ms + live.left_ms).min();
        let Some(next) = arrival.into_iter().chain(end).min() else { return false };
        let look = (waits && self.options.policy.drifts()).then_some(self.now_ms + self.options.quantum_ms);
        let next = look.map_or(next, |look| look.min(next));
        self.report.pass(next - self.now_ms, self.busy_milli as f64 / 1_000.0, waits);
        self.now_ms = next;
        self.end();
        self.arrive();
        if self.live.iter().any(|live| live.spot.is_none()) {
            self.rank();
            self.decide();
        }
        true
    }

    fn end(&mut self) {
        let now = self.now_ms;
        let mut at = 0;
        while at < self.live.len() {
            let live = &self.live[at];
            let Some(spot) = live.spot.as_ref().filter(|_| live.since_ms + live.left_ms <= now) else {
                at += 1;
                continue;
            };
            self.packer.shift(&live.pod.ask, spot, -1);
            self.busy_milli -= live.pod.ask.milli();
            self.learned.finished(policy::group(&live.pod.job), live.pod.job.run_ms);
            self.report.end(now - live.pod.job.submit_ms);
            self.live.remove(at);
        }
    }

    fn arrive(&mut self) {
        while let Some(pod) = self.pods.get(self.next).filter(|pod| pod.job.submit_ms <= self.now_ms) {
            self.next += 1;
            let ever = self.hosts.iter().any(|host| pod.may(host) && host.room.fits(&pod.ask));
            if !pod.started || !ever {
                self.report.refused += 1;
                continue;
            }
            self.packer.came(&pod.ask);
            let left_ms = pod.job.run_ms;
            self.live.push(Live { pod, left_ms, done_ms: 0, since_ms: 0, priority: 0, spot: None });
        }
    }

    fn rank(&mut self) {
        let now = self.now_ms;
        let ran = |live: &Live<'_>| if live.spot.is_some() { now - live.since_ms } else { 0 };
        if self.options.policy == Policy::Ours {
            self.learned.going(self.live.iter().map(|live| (policy::group(&live.pod.job), live.done_ms + ran(live))));
        }
        for live in &mut self.live {
            let job: &Job = &live.pod.job;
            let ran = ran(live);
            let known =
                Known { job, done_ms: live.done_ms + ran, left_ms: live.left_ms - ran, running: live.spot.is_some() };
            live.priority = self.options.policy.priority(&known, &mut self.learned);
        }
    }

    fn decide(&mut self) {
        self.report.decisions += 1;
        let mut order: Vec<usize> = (0..self.live.len()).filter(|at| self.live[*at].spot.is_none()).collect();
        // Within a priority as they came: a stable sort.
        order.sort_by_key(|at| std::cmp::Reverse(self.live[*at].priority));
        for at in order {
            let pod = self.live[at].pod;
            let spot = self.packer.place(&pod.ask, |node| pod.may(&self.hosts[node])).or_else(|| self.make_room(at));
            let Some(spot) = spot else {
                if self.options.policy == Policy::Fifo {
                    return;
                }
                continue;
            };
            self.busy_milli += pod.ask.milli();
            self.live[at].since_ms = self.now_ms;
            self.live[at].spot = Some(spot);
        }
    }

    /// Preempts for a pod, on one node, if the policy does; where the pod is then.
    fn make_room(&mut self, at: usize) -> Option<Spot> {
        if !self.options.policy.preempts() {
            return None;
        }
        let (pod, priority) = (self.live[at].pod, self.live[at].priority);
        let mut on: Vec<Vec<usize>> = vec![Vec::new(); self.hosts.len()];
        for (other, live) in self.live.iter().enumerate() {
            // Who started in this very decision stays.
            if let Some(spot) = live.spot.as_ref().filter(|_| live.priority < priority && live.since_ms < self.now_ms) {
                on[spot.node].push(other);
            }
        }
        let there = (0..).zip(on).filter(|(node, on)| !on.is_empty() && pod.may(&self.hosts[*node]));
        let ways = there.filter_map(|(node, on)| self.victims(at, node, on));
        let (_, node, victims) = ways.min()?;
        for victim in victims {
            let live = &mut self.live[victim];
            let Some(spot) = live.spot.take() else { continue };
            self.packer.shift(&live.pod.ask, &spot, -1);
            let ran = self.now_ms - live.since_ms;
            live.done_ms += ran;
            live.left_ms += self.options.preemption_cost_ms - ran;
            self.busy_milli -= live.pod.ask.milli();
            self.report.preemptions += 1;
        }
        self.packer.place(&pod.ask, |other| other == node)
    }

    /// Whom to stop on a node so that a pod fits: the highest priority among them and how many they are, the node, and
    /// who.
    fn victims(&self, at: usize, node: usize, mut on: Vec<usize>) -> Option<((i32, usize), usize, Vec<usize>)> {
        let ask = &self.live[at].pod.ask;
        let mut room = self.packer.rooms()[node].clone();
        on.sort_by_key(|other| (self.live[*other].priority, *other));
        let mut victims = Vec::new();
        for other in on {
            let live = &self.live[other];
            room.shift(&live.pod.ask, live.spot.as_ref().map_or(&[], |spot| &spot.devices), -1);
            victims.push(other);
            if room.fits(ask) {
                return Some(((live.priority, victims.len()), node, victims));
            }
        }
        None
    }
}
