//! Changes in the pods' state folders, told by the kernel: a shim's note wakes the pod's task at once.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Watches state folders.
#[derive(Clone)]
pub(super) struct DiskWatch {
    inotify: Arc<Inotify>,
    waiting: Arc<Mutex<HashMap<WatchDescriptor, Arc<Notify>>>>,
}

/// Keeps a folder watched.
pub(super) struct Watched {
    disk: DiskWatch,
    descriptor: WatchDescriptor,
}

impl DiskWatch {
    /// # Errors
    /// When the kernel gives no inotify instance.
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify: Arc::new(inotify), waiting: Arc::default() })
    }

    /// Wakes `notify` whenever a file in `folder` is put in place.
    pub(super) fn watch(&self, folder: &Path, notify: Arc<Notify>) -> io::Result<Watched> {
        // The lock is held across: an event may be read before the entry is made otherwise.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        let descriptor = self.inotify.add_watch(folder, flags)?;
        waiting.insert(descriptor, notify);
        drop(waiting);
        Ok(Watched { disk: self.clone(), descriptor })
    }

    /// Hands events on until the task is aborted.
    pub(super) async fn run(self) -> io::Result<()> {
        // What happened while nobody read: everybody looks for themselves.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|notify| notify.notify_one());
        let owned = self.inotify.as_fd().try_clone_to_owned()?;
        // SAFETY: an owned descriptor, which lives as long as the registration does.
        let ready = unsafe { AsyncFd::register_with_interest(owned, Interest::READABLE) }?;
        loop {
            let mut guard = ready.readable().await?;
            match self.inotify.read_events() {
                Ok(events) => {
                    let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    for event in events {
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            // Events were lost: everybody looks for themselves.
                            waiting.values().for_each(|notify| notify.notify_one());
                        } else if let Some(notify) = waiting.get(&event.wd) {
                            notify.notify_one();
                        }
                    }
                }
                // One read takes a buffer's worth: only when nothing is left does the next event have to be waited for.
                Err(nix::Error::EAGAIN) => guard.clear_ready(),
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.disk.inotify.rm_watch(self.descriptor);
        self.disk.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.descriptor);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_burst_of_changes_wakes_everybody() {
        let home = tempfile::tempdir().expect("a folder");
        let disk = DiskWatch::new().expect("an inotify instance");
        // Twice as many events as one read takes.
        let watched: Vec<(Watched, Arc<Notify>)> = (0..300)
            .map(|index| {
                let folder = home.path().join(index.to_string());
                std::fs::create_dir(&folder).expect("a folder");
                let notify = Arc::new(Notify::new());
                let watched = disk.watch(&folder, notify.clone()).expect("watched");
                std::fs::write(folder.join("note"), "").expect("written");
                (watched, notify)
            })
            .collect();
        let running = tokio::spawn(disk.run());
        for (_, notify) in &watched {
            assert!(tokio::time::timeout(Duration::from_secs(10), notify.notified()).await.is_ok());
        }
        running.abort();
    }
}
