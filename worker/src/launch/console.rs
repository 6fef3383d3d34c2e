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
/// What of it may be the launcher's own words: nobody can be made to wait for them, so beyond that the oldest are left out.
const OWN: usize = FULL / 4;
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
    /// What the ranks wrote, and our own words: whole lines, with the number of the call.
    pages: VecDeque<(u64, Vec<u8>)>,
    own: VecDeque<(u64, Vec<u8>)>,
    calls: u64,
    /// Not written yet, of both.
    bytes: usize,
    /// Of our own words that wait.
    own_bytes: usize,
    /// Lines of our own that were left out, and it was not said yet.
    left_out: usize,
    /// Written pages.
    written: u64,
    /// Somebody wants to hear the bell.
    awaited: bool,
}

impl State {
    fn push(&mut self, page: Vec<u8>) {
        self.calls += 1;
        self.bytes += page.len();
        self.pages.push_back((self.calls, page));
    }

    /// The newest words stay: the last of all say how it ended.
    fn push_own(&mut self, page: Vec<u8>) {
        self.calls += 1;
        self.bytes += page.len();
        self.own_bytes += page.len();
        self.own.push_back((self.calls, page));
        while self.own_bytes > OWN && self.own.len() > 1 {
            let Some((_, oldest)) = self.own.pop_front() else { return };
            self.bytes -= oldest.len();
            self.own_bytes -= oldest.len();
            self.left_out += oldest.iter().filter(|byte| **byte == b'\n').count();
        }
    }

    /// What is to be written next, and how many lines were left out before it.
    fn pop(&mut self) -> Option<(Vec<u8>, usize)> {
        let is_own = match (self.pages.front(), self.own.front()) {
            (Some((theirs, _)), Some((own, _))) => own < theirs,
            (None, Some(_)) => true,
            (Some(_) | None, None) => false,
        };
        if !is_own {
            return self.pages.pop_front().map(|(_, page)| (page, 0));
        }
        let (_, page) = self.own.pop_front()?;
        self.own_bytes -= page.len();
        Some((page, std::mem::take(&mut self.left_out)))
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self, channel: Channel, mut ringer: &UnixStream) {
        let mut state = self.lock();
        loop {
            let Some((page, left_out)) = state.pop() else {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            if left_out > 0 {
                say_left_out(channel, left_out);
            }
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

/// Writes whole lines of ranks, in the order of the calls, and in one piece. Never waits: who calls it asks [`is_full`] before.
pub(super) fn put(channel: Channel, page: Vec<u8>) {
    place(channel, page, State::push);
}

/// The same for lines of our own. Of those that wait for a reader only the newest are kept.
pub(super) fn put_own(channel: Channel, page: Vec<u8>) {
    place(channel, page, State::push_own);
}

/// Tells the user.
pub(super) fn tell(text: impl Into<String>) {
    put_own(Channel::Error, text.into().into_bytes());
}

fn place(channel: Channel, page: Vec<u8>, push: impl FnOnce(&mut State, Vec<u8>)) {
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
    push(&mut lane.lock(), page);
    lane.more.notify_one();
}

/// On standard error, and there where they would have been: standard output is the program's.
fn say_left_out(channel: Channel, lines: usize) {
    let text = |name| format!("trainyard: {lines} lines of the launcher's own are left out: nobody read {name}\n");
    match channel {
        Channel::Out => tell(text("standard output")),
        // Nobody reading us is no reason to end.
        Channel::Error => drop(write(io::stderr().as_fd(), text("standard error").as_bytes())),
    }
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn line(number: usize) -> Vec<u8> {
        format!("line {number:04}\n").into_bytes()
    }

    #[test]
    fn our_own_words_are_bounded_and_the_newest_are_kept_in_their_place() {
        let mut state = State::default();
        state.push(b"first of a rank\n".to_vec());
        let many = OWN / 10 + 500;
        (0..many).for_each(|number| state.push_own(line(number)));
        state.push(b"last of a rank\n".to_vec());
        state.push_own(b"the end\n".to_vec());
        assert!(state.own_bytes <= OWN && state.bytes < OWN + 100, "{} bytes", state.bytes);
        assert_eq!(state.pop(), Some((b"first of a rank\n".to_vec(), 0)));
        let (oldest, left_out) = state.pop().unwrap();
        assert!(left_out > 0);
        assert_eq!(oldest, line(left_out), "what is said to be left out was before it");
        let rest: Vec<_> = std::iter::from_fn(|| state.pop()).collect();
        assert!(rest.iter().all(|(_, left_out)| *left_out == 0), "it is said once");
        let kept: Vec<_> = rest.into_iter().map(|(page, _)| page).collect();
        assert_eq!(kept.len() - 2, many - left_out - 1);
        assert_eq!(kept[kept.len() - 2..], [b"last of a rank\n".to_vec(), b"the end\n".to_vec()]);
        assert_eq!(state.own_bytes, 0);
    }

    #[test]
    fn one_long_word_is_told_whole() {
        let mut state = State::default();
        state.push_own(vec![b'x'; 2 * OWN]);
        assert_eq!(state.pop().map(|(page, left_out)| (page.len(), left_out)), Some((2 * OWN, 0)));
    }
}
