//! Handles signals during a run. Ctrl-C, SIGTERM and a closed terminal request a stop, Ctrl-Z
//! pauses everything, and SIGCHLD reaps orphans.
//!
//! A signal that was ignored when this program started stays ignored, as `nohup` wants it. Shells
//! without job control ignore SIGINT for background jobs, so that Ctrl-C does not reach them; a
//! SIGINT that is sent on purpose, by `kill` or `timeout`, is handled all the same.

use erw_base::error::{Error, Result};
use erw_base::limits;
use erw_runner::exec::scheduler::StopToken;
use erw_runner::exec::spawn;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;
use std::sync::Once;
use std::time::Instant;

/// The token on which the scheduler sees a request to stop.
pub fn stop() -> Result<&'static StopToken> {
    static STOP: StopToken = StopToken::new();
    static LISTENING: Once = Once::new();
    let mut failed = None;
    LISTENING.call_once(|| failed = listen(&STOP).err());
    failed.map_or(Ok(&STOP), Err)
}

fn listen(stop: &'static StopToken) -> Result<()> {
    let cannot = |e| Error::usage("cannot listen for signals").caused(e);
    let ignored = ignored();
    let stays = move |signal: i32| (ignored >> (signal - 1)) & 1 == 1;
    let quitting = [libc::SIGTERM, libc::SIGHUP, libc::SIGTSTP].into_iter().filter(|signal| !stays(*signal));
    let heard = quitting.chain([libc::SIGINT, libc::SIGCHLD]);
    let mut signals = SignalsInfo::<WithRawSiginfo>::new(heard).map_err(cannot)?;
    let hear = move || {
        for signal in signals.forever() {
            match signal.si_signo {
                libc::SIGCHLD => spawn::bury_orphans(),
                libc::SIGTSTP => pause(stop),
                libc::SIGINT if stays(libc::SIGINT) && signal.si_code == libc::SI_KERNEL => {}
                // Something does not react, such as the reading of a large source. Ending here
                // loses nothing that is stored.
                number if stop.ask(number, Instant::now()) > 2 => std::process::exit(128 + number),
                _ => {}
            }
        }
    };
    limits::spawn("signals", hear).map(drop).map_err(cannot)
}

/// The mask of ignored signals, one bit each.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.unwrap_or(0)
}

/// Stops all running processes and then this one, until SIGCONT (`fg`).
fn pause(stop: &StopToken) {
    stop.pause();
    spawn::pause();
    let usual = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(
        unsafe_code,
        reason = "restores the default action of a signal and afterwards the previous one; no handler of ours runs"
    )]
    // Only the default action knows whether a shell could continue this process; without one it
    // does not stop.
    let before = unsafe { sigaction(Signal::SIGTSTP, &usual) };
    let _ = raise(Signal::SIGTSTP);
    if let Ok(before) = before {
        #[expect(unsafe_code, reason = "as above")]
        let _ = unsafe { sigaction(Signal::SIGTSTP, &before) };
    }
    spawn::resume();
    stop.resume();
}
