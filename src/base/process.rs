//! Process-wide settings that the speed of the CPU kernels depends on, for the program and the
//! benchmarks.
//!
//! None of them sets an environment variable of this process: a library reading one on another
//! thread at that moment would read freed memory. Training processes get theirs, [`FOR_WORKERS`],
//! when they are started.

use crate::error::{Error, Result};
use crate::limits;
use rayon::{ThreadBuilder, ThreadPoolBuilder};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

/// Environment variables of training processes, unless the user has set them.
///
/// `CANDLE_NUM_THREADS` keeps candle's own elementwise operations on one thread. Its pool spins
/// while it waits, and a spinning thread takes a core from a working one: on two cores, half of all
/// processor time of a small training was spent there (measured: 61 steps of the digits SiT take 32
/// s of processor time with the pool, 15 s without). The hot loops are this program's own and run
/// on rayon. `RUST_LIB_BACKTRACE=0` stops candle from putting a backtrace into the text of every
/// error when RUST_BACKTRACE is set; a panic still logs its own.
pub const FOR_WORKERS: [(&str, &str); 2] = [("CANDLE_NUM_THREADS", "1"), ("RUST_LIB_BACKTRACE", "0")];

/// Applies the settings. Call it first in `main`, before any thread starts. `trains`: this process
/// trains networks; a process that only supervises training stays small instead.
pub fn tune(trains: bool) {
    if trains {
        keep_freed_memory();
    } else {
        share_freed_memory();
    }
}

/// Tells glibc to keep freed memory instead of returning every large block to the kernel. A
/// training step frees and allocates the same sizes again and again, and returning them costs two
/// million page faults (measured: a step of SiT-S/2 takes up to twice as long without this).
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "mallopt has no safe wrapper; called before any thread starts")]
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Returns freed memory to the kernel, wherever it lies. For the moment when something large was made
/// from something larger that is gone (measured: a plan of 10,000 stages takes 68 MiB in place of 75).
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "malloc_trim has no safe wrapper; it may be called at any time")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Builds the thread pool that the hot loops share, smaller where fewer threads can be started.
/// Built explicitly, because rayon panics when it builds the pool on first use and fails.
///
/// `joins`: the calling thread becomes a member of the pool. Otherwise it sleeps while the pool
/// works and must be woken after every product, hundreds of times a step. A pool of one thread
/// never has the caller as its only member: a data-loading thread that uses the pool would wait for
/// a thread that waits for it.
pub fn build_pool(joins: bool) -> Result<()> {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let wanted = wanted.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let wanted = limits::helpers(wanted);
    let joins = joins && wanted > 1;
    let (give, take) = channel::<ThreadBuilder>();
    let take = Arc::new(Mutex::new(take));
    // The threads are started before the pool is built: building fails when a thread is missing,
    // and cannot be retried.
    let start = |_| {
        let take = take.clone();
        let next = move || take.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let work = move || {
            if let Ok(thread) = next() {
                thread.run();
            }
        };
        limits::spawn("pool", work)
    };
    let mut refused = None;
    let started =
        (0..wanted - usize::from(joins)).map(start).map_while(|t| t.map_err(|e| refused = Some(e)).ok()).count();
    if let (0, Some(e)) = (started, refused) {
        return Err(Error::usage("cannot start a thread").caused(e));
    }
    let pool = ThreadPoolBuilder::new().num_threads(started + usize::from(joins));
    let pool = pool.spawn_handler(|thread| give.send(thread).map_err(|_| std::io::ErrorKind::Other.into()));
    let pool = if joins { pool.use_current_thread() } else { pool };
    pool.build_global().map_err(|e| Error::internal("cannot build the thread pool").because(e))
}

/// Makes glibc use two heaps for all threads instead of eight per core, so that memory freed by one
/// thread serves the others (measured on two cores: a run of 10,000 stages takes 164 to 173 MiB
/// instead of 196, at about 5 % more time).
fn share_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "mallopt has no safe wrapper; called before any thread starts")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
