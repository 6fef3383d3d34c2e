//! Elastic gangs that run make room pod by pod, and grow again.

use std::collections::BTreeSet;

use super::*;

const PREEMPTION: &str = r#"{"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Any"}"#;

/// A gang that goes on with `least` pods.
fn elastic(name: &str, size: usize, least: usize, annotations: &Value) -> Vec<Value> {
    let mut pods = gang(name, size, 1, 2 * HOUR, annotations);
    for pod in &mut pods {
        pod["metadata"]["annotations"][label::GANG_SIZE] = json!(least.to_string());
        pod["metadata"]["annotations"][label::GANG_LEAST] = json!(least.to_string());
    }
    pods
}

fn teams(quotas: &[(&str, u32)]) -> Vec<Value> {
    let more = json!({"cohort": "all", "preemption": serde_json::from_str::<Value>(PREEMPTION).unwrap()});
    let both = quotas.iter().flat_map(|(name, cpus)| [cluster_queue(name, *cpus, &more), local_queue(name, name)]);
    both.collect()
}

/// An elastic gang that has borrowed all of the cluster, and the owner of three CPUs of four.
fn lent() -> World {
    let borrower = on(elastic("borrower", 4, 1, &queued("a", 0)), "n", NOW - HOUR);
    let owner = gang("owner", 2, 1, 0, &queued("b", 0));
    world(&[node("n", 4, "r")], vec![borrower, owner], teams(&[("a", 1), ("b", 3)]))
}

fn annotated<'pod>(world: &'pod World, name: &str) -> Vec<&'pod str> {
    let has = |pod: &&Pod| pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(name));
    world.view.pods.iter().filter(has).filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

/// The job's controller makes a pod again that is not there, without a node.
fn made_again(name: &str, index: usize, of: Vec<Value>, age_ms: i64) -> Value {
    let mut pod = of.into_iter().nth(index).unwrap();
    pod["metadata"]["uid"] = json!(format!("{name}-{index}-{age_ms}"));
    pod["metadata"]["creationTimestamp"] = json!(instant::text(NOW - age_ms));
    pod
}

#[test]
fn an_elastic_gang_gives_up_its_last_pods_and_grows_again_when_nobody_waits_for_the_room() {
    let mut world = lent();
    let first = world.step();
    assert_eq!(done(&first), [("mark", "borrower-3"), ("mark", "borrower-2")], "{:?}", first.plan);
    assert_eq!((annotated(&world, label::SHRUNK).len(), annotated(&world, label::PREEMPTED).len()), (2, 0));
    assert_eq!(codes(&first), [("owner", WaitCode::RoomLeaving)]);
    let told = |action: &'_ Action| {
        let Action::Event { reason, message, .. } = action else { return None };
        (reason == "Shrunk").then(|| message.clone())
    };
    let told = first.plan.actions.iter().find_map(told);
    assert_eq!(told.as_deref(), Some("team/borrower gives up 2 of its 4 pods to make room for team/owner"));
    assert_eq!(done(&world.step()), [("delete", "borrower-2"), ("delete", "borrower-3")]);
    assert_eq!(done(&world.step()), [], "they are still there");
    world.rests();
    world.gone();
    for index in [2, 3] {
        world.add(vec![made_again("borrower", index, elastic("borrower", 4, 1, &queued("a", 0)), 0)]);
    }
    let third = world.step();
    assert_eq!(done(&third), [("bind", "owner-0"), ("bind", "owner-1")], "what was given up is not taken back");
    assert_eq!(codes(&third), [("borrower", WaitCode::QuotaUsed)]);
    world.step();
    world.rests();
    world.view.pods.retain(|pod| !pod.metadata.name.as_deref().unwrap().starts_with("owner"));
    assert_eq!(done(&world.step()), [("bind", "borrower-2"), ("bind", "borrower-3")]);
    world.step();
    world.rests();
}

#[test]
fn no_more_go_than_it_can_do_without() {
    let mut world = lent();
    world.view.pods.retain(|pod| pod.metadata.name.as_deref().unwrap().starts_with("borrower"));
    world.add(gang("owner", 3, 1, 0, &queued("b", 0)));
    world.step();
    assert_eq!(annotated(&world, label::SHRUNK), ["borrower-1", "borrower-2", "borrower-3"]);
    assert_eq!(annotated(&world, label::PREEMPTED), [""; 0], "the leader stays");
}

#[test]
fn a_gang_that_lacks_pods_or_is_not_elastic_is_stopped_as_a_whole() {
    let mut rigid = lent();
    rigid.view.pods.iter_mut().for_each(|pod| {
        pod.metadata.annotations.as_mut().unwrap().remove(label::GANG_LEAST);
    });
    rigid.step();
    let all = ["borrower-0", "borrower-1", "borrower-2", "borrower-3"];
    assert_eq!((annotated(&rigid, label::SHRUNK).len(), annotated(&rigid, label::PREEMPTED)), (0, all.to_vec()));
}

#[test]
fn a_coordinator_that_dies_while_a_gang_shrinks_goes_on_with_those_that_were_told() {
    let mut world = lent();
    let first = world.look();
    let is_mark = |action: &&Action| matches!(action, Action::Patch { object, .. } if object.kind == "Pod");
    let mark = first.plan.actions.iter().find(is_mark).unwrap().clone();
    world.carry_out(&mark);
    // Nobody needs the room any more: whoever was told goes all the same, and nobody else.
    let mut alone = lent();
    alone.carry_out(&mark);
    alone.view.pods.retain(|pod| !pod.metadata.name.as_deref().unwrap().starts_with("owner"));
    assert_eq!(done(&alone.step()), [("delete", "borrower-3")]);
    alone.rests();
    // If it is still needed, as many more go as are missing.
    assert_eq!(done(&world.step()), [("mark", "borrower-2"), ("delete", "borrower-3")]);
    assert_eq!(done(&world.step()), [("delete", "borrower-2")]);
    world.gone();
    assert_eq!(done(&world.step()), [("bind", "owner-0"), ("bind", "owner-1")]);
}

#[test]
fn a_pod_that_was_told_to_go_and_has_ended_holds_nothing_and_is_missed_by_nobody() {
    let mut world = lent();
    world.step();
    world.step();
    for name in ["borrower-2", "borrower-3"] {
        world.patch("Pod", name, &json!({"metadata": {"deletionTimestamp": null}, "status": {"phase": "Failed"}}));
    }
    assert_eq!(done(&world.step()), [("bind", "owner-0"), ("bind", "owner-1")]);
    world.step();
    world.rests();
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Some gangs, elastic or not, of two or three teams that lend each other CPUs; what their controllers would make them again from.
fn crowd(dice: &mut Dice) -> (World, BTreeMap<String, Vec<Value>>) {
    let teams_of: &[(&str, u32)] =
        if dice.roll(2) == 0 { &[("a", 3), ("b", 5)] } else { &[("a", 2), ("b", 2), ("c", 4)] };
    let nodes: Vec<Value> = (0..2).map(|at| node(&format!("n{at}"), 4, "r")).collect();
    let mut made = BTreeMap::new();
    for at in 0..6 {
        let name = format!("gang-{at}");
        let queue = teams_of[usize::try_from(dice.roll(teams_of.len() as u64)).unwrap()].0;
        let of = queued(queue, i32::try_from(dice.roll(2)).unwrap());
        let size = usize::try_from(1 + dice.roll(4)).unwrap();
        let pods = if dice.roll(3) > 0 { elastic(&name, size, 1, &of) } else { gang(&name, size, 1, HOUR, &of) };
        made.insert(name, pods);
    }
    (world(&nodes, vec![], teams(teams_of)), made)
}

/// Pods that are gone are made again. Of a gang that is stopped those that wait go, too, and all are made again when the last has left.
fn made_whole(world: &mut World, made: &BTreeMap<String, Vec<Value>>) {
    let gang_of = |pod: &Pod| pod.metadata.annotations.as_ref().unwrap()[label::GANG].clone();
    let has = |pod: &&Pod| pod.metadata.annotations.as_ref().unwrap().contains_key(label::PREEMPTED);
    let stopped: BTreeSet<String> = world.view.pods.iter().filter(has).map(gang_of).collect();
    let runs = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
    world.view.pods.retain(|pod| runs(pod) || !stopped.contains(&gang_of(pod)));
    world.gone();
    let left: BTreeSet<String> = world.view.pods.iter().filter(has).map(gang_of).collect();
    for pods in made.iter().filter(|(name, _)| !left.contains(*name)).map(|(_, pods)| pods) {
        for (index, pod) in pods.iter().enumerate() {
            let name = pod["metadata"]["name"].as_str().unwrap();
            if !world.view.pods.iter().any(|pod| pod.metadata.name.as_deref() == Some(name)) {
                world.add(vec![made_again(name, index, pods.clone(), NOW - world.now_ms)]);
            }
        }
    }
}

/// With nothing else happening neither shrinking nor growing goes on for ever, and nobody who shrank for another gets it back.
#[test]
fn shrinking_and_growing_come_to_an_end() {
    let (mut shrunk, mut grown) = (0, 0);
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let (mut world, all) = crowd(&mut dice);
        let mut made: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut late: Vec<(String, Vec<Value>)> = all.into_iter().collect();
        let (mut quiet, mut history) = (0, Vec::new());
        for round in 0..64 {
            // The gangs come one after the other; some time later one of them ends.
            if round % 2 == 0
                && let Some((name, pods)) = late.pop()
            {
                made.insert(name, pods);
            }
            if round == 24 {
                let name = format!("gang-{}", dice.roll(6));
                made.remove(&name);
                world.view.pods.retain(|pod| pod.metadata.annotations.as_ref().unwrap()[label::GANG] != name);
            }
            made_whole(&mut world, &made);
            let before = world.view.pods.clone();
            let placement = world.step();
            let mut moves = done(&placement);
            // What is set aside is noted on pods, too.
            moves.retain(|(verb, name)| *verb != "mark" || is_told(&world, &before, name));
            quiet = if moves.is_empty() { quiet + 1 } else { 0 };
            shrunk += moves.iter().filter(|(verb, name)| *verb == "mark" && is_marked(&world, name)).count();
            grown += moves.iter().filter(|(verb, name)| *verb == "bind" && is_spare(&before, name)).count();
            history.push(format!("{round}: {moves:?}"));
            world.now_ms += 120_000;
        }
        assert!(quiet > 5, "seed {seed}: still moving: {}", history[24..].join("\n"));
    }
    assert!(shrunk > 30 && grown > 10, "only {shrunk} pods were given up, and {grown} came back");
}

/// Whether it was told to go, and had not been before.
fn is_told(world: &World, before: &[Pod], name: &str) -> bool {
    let of = |pods: &[Pod]| {
        let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
        let all = pod.metadata.annotations.as_ref().unwrap();
        [label::PREEMPTED, label::SHRUNK].map(|mark| all.contains_key(mark))
    };
    of(&world.view.pods) != of(before)
}

fn is_marked(world: &World, name: &str) -> bool {
    annotated(world, label::SHRUNK).contains(&name)
}

/// Whether others of its gang run already.
fn is_spare(pods: &[Pod], name: &str) -> bool {
    let gang = name.rsplit_once('-').unwrap().0;
    let runs = |pod: &&Pod| pod.spec.as_ref().unwrap().node_name.is_some();
    pods.iter().filter(runs).any(|pod| pod.metadata.annotations.as_ref().unwrap()[label::GANG] == gang)
}
