//! Quota as in Kueue's documentation.

use super::world::{GPU, START_MS, gang, node, queue, role, view};
use crate::schedule::{Cohort, Gang, Phase, Place, PreemptionPolicy, Quota, Reason, View, decide};

fn quota(nominal: i64, borrowing_limit: Option<i64>, lending_limit: Option<i64>) -> Quota {
    Quota { resource: u32::try_from(GPU).unwrap(), nominal, borrowing_limit, lending_limit }
}

/// Two queues of one cohort with these quotas, on one node of 16 GPUs.
fn two(a: Quota, b: Quota, gangs: Vec<Gang>) -> View {
    let mut world = view(vec![node("n", 64, 16, &[])], gangs);
    world.cohorts = vec![Cohort { name: "all".to_owned(), weight_milli: 1_000, ..Cohort::default() }];
    world.queues = vec![queue("a"), queue("b")];
    for (queue, quota) in world.queues.iter_mut().zip([a, b]) {
        queue.cohort = Some(0);
        queue.quotas = vec![quota];
        queue.reclaim_within_cohort = PreemptionPolicy::Any;
    }
    world
}

fn wants(name: &str, queue: u32, gpus: u32) -> Gang {
    Gang { queue, ..gang(name, vec![role("worker", gpus, 1, 1)]) }
}

fn has(name: &str, queue: u32, gpus: u32) -> Gang {
    let since_ms = START_MS - 3_600_000;
    let places = vec![Place { role: 0, node: 0, count: gpus }];
    let phase = Phase::Running { since_ms, changed_ms: since_ms, saved_ms: since_ms, places };
    Gang { phase, ..wants(name, queue, gpus) }
}

/// Whether the first gang starts, or why not.
fn outcome(world: &View) -> Result<(), Reason> {
    let decision = decide(world, START_MS);
    decision.waiting.into_iter().find(|one| one.gang == 0).map_or(Ok(()), |one| Err(one.reason))
}

#[test]
fn a_queue_borrows_what_others_do_not_use() {
    let all = || quota(8, None, None);
    assert_eq!(outcome(&two(all(), all(), vec![wants("a", 0, 16)])), Ok(()));
    let limit = quota(8, Some(4), None);
    assert_eq!(outcome(&two(limit, all(), vec![wants("a", 0, 12)])), Ok(()));
    let above = Reason::AboveQuota { resource: 1, asked: 13, limit: 12 };
    assert_eq!(outcome(&two(limit, all(), vec![wants("a", 0, 13)])), Err(above));
    let lends = quota(8, None, Some(2));
    let above = Reason::AboveQuota { resource: 1, asked: 11, limit: 10 };
    assert_eq!(outcome(&two(all(), lends, vec![wants("a", 0, 11)])), Err(above));
    let used = Reason::QuotaUsed { resource: 1, asked: 8, available: 6 };
    let mut world = two(all(), quota(6, None, None), vec![wants("a", 0, 8), has("mine", 0, 8)]);
    world.queues[0].reclaim_within_cohort = PreemptionPolicy::Never;
    assert_eq!(outcome(&world), Err(used));
}

#[test]
fn what_was_lent_is_taken_back_and_no_more() {
    let all = || quota(8, None, None);
    let world = two(all(), all(), vec![wants("a", 0, 4), has("b1", 1, 4), has("b2", 1, 4), has("b3", 1, 8)]);
    let decision = decide(&world, START_MS);
    assert_eq!(decision.admissions.len(), 1);
    assert_eq!(decision.preemptions.len(), 1, "{decision:?}");
    // The other way round: who borrows takes nothing.
    let world = two(all(), all(), vec![wants("a", 0, 4), has("a1", 0, 8), has("b1", 1, 8)]);
    let decision = decide(&world, START_MS);
    assert!(decision.preemptions.is_empty() && decision.admissions.is_empty());
}

#[test]
fn nothing_is_taken_back_where_that_gains_nothing() {
    // To give 2 GPUs to their owner, 12 would be stopped, 6 of which their queue is entitled to.
    let world =
        two(quota(10, None, None), quota(6, None, None), vec![wants("a", 0, 2), has("a1", 0, 4), has("b", 1, 12)]);
    assert!(decide(&world, START_MS).preemptions.is_empty());
    // For 8 it is worth it: 8 that are due against 6.
    let world =
        two(quota(12, None, None), quota(4, None, None), vec![wants("a", 0, 8), has("a1", 0, 4), has("b", 1, 12)]);
    assert_eq!(decide(&world, START_MS).preemptions.len(), 1);
}

#[test]
fn a_higher_priority_is_never_stopped_for_a_lower_one() {
    let all = || quota(8, None, None);
    let high = Gang { priority: 5, ..has("b", 1, 16) };
    let world = two(all(), all(), vec![wants("a", 0, 4), high]);
    assert!(decide(&world, START_MS).preemptions.is_empty());
}

#[test]
fn weights_divide_what_a_cohort_has_itself() {
    let none = || quota(0, None, None);
    let mut world =
        two(none(), none(), vec![wants("a", 0, 4), has("b1", 1, 4), has("b2", 1, 4), has("b3", 1, 4), has("b4", 1, 4)]);
    world.cohorts[0].quotas = vec![quota(16, None, None)];
    // Half of 16 each: 4 come back to the first queue.
    assert_eq!(decide(&world, START_MS).preemptions.len(), 1);
    // With a weight of a third it is entitled to 4, with one of a seventh to 2.
    world.queues[1].weight_milli = 3_000;
    assert_eq!(decide(&world, START_MS).preemptions.len(), 1);
    world.queues[1].weight_milli = 7_000;
    assert!(decide(&world, START_MS).preemptions.is_empty());
}

#[test]
fn cohorts_are_a_tree() {
    let mut world = two(quota(4, None, None), quota(4, None, None), vec![wants("a", 0, 12)]);
    world.cohorts.push(Cohort {
        name: "top".to_owned(),
        quotas: vec![quota(4, None, None)],
        weight_milli: 1_000,
        ..Cohort::default()
    });
    assert_eq!(outcome(&world), Err(Reason::AboveQuota { resource: 1, asked: 12, limit: 8 }));
    world.cohorts[0].parent = Some(1);
    assert_eq!(outcome(&world), Ok(()));
    world.cohorts[0].quotas = vec![quota(0, Some(2), None)];
    assert_eq!(outcome(&world), Err(Reason::AboveQuota { resource: 1, asked: 12, limit: 10 }));
    // Cohorts that are said to be each other's ancestors: the first stands above.
    world.cohorts[1].parent = Some(0);
    assert_eq!(outcome(&world), Ok(()));
}
