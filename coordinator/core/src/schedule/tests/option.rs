//! Gangs that may start in one of several shapes.

use std::sync::Arc;

use super::world::{CPU, GPU, START_MS, gang, node, queue, role, view};
use crate::schedule::{
    Admission, Fungibility, Gang, Phase, Place, PreemptionPolicy, Quota, Reason, Shape, View, decide,
};

const MINUTE: i64 = 60_000;

/// A gang of one pod that asks for GPUs, or else for CPUs.
fn either(name: &str, gpus: i64, cpus: i64) -> Gang {
    let shape = |cpu: i64, gpu: i64| Arc::new(Shape { roles: vec![role("worker", 1, cpu, gpu)], ..Shape::default() });
    let options = vec![shape(0, gpus), shape(cpus, 0)];
    Gang { shape: Arc::clone(&options[0]), options, ..gang(name, Vec::new()) }
}

fn quota(resource: usize, nominal: i64) -> Quota {
    Quota { resource: u32::try_from(resource).unwrap(), nominal, borrowing_limit: None, lending_limit: None }
}

/// One node, and one queue that has quota for so many GPUs and CPUs.
fn world(gpus: i64, cpus: i64, gangs: Vec<Gang>) -> View {
    let mut world = view(vec![node("n", 16, 8, &[])], gangs);
    world.queues = vec![queue("main")];
    world.queues[0].quotas = vec![quota(GPU, gpus), quota(CPU, cpus)];
    world.queues[0].within_cluster_queue = PreemptionPolicy::LowerPriority;
    world
}

fn running(mut gang: Gang, option: usize) -> Gang {
    let since_ms = START_MS - 60 * MINUTE;
    gang.shape = Arc::clone(&gang.options[option]);
    let places = vec![Place { role: 0, node: 0, count: 1 }];
    gang.phase = Phase::Running { since_ms, changed_ms: since_ms, saved_ms: since_ms, places };
    gang
}

fn chosen(admissions: &[Admission]) -> Vec<(u32, u32)> {
    admissions.iter().map(|one| (one.gang, one.option)).collect()
}

#[test]
fn the_first_that_fits_is_taken_and_stays() {
    let view = world(4, 4, vec![either("a", 4, 4), either("b", 4, 4), either("c", 4, 4)]);
    let decision = decide(&view, START_MS);
    assert_eq!(chosen(&decision.admissions), [(0, 0), (1, 1)]);
    assert_eq!(decision.waiting[0].reason, Reason::QuotaUsed { resource: 1, asked: 4, available: 0 });
    let mut after = decision.applied(&view, START_MS);
    assert_eq!(after.gangs[1].shape, after.gangs[1].options[1]);
    assert!(decide(&after, START_MS).is_empty(&after));
    // The first ends: its room is the third's, the second stays where it is.
    after.gangs.remove(0);
    assert_eq!(chosen(&decide(&after, START_MS + MINUTE).admissions), [(1, 0)]);
}

#[test]
fn the_reason_is_of_one_in_which_it_could_start() {
    let view = world(2, 4, vec![either("a", 4, 4), running(either("b", 2, 3), 1)]);
    let decision = decide(&view, START_MS);
    assert_eq!(decision.waiting[0].reason, Reason::QuotaUsed { resource: 0, asked: 4, available: 1 });
    assert_eq!(decision.waiting[0].option, 1);
    let view = world(2, 3, vec![either("a", 4, 4)]);
    let above = Reason::AboveQuota { resource: 1, asked: 4, limit: 2 };
    assert_eq!(decide(&view, START_MS).waiting[0].reason, above);
}

#[test]
fn the_next_is_tried_before_somebody_is_stopped_or_after() {
    let high = || Gang { priority: 1, ..either("high", 4, 4) };
    let mut view = world(4, 4, vec![high(), running(either("low", 4, 4), 0)]);
    let decision = decide(&view, START_MS);
    assert_eq!((chosen(&decision.admissions), decision.preemptions.len()), (vec![(0, 1)], 0));
    view.queues[0].fungibility = Fungibility { preempt_first: true, ..Fungibility::default() };
    let decision = decide(&view, START_MS);
    // Who was stopped has its turn with what is left.
    assert_eq!((chosen(&decision.admissions), decision.preemptions.len()), (vec![(0, 0), (1, 1)], 1));
    let after = decision.applied(&view, START_MS);
    assert!(decide(&after, START_MS).is_empty(&after));
}

#[test]
fn places_are_set_aside_in_one_of_them() {
    let ends = |gang: Gang, minutes: i64| Gang { run_limit_ms: Some((60 + minutes) * MINUTE), ..gang };
    // GPUs are free in an hour, and too few of them; CPUs in ten minutes.
    let runs = vec![ends(running(either("gpus", 2, 0), 0), 60), ends(running(either("cpus", 0, 4), 1), 10)];
    let mut view = world(2, 4, runs);
    view.gangs.push(either("large", 4, 4));
    let decision = decide(&view, START_MS);
    let held = decision.waiting[0].reservation.clone().unwrap();
    assert_eq!((held.option, held.promised, held.start_ms), (1, true, START_MS + 10 * MINUTE));
    let mut after = decision.applied(&view, START_MS);
    assert!(decide(&after, START_MS).is_empty(&after));
    after.gangs.remove(1);
    assert_eq!(chosen(&decide(&after, START_MS + 10 * MINUTE).admissions), [(1, 1)]);
}
