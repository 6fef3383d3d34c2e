//! `trainyard preflight`: finds the bad link or GPU before a job does.
//!
//! Every rank of the job runs it. They meet at rank 0 over lines that need nothing but a way to rank 0; then each two
//! connect and measure, in rounds in which nobody is busy twice; then all do all-reduces whose sums are known. What it
//! means is decided by `trainyard_worker_core::preflight`.

mod pair;
mod reduce;
mod words;

use std::net::TcpListener;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trainyard_worker_core::preflight::{AllReduce, Finding, Gpu, Kind, Link, Place, judge, rounds};
pub use trainyard_worker_core::preflight::{PREFIX, summary};

use crate::comm::star::Star;
use crate::comm::{CommError, Options};
use crate::{host, nvml};

/// Up to this many ranks each two measure; more would take minutes, and then one rank of each host speaks for it.
const ALL_PAIRS: usize = 64;
/// How long a rank may be busy with a round or an all-reduce before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Buffers of the all-reduces, in bytes.
    pub all_reduce_bytes: Vec<usize>,
    /// Bytes that each two ranks send each other to measure their link.
    pub link_bytes: usize,
    /// This rank's GPU, among those that it sees.
    pub gpu: usize,
    /// Two ranks whose link is to be found dead: to see what that looks like.
    pub dead_link: Option<(usize, usize)>,
}

impl Default for Plan {
    /// A short and a long all-reduce, as nccl-tests do, and enough on each link for its windows to open.
    fn default() -> Self {
        Self { all_reduce_bytes: vec![1 << 20, 64 << 20], link_bytes: 16 << 20, gpu: 0, dead_link: None }
    }
}

/// What was measured, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// How many ranks there should be.
    pub world_size: usize,
    /// Where they are.
    pub places: Vec<Place>,
    /// Each two of them.
    pub links: Vec<Link>,
    /// All of them.
    pub all_reduces: Vec<AllReduce>,
    /// The GPUs of their hosts.
    pub gpus: Vec<Gpu>,
    /// What was not looked at, and why.
    pub skipped: Vec<String>,
    /// What a job would suffer from. Empty: all is well.
    pub findings: Vec<Finding>,
}

/// Checks as one rank of the world that `options` describes; every rank gets the same report.
///
/// Ranks that never come, links that do not work and collectives that fail are findings, not errors.
///
/// # Errors
/// [`CommError`] when this rank cannot take part at all.
pub fn run(options: &Options, plan: &Plan) -> Result<Report, CommError> {
    let mut report = Report { world_size: options.world_size, ..Report::default() };
    let mut star = match Star::meet(options, PATIENCE) {
        Ok(star) => star,
        Err(CommError::Missing { ranks, waited, .. }) => {
            report.findings = ranks.iter().map(|rank| missing(*rank, waited)).collect();
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let measured = measure(options, plan, &mut star, &mut report);
    report.findings = judge(&report.places, &report.links, &report.all_reduces, &report.gpus);
    let mut failures: Vec<Finding> = measured.err().as_ref().map(failed).into_iter().collect();
    // A collective may have failed on some ranks only: everybody hears of it. Not from those who are gone.
    match collect::<Vec<Finding>>(&mut star, &failures) {
        Ok(all) => failures = all.concat(),
        Err(error) => failures.push(failed(&error)),
    }
    for failure in failures {
        if !report.findings.contains(&failure) {
            report.findings.push(failure);
        }
    }
    Ok(report)
}

fn missing(rank: usize, waited: Duration) -> Finding {
    let why = format!("it did not come within {} s", waited.as_secs());
    Finding { kind: Kind::MissingRank, what: format!("rank {rank}"), why }
}

fn failed(error: &CommError) -> Finding {
    let what = error.rank().map_or_else(|| "all-reduce".to_owned(), |rank| format!("rank {rank}"));
    Finding { kind: Kind::FailedCollective, what, why: error.to_string() }
}

fn measure(options: &Options, plan: &Plan, star: &mut Star, report: &mut Report) -> Result<(), CommError> {
    let listen =
        |error: std::io::Error| CommError::Io { peer: "this rank's test port".to_owned(), reason: error.to_string() };
    let door = TcpListener::bind((star.address, 0)).map_err(listen)?;
    let place =
        Place { rank: options.rank, host: host::name(), address: door.local_addr().map_err(listen)?.to_string() };
    report.places = collect(star, &place)?;
    report.gpus = gpus(options, star, report)?;

    let speaks = |rank: usize| {
        let host = |rank: usize| report.places.get(rank).map(|place| &place.host);
        options.world_size <= ALL_PAIRS || (0..rank).all(|before| host(before) != host(rank))
    };
    let mut own = Vec::new();
    for round in rounds(options.world_size) {
        let pair = round.into_iter().find(|(one, other)| [*one, *other].contains(&options.rank));
        if let Some((from, to)) = pair.filter(|(one, other)| speaks(*one) && speaks(*other)) {
            let name = pair::Name { from, to, token: &options.token };
            if from == options.rank {
                let dead = plan.dead_link.is_some_and(|(one, other)| (one.min(other), one.max(other)) == (from, to));
                let address = if dead { nobody(&door)? } else { report.places[to].address.clone() };
                own.push(pair::call(&name, &address, plan.link_bytes));
            } else {
                pair::answer(&name, &door, plan.link_bytes);
            }
        }
        // Nobody begins the next round before all have ended this one.
        star.exchange(Value::Null)?;
    }
    drop(door);
    report.links = collect::<Vec<Link>>(star, &own)?.concat();
    if report.links.iter().any(|link| link.error.is_some()) {
        report.skipped.push("all-reduce: ranks that cannot reach each other would only wait for each other".to_owned());
        return Ok(());
    }
    let reduces = reduce::over_all(options, &plan.all_reduce_bytes, plan.gpu, PATIENCE)?;
    report.all_reduces = reduces.all;
    // Where nobody has a GPU there is nothing to say.
    if let Some(reason) = reduces.without_gpus.filter(|_| !report.gpus.is_empty()) {
        report.skipped.push(format!("all-reduce between GPUs: {reason}"));
    }
    Ok(())
}

/// An address at which nobody listens.
fn nobody(door: &TcpListener) -> Result<String, CommError> {
    let free =
        door.local_addr().and_then(|own| TcpListener::bind((own.ip(), 0))).and_then(|closed| closed.local_addr());
    free.map(|address| address.to_string())
        .map_err(|error| CommError::Io { peer: "this rank's test port".to_owned(), reason: error.to_string() })
}

/// Everybody's, in rank order. What a rank of another version says that is not understood counts as nothing.
fn collect<T: Serialize + for<'de> Deserialize<'de>>(star: &mut Star, own: &T) -> Result<Vec<T>, CommError> {
    let all = star.exchange(json!(own))?;
    Ok(all.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

/// Those of each host once, told by its first rank.
fn gpus(options: &Options, star: &mut Star, report: &mut Report) -> Result<Vec<Gpu>, CommError> {
    let host = report.places.get(options.rank).map(|place| place.host.clone()).unwrap_or_default();
    let first = report.places.iter().find(|place| place.host == host).is_some_and(|place| place.rank == options.rank);
    let own = if first { nvml::gpus(&host) } else { Ok(Vec::new()) };
    let said: Vec<Result<Vec<Gpu>, String>> = collect(star, &own)?;
    let mut gpus = Vec::new();
    for (place, said) in report.places.iter().zip(said) {
        match said {
            Ok(found) => gpus.extend(found),
            Err(reason) => report.skipped.push(format!("GPUs of {}: {reason}", place.host)),
        }
    }
    Ok(gpus)
}
