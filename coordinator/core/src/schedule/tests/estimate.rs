//! What estimates keep to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::property::{live, seeds};
use super::world::{Dice, Flavour, GPU, START_MS, World, gang, node, queue, role, view};
use crate::schedule::quota::Tree;
use crate::schedule::{ClusterQueue, Decision, Estimate, Gang, Quota, Shape, View, Waiting, decide};

const MINUTE: i64 = 60_000;

const PLAIN: Flavour = Flavour { limits: true, preemption: false, terms: false, priorities: true, options: false };

fn limited(name: &str, gpus: i64, minutes: i64) -> Gang {
    Gang { run_limit_ms: Some(minutes * MINUTE), ..gang(name, vec![role("r", 1, 1, gpus)]) }
}

fn one_gpu(name: &str, nominal: i64) -> ClusterQueue {
    let quota = Quota { resource: u32::try_from(GPU).unwrap(), nominal, borrowing_limit: None, lending_limit: None };
    ClusterQueue { quotas: vec![quota], ..queue(name) }
}

/// Who waits, with the minutes from now: expected, and at the latest.
fn told(view: &View) -> BTreeMap<String, Option<(i64, Option<i64>)>> {
    let minutes = |at: i64| (at - START_MS) / MINUTE;
    let one = |waiting: &Waiting| {
        let estimate = waiting.estimate.map(|one| (minutes(one.expected_ms), one.latest_ms.map(minutes)));
        (view.gangs[waiting.gang as usize].name.clone(), estimate)
    };
    decide(view, START_MS).waiting.iter().map(one).collect()
}

#[test]
fn who_waits_for_quota_is_told_so_although_the_nodes_are_empty() {
    let gangs = ["a", "b", "c", "d"].map(|name| limited(name, 1, 10)).to_vec();
    let mut one = view(vec![node("n", 64, 64, &[])], gangs);
    one.queues = vec![one_gpu("main", 1)];
    let expected = [("b", 10), ("c", 20), ("d", 30)];
    let expected = expected.map(|(name, at)| (name.to_owned(), Some((at, Some(at)))));
    assert_eq!(told(&one), BTreeMap::from(expected));
}

#[test]
fn nobody_waits_for_what_another_queue_waits_for() {
    let mut gangs = vec![limited("a", 1, 10), limited("b", 1, 100), limited("c", 1, 10)];
    gangs.extend(["x", "y", "z"].map(|name| Gang { queue: 1, ..limited(name, 1, 10) }));
    let mut two = view(vec![node("n", 64, 64, &[])], gangs);
    two.queues = vec![one_gpu("main", 1), one_gpu("other", 1)];
    let told = told(&two);
    let expected = |name: &str| told[name].map(|(expected, _)| expected);
    assert_eq!(["b", "c"].map(expected), [Some(10), Some(110)]);
    assert_eq!(["y", "z"].map(expected), [Some(10), Some(20)]);
}

#[test]
fn every_resource_counts_and_nobody_waits_for_what_he_does_not_ask_for() {
    let asks = |name: &str, cpus: i64, gpus: i64, minutes: i64| Gang {
        run_limit_ms: Some(minutes * MINUTE),
        expected_ms: Some(minutes * MINUTE),
        ..gang(name, vec![role("r", 1, cpus, gpus)])
    };
    let running = [asks("0-gpus", 1, 4, 100), asks("1-cpus", 60, 0, 10)];
    let waiting = [asks("a", 1, 1, 10), asks("b", 60, 0, 10), asks("c", 60, 0, 10), asks("d", 60, 1, 10)];
    let told = told(&view(vec![node("n", 64, 4, &[])], running.into_iter().chain(waiting).collect()));
    let expected = |name: &str| told[name].map(|(expected, _)| expected);
    assert_eq!(["a", "b", "c", "d"].map(expected), [Some(100), Some(10), Some(20), Some(100)]);
}

#[test]
fn behind_somebody_without_a_limit_nothing_is_certain() {
    let gangs = vec![limited("a", 1, 10), gang("b", vec![role("r", 1, 1, 1)]), limited("c", 1, 10)];
    let mut one = view(vec![node("n", 64, 64, &[])], gangs);
    one.queues = vec![one_gpu("main", 1)];
    let told = told(&one);
    assert_eq!((told["b"], told["c"]), (Some((10, Some(10))), None));
}

/// With exact limits, and nobody who comes later.
#[test]
fn nobody_starts_after_the_latest_start_that_was_told() {
    let (mut kept, mut unpromised) = (0, 0);
    for seed in seeds(400) {
        let mut world = World::new(seed, PLAIN);
        for _ in 0..6 {
            world.submit();
        }
        let mut latest: BTreeMap<String, i64> = BTreeMap::new();
        for _ in 0..60 {
            let decision = decide(&world.view, world.now_ms);
            let name = |at: u32| world.view.gangs[at as usize].name.clone();
            for admission in &decision.admissions {
                if let Some(at) = latest.remove(&name(admission.gang)) {
                    assert!(
                        world.now_ms <= at,
                        "seed {seed}: {} starts at {}, not by {at}",
                        name(admission.gang),
                        world.now_ms
                    );
                    kept += 1;
                }
            }
            for waiting in &decision.waiting {
                let Some(Estimate { expected_ms, latest_ms: Some(at) }) = waiting.estimate else { continue };
                assert!(expected_ms <= at, "seed {seed}: {}", name(waiting.gang));
                unpromised += u32::from(waiting.reservation.is_none());
                let first = latest.entry(name(waiting.gang)).or_insert(at);
                *first = at.min(*first);
            }
            assert!(latest.values().all(|at| *at > world.now_ms), "seed {seed}: {latest:?} at {}", world.now_ms);
            world.view = decision.applied(&world.view, world.now_ms);
            world.advance(decision.wake_at_ms);
        }
    }
    assert!(kept > 500 && unpromised > 500, "{kept} were seen, and {unpromised} without a promise");
}

/// What the smallest size of a gang asks for.
fn asks(shape: &Shape, resource: usize) -> i64 {
    shape.roles.iter().map(|role| role.request(resource) * i64::from(role.min)).sum()
}

/// Whether two gangs of a queue cannot run at the same time, whoever else runs.
fn exclude(view: &View, tree: &Tree, one: &Gang, other: &Gang) -> bool {
    let queue = one.queue as usize;
    (0..view.resources.len()).any(|resource| {
        let both = [one, other].map(|gang| asks(&gang.shape, resource));
        let quota = tree.limit(queue, resource).filter(|_| tree.is_limited(queue, resource));
        let most = tree.total[resource].min(quota.unwrap_or(i64::MAX));
        both[0] > 0 && both[1] > 0 && both[0] + both[1] > most
    })
}

#[test]
fn nobody_is_expected_before_those_of_its_queue_that_come_first() {
    let mut seen = 0;
    for seed in seeds(300) {
        live(seed, Flavour { limits: false, ..PLAIN }, 12, |_, _, after, now| {
            let decision = decide(after, now);
            let tree = Tree::new(after);
            let waits: Vec<(&Waiting, Estimate)> =
                decision.waiting.iter().filter_map(|one| Some((one, one.estimate?))).collect();
            for (at, (later, its)) in waits.iter().enumerate().filter(|(_, (later, _))| later.reservation.is_none()) {
                let gang = |one: &Waiting| &after.gangs[one.gang as usize];
                for (first, estimate) in &waits[..at] {
                    let (one, other) = (gang(first), gang(later));
                    let no_more = (0..after.resources.len())
                        .all(|resource| asks(&one.shape, resource) == 0 || asks(&other.shape, resource) > 0);
                    if one.queue != other.queue || !no_more {
                        continue;
                    }
                    let run = |gang: &Gang| gang.expected_ms.or(gang.run_limit_ms);
                    let apart = exclude(after, &tree, one, other);
                    let after_it = its.expected_ms >= estimate.expected_ms + run(one).filter(|_| apart).unwrap_or(0);
                    // Before a gang with a reservation there may be time for another one.
                    let before_it =
                        !apart || run(other).is_some_and(|run| its.expected_ms + run <= estimate.expected_ms);
                    let may_be_before = first.reservation.is_some() && before_it;
                    assert!(
                        after_it || may_be_before,
                        "seed {seed}: {} after {}: {its:?}, {estimate:?}, {:?}",
                        other.name,
                        one.name,
                        run(one)
                    );
                    seen += u32::from(apart);
                }
            }
        });
    }
    assert!(seen > 100, "only {seen} were seen that exclude each other");
}

/// When each of those that wait is expected to start.
fn expected(view: &View, decision: &Decision) -> BTreeMap<String, i64> {
    let one = |one: &Waiting| {
        let name = view.gangs[one.gang as usize].name.clone();
        (name, one.estimate.map_or(i64::MAX, |estimate| estimate.expected_ms))
    };
    decision.waiting.iter().map(one).collect()
}

/// One that comes last in its queue, and waits. If it starts, its queue has its turns later for that, and others have theirs earlier.
#[test]
fn one_more_gang_makes_nobodys_estimate_earlier() {
    let mut seen = 0;
    for seed in seeds(300) {
        let mut dice = Dice(seed ^ 0x5eed);
        live(seed, Flavour { limits: false, ..PLAIN }, 12, |_, _, after, now| {
            let before = expected(after, &decide(after, now));
            let mut more = after.clone();
            let queue = u32::try_from(dice.roll(more.queues.len() as u64)).unwrap();
            let roles = vec![role(
                "r0",
                1 + u32::try_from(dice.roll(4)).unwrap(),
                dice.pick(&[0, 1, 4]),
                dice.pick(&[0, 1, 4]),
            )];
            let shape = Arc::new(Shape { namespace: "a".to_owned(), roles, ..Shape::default() });
            let run = dice.chance(70).then_some(10 * MINUTE);
            let new =
                Gang { queue, shape, priority: -1, submitted_ms: now, expected_ms: run, ..gang("zzz", Vec::new()) };
            more.gangs.push(new);
            let decision = decide(&more, now);
            if !decision.admissions.is_empty() {
                return;
            }
            let then = expected(&more, &decision);
            for (name, at) in &before {
                assert!(then[name] >= *at, "seed {seed}: {name} at {} in place of {at}", then[name]);
            }
            seen += before.values().filter(|at| **at < i64::MAX).count();
        });
    }
    assert!(seen > 500, "only {seen} were seen");
}

/// More of them are told of no estimate than are looked at, and none is wrong for that.
#[test]
fn the_first_of_very_many_have_an_estimate() {
    let gangs = (0..400).map(|at| limited(&format!("g{at:04}"), 1, 10)).collect();
    let mut one = view(vec![node("n", 500, 500, &[])], gangs);
    one.queues = vec![one_gpu("main", 1)];
    let told = told(&one);
    let known: Vec<(i64, Option<i64>)> = told.values().copied().flatten().collect();
    let minutes: Vec<i64> = known.iter().map(|(expected, _)| *expected).collect();
    assert_eq!(minutes, (1..=256).map(|at| at * 10).collect::<Vec<i64>>());
    assert!(known[16].1.is_some() && known[17].1.is_none(), "what is far away is not certain");
}
