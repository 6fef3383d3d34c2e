//! NCCL's functions, found by name when they are called: a version that lacks one can be used for the rest.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::Arc;

use super::{NcclError, find};

/// NCCL's own version number taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2.
    pub major: u32,
    /// For instance 29.
    pub minor: u32,
    /// For instance 7.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Version {
    /// 22907 is 2.29.7; before 2.9, 2804 was 2.8.4.
    fn from_code(code: u32) -> Self {
        let thousands = if code < 10_000 { 1_000 } else { 10_000 };
        Self { major: code / thousands, minor: code % thousands / 100, patch: code % 100 }
    }
}

/// A communicator of NCCL's.
pub(super) type Raw = *mut c_void;
/// `ncclResult_t`.
pub(super) type Code = c_int;
pub(super) const SUCCESS: Code = 0;
pub(super) const IN_PROGRESS: Code = 7;

/// What all ranks must know to meet: an address and a secret of rank 0's, opaque.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclConfig_t` as of 2.17. Later versions accept it, as they go by its size and version.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// NCCL's mark of "not set".
    const UNSET: c_int = c_int::MIN;

    /// Calls return at once, so that there can be deadlines.
    pub(super) fn nonblocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21_700,
            blocking: 0,
            cga_cluster_size: Self::UNSET,
            min_ctas: Self::UNSET,
            max_ctas: Self::UNSET,
            net_name: std::ptr::null(),
            split_share: Self::UNSET,
        }
    }
}

/// The library, as long as anybody uses it.
#[derive(Clone, Debug)]
pub struct Library {
    library: Arc<libloading::Library>,
    path: String,
    version: Version,
}

/// A function's type, its name in the library, and the version that brought it.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) since: &'static str,
}

impl Library {
    /// Loads NCCL from `NCCL_LIBRARY`, the Python that is on `PATH`, or where the loader looks. Needs no GPU.
    ///
    /// # Errors
    /// [`NcclError::NotFound`].
    pub fn load() -> Result<Self, NcclError> {
        let mut tried = Vec::new();
        for path in find::candidates(|name| std::env::var_os(name)) {
            match Self::open(&path) {
                Err(NcclError::NotFound { tried: here }) => tried.push(here),
                other => return other,
            }
        }
        Err(NcclError::NotFound { tried: tried.join(", ") })
    }

    /// Loads NCCL from one file.
    ///
    /// # Errors
    /// [`NcclError::NotFound`].
    pub fn open(path: &std::path::Path) -> Result<Self, NcclError> {
        let path = path.display().to_string();
        // SAFETY: NCCL's initialisers only prepare its own state.
        match unsafe { libloading::Library::new(&path) } {
            Ok(library) => Self::introduce(library, path),
            Err(error) => Err(NcclError::NotFound { tried: format!("{path} ({})", loader_words(&error)) }),
        }
    }

    fn introduce(library: libloading::Library, path: String) -> Result<Self, NcclError> {
        let unknown = Version { major: 0, minor: 0, patch: 0 };
        let mut nccl = Self { library: Arc::new(library), path, version: unknown };
        let mut code: c_int = 0;
        type GetVersion = unsafe extern "C" fn(*mut c_int) -> Code;
        let get = nccl.get::<GetVersion>(&Function { name: "ncclGetVersion", since: "2.0" })?;
        // SAFETY: the signature is NCCL's, and the pointer is to a live integer.
        let told = unsafe { get(&raw mut code) };
        nccl.succeed("ask NCCL for its version", told)?;
        nccl.version = Version::from_code(code.unsigned_abs());
        Ok(nccl)
    }

    /// Which version this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The file, or the name by which the loader found it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// [`NcclError::NotInVersion`] where groups of this version cannot shrink.
    ///
    /// # Errors
    /// As said.
    pub fn needs_shrink(&self) -> Result<(), NcclError> {
        self.get::<*const c_void>(&Function { name: "ncclCommShrink", since: "2.27" }).map(drop)
    }

    /// Whether groups of this version can go on without some of their ranks.
    pub fn can_shrink(&self) -> bool {
        self.has("ncclCommShrink")
    }

    /// Whether groups of this version can take in ranks.
    pub fn can_grow(&self) -> bool {
        self.has("ncclCommGrow")
    }

    fn has(&self, name: &str) -> bool {
        // SAFETY: the symbol is looked up, not used.
        unsafe { self.library.get::<*const c_void>(name).is_ok() }
    }

    /// A function by name. `F` must be its signature.
    pub(super) fn get<F: Copy>(&self, function: &Function) -> Result<F, NcclError> {
        let &Function { name, since } = function;
        // SAFETY: the caller's signature is that of NCCL's header; the library lives as long as its groups.
        let found = unsafe { self.library.get::<F>(name).map(|symbol| *symbol) };
        found.map_err(|_| NcclError::NotInVersion { function: name, version: self.version, since })
    }

    /// Whether a call is done or goes on in the background; its error else.
    pub(super) fn succeed(&self, doing: &'static str, code: Code) -> Result<(), NcclError> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        type GetErrorString = unsafe extern "C" fn(Code) -> *const c_char;
        let name = Function { name: "ncclGetErrorString", since: "2.0" };
        // SAFETY: the signature is NCCL's; its answers are constants.
        let text = self.get::<GetErrorString>(&name).ok().map(|words| unsafe { words(code) });
        let words = match text {
            // SAFETY: not null, and it ends with a zero.
            Some(text) if !text.is_null() => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
            Some(_) | None => format!("error {code}"),
        };
        Err(NcclError::Failed { doing, words })
    }

    /// What rank 0 makes, for all to meet.
    pub(super) fn unique_id(&self) -> Result<UniqueId, NcclError> {
        type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> Code;
        let get = self.get::<GetUniqueId>(&Function { name: "ncclGetUniqueId", since: "2.0" })?;
        let mut id = UniqueId([0; 128]);
        // SAFETY: the signature is NCCL's, and the pointer is to 128 bytes.
        self.succeed("make a unique id", unsafe { get(&raw mut id) })?;
        Ok(id)
    }
}

/// Whether this program has no loader: that of the operator's image, which is the launcher in pods, has none.
pub(crate) const IS_STATIC: bool = cfg!(all(target_env = "musl", target_feature = "crt-static"));

/// What the loader said; the outer error says only that it failed.
pub(crate) fn loader_words(error: &libloading::Error) -> String {
    if IS_STATIC {
        return "this trainyard is linked statically, and can load no library; one that is linked with the C library of its image can".to_owned();
    }
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_codes_are_read_as_nccl_writes_them() {
        assert_eq!(Version::from_code(22_907).to_string(), "2.29.7");
        assert_eq!(Version::from_code(21_805).to_string(), "2.18.5");
        assert_eq!(Version::from_code(2_804).to_string(), "2.8.4");
    }

    #[test]
    fn the_configuration_is_as_large_as_nccls() {
        assert_eq!(size_of::<Config>(), 48);
    }
}
