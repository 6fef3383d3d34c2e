//! What launchers tell of their ranks: who stands still, who makes the others wait.

use serde_json::{Value, json};
use trainyard_coordinator_core::explain;
use trainyard_coordinator_core::rendezvous::{Generation, Happened, Input, MemberId, Output, Pulse, RankPulse, Spares};
use trainyard_proto::pace::Window;
use trainyard_proto::tempo::Tempo;

use crate::lab::Lab;

#[test]
fn ranks_that_stand_still_are_named() {
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    let uid = lab.world.pods["wine-worker-1"].metadata.uid.clone().unwrap();
    let member = lab.streams[&uid].clone();
    let rank = |rank: u32, waits_in: &str, in_collective| RankPulse {
        rank,
        silent_ms: 4_000,
        waits_in: waits_in.to_owned(),
        in_collective,
        stalled: true,
        window: None,
    };
    let spares = Spares { count: 1, memory_bytes: 1 << 20 };
    let pulse = |ranks: Vec<RankPulse>| Pulse { generation: 1, ranks, spares, ..Pulse::default() };
    let both = pulse(vec![rank(2, "all_reduce", true), rank(3, "load", false)]);
    let happened = lab.pulse(&member, both.clone());
    let [Happened::Hangs { stalled, others: 1 }] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!((stalled.rank, stalled.in_collective), (3, false));
    assert_eq!(lab.pulse(&member, both), [], "told once");
    // A rank of another launcher is not its to tell of.
    assert_eq!(lab.pulse(&member, pulse(vec![rank(0, "x", false)])).len(), 0);
    lab.pulse(&member, pulse(vec![rank(2, "all_reduce", true), rank(3, "load", false)]));
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!(lab.world.codes, ["StandsStill"]);
    let message = lab.world.status("/message");
    let message = message.as_str().unwrap();
    assert!(message.starts_with("rank 3 on host-1 has stood still in load since "), "{message}");
    assert!(message.ends_with("; rank 2 waits for it"), "{message}");
    assert_eq!(lab.world.status("/spares/memoryBytes"), json!(1 << 20));
    lab.pulse(&member, pulse(Vec::new()));
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!((lab.world.status("/stalled"), lab.world.status("/message")), (json!(null), json!(null)));
}

/// Why the job stands still, as a command explains it that cannot ask the rendezvous.
fn told(lab: &Lab) -> String {
    let mut view = lab.world.view();
    view.rendezvous = explain::told(&view.job, &view.pods);
    let reasons = explain::explain(&view, None, lab.world.now_ms);
    reasons.into_iter().find(|reason| reason.code == "StandsStill").unwrap().message
}

#[test]
fn of_several_ranks_that_are_to_blame_all_are_named_before_those_that_wait() {
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    let uid = lab.world.pods["wine-worker-1"].metadata.uid.clone().unwrap();
    let member = lab.streams[&uid].clone();
    let other = lab.streams[lab.world.pods["wine-worker-0"].metadata.uid.as_ref().unwrap()].clone();
    let rank = |rank: u32| RankPulse { rank, in_collective: rank == 0, stalled: true, ..RankPulse::default() };
    let pulse = |ranks| Pulse { generation: 1, ranks, ..Pulse::default() };
    let mut words = |member: &MemberId, ranks: Vec<RankPulse>| {
        lab.pulse(member, pulse(ranks));
        lab.world.meeting = Some(lab.session.view());
        lab.world.plan();
        let message = lab.world.status("/message").as_str().unwrap().to_owned();
        message.split_once("; ").map(|(_, rest)| rest.to_owned()).unwrap_or_default()
    };
    assert_eq!(words(&member, vec![rank(2)]), "");
    assert_eq!(words(&member, vec![rank(2), rank(3)]), "rank 3 stands still, too");
    assert_eq!(words(&other, vec![rank(0), rank(1)]), "ranks 2, 3 stand still, too; rank 0 waits for them");
}

/// Each launcher sees its own ranks only: who is to blame is known where all of it comes together.
#[test]
fn a_hang_over_several_pods_blames_the_rank_that_does_not_wait() {
    let stalled = |rank: u32, in_collective| RankPulse {
        rank,
        silent_ms: 2_000,
        waits_in: if in_collective { "all_reduce" } else { "load" }.to_owned(),
        in_collective,
        stalled: true,
        window: None,
    };
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    let member = |lab: &Lab, pod: &str| lab.streams[lab.world.pods[pod].metadata.uid.as_ref().unwrap()].clone();
    let [first, second] = ["wine-worker-0", "wine-worker-1"].map(|pod| member(&lab, pod));
    let say = |lab: &mut Lab, member: &MemberId, ranks: Vec<RankPulse>| {
        let happened = lab.pulse(member, Pulse { generation: 1, ranks, ..Pulse::default() });
        happened
            .into_iter()
            .map(|event| {
                let Happened::Hangs { stalled, others } = event else { panic!("{event:?}") };
                (stalled.rank, others)
            })
            .collect::<Vec<_>>()
    };
    // Those who wait may wait for one that evaluates.
    assert_eq!(say(&mut lab, &first, vec![stalled(0, true), stalled(1, true)]), []);
    assert_eq!(lab.session.view().stalled, []);
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true)]), []);
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true), stalled(3, false)]), [(3, 3)]);
    assert_eq!(lab.session.view().stalled.len(), 4);
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    let message = lab.world.status("/message").as_str().unwrap().to_owned();
    assert!(message.starts_with("rank 3 on host-1 has stood still in load since "), "{message}");
    assert!(message.ends_with("; ranks 0, 1, 2 wait for it"), "{message}");
    let listed: Vec<(Value, Value)> = (0..4)
        .map(|at| ["rank", "inCollective"].map(|field| lab.world.status(&format!("/stalled/{at}/{field}"))).into())
        .collect();
    let expected = [(3, false), (0, true), (1, true), (2, true)].map(|(rank, waits)| (json!(rank), json!(waits)));
    assert_eq!(listed, expected, "whoever is to blame is the first");
    // A command knows of it only by the status.
    assert!(told(&lab).ends_with(&message), "{}", told(&lab));
    // It gets on, and the others are about to.
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true)]), []);
    assert_eq!(lab.session.view().stalled, []);
    // All wait: for each other.
    assert_eq!(lab.ordered, [], "there was one to blame");
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true), stalled(3, true)]), [(0, 3)]);
    assert_eq!(say(&mut lab, &second, vec![stalled(2, true), stalled(3, true)]), [], "told once");
    assert_eq!(lab.ordered, [], "the first rank is not theirs");
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    let message = lab.world.status("/message").as_str().unwrap().to_owned();
    assert!(message.starts_with("rank 0 on host-0 has stood still in all_reduce since "), "{message}");
    assert!(message.ends_with("; it and ranks 1, 2, 3 wait for each other"), "{message}");
    assert!(told(&lab).ends_with(&message), "{}", told(&lab));
    // Its launcher hears it until it is over.
    let order = Output::Deadlock { members: vec![first.clone()], generation: Generation(1), rank: 0 };
    for count in 1..3 {
        assert_eq!(say(&mut lab, &first, vec![stalled(0, true), stalled(1, true)]), []);
        assert_eq!(lab.ordered, vec![order.clone(); count]);
    }
    assert_eq!(say(&mut lab, &first, vec![stalled(1, true)]), []);
    assert_eq!(lab.ordered.len(), 2);
}

#[test]
fn a_rank_that_makes_those_of_other_pods_wait_is_named() {
    let mut lab = Lab::new("replicas: 2");
    lab.run();
    let pods = ["wine-worker-0", "wine-worker-1"].map(|pod| lab.world.pods[pod].metadata.uid.clone().unwrap());
    let members = pods.map(|uid| lab.streams[&uid].clone());
    let windows = |lab: &mut Lab, number: u64, works: [u32; 4]| {
        lab.world.now_ms += 8_000;
        let mut happened = Vec::new();
        for (member, first) in members.iter().zip([0, 2]) {
            let rank = |rank: u32| {
                let works = works[rank as usize];
                // Only the first pod's output tells of steps.
                let steps = if first == 0 { 9 } else { 0 };
                let window =
                    Window { number, looks: 100, lock: 100 - works, steps, took_ms: 8_000, ..Window::default() };
                RankPulse { rank, window: Some(window), ..RankPulse::default() }
            };
            let pulse = Pulse { generation: 1, ranks: vec![rank(first), rank(first + 1)], ..Pulse::default() };
            // Said with each pulse until there is a newer one.
            happened.extend(lab.pulse(member, pulse.clone()));
            happened.extend(lab.pulse(member, pulse));
        }
        happened
    };
    for number in 1..3 {
        assert_eq!(windows(&mut lab, number, [40, 42, 40, 95]), []);
    }
    let happened = windows(&mut lab, 3, [40, 42, 40, 95]);
    let [Happened::Straggles(slow)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!((slow.rank, slow.host.as_str(), slow.slow.percent), (3, "host-1", 237));
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!(lab.world.codes, ["Straggles"]);
    assert_eq!(lab.world.status("/stragglers/0/rank"), json!(3));
    assert_eq!(lab.world.status("/stragglers/0/slowdown"), json!(2.37));
    let message = lab.world.status("/message").as_str().unwrap().to_owned();
    assert!(message.starts_with("rank 3 on host-1 makes the others wait: its steps have taken 2.3 times"), "{message}");
    for number in 4..6 {
        assert_eq!(windows(&mut lab, number, [90, 92, 90, 95]), []);
    }
    let host = "host-1".to_owned();
    assert_eq!(windows(&mut lab, 6, [90, 92, 90, 95]), [Happened::KeepsUp { rank: 3, host }]);
    lab.world.meeting = Some(lab.session.view());
    lab.world.plan();
    assert_eq!((lab.world.status("/stragglers"), lab.world.status("/message")), (json!(null), json!(null)));
}

/// Often only rank 0 writes lines: launchers whose own ranks show nothing are told when those of the others are silent.
#[test]
fn who_shows_nothing_hears_of_the_others_silence() {
    let mut lab = Lab::new("replicas: 3");
    lab.run();
    let member = |lab: &Lab, pod: &str| lab.streams[lab.world.pods[pod].metadata.uid.as_ref().unwrap()].clone();
    let [first, second, third] = ["0", "1", "2"].map(|at| member(&lab, &format!("wine-worker-{at}")));
    let beat = |lab: &mut Lab, generation: u64, member: &MemberId, silent_ms: Option<i64>| {
        lab.world.now_ms += 200;
        let tempo = silent_ms.map(|silent_ms| Tempo { steps: true, silent_ms, usual_ms: 100, waits: true });
        lab.ordered.clear();
        assert_eq!(lab.pulse(member, Pulse { generation, tempo, still: true, ..Pulse::default() }), []);
        lab.ordered.pop().map(|order| {
            let Output::Others { members, generation: Generation(1), silence } = order else { panic!("{order:?}") };
            (members, silence.map(|silence| silence.silent_ms))
        })
    };
    assert_eq!(beat(&mut lab, 1, &second, None), None);
    assert_eq!(beat(&mut lab, 1, &third, Some(10)), None);
    assert_eq!(beat(&mut lab, 1, &first, Some(5_000)), None, "the third got on");
    assert_eq!(beat(&mut lab, 1, &third, Some(4_000)), Some((vec![second.clone()], Some(4_000))));
    // Whose ranks have ended well does not have to be heard.
    lab.step(Input::Finished { member: third, generation: Generation(1) });
    for _ in 0..10 {
        beat(&mut lab, 1, &second, None);
    }
    assert_eq!(beat(&mut lab, 1, &first, Some(7_000)), Some((vec![second.clone()], Some(7_000))));
    // Of another generation nothing is known here.
    assert_eq!(beat(&mut lab, 2, &first, Some(10)), None);
    assert_eq!(beat(&mut lab, 1, &second, None), Some((vec![second], Some(7_400))));
}
