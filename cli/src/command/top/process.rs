//! What the processes of pods use, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::command::run::process::states;

/// Clock ticks in a second: part of Linux' interface to programs on every architecture.
const TICKS: f64 = 100.0;
/// Size of a page in /proc/PID/statm. Where pages are larger, the kernel's numbers are in these as well.
const PAGE: u64 = 4096;
/// State files are at most this deep below a pod's folder.
const MAX_DEPTH: usize = 4;

/// One rank, or one container without ranks, with everything that descends from it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) pod_uid: String,
    pub(super) rank: Option<String>,
    pub(super) pid: i32,
    pub(super) cpu_share: f64,
    pub(super) memory: u64,
    pub(super) threads: u64,
    pub(super) command: String,
}

/// The whole machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Machine {
    pub(super) cores: f64,
    pub(super) cores_used: f64,
    pub(super) memory: u64,
    pub(super) memory_used: u64,
}

/// All that is known at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    at: Instant,
    processes: BTreeMap<i32, Process>,
    /// First process of each container: (pod uid, pid).
    roots: Vec<(String, i32)>,
    busy_ticks: u64,
}

#[derive(Clone, Debug)]
struct Process {
    parent: i32,
    start_ticks: u64,
    ticks: u64,
    threads: u64,
    pages: u64,
}

impl Snapshot {
    /// Reads /proc, and the shims' state files below a state folder.
    pub(super) fn take(home: &Path) -> Self {
        let mut roots = Vec::new();
        for pod in fs::read_dir(home.join("pods")).into_iter().flatten().flatten() {
            let uid = pod.file_name().to_string_lossy().into_owned();
            let alive = states(&pod.path(), MAX_DEPTH)
                .into_iter()
                .filter(|state| state.is_watched())
                .filter_map(|state| state.process);
            roots.extend(alive.filter(|process| process.is_alive()).map(|process| (uid.clone(), process.pid)));
        }
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        Self {
            at: Instant::now(),
            processes: numbers.filter_map(|pid| Some((pid, Process::read(pid)?))).collect(),
            roots,
            busy_ticks: busy_ticks(),
        }
    }

    /// What each rank used since an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Vec<Sample> {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(0.001);
        let mut samples = Vec::new();
        for (pod_uid, root) in &self.roots {
            let mut groups: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
            for pid in self.family(*root) {
                groups.entry(self.leader(pid, *root)).or_default().push(pid);
            }
            // The launcher itself is a line only if it has no ranks yet.
            if groups.len() > 1 {
                groups.remove(root);
            }
            for (leader, members) in groups {
                let ticks: u64 = members.iter().map(|pid| self.ticks_since(before, *pid)).sum();
                let known = || members.iter().filter_map(|pid| self.processes.get(pid));
                #[expect(clippy::cast_precision_loss, reason = "a few thousand ticks")]
                let cpu_share = ticks as f64 / TICKS / seconds;
                samples.push(Sample {
                    pod_uid: pod_uid.clone(),
                    rank: environment(leader, "RANK"),
                    pid: leader,
                    cpu_share,
                    memory: known().map(|process| process.pages * PAGE).sum(),
                    threads: known().map(|process| process.threads).sum(),
                    command: command(leader),
                });
            }
        }
        samples.sort_by_key(|sample| {
            (sample.pod_uid.clone(), sample.rank.as_ref().and_then(|rank| rank.parse::<u64>().ok()), sample.pid)
        });
        samples
    }

    /// What the machine used since an earlier moment.
    pub(super) fn machine_since(&self, before: &Self) -> Machine {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(0.001);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (memory, available) = memory();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand ticks")]
        let (cores, busy) = (cores as f64, self.busy_ticks.saturating_sub(before.busy_ticks) as f64);
        Machine {
            cores,
            cores_used: (busy / TICKS / seconds).min(cores),
            memory,
            memory_used: memory.saturating_sub(available),
        }
    }

    fn ticks_since(&self, before: &Self, pid: i32) -> u64 {
        let Some(now) = self.processes.get(&pid) else { return 0 };
        let earlier = before.processes.get(&pid).filter(|then| then.start_ticks == now.start_ticks);
        now.ticks.saturating_sub(earlier.map_or(0, |then| then.ticks))
    }

    /// A process with all that descend from it.
    fn family(&self, root: i32) -> BTreeSet<i32> {
        let mut family = BTreeSet::from([root]);
        let mut queue = vec![root];
        while let Some(parent) = queue.pop() {
            for (pid, process) in &self.processes {
                if process.parent == parent && family.insert(*pid) {
                    queue.push(*pid);
                }
            }
        }
        family
    }

    /// The first ancestor (or the process itself) that is a rank of its own: a child of the container's first process with a RANK.
    fn leader(&self, pid: i32, root: i32) -> i32 {
        let mut at = pid;
        while at != root {
            let Some(process) = self.processes.get(&at) else { return root };
            if process.parent == root {
                return if environment(at, "LOCAL_RANK").is_some() { at } else { root };
            }
            at = process.parent;
        }
        root
    }
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            threads: number(17)?,
            start_ticks: number(19)?,
            pages: number(21)?,
        })
    }
}

fn busy_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    [0, 1, 2, 5, 6].iter().filter_map(|index| numbers.get(*index)).sum()
}

/// All memory, and what is available, in bytes.
fn memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (kibibytes("MemTotal:").unwrap_or(0) * 1024, kibibytes("MemAvailable:").unwrap_or(0) * 1024)
}

fn environment(pid: i32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

fn command(pid: i32) -> String {
    /// Longer command lines break the table.
    const WIDTH: usize = 60;
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace(['\0', '\n'], " ");
    if text.chars().count() > WIDTH { text.chars().take(WIDTH - 1).chain(['…']).collect() } else { text }
}
