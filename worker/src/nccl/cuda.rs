//! As much of the CUDA driver as collectives need: a device's own context, memory on it, and a stream.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use libloading::Library;

use super::NcclError;

const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
/// NCCL's variable by which several ranks may have one GPU.
pub(super) const SHARING: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
const SUCCESS: c_int = 0;
/// `CUDA_ERROR_NOT_READY`: the stream still works.
const NOT_READY: c_int = 600;

/// Calls a function of the driver and makes an error of any answer but success.
macro_rules! call {
    ($driver:expr, $doing:literal, $name:literal, ($($type:ty),*), $($argument:expr),*) => {{
        type Function = unsafe extern "C" fn($($type),*) -> c_int;
        // SAFETY: the signatures are those of CUDA's header; pointers are to live values of the right type.
        let code = unsafe { $driver.library.get::<Function>($name).ok().map(|function| function($($argument),*)) };
        $driver.check($doing, code)
    }};
}

#[derive(Debug)]
struct Driver {
    library: Library,
}

impl Driver {
    fn load() -> Result<Self, NcclError> {
        let mut reason = String::new();
        for name in NAMES {
            // SAFETY: NVIDIA's library runs no code of consequence when it is loaded.
            match unsafe { Library::new(name) } {
                Ok(library) => {
                    let driver = Self { library };
                    call!(driver, "start CUDA", "cuInit", (c_uint), 0).map_err(|e| NcclError::NoGpu(e.to_string()))?;
                    return Ok(driver);
                }
                Err(error) => reason = crate::nccl::loader_words(&error),
            }
        }
        Err(NcclError::NoGpu(format!("no NVIDIA driver here ({reason})")))
    }

    fn check(&self, doing: &'static str, code: Option<c_int>) -> Result<(), NcclError> {
        match code {
            Some(SUCCESS) => Ok(()),
            Some(code) => Err(NcclError::Failed { doing, words: self.words(code) }),
            None => Err(NcclError::Failed { doing, words: "the driver is too old".to_owned() }),
        }
    }

    fn words(&self, code: c_int) -> String {
        type GetErrorString = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: as in `call!`.
        let told =
            unsafe { self.library.get::<GetErrorString>("cuGetErrorString").map(|get| get(code, &raw mut text)) };
        match told {
            // SAFETY: a constant of the library that ends with a zero.
            Ok(SUCCESS) if !text.is_null() => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
            Ok(_) | Err(_) => format!("error {code}"),
        }
    }
}

/// A GPU, with its primary context (the one that frameworks use too) and a stream.
#[derive(Debug)]
pub struct Device {
    driver: Arc<Driver>,
    number: c_int,
    context: *mut c_void,
    stream: *mut c_void,
    shared: bool,
}

// SAFETY: contexts and streams of the driver may be used from any thread, where the context is made current first.
unsafe impl Send for Device {}
// SAFETY: as above; the driver's functions lock what they share.
unsafe impl Sync for Device {}

impl Device {
    /// The `index`-th of the GPUs that `CUDA_VISIBLE_DEVICES` leaves; where there are fewer and
    /// `NCCL_MULTI_RANK_GPU_ENABLE=1` lets ranks share one, they go around.
    ///
    /// # Errors
    /// [`NcclError::NoGpu`] without a driver or such a GPU, [`NcclError::Failed`] when it does not work.
    pub fn open(index: usize) -> Result<Self, NcclError> {
        let driver = Driver::load()?;
        let mut count: c_int = 0;
        call!(driver, "count the GPUs", "cuDeviceGetCount", (*mut c_int), &raw mut count)?;
        let mut ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        let shared = ordinal >= count && count > 0 && std::env::var(SHARING).is_ok_and(|value| value == "1");
        if shared {
            ordinal %= count;
        } else if ordinal >= count {
            return Err(NcclError::NoGpu(format!("there is no GPU {index}, there are {count}")));
        }
        let (mut number, mut context, mut stream) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        call!(driver, "open the GPU", "cuDeviceGet", (*mut c_int, c_int), &raw mut number, ordinal)?;
        call!(
            driver,
            "make a context",
            "cuDevicePrimaryCtxRetain",
            (*mut *mut c_void, c_int),
            &raw mut context,
            number
        )?;
        let mut device = Self { driver: Arc::new(driver), number, context, stream, shared };
        device.enter()?;
        // 1: it does not wait for the default stream.
        call!(device.driver, "make a stream", "cuStreamCreate", (*mut *mut c_void, c_uint), &raw mut stream, 1)?;
        device.stream = stream;
        Ok(device)
    }

    /// Whether another rank has it too.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Makes the device the calling thread's.
    pub(super) fn enter(&self) -> Result<(), NcclError> {
        call!(self.driver, "enter the context", "cuCtxSetCurrent", (*mut c_void), self.context)
    }

    pub(super) fn stream(&self) -> *mut c_void {
        self.stream
    }

    /// Whether everything that was put on the stream is done.
    pub(super) fn is_idle(&self) -> Result<bool, NcclError> {
        type Query = unsafe extern "C" fn(*mut c_void) -> c_int;
        // SAFETY: as in `call!`.
        let code = unsafe { self.driver.library.get::<Query>("cuStreamQuery").ok().map(|query| query(self.stream)) };
        if code == Some(NOT_READY) {
            return Ok(false);
        }
        self.driver.check("ask the stream", code).map(|()| true)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.stream.is_null() {
            // A stream that cannot be ended ends with the process.
            let _ = call!(self.driver, "end the stream", "cuStreamDestroy_v2", (*mut c_void), self.stream);
        }
        let _ = call!(self.driver, "leave the GPU", "cuDevicePrimaryCtxRelease_v2", (c_int), self.number);
    }
}

/// `f32` values in a GPU's memory.
#[derive(Debug)]
pub struct DeviceBuffer {
    driver: Arc<Driver>,
    address: u64,
    length: usize,
}

impl DeviceBuffer {
    /// Room for `length` values, of no defined content.
    ///
    /// # Errors
    /// [`NcclError::Failed`], for instance when memory is short.
    pub fn new(device: &Device, length: usize) -> Result<Self, NcclError> {
        device.enter()?;
        let mut address = 0_u64;
        let bytes = length.max(1) * size_of::<f32>();
        call!(device.driver, "reserve GPU memory", "cuMemAlloc_v2", (*mut u64, usize), &raw mut address, bytes)?;
        Ok(Self { driver: Arc::clone(&device.driver), address, length })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn address(&self) -> *mut c_void {
        self.address as *mut c_void
    }

    /// Copies from the host; `data` is as long as the buffer.
    ///
    /// # Errors
    /// [`NcclError::Failed`].
    pub fn upload(&mut self, data: &[f32]) -> Result<(), NcclError> {
        let (length, source) = (data.len().min(self.length), data.as_ptr().cast::<c_void>());
        let bytes = length * size_of::<f32>();
        call!(
            self.driver,
            "copy to the GPU",
            "cuMemcpyHtoD_v2",
            (u64, *const c_void, usize),
            self.address,
            source,
            bytes
        )
    }

    /// Copies to the host; `data` is as long as the buffer.
    ///
    /// # Errors
    /// [`NcclError::Failed`].
    pub fn download(&self, data: &mut [f32]) -> Result<(), NcclError> {
        let (length, target) = (data.len().min(self.length), data.as_mut_ptr().cast::<c_void>());
        let bytes = length * size_of::<f32>();
        call!(
            self.driver,
            "copy from the GPU",
            "cuMemcpyDtoH_v2",
            (*mut c_void, u64, usize),
            target,
            self.address,
            bytes
        )
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // Memory that cannot be given back ends with the process.
        let _ = call!(self.driver, "free GPU memory", "cuMemFree_v2", (u64), self.address);
    }
}
