//! The traces of real clusters, which are not in this repository: `TRAINYARD_TRACES` names the folder with them. What
//! is printed is what docs/figures/traces.md shows.

use std::path::PathBuf;

use super::{Host, hosts, jobs, pods};
use crate::trace::{Options, Packing, Policy, Report, fill, fleet, replay};

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
    let of = |nodes: &[Host], packing| {
        let filled = fill(&pods, nodes, packing, 130, 0..10);
        let [mean, deviation, pieces] = [filled.mean, filled.deviation, filled.in_pieces].map(|part| part * 100.0);
        eprintln!("| {} | {mean:.2} % | {deviation:.2} % | {pieces:.2} % |", packing.name());
        filled.mean
    };
    let [best, fgd, ours] = Packing::ALL.map(|packing| of(&nodes, packing));
    assert!(ours > fgd && fgd > best && ours > 0.954, "{ours} {fgd} {best}");
    // With processors and memory without end, only that parts of GPUs do not add up to whole ones is left.
    let endless = |host: &Host| {
        let mut host = host.clone();
        host.room.amounts.iter_mut().for_each(|amount| *amount *= 100);
        host
    };
    let most = of(&nodes.iter().map(endless).collect::<Vec<_>>(), Packing::Ours);
    assert!(most > ours, "{most} {ours}");
}
