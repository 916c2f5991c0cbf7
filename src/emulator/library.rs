//! The compiled emulator: that of this program, or in its place the shared library that
//! [`VARIABLE`] names, as `.ci/cuda/sanitize` makes it.

use candle_core::{Error, Result, bail};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Names a shared library of `emulator.cpp`, `watch.cpp` and the kernels.
const VARIABLE: &str = "ERW_EMULATOR";

/// Memory with a mark for each byte, as in `watch.h`.
#[repr(C)]
pub struct Span {
    pub first: usize,
    pub size: usize,
    pub marks: *mut u8,
}

/// What a launch did, as in `watch.h`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of tensor cores.
    pub operations: u64,
    /// The access that ended the launch, if its size is not 0.
    pub at: usize,
    pub size: usize,
    pub write: c_int,
}

/// `emulator_launch` of `emulator.cpp`.
pub type EmulatorLaunch = unsafe extern "C" fn(
    name: *const c_char,
    grid_x: c_int,
    grid_y: c_int,
    threads: c_int,
    shared: usize,
    arguments: *mut *mut c_void,
    signature: *const c_char,
    schedule: c_uint,
    spans: *const Span,
    count: usize,
    outcome: *mut Outcome,
) -> *const c_char;

/// The compiled emulator.
#[derive(Debug, Clone, Copy)]
pub struct Library {
    pub launch: EmulatorLaunch,
    /// Whether it tells what a launch touches. Another sanitizer has the place of that one.
    pub watches: bool,
}

impl Library {
    /// # Errors
    /// A library that cannot be loaded.
    pub fn get() -> Result<Self> {
        static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(|| Self::open().map_err(|e| e.to_string())).clone().map_err(Error::msg)
    }

    fn open() -> Result<Self> {
        let Some(path) = std::env::var_os(VARIABLE) else {
            return Ok(Self { launch: emulator_launch, watches: true });
        };
        let file = CString::new(path.as_encoded_bytes()).map_err(Error::wrap)?;
        #[allow(unsafe_code, reason = "loads a library that was made of the sources beside this file")]
        let symbol = unsafe {
            let library = libc::dlopen(file.as_ptr(), libc::RTLD_NOW);
            if library.is_null() {
                bail!("cannot load {}, which {VARIABLE} names", path.display());
            }
            libc::dlsym(library, c"emulator_launch".as_ptr())
        };
        if symbol.is_null() {
            bail!("{} is no emulator", path.display());
        }
        #[allow(unsafe_code, reason = "the function of this name has this type")]
        let launch = unsafe { std::mem::transmute::<*mut c_void, EmulatorLaunch>(symbol) };
        Ok(Self { launch, watches: false })
    }
}

#[allow(unsafe_code, reason = "the emulator is C++")]
unsafe extern "C" {
    fn emulator_launch(
        name: *const c_char,
        grid_x: c_int,
        grid_y: c_int,
        threads: c_int,
        shared: usize,
        arguments: *mut *mut c_void,
        signature: *const c_char,
        schedule: c_uint,
        spans: *const Span,
        count: usize,
        outcome: *mut Outcome,
    ) -> *const c_char;
}
