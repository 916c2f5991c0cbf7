//! Settings of the whole process that the speed of the CPU kernels depends on; for the program and for benchmarks.
//!
//! None of them is an environment variable of this process: a library that reads one on another thread meanwhile would
//! read freed memory. What processes that train are to find in theirs is [`FOR_WORKERS`], set when they are started.

use crate::error::{Error, Result};
use crate::limits;
use rayon::{ThreadBuilder, ThreadPoolBuilder};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

/// Variables of processes that train, unless the user has set them.
///
/// `CANDLE_NUM_THREADS` keeps candle's own elementwise operations on one thread. Its pool waits by spinning, and a waiting
/// thread takes the core that the other needs: on two cores half of all processor time of a small training went there
/// (measured: 61 steps of the digits' SiT, 32 s of processor time with the pool, 15 s without). The hot loops are this
/// program's own and run on rayon. Without `RUST_LIB_BACKTRACE`, candle puts a backtrace into the text of every error when
/// RUST_BACKTRACE asks for one; a panic still leaves its own in the log.
pub const FOR_WORKERS: [(&str, &str); 2] = [("CANDLE_NUM_THREADS", "1"), ("RUST_LIB_BACKTRACE", "0")];

/// Makes the settings. To be called first in `main`: they must be made before any thread starts. `trains`: whether
/// networks are to be trained here; what only looks after those that train is to be small.
pub fn tune(trains: bool) {
    if trains {
        keep_freed_memory();
    } else {
        share_freed_memory();
    }
}

/// Tells glibc to keep freed memory instead of handing every large block back to the kernel: a training step frees
/// and takes the same sizes again and again, and each return costs two million page faults (measured: a step of
/// SiT-S/2 is up to twice as slow without this).
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "mallopt has no safe wrapper; called before any thread starts")]
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Builds the pool of threads that hot loops share, of fewer where not so many can be had. Not left to its first user: that
/// one panics.
///
/// `joins`: the calling thread is one of them. Otherwise it sleeps while the pool works and must be woken after every
/// product, hundreds of times a step. Not where it would be the only one: a thread that prepares data asks the pool
/// too, and would wait for one that waits for it.
pub fn build_pool(joins: bool) -> Result<()> {
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let wanted = wanted.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let wanted = limits::helpers(wanted);
    let joins = joins && wanted > 1;
    let (give, take) = channel::<ThreadBuilder>();
    let take = Arc::new(Mutex::new(take));
    // They are started before the pool is made of them: one that lacks a thread cannot be built, and not a second time.
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
    pool.build_global().map_err(|e| Error::internal("cannot build the pool of threads").because(e))
}

/// Tells glibc to let all threads take from two heaps instead of eight for each core: what one thread frees is of use to
/// the others (measured on two cores: a run of 10,000 stages takes 164 to 173 MiB instead of 196, and some 5 % more time).
fn share_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "mallopt has no safe wrapper; called before any thread starts")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
