//! One thing at a time.

use std::sync::Arc;

use super::check;
use super::world::{START_MS, gang, node, queue, role, view};
use crate::schedule::{
    Effect, Gang, Operator, Phase, Place, PodTerm, PreemptionPolicy, QueueingStrategy, Reason, Requirement, Role,
    Shape, Taint, View, decay, decide,
};

const MINUTE: i64 = 60_000;

fn nodes(count: usize, gpus: i64) -> Vec<crate::schedule::Node> {
    (0..count).map(|at| node(&format!("n{at}"), 64, gpus, &[("zone", "z"), ("rack", "r")])).collect()
}

/// Runs since an hour before the start, on these nodes.
fn running(mut gang: Gang, places: &[(u32, u32)]) -> Gang {
    let since_ms = START_MS - 60 * MINUTE;
    let places = places.iter().map(|(node, count)| Place { role: 0, node: *node, count: *count }).collect();
    gang.phase = Phase::Running { since_ms, changed_ms: since_ms, saved_ms: since_ms, places };
    gang
}

fn workers(name: &str, count: u32) -> Gang {
    gang(name, vec![role("worker", count, 1, 1)])
}

fn names(view: &View, at: impl IntoIterator<Item = u32>) -> Vec<String> {
    at.into_iter().map(|at| view.gangs[at as usize].name.clone()).collect()
}

#[test]
fn launcher_and_workers_start_together_or_not_at_all() {
    let launcher = || role("launcher", 1, 4, 0);
    let view1 = view(nodes(2, 4), vec![gang("mpi", vec![launcher(), role("worker", 8, 1, 1)])]);
    let decision = decide(&view1, START_MS);
    assert_eq!(decision.admissions[0].places.iter().map(|place| place.count).sum::<u32>(), 9);
    let view2 = view(nodes(2, 4), vec![gang("mpi", vec![launcher(), role("worker", 9, 1, 1)])]);
    let decision = decide(&view2, START_MS);
    assert!(decision.admissions.is_empty());
    assert_eq!(decision.waiting[0].reason, Reason::TooLarge { role: 1, asked: 9, largest: 8 });
    assert_eq!(decision.waiting[0].estimate, None);
}

#[test]
fn an_elastic_gang_starts_smaller_and_grows_when_nobody_waits() {
    let mut elastic = role("worker", 8, 1, 1);
    elastic.min = 2;
    let mut world = view(nodes(2, 4), vec![gang("elastic", vec![elastic]), running(workers("other", 3), &[(0, 3)])]);
    let decision = decide(&world, START_MS);
    assert_eq!(
        check::places(&decision.applied(&world, START_MS).gangs[0]).iter().map(|place| place.count).sum::<u32>(),
        5
    );
    world = decision.applied(&world, START_MS);
    world.gangs.pop();
    assert!(decide(&world, START_MS).growths.is_empty(), "its places changed just now");
    let later = decide(&world, START_MS + MINUTE);
    assert_eq!(later.growths[0].places.iter().map(|place| place.count).sum::<u32>(), 3);
}

#[test]
fn a_lower_priority_shrinks_before_it_is_stopped() {
    let mut elastic = role("worker", 8, 1, 1);
    elastic.min = 4;
    let mut high = workers("high", 3);
    high.priority = 10;
    let mut world = view(nodes(1, 8), vec![high, running(gang("low", vec![elastic]), &[(0, 8)])]);
    world.queues[0].within_cluster_queue = PreemptionPolicy::LowerPriority;
    let decision = decide(&world, START_MS);
    assert_eq!(names(&world, decision.admissions.iter().map(|one| one.gang)), ["high"]);
    assert_eq!(decision.admissions[0].after, [1]);
    let [preemption] = decision.preemptions.as_slice() else { panic!("{decision:?}") };
    assert!(!preemption.stops && preemption.places[0].count == 3, "{preemption:?}");
    world.gangs[0] = Gang { priority: 10, ..workers("high", 6) };
    let decision = decide(&world, START_MS);
    assert!(decision.preemptions[0].stops);
    assert_eq!(names(&world, decision.waiting.iter().map(|one| one.gang)), ["low"]);
}

#[test]
fn the_victim_is_who_loses_the_least_work() {
    let saved = |name: &str, node: u32, minutes_ago: i64| {
        let mut gang = running(workers(name, 4), &[(node, 4)]);
        if let Phase::Running { saved_ms, .. } = &mut gang.phase {
            *saved_ms = START_MS - minutes_ago * MINUTE;
        }
        gang
    };
    let high = Gang { priority: 10, ..workers("high", 4) };
    let mut world = view(nodes(3, 4), vec![high, saved("a", 0, 30), saved("b", 1, 2), saved("c", 2, 50)]);
    world.queues[0].within_cluster_queue = PreemptionPolicy::LowerPriority;
    let decision = decide(&world, START_MS);
    assert_eq!(names(&world, decision.preemptions.iter().map(|one| one.gang)), ["b"]);
    assert_eq!(decision.preemptions[0].lost_pod_ms, 4 * 2 * MINUTE);
}

#[test]
fn a_gang_is_left_alone_for_a_while_after_it_started() {
    let mut low = running(workers("low", 4), &[(0, 4)]);
    if let Phase::Running { changed_ms, .. } = &mut low.phase {
        *changed_ms = START_MS - 10_000;
    }
    let high = Gang { priority: 10, ..workers("high", 4) };
    let mut world = view(nodes(1, 4), vec![high, low]);
    world.queues[0].within_cluster_queue = PreemptionPolicy::LowerPriority;
    let decision = decide(&world, START_MS);
    assert!(decision.preemptions.is_empty());
    assert_eq!(decision.wake_at_ms, Some(START_MS + 50_000));
    assert_eq!(decide(&world, START_MS + 50_000).preemptions.len(), 1);
}

#[test]
fn backfill_does_not_delay_a_reservation() {
    let limited = |gang: Gang, minutes: i64| Gang { run_limit_ms: Some(minutes * MINUTE), ..gang };
    // The first gang ends in half an hour at the latest; the large one gets all nodes then.
    let first = limited(running(workers("first", 4), &[(0, 4)]), 90);
    let large = Gang { submitted_ms: START_MS - 3, ..workers("large", 8) };
    let long = limited(Gang { submitted_ms: START_MS - 2, ..workers("long", 4) }, 31);
    let short = limited(Gang { submitted_ms: START_MS - 1, ..workers("short", 4) }, 30);
    let world = view(nodes(2, 4), vec![first, large, long, short]);
    let decision = decide(&world, START_MS);
    assert_eq!(names(&world, decision.admissions.iter().map(|one| one.gang)), ["short"]);
    let [large, long] = decision.waiting.as_slice() else { panic!("{decision:?}") };
    let held = large.reservation.as_ref().unwrap();
    assert_eq!((held.start_ms, held.promised), (START_MS + 30 * MINUTE, true));
    assert_eq!(long.reason, Reason::NoRoom { role: 0, asked: 4, free: 0, best_domain: 0 });
    assert_eq!(large.reason, Reason::NoRoom { role: 0, asked: 8, free: 0, best_domain: 0 });
    assert_eq!(decision.wake_at_ms.map(|at| at <= START_MS + 30 * MINUTE), Some(true));
    let world = View { gangs: world.gangs[..3].to_vec(), ..world };
    let decision = decide(&world, START_MS);
    assert_eq!(decision.waiting[1].reason, Reason::Reserved { holder: 1 });
}

#[test]
fn without_limits_places_are_held_after_some_time() {
    let large = |waits: i64| Gang { submitted_ms: START_MS - waits, ..workers("large", 8) };
    let small = || Gang { submitted_ms: START_MS, ..workers("small", 4) };
    let world = view(nodes(2, 4), vec![running(workers("first", 4), &[(0, 4)]), large(MINUTE), small()]);
    assert_eq!(names(&world, decide(&world, START_MS).admissions.iter().map(|one| one.gang)), ["small"]);
    let world = view(nodes(2, 4), vec![running(workers("first", 4), &[(0, 4)]), large(11 * MINUTE), small()]);
    let decision = decide(&world, START_MS);
    assert!(decision.admissions.is_empty());
    assert!(!decision.waiting[0].reservation.as_ref().unwrap().promised);
    assert_eq!(decision.waiting[1].reason, Reason::Reserved { holder: 1 });
}

#[test]
fn who_waited_too_long_comes_before_every_priority() {
    let old = Gang { submitted_ms: START_MS - 25 * 60 * MINUTE, ..workers("old", 4) };
    let high = Gang { priority: 1_000, ..workers("high", 4) };
    let world = view(nodes(1, 4), vec![high, old]);
    assert_eq!(names(&world, decide(&world, START_MS).admissions.iter().map(|one| one.gang)), ["old"]);
}

#[test]
fn a_strict_queue_waits_for_its_head() {
    let large = Gang { submitted_ms: START_MS - 1, ..workers("large", 5) };
    let mut world = view(nodes(1, 4), vec![large, workers("small", 1)]);
    assert_eq!(names(&world, decide(&world, START_MS).admissions.iter().map(|one| one.gang)), ["small"]);
    world.queues[0].queueing_strategy = QueueingStrategy::StrictFifo;
    let decision = decide(&world, START_MS);
    assert!(decision.admissions.is_empty());
    assert_eq!(decision.waiting[1].reason, Reason::BehindHead { head: 0 });
    assert_eq!(decision.waiting[1].position, 1);
    world.queues[0].stopped = true;
    assert_eq!(decide(&world, START_MS).waiting[0].reason, Reason::QueueStopped);
}

#[test]
fn queues_take_turns_by_share_and_history() {
    let of = |queue: u32, name: &str| Gang { queue, ..workers(name, 2) };
    let gangs = vec![of(0, "a1"), of(0, "a2"), of(0, "a3"), of(1, "b1"), of(1, "b2")];
    let mut world = view(nodes(1, 8), gangs);
    world.queues = vec![queue("a"), queue("b")];
    assert_eq!(names(&world, decide(&world, START_MS).admissions.iter().map(|one| one.gang)), ["a1", "b1", "a2", "b2"]);
    // The first queue has used much of late.
    world.queues[0].history = decay(&[], &[0, 8], 60 * MINUTE, 60 * MINUTE);
    assert_eq!(world.queues[0].history, [0, 4]);
    assert_eq!(names(&world, decide(&world, START_MS).admissions.iter().map(|one| one.gang)), ["b1", "b2", "a1", "a2"]);
}

#[test]
fn taints_selectors_cordons_and_ports_are_kept() {
    let mut tainted = node("n0", 64, 4, &[]);
    tainted.taints.push(Taint { key: "only".to_owned(), value: "me".to_owned(), effect: Effect::NoSchedule });
    let mut cordoned = node("n1", 64, 4, &[]);
    cordoned.unschedulable = true;
    let one = |change: &dyn Fn(&mut Role)| {
        let mut role = role("worker", 1, 1, 1);
        change(&mut role);
        gang("one", vec![role])
    };
    let open = node("n2", 64, 4, &[("kind", "7")]);
    let world = |gang: Gang| view(vec![tainted.clone(), cordoned.clone(), open.clone()], vec![gang]);
    let at = |world: &View| decide(world, START_MS).admissions.first().map(|one| one.places[0].node);
    assert_eq!(at(&world(one(&|_| ()))), Some(2));
    let greater =
        |bound: &str| Requirement { key: "kind".to_owned(), operator: Operator::Gt, values: vec![bound.to_owned()] };
    assert_eq!(at(&world(one(&|role| role.rules.any_of = vec![vec![greater("6")]]))), Some(2));
    let none = world(one(&|role| role.rules.any_of = vec![vec![greater("7")]]));
    assert_eq!(decide(&none, START_MS).waiting[0].reason, Reason::NoMatchingNode { role: 0, nodes: 3 });
    let port = |name: &str| Gang { name: name.to_owned(), ..one(&|role| role.host_ports = vec![80]) };
    let mut two = world(port("a"));
    two.gangs.push(port("b"));
    let decision = decide(&two, START_MS);
    assert_eq!((decision.admissions.len(), decision.waiting.len()), (1, 1));
}

#[test]
fn anti_affinity_spreads_and_counts_both_ways() {
    let apart = |key: &str| {
        let pods =
            vec![Requirement { key: "role".to_owned(), operator: Operator::In, values: vec!["worker".to_owned()] }];
        let mut role = role("worker", 2, 1, 1);
        role.anti_affinity = vec![PodTerm { pods, topology_key: key.to_owned() }];
        role
    };
    let here = || {
        vec![
            node("n0", 8, 8, &[("rack", "r1")]),
            node("n1", 8, 8, &[("rack", "r1")]),
            node("n2", 8, 8, &[("rack", "r2")]),
        ]
    };
    let world = view(here(), vec![gang("spread", vec![apart("host")])]);
    let decision = decide(&world, START_MS);
    let nodes = |at: usize| decision.admissions[at].places.iter().map(|place| place.node).collect::<Vec<u32>>();
    assert_eq!(nodes(0).len(), 2);
    let by_rack = view(here(), vec![gang("racks", vec![apart("rack")])]);
    let racks = decide(&by_rack, START_MS);
    let racks: Vec<u32> = racks.admissions[0].places.iter().map(|place| place.node).collect();
    assert!(racks.contains(&2) && racks.len() == 2, "{racks:?}");
    // A plain gang may not come near those that want to be alone.
    let mut world = decide(&by_rack, START_MS).applied(&by_rack, START_MS);
    world.gangs.push(workers("plain", 1));
    let decision = decide(&world, START_MS);
    assert!(decision.admissions.is_empty(), "{decision:?}");
}

#[test]
fn what_was_set_aside_is_not_taken_next_to_whom_it_must_not_be_near() {
    let mut first = gang("first", vec![role("first", 1, 1, 3)]);
    first.run_limit_ms = Some(10 * MINUTE);
    let world = view(nodes(1, 4), vec![first]);
    let mut world = decide(&world, START_MS).applied(&world, START_MS);
    world.gangs.push(gang("second", vec![role("worker", 1, 1, 2)]));
    let decision = decide(&world, START_MS);
    assert!(decision.waiting[0].reservation.is_some(), "{decision:?}");
    let mut world = decision.applied(&world, START_MS);
    // Who wants to be alone comes before the second is there.
    let pods = vec![Requirement { key: "role".to_owned(), operator: Operator::In, values: vec!["worker".to_owned()] }];
    let mut alone = role("alone", 1, 1, 1);
    alone.anti_affinity = vec![PodTerm { pods, topology_key: "host".to_owned() }];
    world.gangs.push(gang("third", vec![alone]));
    let decision = decide(&world, START_MS);
    assert_eq!(names(&world, decision.admissions.iter().map(|one| one.gang)), ["third"]);
    let mut world = decision.applied(&world, START_MS);
    world.gangs.remove(0);
    let decision = decide(&world, START_MS + 11 * MINUTE);
    assert!(decision.admissions.is_empty(), "{decision:?}");
}

#[test]
fn affinity_draws_a_role_to_another() {
    let pods = vec![Requirement { key: "role".to_owned(), operator: Operator::In, values: vec!["server".to_owned()] }];
    let mut near = role("worker", 3, 1, 1);
    near.affinity = vec![PodTerm { pods, topology_key: "rack".to_owned() }];
    let server = role("server", 1, 8, 0);
    let nodes = vec![
        node("n0", 8, 0, &[("zone", "z"), ("rack", "r1")]),
        node("n1", 9, 1, &[("zone", "z"), ("rack", "r1")]),
        node("n2", 8, 2, &[("zone", "z"), ("rack", "r2")]),
        node("n3", 8, 4, &[("zone", "z"), ("rack", "r2")]),
    ];
    let world = view(
        nodes,
        vec![Gang { shape: Arc::new(Shape { roles: vec![near, server], ..Shape::default() }), ..workers("ps", 1) }],
    );
    let decision = decide(&world, START_MS);
    let nodes: Vec<u32> = decision.admissions[0].places.iter().map(|place| place.node).collect();
    assert!(nodes.iter().all(|node| *node >= 2), "{nodes:?}");
}
