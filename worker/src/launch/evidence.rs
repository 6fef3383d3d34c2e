//! What the system knows about the end of a rank: counters of out-of-memory kills, the kernel's log, and the file in which
//! torch's `@record` tells the exception, and those in which NCCL warns. Read when a rank has failed; before, only the place in the log and the counters' values
//! are taken, at the start of each generation: what happened to an earlier one is no evidence.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use trainyard_worker_core::cause::{ErrorReport, Evidence, KernelEvent, kernel_event, nccl_warning};
use trainyard_worker_core::collective_env::TRACE;

/// torch's variable: where `@record` writes the exception.
pub(super) const ERROR_FILE: &str = "TORCHELASTIC_ERROR_FILE";
/// How much earlier than a rank's start a line of the kernel's log may claim to be: its clock drifts.
const CLOCK_DRIFT_US: u64 = 2_000_000;
/// Records of the kernel's log that are looked at: more than its ring holds by default.
const RECORDS: usize = 100_000;
/// Longer than any record of /dev/kmsg.
const RECORD_BYTES: usize = 8192;
/// How much of the end of a file of NCCL's is read, and how many warnings of it count.
const WARNING_BYTES: u64 = 64 * 1024;
const WARNINGS: usize = 50;

/// A rank of a generation.
type Key = (usize, u64);

/// Watches over one launch.
pub(super) struct Watch {
    cgroup: Option<Cgroup>,
    generation: u64,
    /// Counters when the generation began.
    before: Counters,
    log: Log,
    /// What the log has said since then.
    events: Vec<KernelEvent>,
    folder: Option<PathBuf>,
    /// Where each rank was told to write.
    files: BTreeMap<Key, PathBuf>,
    /// Where NCCL was told to warn.
    warnings: BTreeMap<Key, PathBuf>,
}

/// The kernel's log, from the beginning of a generation on.
enum Log {
    /// /dev/kmsg, read up to here.
    Device(fs::File),
    /// The system call, which always gives all: what is older than this, in microseconds since the boot, does not count.
    Buffer(u64),
    /// We may not read it.
    Closed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    cgroup: u64,
    machine: u64,
}

/// The files of our memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cgroup {
    events: PathBuf,
    limit: PathBuf,
}

impl Watch {
    /// Looks where things stand.
    pub(super) fn begin() -> Self {
        let cgroup = fs::read_to_string("/proc/self/cgroup")
            .ok()
            .and_then(|text| Cgroup::of(&text, Path::new("/sys/fs/cgroup")));
        let before = Counters::read(cgroup.as_ref());
        let (log, events) = (Log::open(), Vec::new());
        Self {
            cgroup,
            generation: 0,
            before,
            log,
            events,
            folder: None,
            files: BTreeMap::new(),
            warnings: BTreeMap::new(),
        }
    }

    /// A rank of this generation is about to be started.
    fn enter(&mut self, generation: u64) {
        if generation > self.generation {
            self.generation = generation;
            self.before = Counters::read(self.cgroup.as_ref());
            self.log.skip();
            self.events.clear();
        }
    }

    /// Where a rank is to write its exception: the value of [`ERROR_FILE`]. `None` if the user has set the variable, or if no
    /// folder can be made; the cause is then taken from the output alone.
    pub(super) fn error_file(&mut self, local_rank: usize, generation: u64) -> Option<String> {
        self.enter(generation);
        if self.folder.is_none() {
            self.folder = private_folder();
        }
        if std::env::var_os(ERROR_FILE).is_some() {
            return None;
        }
        let path = self.folder.as_ref()?.join(format!("{generation}-{local_rank}.json"));
        let text = path.to_str()?.to_owned();
        self.files.insert((local_rank, generation), path);
        Some(text)
    }

    /// A folder for files of the ranks, once a rank was told to write there.
    pub(super) fn folder(&self) -> Option<&str> {
        self.folder.as_deref().and_then(Path::to_str)
    }

    /// NCCL was told to write a rank's warnings into this file of our folder.
    pub(super) fn expect_warnings(&mut self, local_rank: usize, generation: u64, file: &str) {
        self.warnings.insert((local_rank, generation), file.into());
    }

    /// Everything that is known about the end of a rank.
    pub(super) fn evidence(
        &mut self,
        (local_rank, generation): Key,
        pid: Option<u32>,
        stopped: bool,
        stalled: Option<String>,
    ) -> Evidence {
        let now = Counters::read(self.cgroup.as_ref());
        let named = self.log.read(&mut self.events);
        let machine_oom_kills = if named { 0 } else { now.machine.saturating_sub(self.before.machine) };
        let report = self.files.get(&(local_rank, generation)).and_then(|path| fs::read_to_string(path).ok());
        Evidence {
            pid,
            cgroup_oom_kills: now.cgroup.saturating_sub(self.before.cgroup),
            memory_limit_bytes: self.cgroup.as_ref().and_then(Cgroup::limit_bytes),
            machine_oom_kills,
            kernel: self.events.clone(),
            nccl: self.warnings.get(&(local_rank, generation)).map(|path| warnings(path)).unwrap_or_default(),
            report: report.as_deref().and_then(ErrorReport::parse),
            stalled,
            stopped,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(folder) = &self.folder else { return };
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        if names.into_iter().any(|name| name.to_string_lossy().starts_with(TRACE)) {
            let folder = folder.display();
            let text = format!("trainyard: PyTorch's flight recorder wrote {folder}/{TRACE}…; torchfrtrace reads it\n");
            super::console::tell(text);
            return;
        }
        // Left for the system to clean up if it cannot be removed.
        let _ = fs::remove_dir_all(folder);
    }
}

impl Counters {
    fn read(cgroup: Option<&Cgroup>) -> Self {
        let count = |path: &Path| fs::read_to_string(path).ok().and_then(|text| field(&text, "oom_kill")).unwrap_or(0);
        Self { cgroup: cgroup.map_or(0, |cgroup| count(&cgroup.events)), machine: count(Path::new("/proc/vmstat")) }
    }
}

impl Cgroup {
    /// From /proc/self/cgroup: the memory controller's tree of version 1, or the one tree of version 2.
    fn of(text: &str, mount: &Path) -> Option<Self> {
        let of = |wanted: &dyn Fn(&str) -> bool| {
            let mut trees =
                text.lines().filter_map(|line| line.split_once(':')).filter_map(|(_, rest)| rest.split_once(':'));
            trees.find(|(controllers, _)| wanted(controllers)).map(|(_, path)| path.trim_start_matches('/').to_owned())
        };
        if let Some(path) = of(&|controllers| controllers.split(',').any(|one| one == "memory")) {
            // In a container the tree is mounted from the container's own folder on.
            let folder = existing(&mount.join("memory"), &path, "memory.oom_control")?;
            return Some(Self {
                events: folder.join("memory.oom_control"),
                limit: folder.join("memory.limit_in_bytes"),
            });
        }
        let path = of(&str::is_empty)?;
        let folder = existing(mount, &path, "memory.events")?;
        Some(Self { events: folder.join("memory.events"), limit: folder.join("memory.max") })
    }

    /// `None` where there is no limit: `max`, or the largest number of pages.
    fn limit_bytes(&self) -> Option<u64> {
        let bytes: u64 = fs::read_to_string(&self.limit).ok()?.trim().parse().ok()?;
        (bytes < 1 << 60).then_some(bytes)
    }
}

fn existing(mount: &Path, path: &str, file: &str) -> Option<PathBuf> {
    [mount.join(path), mount.to_owned()].into_iter().find(|folder| folder.join(file).exists())
}

/// NCCL's last warnings in a file, which it may not have made.
fn warnings(path: &Path) -> Vec<String> {
    let mut end = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(WARNING_BYTES)))?;
        file.take(WARNING_BYTES).read_to_end(&mut end)
    });
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&end);
    let mut found: Vec<String> =
        text.lines().rev().filter_map(nccl_warning).take(WARNINGS).map(str::to_owned).collect();
    found.reverse();
    found
}

/// The number after `name ` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn private_folder() -> Option<PathBuf> {
    let base = std::env::temp_dir();
    let name = |attempt: u32| base.join(format!("trainyard-errors-{}-{attempt}", std::process::id()));
    // A folder of that name that exists already is somebody else's, or left behind.
    (0..100).map(name).find(|path| fs::DirBuilder::new().mode(0o700).create(path).is_ok())
}

impl Log {
    fn open() -> Self {
        let opened =
            fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/kmsg");
        let mut log = match opened {
            Ok(device) => Self::Device(device),
            Err(_) if buffer_bytes().is_some() => Self::Buffer(0),
            Err(_) => Self::Closed,
        };
        log.skip();
        log
    }

    /// What is there already does not count.
    fn skip(&mut self) {
        match self {
            Self::Device(device) => {
                // Where that fails all of it counts, as far as it names our processes.
                let _ = device.seek(SeekFrom::End(0));
            }
            Self::Buffer(since_us) => *since_us = now_us().saturating_sub(CLOCK_DRIFT_US),
            Self::Closed => {}
        }
    }

    /// Brings `events` up to date. False if we may not read the log, which would have named whom the kernel killed.
    fn read(&mut self, events: &mut Vec<KernelEvent>) -> bool {
        match self {
            Self::Device(device) => {
                let mut record = [0; RECORD_BYTES];
                for _ in 0..RECORDS {
                    match device.read(&mut record) {
                        Ok(0) => break,
                        Ok(length) => events.extend(record_event(&String::from_utf8_lossy(&record[..length]))),
                        // The record was overwritten while we read: the next one follows.
                        Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                        Err(_) => break,
                    }
                }
                true
            }
            Self::Buffer(since_us) => buffer_events(*since_us).map(|all| *events = all).is_some(),
            Self::Closed => false,
        }
    }
}

/// One record of /dev/kmsg: `priority,sequence,microseconds,flags;text`.
fn record_event(record: &str) -> Option<KernelEvent> {
    let (_, text) = record.split_once(';')?;
    kernel_event(text.lines().next()?)
}

/// The size of the buffer behind `dmesg`, which may be open to those who may not open the device.
fn buffer_bytes() -> Option<usize> {
    const SIZE: libc::c_int = 10;
    // SAFETY: asks for a number only; the pointer is not used.
    usize::try_from(unsafe { libc::klogctl(SIZE, std::ptr::null_mut(), 0) }).ok()
}

fn buffer_events(since_us: u64) -> Option<Vec<KernelEvent>> {
    const READ_ALL: libc::c_int = 3;
    let mut buffer = vec![0_u8; buffer_bytes()?];
    let length = libc::c_int::try_from(buffer.len()).ok()?;
    // SAFETY: the buffer has `length` bytes, and the kernel writes no more than that.
    let read = usize::try_from(unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), length) }).ok()?;
    let text = String::from_utf8_lossy(&buffer[..read.min(buffer.len())]).into_owned();
    Some(text.lines().filter_map(|line| printed_event(line, since_us)).collect())
}

/// One line of the buffer: `<6>[ 1234.567890] text`.
fn printed_event(line: &str, since_us: u64) -> Option<KernelEvent> {
    let (_, rest) = line.split_once('[')?;
    let (time, text) = rest.split_once("] ")?;
    let (seconds, fraction) = time.trim().split_once('.')?;
    let at = seconds.parse::<u64>().ok()?.checked_mul(1_000_000)? + fraction.parse::<u64>().ok()?;
    (at >= since_us).then(|| kernel_event(text)).flatten()
}

/// The kernel's own clock, which its log uses.
fn now_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of the right type that lives through the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    if done == 0 { seconds * 1_000_000 + nanoseconds / 1000 } else { 0 }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    const OOM: &str = "Out of memory: Killed process 77 (python) total-vm:1kB, anon-rss:2048kB, file-rss:0kB";

    #[test]
    fn lines_of_the_kernels_log_count_from_the_start_on() {
        let event = KernelEvent::OutOfMemory { pid: 77, anonymous_bytes: Some(2048 * 1024), limited: false };
        let record = format!("3,1234,5000000,-;{OOM}\n SUBSYSTEM=x");
        assert_eq!(record_event(&record), Some(event.clone()));
        let line = format!("<3>[    5.000000] {OOM}");
        assert_eq!(printed_event(&line, 4_000_000), Some(event));
        assert_eq!(printed_event(&line, 6_000_000), None);
    }

    #[test]
    fn the_cgroup_is_found_in_both_versions_and_from_inside_a_container() {
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        make("pods/a/memory.events", "low 0\noom 2\noom_kill 2\n");
        make("pods/a/memory.max", "1048576\n");
        let two = Cgroup::of("0::/pods/a\n", folder.path()).unwrap();
        assert_eq!((Counters::read(Some(&two)).cgroup, two.limit_bytes()), (2, Some(1 << 20)));
        make("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
        make("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let one = Cgroup::of("8:memory:/docker/x\n0::/\n", folder.path()).unwrap();
        assert_eq!((Counters::read(Some(&one)).cgroup, one.limit_bytes()), (5, None));
        assert_eq!(Cgroup::of("0::/nothing\n", Path::new("/nowhere")), None);
    }

    #[test]
    fn what_befell_an_earlier_generation_is_no_evidence() {
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("memory.events");
        fs::write(&events, "oom_kill 1\n").unwrap();
        let cgroup = Cgroup { events: events.clone(), limit: folder.path().join("memory.max") };
        let mut watch = Watch::begin();
        watch.cgroup = Some(cgroup);
        let kills = |watch: &mut Watch, generation| watch.evidence((0, generation), None, false, None).cgroup_oom_kills;
        watch.enter(1);
        assert_eq!(kills(&mut watch, 1), 0);
        fs::write(&events, "oom_kill 2\n").unwrap();
        assert_eq!(kills(&mut watch, 1), 1);
        watch.enter(2);
        assert_eq!(kills(&mut watch, 2), 0);
    }

    #[test]
    fn an_error_file_is_private_read_and_removed() {
        let mut watch = Watch::begin();
        let path = watch.error_file(1, 3).unwrap();
        fs::write(&path, "{\"message\": {\"message\": \"KeyError: 'lr'\", \"extraInfo\": {}}}").unwrap();
        let report = watch.evidence((1, 3), None, false, None).report.unwrap();
        assert_eq!(report.message, "KeyError: 'lr'");
        assert_eq!(watch.evidence((1, 4), None, false, None).report, None, "another generation's");
        drop(watch);
        assert!(!Path::new(&path).exists());
    }
}
