#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod real;

use super::{Host, Job, Load, Options, Packing, Pod, Policy, Report, Trace, fill, fleet, hosts, parse, replay};

const SMALL: &str = include_str!("small.csv");
const PODS: &str = include_str!("small-pods.csv");
const NODES: &str = include_str!("small-nodes.csv");

fn jobs(text: &str) -> Vec<Job> {
    match parse(text).unwrap() {
        Trace::Jobs(jobs) => jobs,
        Trace::Pods(pods) => panic!("{} pods", pods.len()),
    }
}

fn pods(text: &str) -> Vec<Pod> {
    match parse(text).unwrap() {
        Trace::Pods(pods) => pods,
        Trace::Jobs(jobs) => panic!("{} jobs", jobs.len()),
    }
}

fn nodes() -> Vec<Host> {
    hosts(NODES).unwrap()
}

fn with(policy: Policy) -> Report {
    replay(&jobs(SMALL), Options::new(8, policy))
}

#[test]
fn every_job_ends_under_every_policy() {
    let jobs = jobs(SMALL);
    let work: f64 = jobs.iter().filter(|job| job.gpus <= 8).map(|job| f64::from(job.gpus) * job.run_ms as f64).sum();
    for policy in Policy::ALL {
        let report = with(policy);
        assert_eq!(report.jobs + report.refused, jobs.len() as u64, "{policy:?}");
        assert!(report.p50_hours <= report.p99_hours && report.utilisation <= 1.0, "{policy:?}: {report:?}");
        assert_eq!(report.preemptions > 0, policy.preempts(), "{policy:?}: {report:?}");
        // Without preemption what was used is what was asked for.
        let used = report.used - work;
        assert!(used.abs() < 1.0 || (policy.preempts() && used > 0.0), "{policy:?}: {used}");
        assert_eq!(report, with(policy), "{policy:?}: a replay is the same each time");
    }
}

#[test]
fn to_know_is_better_than_to_learn_and_to_learn_than_neither() {
    let [fifo, skip, sjf, ours, srtf] =
        [Policy::Fifo, Policy::Skip, Policy::Sjf, Policy::Ours, Policy::Srtf].map(|policy| with(policy).mean_hours);
    assert!(srtf < ours && ours < skip && skip < fifo && sjf < skip, "{srtf} {ours} {sjf} {skip} {fifo}");
}

#[test]
fn one_job_takes_as_long_as_it_runs() {
    let job = |submit_ms, gpus| Job { submit_ms, run_ms: 3_600_000, gpus, owner: 0 };
    let report = replay(&[job(0, 4), job(0, 4), job(0, 9)], Options::new(8, Policy::Fifo));
    assert_eq!((report.jobs, report.refused), (2, 1));
    assert!((report.mean_hours - 1.0).abs() < 1e-9 && (report.utilisation - 1.0).abs() < 1e-9);
    // One after the other.
    let report = replay(&[job(0, 8), job(0, 8)], Options::new(8, Policy::Skip));
    assert!((report.mean_hours - 1.5).abs() < 1e-9 && (report.p99_hours - 2.0).abs() < 1e-9);
}

#[test]
fn who_was_promised_a_start_starts_by_then() {
    for limit_percent in [100, 150, 300] {
        let report = replay(&jobs(SMALL), Options { limit_percent, ..Options::new(8, Policy::Easy) });
        assert!(report.promised > 20 && report.late == 0, "{limit_percent} %: {report:?}");
    }
    assert_eq!(with(Policy::Skip).promised, 0, "without limits nothing can be promised");
}

#[test]
fn places_are_set_aside_for_who_waits() {
    let job = |submit_ms, gpus, hours: i64| Job { submit_ms, run_ms: hours * 3_600_000, gpus, owner: 0 };
    // The second needs all; the third would hold it up for 8 hours, the fourth would not.
    let jobs = [job(0, 4, 2), job(1, 8, 1), job(2, 4, 10), job(3, 4, 1)];
    let of = |policy| replay(&jobs, Options { limit_percent: 100, ..Options::new(8, policy) });
    let (easy, skip) = (of(Policy::Easy), of(Policy::Skip));
    assert!((easy.mean_hours - (2.0 + 3.0 + 13.0 + 1.0) / 4.0).abs() < 1e-3, "{easy:?}");
    assert!((skip.mean_hours - (2.0 + 11.0 + 10.0 + 3.0) / 4.0).abs() < 1e-3, "{skip:?}");
    assert_eq!((easy.promised, easy.late), (2, 0));
}

#[test]
fn jobs_come_in_the_order_of_their_submission() {
    let text = "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:00:10,66.0,1,66.0,a\n\n\
        2017-10-09 07:00:00,2.5,8,20,b\n";
    let jobs = jobs(text);
    assert_eq!(jobs.iter().map(|job| (job.run_ms, job.gpus)).collect::<Vec<_>>(), [(2_500, 8), (66_000, 1)]);
    assert_ne!(jobs[0].owner, jobs[1].owner);
}

#[test]
fn what_cannot_be_read_is_told_with_its_place_and_what_to_do() {
    let told = |text: &str| {
        let error = parse(text).unwrap_err();
        format!("{error}; {}", error.hint)
    };
    let philly = "timestamp,duration,num_gpus\n";
    assert!(told("timestamp,duration\n").starts_with("1:1: there is no column `num_gpus`; the first line names"));
    assert_eq!(
        told(&format!("{philly}2017-10-09 07:00:10,long,1\n")),
        "2:21: `duration` is `long`; `duration` is a number, not below zero; correct the line, or take it out"
    );
    assert!(told(&format!("{philly}\nyesterday,1,1\n")).starts_with("3:1: `timestamp` is `yesterday`; "));
    assert!(
        told(&format!("{philly}2017-10-09 07:00:10,1\n"))
            .starts_with("2:22: `num_gpus` is missing: the line has 2 of 3")
    );
    assert!(told(&format!("{philly}2017-10-09 07:00:10,1,\n")).starts_with("2:23: `num_gpus` is empty"));
    assert!(told(&format!("{philly}2017-10-09 07:00:10,1,1.5\n")).starts_with("2:23: `num_gpus` is `1.5`"));
    let openb = "cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time,deletion_time,scheduled_time\n";
    assert!(told("gpu_milli\n").starts_with("1:1: there is no column `cpu_milli`; "));
    assert!(
        told(&format!("{openb}1,1,2,500,0,9,0\n")).starts_with("2:7: `gpu_milli` is `500`; `gpu_milli` is 1000 where")
    );
    assert!(told(&format!("{openb}1,1,1,1001,0,9,0\n")).starts_with("2:7: `gpu_milli` is `1001`"));
    assert!(told(&format!("{openb}1,1,1,500,0,9,10\n")).starts_with("2:13: `deletion_time` is `9`; "));
    assert_eq!(hosts("cpu_milli,memory_mib,gpu,model\n1,1,many,T4\n").unwrap_err().to_string(), "2:5: `gpu` is `many`");
}

#[test]
fn every_pod_ends_on_nodes_under_every_policy() {
    let (pods, nodes) = (pods(PODS), nodes());
    for policy in Policy::ALL {
        let of = || fleet(&pods, &nodes, Options::new(0, policy));
        let report = of();
        assert_eq!(report.jobs + report.refused, pods.len() as u64, "{policy:?}");
        // One was never started, and one asks for a model that no node has.
        assert_eq!(report.refused, 2, "{policy:?}");
        assert!(report.utilisation > 0.0 && report.utilisation <= 1.0, "{policy:?}: {report:?}");
        assert_eq!(report.preemptions > 0, policy.preempts(), "{policy:?}: {report:?}");
        assert_eq!(report, of(), "{policy:?}: a replay is the same each time");
    }
}

#[test]
fn pods_share_a_gpu_if_they_fit_on_one() {
    let nodes = hosts("cpu_milli,memory_mib,gpu,model\n8000,100,1,T4\n").unwrap();
    let hour = |milli: u32, cpu: u32, spec: &str| format!("{cpu},1,1,{milli},{spec},0,3600,0\n");
    let mean = |lines: &[String]| {
        let header = "cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time,scheduled_time\n";
        fleet(&pods(&format!("{header}{}", lines.concat())), &nodes, Options::new(0, Policy::Skip)).mean_hours
    };
    assert!((mean(&[hour(500, 1_000, ""), hour(500, 1_000, "T4")]) - 1.0).abs() < 1e-9);
    assert!((mean(&[hour(500, 1_000, ""), hour(501, 1_000, "")]) - 1.5).abs() < 1e-9, "too much of the GPU");
    assert!((mean(&[hour(500, 5_000, ""), hour(500, 4_000, "")]) - 1.5).abs() < 1e-9, "too many processors");
    assert!((mean(&[hour(500, 1_000, ""), hour(500, 1_000, "P100|V100")]) - 1.0).abs() < 1e-9, "the other is refused");
}

#[test]
fn the_engine_packs_better_than_the_others() {
    let (pods, nodes) = (pods(PODS), nodes());
    let of = |packing| fill(&pods, &nodes, packing, load(130));
    let [best, fgd, ours] = [Packing::BestFit, Packing::Fgd, Packing::Ours].map(of);
    assert!(ours.mean > best.mean && ours.mean > fgd.mean, "{} {} {}", ours.mean, fgd.mean, best.mean);
    assert_eq!(ours.allocated.len(), 20);
    assert!(ours.allocated.iter().all(|part| (0.0..=1.0).contains(part)) && ours.deviation > 0.0, "{ours:?}");
    assert_eq!(ours, of(Packing::Ours), "a seed is the same each time");
}

fn load(percent: u32) -> Load {
    Load { percent, samples: 20, hold_back: None }
}

#[test]
fn every_pod_comes_once_before_any_comes_again() {
    let nodes = hosts("cpu_milli,memory_mib,gpu,model\n8000,100,4,T4\n").unwrap();
    let header = "cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time,deletion_time,scheduled_time\n";
    let pods = pods(&format!("{header}1,1,1,700,0,1,0\n1,1,1,100,0,1,0\n1,1,1,200,0,1,0\n"));
    // They ask for a whole GPU of four together.
    let filled = fill(&pods, &nodes, Packing::Ours, load(25));
    assert!(filled.allocated.iter().all(|part| *part == 0.25), "{filled:?}");
    let twice = fill(&pods, &nodes, Packing::Ours, load(50));
    assert!(twice.deviation > 0.0, "the others are drawn: {twice:?}");
}

#[test]
fn who_would_leave_waste_is_held_back_once_nodes_are_so_full() {
    let (pods, nodes) = (pods(PODS), nodes());
    let of = |hold_back| fill(&pods, &nodes, Packing::Ours, Load { hold_back, ..load(130) });
    let [all, from_50, from_0] = [None, Some(50), Some(0)].map(of);
    assert_eq!(all.held_back, 0.0);
    assert!(0.0 < from_50.held_back && from_50.held_back < from_0.held_back, "{from_50:?} {from_0:?}");
    assert!(from_50.mean > all.mean, "{} {}", from_50.mean, all.mean);
    assert_eq!(all, of(Some(100)), "there is nothing left that anybody could be held back from");
}
