//! The traces of real clusters, which are not in this repository: `TRAINYARD_TRACES` names the folder with them. What
//! is printed is what docs/figures/traces.md shows.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Host, Pod, hosts, jobs, pods};
use crate::trace::{Load, Options, Packing, Policy, Report, fill, fleet, replay};

/// The text of a trace, if there is one.
fn text(test: &str, file: &str) -> Option<String> {
    let Some(folder) = std::env::var_os("TRAINYARD_TRACES") else {
        eprintln!("SKIPPED {test}: TRAINYARD_TRACES names no folder with {file}");
        return None;
    };
    Some(std::fs::read_to_string(PathBuf::from(folder).join(file)).unwrap())
}

fn print(report: &Report) {
    let [used, fragmented] = [report.utilisation, report.fragmentation].map(|part| part * 100.0);
    eprintln!(
        "| {} | {} | {:.2} | {:.2} | {:.1} | {used:.1} % | {fragmented:.1} % | {} | {} | {} |",
        report.gpus,
        report.policy,
        report.mean_hours,
        report.p50_hours,
        report.p99_hours,
        report.preemptions,
        report.promised,
        report.late
    );
}

#[test]
fn without_knowledge_of_run_times_it_takes_little_longer_than_with_it() {
    let test = "without_knowledge_of_run_times_it_takes_little_longer_than_with_it";
    let Some(text) = text(test, "philly_first_50k.csv") else { return };
    let jobs = jobs(&text);
    for gpus in [448, 352, 320, 288] {
        let [srtf, ours] = [Policy::Srtf, Policy::Ours].map(|policy| replay(&jobs, Options::new(gpus, policy)));
        [&srtf, &ours].into_iter().for_each(print);
        let (mean, p99) = (ours.mean_hours / srtf.mean_hours, ours.p99_hours / srtf.p99_hours);
        assert!(mean <= 1.3 && p99 <= 1.5, "{gpus} GPUs: mean {mean:.3}, p99 {p99:.3} of srtf's");
    }
}

#[test]
fn no_promised_start_of_phillys_jobs_is_missed() {
    let test = "no_promised_start_of_phillys_jobs_is_missed";
    let Some(text) = text(test, "philly_first_50k.csv") else { return };
    let report = replay(&jobs(&text), Options::new(448, Policy::Easy));
    print(&report);
    assert!(report.promised > 1_000 && report.late == 0, "{report:?}");
}

#[test]
fn openbs_pods_are_packed_better_than_by_others() {
    let test = "openbs_pods_are_packed_better_than_by_others";
    let Some(text) = text(test, "openb_pod_list_default.csv") else { return };
    let Some(nodes) = self::text(test, "openb_node_list_gpu_node.csv") else { return };
    let (pods, nodes) = (pods(&text), hosts(&nodes).unwrap());
    for policy in [Policy::Skip, Policy::Ours] {
        print(&fleet(&pods, &nodes, Options::new(0, policy)));
    }
    let of = |nodes: &[Host], packing, hold_back| {
        let filled = fill(&pods, nodes, packing, Load { percent: 130, samples: 10, hold_back });
        let parts = [filled.mean, filled.deviation, filled.in_pieces, filled.held_back];
        let [mean, deviation, pieces, held] = parts.map(|part| part * 100.0);
        eprintln!("| {} | {mean:.2} % | {deviation:.2} % | {pieces:.2} % | {held:.2} % |", packing.name());
        filled.mean
    };
    let [best, fgd, ours] = Packing::ALL.map(|packing| of(&nodes, packing, None));
    assert!(ours > fgd && fgd > best && ours > 0.955, "{ours} {fgd} {best}");
    let most = full_of_all(&pods);
    eprintln!("no packing of devices alone: {:.2} %", most * 100.0);
    assert!(most > ours && most < 0.965, "{most} {ours}");
    let held = of(&nodes, Packing::Ours, Some(75));
    assert!(held > 0.965, "{held}");
}

/// How full devices can be at most of pods in the proportions of the trace, whatever else they ask for.
fn full_of_all(pods: &[Pod]) -> f64 {
    // In twelfths of a device: no pods that fit on one device together weigh more than 12, so that they take no fewer
    // devices than a twelfth of what they weigh.
    let weight = |milli: u32| match milli {
        810.. => 12,
        550.. => 8,
        460.. => 6,
        320.. => 4,
        230.. => 3,
        220.. => 1,
        0..220 => 0,
    };
    let shares: BTreeSet<u32> = pods.iter().map(|pod| pod.ask.share_milli).filter(|share| *share > 0).collect();
    let mut heaviest = vec![0; 1_001];
    for free in 1..=1_000u32 {
        let with = |share: &u32| heaviest[(free - share) as usize] + weight(*share);
        heaviest[free as usize] = shares.iter().filter(|share| **share <= free).map(with).max().unwrap_or(0);
    }
    assert_eq!(heaviest[1_000], 12);
    let twelfths: u32 = pods.iter().map(|pod| pod.ask.devices * weight(pod.ask.share_milli)).sum();
    let milli: i64 = pods.iter().map(|pod| pod.ask.milli()).sum();
    milli as f64 / 1_000.0 / (f64::from(twelfths) / 12.0)
}
