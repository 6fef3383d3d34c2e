//! The checkpoints of the job: those who give the orders are told of the newest one, and a stop from outside waits for
//! one that is being written.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use trainyard_proto::rendezvous::Saved;
use trainyard_worker_core::supervisor::Input;

use super::console;
use crate::checkpoint::{FILE, Newest, Settings, Watch};
use crate::shim::write_atomically;

/// Between the end of the wait and the end of the pod's grace: the ranks have to end in it.
const MARGIN_MS: i64 = 1_000;

/// How long the end of a job waits for a look at what it has left.
const FINISH: Duration = Duration::from_millis(500);

/// What the launcher does about checkpoints. Nothing, where the job names no folder.
#[derive(Debug, Default)]
pub(super) struct Saves {
    settings: Option<Settings>,
    watch: Option<Watch>,
    told: Option<Newest>,
    /// By which the node agent is told.
    file: Option<PathBuf>,
    held: Option<Held>,
}

/// A stop that waits.
#[derive(Debug)]
struct Held {
    stop: Input,
    until_ms: i64,
}

impl Saves {
    pub(super) fn new(lookup: impl Fn(&str) -> Option<String>) -> Self {
        Self { settings: Settings::read(&lookup), file: lookup(FILE).map(PathBuf::from), ..Self::default() }
    }

    /// The ranks run: from now on the first launcher of the job looks for what they write, and prunes it.
    pub(super) fn begin(&mut self, is_first: bool) {
        if is_first
            && self.watch.is_none()
            && let Some(settings) = &self.settings
        {
            self.watch = start(settings.clone());
        }
    }

    pub(super) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(Watch::readable)
    }

    /// The ranks have ended: the last thing that they wrote is seen, if that is quickly done. `over`: all of the job's, and
    /// each of them well.
    pub(super) fn finish(&self, over: bool) {
        if let Some(watch) = &self.watch {
            watch.look_again(FINISH, over);
        }
    }

    /// The ranks are about to begin again, perhaps from what was written since the last look.
    pub(super) fn look(&self) {
        if let Some(watch) = &self.watch {
            watch.wake();
        }
    }

    /// Whoever listens now has not heard anything yet.
    pub(super) fn forget(&mut self) {
        self.told = None;
    }

    /// The newest checkpoint, if it was not told.
    pub(super) fn news(&mut self) -> Option<Saved> {
        let watch = self.watch.as_ref()?;
        watch.hear();
        let newest = watch.newest().filter(|newest| self.told.as_ref() != Some(newest))?;
        self.told = Some(newest.clone());
        if let (Some(file), Ok(text)) = (&self.file, serde_json::to_vec(&newest)) {
            // The coordinator is told as well, where there is one.
            let _ = write_atomically(file, &text);
        }
        let Newest { step, path, at_ms, bytes } = newest;
        Some(Saved { step, path, at_ms, bytes })
    }

    /// Keeps a stop back, if a checkpoint may be being written: until it is not, or `grace_ms` are nearly over. Gives it
    /// back if there is nothing to wait for.
    pub(super) fn hold(&mut self, stop: Input, now_ms: i64, grace_ms: i64) -> Option<Input> {
        let Some(settings) = &self.settings else { return Some(stop) };
        if let Some(held) = self.held.take() {
            if matches!((&held.stop, &stop), (Input::Stop(_), Input::Stop(_))) {
                // Asked twice: somebody is in a hurry.
                return Some(stop);
            }
            // The coordinator says so and the node agent too: the same stop, in two words. The signal is what counts later.
            let signal = if matches!(stop, Input::Stop(_)) { stop } else { held.stop };
            self.held = Some(Held { stop: signal, ..held });
            return None;
        }
        if self.watch.is_none() {
            // Others prune and tell.
            self.watch = start(Settings { keep: None, ..settings.clone() });
        }
        let Some(watch) = &self.watch else { return Some(stop) };
        watch.hurry();
        self.held = Some(Held { stop, until_ms: now_ms + (grace_ms - MARGIN_MS).max(0) });
        None
    }

    /// The stop that was kept back, when its time has come.
    pub(super) fn due(&mut self, now_ms: i64) -> Option<Input> {
        let is_over =
            |held: &mut Held| now_ms >= held.until_ms || self.watch.as_ref().is_none_or(|watch| !watch.is_writing());
        self.held.take_if(is_over).map(|held| held.stop)
    }

    pub(super) fn deadline(&self) -> Option<i64> {
        self.held.as_ref().map(|held| held.until_ms)
    }
}

fn start(settings: Settings) -> Option<Watch> {
    let folder = settings.folder.clone();
    Watch::start(settings)
        .inspect_err(|error| {
            let folder = folder.display();
            console::tell(format!("trainyard: cannot look for checkpoints in {folder}: {error}\n"));
        })
        .ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::time::Instant;

    use trainyard_worker_core::supervisor::{Stop, Verdict};

    use super::*;

    const STOP: Input = Input::Stop(Stop::Terminate);

    fn saves(folder: &std::path::Path) -> Saves {
        let path = folder.to_str().unwrap().to_owned();
        Saves::new(|name| (name == crate::checkpoint::PATH).then(|| path.clone()))
    }

    fn due(saves: &mut Saves, now_ms: i64) -> Option<Input> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match saves.due(now_ms) {
                None if Instant::now() < deadline => std::thread::yield_now(),
                due => return due,
            }
        }
    }

    #[test]
    fn a_stop_is_not_kept_back_where_no_folder_is_named_or_it_is_asked_twice() {
        assert_eq!(Saves::new(|_| None).hold(STOP, 0, 10_000), Some(STOP));
        let folder = tempfile::tempdir().unwrap();
        let mut saves = saves(folder.path());
        assert_eq!(saves.hold(STOP, 0, 10_000), None);
        assert_eq!(saves.deadline(), Some(9_000));
        assert_eq!(saves.hold(STOP, 1, 10_000), Some(STOP));
        assert_eq!(saves.deadline(), None);
    }

    #[test]
    fn the_coordinator_and_the_node_agent_who_ask_for_the_same_are_in_no_hurry() {
        let release = Input::Release(Verdict::Stopped);
        for (first, second) in [(release.clone(), STOP), (STOP, release)] {
            let folder = tempfile::tempdir().unwrap();
            let mut saves = saves(folder.path());
            assert_eq!(saves.hold(first, 0, 10_000), None);
            assert_eq!(saves.hold(second, 50, 10_000), None);
            assert_eq!(saves.deadline(), Some(9_000), "from the first");
            assert_eq!(due(&mut saves, 60), Some(STOP));
        }
    }

    #[test]
    fn a_stop_is_let_go_when_nothing_is_written_or_the_grace_is_nearly_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut quiet = saves(folder.path());
        assert_eq!(quiet.hold(STOP, 0, 10_000), None);
        assert_eq!(due(&mut quiet, 1), Some(STOP));
        assert_eq!(quiet.due(1), None, "once");
        // Cut off, and new: somebody is writing it.
        let path = folder.path().join("step_1.pt");
        std::fs::write(&path, "PK\x03\x04").unwrap();
        let mut busy = saves(folder.path());
        busy.begin(true);
        assert_eq!(busy.hold(STOP, 0, 10_000), None);
        let watch = busy.watch.as_ref().unwrap();
        let looks = watch.looks();
        while watch.looks() < looks + 2 {
            std::thread::yield_now();
        }
        assert_eq!(busy.due(8_999), None);
        assert_eq!(busy.due(9_000), Some(STOP));
    }
}
