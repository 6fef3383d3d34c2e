//! Programs that write lines rather than tell steps, that work for long without a sign, or that cannot be read.

use super::others::Fleet;
use super::*;

/// Rank 0 writes lines that hold no step, as of a progress bar; the others write nothing.
fn lines(world: &mut World, count: u32, every_ms: i64) {
    for _ in 0..count {
        world.pass(every_ms);
        world.detector.sign(world.now_ms, 0, Sign::Life);
    }
}

/// Each rank says that it has started.
fn start(world: &mut World) {
    for _ in 0..4 {
        world.pass(300);
        (0..3).for_each(|rank| world.detector.sign(world.now_ms, rank, Sign::Life));
    }
}

/// CPU for a moment, as a thread needs that samples the machine for a tracker of experiments.
fn blip(world: &mut World, rank: usize) {
    world.ranks[rank].cpu = 900;
    world.pass(100);
    world.ranks[rank].cpu = 0;
}

/// Minutes of lines each 0.5 s by rank 0, an evaluation of 20 s on rank 0, and rank 1 does not come back from it.
#[test]
fn a_hang_after_an_evaluation_beside_a_rank_that_writes_lines() {
    let mut world = World::new(2);
    lines(&mut world, 240, 500);
    world.stand(1, waits("all_reduce", true));
    world.pass(20_000);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("queue.get", false));
    world.pass(3_600_000);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim)], "within an hour");
}

/// All stand in a collective: of unequal numbers of batches, as evaluations have.
#[test]
fn a_deadlock_at_the_end_of_an_evaluation() {
    let mut world = World::new(2);
    lines(&mut world, 240, 500);
    world.pass(20_000);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("all_gather", true));
    world.pass(3_600_000);
    assert_eq!(world.found().len(), 2, "within an hour");
}

/// One rank, lines each second, ten minutes of evaluation, and it hangs.
#[test]
fn a_hang_after_ten_minutes_of_evaluation_is_said_in_time() {
    let mut world = World::new(1);
    lines(&mut world, 600, 1_000);
    world.pass(600_000);
    world.stand(0, waits("queue.get", false));
    let stop = world.now_ms;
    world.pass(3_600_000);
    let said = world.said_ms.first().map(|at| at - stop);
    assert!(said.is_some_and(|ms| ms <= 3_000), "{said:?}");
}

#[test]
fn who_was_found_is_found_again_after_a_moments_work() {
    let mut world = World::new(2);
    lines(&mut world, 100, 500);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("queue.get", false));
    world.pass(10_000);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim)]);
    blip(&mut world, 0);
    blip(&mut world, 1);
    world.pass(3_600_000);
    let found = world.detector.found().count();
    assert!(found > 0, "it still hangs; said to move again: {:?}", world.moves);
}

/// One rank; something in it needs 0.1 s of CPU each 15 s. It hangs after an evaluation of a minute.
#[test]
fn a_hang_in_which_a_thread_works_now_and_then() {
    let mut world = World::new(1);
    lines(&mut world, 600, 1_000);
    world.pass(60_000);
    world.stand(0, waits("queue.get", false));
    for _ in 0..240 {
        world.pass(15_000);
        blip(&mut world, 0);
    }
    assert!(!world.said.is_empty(), "nothing in an hour");
}

#[test]
fn a_hang_in_which_a_thread_works_each_two_seconds() {
    let mut world = World::new(1);
    lines(&mut world, 600, 500);
    world.stand(0, waits("queue.get", false));
    world.pass(1_300);
    let mut last = 0;
    for _ in 0..1_800 {
        blip(&mut world, 0);
        world.pass(1_900);
        last = world.said.len();
    }
    assert!(last > 0, "nothing in an hour");
}

/// Ranks of the second pod showed a bar for 15 s while they read their data; then rank 0 of the first pod tells of steps, and a
/// rank of the second pod hangs.
#[test]
fn pods_that_wrote_lines_once_are_told_of_the_silence_of_steps() {
    let mut fleet = Fleet::new(2, 10);
    for _ in 0..50 {
        fleet.pass(300);
        let now_ms = fleet.now_ms();
        fleet.launchers[1].detector.sign(now_ms, 0, Sign::Life);
    }
    fleet.train(0, 6_000, 100);
    fleet.hang(1);
    fleet.pass(3_600_000);
    let found = fleet.found();
    assert_eq!(found, [(1, 1, Role::Culprit), (1, 0, Role::Victim)], "within an hour");
}

/// Lines by rank 0 of the first pod, no steps; it evaluates for 20 s; a rank of the second pod does not come back from that.
#[test]
fn a_hang_elsewhere_after_an_evaluation() {
    let mut fleet = Fleet::new(2, 10);
    for _ in 0..100 {
        fleet.pass(300);
        let now_ms = fleet.now_ms();
        fleet.launchers[0].detector.sign(now_ms, 0, Sign::Life);
    }
    fleet.pass(20_000);
    fleet.hang(1);
    fleet.pass(600_000);
    assert_eq!(fleet.found(), [(1, 1, Role::Culprit), (1, 0, Role::Victim)], "within ten minutes");
}

/// `if rank == 0: download(); barrier()`, after a few lines of each.
#[test]
fn rank_0_fetches_while_the_others_wait_in_a_barrier_since_the_start() {
    let mut world = World::new(3);
    start(&mut world);
    (1..3).for_each(|rank| world.stand(rank, waits("barrier", true)));
    world.pass(5_000);
    world.stand(0, waits("recv from the hub", false));
    world.pass(1_000);
    world.ranks[0].cpu = 800;
    world.pass(5_000);
    assert_eq!(world.found(), [], "it stood for a second");
}

/// After a few lines of each, the others look each second whether rank 0 has made the data.
#[test]
fn ranks_poll_for_a_file_while_rank_0_makes_it() {
    let mut world = World::new(3);
    start(&mut world);
    (1..3).for_each(|rank| world.stand(rank, waits("time.sleep(1)", false)));
    world.pass(30_000);
    assert_eq!(world.found(), []);
}

/// After 3 s of work (imports, CUDA).
#[test]
fn ranks_poll_for_a_file_after_some_work() {
    let mut world = World::new(3);
    start(&mut world);
    world.pass(3_000);
    (1..3).for_each(|rank| world.stand(rank, waits("time.sleep(1)", false)));
    world.pass(60_000);
    assert_eq!(world.found(), []);
}

/// Steps of 0.1 s that are told; an evaluation of 5 s that computes, and then a wait of 0.9 s for a server.
#[test]
fn a_wait_in_an_evaluation_of_a_program_that_tells_steps() {
    for stands_ms in [700, 900, 1_200, 1_500] {
        let mut world = World::new(2);
        world.train(0, 600, 100);
        world.stand(1, waits("barrier", true));
        world.pass(5_000);
        world.stand(0, waits("recv", false));
        world.pass(stands_ms);
        world.ranks[0].cpu = 800;
        world.pass(5_000);
        assert_eq!(world.found(), [], "stood for {stands_ms} ms");
    }
}

#[test]
fn a_wait_in_an_evaluation_of_a_program_that_writes_lines() {
    let mut world = World::new(2);
    lines(&mut world, 600, 100);
    world.stand(1, waits("barrier", true));
    world.pass(1_700);
    world.stand(0, waits("recv", false));
    world.pass(900);
    world.ranks[0].cpu = 800;
    world.pass(5_000);
    assert_eq!(world.found(), []);
}

/// The stack tells nothing: Python 3.10, or a shell in front of it. Rank 0 evaluates on its CPU, the others wait for it.
#[test]
fn who_waits_for_others_in_what_cannot_be_read() {
    let mut world = World::new(3);
    world.train(0, 600, 100);
    (1..3).for_each(|rank| world.stand(rank, Waits { stack: Vec::new(), ..waits("wait (for a process)", false) }));
    world.pass(5_000);
    assert_eq!(world.found(), []);
}

/// Rank 1 joins late: it computes for 30 s (it reads its data), and then waits 7 s for something.
#[test]
fn a_late_rank_is_named_after_16_s_of_doing_nothing() {
    let mut world = World::new(2);
    world.stand(0, waits("recv", false));
    world.detector.apart(0, &BTreeSet::from([1]));
    world.pass(30_000);
    world.stand(1, waits("urlopen", false));
    world.pass(8_000);
    assert_eq!(world.found(), []);
}

/// Each epoch: lines each 0.1 s, then 30 s of evaluation with CPU and a wait of 1 s for the tracker's server at its end.
#[test]
fn epochs_with_lines_and_an_evaluation_that_ends_with_a_wait() {
    for evaluation_ms in [1_000, 1_500, 3_000, 30_000] {
        let mut world = World::new(2);
        for epoch in 0..5 {
            lines(&mut world, 300, 100);
            world.stand(1, waits("barrier", true));
            world.pass(evaluation_ms);
            world.stand(0, waits(&format!("recv {epoch}"), false));
            world.pass(1_000);
            world.ranks.iter_mut().for_each(|rank| rank.cpu = 800);
            world.pass(200);
        }
        assert_eq!(world.found(), [], "after {evaluation_ms} ms");
    }
}

/// Rank 1 is to blame, and said to be; then rank 0, which waits for it, needs a moment's CPU.
#[test]
fn a_victim_that_is_found_again_is_no_news() {
    let mut world = World::new(2);
    world.train(0, 100, 100);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("queue.get", false));
    world.pass(5_000);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim)]);
    world.pass(5_000);
    blip(&mut world, 0);
    world.pass(120_000);
    let text = report(&world.said, "node-a");
    assert!(!text.contains("for each other"), "{text}");
}

/// What a rank did before it stood still is no part of the hang, and takes nothing of its time.
#[test]
fn a_hang_after_some_work_without_a_sign_is_said_in_time() {
    for step_ms in [100, 1_000, 10_000] {
        for work_ms in (0..120).map(|part| part * step_ms / 10 + part * 37) {
            let mut world = World::new(2);
            world.train(0, 30, step_ms);
            world.pass(work_ms);
            world.stand(0, waits("all_reduce", true));
            world.stand(1, waits("queue.get", false));
            let stop = world.now_ms;
            world.pass(100_000);
            let said = world.said_ms.first().map(|at| at - stop);
            assert!(said.is_some_and(|after| after <= limit(step_ms)), "{step_ms} {work_ms}: {said:?}");
        }
    }
}

#[test]
fn a_wait_of_less_than_four_fifths_of_the_limit_is_none_after_work() {
    for (reading_ms, work_ms) in [(60, 1_500), (150, 1_700), (300, 5_000), (60, 5_060), (150, 5_120), (300, 5_190)] {
        let mut world = World::new(2);
        world.reading_ms = reading_ms;
        world.train(0, 100, 100);
        world.stand(1, waits("barrier", true));
        world.pass(work_ms);
        world.stand(0, waits("recv", false));
        world.pass(LEAST_MS / 5 * 4 - 100);
        world.ranks[0].cpu = 800;
        world.pass(3_000);
        assert_eq!(world.found(), [], "{reading_ms} {work_ms}");
    }
}

/// Whatever the steps take, a thread that samples the machine hides nothing.
#[test]
fn a_sampler_of_the_machine_does_not_hide_a_hang() {
    let cases =
        [(1_000, 2_000), (3_000, 5_000), (5_000, 10_000), (10_000, 15_000), (40_000, 15_000), (60_000, 100_000)];
    for (step_ms, every_ms) in cases {
        let mut world = World::new(2);
        world.train(0, 30, step_ms);
        world.stand(0, waits("all_reduce", true));
        world.stand(1, waits("queue.get", false));
        for _ in 0..20 {
            world.pass(every_ms);
            blip(&mut world, 1);
        }
        let found = world.found();
        assert_eq!(found.first(), Some(&(1, Role::Culprit)), "{step_ms} {every_ms}");
    }
}

#[test]
fn a_deadlock_is_told_again_after_somebody_moved() {
    let mut world = World::new(2);
    world.train(0, 100, 100);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("queue.get", false));
    world.pass(5_000);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim)]);
    blip(&mut world, 1);
    world.stand(1, waits("all_gather", true));
    world.pass(60_000);
    assert_eq!(world.found(), [(0, Role::Victim), (1, Role::Victim)], "both, though rank 0 never moved");
    blip(&mut world, 0);
    world.pass(60_000);
    assert_eq!(world.found(), [(0, Role::Victim), (1, Role::Victim)]);
}

/// A program that writes a few lines after each epoch.
#[test]
fn a_hang_among_bursts_of_lines() {
    for (gap_ms, burst, work_ms) in [(150, 3, 10_000), (150, 3, 5_000), (300, 4, 30_000), (100, 1, 10_000)] {
        let mut world = World::new(1);
        for _ in 0..60 {
            for _ in 0..burst {
                world.pass(gap_ms);
                world.detector.sign(world.now_ms, 0, Sign::Life);
            }
            world.pass(work_ms);
        }
        assert_eq!(world.found(), []);
        world.pass(work_ms / 2);
        world.stand(0, waits("queue.get", false));
        world.pass(EARLY_MS.max(STEPS * (work_ms + gap_ms)));
        assert_eq!(world.found(), [(0, Role::Culprit)], "{gap_ms} {burst} {work_ms}");
    }
}

/// Elsewhere another rank may work: whoever knows all of them can tell.
#[test]
fn who_cannot_be_read_and_may_wait_for_ranks_elsewhere_is_known_and_not_said() {
    let mut world = World::new(2);
    world.detector = Detector::new(0, 0..2, false);
    world.train(0, 100, 100);
    (0..2).for_each(|rank| world.stand(rank, Waits { stack: Vec::new(), ..waits("futex (a lock)", false) }));
    world.pass(10_000);
    assert_eq!(world.found(), []);
    let roles: Vec<_> = (0..2).map(|rank| world.detector.standing(rank).map(|finding| finding.role)).collect();
    assert_eq!(roles, [Some(Role::Victim); 2]);
    assert!(!world.detector.waits(), "nobody is blamed because of it");
}

#[test]
fn a_moments_work_in_a_download_at_the_start_is_seen() {
    for at_ms in [3_000, 5_000, 6_500] {
        let mut world = World::new(1);
        for _ in 0..4 {
            world.pass(300);
            world.detector.sign(world.now_ms, 0, Sign::Life);
        }
        world.stand(0, waits("recv", false));
        world.pass(at_ms);
        world.ranks[0].cpu = 900;
        world.pass(600);
        world.stand(0, waits("recv", false));
        world.pass(EARLY_MS / 5 * 4 - 1_000);
        assert_eq!(world.found(), [], "{at_ms}");
    }
}

/// Rank 0 evaluates, and rank 1 waits for it; then both work for a moment, and rank 1 waits for its data.
#[test]
fn who_waited_for_an_evaluation_has_its_time_in_what_follows() {
    for (after_ms, wait_ms) in (0..10).flat_map(|part| [700, 1_000, 1_400].map(|wait_ms| (20_000 + part * 31, wait_ms)))
    {
        let mut world = World::new(2);
        world.train(0, 100, 100);
        world.stand(1, waits("all_reduce", true));
        world.pass(after_ms);
        world.ranks[1].cpu = 900;
        world.pass(60);
        world.stand(0, waits("all_reduce", true));
        world.stand(1, waits("recv", false));
        world.pass(wait_ms);
        assert_eq!(world.found(), [], "{after_ms} {wait_ms}");
        world.pass(LEAST_MS - wait_ms);
        assert_eq!(world.found().first(), Some(&(1, Role::Culprit)), "{after_ms} {wait_ms}");
    }
}

/// Each rank showed a bar while it read its data; then rank 0 tells of steps, and rank 1 waits for its part in each of them.
#[test]
fn who_wrote_lines_at_the_start_has_the_time_of_a_step() {
    let mut world = World::new(2);
    for _ in 0..600 {
        world.pass(100);
        (0..2).for_each(|rank| world.detector.sign(world.now_ms, rank, Sign::Life));
    }
    world.train(0, 4, 5_000);
    for step in 4..20 {
        world.stand(1, waits("queue.get", false));
        world.pass(2_500);
        world.ranks[1].cpu = 900;
        world.train(step, 1, 2_500);
    }
    assert_eq!(world.found(), []);
    world.stand(0, waits("all_reduce", true));
    world.stand(1, waits("queue.get", false));
    world.pass(STEPS * 5_000);
    assert_eq!(world.found(), [(1, Role::Culprit), (0, Role::Victim)]);
}
