//! What happens when a file that is mapped into memory cannot be read any more: somebody cut it short, or its disk failed.
//! The kernel sends SIGBUS to whoever touches what is gone. Here that ends this process in words that name the file: a
//! worker tells its runner, so that one stage fails and no other; a command tells its user. Large files of users (archives
//! of images, checkpoints) are mapped in workers and in commands that only look at them. A runner maps nothing, since all
//! that it runs would end with it; digests are taken by reading.
//!
//! Knows nothing of stages. The file is found by the address in `/proc/self/maps`.

use crate::report::diagnostic;
use erw_base::error::Error;
use erw_runner::event::WorkerEvent;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

/// Ends this process in words from now on. `works`: it is a worker, which speaks to its runner.
pub fn name_files_cut_short(works: bool) {
    let handler = if works { SigHandler::SigAction(end_worker) } else { SigHandler::SigAction(end_command) };
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
    #[expect(unsafe_code, reason = "the handlers run where mapped bytes are being copied, which holds no lock of ours")]
    let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
}

extern "C" fn end_worker(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(Error { message, hints, .. }) = error(info) else { return die() };
    let event = WorkerEvent::Failed { message, causes: vec![], hints };
    let line = serde_json::to_string(&event).unwrap_or_default() + "\n";
    // Past the buffer of standard output, whose lock another thread may hold.
    let out = std::io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let _ = out.and_then(|mut out| out.write_all(line.as_bytes()));
    end(1);
}

extern "C" fn end_command(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(error) = error(info) else { return die() };
    diagnostic::print(&error);
    end(error.exit_code());
}

/// No file is at fault: the instruction is tried again, and the process dies of it as any would.
fn die() {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "puts back what was there before")]
    let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
}

fn end(status: i32) -> ! {
    #[expect(unsafe_code, reason = "nothing is to be cleaned up by a thread that cannot go on")]
    unsafe {
        libc::_exit(status)
    }
}

/// `None` where no file is at fault.
fn error(info: *mut libc::siginfo_t) -> Option<Error> {
    #[expect(unsafe_code, reason = "the kernel gives the address that was touched with this signal")]
    let address = unsafe { info.as_ref()?.si_addr() } as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let file = maps.lines().find_map(|line| file_at(line, address))?;
    let error = Error::usage(format!("`{file}` was cut short while it was read, or its disk failed"));
    Some(error.hint("run again when nothing writes to it"))
}

/// The file of a line of maps, `7f00-7f10 r--p 00000000 08:01 42   /a b`, if the address is in it.
fn file_at(line: &str, address: usize) -> Option<&str> {
    let (start, rest) = line.split_once('-')?;
    let (end, rest) = rest.split_once(' ')?;
    let hex = |text: &str| usize::from_str_radix(text, 16).ok();
    let path = &rest[rest.find('/')?..];
    (hex(start)? <= address && address < hex(end)?).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::file_at;

    #[test]
    fn a_file_is_found_by_an_address_in_it() {
        let line = "7f00-7f10 r--p 00000000 08:01 42                         /data/a b-c";
        assert_eq!(file_at(line, 0x7f0f), Some("/data/a b-c"));
        assert_eq!(file_at(line, 0x7f10), None);
        assert_eq!(file_at("7f00-7f10 rw-p 00000000 00:00 0    [heap]", 0x7f01), None);
    }
}
