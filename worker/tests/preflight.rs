//! The pre-flight over real sockets, one thread per rank.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use trainyard_worker::comm::{CommError, Options};
use trainyard_worker::preflight::{Plan, Report, run};
use trainyard_worker_core::preflight::Kind;

fn options(rank: usize, world: usize, port: u16) -> Options {
    let mut options = Options::new(rank, world, "127.0.0.1", port);
    options.rendezvous_timeout = Duration::from_secs(30);
    options.token = "secret".to_owned();
    options
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn small() -> Plan {
    Plan { all_reduce_bytes: vec![4096, 300_000], link_bytes: 100_000, ..Plan::default() }
}

fn reports(ranks: &[usize], world: usize, patience: Duration) -> Vec<Result<Report, CommError>> {
    let port = free_port();
    thread::scope(|scope| {
        let started: Vec<_> = ranks
            .iter()
            .map(|rank| {
                let mut options = options(*rank, world, port);
                options.rendezvous_timeout = patience;
                scope.spawn(move || run(&options, &small()))
            })
            .collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn every_pair_and_every_all_reduce_is_measured_and_all_ranks_know() {
    let reports: Vec<Report> =
        reports(&[0, 1, 2, 3, 4], 5, Duration::from_secs(30)).into_iter().map(Result::unwrap).collect();
    let first = &reports[0];
    let mut pairs: Vec<_> = first.links.iter().map(|link| (link.from, link.to)).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]);
    assert!(first.links.iter().all(|link| link.error.is_none() && link.gigabytes_per_second.unwrap() > 0.0));
    let lengths: Vec<u64> = first.all_reduces.iter().map(|reduce| reduce.bytes).collect();
    assert_eq!(lengths, [4096, 300_000]);
    for reduce in &first.all_reduces {
        assert!(reduce.wrong_ranks.is_empty() && reduce.backend == "memory", "{reduce:?}");
        let ratio = reduce.bus_gigabytes_per_second / reduce.algorithm_gigabytes_per_second;
        assert!((ratio - 2.0 * 4.0 / 5.0).abs() < 1e-6, "{ratio}");
    }
    for report in &reports {
        assert_eq!(report.findings, first.findings);
        // The figures may have lost their last digit on the way.
        assert_eq!(report.links.len(), first.links.len());
    }
    let serious = |kind| !matches!(kind, Kind::SlowLink | Kind::LateLink);
    assert!(!first.findings.iter().any(|finding| serious(finding.kind)), "{:?}", first.findings);
    assert!(first.to_string().starts_with("5 ranks on 1 machine\n10 links: median "), "{first}");
}

#[test]
fn a_missing_rank_is_a_finding() {
    let mut reports = reports(&[0, 2], 3, Duration::from_millis(500));
    let found = reports.remove(0).unwrap().findings;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, found[0].what.as_str()), (Kind::MissingRank, "rank 1"));
    assert!(reports.remove(0).is_err(), "a rank that came is told that the check ended");
}

#[test]
fn a_rank_alone_has_no_links() {
    let report = reports(&[0], 1, Duration::from_secs(30)).remove(0).unwrap();
    assert_eq!((report.links.len(), report.findings.len()), (0, 0), "{report}");
    assert_eq!(report.all_reduces[0].backend, "alone");
}

#[test]
fn a_dead_link_is_named_by_every_rank_and_nobody_waits_in_an_all_reduce() {
    let port = free_port();
    let plan = Plan { dead_link: Some((2, 1)), ..small() };
    let reports: Vec<Report> = thread::scope(|scope| {
        let plan = &plan;
        let ranks: Vec<_> =
            (0..3).map(|rank| scope.spawn(move || run(&options(rank, 3, port), plan).unwrap())).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for report in &reports {
        let found = report.findings.iter().find(|finding| finding.kind == Kind::NoConnection).unwrap();
        assert!(found.what.starts_with("rank 1 (") && found.what.contains(" – rank 2 ("), "{found:?}");
        assert!(found.why.contains("Connection refused"), "{found:?}");
        assert!(
            report.all_reduces.is_empty() && report.skipped.iter().any(|skipped| skipped.starts_with("all-reduce"))
        );
    }
    assert_eq!(reports[0].findings, reports[2].findings);
}
