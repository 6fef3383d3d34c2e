//! A group of ranks with a GPU each. Every call returns at once in NCCL and is awaited here, so that everything has a
//! deadline and can be interrupted; what is given up is aborted.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::cuda::SHARING;
use super::library::{Code, Config, Function, IN_PROGRESS, Raw, SUCCESS, UniqueId};
use super::{Device, DeviceBuffer, Library, NcclError};
use crate::comm::{Communicator, Interrupt, ReduceOp};

/// How often a call in the background is asked whether it is done: GPUs take tens of microseconds at least.
const ASKING: Duration = Duration::from_micros(50);
/// How long an abort may take before it counts as hanging: half a second and 10 ms for each waiting kernel is usual.
const ABORTING: Duration = Duration::from_secs(10);
/// `ncclFloat32`.
const FLOAT32: c_int = 7;
/// `NCCL_SHRINK_ABORT`: what the old group still does is ended first.
const SHRINK_ABORT: c_int = 1;
/// The rank that existing members give when a group grows: they keep theirs.
const KEEP: c_int = -1;

/// A group that is formed, or whose forming goes on.
#[derive(Debug)]
pub struct Group {
    library: Library,
    device: Arc<Device>,
    raw: Raw,
    rank: usize,
    world: usize,
    patience: Duration,
    interrupt: Option<Interrupt>,
}

// SAFETY: NCCL's communicators may be used from any thread, one at a time.
unsafe impl Send for Group {}

impl Group {
    /// Forms a group of all ranks of `comm`, each with the `gpu`-th GPU that it sees. All ranks must call it; if one of
    /// them cannot, all get an error. Nothing takes longer than `patience`.
    ///
    /// # Errors
    /// See [`NcclError`].
    pub fn form(comm: &mut Communicator, gpu: usize, patience: Duration) -> Result<Self, NcclError> {
        let own = Library::load().and_then(|library| open(library, gpu));
        let able = comm.all_gather(&[u8::from(own.is_ok())])?;
        let (library, device) = own?;
        if let Some(rank) = able.iter().position(|able| *able == 0) {
            return Err(NcclError::NotEverywhere { rank });
        }
        let id = share_id(comm, 0, || library.unique_id())?;
        type Init = unsafe extern "C" fn(*mut Raw, c_int, UniqueId, c_int, *mut Config) -> Code;
        let init = library.get::<Init>(&Function { name: "ncclCommInitRankConfig", since: "2.14" })?;
        device.enter()?;
        let mut group = Self::new(library, device, comm, patience);
        let (world, rank, mut config) = (count(group.world), count(group.rank), Config::nonblocking());
        // SAFETY: the signature is NCCL's; the pointers are to live values.
        let code = unsafe { init(&raw mut group.raw, world, id, rank, &raw mut config) };
        group.library.succeed("form the group", code)?;
        group.settle("form the group")?;
        Ok(group)
    }

    fn new(library: Library, device: Arc<Device>, comm: &Communicator, patience: Duration) -> Self {
        let (rank, world, interrupt) = (comm.rank(), comm.world_size(), comm.interrupt());
        Self { library, device, raw: std::ptr::null_mut(), rank, world, patience, interrupt }
    }

    /// This process's number in the group.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn world_size(&self) -> usize {
        self.world
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Replaces `buffer` by its reduction over all ranks; returns when that is done.
    ///
    /// # Errors
    /// See [`NcclError`]; after one the group is of no more use.
    pub fn all_reduce(&mut self, buffer: &mut DeviceBuffer, op: ReduceOp) -> Result<(), NcclError> {
        type AllReduce =
            unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Raw, *mut c_void) -> Code;
        let all_reduce = self.library.get::<AllReduce>(&Function { name: "ncclAllReduce", since: "2.0" })?;
        let op = match op {
            ReduceOp::Sum => 0,
            ReduceOp::Max => 2,
            ReduceOp::Min => 3,
            ReduceOp::Mean => 4,
        };
        self.device.enter()?;
        let (address, stream) = (buffer.address(), self.device.stream());
        // SAFETY: the signature is NCCL's; the buffer has `len` values and lives until the stream is idle, below.
        let code = unsafe { all_reduce(address, address, buffer.len(), FLOAT32, op, self.raw, stream) };
        self.library.succeed("all-reduce", code)?;
        self.settle("all-reduce")?;
        self.wait("all-reduce", |group| group.device.is_idle())
    }

    /// Ends everything that is under way, at once and without the others.
    ///
    /// # Errors
    /// [`NcclError::AbortHangs`] when NCCL does not come back from it: then only the end of the process helps.
    pub fn abort(mut self) -> Result<(), NcclError> {
        self.abort_now()
    }

    /// A group of those that are left when `gone` are. Called by the others only; ranks close up in order.
    ///
    /// # Errors
    /// [`NcclError::NotInVersion`] before NCCL 2.27; see [`NcclError`] for the rest.
    pub fn shrink(self, gone: &[usize]) -> Result<Self, NcclError> {
        type Shrink = unsafe extern "C" fn(Raw, *mut c_int, c_int, *mut Raw, *mut Config, c_int) -> Code;
        let shrink = self.library.get::<Shrink>(&Function { name: "ncclCommShrink", since: "2.27" })?;
        let mut list: Vec<c_int> = gone.iter().map(|rank| count(*rank)).collect();
        let mut next = self.successor(self.world - gone.len());
        next.rank = self.rank - gone.iter().filter(|rank| **rank < self.rank).count();
        let (length, mut config) = (count(list.len()), Config::nonblocking());
        self.device.enter()?;
        let (raw, target) = (self.raw, &raw mut next.raw);
        // SAFETY: the signature is NCCL's; the pointers are to live values.
        let code = unsafe { shrink(raw, list.as_mut_ptr(), length, target, &raw mut config, SHRINK_ABORT) };
        next.library.succeed("shrink the group", code)?;
        next.settle("shrink the group")?;
        self.abort()?;
        Ok(next)
    }

    /// The group of all ranks of `comm`, of which those before the old world's size were in `old`, with the same ranks.
    /// New ranks give no old group, but their `gpu`.
    ///
    /// # Errors
    /// [`NcclError::NotInVersion`] before NCCL 2.29; see [`NcclError`] for the rest.
    pub fn grow(old: Option<Self>, comm: &mut Communicator, gpu: usize, patience: Duration) -> Result<Self, NcclError> {
        type Grow = unsafe extern "C" fn(Raw, c_int, *const UniqueId, c_int, *mut Raw, *mut Config) -> Code;
        let grow = Function { name: "ncclCommGrow", since: "2.29" };
        let own = match &old {
            Some(old) => Ok((old.library.clone(), Arc::clone(&old.device))),
            None => Library::load().and_then(|library| open(library, gpu)),
        };
        let own = own.and_then(|(library, device)| Ok((library.get::<Grow>(&grow)?, library, device)));
        let able = comm.all_gather(&[u8::from(own.is_ok())])?;
        let (grow, library, device) = own?;
        if let Some(rank) = able.iter().position(|able| *able == 0) {
            return Err(NcclError::NotEverywhere { rank });
        }
        // Rank 0 is always an old one: old ranks keep their numbers.
        let id = share_id(comm, 0, || old.as_ref().map_or_else(|| library.unique_id(), Self::growing_id))?;
        device.enter()?;
        let mut next = Self::new(library, device, comm, patience);
        let raw = old.as_ref().map_or(std::ptr::null_mut(), |old| old.raw);
        // Of the old ones only the first passes the id.
        let id = if raw.is_null() || next.rank == 0 { &raw const id } else { std::ptr::null() };
        let rank = if raw.is_null() { count(next.rank) } else { KEEP };
        let (world, mut config) = (count(next.world), Config::nonblocking());
        // SAFETY: the signature is NCCL's; the pointers are null where it allows that, else to live values.
        let code = unsafe { grow(raw, world, id, rank, &raw mut next.raw, &raw mut config) };
        next.library.succeed("grow the group", code)?;
        next.settle("grow the group")?;
        Ok(next)
    }

    fn growing_id(&self) -> Result<UniqueId, NcclError> {
        type GetUniqueId = unsafe extern "C" fn(Raw, *mut UniqueId) -> Code;
        let get = self.library.get::<GetUniqueId>(&Function { name: "ncclCommGetUniqueId", since: "2.29" })?;
        let mut id = UniqueId([0; 128]);
        // SAFETY: the signature is NCCL's, and the pointer is to 128 bytes.
        self.library.succeed("make an id to grow by", unsafe { get(self.raw, &raw mut id) })?;
        Ok(id)
    }

    fn successor(&self, world: usize) -> Self {
        Self {
            library: self.library.clone(),
            device: Arc::clone(&self.device),
            raw: std::ptr::null_mut(),
            rank: self.rank,
            world,
            patience: self.patience,
            interrupt: self.interrupt.clone(),
        }
    }

    /// Waits until what NCCL does in the background is done.
    fn settle(&mut self, doing: &'static str) -> Result<(), NcclError> {
        type GetAsyncError = unsafe extern "C" fn(Raw, *mut Code) -> Code;
        let ask = self.library.get::<GetAsyncError>(&Function { name: "ncclCommGetAsyncError", since: "2.4" })?;
        self.wait(doing, |group| {
            let mut state = SUCCESS;
            // SAFETY: the signature is NCCL's, and the pointer is to a live integer.
            let asked = unsafe { ask(group.raw, &raw mut state) };
            group.library.succeed(doing, asked)?;
            group.library.succeed(doing, state)?;
            Ok(state != IN_PROGRESS)
        })
    }

    /// Asks until `done`, the deadline, the interrupt or an error; after the last three the group is aborted.
    fn wait(&mut self, doing: &'static str, done: impl Fn(&Self) -> Result<bool, NcclError>) -> Result<(), NcclError> {
        let began = Instant::now();
        let error = loop {
            match done(self) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => break error,
            }
            if self.interrupt.as_ref().is_some_and(Interrupt::is_triggered) {
                break NcclError::Interrupted;
            }
            if began.elapsed() >= self.patience {
                break NcclError::Timeout { doing, waited: self.patience };
            }
            std::thread::sleep(ASKING);
        };
        self.abort_now().and(Err(error))
    }

    fn abort_now(&mut self) -> Result<(), NcclError> {
        let raw = std::mem::replace(&mut self.raw, std::ptr::null_mut());
        if raw.is_null() {
            return Ok(());
        }
        type Abort = unsafe extern "C" fn(Raw) -> Code;
        let abort = self.library.get::<Abort>(&Function { name: "ncclCommAbort", since: "2.4" })?;
        // In a thread of its own, because it is known to hang; the address is a number on the way.
        let (done, wait) = mpsc::channel();
        let (address, library, device) = (raw as usize, self.library.clone(), Arc::clone(&self.device));
        std::thread::spawn(move || {
            // SAFETY: the signature is NCCL's; nobody uses the communicator any more.
            let code = device.enter().map(|()| unsafe { abort(address as Raw) });
            // Nobody waits any more after the deadline.
            let _ = done.send(code);
            drop(library);
        });
        match wait.recv_timeout(ABORTING) {
            Ok(code) => self.library.succeed("abort the group", code?),
            Err(_) => Err(NcclError::AbortHangs),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group in good order has nothing under way, so ending it so is the same as destroying it, without the others.
        if let Err(error) = self.abort_now() {
            tracing::warn!(%error, "a group of GPUs was left behind");
        }
    }
}

/// The GPU, if this NCCL can use it.
fn open(library: Library, gpu: usize) -> Result<(Library, Arc<Device>), NcclError> {
    let device = Device::open(gpu)?;
    let version = library.version();
    if device.is_shared() && (version.major, version.minor) < (2, 30) {
        return Err(NcclError::NotInVersion { function: SHARING, version, since: "2.30" });
    }
    Ok((library, Arc::new(device)))
}

fn count(number: usize) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

/// `root` makes the id; everybody gets it, or everybody gets an error.
fn share_id(
    comm: &mut Communicator,
    root: usize,
    make: impl FnOnce() -> Result<UniqueId, NcclError>,
) -> Result<UniqueId, NcclError> {
    let made = (comm.rank() == root).then(make);
    let mut message = [0_u8; 129];
    if let Some(Ok(id)) = &made {
        message[0] = 1;
        message[1..].copy_from_slice(&id.0);
    }
    comm.broadcast(&mut message, root)?;
    if let Some(Err(error)) = made {
        return Err(error);
    }
    if message[0] == 0 {
        return Err(NcclError::NotEverywhere { rank: root });
    }
    let mut id = UniqueId([0; 128]);
    id.0.copy_from_slice(&message[1..]);
    Ok(id)
}
