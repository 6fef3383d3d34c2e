//! A piece of memory that several processes map, and a meeting of them in it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::CommError;

/// How long a rank sleeps before it looks whether somebody is gone.
const SLICE: Duration = Duration::from_millis(10);

/// Mapped until it is dropped. It has no name: it ends with the last process that maps it.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    /// Rank 0's descriptor, by which the others open it.
    _file: Option<File>,
}

// SAFETY: the mapping belongs to no thread, and every access to it goes through atomics or the callers' own rules.
unsafe impl Send for Memory {}

impl Memory {
    /// The bytes at the front that are the meeting's: its counters and the mark, on cache lines of their own.
    pub(super) const COUNTERS: usize = 192;
    const ARRIVED: usize = 0;
    const ROUND: usize = 64;
    const MARK: usize = 128;

    /// New memory of zeros, and what another process needs to map it.
    pub(super) fn create(bytes: usize) -> io::Result<(Self, [i64; 3])> {
        // SAFETY: the name is a constant C string; the result is checked.
        let fd = unsafe { libc::memfd_create(c"trainyard-communicator".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(bytes as u64)?;
        let mut memory = Self::map(&file, bytes)?;
        let mark = mark()?;
        memory.mark().store(mark.cast_unsigned(), Ordering::Release);
        memory._file = Some(file);
        Ok((memory, [i64::from(std::process::id()), i64::from(fd), mark]))
    }

    /// Maps what another process of this machine has created.
    pub(super) fn open(bytes: usize, [process, fd, mark]: [i64; 3]) -> io::Result<Self> {
        if fd < 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "nothing is offered"));
        }
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{process}/fd/{fd}"))?;
        let metadata = file.metadata()?;
        // In another process namespace this may be anything, also something that is not to be mapped.
        if !metadata.is_file() || metadata.len() != bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another file has that number here"));
        }
        let memory = Self::map(&file, bytes)?;
        if memory.mark().load(Ordering::Acquire) != mark.cast_unsigned() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another memory has that number here"));
        }
        Ok(memory)
    }

    fn map(file: &File, bytes: usize) -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { base, bytes, _file: None })
    }

    /// Lets go of the descriptor, when all others have opened it.
    pub(super) fn close(&mut self) {
        self._file = None;
    }

    fn mark(&self) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever used as an atomic.
        unsafe { self.base.add(Self::MARK).cast::<AtomicU64>().as_ref() }
    }

    fn counter(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as in `mark`.
        unsafe { self.base.add(at).cast::<AtomicU32>().as_ref() }
    }

    /// `count` elements from byte `start`.
    ///
    /// # Safety
    /// Nobody may write there while the slice lives, and any bytes must be a valid `T`.
    pub(super) unsafe fn slice<T>(&self, start: usize, count: usize) -> &[T] {
        assert!(start + count * size_of::<T>() <= self.bytes, "inside the mapping");
        // SAFETY: inside the mapping; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.add(start).cast().as_ptr(), count) }
    }

    /// `count` elements from byte `start`, to write.
    ///
    /// # Safety
    /// Nobody else may touch them while the slice lives, and any bytes must be a valid `T`.
    #[expect(clippy::mut_from_ref, reason = "other processes hold the memory too: the caller keeps accesses apart")]
    pub(super) unsafe fn slice_mut<T>(&self, start: usize, count: usize) -> &mut [T] {
        assert!(start + count * size_of::<T>() <= self.bytes, "inside the mapping");
        // SAFETY: inside the mapping; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start).cast().as_ptr(), count) }
    }

    /// Returns when `world` processes have called it. The first `looking` it only looks; then it sleeps, and every now
    /// and then asks `watch` whether that still makes sense. What the others wrote before they came is seen afterwards.
    pub(super) fn meet(
        &self,
        world: usize,
        looking: Duration,
        mut watch: impl FnMut() -> Result<(), CommError>,
    ) -> Result<(), CommError> {
        let (arrived, round) = (self.counter(Self::ARRIVED), self.counter(Self::ROUND));
        let now = round.load(Ordering::Acquire);
        if arrived.fetch_add(1, Ordering::AcqRel) as usize + 1 == world {
            arrived.store(0, Ordering::Relaxed);
            round.store(now.wrapping_add(1), Ordering::Release);
            wake_all(round);
            return Ok(());
        }
        let is_over = || round.load(Ordering::Acquire) != now;
        if !looking.is_zero() {
            let until = Instant::now() + looking;
            while Instant::now() < until {
                if is_over() {
                    return Ok(());
                }
                (0..32).for_each(|_| std::hint::spin_loop());
            }
        }
        while !is_over() {
            if sleep(round, now) || is_over() {
                continue;
            }
            // Whoever has left saw this meeting end first: look once more before somebody is blamed.
            if let Err(error) = watch()
                && !is_over()
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Sleeps while `word` is `value`, for a slice of time; `false` when nothing happened in it.
fn sleep(word: &AtomicU32, value: u32) -> bool {
    let nanos = libc::c_long::try_from(SLICE.as_nanos()).unwrap_or(libc::c_long::MAX);
    let slice = libc::timespec { tv_sec: 0, tv_nsec: nanos };
    // SAFETY: the word and the time live through the call. The futex is shared between processes.
    let slept = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const slice) };
    slept == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
}

fn wake_all(word: &AtomicU32) {
    // SAFETY: the word lives through the call. Waking nobody is no error.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, libc::c_int::MAX) };
}

/// A number that no other memory has.
fn mark() -> io::Result<i64> {
    use std::io::Read as _;
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(i64::from_le_bytes(bytes))
}
