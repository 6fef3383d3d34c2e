//! The launcher's standard output and standard error, each written by a thread of its own: a reader that does not read holds
//! up the ranks that write, and not the launcher that sees to them.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

/// What may wait to be written; then the ranks' pipes are not read, which makes them wait.
const FULL: usize = 1024 * 1024;
/// How long the end waits for somebody who reads nothing, after it was asked for.
pub(super) const MOMENT: Duration = Duration::from_secs(2);
/// How often the end looks whether it was waited for long enough.
const LOOK_MS: u16 = 100;

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Out,
    Error,
}

/// One for the whole process, as the outputs are.
static CONSOLE: OnceLock<Console> = OnceLock::new();

struct Console {
    lanes: [Lane; 2],
    /// A byte when there is room again for what waits.
    bell: UnixStream,
    ringer: UnixStream,
}

#[derive(Default)]
struct Lane {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    pages: VecDeque<Vec<u8>>,
    /// Not written yet.
    bytes: usize,
    /// Written pages.
    written: u64,
    /// Somebody wants to hear the bell.
    awaited: bool,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self, channel: Channel, mut ringer: &UnixStream) {
        let mut state = self.lock();
        loop {
            let Some(page) = state.pages.pop_front() else {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            // Nobody reading us is no reason to end.
            let _ = match channel {
                Channel::Out => write(io::stdout().as_fd(), &page),
                Channel::Error => write(io::stderr().as_fd(), &page),
            };
            state = self.lock();
            state.bytes -= page.len();
            state.written += 1;
            if state.bytes < FULL / 2 && std::mem::take(&mut state.awaited) {
                // A full bell rings already.
                let _ = ringer.write(&[1]);
            }
        }
    }
}

impl Console {
    fn lane(&self, channel: Channel) -> &Lane {
        match channel {
            Channel::Out => &self.lanes[0],
            Channel::Error => &self.lanes[1],
        }
    }
}

/// From now on nothing that is written here waits. Signals that the thread blocks are blocked for those who write.
pub(super) fn start() -> io::Result<()> {
    let (bell, ringer) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    ringer.set_nonblocking(true)?;
    let console = CONSOLE.get_or_init(|| Console { lanes: Default::default(), bell, ringer });
    for (channel, name) in [(Channel::Out, "output"), (Channel::Error, "errors")] {
        let write = move || console.lane(channel).write_for_ever(channel, &console.ringer);
        std::thread::Builder::new().name(name.to_owned()).spawn(write)?;
    }
    Ok(())
}

/// Writes whole lines, in the order of the calls, and in one piece. Never waits.
pub(super) fn put(channel: Channel, page: Vec<u8>) {
    let Some(console) = CONSOLE.get() else {
        let _ = match channel {
            Channel::Out => io::stdout().write_all(&page).and_then(|()| io::stdout().flush()),
            Channel::Error => io::stderr().write_all(&page),
        };
        return;
    };
    if page.is_empty() {
        return;
    }
    let lane = console.lane(channel);
    let mut state = lane.lock();
    state.bytes += page.len();
    state.pages.push_back(page);
    lane.more.notify_one();
}

/// Tells the user.
pub(super) fn tell(text: impl Into<String>) {
    put(Channel::Error, text.into().into_bytes());
}

/// Whether so much waits that no more should be taken; the bell rings when that is over.
pub(super) fn is_full(channel: Channel) -> bool {
    let Some(console) = CONSOLE.get() else { return false };
    let mut state = console.lane(channel).lock();
    let full = state.bytes >= FULL;
    state.awaited |= full;
    full
}

/// To be polled; then call [`hear`].
pub(super) fn bell() -> Option<BorrowedFd<'static>> {
    CONSOLE.get().map(|console| console.bell.as_fd())
}

/// Takes the bell's ringing.
pub(super) fn hear() {
    let Some(console) = CONSOLE.get() else { return };
    while (&console.bell).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
}

/// Waits until everything is written. Somebody who reads late gets it all, until a signal comes; then, and where an end was
/// `asked` for, somebody who reads nothing for a moment gets no more.
pub(super) fn finish(asked: bool, signals: Option<&SignalFd>) {
    let Some(console) = CONSOLE.get() else { return };
    let mut asked = asked;
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let (mut bytes, mut written) = (0, 0);
        for lane in &console.lanes {
            let mut state = lane.lock();
            state.awaited = true;
            (bytes, written) = (bytes + state.bytes, written + state.written);
        }
        if written != before {
            (before, since) = (written, Instant::now());
        }
        if bytes == 0 || (asked && since.elapsed() >= MOMENT) {
            return;
        }
        let all = std::iter::once(console.bell.as_fd()).chain(signals.map(|signals| signals.as_fd()));
        let mut polled: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = poll(&mut polled, PollTimeout::from(LOOK_MS));
        hear();
        while let Some(Ok(Some(info))) = signals.map(SignalFd::read_signal) {
            if info.ssi_signo.cast_signed() != Signal::SIGCHLD as i32 && !asked {
                (asked, since) = (true, Instant::now());
            }
        }
    }
}

/// In one piece, as far as the system has it so: lines of two ranks never mix. Others who have the same file open may have
/// made it one that does not wait.
fn write(to: BorrowedFd<'_>, mut page: &[u8]) -> Result<(), Errno> {
    while !page.is_empty() {
        match nix::unistd::write(to, page) {
            Ok(count) => page = &page[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
