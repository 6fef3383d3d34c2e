//! Topology, fragments and the predicted time of a layout.

use std::sync::Arc;

use super::world::{START_MS, gang, node, role, view};
use crate::schedule::{Closeness, Gang, Node, Phase, Place, Reason, Role, Shape, Slice, View, decide};

/// `zones` × 2 racks × 2 nodes with `gpus` each.
fn tree(zones: usize, gpus: i64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for at in 0..zones * 4 {
        let (zone, rack) = (format!("z{}", at / 4), format!("r{}", at / 2));
        nodes.push(node(&format!("n{at:02}"), 64, gpus, &[("zone", zone.as_str()), ("rack", rack.as_str())]));
    }
    nodes
}

fn close(name: &str, role: Role, required: Option<&str>) -> Gang {
    let closeness = Closeness { required: required.map(str::to_owned), preferred: Some("rack".to_owned()) };
    let shape = Shape { roles: vec![role], closeness, all_reduce_bytes: 1 << 30, ..Shape::default() };
    Gang { shape: Arc::new(shape), ..gang(name, Vec::new()) }
}

fn used(view: &View) -> (Vec<u32>, u64) {
    let decision = decide(view, START_MS);
    let admission = decision.admissions.first().unwrap();
    (admission.places.iter().map(|place| place.node).collect(), admission.all_reduce_ns)
}

fn takes(name: &str, node: u32, count: u32) -> Gang {
    let places = vec![Place { role: 0, node, count }];
    let phase = Phase::Running { since_ms: 0, changed_ms: 0, saved_ms: 0, places };
    Gang { phase, ..gang(name, vec![role("worker", count, 1, 1)]) }
}

#[test]
fn a_gang_lies_as_close_as_there_is_room() {
    let place = |pods: u32| used(&view(tree(2, 4), vec![close("g", role("worker", pods, 1, 1), None)]));
    let (node, fast) = place(4);
    let (rack, slower) = place(8);
    let (zone, slow) = place(12);
    let (all, slowest) = place(20);
    assert_eq!((node.len(), rack.len(), zone.len(), all.len()), (1, 2, 3, 5));
    assert_eq!(rack, [0, 1]);
    assert!(zone.iter().all(|node| *node < 4), "{zone:?}");
    assert!(fast < slower && slower < slow && slow < slowest, "{fast} {slower} {slow} {slowest}");
}

#[test]
fn the_tightest_domain_is_taken() {
    // The first rack is free, the second half full: 4 pods go to the second.
    let world = view(tree(1, 4), vec![close("g", role("worker", 4, 1, 1), None), takes("t1", 2, 2), takes("t2", 3, 2)]);
    let (nodes, _) = used(&world);
    assert_eq!(nodes.len(), 1, "one node is closer still: {nodes:?}");
    let world = view(
        tree(1, 4),
        vec![
            close("g", role("worker", 4, 1, 1), None),
            takes("t0", 0, 1),
            takes("t1", 1, 1),
            takes("t2", 2, 2),
            takes("t3", 3, 2),
        ],
    );
    assert_eq!(used(&world).0, [2, 3]);
}

/// A domain in which the gang's pods are together on fewer nodes is taken, though a fuller one would do: its all-reduce is faster.
#[test]
fn of_several_domains_the_clearly_faster_one_is_taken() {
    let half = |name: &str, node: u32| takes(name, node, 2);
    let mut nodes = tree(1, 4);
    // The second rack has more nodes, each half full: what is left over is the least there.
    for at in 4..6 {
        nodes.push(node(&format!("n{at:02}"), 64, 4, &[("zone", "z0"), ("rack", "r1")]));
    }
    let mut gangs = vec![close("g", role("worker", 8, 1, 1), None)];
    gangs.extend((2..6).map(|at| half(&format!("t{at}"), at)));
    let world = view(nodes.clone(), gangs.clone());
    let (places, fast) = used(&world);
    assert_eq!(places, [0, 1], "two nodes and not four");
    let without: Vec<Node> = nodes
        .iter()
        .cloned()
        .map(|mut node| {
            node.unschedulable = node.name.as_str() < "n02";
            node
        })
        .collect();
    let (places, slow) = used(&view(without, gangs));
    assert_eq!((places, fast < slow), (vec![2, 3, 4, 5], true), "{fast} {slow}");
}

#[test]
fn a_required_level_is_kept_or_the_gang_waits() {
    let world = view(tree(2, 4), vec![close("g", role("worker", 9, 1, 1), Some("rack"))]);
    let decision = decide(&world, START_MS);
    assert_eq!(decision.waiting[0].reason, Reason::TooLarge { role: 0, asked: 9, largest: 8 });
    let gangs = vec![
        close("g", role("worker", 8, 1, 1), Some("rack")),
        takes("a", 0, 1),
        takes("b", 2, 1),
        takes("c", 4, 1),
        takes("d", 6, 2),
    ];
    let decision = decide(&view(tree(2, 4), gangs), START_MS);
    assert_eq!(decision.waiting[0].reason, Reason::NoRoom { role: 0, asked: 8, free: 27, best_domain: 7 });
}

#[test]
fn slices_stay_within_their_racks() {
    let mut sliced = role("worker", 12, 1, 1);
    sliced.slice = Some(Slice { size: 6, level: "rack".to_owned() });
    let world = view(tree(2, 4), vec![close("g", sliced.clone(), None)]);
    let decision = decide(&world, START_MS);
    let by_rack = |rack: u32| {
        decision.admissions[0]
            .places
            .iter()
            .filter(|place| place.node / 2 == rack)
            .map(|place| place.count)
            .sum::<u32>()
    };
    assert_eq!([by_rack(0), by_rack(1), by_rack(2), by_rack(3)], [6, 6, 0, 0]);
    // Room for one slice in each rack only.
    sliced.count = 30;
    sliced.min = 30;
    let decision = decide(&view(tree(2, 4), vec![close("g", sliced, None)]), START_MS);
    assert_eq!(decision.waiting[0].reason, Reason::TooLarge { role: 0, asked: 30, largest: 24 });
}

#[test]
fn small_pods_go_where_they_break_the_least() {
    // One GPU: the node with one left loses nothing that anybody could use; an empty node would lose a place for four.
    let gangs =
        vec![gang("one", vec![role("worker", 1, 1, 1)]), takes("t", 1, 3), gang("four", vec![role("worker", 9, 1, 4)])];
    let world = view(tree(1, 4), gangs);
    let decision = decide(&world, START_MS);
    assert_eq!(decision.admissions[0].places, [Place { role: 0, node: 1, count: 1 }]);
}

#[test]
fn nodes_without_labels_are_in_no_domain() {
    let mut nodes = tree(1, 4);
    nodes[0].labels.remove("rack");
    let world = view(nodes, vec![close("g", role("worker", 8, 1, 1), Some("rack"))]);
    assert_eq!(used(&world).0, [2, 3]);
    let world = view(vec![node("n", 8, 8, &[])], vec![close("g", role("worker", 8, 1, 1), Some("rack"))]);
    assert!(matches!(decide(&world, START_MS).waiting[0].reason, Reason::TooLarge { .. }));
}
