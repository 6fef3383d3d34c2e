//! What a pre-flight's measurements mean: which link or GPU is bad, as a pure function.
//!
//! A link is judged by its fellows: the median of all links of the same kind says what this machine or this fabric can
//! do, so nobody has to know it beforehand. A GPU is judged by what its driver counts.

use serde::{Deserialize, Serialize};

/// Before the one line in which a rank says why the job was not started; what follows is its failure's cause.
pub const PREFIX: &str = "trainyard preflight: ";
/// A link is slow below this share of its kind's median bandwidth.
const SLOW_SHARE: f64 = 0.5;
/// Within a machine there is no link that could be bad, only processors that are busy: this much is no accident.
const SLOW_LOCAL_SHARE: f64 = 0.05;
/// A link's latency is bad above this multiple of its kind's median …
const LATE_FACTOR: f64 = 5.0;
/// … if it is also above this: below, the scheduler of a busy machine explains it.
const LATE_MICROS: f64 = 2_000.0;
/// The least number of links whose median says something about one of them.
const ENOUGH_LINKS: usize = 3;
/// A GPU that throttles for heat at rest, or is hotter than this (°C), has a cooling problem.
const HOT_CELSIUS: u32 = 90;

/// Where a rank is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The rank.
    pub rank: usize,
    /// Its machine's name.
    pub host: String,
    /// The address at which it is called.
    pub address: String,
}

/// One direction-less connection between two ranks, as measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The lower rank.
    pub from: usize,
    /// The higher rank.
    pub to: usize,
    /// Half of the median round trip, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_micros: Option<f64>,
    /// Gigabytes (10⁹) per second, the slower of the two directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gigabytes_per_second: Option<f64>,
    /// Why there is no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One all-reduce over all ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllReduce {
    /// What carried it: `memory`, `tcp` or `nccl`.
    pub backend: String,
    /// The buffer.
    pub bytes: u64,
    /// The median time, in microseconds.
    pub micros: f64,
    /// Bytes per time, gigabytes per second.
    pub algorithm_gigabytes_per_second: f64,
    /// That × 2 (n − 1) / n: what each rank's link carries, as nccl-tests count it.
    pub bus_gigabytes_per_second: f64,
    /// Ranks whose result was wrong.
    pub wrong_ranks: Vec<usize>,
}

/// A GPU, as its driver describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// The machine.
    pub host: String,
    /// Its number there.
    pub index: u32,
    /// What it is.
    pub name: String,
    /// Its serial identifier.
    pub uuid: String,
    /// Degrees Celsius.
    pub celsius: Option<u32>,
    /// Memory in use by anybody, in bytes.
    pub memory_used_bytes: u64,
    /// All of its memory.
    pub memory_bytes: u64,
    /// Memory errors since the driver was loaded that could not be corrected.
    pub uncorrected_errors: Option<u64>,
    /// Rows of memory that could not be replaced any more.
    pub remapping_failed: Option<bool>,
    /// Rows that wait for a reset to be replaced.
    pub remapping_pending: Option<bool>,
    /// The driver slows it down for heat or power.
    pub throttled: Option<String>,
    /// NVLink connections that are down, of those it has.
    pub links_down: Vec<u32>,
    /// The driver could not say: usually it has fallen off the bus.
    pub error: Option<String>,
}

/// Something that a job would suffer from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// What is bad, by name: `rank 1 (host-a) – rank 5 (host-b)`, `GPU 3 of host-a`.
    pub what: String,
    /// What was seen, and what to do.
    pub why: String,
}

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Ranks that never came.
    MissingRank,
    /// Two ranks that cannot reach each other.
    NoConnection,
    /// A link far below its fellows.
    SlowLink,
    /// A link far later than its fellows.
    LateLink,
    /// An all-reduce with a wrong sum.
    WrongResult,
    /// An all-reduce that failed.
    FailedCollective,
    /// A GPU that should not be used.
    BadGpu,
}

/// Findings in one line, for a failure's message.
#[must_use]
pub fn summary(findings: &[Finding]) -> String {
    let Some(first) = findings.first() else { return "no findings".to_owned() };
    let more = match findings.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    format!("{}: {}{more}", first.what, first.why)
}

/// All findings about what was measured.
#[must_use]
pub fn judge(places: &[Place], links: &[Link], reduces: &[AllReduce], gpus: &[Gpu]) -> Vec<Finding> {
    let mut findings = judge_links(places, links);
    for reduce in reduces.iter().filter(|reduce| !reduce.wrong_ranks.is_empty()) {
        let ranks: Vec<String> = reduce.wrong_ranks.iter().map(|rank| name(places, *rank)).collect();
        findings.push(Finding {
            kind: Kind::WrongResult,
            what: ranks.join(", "),
            why: format!("a {} all-reduce of {} bytes gave a wrong sum there", reduce.backend, reduce.bytes),
        });
    }
    findings.extend(gpus.iter().flat_map(judge_gpu));
    findings
}

fn name(places: &[Place], rank: usize) -> String {
    match places.iter().find(|place| place.rank == rank) {
        Some(place) => format!("rank {rank} ({})", place.host),
        None => format!("rank {rank}"),
    }
}

fn judge_links(places: &[Place], links: &[Link]) -> Vec<Finding> {
    let host = |rank| places.iter().find(|place| place.rank == rank).map(|place| place.host.as_str());
    let local = |link: &Link| host(link.from) == host(link.to);
    let mut findings = Vec::new();
    for link in links {
        let fellows: Vec<&Link> = links.iter().filter(|other| local(other) == local(link)).collect();
        let what = format!("{} – {}", name(places, link.from), name(places, link.to));
        if let Some(error) = &link.error {
            let why = format!("{error}; is a firewall or a network policy between them?");
            findings.push(Finding { kind: Kind::NoConnection, what, why });
            continue;
        }
        let usual = |value: fn(&Link) -> Option<f64>| median(fellows.iter().filter_map(|link| value(link)).collect());
        if let (Some(own), Some(usual)) = (link.gigabytes_per_second, usual(|link| link.gigabytes_per_second))
            && own < usual * if local(link) { SLOW_LOCAL_SHARE } else { SLOW_SHARE }
        {
            let why = format!("{own:.2} GB/s, where the median of such links is {usual:.2} GB/s");
            findings.push(Finding { kind: Kind::SlowLink, what: what.clone(), why });
        }
        if let (Some(own), Some(usual)) = (link.latency_micros, usual(|link| link.latency_micros))
            && own > LATE_FACTOR * usual
            && own > LATE_MICROS
        {
            let why = format!("{own:.0} µs one way, where the median of such links is {usual:.0} µs");
            findings.push(Finding { kind: Kind::LateLink, what, why });
        }
    }
    findings
}

/// The middle value, if there are enough for it to mean something.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    if values.len() < ENOUGH_LINKS { None } else { values.get(values.len() / 2).copied() }
}

fn judge_gpu(gpu: &Gpu) -> Vec<Finding> {
    let mut whys = Vec::new();
    if let Some(error) = &gpu.error {
        whys.push(format!("the driver cannot read it ({error}): it may have fallen off the bus; reboot the machine"));
    }
    if let Some(count @ 1..) = gpu.uncorrected_errors {
        whys.push(format!("{count} uncorrected memory errors since the driver was loaded; reset the GPU"));
    }
    if gpu.remapping_failed == Some(true) {
        whys.push("it has no spare memory rows left; replace it".to_owned());
    }
    if gpu.remapping_pending == Some(true) {
        whys.push("memory rows wait to be replaced; reset the GPU".to_owned());
    }
    if let Some(reason) = &gpu.throttled {
        whys.push(format!("it is slowed down for {reason}"));
    }
    if let Some(celsius) = gpu.celsius.filter(|celsius| *celsius > HOT_CELSIUS) {
        whys.push(format!("{celsius} °C"));
    }
    if !gpu.links_down.is_empty() {
        let down: Vec<String> = gpu.links_down.iter().map(u32::to_string).collect();
        whys.push(format!("NVLink {} is down", down.join(", ")));
    }
    let what = format!("GPU {} of {}", gpu.index, gpu.host);
    whys.into_iter().map(|why| Finding { kind: Kind::BadGpu, what: what.clone(), why }).collect()
}

/// nccl-tests' bus bandwidth of an all-reduce over `world` ranks.
#[must_use]
pub fn bus_bandwidth(algorithm: f64, world: usize) -> f64 {
    if world == 0 { 0.0 } else { algorithm * 2.0 * (world as f64 - 1.0) / world as f64 }
}

/// Who measures with whom, round by round: in each round every rank has at most one partner, after all of them each two
/// have met once. (The circle method of chess tournaments.)
#[must_use]
pub fn rounds(world: usize) -> Vec<Vec<(usize, usize)>> {
    let seats = world.next_multiple_of(2);
    let turns = seats.saturating_sub(1);
    let partner = |turn: usize, seat: usize| {
        let other = (turn + turns - seat % turns.max(1)) % turns.max(1);
        // The last seat stays; whoever would meet himself meets it.
        if seat == turns {
            (turn * (seats / 2)) % turns.max(1)
        } else if other == seat {
            turns
        } else {
            other
        }
    };
    (0..turns)
        .map(|turn| {
            let pairs = (0..seats).map(|seat| (seat, partner(turn, seat)));
            pairs.filter(|(one, other)| one < other && *other < world).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<Place> {
        (0..4).map(|rank| Place { rank, host: format!("host-{}", rank / 2), address: String::new() }).collect()
    }

    fn links() -> Vec<Link> {
        rounds(4)
            .concat()
            .into_iter()
            .map(|(from, to)| Link {
                from,
                to,
                latency_micros: Some(20.0),
                gigabytes_per_second: Some(10.0),
                error: None,
            })
            .collect()
    }

    #[test]
    fn each_two_ranks_meet_once_and_nobody_twice_in_a_round() {
        for world in 0..17 {
            let rounds = rounds(world);
            let mut met: Vec<(usize, usize)> = rounds.concat();
            met.sort_unstable();
            let all: Vec<(usize, usize)> =
                (0..world).flat_map(|one| (one + 1..world).map(move |other| (one, other))).collect();
            assert_eq!(met, all, "{world} ranks");
            for round in rounds {
                let mut ranks: Vec<usize> = round.iter().flat_map(|(one, other)| [*one, *other]).collect();
                ranks.sort_unstable();
                ranks.dedup();
                assert_eq!(ranks.len(), 2 * round.len(), "{world} ranks");
            }
        }
    }

    #[test]
    fn a_healthy_job_has_no_findings() {
        let gpu = Gpu { celsius: Some(50), uncorrected_errors: Some(0), ..Gpu::default() };
        assert_eq!(judge(&places(), &links(), &[], &[gpu]), []);
    }

    #[test]
    fn the_bad_link_is_named() {
        let find = |change: fn(&mut Link)| {
            let mut links = links();
            change(links.iter_mut().find(|link| (link.from, link.to) == (1, 3)).expect("they meet"));
            judge(&places(), &links, &[], &[])
        };
        let slow = find(|link| link.gigabytes_per_second = Some(1.0));
        assert_eq!(slow.len(), 1);
        assert_eq!(slow[0].kind, Kind::SlowLink);
        assert_eq!(slow[0].what, "rank 1 (host-0) – rank 3 (host-1)");
        assert_eq!(slow[0].why, "1.00 GB/s, where the median of such links is 10.00 GB/s");
        assert_eq!(find(|link| link.latency_micros = Some(9000.0))[0].kind, Kind::LateLink);
        assert_eq!(find(|link| link.latency_micros = Some(200.0)), [], "a busy machine");
        let dead = find(|link| link.error = Some("refused".to_owned()));
        assert_eq!((dead.len(), dead[0].kind), (1, Kind::NoConnection));
    }

    #[test]
    fn links_are_judged_by_their_own_kind() {
        // Links within a host are ten times as fast as those between hosts: that is no finding.
        let mut links = links();
        for link in links.iter_mut().filter(|link| link.from / 2 == link.to / 2) {
            link.gigabytes_per_second = Some(100.0);
        }
        assert_eq!(judge(&places(), &links, &[], &[]), []);
    }

    #[test]
    fn a_wrong_sum_and_bad_gpus_are_named() {
        let reduce = AllReduce { backend: "nccl".to_owned(), bytes: 8, wrong_ranks: vec![2], ..AllReduce::default() };
        let found = judge(&places(), &[], &[reduce], &[]);
        assert_eq!((found[0].kind, found[0].what.as_str()), (Kind::WrongResult, "rank 2 (host-1)"));
        let gpu = Gpu {
            host: "host-1".to_owned(),
            index: 3,
            uncorrected_errors: Some(2),
            remapping_failed: Some(true),
            links_down: vec![5],
            ..Gpu::default()
        };
        let found = judge(&places(), &[], &[], &[gpu]);
        assert!(found.iter().all(|finding| finding.what == "GPU 3 of host-1" && finding.kind == Kind::BadGpu));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn bus_bandwidth_is_that_of_nccl_tests() {
        assert!((bus_bandwidth(10.0, 8) - 17.5).abs() < 1e-9);
        assert!((bus_bandwidth(10.0, 2) - 10.0).abs() < 1e-9);
        assert!(bus_bandwidth(10.0, 1).abs() < 1e-9);
    }
}
