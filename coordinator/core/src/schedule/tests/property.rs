//! Properties, over worlds from seeds. `TRAINYARD_SEEDS` sets how many; a failure names its seed.

use std::collections::BTreeMap;

use super::check;
use super::world::{Dice, EVERYTHING, Flavour, World};
use crate::schedule::{Decision, Gang, Phase, Place, View, decide};

#[expect(clippy::disallowed_methods, reason = "how long a test goes on is not what the core decides")]
pub(super) fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("TRAINYARD_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(default);
    0..count
}

/// Runs a world for some rounds, and shows each decision: (seed, view before, decision, view after, now).
pub(super) fn live(seed: u64, flavour: Flavour, rounds: u32, mut see: impl FnMut(&View, &Decision, &View, i64)) {
    let mut world = World::new(seed, flavour);
    for _ in 0..rounds {
        let decision = decide(&world.view, world.now_ms);
        let after = decision.applied(&world.view, world.now_ms);
        see(&world.view, &decision, &after, world.now_ms);
        world.view = after;
        world.advance(decision.wake_at_ms);
        for _ in 0..world.dice.roll(3) {
            if world.view.gangs.len() < 14 {
                world.submit();
            }
        }
    }
}

#[test]
fn nothing_is_over_capacity_or_quota_and_gangs_are_whole() {
    for seed in seeds(300) {
        live(seed, EVERYTHING, 12, |_, decision, after, _| {
            check::capacity(after);
            check::quota(after);
            check::admissions(after, decision);
            check::apart(after, decision);
        });
    }
}

#[test]
fn deciding_twice_changes_nothing() {
    for seed in seeds(300) {
        live(seed, EVERYTHING, 12, |_, _, after, now| {
            let again = decide(after, now);
            assert!(again.is_empty(after), "seed {seed}: {again:#?}");
        });
    }
}

/// The same view with everything in another order.
fn permuted(view: &View, dice: &mut Dice) -> View {
    let order = |len: usize, dice: &mut Dice| {
        let mut order: Vec<usize> = (0..len).collect();
        dice.shuffle(&mut order);
        order
    };
    let nodes = order(view.nodes.len(), dice);
    let queues = order(view.queues.len(), dice);
    let gangs = order(view.gangs.len(), dice);
    let at =
        |order: &[usize], old: u32| u32::try_from(order.iter().position(|one| *one == old as usize).unwrap()).unwrap();
    let moved = |places: &[Place]| -> Vec<Place> {
        places.iter().map(|place| Place { node: at(&nodes, place.node), ..*place }).collect()
    };
    let gang = |old: &usize| {
        let mut gang = view.gangs[*old].clone();
        gang.queue = at(&queues, gang.queue);
        gang.leaving = moved(&gang.leaving);
        match &mut gang.phase {
            Phase::Running { places, .. } => *places = moved(places),
            Phase::Waiting { reservation: Some(reservation) } => reservation.places = moved(&reservation.places),
            Phase::Waiting { reservation: None } => {}
        }
        gang
    };
    View {
        nodes: nodes.iter().map(|old| view.nodes[*old].clone()).collect(),
        queues: queues.iter().map(|old| view.queues[*old].clone()).collect(),
        gangs: gangs.iter().map(gang).collect(),
        ..view.clone()
    }
}

/// A decision in names.
fn named(view: &View, decision: &Decision) -> Vec<String> {
    let gang = |at: u32| view.gangs[at as usize].name.clone();
    let places = |places: &[Place]| {
        let mut named: Vec<_> = places
            .iter()
            .map(|place| (place.role, view.nodes[place.node as usize].name.clone(), place.count))
            .collect();
        named.sort();
        named
    };
    let mut all = Vec::new();
    for one in &decision.admissions {
        let mut after: Vec<String> = one.after.iter().map(|at| gang(*at)).collect();
        after.sort();
        all.push(format!(
            "{} starts at {:?} after {after:?}, {} ns",
            gang(one.gang),
            places(&one.places),
            one.all_reduce_ns
        ));
    }
    for one in &decision.growths {
        all.push(format!("{} grows at {:?}", gang(one.gang), places(&one.places)));
    }
    for one in &decision.preemptions {
        all.push(format!(
            "{} for {}: {:?} {} {}",
            gang(one.gang),
            gang(one.preemptor),
            places(&one.places),
            one.stops,
            one.lost_pod_ms
        ));
    }
    for one in &decision.waiting {
        let held = one.reservation.as_ref().map(|held| (held.start_ms, held.promised, places(&held.places)));
        all.push(format!(
            "{} waits: {} {} {held:?} {:?}",
            gang(one.gang),
            one.position,
            one.reason.name(),
            one.estimate
        ));
    }
    all.sort();
    all
}

#[test]
fn the_order_of_the_view_does_not_matter() {
    for seed in seeds(200) {
        let mut dice = Dice(seed ^ 0xabcd);
        live(seed, EVERYTHING, 8, |before, decision, _, now| {
            let other = permuted(before, &mut dice);
            let same = decide(&other, now);
            assert_eq!(named(before, decision), named(&other, &same), "seed {seed}");
        });
    }
}

/// For each priority, the highest first: what queues use of what they are entitled to, and what is used and runs at all.
fn potential(view: &View) -> Vec<(i128, i128)> {
    let mut priorities: Vec<i32> = view.gangs.iter().map(|gang| gang.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    priorities.reverse();
    let tree = crate::schedule::quota::Tree::new(view);
    let one = |priority: i32| {
        let (mut entitled, mut all) = (0_i128, 0_i128);
        for resource in 0..view.resources.len() {
            let total = i128::from(tree.total[resource].max(1));
            for queue in 0..view.queues.len() {
                let used = check::used(view, queue, resource, priority);
                entitled += i128::from(used.min(tree.entitled(queue, resource))) * 1_000_000_000 / total;
                all += i128::from(used) * 1_000_000_000 / total;
            }
        }
        let pods = view.gangs.iter().filter(|gang| gang.priority >= priority).flat_map(check::places);
        (entitled, all + pods.map(|place| i128::from(place.count)).sum::<i128>())
    };
    priorities.into_iter().map(one).collect()
}

#[test]
fn every_decision_that_changes_who_runs_raises_the_potential() {
    let mut preemptions = 0;
    for seed in seeds(300) {
        live(seed, EVERYTHING, 12, |before, decision, after, _| {
            let moves = decision.admissions.len() + decision.growths.len() + decision.preemptions.len();
            preemptions += decision.preemptions.len();
            if moves > 0 {
                assert!(potential(after) > potential(before), "seed {seed}: {decision:#?}");
            }
        });
    }
    assert!(preemptions > 50, "only {preemptions} preemptions were seen");
}

#[test]
fn with_nothing_else_happening_preemption_comes_to_an_end() {
    for seed in seeds(200) {
        let mut world = World::new(seed, EVERYTHING);
        for _ in 0..6 {
            world.submit();
        }
        let rounds = 60;
        let mut quiet = 0;
        for _ in 0..rounds {
            let decision = decide(&world.view, world.now_ms);
            let moves = decision.admissions.len() + decision.growths.len() + decision.preemptions.len();
            quiet = if moves == 0 { quiet + 1 } else { 0 };
            world.view = decision.applied(&world.view, world.now_ms);
            // Time passes and nothing ends, not even what has a limit.
            world.now_ms += 120_000;
            for gang in &mut world.view.gangs {
                gang.leaving.clear();
                gang.run_limit_ms = None;
            }
        }
        assert!(quiet > 5, "seed {seed}: still moving");
    }
}

#[test]
fn a_promised_start_is_never_missed_when_run_limits_hold() {
    let flavour = Flavour { limits: true, preemption: true, terms: false, priorities: true, options: true };
    let mut kept = 0;
    for seed in seeds(400) {
        let mut promised: BTreeMap<String, i64> = BTreeMap::new();
        live(seed, flavour, 25, |before, decision, _, now| {
            let name = |at: u32| before.gangs[at as usize].name.clone();
            for admission in &decision.admissions {
                if let Some(start) = promised.remove(&name(admission.gang)) {
                    assert!(
                        now <= start,
                        "seed {seed}: {} was promised {start} and starts at {now}",
                        name(admission.gang)
                    );
                    kept += 1;
                }
            }
            for waiting in &decision.waiting {
                let gang = name(waiting.gang);
                let start = waiting.reservation.as_ref().filter(|held| held.promised).map(|held| held.start_ms);
                if let Some(before) = promised.get(&gang) {
                    assert!(
                        start.is_some_and(|start| start <= *before),
                        "seed {seed}: {gang} was promised {before}, now {start:?}"
                    );
                    assert!(*before > now, "seed {seed}: {gang} waits at {now}, promised {before}");
                }
                if let Some(start) = start {
                    promised.insert(gang, start);
                }
            }
        });
    }
    assert!(kept > 100, "only {kept} promises were seen");
}

/// Whether a gang of the view runs after a decision.
fn runs(after: &View, gang: &Gang) -> bool {
    after.gangs.iter().any(|one| one.name == gang.name && matches!(one.phase, Phase::Running { .. }))
}

#[test]
fn more_nodes_never_unschedule() {
    let flavour = Flavour { limits: false, preemption: false, terms: false, priorities: true, options: true };
    for seed in seeds(200) {
        let mut dice = Dice(seed);
        live(seed, flavour, 6, |before, _, _, now| {
            let mut extra = before.nodes[0].clone();
            extra.name = format!("{}-extra", dice.pick(&["a", "n0", "z"]));
            let with = |view: &View| View {
                nodes: view.nodes.iter().cloned().chain([extra.clone()]).collect(),
                ..view.clone()
            };
            // Nobody who runs is touched.
            let more = with(before);
            let decision = decide(&more, now);
            assert!(decision.preemptions.is_empty());
            let then = decision.applied(&more, now);
            let running = |gang: &&Gang| matches!(gang.phase, Phase::Running { .. });
            for gang in before.gangs.iter().filter(running) {
                assert!(runs(&then, gang), "seed {seed}: {}", gang.name);
            }
            // And whoever starts without the node starts with it, if nobody else waits.
            for gang in before.gangs.iter().filter(|gang| !running(gang)) {
                let mut alone = before.clone();
                alone.gangs.retain(|other| running(&other) || other.name == gang.name);
                if runs(&decide(&alone, now).applied(&alone, now), gang) {
                    let more = with(&alone);
                    assert!(runs(&decide(&more, now).applied(&more, now), gang), "seed {seed}: {}", gang.name);
                }
            }
        });
    }
}

#[test]
fn a_view_survives_being_dumped() {
    for seed in seeds(20) {
        live(seed, EVERYTHING, 4, |_, decision, after, now| {
            let text = serde_json::to_string(after).unwrap();
            let back: View = serde_json::from_str(&text).unwrap();
            assert_eq!(&back, after);
            assert_eq!(decide(&back, now), decide(after, now));
            let text = serde_json::to_string(decision).unwrap();
            assert_eq!(&serde_json::from_str::<Decision>(&text).unwrap(), decision);
        });
    }
}
