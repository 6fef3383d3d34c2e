//! The health of this machine's GPUs, from NVIDIA's management library: loaded when asked for, absent on most machines.
//!
//! A dozen functions are all that is needed, so they are declared here instead of taking in a wrapper with its own
//! versions of `libloading` and `thiserror`.

use std::ffi::{CStr, c_char, c_int, c_uint};

use libloading::Library;
use trainyard_worker_core::preflight::Gpu;

/// What the driver installs, by its versioned name and, in development, without.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];
/// The longest name or identifier that NVML gives.
const TEXT_BYTES: usize = 96;
/// NVLink connections that a GPU may have, by NVML's own limit.
const NVLINKS: c_uint = 18;
/// Reasons to slow a GPU down that are not its user's wish, with words.
const THROTTLES: [(u64, &str); 4] = [
    (0x08, "heat or power (hardware slowdown)"),
    (0x20, "heat"),
    (0x40, "heat (by the hardware)"),
    (0x80, "an external power brake"),
];
const SUCCESS: c_int = 0;

type Device = *mut std::ffi::c_void;

#[repr(C)]
#[derive(Default)]
struct MemoryInfo {
    total: u64,
    free: u64,
    used: u64,
}

struct Nvml {
    library: Library,
}

/// Calls a function of the library by name: `None` where this version has none, else its result.
macro_rules! call {
    ($nvml:expr, $name:literal, ($($type:ty),*), $($argument:expr),*) => {{
        type Function = unsafe extern "C" fn($($type),*) -> c_int;
        // SAFETY: the signatures are those of NVML's header; pointers are to live values of the right type.
        unsafe { $nvml.library.get::<Function>($name).ok().map(|function| function($($argument),*)) }
    }};
}

/// Why nothing can be said about GPUs, or what is said.
pub(crate) fn gpus(host: &str) -> Result<Vec<Gpu>, String> {
    let nvml = Nvml::load()?;
    let mut count: c_uint = 0;
    let counted = call!(nvml, b"nvmlDeviceGetCount_v2\0", (*mut c_uint), &raw mut count);
    if counted != Some(SUCCESS) {
        return Err(format!("NVML cannot count the GPUs: {}", nvml.words(counted)));
    }
    Ok((0..count).map(|index| nvml.gpu(host, index)).collect())
}

impl Nvml {
    fn load() -> Result<Self, String> {
        let mut reason = String::new();
        for name in NAMES {
            // SAFETY: NVIDIA's library runs no code of consequence when it is loaded.
            match unsafe { Library::new(name) } {
                Ok(library) => {
                    let nvml = Self { library };
                    let begun = call!(nvml, b"nvmlInit_v2\0", (),);
                    return if begun == Some(SUCCESS) { Ok(nvml) } else { Err(nvml.words(begun)) };
                }
                Err(error) => reason = crate::nccl::loader_words(&error),
            }
        }
        Err(if crate::nccl::IS_STATIC { reason } else { format!("no NVIDIA driver here ({reason})") })
    }

    fn words(&self, code: Option<c_int>) -> String {
        let Some(code) = code else { return "the driver is too old to say".to_owned() };
        type Function = unsafe extern "C" fn(c_int) -> *const c_char;
        // SAFETY: as in `call!`; the answer is a constant of the library, or null.
        let text = unsafe {
            self.library
                .get::<Function>(b"nvmlErrorString\0")
                .ok()
                .map(|function| function(code))
                .filter(|text| !text.is_null())
        };
        // SAFETY: not null, and it ends with a zero.
        text.map_or_else(
            || format!("error {code}"),
            |text| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        )
    }

    fn gpu(&self, host: &str, index: c_uint) -> Gpu {
        let mut gpu = Gpu { host: host.to_owned(), index, ..Gpu::default() };
        let mut device: Device = std::ptr::null_mut();
        let found = call!(self, b"nvmlDeviceGetHandleByIndex_v2\0", (c_uint, *mut Device), index, &raw mut device);
        if found != Some(SUCCESS) {
            gpu.error = Some(self.words(found));
            return gpu;
        }
        gpu.name = self.text(b"nvmlDeviceGetName\0", device);
        gpu.uuid = self.text(b"nvmlDeviceGetUUID\0", device);
        let mut memory = MemoryInfo::default();
        let told = call!(self, b"nvmlDeviceGetMemoryInfo\0", (Device, *mut MemoryInfo), device, &raw mut memory);
        if told == Some(SUCCESS) {
            (gpu.memory_bytes, gpu.memory_used_bytes) = (memory.total, memory.used);
        } else {
            gpu.error = Some(self.words(told));
        }
        self.health(device, &mut gpu);
        gpu
    }

    fn health(&self, device: Device, gpu: &mut Gpu) {
        let mut celsius: c_uint = 0;
        let told =
            call!(self, b"nvmlDeviceGetTemperature\0", (Device, c_uint, *mut c_uint), device, 0, &raw mut celsius);
        gpu.celsius = (told == Some(SUCCESS)).then_some(celsius);
        let mut errors = 0_u64;
        // Uncorrected (1), since the driver was loaded (0).
        let told = call!(
            self,
            b"nvmlDeviceGetTotalEccErrors\0",
            (Device, c_uint, c_uint, *mut u64),
            device,
            1,
            0,
            &raw mut errors
        );
        gpu.uncorrected_errors = (told == Some(SUCCESS)).then_some(errors);
        let mut rows: [c_uint; 4] = [0; 4];
        let [corrected, uncorrected, pending, failed] = &mut rows;
        let told = call!(
            self,
            b"nvmlDeviceGetRemappedRows\0",
            (Device, *mut c_uint, *mut c_uint, *mut c_uint, *mut c_uint),
            device,
            &raw mut *corrected,
            &raw mut *uncorrected,
            &raw mut *pending,
            &raw mut *failed
        );
        if told == Some(SUCCESS) {
            (gpu.remapping_pending, gpu.remapping_failed) = (Some(rows[2] != 0), Some(rows[3] != 0));
        }
        let mut reasons = 0_u64;
        let told =
            call!(self, b"nvmlDeviceGetCurrentClocksThrottleReasons\0", (Device, *mut u64), device, &raw mut reasons);
        if told == Some(SUCCESS) {
            gpu.throttled = THROTTLES.iter().find(|(bit, _)| reasons & bit != 0).map(|(_, words)| (*words).to_owned());
        }
        gpu.links_down = self.links_down(device);
    }

    /// NVLink connections that are down; none where no connection is up, as on machines without NVLink.
    fn links_down(&self, device: Device) -> Vec<u32> {
        let (mut up, mut down) = (0, Vec::new());
        for link in 0..NVLINKS {
            let mut state: c_uint = 0;
            let told =
                call!(self, b"nvmlDeviceGetNvLinkState\0", (Device, c_uint, *mut c_uint), device, link, &raw mut state);
            match (told == Some(SUCCESS), state) {
                (false, _) => {}
                (true, 0) => down.push(link),
                (true, _) => up += 1,
            }
        }
        if up == 0 { Vec::new() } else { down }
    }

    fn text(&self, function: &[u8], device: Device) -> String {
        let mut bytes = [0_u8; TEXT_BYTES];
        type Function = unsafe extern "C" fn(Device, *mut c_char, c_uint) -> c_int;
        // SAFETY: both functions that are asked for have this signature; the buffer is as long as it is said to be.
        let told = unsafe {
            let function = self.library.get::<Function>(function);
            function.ok().map(|function| function(device, bytes.as_mut_ptr().cast(), TEXT_BYTES as c_uint))
        };
        if told != Some(SUCCESS) {
            return String::new();
        }
        CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn gpus_are_described_where_there_are_any() {
        match super::gpus("here") {
            Ok(gpus) => {
                for gpu in &gpus {
                    assert!(!gpu.name.is_empty() && gpu.uuid.starts_with("GPU-"), "{gpu:?}");
                    assert!(gpu.memory_bytes > 0, "{gpu:?}");
                }
            }
            Err(reason) => {
                eprintln!("SKIPPED gpus_are_described_where_there_are_any: {reason}");
                assert!(!reason.is_empty());
            }
        }
    }
}
