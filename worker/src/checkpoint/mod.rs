//! The checkpoint folder of a job, as its launcher sees it: what the newest whole checkpoint is, whether one is being
//! written, and the old ones removed.
//!
//! A thread of its own looks every few seconds, at a low priority and for a small share of the time, so that neither the
//! ranks nor the launcher wait for a slow file system.

mod look;
mod remove;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use trainyard_worker_core::checkpoint;

use look::Looker;

pub use remove::remove;

/// Variables by which the manifest's `spec.checkpoint` comes to the launcher.
pub const PATH: &str = "TRAINYARD_CHECKPOINT_PATH";
/// How many checkpoints to keep.
pub const KEEP: &str = "TRAINYARD_CHECKPOINT_KEEP";
/// How often to look.
pub const EVERY: &str = "TRAINYARD_CHECKPOINT_EVERY_SECONDS";
/// Names the file by which the launcher tells the node agent of the newest one; set by the node agent.
pub(crate) const FILE: &str = "TRAINYARD_CHECKPOINT_FILE";

const DEFAULT_EVERY: Duration = Duration::from_secs(5);
/// A stop waits for a write: then its end is looked for this often.
const HURRIED: Duration = Duration::from_millis(100);
/// Looking takes no more than one part in this many of the time.
const SHARE: u32 = 20;

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder; not there before the first checkpoint, perhaps.
    pub folder: PathBuf,
    /// How many checkpoints stay; `None`: all.
    pub keep: Option<u32>,
    /// How often to look.
    pub every: Duration,
}

impl Settings {
    /// From the environment; `None` if the job names no folder. A number that is none counts as not given.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let folder = lookup(PATH).filter(|path| !path.is_empty())?;
        let number = |name| lookup(name).and_then(|text| text.parse::<u32>().ok()).filter(|number| *number > 0);
        let every = number(EVERY).map_or(DEFAULT_EVERY, |seconds| Duration::from_secs(u64::from(seconds)));
        Some(Self { folder: PathBuf::from(folder), keep: number(KEEP), every })
    }
}

/// The newest whole checkpoint, as the job's status has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Newest {
    /// Its step, if its name tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Where it lies.
    pub path: String,
    /// When it was finished, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Size of all its files.
    pub bytes: u64,
}

impl Newest {
    fn of(folder: &Path, found: &checkpoint::Checkpoint) -> Self {
        // Joining nothing would put a slash at the end.
        let path = if found.path.is_empty() { folder.to_path_buf() } else { folder.join(&found.path) };
        Self {
            step: found.step,
            path: path.to_string_lossy().into_owned(),
            at_ms: found.modified_ms,
            bytes: found.bytes,
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    newest: Mutex<Option<Newest>>,
    writing: AtomicBool,
    hurried: AtomicBool,
    looks: AtomicU64,
    /// Looks that somebody waits for, and the last of them that was begun when it was asked for and is done.
    asked: AtomicU64,
    answered: AtomicU64,
    /// Nobody writes any more.
    over: AtomicBool,
}

/// The running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Seen>,
    line: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look, in a thread of its own.
    ///
    /// # Errors
    /// The system's, when the thread cannot be started.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let (line, end) = UnixStream::pair()?;
        line.set_nonblocking(true)?;
        end.set_nonblocking(true)?;
        let seen = Arc::new(Seen::default());
        let mut watcher = Watcher { looker: Looker::new(settings.folder.clone()), settings, seen: seen.clone(), end };
        let thread = std::thread::Builder::new().name("checkpoints".to_owned()).spawn(move || watcher.run())?;
        Ok(Self { seen, line: Some(line), thread: Some(thread) })
    }

    /// Readable when there is something new to ask for.
    ///
    /// # Panics
    /// Never: the line is open as long as the watch.
    #[must_use]
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.line.as_ref().expect("open until it is dropped").as_fd()
    }

    /// Takes note that there is something new.
    pub fn hear(&self) {
        if let Some(line) = &self.line {
            while matches!(io::Read::read(&mut &*line, &mut [0; 64]), Ok(1..)) {}
        }
    }

    /// The newest whole checkpoint that was seen.
    #[must_use]
    pub fn newest(&self) -> Option<Newest> {
        self.seen.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many times the folder was looked at.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.seen.looks.load(Ordering::Acquire)
    }

    /// From now on looks all the time: a stop waits for [`Watch::is_writing`] to become false. Until the first look since
    /// then it is true.
    pub fn hurry(&self) {
        if !self.seen.hurried.swap(true, Ordering::AcqRel) {
            self.seen.writing.store(true, Ordering::Release);
            self.wake();
        }
    }

    /// Looks once more, for what was written last; returns when that is done, or after `patience`. `over`: all who may have
    /// written have ended well, so that what is there now is all that there will be.
    pub fn look_again(&self, patience: Duration, over: bool) {
        // Not taken back: what is whole stays so.
        self.seen.over.fetch_or(over, Ordering::AcqRel);
        let asked = self.seen.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake();
        let deadline = Instant::now() + patience;
        while self.seen.answered.load(Ordering::Acquire) < asked && Instant::now() < deadline {
            // The line to the watch is for those who poll: what it would say is not to be taken from them.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Looks at once, and does not wait for that.
    pub fn wake(&self) {
        if let Some(line) = &self.line {
            // A full line has woken it already.
            let _ = io::Write::write(&mut &*line, &[0]);
        }
    }

    /// Whether a checkpoint was being written when the folder was last looked at.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.seen.writing.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.line = None;
        // Not joined: it may be in a file system that does not answer, and has nothing left to do.
        self.thread = None;
    }
}

struct Watcher {
    settings: Settings,
    looker: Looker,
    seen: Arc<Seen>,
    end: UnixStream,
}

impl Watcher {
    fn run(&mut self) {
        lower_priority();
        loop {
            let began = Instant::now();
            self.look();
            let took = began.elapsed();
            let hurried = self.seen.hurried.load(Ordering::Acquire);
            let pause = if hurried { HURRIED } else { self.settings.every.max(took * SHARE) };
            if self.is_over(pause) {
                return;
            }
        }
    }

    fn look(&mut self) {
        let asked = self.seen.asked.load(Ordering::Acquire);
        // Asked before: a look that began before the hurry does not answer it.
        let hurried = self.seen.hurried.load(Ordering::Acquire);
        let over = self.seen.over.load(Ordering::Acquire);
        // Nothing changes any more: what changed a moment ago has settled.
        let now_ms = crate::shim::now_ms() + if over { checkpoint::LONG_SETTLED_MS } else { 0 };
        match self.looker.look(now_ms) {
            Ok(found) => {
                let newest = checkpoint::newest(&found).map(|found| Newest::of(self.looker.folder(), found));
                // One that was there and is gone was removed by somebody; then the next newest is it.
                let mut held = self.seen.newest.lock().unwrap_or_else(PoisonError::into_inner);
                let is_news = *held != newest;
                *held = newest;
                drop(held);
                if is_news {
                    self.notify();
                }
                let writing = checkpoint::is_writing(&found, now_ms);
                self.tell_writing(hurried, writing);
                if !hurried {
                    self.prune(&found);
                }
            }
            Err(error) => {
                tracing::debug!(folder = %self.settings.folder.display(), %error, "cannot look for checkpoints");
                self.tell_writing(hurried, false);
            }
        }
        self.seen.looks.fetch_add(1, Ordering::AcqRel);
        self.seen.answered.store(asked, Ordering::Release);
    }

    fn tell_writing(&self, hurried: bool, writing: bool) {
        if hurried == self.seen.hurried.load(Ordering::Acquire)
            && self.seen.writing.swap(writing, Ordering::AcqRel) != writing
        {
            self.notify();
        }
    }

    fn notify(&self) {
        // A full line is readable already.
        let _ = io::Write::write(&mut &self.end, &[0]);
    }

    fn prune(&self, found: &[checkpoint::Checkpoint]) {
        let old = self.settings.keep.map(|keep| checkpoint::prune(found, keep)).unwrap_or_default();
        for path in self.looker.leftovers().into_iter().chain(old) {
            match remove(self.looker.folder(), &path) {
                Ok(()) => tracing::info!(%path, "removed an old checkpoint"),
                Err(error) => tracing::warn!(%path, %error, "an old checkpoint cannot be removed"),
            }
        }
    }

    /// Waits; true when the watch was dropped.
    fn is_over(&self, pause: Duration) -> bool {
        let mut polled = [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(0) | Err(_) => false,
            Ok(_) => matches!(io::Read::read(&mut &self.end, &mut [0; 8]), Ok(0)),
        }
    }
}

/// Of this thread alone. Where it is refused the thread is merely not as polite.
fn lower_priority() {
    // SAFETY: plain system calls on numbers; id 0 is the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
}
